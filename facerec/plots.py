"""Plots, with matplotlib and without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

from facerec.artifacts import atomic_path

MAX_PEOPLE = 60  # beyond, a cell of the matrix is too small to read


def confusion_matrix(path: Path, truth: Sequence[str], answers: Sequence[str], title: str) -> None:
    """Saves a confusion matrix as PNG; the people with the most mistakes where there are too many."""
    labels = sorted(set(truth) | set(answers))
    if len(labels) > MAX_PEOPLE:
        mistakes = {name: 0 for name in labels}
        for t, a in zip(truth, answers, strict=True):
            mistakes[t] += t != a
        labels = sorted(sorted(labels, key=lambda name: -mistakes[name])[:MAX_PEOPLE])
        title += f"\n(the {MAX_PEOPLE} people with the most mistakes)"
    side = min(3.0 + 0.45 * len(labels), 24)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    place = {name: i for i, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), int)
    for t, a in zip(truth, answers, strict=True):
        if t in place and a in place:
            counts[place[t], place[a]] += 1
    display = ConfusionMatrixDisplay(counts, display_labels=labels)
    display.plot(ax=axes, xticks_rotation="vertical", cmap="Blues", colorbar=False)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    with atomic_path(path) as temp:
        figure.savefig(temp, dpi=110, format="png")
    plt.close(figure)
