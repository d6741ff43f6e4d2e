"""Fine-tuning on a hard case made from lfw-dev: 32×32 pixels, JPEG 20; before and after on people never seen."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.common import Section, data, facerec
from facerec import catalogue

SIDE, QUALITY = 32, 20
MODELS = {"bench-head": ["--layers", "head"], "bench-blocks": ["--layers", "2", "--epochs", "8", "--patience", "3"]}
RATE = "{:.4f} ({:.4f} – {:.4f})"


def spoil(folder: Path) -> None:
    """Every crop as a small, badly compressed picture has it."""
    for path in folder.rglob("*.png"):
        small = cv2.resize(cv2.imread(str(path)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        small = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], cv2.IMREAD_COLOR)
        cv2.imwrite(str(path), cv2.resize(small, (160, 160), interpolation=cv2.INTER_LINEAR))


def main(section: Section) -> None:
    """All tables."""
    pairs = data("lfw-dev-pairs.txt")
    with tempfile.TemporaryDirectory() as name:
        temp = Path(name)
        facerec("detect", str(data("lfw-dev")), "--faces", "central", "--test-size", "0", cwd=temp)
        spoil(temp / "processed")
        facerec("embed", cwd=temp)
        rows, speed = [], []
        for model, words in MODELS.items():
            if model in catalogue.tuned_names():
                catalogue.remove_tuned(model)
            start = time.perf_counter()
            report = facerec("finetune", "--name", model, *words, cwd=temp)
            taken = time.perf_counter() - start
            c = report["comparisons"][0]
            before, after = ((c[side][0], *c[side][1]) for side in ("before", "after"))
            rows.append([report["layers"], c["photos"], c["people"], before, after, tuple(c["gain"]), c["verdict"]])
            history = report["history"]
            speed.append(
                [report["layers"], len(history["loss"]), history["best"], report["seconds"], taken, report["agreement"]]
            )
        section.table(
            f"lfw-dev at {SIDE}×{SIDE} pixels and JPEG {QUALITY}: true accept rate at FAR 0.01 of all pairs of the "
            "test people's photos; 300 other people trained (60 of them told when to stop)",
            {
                "layers": "{}",
                "photos": "{}",
                "people": "{}",
                "before": RATE,
                "after": RATE,
                "gain, 95 %": "{:+.4f} – {:+.4f}",
                "verdict": "{}",
            },
            rows,
        )
        section.table(
            "Training; with start, export and both comparisons",
            {
                "layers": "{}",
                "epochs": "{}",
                "best": "{}",
                "training, s": "{:.0f}",
                "the command, s": "{:.0f}",
                "lowest cosine of ONNX and Keras": "{:.7f}",
            },
            speed,
        )
        settings = ["faces=central", *(f"model={model}" for model in MODELS)]
        compared = facerec("evaluate", "compare", str(data("lfw-dev")), "--pairs", str(pairs), *settings, cwd=temp)
        section.table(
            "LFW pairs at full quality (the same 420 people: some have been trained on)",
            {"model": "{}", "accuracy": "{:.4f} ± {:.4f}", "against the base model": "{:+.4f}"},
            [
                [
                    what.replace("faces=central", "facenet-128"),
                    (v["accuracy"], v["standard_error"]),
                    v["accuracy"] - compared["variants"]["faces=central"]["accuracy"],
                ]
                for what, v in compared["variants"].items()
            ],
        )
    for model in MODELS:
        catalogue.remove_tuned(model)
