"""finetune: embeddings (or crops) of a user's own people → a new embedding model, and whether it is better."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facerec import catalogue, metrics, plots, weights
from facerec.artifacts import load_embeddings, remove, write_bytes
from facerec.detectors import DEFAULT_MIN_FACE
from facerec.embedders import load_embedder
from facerec.embedders.facenet import NORMALISE, SIZE
from facerec.embedders.onnx import OnnxEmbedder
from facerec.errors import ArtifactError, DataError, UsageError
from facerec.images import decode_image, read_bytes
from facerec.paths import FINETUNED
from facerec.report import Report
from facerec.stages.common import require_folder
from facerec.stages.evaluate import Engine, load_photos
from facerec.types import (
    Detector,
    Embeddings,
    FloatArray,
    Gate,
    Progress,
    TrainingHistory,
    TrainingSettings,
    no_progress,
)

VALIDATE, TEST = 1 / 7, 2 / 7  # shares of the people that are kept apart
LEAST = 12  # people with two photos
JUDGES = 6  # people; of fewer, drawing them again gives intervals that are too narrow
FAR = 1e-2
SAME_OUTPUT = 0.9999  # cosine of the exported model's vectors and the trained one's


@dataclass(frozen=True)
class Comparison:
    """Two models on the same photos of people whom neither has seen.

    Attributes:
        what: whose photos.
        photos: how many.
        people: of how many.
        before: TAR at `FAR`, and its 95 % interval by identity bootstrap; None where the pairs cannot carry it.
        after: likewise.
        gain: 95 % interval of the difference, the same people drawn for both; None for fewer people than `JUDGES` too.
    """

    what: str
    photos: int
    people: int
    before: tuple[float, tuple[float, float]] | None
    after: tuple[float, tuple[float, float]] | None
    gain: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.gain is None:
            return "not enough data"
        low, high = self.gain
        return "better" if low > 0 else "worse" if high < 0 else "not better"


def sides(people: list[str], seed: int) -> dict[str, str]:
    """Person → "learn", "validate" or "test", by a hash of the seed and the name: the same in every run."""
    order = sorted(people, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    tests, validates = max(round(TEST * len(order)), 2), max(round(VALIDATE * len(order)), 2)
    return {
        name: "test" if i < tests else "validate" if i < tests + validates else "learn" for i, name in enumerate(order)
    }


def finetune(
    processed: Path,
    embeddings: Path,
    name: str,
    *,
    layers: str,
    settings: TrainingSettings,
    folder: Path = FINETUNED,
    threads: int = 1,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = no_progress,
) -> None:
    """Adapts the embedding to the people in `embeddings`; the result is a model in the catalogue.

    Of the people with two training photos or more some learn, some tell when to stop and what the threshold is, and
    some are kept for `judge`.

    Args:
        processed: the crops, as ``facerec detect`` wrote them.
        embeddings: their vectors, as ``facerec embed`` made them with the model to start from.
        name: of the new model.
        layers: "head", a number of blocks from the end, or "all".
        settings: of the training.
        folder: for the checkpoint, in a folder of the model's name.
        threads: of the engine that the result is compared on.
        say: told how it goes.
        progress: shows how far an epoch is.

    Raises:
        UsageError: a name that cannot be one, layers that are none, or embeddings to start from that are no base's.
        DataError: too few people with two training photos.
        ArtifactError: embeddings or crops are missing.
    """
    catalogue.require_new(name)
    count = None if layers in ("head", "all") else _number(layers)
    rows = for_training(load_embeddings(embeddings))
    base, (people, owner) = rows.space.model, np.unique(rows.labels, return_inverse=True)
    if base not in NORMALISE or rows.space.flip:
        raise UsageError(f"{embeddings} holds vectors of {rows.space}", f"embed with one of {', '.join(NORMALISE)}")
    if len(people) < LEAST:
        raise DataError(
            f"{len(people)} people have two training photos or more",
            f"{LEAST} are needed: some learn, some judge, some test",
        )
    side = of_side(rows, settings.seed)
    crops = read_crops(processed, rows)
    from facerec import reference, training  # TensorFlow: some seconds, after all that can be refused without it

    learner: training.Head | training.Tail
    if layers == "head":
        learner = training.Head(rows.vectors)
    else:
        ((_, path),) = weights.weights(base).items()
        learner = training.Tail(reference.facenet(path, rows.vectors.shape[1]), count, crops, NORMALISE[base])
    say(
        f"{base}, {layers}: {(side == 'learn').sum()} photos of {len(set(owner[side == 'learn']))} people to learn from"
    )

    def told(epoch: int, history: TrainingHistory) -> None:
        say(
            f"epoch {epoch}: loss {history.loss[-1]:.4f}, {history.active[-1]:.1%} of the triplets active, "
            f"TAR at FAR {FAR:g} {history.tar[-1]:.4f} (before training {history.tar[0]:.4f})"
        )

    start = time.perf_counter()
    checkpoint = folder / name / "checkpoint.npz"
    of = "\n".join([base, rows.space.weights, layers, *rows.digests.tolist(), *side.tolist()])
    identity = hashlib.sha256(of.encode()).hexdigest()
    learn, stop = side == "learn", side == "validate"
    history = training.train(
        learner, owner.astype(np.intp), learn, stop, settings, checkpoint, identity, say=told, progress=progress
    )
    seconds = time.perf_counter() - start
    apart = np.flatnonzero(~learn)
    trained = learner.embed(apart)
    with tempfile.TemporaryDirectory() as temp:
        graph = Path(temp) / f"{name}.onnx"
        if isinstance(learner, training.Head):
            training.export_head(weights.graph(base, f"{base}.onnx"), learner, graph)
        else:
            reference.export_network(learner.network, graph)
        engine = OnnxEmbedder(graph, replace(rows.space, model=name), SIZE, NORMALISE[base], threads)
        agreement = float((engine.embed(crops[apart]) * trained).sum(axis=1).min())
        if agreement < SAME_OUTPUT:
            raise ArtifactError(
                f"the exported model differs from the trained one (cosine {agreement:.6f})", "report this"
            )
        about = {
            "layers": layers,
            "settings": asdict(settings),
            "history": asdict(history),
            "agreement": agreement,
            "seconds": round(seconds, 1),
            "people": _digest(people.tolist()),
        }
        # where nothing was gained the vectors are the base model's, and so is its gate
        if not history.best:
            say(f"no epoch was better than {base} as it was: {name} is the same network")
        gate = _gate(trained[stop[apart]], owner[stop], base) if history.best else catalogue.gate(base)
        catalogue.add_tuned(name, base, graph, gate, about)
    remove(checkpoint)


def judge(
    processed: Path,
    embeddings: Path,
    name: str,
    *,
    general: Path | None = None,
    folder: Path = FINETUNED,
    detector: Detector,
    threads: int = 1,
    progress: Progress = no_progress,
) -> Report:
    """Compares a model that `finetune` made with the one it was made of, on people whom training has not seen.

    Args:
        processed: as for `finetune`.
        embeddings: likewise, of the base model.
        name: of the model.
        general: a folder of other people: is anything forgotten? None for the sample photos.
        folder: where the report goes, in a folder of the model's name.
        detector: finds the faces of the general set.
        threads: of the engine.
        progress: shows how far it is.

    Raises:
        UsageError: no such model.
        ArtifactError: embeddings, crops or their people are not those of the training.
    """
    about = catalogue.tuned(name)
    base = about["base"]
    rows = for_training(load_embeddings(embeddings))
    if rows.space.model != base:
        raise ArtifactError(f"{embeddings} holds vectors of {rows.space}", f"run `facerec embed --model {base}`")
    if _digest(rows.people) != about["people"]:
        raise ArtifactError(
            f"{embeddings} holds other people than those that {name} was made of",
            f"nobody can say whom it has seen: facerec models remove {name}, and facerec finetune again",
        )
    tests = rows[of_side(rows, about["settings"]["seed"]) == "test"]
    after = load_embedder(model=name, crop=rows.space.crop, threads=threads)
    _, owner = np.unique(tests.labels, return_inverse=True)
    comparisons = [compare("yours", tests.vectors, after.embed(read_crops(processed, tests)), owner)]
    other = "the sample photos" if general is None else general.name
    general = general or weights.samples() / "train"
    both = []
    for embedder in (load_embedder(model=base, crop=rows.space.crop, threads=threads), after):
        engine = Engine(detector, embedder, "central", DEFAULT_MIN_FACE, None)
        both.append(load_photos(general, folder / name / "cache", engine, jobs=threads, progress=progress))
    found = ~both[0].missing
    _, owner = np.unique(both[0].people[found], return_inverse=True)
    comparisons.append(compare(f"others: {other}", both[0].vectors[found], both[1].vectors[found], owner))
    report = _report(name, about, comparisons)
    report.write(folder / name)
    write_bytes(folder / name / "curves.png", report.pictures[0][1])
    return report


def _digest(people: list[str]) -> str:
    """Tells whether these are the same people, without their names."""
    return hashlib.sha256("\n".join(people).encode()).hexdigest()


def _number(layers: str) -> int:
    if not layers.isdecimal() or int(layers) < 1:
        raise UsageError(f"--layers {layers} is none of head, all, or a number of blocks", "try --layers head")
    return int(layers)


def for_training(rows: Embeddings) -> Embeddings:
    """The photos that were not put aside for ``facerec train``'s test, of people with two of them or more."""
    rows = rows[rows.splits != "test"]
    _, owner, counts = np.unique(rows.labels, return_inverse=True, return_counts=True)
    return rows[counts[owner] > 1]


def of_side(rows: Embeddings, seed: int) -> npt.NDArray[np.str_]:
    """(n,) each row's of `sides`."""
    where = sides(rows.people, seed)
    return np.array([where[label] for label in rows.labels.tolist()])


def read_crops(processed: Path, rows: Embeddings) -> npt.NDArray[np.uint8]:
    """(n, s, s, 3) the crops that the vectors were made of.

    Raises:
        ArtifactError: some are gone, or were cut out again.
    """
    require_folder(processed, "make it with `facerec detect`")
    if missing := [s for s in rows.sources.tolist() if not (processed / s).is_file()]:
        raise ArtifactError(f"{len(missing)} crops are missing, the first is {missing[0]}", "run `facerec detect`")
    crops = []
    for source, digest in zip(rows.sources.tolist(), rows.digests.tolist(), strict=True):
        data = read_bytes(processed / source)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactError(f"{source} is another crop than the one that was embedded", "run `facerec embed`")
        crops.append(decode_image(data))
    return np.stack(crops)


def compare(what: str, before: FloatArray, after: FloatArray, owner: npt.NDArray[np.intp], seed: int = 0) -> Comparison:
    """Both models' true accept rates at `FAR` on all pairs of photos, people drawn again for the intervals."""
    _, owner = np.unique(owner, return_inverse=True)
    n = int(owner.max()) + 1
    first, second = np.triu_indices(len(owner), 1)
    same = owner[first] == owner[second]
    if not same.any() or not metrics.enough_for(FAR, int((~same).sum())):
        return Comparison(what, len(owner), n, None, None, None)
    apart = [metrics.distances(v, v)[first, second] for v in (before, after)]
    found = [metrics.error_rates(d, same).tar_at_far(FAR) for d in apart]
    weights = metrics.people_drawn_again(
        n, owner[first], owner[second], same, np.random.default_rng(seed), metrics.BOOTSTRAPS
    )
    rates = np.array([[metrics.error_rates(d, same, weight).tar_at_far(FAR) for d in apart] for weight in weights])

    def interval(values: npt.NDArray[np.floating]) -> tuple[float, float]:
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)

    gain = interval(rates[:, 1] - rates[:, 0]) if n >= JUDGES else None
    return Comparison(what, len(owner), n, (found[0], interval(rates[:, 0])), (found[1], interval(rates[:, 1])), gain)


def _gate(vectors: FloatArray, owner: npt.NDArray[np.intp], base: str) -> Gate | None:
    """The threshold at the base model's false-match rate, on people whom training has not seen; None for too few."""
    default = catalogue.gate(base)
    owner = np.unique(owner, return_inverse=True)[1]
    first, second = np.nonzero(np.triu(owner[:, None] != owner))
    impostors = metrics.distances(vectors, vectors)[first, second]
    if default is None or default.fmr is None or not metrics.enough_for(default.fmr, len(impostors)):
        return None
    source = f"{len(set(owner.tolist()))} people kept out of training, {len(impostors):,} impostor pairs"
    who = owner[first], owner[second]
    threshold = max(metrics.threshold_by_people(impostors, *who, default.fmr), 0.0)
    _, interval = metrics.fmr_by_people(impostors, *who, threshold, np.random.default_rng(0))
    if interval[0] == 0:  # none of them look alike: that says nothing about others
        return None
    return replace(default, threshold=threshold, fmr_interval=interval, source=source)


def _report(name: str, about: dict[str, Any], comparisons: list[Comparison]) -> Report:
    """For people and programs."""

    def rate(value: tuple[float, tuple[float, float]] | None) -> str:
        return "not enough data" if value is None else f"{value[0]:.4f} ({value[1][0]:.4f} – {value[1][1]:.4f})"

    base, history, settings = about["base"], about["history"], about["settings"]
    best, epochs = history["best"], len(history["loss"])
    chosen = f"epoch {best} of {epochs}" if best else f"the original, since none of {epochs} epochs was better"
    rows = [
        [
            c.what,
            f"{c.photos} of {c.people} people",
            rate(c.before),
            rate(c.after),
            "" if c.gain is None else f"{c.gain[0]:+.4f} – {c.gain[1]:+.4f}",
            c.verdict,
        ]
        for c in comparisons
    ]
    steps = list(range(len(history["tar"])))
    lines: dict[str, plots.Curve] = {
        "loss": (steps[1:], history["loss"]),
        "active triplets": (steps[1:], history["active"]),
        f"TAR at FAR {FAR:g}, people kept apart": (steps, history["tar"]),
    }
    return Report(
        "report",
        f"Fine-tuned: {name}",
        [
            f"{base}, {about['layers']}: {settings['mining']} triplets, α {settings['margin']:g}; "
            f"{chosen}, {about['seconds']:.0f} s.",
            f"The exported model against the trained one: cosine {about['agreement']:.6f} or more.",
            "Judged on people whom training has not seen; intervals: 95 %, people drawn again with replacement.",
            f"The default stays {base}: `facerec embed --model {name}` takes the new one.",
        ],
        {"name": name, **about, "comparisons": [{**asdict(c), "verdict": c.verdict} for c in comparisons]},
        settings,
        [("Before and after", ["judged on", "photos", f"TAR at FAR {FAR:g}: {base}", name, "gain", "verdict"], rows)],
        [("Training", plots.curves(lines, name, "epoch", ""))],
    )
