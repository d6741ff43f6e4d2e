"""Notes of a run on disk: right, private, and of the same size in memory for any number of photos."""

import stat
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import CROP, SPACE, FakeEmbedder, photo, save

from facerec.artifacts import load_embeddings
from facerec.errors import FacerecError
from facerec.manifests import Manifest, Record
from facerec.scratch import Names, Tables, packed, unpacked
from facerec.stages.detect import assign_splits, labelled_photos
from facerec.stages.embed import embed
from facerec.stages.process import process

NUMBERS = "CREATE TABLE numbers (n INTEGER, filler BLOB)"
TEXTS = ["", "a", "ü", "李", "\udcff", "😀", "a\udc80b", "raw_images/Ünal 李/1.jpg"]


def test_text_that_is_not_unicode_is_kept_and_in_order():
    assert [unpacked(packed(text)) for text in TEXTS] == TEXTS
    assert sorted(TEXTS, key=packed) == sorted(TEXTS)


def test_names_are_new_once():
    names = Names()
    assert [names.add(text) for text in TEXTS + TEXTS] == [True] * len(TEXTS) + [False] * len(TEXTS)
    assert all(text in names for text in TEXTS) and "b" not in names


def test_a_full_disk_says_where_to_make_room():
    tables = Tables(f"PRAGMA max_page_count = 20; {NUMBERS}")
    with pytest.raises(FacerecError, match=r"full.*TMPDIR"):
        for n in range(100):
            tables.execute("INSERT INTO numbers VALUES (?, ?)", n, bytes(4000))


def test_threads_take_turns():
    tables = Tables(NUMBERS)
    for n in range(2000):
        tables.execute("INSERT INTO numbers VALUES (?, ?)", n, b"old")

    def read():
        return [n for n, _ in tables.rows("SELECT n, filler FROM numbers WHERE filler = ? ORDER BY n", b"old")]

    def write():
        for n in range(2000):
            tables.execute("INSERT INTO numbers VALUES (?, ?)", n, b"new")

    with ThreadPoolExecutor(4) as pool:
        reads, writes = [pool.submit(read) for _ in range(4)], [pool.submit(write) for _ in range(4)]
        assert all(task.result() == list(range(2000)) for task in reads)
        assert not any(task.result() for task in writes)
    assert tables.value("SELECT count(*) FROM numbers WHERE filler = ?", b"new") == 8000


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_outgrows_the_cache_is_in_a_file_that_nobody_else_can_open():
    def opened():
        return {f.name: f.stat() for f in Path("/proc/self/fd").iterdir() if "etilqs" in str(f.resolve())}

    before = opened()
    tables = Tables(NUMBERS)
    for n in range(3000):
        tables.execute("INSERT INTO numbers VALUES (?, ?)", n, bytes(4000))
    (file,) = opened().keys() - before.keys()
    told = opened()[file]
    assert told.st_nlink == 0 and stat.S_IMODE(told.st_mode) == 0o600 and told.st_size > 10_000_000
    tables.close()
    assert opened().keys() == before.keys()


# --- memory --------------------------------------------------------------------------------------


def peak(run):
    """Most bytes of Python's memory that a run holds beside what there was before."""
    names = [sys.intern(f"a name {i}") for i in range(100_000)]  # pathlib's names: their table grows by leaps
    del names[50_000:]
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def files(folder, people, content=b"x"):
    for person in range(people):
        for i in range(10):
            path = folder / f"person_{person}" / f"photo_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def written(output, item):
    made = f"{item.split}/{item.label}/{item.name}.png"
    (output / made).parent.mkdir(parents=True, exist_ok=True)
    (output / made).touch()
    return [{"path": made, "box": [1.5, 2.5, 30.5, 40.5], "confidence": 0.99}]


def test_detect_holds_as_much_for_many_photos_as_for_few(tmp_path):
    def run(folder, number):
        items = (item for person in labelled_photos(folder) for item in assign_splits(*person, 0.3, "auto"))
        out = folder.parent / "out"
        report = process("detect", items, [folder], out, {}, partial(written, out))
        assert report.done + report.skipped == number and not report.failed

    run(files(tmp_path / "first" / "raw", 10), 100)
    few, many = files(tmp_path / "few" / "raw", 10), files(tmp_path / "many" / "raw", 200)
    for _ in range(2):  # the second finds everything done
        assert peak(partial(run, many, 2000)) < peak(partial(run, few, 100)) + 1900 * 100


def test_embed_holds_as_much_for_many_crops_as_for_few(tmp_path, monkeypatch):
    monkeypatch.setattr("facerec.stages.embed.PIECE", 50)
    monkeypatch.setattr("facerec.artifacts.PIECE", 50)
    crop = save(tmp_path / "crop.png", photo(1, [(200, 60, 60)])[:1, :1].repeat(160, 0).repeat(160, 1)).read_bytes()

    def cut(folder, people):
        files(folder / "train", people, crop)
        with Manifest(folder) as manifest:
            for path in folder.rglob("*.png"):
                name = path.relative_to(folder).as_posix()
                options = {"crop": vars(CROP), "detector": "fake"}
                manifest.write(Record(f"raw/{name}", "0", options, [{"path": name}], label="ana", split="train"))
        return folder

    def run(folder, number):
        report = embed(folder, folder.parent / "faces.npz", embedder=FakeEmbedder())
        assert report.done + report.skipped == number and not report.failed

    run(cut(tmp_path / "first" / "processed", 10), 100)
    few, many = cut(tmp_path / "few" / "processed", 10), cut(tmp_path / "many" / "processed", 100)
    for _ in range(2):  # the second finds everything done
        assert peak(partial(run, many, 1000)) < peak(partial(run, few, 100)) + 900 * 100
    e = load_embeddings(tmp_path / "many" / "faces.npz")
    assert len(e) == 1000 and e.space == SPACE and np.array_equal(e.sources, np.sort(e.sources))
