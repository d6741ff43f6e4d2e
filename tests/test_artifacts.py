"""Files on disk: atomic, private, locked, checked before they are believed."""

import errno
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from conftest import vectors

from facerec import artifacts
from facerec.artifacts import (
    atomic_path,
    embeddings_pieces,
    load_embeddings,
    save_embeddings,
    write_text,
    written_together,
)
from facerec.errors import ArtifactError, InputError
from facerec.manifests import MANIFEST, Manifest, Record, append_records, read_manifest, write_records
from facerec.types import Failure, Space

# --- atomic writes -------------------------------------------------------------------------------


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temp:
        temp.write_text("half of the ne")
        raise RuntimeError
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows syncs no folders")
def test_what_is_written_is_on_disk_under_its_name(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "a.txt").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "x")
    assert synced == [(False, False), (True, True)]


def test_a_full_disk_is_an_artifact_error_that_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left on device.* — make room"):
        write_text(target, "new")
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_files_written_together_come_when_all_are_on_disk(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(names(tmp_path)), real(handle)))
    write_text(tmp_path / "b.txt", "old")
    synced.clear()
    with written_together():
        for name, text in (("a.txt", "1"), ("b.txt", "new"), ("a.txt", "2")):  # the last one counts
            write_text(tmp_path / name, text)
        assert not synced and "a.txt" not in names(tmp_path) and (tmp_path / "b.txt").read_text() == "old"
    assert len(synced) == 3 and all("a.txt" not in there for there in synced)
    assert names(tmp_path) == ["a.txt", "b.txt"]
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["2", "new"]


def test_a_name_that_is_too_long_is_said_at_once_also_where_files_come_together(tmp_path):
    with written_together():
        with pytest.raises(InputError, match="too long for the disk"):
            write_text(tmp_path / ("x" * 256), "x")
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("fails", ["the work", "the disk"])
def test_of_files_written_together_none_comes_where_that_fails(tmp_path, monkeypatch, fails):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = RuntimeError if fails == "the work" else ArtifactError
    with pytest.raises(error, match=None if fails == "the work" else "a.txt cannot be written .No space"):  # noqa: SIM117
        with written_together():
            write_text(tmp_path / "a.txt", "x")
            write_text(tmp_path / "b.txt", "x")
            if fails == "the work":
                raise RuntimeError
    assert names(tmp_path) == []
    monkeypatch.undo()
    write_text(tmp_path / "a.txt", "x")  # at once again
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_an_artifact_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "x")


def mode(path):
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_files_and_all_new_folders_are_for_their_owner_only(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert mode(tmp_path / "a" / "b" / "c.txt") == "0o600"
    assert mode(tmp_path / "a" / "b") == mode(tmp_path / "a") == "0o700"


def test_a_manifest_is_for_its_owner_only_also_while_it_is_written(tmp_path):
    with Manifest(tmp_path) as manifest:
        manifest.write(Record("x.jpg", "0", {}))
        assert mode(manifest.path) == "0o600"
    assert mode(manifest.path) == "0o600"


# --- manifests -----------------------------------------------------------------------------------


def filled(folder, inputs=("raw/2.jpg", "raw/10.jpg", "raw/1.jpg")):
    with Manifest(folder) as manifest:
        for name in inputs:
            out = f"train/{name}"
            write_text(folder / out, name)
            manifest.write(
                Record(
                    name,
                    sha256(name.encode()).hexdigest(),
                    {"size": 160, "faces": (1, 2)},
                    [{"path": out}],
                    label="ana",
                )
            )
    return folder


def test_closing_sorts_and_keeps_one_line_an_input(tmp_path):
    folder = filled(tmp_path / "out", ["raw/10.jpg", "raw/2.jpg", "raw/10.jpg"])
    assert [r.input for r in read_manifest(folder)] == ["raw/2.jpg", "raw/10.jpg"]
    assert len((folder / MANIFEST).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "tail",
    ['{"input": "raw/3.jpg", "sha2', "[1, 2]\n", "7\n", '{"input": "x"}\n', "\0\0\0", '{"foreign": 1}\n\n'],
)
def test_a_last_line_that_was_cut_off_costs_that_line_only(tmp_path, tail):
    folder = filled(tmp_path / "out")
    whole = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(whole + tail)
    assert len(list(read_manifest(folder))) == 3
    with Manifest(folder) as manifest:
        assert len(manifest.records) == 3
    assert (folder / MANIFEST).read_text() == whole


def test_a_line_written_after_a_cut_off_line_is_not_lost(tmp_path):
    folder = filled(tmp_path / "out")
    with (folder / MANIFEST).open("a") as file:
        file.write('{"input": "raw/3.jpg", "sha2')
    manifest = Manifest(folder).__enter__()
    manifest.write(Record("raw/4.jpg", "sha", {}))
    assert "raw/4.jpg" in [r.input for r in read_manifest(folder)]  # killed here, before closing
    manifest.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("key", "content", "options", "done"),
    [
        ("raw/1.jpg", "raw/1.jpg", {"size": 160, "faces": [1, 2]}, True),
        ("raw/1.jpg", "other", {"size": 160, "faces": [1, 2]}, False),
        ("raw/1.jpg", "raw/1.jpg", {"size": 161, "faces": [1, 2]}, False),
        ("raw/3.jpg", "raw/3.jpg", {"size": 160, "faces": [1, 2]}, False),
        ("raw/2.jpg", "raw/2.jpg", {"size": 160, "faces": [1, 2]}, False),
    ],
    ids=["same", "content", "options", "new", "output gone"],
)
def test_done_means_same_content_same_options_outputs_there(tmp_path, key, content, options, done):
    folder = filled(tmp_path / "out")
    (folder / "train/raw/2.jpg").unlink()
    (tmp_path / "input").write_text(content)
    with Manifest(folder) as manifest:
        assert manifest.is_done(key, tmp_path / "input", options) is done


def test_forgetting_removes_the_outputs_and_folders_left_empty(tmp_path):
    folder = filled(tmp_path / "out")
    with Manifest(folder) as manifest:
        manifest.forget(["raw/1.jpg", "raw/2.jpg"])
    assert [p.name for p in folder.rglob("*.jpg")] == ["10.jpg"]
    with Manifest(folder) as manifest:
        manifest.forget(["raw/10.jpg"])
    assert names(folder) == [MANIFEST]


def test_writing_again_removes_what_is_not_made_any_more(tmp_path):
    folder = filled(tmp_path / "out", ["raw/1.jpg"])
    with Manifest(folder) as manifest:
        manifest.write(Record("raw/1.jpg", "sha2", {}, [], error="no face found"))
    assert names(folder) == [MANIFEST]


def test_a_second_process_is_refused_until_the_first_has_finished(tmp_path):
    code = f"""
from pathlib import Path
from facerec.manifests import Manifest
with Manifest(Path({str(tmp_path)!r})):
    pass
"""
    second = [sys.executable, "-c", code]
    with Manifest(tmp_path):
        run = subprocess.run(second, capture_output=True, text=True)
        assert run.returncode == 1 and "another facerec is working on" in run.stderr
    assert subprocess.run(second).returncode == 0


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path):
    folder = filled(tmp_path / "out")
    before = sorted(folder.rglob("*"))
    for name in (".facerec-tmp-abc.png", "train/.facerec-tmp-xyz.png", ".lock"):
        (folder / name).write_bytes(b"half")
    with Manifest(folder):
        pass
    assert sorted(folder.rglob("*")) == before


def test_a_manifest_that_cannot_grow_is_an_artifact_error_and_keeps_its_lines(tmp_path):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    folder = filled(tmp_path / "out")
    before = list(read_manifest(folder))
    with pytest.raises(ArtifactError, match="No space left"), Manifest(folder) as manifest:
        manifest.records._file = Full()
        manifest.write(Record("raw/9.jpg", "sha", {}))
    assert list(read_manifest(folder)) == before


def test_records_are_added_behind_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "faces.manifest.jsonl"
    write_records(path, [Record("a", "0", {}), Record("b", "0", {})])
    path.write_bytes(path.read_bytes() + b'{"input": "c", "sha')
    append_records(path, iter([Record("b", "1", {}), Record("d", "0", {})]))
    assert mode(path) == "0o600"
    assert [(r.input, r.sha256) for r in read_manifest(tmp_path, path.name)] == [
        ("a", "0"), ("b", "0"), ("b", "1"), ("d", "0"),
    ]  # fmt: skip
    with Manifest(tmp_path, path.name) as manifest:
        assert manifest.records["b"].sha256 == "1" and len(manifest.records) == 3
        del manifest.records["a"]
        with pytest.raises(KeyError):
            del manifest.records["a"]
        with pytest.raises(KeyError):
            manifest.records["a"]
    assert [r.input for r in read_manifest(tmp_path, path.name)] == ["b", "d"]
    write_records(path, [])
    assert names(tmp_path) == []


def test_a_manifest_of_a_file_leaves_other_files_of_its_folder_alone(tmp_path):
    write_text(tmp_path / ".facerec-tmp-somebody's.npz", "being written")
    with Manifest(tmp_path, "faces.manifest.jsonl"):
        pass
    assert (tmp_path / ".facerec-tmp-somebody's.npz").exists()


# --- .npz ----------------------------------------------------------------------------------------

FACES = vectors({"Ana": 3, "Ünal 李": 2}, failures=(Failure("raw/x.jpg", "no face", "Ana", "test"),))


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def parts():
    header, arrays = artifacts.embeddings_parts(FACES)
    return {"kind": "embeddings", "format": artifacts.FORMAT, **header}, dict(arrays)


def write_raw(path, header, arrays):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    np.savez(path, header=np.frombuffer(text, np.uint8), **arrays)
    return path


def test_embeddings_survive_saving(tmp_path):
    save_embeddings(tmp_path / "e.npz", FACES)
    loaded = load_embeddings(tmp_path / "e.npz")
    for name in ("vectors", "labels", "sources", "splits", "digests"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(FACES, name))
    assert loaded.space == FACES.space and loaded.failures == FACES.failures


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8])
def test_pieces_are_those_of_the_whole_file_and_write_the_same_bytes(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(artifacts, "PIECE", 4)
    faces = vectors({"Ünal 李": 8}, failures=FACES.failures)[np.arange(rows)]
    save_embeddings(tmp_path / "e.npz", faces)
    pieces = list(embeddings_pieces(tmp_path / "e.npz"))
    assert [len(piece) for piece in pieces] == [min(4, rows - at) for at in range(0, max(rows, 1), 4)]
    assert all(piece.failures == faces.failures and piece.space == faces.space for piece in pieces)
    columns = {}
    for name in artifacts.EMBEDDINGS:
        array = getattr(faces, name)
        parts = [getattr(piece, name) for piece in pieces]
        assert np.array_equal(np.concatenate(parts), array, equal_nan=array.dtype.kind == "f")
        columns[name] = artifacts.Column(array.dtype, array.shape, parts)
    save_embeddings(tmp_path / "again.npz", faces[:0], columns)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "e.npz").read_bytes()
    header, arrays = artifacts.embeddings_parts(faces)
    text = json.dumps({"kind": "embeddings", **header, "format": artifacts.FORMAT}, sort_keys=True)
    np.savez(tmp_path / "numpy.npz", header=np.frombuffer(text.encode(), np.uint8), **arrays)
    assert (tmp_path / "numpy.npz").read_bytes() == (tmp_path / "e.npz").read_bytes()


def test_a_damaged_piece_is_an_artifact_error(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "PIECE", 2)
    path = tmp_path / "e.npz"
    save_embeddings(path, FACES)
    whole = path.read_bytes()
    at = whole.index(FACES.digests[-1].encode("utf-32-le"))
    path.write_bytes(whole[:at] + b"0" + whole[at + 1 :])
    with pytest.raises(ArtifactError, match=r"damaged.*facerec embed"):
        list(embeddings_pieces(path))


def test_same_content_gives_same_bytes(tmp_path, monkeypatch):
    save_embeddings(tmp_path / "a.npz", FACES)
    monkeypatch.setattr("time.time", lambda: 2e9)
    space = FACES.space.to_json()
    monkeypatch.setattr(Space, "to_json", lambda _: dict(reversed(space.items())))
    save_embeddings(tmp_path / "b.npz", FACES)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert stat.S_IMODE((tmp_path / "a.npz").stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["labels", "header", "extra"])
def test_pickles_are_refused_without_being_run(tmp_path, where):
    header, arrays = parts()
    arrays[where] = np.array([Bomb(tmp_path / "ran")] * len(FACES), object)
    if where != "header":
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(ArtifactError):
        load_embeddings(tmp_path / "e.npz")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_by_the_name_of_embeddings_is_refused_without_being_run(tmp_path):
    (tmp_path / "e.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ArtifactError, match="damaged or not a facerec file"):
        load_embeddings(tmp_path / "e.npz")
    assert not (tmp_path / "ran").exists()


def change(**changed):
    def edit(path):
        header, arrays = parts()
        arrays |= {k: v for k, v in changed.items() if k in arrays or k == "extra"}
        header |= {k: v for k, v in changed.items() if k not in arrays}
        for name in [k for k, v in changed.items() if v is None]:
            (arrays if name in arrays else header).pop(name)
        write_raw(path, header, arrays)

    return edit


def cut(path):
    path.write_bytes(path.read_bytes()[:-400])


def flip(path):
    data = bytearray(path.read_bytes())
    data[data.index(b"vectors.npy") + 400] ^= 255
    path.write_bytes(data)


def claim(shape):
    """An array whose header promises more than the file holds."""

    def edit(path):
        header, arrays = parts()
        write_raw(path, header, {k: v for k, v in arrays.items() if k != "vectors"})
        with zipfile.ZipFile(path, "a") as archive, archive.open("vectors.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})

    return edit


def bomb(path):
    header, arrays = parts()
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez_compressed(path, header=text, **{**arrays, "vectors": np.zeros((1_000_000, 16), np.float32)})


def raw_header(text):
    return lambda path: write_raw(path, text, parts()[1])


DAMAGES = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "text": (lambda path: path.write_text("a text"), "damaged"),
    "cut": (cut, "damaged"),
    "flipped": (flip, "damaged"),
    "zip-bomb": (bomb, "claims more data"),
    "huge-shape": (claim((10**13, 16)), ""),
    "large-shape": (claim((10, 16)), ""),
    "other-kind": (change(kind="classifier"), "not embeddings"),
    "format": (change(format=99), ""),
    "extra-array": (change(extra=np.zeros(3)), "holds 'extra'"),
    "no-labels": (change(labels=None), "damaged"),
    "few-labels": (change(labels=np.array(["too", "few"])), "damaged"),
    "number-labels": (change(labels=np.zeros(5)), "labels is float64"),
    "float64": (change(vectors=np.eye(5, dtype=np.float64)), "damaged"),
    "not-unit": (change(vectors=2 * np.eye(5, dtype=np.float32)), "damaged"),
    "no-space": (change(space=None), "damaged"),
    "short-space": (change(space={"model": "x"}), "damaged"),
    "text-space": (change(space="x"), "damaged"),
    "foreign-failure": (change(failures=[{"foreign": 1}]), "damaged"),
    "list-header": (raw_header(b"[]"), ""),
    "number-header": (raw_header(b"7"), ""),
    "not-json": (raw_header(b"{not json"), "damaged"),
    "not-utf8": (raw_header(b"\xff\xfe"), "damaged"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_is_not_right_is_an_artifact_error_with_its_cure(tmp_path, damage, message):
    path = tmp_path / "e.npz"
    save_embeddings(path, FACES)
    damage(path)
    with pytest.raises(ArtifactError, match=rf"e\.npz.*{message}.* — .*facerec embed"):
        load_embeddings(path)


def test_random_damage_never_raises_anything_but_artifact_errors(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "e.npz"
    save_embeddings(path, FACES)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(300):
        broken = whole.copy()
        broken[rng.integers(0, len(whole), 2)] = rng.integers(0, 256, 2)
        path.write_bytes(broken.tobytes())
        try:
            load_embeddings(path)
        except ArtifactError:
            refused += 1
    assert refused > 200


def test_a_manifest_keeps_its_lines_on_disk(tmp_path):
    long = "x" * 5000
    with Manifest(tmp_path / "out") as manifest:
        tracemalloc.start()
        for i in range(200):
            manifest.write(Record(f"raw/{i}.jpg", long, {}))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 200 * 100
        assert manifest.records["raw/7.jpg"].sha256 == long
    assert [r.input for r in read_manifest(tmp_path / "out")] == [f"raw/{i}.jpg" for i in range(200)]
