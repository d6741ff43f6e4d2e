"""FaceNet's triplet loss with online mining, on TensorFlow: the networks that learn, and the loop.

Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015, §3.
Batch-all and batch-hard are Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
2017, §2. Imports TensorFlow: only what trains imports this module.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from facerec import metrics
from facerec.artifacts import read_npz, write_npz
from facerec.embedders.onnx import Normalise
from facerec.errors import ArtifactError
from facerec.types import FloatArray, Progress, TrainingHistory, TrainingSettings, no_progress

Labels = npt.NDArray[np.intp]
FAR = 1e-2  # at which the true accept rate on people kept apart is watched
CHUNK = 64  # crops that are embedded at a time


# --- the loss ------------------------------------------------------------------------------------


def squared_distances(vectors: tf.Tensor) -> tf.Tensor:
    """(n, d) → (n, n) squared Euclidean distances."""
    lengths = tf.reduce_sum(vectors * vectors, axis=1)
    return tf.maximum(lengths[:, None] + lengths[None] - 2 * tf.matmul(vectors, vectors, transpose_b=True), 0.0)


def triplet_loss(vectors: tf.Tensor, labels: tf.Tensor, mining: str, margin: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The triplet loss (‖a-p‖² - ‖a-n‖² + α)₊ over a batch (eq. 3), on triplets that are chosen in it.

    Args:
        vectors: (n, d) float32 unit rows.
        labels: (n,) whose they are.
        mining: "batch-all": every triplet that breaks the margin, its mean; "batch-hard": of each anchor its furthest
            positive and closest negative; "semi-hard" (§3.2): of each anchor and positive the closest negative that is
            further away than the positive, or else the furthest one.
        margin: α; 0.2 in the paper.

    Returns:
        The loss, and the share of the triplets that were looked at that break the margin.
    """
    apart = squared_distances(vectors)
    same = labels[:, None] == labels[None]
    other = tf.logical_not(same)
    positive = tf.logical_and(same, tf.logical_not(tf.eye(tf.shape(labels)[0], dtype=tf.bool)))
    if mining == "batch-hard":
        furthest = tf.reduce_max(tf.where(positive, apart, -1.0), axis=1)
        closest = tf.reduce_min(tf.where(other, apart, np.inf), axis=1)
        valid = tf.logical_and(furthest >= 0, closest < np.inf)
        losses = tf.maximum(tf.boolean_mask(furthest - closest, valid) + margin, 0.0)
        return tf.reduce_mean(losses), tf.reduce_mean(tf.cast(losses > 0, tf.float32))
    if mining == "semi-hard":
        further = tf.logical_and(other[:, None, :], apart[:, None, :] > apart[:, :, None])
        closest = tf.reduce_min(tf.where(further, apart[:, None, :], np.inf), axis=2)
        furthest = tf.reduce_max(tf.where(other, apart, -1.0), axis=1)
        negative = tf.where(tf.reduce_any(further, axis=2), closest, furthest[:, None])
        valid = tf.logical_and(positive, tf.reduce_any(other, axis=1)[:, None])
        losses = tf.maximum(tf.boolean_mask(apart - negative, valid) + margin, 0.0)
        return tf.reduce_mean(losses), tf.reduce_mean(tf.cast(losses > 0, tf.float32))
    valid = tf.logical_and(positive[:, :, None], other[:, None, :])
    losses = tf.maximum(tf.boolean_mask(apart[:, :, None] - apart[:, None, :], valid) + margin, 0.0)
    active = tf.reduce_sum(tf.cast(losses > 0, tf.float32))
    return tf.reduce_sum(losses) / tf.maximum(active, 1.0), active / tf.cast(tf.maximum(tf.size(losses), 1), tf.float32)


def batches(labels: Labels, people: int, photos: int, rng: np.random.Generator) -> list[Labels]:
    """An epoch of P × K batches: rows of `people` people, `photos` of each; everybody comes once.

    Who has fewer photos gives some twice; the last people are filled up with others.
    """
    everybody = rng.permutation(np.unique(labels))
    people = min(people, len(everybody))
    rest = len(everybody) % people
    others = rng.permutation(everybody[: len(everybody) - rest])[: people - rest] if rest else everybody[:0]
    order = np.concatenate([everybody, others])
    return [
        np.concatenate(
            [
                rng.choice(rows, photos, replace=len(rows) < photos)
                for rows in (np.flatnonzero(labels == person) for person in group)
            ]
        )
        for group in order.reshape(-1, people)
    ]


def augmented(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A crop as another camera might have taken it: mirrored, shifted, lighter, blurred, smaller, compressed."""
    crop: Any = image
    side = crop.shape[0]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        x, y = rng.uniform(-0.04, 0.04, 2) * side
        move = np.array([[1, 0, x], [0, 1, y]], np.float32)
        crop = cv2.warpAffine(crop, move, (side, side), borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.5:
        gain, lift = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
        crop = (
            cv2.convertScaleAbs(crop, alpha=gain, beta=lift)
            if lift >= 0
            else cv2.subtract(cv2.convertScaleAbs(crop, alpha=gain), np.full_like(crop, round(-lift)))
        )
    if rng.random() < 0.3:
        crop = cv2.GaussianBlur(np.ascontiguousarray(crop), (0, 0), rng.uniform(0.5, 2.5))
    if rng.random() < 0.5:
        small = int(rng.uniform(0.2, 0.8) * side)
        crop = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(15, 90))]
        bgr = np.ascontiguousarray(crop[..., ::-1])  # JPEG keeps lightness better than colour
        again: Any = cv2.imdecode(cv2.imencode(".jpg", bgr, quality)[1], cv2.IMREAD_COLOR)
        crop = again[..., ::-1]
    return np.ascontiguousarray(crop, np.uint8)


# --- what learns ---------------------------------------------------------------------------------


class Learner(Protocol):
    """Something with variables that turns rows of the training data into unit vectors."""

    variables: list[Any]

    def forward(self, rows: Labels, rng: np.random.Generator) -> tf.Tensor:
        """(n, d) unit vectors of these rows, as they are trained on."""
        ...

    def embed(self, rows: Labels) -> FloatArray:
        """(n, d) unit vectors of these rows, as they are."""
        ...


class Head:
    """A projection behind the network: y = Wx / ‖Wx‖, W the identity at first. Learns from cached vectors.

    Args:
        vectors: (n, d) float32 unit rows.
    """

    def __init__(self, vectors: FloatArray) -> None:
        self._vectors = tf.constant(vectors)
        self.layer = keras.layers.Dense(vectors.shape[1], use_bias=False, kernel_initializer="identity")
        self.layer.build((None, vectors.shape[1]))
        self.variables = self.layer.trainable_variables

    def forward(self, rows: Labels, rng: np.random.Generator) -> tf.Tensor:
        """No augmentation: the vectors are what they are."""
        return tf.math.l2_normalize(self.layer(tf.gather(self._vectors, rows)), axis=1)

    def embed(self, rows: Labels) -> FloatArray:
        """The same."""
        return tf.math.l2_normalize(self.layer(tf.gather(self._vectors, rows)), axis=1).numpy()


class Tail:
    """The network's last blocks, or all of it; batch normalisation stays as it is.

    Args:
        network: keras-facenet's, with its weights.
        layers: residual blocks from the end, with what follows them; None for everything.
        crops: (n, s, s, 3) uint8 RGB.
        normalise: what the network takes.
    """

    def __init__(self, network: Any, layers: int | None, crops: npt.NDArray[np.uint8], normalise: Normalise) -> None:
        self.network = network
        self._crops, self._normalise = crops, normalise
        free_layers(network, layers)
        self.variables = network.trainable_variables
        signature = [tf.TensorSpec((None, *crops.shape[1:]), tf.float32)]
        self._run = tf.function(lambda pixels: network(pixels, training=False), input_signature=signature)

    def forward(self, rows: Labels, rng: np.random.Generator) -> tf.Tensor:
        """Augmented anew each time."""
        crops = np.stack([augmented(self._crops[row], rng) for row in rows])
        return tf.math.l2_normalize(self._run(self._normalise(crops)), axis=1)

    def embed(self, rows: Labels) -> FloatArray:
        """Not augmented."""
        chunks = [self._normalise(self._crops[rows[i : i + CHUNK]]) for i in range(0, len(rows), CHUNK)]
        return np.concatenate([tf.math.l2_normalize(self._run(chunk), axis=1).numpy() for chunk in chunks])


def free_layers(network: Any, layers: int | None) -> None:
    """Lets the last `layers` residual blocks and what follows them learn, or everything (None)."""
    blocks: list[str] = []
    for layer in network.layers:
        block = "_".join(layer.name.split("_")[:2])
        if layer.name.startswith("Block") and block not in blocks:
            blocks.append(block)
    first = 0
    if layers is not None:
        names = [layer.name for layer in network.layers]
        wanted = blocks[-layers:]
        first = min((i for i, name in enumerate(names) if "_".join(name.split("_")[:2]) in wanted), default=len(names))
    for i, layer in enumerate(network.layers):
        layer.trainable = i >= first and not isinstance(layer, keras.layers.BatchNormalization)


# --- the loop ------------------------------------------------------------------------------------


def train(
    learner: Learner,
    labels: Labels,
    learn: npt.NDArray[np.bool_],
    validate: npt.NDArray[np.bool_],
    settings: TrainingSettings,
    checkpoint: Path,
    identity: str = "",
    *,
    say: Callable[[int, TrainingHistory], None] = lambda epoch, history: None,
    progress: Progress = no_progress,
) -> TrainingHistory:
    """Trains until the people kept apart are no better told apart; leaves the best epoch's weights in the learner.

    After each epoch a checkpoint is written. An epoch's batches and augmentation depend on the seed and its number
    alone, so that a run that was killed goes on as if it had not been.

    Args:
        learner: what learns.
        labels: (n,) whose each row is.
        learn: (n,) rows to learn from, two or more of a person.
        validate: (n,) rows of other people, to stop by.
        settings: see there.
        checkpoint: .npz; taken up where it is of the same settings, rows and identity.
        identity: what else the run depends on: network, layers, photos.
        say: told the epoch, after each.
        progress: shows how far an epoch is.
    """
    tf.config.experimental.enable_op_determinism()
    optimizer = keras.optimizers.Adam(settings.rate)
    optimizer.build(learner.variables)
    state = [*learner.variables, *optimizer.variables]
    history, best = _resume(checkpoint, _header(settings, labels, identity), state, len(learner.variables))
    if not history.tar:
        history.tar.append(_tar(learner, labels, validate))
        best = [v.numpy() for v in learner.variables]
    mine = np.where(learn, labels, -1)
    rows = np.flatnonzero(learn)
    for epoch in range(len(history.loss) + 1, settings.epochs + 1):
        if epoch - 1 - history.best >= settings.patience:
            break
        rng = np.random.default_rng([settings.seed, epoch])
        losses, active = [], []
        drawn = batches(mine[rows], settings.people, settings.photos, rng)
        for batch in progress(drawn, len(drawn), f"epoch {epoch}"):
            with tf.GradientTape() as tape:
                vectors = learner.forward(rows[batch], rng)
                loss, share = triplet_loss(vectors, tf.constant(mine[rows[batch]]), settings.mining, settings.margin)
            optimizer.apply_gradients(zip(tape.gradient(loss, learner.variables), learner.variables, strict=True))
            losses.append(float(loss))
            active.append(float(share))
        history.loss.append(float(np.mean(losses)))
        history.active.append(float(np.mean(active)))
        history.tar.append(_tar(learner, labels, validate))
        if history.tar[-1] > history.tar[history.best]:
            history.best = epoch
            best = [v.numpy() for v in learner.variables]
        _save(checkpoint, _header(settings, labels, identity), state, history, best)
        say(epoch, history)
    for variable, value in zip(learner.variables, best, strict=True):
        variable.assign(value)
    return history


def _tar(learner: Learner, labels: Labels, rows: npt.NDArray[np.bool_]) -> float:
    """True accept rate at `FAR` of all pairs of these rows."""
    vectors = learner.embed(np.flatnonzero(rows))
    upper = np.triu_indices(len(vectors), 1)
    same = labels[rows][upper[0]] == labels[rows][upper[1]]
    return metrics.error_rates(metrics.distances(vectors, vectors)[upper], same).tar_at_far(FAR)


def _header(settings: TrainingSettings, labels: Labels, identity: str) -> dict[str, Any]:
    rows = hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest()
    return {"kind": "training", "settings": asdict(settings), "rows": rows, "identity": identity}


def _save(
    path: Path, header: dict[str, Any], state: list[Any], history: TrainingHistory, best: list[npt.NDArray[Any]]
) -> None:
    arrays = {f"state{i}": np.atleast_1d(v.numpy()) for i, v in enumerate(state)}
    arrays |= {f"best{i}": np.atleast_1d(v) for i, v in enumerate(best)}
    write_npz(path, {**header, "history": asdict(history)}, arrays)


def _resume(
    path: Path, wanted: dict[str, Any], state: list[Any], variables: int
) -> tuple[TrainingHistory, list[npt.NDArray[Any]]]:
    """History and best weights of a checkpoint, whose state is put in place; empty where there is none like this."""
    expected = {f"state{i}": (np.dtype(v.dtype).kind, max(len(v.shape), 1)) for i, v in enumerate(state)}
    expected |= {f"best{i}": expected[f"state{i}"] for i in range(variables)}
    if not path.exists():
        return TrainingHistory(), []
    try:
        header, arrays = read_npz(path, "training", expected, "")
    except ArtifactError:
        return TrainingHistory(), []  # of other layers, or damaged: training starts anew
    if any(header.get(key) != value for key, value in wanted.items()):
        return TrainingHistory(), []
    for i, variable in enumerate(state):
        variable.assign(arrays[f"state{i}"].reshape(variable.shape))
    best = [arrays[f"best{i}"].reshape(v.shape) for i, v in enumerate(state[:variables])]
    return TrainingHistory(**header["history"]), best


# --- export --------------------------------------------------------------------------------------


def export_head(base: Path, head: Head, path: Path) -> None:
    """The base network's graph, with the projection behind it."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(base))
    graph = model.graph
    (out,) = graph.output
    kernel = head.variables[0].numpy()
    graph.initializer.append(numpy_helper.from_array(kernel, "head_kernel"))
    graph.node.append(helper.make_node("LpNormalization", [out.name], ["head_in"], axis=1, p=2))
    graph.node.append(helper.make_node("MatMul", ["head_in", "head_kernel"], ["head_out"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("head_out", onnx.TensorProto.FLOAT, ["n", kernel.shape[1]]))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
