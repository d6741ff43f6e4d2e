"""Strangers, calibration, and what small and blurred faces cost: lfw-dev, thresholds from other people."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.accuracy import RANGE, Setting, detector, load
from benchmarks.common import Section, data
from facerec import metrics, protocols, runtime
from facerec.calibrate import calibrate
from facerec.catalogue import gate
from facerec.detectors import DEFAULT_MIN_FACE
from facerec.embedders import load_embedder
from facerec.images import read_image
from facerec.protocols import Photos
from facerec.stages.evaluate import Engine, load_photos
from facerec.types import Image

DRAWS = 10
DEGRADED = 400  # photos


def strangers(section: Section) -> None:
    """Rates promised on one half of the people, kept on the other."""
    photos = load(Setting())
    rows = []
    for each, size in ((1, None), (3, None), (1, 20)):
        result = protocols.evaluate_open_set(photos, each, size)
        rows += [
            [result.promised_gallery, each, name, *((v, *i) for v, i in rates)]
            for name, p in result.promises.items()
            for rates in [((p.fpir, p.fpir_interval), (p.fnir, p.fnir_interval))]
            if name.startswith("svm")
        ]
    section.table(
        f"Strangers who get a name (FPIR; {protocols.FPIR:g} is promised) and enrolled people who do not (FNIR); the "
        "gate was chosen on the other half of the people; in brackets 95 %, people drawn again",
        {
            "enrolled": "{}",
            "photos each": "{}",
            "candidate by, gate": "{}",
            "FPIR": "{:.4f} (" + RANGE + ")",
            "FNIR": "{:.4f} (" + RANGE + ")",
        },
        rows,
    )


def calibration(section: Section) -> None:
    """`facerec calibrate --fmr 0.001` on one half of the people, measured on the other."""
    photos = load(Setting())
    everyone = np.unique(photos.people)
    rows = []
    for seed in range(DRAWS):
        mixed = np.random.default_rng(seed).permutation(everyone)
        gallery, others, held_out = (np.isin(photos.people, part) for part in np.split(mixed, [105, 210]))
        chosen = calibrate(
            photos.vectors[gallery],
            photos.people[gallery],
            photos.vectors[others],
            photos.people[others],
            fmr=protocols.FMR,
            fpir=protocols.FPIR,
            seed=seed,
        )
        x = photos.vectors[held_out]
        _, owner = np.unique(photos.people[held_out], return_inverse=True)
        first, second = np.nonzero(np.triu(owner[:, None] != owner))
        apart = metrics.distance(x[first], x[second])
        measured, interval = metrics.fmr_by_people(
            apart, owner[first], owner[second], chosen.gate.threshold, np.random.default_rng(seed)
        )
        said = chosen.gate.fmr_interval
        assert said is not None
        # both halves are samples: on the logarithm their errors add up as the legs of a right angle do
        low = measured * np.exp(-np.hypot(np.log(measured / interval[0]), np.log(said[1] / protocols.FMR)))
        high = measured * np.exp(np.hypot(np.log(interval[1] / measured), np.log(protocols.FMR / said[0])))
        both = (float(low), float(high))
        inside = ["yes" if a <= protocols.FMR <= b else "no" for a, b in (interval, both)]
        rows.append([seed, chosen.gate.threshold, said, measured, interval, inside[0], both, inside[1]])
    section.table(
        "`facerec calibrate` on 105 people and 105 strangers, measured on the other 210; a pair of people counts once. "
        "The interval of the measurement knows nothing of the chance that the threshold owes to its own half: of two "
        "halves as large, five in six such intervals are expected to contain the rate. The last one has both in it",
        {
            "draw": "{}",
            "threshold": "{:.3f}",
            "95 % said": "{:.5f} – {:.5f}",
            "FMR measured": "{:.5f}",
            "95 % measured": "{:.5f} – {:.5f}",
            f"contains {protocols.FMR:g}": "{}",
            "95 % of both halves": "{:.5f} – {:.5f}",
            f"contains {protocols.FMR:g}, of both": "{}",
        },
        rows,
    )


def degraded(section: Section) -> None:
    """What small and blurred probes do to the rates at the default threshold."""
    setting = Setting()
    embedder = load_embedder(crop=setting.crop, threads=runtime.cpu_count())
    engine = Engine(detector(setting.detector), embedder, setting.faces, DEFAULT_MIN_FACE, None)
    with tempfile.TemporaryDirectory() as temp:
        photos: Photos = load_photos(data("lfw-dev"), Path(temp), engine, jobs=runtime.cpu_count())
        crops = {p.stem: p for p in Path(temp).rglob("*.png")}
        drawn = np.random.default_rng(0).choice(len(photos.names), DEGRADED, replace=False)
        images = [read_image(crops[Path(str(photos.names[i])).stem]) for i in drawn]

    def shrunk(image: Image, side: int) -> Image:
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (160, 160), interpolation=cv2.INTER_LINEAR).astype(np.uint8)

    ways = {"as they are": lambda x: x}
    face = 1 / (1 + 2 * setting.crop.margin)  # of the crop's side
    ways |= {f"face of {px} pixels": lambda x, px=px: shrunk(x, round(px / face)) for px in (10, 15, 20, 25, 30, 40)}
    ways |= {f"blurred by {s} of 160 pixels": lambda x, s=s: cv2.GaussianBlur(x, (0, 0), s) for s in (2, 4, 6, 8)}
    threshold = gate("facenet-128").threshold
    rows = []
    for name, way in ways.items():
        changed = np.stack([way(image) for image in images])
        vectors = embedder.embed(changed)
        apart = metrics.distances(vectors, photos.vectors)
        same = photos.people[drawn][:, None] == photos.people
        own = drawn[:, None] == np.arange(len(photos.names))
        among = metrics.distances(vectors, vectors)[photos.people[drawn][:, None] != photos.people[drawn]]
        sharp = [cv2.Laplacian(cv2.cvtColor(c, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for c in changed]
        rates = (apart[~same] <= threshold).mean(), (among <= threshold).mean(), (apart[same & ~own] > threshold).mean()
        rows.append([name, float(np.median(sharp)), *map(float, rates)])
    section.table(
        f"Probes made worse, against the photos as they are; {DEGRADED} probes, threshold {threshold:.3f}",
        {
            "probes": "{}",
            "median sharpness": "{:.1f}",
            "FMR": "{:.5f}",
            "FMR among the probes": "{:.5f}",
            "FNMR": "{:.3f}",
        },
        rows,
    )


def main(section: Section) -> None:
    """All tables."""
    strangers(section)
    calibration(section)
    degraded(section)
