"""Shared by all tests: fakes in place of the networks, made-up photos and videos, and the command line."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from facerec import catalogue, cli, weights
from facerec.classify import Classifier
from facerec.embedders import DEFAULT_MARGIN
from facerec.errors import WeightsError
from facerec.recognizer import Recognizer
from facerec.types import Crop, Embeddings, Face, Gate, Space

CROP = Crop(DEFAULT_MARGIN)
SPACE = Space("facenet-128", *catalogue.entry("facenet-128").files.values(), CROP, False)  # its gate is the default
COLOURS = {"ana": (220, 40, 40), "ben": (40, 200, 40), "cleo": (40, 40, 220), "dora": (220, 40, 220)}
STRANGER = (230, 220, 30)


class FakeDetector:
    """Every coloured square on a grey ground is a face; what is grey holds none."""

    name = "fake"
    thread_safe = True

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.calls = 0
        self.interrupt_after = interrupt_after

    def detect(self, image: np.ndarray) -> list[Face]:
        if self.calls == self.interrupt_after:
            raise KeyboardInterrupt
        self.calls += 1
        coloured = np.ptp(image.astype(int), axis=2) > 80
        _, _, stats, _ = cv2.connectedComponentsWithStats(coloured.astype(np.uint8))
        faces = []
        for x, y, w, h, area in stats[1:]:
            if area >= 100:
                eyes_and_mouth = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
                points = np.array([(x + a * w, y + b * h) for a, b in eyes_and_mouth])
                faces.append(Face(tuple(map(float, (x, y, x + w, y + h))), 1 - 1 / float(area), points))
        return sorted(faces, key=lambda f: -f.confidence)


class FakeEmbedder:
    """A crop's vector is its mean colour, seen from mid-grey."""

    name = "fake"
    dim = 3
    input_size = 160

    def __init__(self, space: Space = SPACE, interrupt_after: int | None = None) -> None:
        self.space = space
        self.embedded = 0
        self.interrupt_after = interrupt_after

    def embed(self, crops: np.ndarray) -> np.ndarray:
        if self.interrupt_after is not None and self.embedded + len(crops) > self.interrupt_after:
            raise KeyboardInterrupt
        self.embedded += len(crops)
        colours = crops.reshape(len(crops), 160 * 160, 3).mean(axis=1) - 127.5
        return (colours / np.linalg.norm(colours, axis=1, keepdims=True)).astype(np.float32)


def photo(seed: int, colours: Iterable[tuple[int, int, int]] = (), height: int = 90) -> np.ndarray:
    """A noisy grey picture with a square of each colour, side by side; differs with the seed."""
    rng = np.random.default_rng(seed)
    colours = list(colours)
    grey = rng.integers(90, 150, (height, 90 * max(len(colours), 1), 1)).astype(np.uint8)
    image = np.repeat(grey, 3, axis=2)
    for i, colour in enumerate(colours):
        side, (x, y) = 30 + 3 * i + seed % 11, rng.integers(5, 40, 2)
        image[y : y + side, 90 * i + x : 90 * i + x + side] = np.clip(colour + rng.integers(-9, 10, 3), 0, 255)
    return image


def face(name, seed=0, side=60):
    image = photo(seed)
    image = np.kron(image, np.ones((2, 2, 1), np.uint8))  # room for a face of the size that enrolling asks for
    image[20 : 20 + side, 30 : 30 + side] = COLOURS[name]
    return save(Path(f"in/{ord(name[0])}-{seed}.png"), image)


def save(path: Path, image: np.ndarray) -> Path:
    """Writes a picture by Pillow, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(image).save(path)
    return path


def photos(root: Path, people: dict[str, int], suffix: str = ".png") -> Path:
    """root/NAME/0.png … for each person and number."""
    for person, n in people.items():
        for i in range(n):
            save(root / person / f"{i}{suffix}", photo(1000 * len(person) + i, [COLOURS[person]]))
    return root


def video(path: Path, frames: Iterable[np.ndarray], fps: float = 10, codec: str = "mp4v") -> Path:
    """Writes RGB frames as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    for frame in frames:
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
        writer.write(frame[..., ::-1])
    assert writer is not None
    writer.release()
    return path


def numbered(index: int) -> np.ndarray:
    """A 96×64 frame that says its number in twelve black or white fields; `number_of` reads it."""
    bits = np.array([index >> k & 1 for k in range(12)], np.uint8).reshape(3, 4) * 255
    grey = cv2.resize(bits, (96, 64), interpolation=cv2.INTER_NEAREST)
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(image: np.ndarray) -> int:
    """The number of a `numbered` frame."""
    fields = cv2.resize(image[..., 1], (4, 3), interpolation=cv2.INTER_AREA).ravel()
    return sum(1 << k for k, field in enumerate(fields) if field > 127)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def vectors(people: dict[str, int], dim: int = 16, noise: float = 0.15, **fields: object) -> Embeddings:
    """Labelled unit vectors, scattered around a direction a person."""
    rng = np.random.default_rng(7)
    rows, labels = [], []
    for name, n in people.items():
        centre = np.random.default_rng(sum(map(ord, name))).standard_normal(dim)
        rows += list(centre / np.linalg.norm(centre) + noise * rng.standard_normal((n, dim)) / np.sqrt(dim))
        labels += [name] * n
    x = np.array(rows, np.float32).reshape(-1, dim)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    texts = [f"train/{name}/{i}.png" for i, name in enumerate(labels)]
    given = {
        "splits": np.array(["train"] * len(x), np.str_),
        "space": SPACE,
        **fields,
    }
    return Embeddings(x, np.array(labels, np.str_), np.array(texts, np.str_), digests=np.array(texts, np.str_), **given)


def hang_up_ends() -> None:
    """For `preexec_fn`: a test run under nohup inherits "ignore" for SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Result(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def keep_umask():
    """The command line makes everything private to its owner; the tests around it are not meant."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a facerec command in this process."""

    def call(*words: object) -> Result:
        capfd.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as leave:  # argparse
            code = leave.code
        return Result(int(code or 0), *capfd.readouterr())

    return call


def use_fakes(patch: pytest.MonkeyPatch) -> None:
    """The command line gets the fakes in place of the networks."""
    patch.setattr("facerec.detectors.load_detector", lambda *_, **__: FakeDetector())
    patch.setattr(
        "facerec.embedders.load_embedder",
        lambda *_, crop, **__: FakeEmbedder(replace(SPACE, crop=crop)),
    )


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`use_fakes`, for a test."""
    use_fakes(monkeypatch)


@pytest.fixture
def facerec_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model cache."""
    home = tmp_path / "home"
    monkeypatch.setenv("FACEREC_HOME", str(home))
    weights.graph.cache_clear()
    weights.laid_out.cache_clear()
    yield home
    weights.graph.cache_clear()
    weights.laid_out.cache_clear()


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """NASA's public-domain portrait of Eileen Collins: one face, 512×512."""
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="session")
def detector():
    """The default detector."""
    from facerec.detectors import load_detector

    return load_detector(threads=2)


@pytest.fixture(scope="session")
def embedder():
    """The default embedder."""
    from facerec.embedders import load_embedder

    return load_embedder(crop=CROP, threads=2)


@pytest.fixture(scope="session")
def samples() -> Path:
    """train/ and val/ with photographs of five people."""
    try:
        return weights.samples()
    except WeightsError as error:
        pytest.skip(f"the sample photographs cannot be had here: {error}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Optional research photographs: the folder that FACEREC_DATA names, else ../shared/data."""
    folder = Path(os.environ.get("FACEREC_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no research data in {folder}; set FACEREC_DATA")
    return folder


@pytest.fixture
def recognizer() -> Recognizer:
    """Ana, ben and cleo, one photo each."""
    x = np.array([COLOURS[name] for name in ("ana", "ben", "cleo")], np.float32) - 127.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = np.array(["ana", "ben", "cleo"])
    people = Embeddings(x, names, names, np.array(["train"] * 3), names, SPACE)
    return Recognizer(FakeDetector(), FakeEmbedder(), Classifier.train("nearest", people, Gate(0.4)))


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server with pgvector."""
    from benchmarks.server import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture
def database(postgres) -> str:
    """The address of an empty database."""
    return postgres.new_database()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
