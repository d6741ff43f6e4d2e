"""rename and forget: a person in every file of a project, and nothing left behind."""

import json
import os
import shutil
import threading
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, FakeEmbedder, face, photo, photos, save, tree, use_fakes, vectors, video

from facerec import cli
from facerec.artifacts import load_embeddings, save_embeddings
from facerec.galleries.file import locked
from facerec.galleries.people import swapped
from facerec.images import find_files, find_images
from facerec.manifests import Manifest, read_manifest
from facerec.paths import GALLERY
from facerec.stages.embed import embed
from facerec.stages.project import Project, mentions
from facerec.types import Gate
from facerec.video import is_video

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five stages, reports and a gallery, of people called ana, ben, cleo and dora."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        use_fakes(patch)
        photos(Path("raw_images"), {"ana": 5, "ben": 5, "cleo": 4, "dora": 4})
        for words in (
            ["detect"], ["embed"], ["train", "--svm", "--threshold", "0.5"], ["train", "--nearest"], ["show"],
            ["enroll", "ana", face("ana", 9)], ["enroll", "ben", face("ben", 9)], ["explain", face("ana", 4)],
            ["evaluate", "classifier", "--classifier", "classifiers/svm.npz"], ["evaluate", "pairs", "raw_images"],
        ):  # fmt: skip
            assert cli.main([str(word) for word in words]) in (0, 3), words
        shutil.rmtree("in")
        yield Path.cwd()


@pytest.fixture
def project(made, in_tmp, fakes):
    """A copy of it."""
    shutil.copytree(made, in_tmp, dirs_exist_ok=True)


def traces(name):
    """Where a name is still found: paths, bytes, and every array looked into."""
    found = []
    for path in Path().rglob("*"):
        if name in str(path):
            found.append(str(path))
        if not path.is_file():
            continue
        data = path.read_bytes()
        if name.encode() in data or name.encode("utf-32-le") in data:
            found.append(f"in {path}")
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                texts = (
                    " ".join(map(str, arrays[key].ravel().tolist())) for key in arrays if arrays[key].dtype.kind == "U"
                )
                found += [f"array of {path}" for text in texts if name in text]
    return found


def test_forgetting_leaves_no_trace(run, project):
    crops = {p.read_bytes() for p in Path().rglob("*.png") if "ana" in p.parts}
    assert traces("ana") and crops
    answer = run("forget", "ana", "--yes", "--json")
    erased = json.loads(answer.out)
    assert answer.code == 0 and erased["left"] == [] and len(erased["erased"]) >= 8
    assert traces("ana") == []
    assert not crops & {p.read_bytes() for p in Path().rglob("*.png")}
    assert [p["name"] for p in json.loads(run("people", "--json").out)] == ["ben"]
    for file in ("classifiers/svm.npz", "classifiers/nearest.npz"):
        named = json.loads(run("predict", face("ana", 3), "--classifier", file, "--json").out)["faces"][0]
        assert named["name"] is None and {n["name"] for n in named["nearest"]} == {"ben", "cleo", "dora"}
        named = json.loads(run("predict", face("ben", 3), "--classifier", file, "--json").out)["faces"][0]
        assert named["name"] == "ben"
    shutil.rmtree("in")
    shutil.rmtree("raw_images/dora")
    for words in (["detect"], ["embed"], ["train", "--svm"]):
        assert run(*words).code in (0, 3)
    assert traces("ana") == []


@pytest.mark.parametrize("name", ["..", "OUTSIDE", "a/../../other"])
def test_a_label_that_is_a_path_leads_nowhere(run, project, tmp_path_factory, name):
    """Such a label can stand in a file that somebody else made."""
    outside = tmp_path_factory.mktemp("other")
    (outside / "precious.txt").write_text("x")
    name = str(outside) if name == "OUTSIDE" else name
    save_embeddings(Path("embeddings/foreign.npz"), vectors({name: 2, "somebody": 2}))
    before = {p for p in Path().rglob("*") if p.is_file()}
    assert run("forget", name, "--yes", "--gallery", "embeddings/foreign.npz").code in (0, 3)
    assert (outside / "precious.txt").exists()
    assert {p for p in Path().rglob("*") if p.is_file()} >= {p for p in before if "raw_images" in p.parts}


def test_nobody_is_half_forgotten_while_a_stage_is_at_work(run, project):
    before = tree(Path())
    with Manifest(Path("processed")):
        refused = run("forget", "ana", "--yes")
    assert refused.code == 1 and "another facerec is working on processed" in refused.err
    assert tree(Path()) == before
    assert run("rename", "ana", "anna").code == 0


def test_nobody_is_half_forgotten_while_vectors_are_written(run, project, monkeypatch, caplog):
    monkeypatch.setattr("facerec.galleries.file.WAIT", 0.1)
    before = tree(Path())
    with locked(Path("embeddings/faces.npz")):
        refused = run("forget", "ana", "--yes")
    assert refused.code == 1 and "another facerec has been writing" in refused.err
    assert "is writing embeddings/faces.npz: waiting for it" in caplog.text
    assert tree(Path()) == before


def test_who_is_being_embedded_is_forgotten_when_that_is_done(run, project, monkeypatch):
    """Also where the file is not there yet: the lock is."""
    Path("embeddings/faces.npz").unlink()
    embedding, waiting = threading.Event(), threading.Event()

    class Slow(FakeEmbedder):
        def embed(self, crops):
            embedding.set()
            waiting.wait(10)
            return super().embed(crops)

    thread = threading.Thread(
        target=embed, args=(Path("processed"), Path("embeddings/faces.npz")), kwargs={"embedder": Slow()}
    )
    thread.start()
    embedding.wait(10)
    threading.Timer(0.5, waiting.set).start()
    assert run("forget", "ana", "--yes").code == 0
    thread.join()
    assert "ana" not in load_embeddings(Path("embeddings/faces.npz")).people and traces("ana") == []


def test_videos_that_no_stage_has_seen_are_a_persons_too(run, project):
    for path in ("videos/ana/party.mp4", "videos/ana.mov", "videos/ben.mp4"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"film")
    assert run("rename", "ana", "anna").code == 0
    assert sorted(map(str, find_files(Path("videos"), is_video))) == [
        "videos/anna.mov", "videos/anna/party.mp4", "videos/ben.mp4",
    ]  # fmt: skip
    assert run("forget", "anna", "--yes").code == 0
    assert list(map(str, find_files(Path("videos"), is_video))) == ["videos/ben.mp4"]


def test_crops_of_a_run_that_was_killed_are_forgotten(run, project):
    """It had noted nothing of its last photos."""
    path = Path("processed/manifest.jsonl")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "/ana/" not in line))
    assert run("forget", "ana", "--yes").code == 0 and traces("ana") == []


def test_forgetting_asks_first_and_names_what_it_did_not_make(run, project, monkeypatch):
    Path("notes.txt").write_text("ana comes on Monday; bananas")
    before = tree(Path())
    assert "gallery.npz, the newest; a classifier's with --classifier" in run("predict", face("ben", 2)).err
    shutil.rmtree("in")
    answer = run("forget", "ana")
    assert answer.code == 2 and "--yes" in answer.err and tree(Path()) == before
    answer = run("forget", "ana", "--yes")
    assert answer.code == 3 and "notes.txt" in answer.err and Path("notes.txt").exists()
    assert run("forget", "nobody", "--yes").code == 1


def test_forgetting_down_to_one_person_removes_what_cannot_be_trained(run, project):
    for name in ("ana", "ben", "cleo"):
        assert run("forget", name, "--yes").code == 0
    assert not Path("classifiers/svm.npz").exists() and Path("classifiers/nearest.npz").exists()


def test_renaming_reaches_every_file_and_the_stages_go_on_from_there(run, project):
    assert run("rename", "ana", "ben").code == 2
    assert run("rename", "ana", "../x").code == 2
    assert run("rename", "nobody", "x").code == 1
    assert run("rename", "ana", "a\x1b[31m").code == 2 and "too long" in run("rename", "ana", "李" * 90).err
    answer = run("rename", "ana", "Ünal 李", "--json")
    assert answer.code == 0 and json.loads(answer.out)["changed"]
    left = [t for t in traces("ana") if "evaluation" not in t]
    assert left == []
    rows = load_embeddings(Path("embeddings/faces.npz"))
    assert (rows.labels == "Ünal 李").sum() == 5 and all((Path("processed") / s).is_file() for s in rows.sources)
    assert load_embeddings(GALLERY).people == ["ben", "Ünal 李"]
    for file in ("classifiers/svm.npz", "classifiers/nearest.npz"):
        named = json.loads(run("predict", face("ana", 3), "--classifier", file, "--json").out)["faces"][0]
        assert named["name"] == "Ünal 李"
    assert json.loads(run("embed", "--json").out)["done"] == 0
    assert run("detect").code == 0 and run("embed").code == 0
    assert len(load_embeddings(Path("embeddings/faces.npz"))) == 18


def test_two_names_of_one_person_are_put_together(run, project):
    assert run("rename", "ana", "ben", "--merge").code == 0
    assert [t for t in traces("ana") if "evaluation" not in t] == []
    rows = load_embeddings(Path("embeddings/faces.npz"))
    assert (rows.labels == "ben").sum() == 10 and all((Path("processed") / s).is_file() for s in rows.sources)
    assert len(find_images(Path("raw_images/ben"))) == 10
    assert load_embeddings(GALLERY).people == ["ben"]


def test_forgetting_takes_only_sheets_of_our_own(run, project):
    """A photo may be called like one, and a folder like theirs."""
    mine = [
        Path("raw_images/ben/contact_sheet_2019.png"),
        Path("raw_images/ben/explained/a.png"),
        Path("explained/mine/a.png"),
        Path("explained/a.jpg"),
        Path("holiday/contact_sheet.png"),
    ]
    for path in mine:
        save(path, photo(1, [COLOURS["ben"]]))
    assert run("forget", "ana", "--yes").code == 0
    assert all(path.exists() for path in mine) and not Path("contact_sheets/raw.png").exists()


@pytest.fixture
def linked(project, tmp_path_factory):
    """Ana's photos lie elsewhere: their folder here is a link."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "hers"
    shutil.move("raw_images/ana", elsewhere)
    Path("raw_images/ana").symlink_to(elsewhere)
    return elsewhere


def test_what_may_still_show_a_person_is_said(run, project):
    assert "snapshots/" not in run("forget", "ana", "--yes").err
    save(Path("snapshots/1.jpg"), photo(1))
    assert "facerec live in snapshots/ may still show ben" in run("forget", "ben", "--yes").err


def test_a_linked_folder_is_renamed_and_its_photos_stay_where_they_are(run, linked):
    before = tree(linked)
    assert run("rename", "ana", "eva").code == 0
    assert Path("raw_images/eva").is_symlink() and tree(linked) == before
    assert json.loads(run("detect", "--json").out)["failed"] == []
    assert run("embed").code == 0 and "eva" in load_embeddings(Path("embeddings/faces.npz")).people
    assert run("rename", "eva", "ben", "--merge").code == 0
    assert len(find_images(Path("raw_images/ben"))) == 10 and not Path("raw_images/eva").exists()


def test_a_name_is_the_same_in_every_spelling(run, fakes):
    """macOS writes ë as two characters in the names of folders, a keyboard as one."""
    one, two = (unicodedata.normalize(form, "Zo\u00eb") for form in ("NFC", "NFD"))
    photos(Path("raw_images"), {"ana": 3, "ben": 3})
    Path("raw_images/ana").rename(Path("raw_images") / two)
    for words in (["detect"], ["embed"]):
        assert run(*words).code == 0
    assert run("enroll", one, face("ana", 9)).code == 0
    shutil.rmtree("in")
    assert run("rename", one, "ana").code == 0
    assert set(load_embeddings(Path("embeddings/faces.npz")).people) == {"ana", "ben"}
    assert run("rename", "ana", two).code == 0 and run("forget", one, "--yes").code == 0
    assert traces(one) == traces(two) == [] and run("forget", one, "--yes").code == 1


def test_two_spellings_of_a_name_are_one_person(run, fakes):
    one, two = (unicodedata.normalize(form, "Zo\u00eb") for form in ("NFC", "NFD"))
    photos(Path("raw_images"), {"ana": 4, "ben": 4})
    for name, colour in ((one, "ana"), (two, "ben")):  # of one person, whatever they look like
        Path("raw_images", colour).rename(Path("raw_images") / name)
    photos(Path("raw_images"), {"cleo": 4})
    assert run("detect").code == 0 and run("embed").code == 0
    rows = load_embeddings(Path("embeddings/faces.npz"))
    assert rows.people == [one, "cleo"] and (rows.labels == one).sum() == 8
    for name in (one, two):
        assert run("enroll", name, face("ana", 9), "--force").code == 0
        assert run("blur", face("ana", 4), "--except", name, "--gallery", GALLERY, "--threshold", "0.5").code == 0
    assert load_embeddings(GALLERY).people == [one]
    assert run("rename", "cleo", two, "--merge").code == 0
    assert load_embeddings(Path("embeddings/faces.npz")).people == [one]


def test_forgetting_says_where_linked_photos_remain(run, linked):
    answer = run("forget", "ana", "--yes", "--json")
    assert answer.code == 3 and str(linked) in json.loads(answer.out)["left"]
    assert len(find_images(linked)) == 5 and not Path("raw_images/ana").exists()


@pytest.fixture
def moved_out(project, tmp_path_factory):
    """The project's folders lie on another disk: those here are links."""
    elsewhere = tmp_path_factory.mktemp("disk")
    for folder in ("raw_images", "processed", "embeddings", "classifiers", "evaluation"):
        shutil.move(folder, elsewhere / folder)
        Path(folder).symlink_to(elsewhere / folder)
    (elsewhere / "unrelated").mkdir()
    shutil.copy(elsewhere / "embeddings/faces.npz", elsewhere / "unrelated/faces.npz")
    Path("disk").symlink_to(elsewhere)  # the whole of it is not the project's
    Path("me").symlink_to("me")
    Path("up").symlink_to(Path().resolve().parent)
    return elsewhere


def test_folders_that_are_links_are_looked_into_and_the_users_own_photos_there_stay(run, moved_out):
    unrelated = tree(moved_out / "unrelated")
    assert run("rename", "ana", "eva").code == 0
    assert not {"ana"} & {*load_embeddings(Path("embeddings/faces.npz")).people, *load_embeddings(GALLERY).people}
    assert "ana" not in {r.label for r in read_manifest(Path("processed"))}
    originals = len(find_images(moved_out / "raw_images/eva"))
    answer = run("forget", "eva", "--yes", "--json")
    left = json.loads(answer.out)["left"]
    assert answer.code == 3 and originals and left == [str(moved_out / "raw_images/eva")]
    assert len(find_images(moved_out / "raw_images/eva")) == originals
    assert not {"eva"} & {*load_embeddings(Path("embeddings/faces.npz")).people, *load_embeddings(GALLERY).people}
    assert not (moved_out / "processed/train/eva").exists() and tree(moved_out / "unrelated") == unrelated


def test_videos_behind_a_link_stay_and_are_told(run, fakes, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    for name in ("ana", "ben"):
        video(elsewhere / f"{name}.mp4", [photo(i, [COLOURS[name]]) for i in range(4)])
    Path("videos").symlink_to(elsewhere)
    assert run("extract", "videos", "--count", "3").code == 0
    renamed = run("rename", "ben", "eva")
    assert renamed.code == 0 and "videos/ben.mp4 stays where it is" in renamed.out
    answer = run("forget", "ana", "--yes", "--json")
    assert answer.code == 3 and str(elsewhere / "ana.mp4") in json.loads(answer.out)["left"]
    assert sorted(p.name for p in elsewhere.iterdir()) == ["ana.mp4", "ben.mp4"]


def test_a_video_outside_the_project_stays_and_is_told(run, fakes, tmp_path_factory):
    film = tmp_path_factory.mktemp("films") / "ana.mp4"
    video(film, [photo(i, [COLOURS["ana"]]) for i in range(4)])
    assert run("extract", str(film), "--count", "3").code == 0
    answer = run("forget", "ana", "--yes", "--json")
    assert answer.code == 3 and json.loads(answer.out)["left"] == [str(film)]
    assert film.exists() and not find_images(Path("raw_images"))


def test_what_cannot_be_read_is_told_and_nothing_is_renamed_beside_it(run, project, monkeypatch):
    shut = ("embeddings/faces.npz", "classifiers/svm.npz")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not str(path).endswith(shut))
    before = tree(Path())
    refused = run("rename", "ana", "eva")
    assert refused.code == 1 and "cannot be read: ana may be in it — make it readable" in refused.err
    assert tree(Path()) == before
    answer = run("forget", "ana", "--yes", "--json")
    assert answer.code == 3
    assert sorted(json.loads(answer.out)["left"]) == sorted(f"{path} (cannot be read)" for path in shut)


def test_a_rename_that_could_not_be_finished_is_not_begun(run, project, monkeypatch):
    real = os.access
    shut = ("raw_images/ana", "raw_images")
    monkeypatch.setattr(
        os, "access", lambda path, mode: real(path, mode) and not (mode & os.W_OK and str(path).endswith(shut))
    )
    before = tree(Path())
    refused = run("rename", "ana", "eva")
    assert refused.code == 1 and "raw_images" in refused.err and "cannot be written" in refused.err
    assert tree(Path()) == before


def test_a_link_to_nothing_is_renamed_with_the_others(run, project):
    Path("raw_images/ana/gone.jpg").symlink_to("/nowhere/gone.jpg")
    assert run("rename", "ana", "eva").code == 0
    assert Path("raw_images/eva/gone.jpg").is_symlink() and not Path("raw_images/ana").exists()


def test_a_name_that_is_no_unicode_is_forgotten(run, fakes):
    """A folder from an old archive."""
    name = os.fsdecode(b"J\xf6rg")
    photos(Path("raw_images"), {"ana": 3, "ben": 3})
    Path("raw_images/ana").rename(Path("raw_images") / name)
    for words in (["detect"], ["embed"], ["train", "--svm", "--threshold", "0.5"]):
        assert run(*words).code == 0
    answer = run("forget", name, "--yes", "--json")
    assert answer.code == 0 and json.loads(answer.out)["left"] == []
    assert load_embeddings(Path("embeddings/faces.npz")).people == ["ben"] and not Path("classifiers/svm.npz").exists()


def test_a_name_that_is_part_of_anothers_is_not_left(run, fakes):
    for name, colour in (("Ana", "ana"), ("Anabel", "ben"), ("Ana Maria", "cleo")):
        assert run("enroll", name, face(colour)).code == 0
    answer = run("forget", "Ana", "--yes", "--json")
    assert answer.code == 0, answer.out
    assert load_embeddings(GALLERY).people == ["Ana Maria", "Anabel"]


def test_a_link_inside_the_project_leads_to_the_new_name(run, fakes):
    photos(Path("raw_images/test"), {"ana": 3, "ben": 3})
    Path("raw_images/train").mkdir()
    for name in ("ana", "ben"):
        Path("raw_images/train", name).symlink_to(f"../test/{name}")
    assert run("detect").code == 0 and run("rename", "ana", "eva").code == 0
    assert len(find_images(Path("raw_images/train/eva"))) == 3 and not Path("raw_images/train/ana").is_symlink()


def test_nobody_is_called_by_nothing(run, project):
    before = tree(Path())
    assert run("forget", "", "--yes").code == run("rename", "", "eva").code == 2
    assert tree(Path()) == before


def test_a_gallery_behind_a_link_is_written_where_it_lies(run, project, tmp_path_factory):
    shared = tmp_path_factory.mktemp("shared") / "gallery.npz"
    shutil.move(GALLERY, shared)
    GALLERY.symlink_to(shared)
    assert run("forget", "ana", "--yes").code in (0, 3)
    assert GALLERY.is_symlink() and load_embeddings(shared).people == ["ben"]
    shutil.rmtree(shared.parent)
    assert "which is not there" in run("enroll", "eva", face("cleo")).err and not shared.parent.exists()


def test_what_is_erased_with_the_last_but_one_is_said(run, fakes):
    photos(Path("raw_images"), {"ana": 3, "ben": 3})
    for words in (["detect"], ["embed"], ["train", "--svm", "--threshold", "0.5"]):
        assert run(*words).code == 0
    erased = json.loads(run("forget", "ana", "--yes", "--json").out)["erased"]
    assert any("svm.npz: the whole file" in line for line in erased)


def test_clusters_in_another_folder_are_found(run, fakes):
    for i in range(3):
        save(Path(f"found/{i}.png"), photo(i, [COLOURS["ana"]]))
    assert run("cluster", "found", "--output", "who").code == 0
    assert run("forget", "person_001", "--yes").code == 1  # in every folder somebody else
    assert run("cluster", "--output", "who", "--rename", "person_001", "ana").code == 0
    assert run("rename", "ana", "eva").code == 0 and Path("who/eva").is_dir()
    Path("copy").mkdir()
    shutil.copy("who/clusters.json", "copy")  # without the vectors, which are hidden: not one of ours any more
    answer = run("forget", "eva", "--yes")
    assert answer.code == 3 and "copy/clusters.json" in answer.err
    assert not Path("who/eva").exists() and not Path("who/contact_sheet.png").exists()


@pytest.mark.parametrize(
    ("source", "old", "expected"),
    [
        ("train/ana/1.png", "ana", "train/eva/1.png"),
        ("train/ana/ana/1.png", "ana", "train/eva/ana/1.png"),
        ("test/test/1.png", "test", "test/eva/1.png"),
        ("test/1.png", "test", "eva/1.png"),
        ("train/ben/ana.png", "ana", "train/ben/ana.png"),
    ],
)
def test_only_a_persons_own_folder_is_renamed(source, old, expected):
    assert swapped(source, old, "eva") == expected


def test_what_is_left_of_two_people_put_together_is_no_classifier(run, fakes):
    photos(Path("raw_images"), {"ana": 3, "ben": 3})
    for words in (["detect"], ["embed"], ["train", "--svm", "--threshold", "0.5"]):
        assert run(*words).code == 0
    assert run("rename", "ana", "ben", "--merge").code == 0
    assert traces("ana") == [] and not Path("classifiers/svm.npz").exists()


def test_a_clusters_name_is_changed_too(run, fakes):
    for name in ("ana", "ben"):
        for i in range(3):
            save(Path(f"found/{ord(name[0])}-{i}.png"), photo(i, [COLOURS[name]]))
    assert run("cluster", "found").code == 0
    assert run("cluster", "--rename", "person_001", "ana").code == 0
    assert run("cluster", "--rename", "person_002", "ana lou").code == 0
    assert run("rename", "ana", "ben").code == 0
    assert {p.name for p in Path("clusters").iterdir() if p.is_dir()} >= {"ben", "ana lou"}
    assert run("rename", "ben", "ana lou").code == 2
    assert run("forget", "ben", "--yes").code in (0, 3)
    assert [e["edit"] for e in json.loads(Path("clusters/clusters.json").read_text())["edits"]][-1].endswith("ana lou")


@pytest.mark.parametrize("words", [("forget", "ana", "--yes"), ("rename", "ana", "eva")])
def test_erasing_and_renaming_do_not_change_which_file_names_people(run, project, words):
    assert run("train", "--svm", "--threshold", "0.5").code == 0

    def newest():
        return next(line for line in run("predict", face("ben", 2)).err.splitlines() if "the newest" in line)

    before = newest()
    assert "svm.npz" in before and run(*words).code in (0, 3) and newest() == before


def test_enrolling_says_when_it_takes_over_from_a_classifier(run, project):
    assert "from now on" not in run("enroll", "eva", face("cleo")).err
    assert run("train", "--nearest", "--threshold", "0.5").code == 0
    assert "not from classifiers/nearest.npz" in run("enroll", "eva", face("cleo", 1)).err


def test_a_folder_of_many_people_is_nobodys(run, fakes):
    for side in ("train", "test"):
        photos(Path("raw_images") / side, {"ana": 3, "ben": 3})
    before = tree(Path("raw_images"))
    save_embeddings(GALLERY, vectors({"train": 2, "cleo": 2}))  # a file that somebody else made
    assert run("forget", "train", "--yes").code in (0, 3)
    assert tree(Path("raw_images")) == before


def test_a_vote_of_photos_is_for_galleries(run, project):
    answer = run("predict", face("ben", 2), "--classifier", "classifiers/svm.npz", "--by", "knn")
    assert answer.code == 2 and "--by is for galleries" in answer.err


def test_a_short_name_in_a_pictures_bytes_is_no_trace(run, project):
    data = next(Path("processed/train/ben").glob("*.png")).read_bytes()
    Path("other.png").write_bytes(data + b" ana ")
    assert json.loads(run("forget", "ana", "--yes", "--json").out)["left"] == []


def test_a_short_name_in_the_bytes_of_vectors_is_no_trace_and_what_killed_runs_left_goes(run, project):
    rows, file = vectors({"zoe": 1}), Path("embeddings/other.npz")
    rows.vectors[0, :15] = np.frombuffer(b"Bo\x7f\x3e", np.float32)
    rows.vectors[0, 15] = np.sqrt(1 - (rows.vectors[0, :15] ** 2).sum())
    save_embeddings(file, rows)
    assert b"Bo" in file.read_bytes() and not mentions(file, "Bo") and mentions(file, "zoe")
    left = Path("embeddings/.facerec-tmp-1.npz")
    shutil.copy(GALLERY, left)
    recording = Path("snapshots/.facerec-tmp-2.mp4")  # of a `live` that runs
    recording.parent.mkdir()
    recording.touch()
    frames = save(Path("processed/.facerec-tmp-0123/eva.jpg"), photo(1))
    answer = run("forget", "ana", "--yes", "--json")
    assert json.loads(answer.out)["left"] == [] and recording.exists()
    assert not left.exists() and not frames.parent.exists()


def test_a_rename_that_was_interrupted_goes_on_and_finds_the_crops(run, project):
    gallery = load_embeddings(GALLERY)
    source = Path("embeddings") / str(gallery.sources[gallery.labels == "ana"][0])
    target = Path(str(source).replace("/ana/", "/zed/"))
    target.parent.mkdir()
    source.rename(target)  # as far as it got
    assert run("rename", "ana", "zed", "--merge").code == 0
    rows = load_embeddings(GALLERY)
    assert all((Path("embeddings") / s).is_file() for s in rows.sources[rows.labels == "zed"].tolist())


def test_a_calibrated_gallery_keeps_its_gate(run, project):
    rows = load_embeddings(GALLERY)
    save_embeddings(GALLERY, replace(rows, gate=Gate(0.4, 0.1, 1e-3, (0.0005, 0.002), "x")))
    assert run("enroll", "cleo", face("cleo")).code == 0
    assert load_embeddings(GALLERY).gate.threshold == 0.4
    explained = json.loads(run("explain", face("ana", 3), "--gallery", GALLERY, "--json").out)
    assert explained["gate"]["threshold"] == 0.4 and Path(explained["picture"]).is_file()
    assert explained["faces"][0]["quality"]["size"] == 60 and len(explained["faces"][0]["nearest"]) == 3


@pytest.mark.parametrize("people", [("ana", "ben"), ("ana",)])
def test_a_named_cluster_is_forgotten_with_its_faces_and_edits(run, fakes, people):
    for name in people:
        for i in range(3):
            save(Path(f"found/{ord(name[0])}-{i}.png"), photo(i, [COLOURS[name]]))
    assert run("cluster", "found").code == 0
    listed = json.loads(run("cluster", "found", "--json").out)["clusters"]
    mine = next(c["name"] for c in listed if any(f["photo"] == "found/97-0.png" for f in c["faces"]))
    assert run("cluster", "--rename", mine, "ana").code == 0
    answer = run("forget", "ana", "--yes")
    assert answer.code == 0, answer.err
    assert traces("ana") == [] and len(find_images(Path("found"))) == 3 * len(people)
    assert Path("clusters").exists() == (len(people) > 1)
    if len(people) > 1:
        assert len(load_embeddings(Path("clusters/.faces.npz"))) == 3
        assert len(list(Path("clusters/.faces").iterdir())) == 3
        assert run("cluster", "found").code == 0
        assert traces("ana") == [] and len(load_embeddings(Path("clusters/.faces.npz"))) == 3
        assert run("cluster", "found", "--force").code == 0  # found again, without a name
        assert traces("ana") == [] and len(load_embeddings(Path("clusters/.faces.npz"))) == 6


def test_a_cluster_is_forgotten_under_its_earlier_names_too(run, fakes):
    for name, n in (("ana", 5), ("ben", 3)):
        for i in range(n):
            save(Path(f"found/{name[0]}{i}.png"), photo(i, [COLOURS[name]]))
    assert run("cluster", "found").code == 0
    for edit in (["--rename", "person_001", "Anna"], ["--split", "Anna", "a0"], ["--rename", "Anna", "Bella"]):
        assert run("cluster", *edit).code == 0
    shutil.copytree("clusters", "bare/clusters")
    Path("bare/clusters/manifest.jsonl").unlink()
    boxes = Path("clusters/manifest.jsonl").read_text().count('"box"')
    assert run("forget", "Bella", "--yes").code == 0
    state = json.loads(Path("clusters/clusters.json").read_text())
    assert traces("Bella") == traces("Anna") == [] and [list(edit["after"]) for edit in state["edits"]] == [
        ["person_003"]
    ]
    (other,) = [{face["face"] for face in c["faces"]} for c in state["clusters"] if c["name"] == "person_003"]
    assert all(
        {*faces} <= other
        for edit in state["edits"]
        for part in edit.values()
        if isinstance(part, dict)
        for faces in part.values()
    )
    assert Path("clusters/manifest.jsonl").read_text().count('"box"') == boxes - 4
    assert len(list(Path("bare/clusters/.faces").iterdir())) == 4 and len(list(Path("clusters/.faces").iterdir())) == 4


def test_reports_go_that_are_about_a_persons_test_photos_alone(run, project):
    rows = load_embeddings(Path("embeddings/faces.npz"))
    rows.splits[:] = np.where(rows.labels == "cleo", "test", rows.splits)
    save_embeddings(Path("embeddings/faces.npz"), rows)
    assert run("train", "--svm", "--threshold", "0.5").code == 0
    assert "cleo" not in load_embeddings(GALLERY).people and "cleo" in Path("classifiers/svm.report.txt").read_text()
    assert run("rename", "cleo", "clea").code == 0 and not Path("classifiers/svm.report.txt").exists()
    assert run("train", "--svm", "--threshold", "0.5").code == 0
    assert run("forget", "clea", "--yes").code == 0
    assert [p.name for p in Path("classifiers").glob("svm*")] == ["svm.npz"] and traces("clea") == []


@pytest.mark.parametrize("name", ["an", "svm", "accuracy", "train", "report"])
def test_a_word_of_a_report_is_nobody(run, project, name):
    before = tree(Path())
    answer = run("forget", name, "--yes")
    assert answer.code == 1 and "known are ana, ben, cleo, dora" in answer.err and tree(Path()) == before


def test_a_merge_that_was_interrupted_keeps_the_crop_of_the_photo_that_stays(run, fakes):
    for name in ("ana", "ben"):
        assert run("enroll", name, face("ana")).code == 0
    (crop,) = Path("embeddings/gallery/ana").iterdir()
    shutil.move(crop, Path("embeddings/gallery/ben") / f"{crop.stem}-2.png")  # as the first run did, and was killed
    assert run("rename", "ana", "ben", "--merge").code == 0
    (source,) = load_embeddings(GALLERY).sources.tolist()
    assert (GALLERY.parent / source).is_file()


@pytest.mark.parametrize("name", ["/", "//", ".", "..", "", "a/b", "/etc"])
def test_what_is_no_folders_name_has_no_folders(project, name):
    assert list(Project.of(Path(), GALLERY).people_folders(name)) == []


def test_one_photo_under_two_names_is_one_when_they_are_put_together(run, fakes):
    photo_of = face("ana")
    for name, seed in (("ana", 1), ("ben", 2)):
        assert run("enroll", name, photo_of, face("ana", seed)).code == 0
    assert run("rename", "ana", "ben", "--merge").code == 0
    rows = load_embeddings(GALLERY)
    assert len(rows) == len(set(rows.digests.tolist())) == len(find_images(Path("embeddings/gallery"))) == 3
    assert all((GALLERY.parent / source).is_file() for source in rows.sources)
