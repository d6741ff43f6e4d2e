"""LFW's protocol by crop and setting, the default threshold, and what `facerec evaluate` prints, with its seconds."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Section, data, facerec
from facerec import metrics, protocols, runtime
from facerec.classify import KINDS
from facerec.detectors import DEFAULT_MIN_FACE, load_detector
from facerec.embedders import DEFAULT_MARGIN, load_embedder
from facerec.protocols import PairsResult, Photos
from facerec.stages.evaluate import Engine, load_photos
from facerec.types import Crop, Detector, Face, FaceChoice, Image

FMRS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DEFAULT_CROP = Crop(DEFAULT_MARGIN)
CROPS = [
    *(Crop(m) for m in (0.0, 0.05, 0.075, 0.1, 0.15)),
    *(Crop(m, square=True) for m in (0.0, 0.05)),
    *(Crop(m, aligned=True) for m in (0.0, 0.1)),
]
PUBLISHED = {10: 0.94, 20: 0.945, 40: 0.903, 60: 0.9, 80: 0.882, 100: 0.88, 120: 0.877}
VALUE = "{:.4f} ± {:.4f}"
RANGE = "{:.4f} – {:.4f}"


class Remembering:
    """A detector that searches each picture once: the crops differ, the faces do not."""

    def __init__(self, detector: Detector) -> None:
        self.name, self.thread_safe = detector.name, detector.thread_safe
        self._detector = detector
        self._found: dict[bytes, list[Face]] = {}

    def detect(self, image: Image) -> list[Face]:
        key = hashlib.sha256(image).digest()
        if key not in self._found:
            self._found[key] = self._detector.detect(image)
        return self._found[key]


@dataclass(frozen=True)
class Setting:
    """What differs from the defaults."""

    crop: Crop = DEFAULT_CROP
    flip: bool = False
    faces: FaceChoice = "central"
    detector: str = "mtcnn"


COMPARED = {
    "default": Setting(),
    "flip": Setting(flip=True),
    "margin 5 %, flip": Setting(Crop(0.05), flip=True),
    "square crop, no margin, flip": Setting(Crop(0.0, square=True), flip=True),
    "aligned crop, no margin": Setting(Crop(0.0, aligned=True)),
    "largest face": Setting(faces="largest"),
    "detector haar": Setting(detector="haar"),
}

detector = cache(lambda name: Remembering(load_detector(name)))


@cache
def load(setting: Setting) -> Photos:
    """Vectors of lfw-dev, as `facerec evaluate` makes them; nothing is left from an earlier version."""
    cores = runtime.cpu_count()
    embedder = load_embedder(crop=setting.crop, flip=setting.flip, threads=cores)
    engine = Engine(detector(setting.detector), embedder, setting.faces, DEFAULT_MIN_FACE, None)
    with tempfile.TemporaryDirectory() as temp:
        return load_photos(data("lfw-dev"), Path(temp), engine, jobs=cores)


@cache
def evaluate(setting: Setting) -> PairsResult:
    """LFW's protocol on the pairs."""
    return protocols.evaluate_pairs(load(setting), metrics.read_pairs(data("lfw-dev-pairs.txt")))


def value(result: PairsResult) -> tuple[float, float]:
    return result.accuracy, result.standard_error


def crops(section: Section) -> None:
    """Accuracy for each margin and shape."""
    rows = []
    for crop in CROPS:
        shape = "aligned" if crop.aligned else "square" if crop.square else "stretched"
        rows.append([shape, crop.margin, value(evaluate(Setting(crop)))])
    section.table(
        "Accuracy by crop, the central face taken",
        {"crop": "{}", "margin": "{:.1%}", "accuracy": VALUE},
        rows,
    )


def compared(section: Section) -> None:
    """Single settings, tested against the default."""
    default = evaluate(Setting())
    rows = []
    for name, setting in COMPARED.items():
        result = evaluate(setting)
        p = None if result is default else metrics.mcnemar(default.right, result.right)
        rows.append([name, value(result), result.interval, result.eer, len(result.failures), p])
    section.table(
        f"Settings; p is McNemar's against the default ({DEFAULT_MARGIN:.1%} margin, central face)",
        {
            "setting": "{}",
            "accuracy": VALUE,
            "95 %": RANGE,
            "EER": "{:.4f}",
            "pairs without a face": "{}",
            "p": "{:.3f}",
        },
        rows,
    )


def default_gate(section: Section) -> None:
    """What the catalogue's threshold, margin and rates are taken from."""
    photos = load(Setting())
    found = ~photos.missing
    vectors, people = photos.vectors[found], photos.people[found]
    upper = np.triu_indices(len(vectors), 1)
    impostor = people[upper[0]] != people[upper[1]]
    distances = metrics.distances(vectors, vectors)[upper]
    rows = []
    for rate in FMRS:
        limit = metrics.threshold_at_fmr(distances[impostor], rate)
        rows.append([rate, limit, float((distances[~impostor] > limit).mean())])
    section.table(
        f"Distances at false-match rates, {impostor.sum():,} impostor and {(~impostor).sum():,} genuine pairs",
        {"FMR": "{:g}", "distance": "{:.4f}", "FNMR": "{:.4f}"},
        rows,
    )
    everyone = sorted(set(people.tolist()))
    settings = [(1, size, protocols.FPIR) for size in (10, 20, 50, 100, 210)]
    settings += [(3, size, protocols.FPIR) for size in (10, 20, 50, 76)]
    settings += [(1, 105, rate) for rate in (2e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 8e-2)]
    section.table(
        f"The margin at which this share of strangers' searches returns a name (threshold: FMR {protocols.FMR:g})",
        {"people enrolled": "{}", "photos each": "{}", "FPIR": "{:g}", "margin": "{:.3f}"},
        [
            [size, each, rate, protocols.choose_gate(photos, everyone, each, size, fpir=rate).margin]
            for each, size, rate in settings
        ],
    )


def commands(section: Section) -> None:
    """`facerec evaluate` as a user runs it, twice."""
    lfw = str(data("lfw-dev"))
    words = {"pairs": ["--pairs", str(data("lfw-dev-pairs.txt"))], "identify": [], "open-set": []}
    results: dict[str, dict[str, Any]] = {}
    seconds = []
    for protocol, options in words.items():
        with tempfile.TemporaryDirectory() as temp:
            taken = []
            for _ in range(2):
                start = time.perf_counter()
                results[protocol] = facerec("evaluate", protocol, lfw, *options, cwd=Path(temp))
                taken.append(time.perf_counter() - start)
            seconds.append([f"facerec evaluate {protocol}", *taken])

    closed = results["identify"]
    section.table(
        f"`facerec evaluate identify`: one photo enrolled and one searched a person, {closed['draws']} draws; in "
        "brackets 95 %, people drawn again",
        {
            "people": "{}",
            **dict.fromkeys(KINDS, VALUE + " (" + RANGE + ")"),
            "ms a photo, detection included": "{:.1f}",
            "published by the experiment it follows": "{:.3f}",
        },
        [
            [
                kinds[0]["n"],
                *((point["accuracy"], point["standard_error"], *point["interval"]) for point in kinds),
                max(point["seconds_per_sample"] for point in kinds) * 1000,
                PUBLISHED.get(kinds[0]["n"]),
            ]
            for kinds in zip(*(closed[kind] for kind in KINDS), strict=True)
        ],
    )
    strangers = results["open-set"]
    gates = strangers["gates"]
    rates = strangers["fnir_at_fpir"]
    section.table(
        f"`facerec evaluate open-set`: {strangers['gallery']} people enrolled with one photo, the others strangers; in "
        f"brackets the middle 95 % of {strangers['draws']} draws; nothing where the strangers are too few for the rate",
        {"candidate by, gate": "{}", **{f"FNIR at FPIR {rate}": "{:.4f} (" + RANGE + ")" for rate in rates}},
        [
            [
                name,
                *(  # no rate and no interval where the strangers cannot carry it
                    (share, *gate["intervals"][rate]) if rate in gate["intervals"] else None
                    for rate, share in gate["fnir_at_fpir"].items()
                ),
            ]
            for name, gate in gates.items()
        ],
    )
    promised = dict(strangers["promised"])
    section.table(
        f"The same: threshold and margin chosen on one half of the people, measured on the other "
        f"({promised.pop('gallery')} enrolled); in brackets 95 %, people drawn again",
        {"candidate by, gate": "{}", "FPIR": "{:.4f} (" + RANGE + ")", "FNIR": "{:.4f} (" + RANGE + ")"},
        [
            [name, *((rate[what], *rate[f"{what}_interval"]) for what in ("fpir", "fnir"))]
            for name, rate in promised.items()
        ],
    )
    section.table(
        "Seconds of the commands, cold processes; the second run finds the vectors in its cache",
        {"command": "`{}`", "first run": "{:.1f}", "second run": "{:.1f}"},
        seconds,
    )


def main(section: Section) -> None:
    """All tables."""
    photos, pairs = load(Setting()), evaluate(Setting()).same
    section.note(
        f"{len(photos.names):,} photos of {len(set(photos.people)):,} people of Labeled Faces in the Wild; "
        f"{len(pairs):,} pairs in ten folds that share no person, each judged at the threshold that is best on the "
        "other nine. ± is the standard error. A photo without a face is an error."
    )
    crops(section)
    compared(section)
    default_gate(section)
    commands(section)
