"""Plots, with matplotlib and without a screen: PNG bytes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import rcParams
from matplotlib.figure import Figure  # without pyplot: no window, nothing shared between threads, half the import

EAST_ASIAN = (
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Malgun Gothic",
)
"""Fonts with Chinese, Japanese and Korean that systems may have; matplotlib would tell of each that is missing."""
rcParams["font.family"] = ["DejaVu Sans", *EAST_ASIAN]
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

MAX_PEOPLE = 60  # beyond, a cell of the matrix is too small to read
OTHERS = "(others)"  # people without a column of their own

Curve = tuple[Sequence[float] | npt.NDArray[np.floating], Sequence[float] | npt.NDArray[np.floating]]


def confusions(truth: Sequence[str], answers: Sequence[str]) -> tuple[list[str], list[str], npt.NDArray[np.intp]]:
    """How often each person was taken for whom.

    Where there are more than `MAX_PEOPLE`, the rows are those with the most mistakes; other people share a column.

    Returns:
        People; answers, these people first; counts, a row a person.
    """
    mistakes = dict.fromkeys(truth, 0)
    for t, a in zip(truth, answers, strict=True):
        mistakes[t] += t != a
    people = sorted(sorted(sorted(mistakes), key=lambda name: -mistakes[name])[:MAX_PEOPLE])
    shown = {*people, *(set(answers) - set(truth))}
    cells = [(t, a if a in shown else OTHERS) for t, a in zip(truth, answers, strict=True) if t in shown]
    columns = [*people, *sorted({a for _, a in cells} - set(people))]
    counts = np.zeros((len(people), len(columns)), np.intp)
    for t, a in cells:
        counts[people.index(t), columns.index(a)] += 1
    return people, columns, counts


def confusion_matrix(truth: Sequence[str], answers: Sequence[str], title: str) -> bytes:
    """A confusion matrix; where there are too many people, of those with the most mistakes."""
    people, columns, counts = confusions(truth, answers)
    if len(people) < len(set(truth)):
        title += f"\n(the {MAX_PEOPLE} people with the most mistakes)"
    side = min(3.0 + 0.45 * len(columns), 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for row, column in zip(*np.nonzero(counts), strict=True):
        dark = counts[row, column] > counts.max() / 2
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color="white" if dark else "black")
    # a name may hold a $, and bytes that are no Unicode
    across, down = ([name.encode(errors="replace").decode() for name in names] for names in (columns, people))
    axes.set_xticks(range(len(columns)), across, rotation="vertical", parse_math=False)
    axes.set_yticks(range(len(people)), down, parse_math=False)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    return _png(figure)


def curves(
    series: Mapping[str, Curve],
    title: str,
    x: str,
    y: str,
    *,
    log: str = "",
    points: bool = False,
    diagonal: bool = False,
) -> bytes:
    """Lines in one plot.

    Args:
        series: name → (x, y).
        title: above it.
        x: label of the axis.
        y: label of the axis.
        log: "x", "y" or "xy" for logarithmic axes.
        points: mark the values.
        diagonal: draw y = x.
    """
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, "o-" if points else "-", label=name, markersize=4, linewidth=1.6)
    if diagonal:
        axes.plot([0, 1], [0, 1], ":", color="grey")
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        for text in axes.legend().get_texts():
            text.set_parse_math(False)  # a model's file may be called anything
    return _png(figure)


def distances(
    genuine: npt.NDArray[np.floating], impostor: npt.NDArray[np.floating], threshold: float | None = None
) -> bytes:
    """Histograms of genuine and impostor distances, and a line where the threshold is."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 2, 81).tolist()
    for values, label, colour in ((genuine, "same person", "green"), (impostor, "different people", "red")):
        if len(values):
            axes.hist(values, bins, density=True, alpha=0.6, label=f"{label} ({len(values):,})", color=f"tab:{colour}")
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(title="distances", xlabel="Euclidean distance of unit vectors", ylabel="density")
    axes.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks shows as boxes
        figure.savefig(data, dpi=110, format="png", metadata={"Software": None})
    return data.getvalue()
