"""Folders in stores: the same crops and vectors as folders on disk, and errors that say what to do."""

import itertools
import pickle
import sys

import pytest
from conftest import COLOURS, CROP, FakeDetector, FakeEmbedder, numbered, photo, photos, save, video
from test_parallel import Mortal, dask, free_port, outputs  # noqa: F401 - a fixture

from facerec import manifests, stores
from facerec.artifacts import load_embeddings
from facerec.errors import UsageError
from facerec.images import find_images
from facerec.manifests import read_manifest
from facerec.stages import process as loop
from facerec.stages.detect import detect
from facerec.stages.embed import embed
from facerec.stages.extract import extract
from facerec.video import is_video

pytest.importorskip("upath")
_number = itertools.count()


@pytest.fixture
def memory():
    """An empty folder of this process's memory."""
    return stores.folder(f"memory://test{next(_number)}")


def upload(folder, top):
    for path in folder.rglob("*"):
        if path.is_file():
            stores.write(top / path.relative_to(folder).as_posix(), path.read_bytes())
    return top


def content(top):
    """Every output below a folder of a store with its bytes."""
    return {name: stores.read(top / name) for name in stores.names(top) if name != "manifest.jsonl"}


def on_disk(folder):
    return {name: (folder / name).read_bytes() for name in outputs(folder) if not name.startswith(".")}


def told(folder, top):
    """The manifest, its inputs relative to what they are below."""
    return [{**vars(r), "host": "", "input": r.input.split(f"{top}/", 1)[1]} for r in read_manifest(folder)]


def go(raw, out, detector=None, **options):
    return detect(raw, out, detector=detector or FakeDetector(), crop=CROP, min_face=20, min_confidence=None, **options)


# --- memory --------------------------------------------------------------------------------------


def test_extract_detect_and_embed_give_the_same_bytes_as_on_disk(in_tmp, memory):
    for k, name in enumerate(("ana", "ben")):
        frames = [photo(30 * k + i, [COLOURS[name]], 64) for i in range(30)]
        video(in_tmp / "videos" / f"{name}.mp4", frames)
    (in_tmp / "videos" / "cleo.mp4").write_bytes(b"no video")
    upload(in_tmp / "videos", memory / "videos")
    steps = []
    for top in (in_tmp, memory):
        extracted = extract([top / "videos"], top / "raw", count=12, jobs=2)
        detected = go(top / "raw", top / "processed", jobs=2)
        embedded = embed(top / "processed", in_tmp / f"{len(steps)}.npz", embedder=FakeEmbedder(), jobs=2)
        steps.append([(r.done, r.skipped, len(r.failed)) for r in (extracted, detected, embedded)])
    assert steps[0] == steps[1] and steps[0][0] == (2, 0, 1)
    for folder, inputs in (("raw", "videos"), ("processed", "raw")):
        assert on_disk(in_tmp / folder) == content(memory / folder) != {}
        assert told(in_tmp / folder, inputs) == told(memory / folder, inputs)
    assert {r.split for r in read_manifest(memory / "processed")} == {"train", "test", "gap"}
    here, there = (load_embeddings(in_tmp / f"{i}.npz") for i in (0, 1))
    assert (here.vectors == there.vectors).all() and (here.sources == there.sources).all()
    assert all(r.input.startswith("memory://") for r in read_manifest(memory / "raw"))


def test_from_disk_to_a_store_and_back(in_tmp, memory):
    raw = photos(in_tmp / "raw", {"ana": 3})
    go(raw, in_tmp / "here")
    go(raw, memory / "there")
    go(upload(raw, memory / "raw"), in_tmp / "back")
    assert on_disk(in_tmp / "here") == content(memory / "there") == on_disk(in_tmp / "back")
    assert go(raw, memory / "there").skipped == go(memory / "raw", in_tmp / "back").skipped == 3


def test_again_does_only_what_is_new_changed_or_lost(in_tmp, memory):
    raw, out = upload(photos(in_tmp / "raw", {"ana": 6, "ben": 4}), memory / "raw"), memory / "out"
    assert go(raw, out).done == 10
    detector = FakeDetector()
    report = go(raw, out, detector)
    assert (report.done, report.skipped, detector.calls) == (0, 10, 0)
    before = content(out)
    stores.write(raw / "ana" / "0.png", save(in_tmp / "new.png", photo(99, [COLOURS["cleo"]])).read_bytes())
    stores.remove(raw / "ben" / "3.png")
    lost = next(name for name in before if name.endswith("ana/5.png"))
    stores.remove(out / lost)
    report = go(raw, out)
    assert (report.done, report.skipped, report.removed) == (2, 7, 1)
    after = content(out)
    assert not [name for name in after if name.endswith("ben/3.png")]
    assert [name for name in before if before[name] != after.get(name)] != []
    go(raw, memory / "fresh")
    assert after == content(memory / "fresh")


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted_and_run_again_equals_undisturbed(in_tmp, memory, jobs):
    raw = upload(photos(in_tmp / "raw", {"ana": 6, "ben": 4}), memory / "raw")
    with pytest.raises(KeyboardInterrupt):
        go(raw, memory / "out", FakeDetector(interrupt_after=6), jobs=jobs)
    report = go(raw, memory / "out", jobs=jobs)
    assert report.done + report.skipped == 10 and (report.skipped == 6 if jobs == 1 else report.skipped <= 6)
    go(raw, memory / "fresh")
    assert content(memory / "out") == content(memory / "fresh")


def test_a_run_that_is_killed_repeats_what_was_not_saved(in_tmp, memory, monkeypatch):
    raw = upload(photos(in_tmp / "raw", {"ana": 6}), memory / "raw")
    monkeypatch.setattr(manifests, "SAVE", 0)
    monkeypatch.setattr(manifests, "REST", 0)
    monkeypatch.setattr(manifests.StoreManifest, "__exit__", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        go(raw, memory / "out", FakeDetector(interrupt_after=4))
    monkeypatch.undo()
    assert go(raw, memory / "out").skipped == 4


def test_a_video_that_is_given_up_leaves_no_frames_and_no_copy(in_tmp, memory, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(in_tmp / "temporary"))
    (in_tmp / "temporary").mkdir()
    film = video(in_tmp / "ana.mp4", [numbered(i) for i in range(30)])
    stores.write(memory / "ana.mp4", film.read_bytes())
    written = []

    def interrupted(path, image):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)

    monkeypatch.setattr("facerec.stages.extract.write_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract([memory / "ana.mp4"], memory / "raw", count=5)
    assert content(memory / "raw") == {} and not list((in_tmp / "temporary").iterdir())


def test_hidden_files_are_passed_over_and_the_order_is_natural(memory):
    for name in ("ana/10.png", "ana/9.png", ".hidden/1.png", "ana/.1.png", "ana/notes.txt", "ben/a b#?ü.png"):
        stores.write(memory / name, b"x")
    found = [path.relative_to(memory).as_posix() for path in find_images(memory)]
    assert found == ["ana/9.png", "ana/10.png", "ben/a b#?ü.png"]
    assert pickle.loads(pickle.dumps(memory / "ana")) == memory / "ana"
    assert is_video(memory / "film.MP4")


def test_folders_in_one_another_are_refused(in_tmp, memory):
    upload(photos(in_tmp / "raw", {"ana": 1}), memory)
    with pytest.raises(UsageError, match="lie in one another"):
        go(memory, memory / "out")


def test_memory_stays_in_this_process(in_tmp, memory, monkeypatch):
    raw = upload(photos(in_tmp / "raw", {"ana": 4}), memory / "raw")
    for stage in (
        lambda: go(raw, memory / "out", cluster="dask://127.0.0.1:1"),
        lambda: go(in_tmp / "raw", memory / "out", cluster="dask://127.0.0.1:1"),
        lambda: embed(raw, in_tmp / "x.npz", embedder=FakeEmbedder(), cluster="dask://127.0.0.1:1"),
    ):
        with pytest.raises(UsageError, match="this process only — leave out --cluster"):
            stage()
    monkeypatch.setattr(loop, "PROCESSES", 2)
    assert go(raw, memory / "out", jobs=2).done == 4


def test_the_command_line_takes_urls(in_tmp, memory, fakes, run):
    upload(photos(in_tmp / "raw", {"ana": 4, "ben": 3, "cleo": 2, "dora": 2}), memory / "raw")
    answer = run("detect", memory / "raw", "--output", memory / "out")
    assert answer.code == 0 and f"11 done → {memory}/out" in answer.out
    assert run("embed", memory / "out", "--output", "faces.npz").code == 0
    assert len(load_embeddings(in_tmp / "faces.npz").labels) == 11
    assert run("detect", memory / "raw" / "ana" / "0.png").out.startswith("memory://")
    assert run("evaluate", "pairs", memory / "raw", "--json").code == 0


# --- errors --------------------------------------------------------------------------------------


def test_a_package_that_is_missing_is_named(run, monkeypatch):
    answer = run("detect", "dropbox://folder")
    assert answer.code == 2 and "dropbox" in answer.err and "needs a package" in answer.err
    monkeypatch.setitem(sys.modules, "upath", None)
    answer = run("detect", "s3://bucket/raw")
    assert answer.code == 2 and "pip install 'facerec[remote]'" in answer.err


def test_a_protocol_that_nobody_knows_is_refused(run):
    answer = run("extract", "nothing://bucket/videos")
    assert answer.code == 2 and "no URL that fsspec knows" in answer.err


def test_a_password_in_a_url_is_refused(run):
    answer = run("extract", "ftp://ana:secret@host/videos")
    assert answer.code == 2 and "would be written down" in answer.err


def test_a_disk_is_a_disk():
    assert not stores.in_store(stores.folder("raw_images")) and not stores.in_store(stores.folder("file:///tmp/a"))


def test_a_store_that_is_empty_is_an_error_with_a_cure(memory, run):
    for words in (("detect", memory / "raw"), ("embed", memory / "processed"), ("extract", memory / "videos")):
        answer = run(*words)
        assert answer.code in (1, 2) and str(memory) in answer.err and "Traceback" not in answer.err


# --- S3 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3():
    """A server of S3's protocol with an empty bucket, and the environment that points at it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port := free_port(), verbose=False)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield stores.folder("s3://bucket")
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_from_s3_to_s3_by_processes(s3, in_tmp, monkeypatch):
    monkeypatch.setattr(loop, "PROCESSES", 4)
    raw = photos(in_tmp / "raw", {"ana": 8, "ben": 8})
    upload(raw, s3 / "raw")
    go(raw, in_tmp / "here")
    report = go(s3 / "raw", s3 / "by_processes", Mortal(), jobs=2)
    assert (report.done, report.failed) == (16, [])
    assert on_disk(in_tmp / "here") == content(s3 / "by_processes")
    again = go(s3 / "raw", s3 / "by_processes", Mortal(), jobs=2)
    assert (again.done, again.skipped) == (0, 16)


def test_from_s3_to_s3_on_dask(s3, dask, in_tmp):  # noqa: F811
    raw = photos(in_tmp / "raw", {"ana": 20, "ben": 20})
    video(in_tmp / "videos" / "cleo.mp4", [numbered(i) for i in range(30)])
    upload(raw, s3 / "raw")
    upload(in_tmp / "videos", s3 / "videos")
    go(raw, in_tmp / "here")
    extract([in_tmp / "videos"], in_tmp / "frames")
    go(s3 / "raw", s3 / "on_dask", Mortal(), cluster=dask.url)
    extract([s3 / "videos"], s3 / "frames", cluster=dask.url)
    assert on_disk(in_tmp / "here") == content(s3 / "on_dask")
    assert on_disk(in_tmp / "frames") == content(s3 / "frames") != {}
    assert told(in_tmp / "here", "raw") == told(s3 / "on_dask", "raw")
    assert all("/" in record.host for record in read_manifest(s3 / "on_dask"))


def test_a_bucket_that_is_not_there_is_an_error_with_a_cure(s3, in_tmp, fakes, run):
    photos(in_tmp / "raw", {"ana": 1})
    for words in (("s3://nowhere/raw",), ("raw", "--output", "s3://nowhere/out")):
        answer = run("detect", *words)
        assert answer.code == 1 and "s3://nowhere/" in answer.err and "credentials" in answer.err
        assert "Traceback" not in answer.err


@pytest.mark.parametrize("error", [RuntimeError("no\nanswer"), PermissionError("no answer")])
def test_a_store_that_does_not_answer_or_forbids_is_an_error_with_a_cure(
    memory, in_tmp, fakes, run, error, monkeypatch
):
    def silent(*_, **__):
        raise error

    photos(in_tmp / "raw", {"ana": 1})
    for name in ("info", "find", "pipe_file"):
        monkeypatch.setattr(type(memory.fs), name, silent)
    words = [("detect", memory), ("extract", memory), ("embed", memory), ("evaluate", "pairs", memory)]
    for some in (*words, ("detect", "raw", "--output", memory)):
        answer = run(*some)
        assert answer.code == 1 and str(memory) in answer.err
        assert "no answer" in answer.err and "check the URL, the credentials" in answer.err


def test_a_photo_that_is_forbidden_is_an_error_of_its_own(memory, in_tmp, monkeypatch):
    raw = upload(photos(in_tmp / "raw", {"ana": 3}), memory / "raw")
    real = type(memory.fs).get_file

    def forbidding(fs, name, *more, **options):
        if name.endswith("1.png"):
            raise PermissionError("Forbidden")
        real(fs, name, *more, **options)

    monkeypatch.setattr(type(memory.fs), "get_file", forbidding)
    report = go(raw, memory / "out")
    assert report.done == 2 and [f.reason for f in report.failed] == ["cannot be read (Forbidden)"]
    monkeypatch.undo()
    assert go(raw, memory / "out").done == 1
