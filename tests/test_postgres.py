"""Galleries in PostgreSQL: every command on one, several writers, a server that is killed, nothing left behind."""

import contextlib
import json
import logging
import multiprocessing
import queue
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psycopg
import pytest
from conftest import COLOURS, SPACE, STRANGER, FakeDetector, FakeEmbedder, face, photo, save, until, vectors, video

from facerec import search
from facerec.artifacts import load_embeddings, save_embeddings
from facerec.errors import ArtifactError, DatabaseError, SpaceError
from facerec.follower import Follower
from facerec.galleries import migrations, open_gallery
from facerec.galleries import postgres as backend
from facerec.galleries.file import FileGallery
from facerec.galleries.people import tell_apart
from facerec.recognizer import Recognizer
from facerec.stages import names
from facerec.stages.learn import Learner
from facerec.stages.names import Watch, names_of
from facerec.types import Crop, Failure, Gate, Space
from facerec.video import Frame

pytestmark = pytest.mark.usefixtures("in_tmp")
GATE = Gate(0.9, 0.05, 1e-3, (5e-4, 2e-3), "2026-01-01: 7 people")


def everything(people=None, dim=16):
    """Rows with something in every field; two photos are the same one."""
    rows = vectors(people or {"ana": 3, "Ünal 李": 2, "ben": 4}, dim=dim)
    n = len(rows)
    digests = rows.digests.copy()
    digests[-1] = digests[-2]
    added = np.full(n, "", "U10")
    added[::2] = "2026-02-03"
    return replace(
        rows,
        digests=digests,
        quality=np.where(np.arange(n) % 2, np.nan, 0.7).astype(np.float32),
        added=added,
        splits=np.where(np.arange(n) % 3, "train", "test"),
        detector="mtcnn",
        failures=(Failure("raw_images/ana/x.jpg", "no face found", "ana", "test"),),
        gate=GATE,
        lookalikes=(("ana", "ben"),),
    )


def saved(rows, name="saved.npz"):
    save_embeddings(Path(name), rows)
    return Path(name).read_bytes()


def tables(postgres, database):
    """How many rows each table has."""
    return {t: postgres.execute(f"SELECT count(*) FROM facerec.{t}", database)[0][0] for t in ("gallery", "photo")}


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def both(run, fakes, database):
    """The same people in a file and in a database."""
    for where in ("embeddings/gallery.npz", database):
        for name in COLOURS:
            assert run("enroll", name, face(name), face(name, 1), "--gallery", where).code == 0
    return "embeddings/gallery.npz", database


def test_a_database_answers_every_command_as_a_file_does(run, both):
    picture = save(Path("in/group.png"), photo(5, [COLOURS["ben"], STRANGER, COLOURS["ana"]], 120))
    for words in (
        ["people", "--json"],
        ["predict", picture, "--json"],
        ["predict", picture, "--json", "--by", "knn"],
        ["predict", picture, "--csv", "--threshold", "0.2"],
        ["predict", picture, "--json", "--metric", "cosine", "--gate-margin", "0.3"],
        ["verify", face("ana"), face("ana", 4), "--json", "--threshold", "0.4"],
        ["blur", picture, "--except", "ana", "--json"],
    ):
        of_file, of_database = (run(*words, "--gallery", where) for where in both)
        assert of_file.code == of_database.code == 0, of_database.err
        assert of_file.out == of_database.out != ""
    assert "ana" in run("predict", picture, "--gallery", both[1]).out
    assert f"4 people, 8 photos in {both[1]}" in run("people", "--gallery", both[1]).out


def test_enrolling_tells_what_is_odd_as_for_a_file(run, both):
    answers = [json.loads(run("enroll", "Eve", face("ana", 7), "--gallery", where, "--json").out) for where in both]
    assert answers[0]["warnings"] == answers[1]["warnings"]
    assert "looks like ana, who is enrolled already" in answers[1]["warnings"][0]
    assert answers[1]["people"] == 5 and answers[1]["photos"] == 1 and answers[1]["output"] == both[1]
    again = json.loads(run("enroll", "Eve", face("ana", 7), "--gallery", both[1], "--json").out)
    assert again["photos"] == 1  # the same photo once more


def test_explain_and_audit_show_the_crops_that_are_in_the_database(run, both):
    sheets = []
    for where in both:
        answer = run("explain", face("ana", 5), "--gallery", where, "--json")
        assert answer.code == 0 and "pictures are not in" not in answer.err
        sheets.append(Path(json.loads(answer.out)["picture"]).read_bytes())
    assert sheets[0] == sheets[1]
    run("enroll", "Eve", face("ana", 7), "--gallery", both[1])
    report = json.loads(run("audit", "--gallery", both[1], "--json").out)
    assert report["file"] == both[1] and report["missing_pictures"] == [] and Path(report["sheet"]).is_file()
    assert any(set(f["people"]) == {"ana", "Eve"} for f in report["findings"])
    assert run("audit", "--gallery", both[1], "--lookalikes", "Eve", "ana").code == 0
    assert open_gallery(both[1]).about().lookalikes == (("Eve", "ana"),)
    assert run("audit", "--gallery", both[1], "--lookalikes", "Eve", "zoe").code == 1
    assert run("audit", "--gallery", both[1], "--not-lookalikes", "Eve", "ana").code == 0
    assert open_gallery(both[1]).about().lookalikes == ()
    assert run("audit", "--gallery", both[1], "--not-lookalikes", "Eve", "ana").code == 1


def test_calibrate_stores_the_gate_in_the_database(run, both):
    for i in range(30):
        save(Path(f"strangers/{i}/0.png"), photo(i, [tuple(np.random.default_rng(i).integers(0, 255, 3).tolist())]))
    words = ["--strangers", "strangers", "--fmr", "0.2", "--fpir", "0.9", "--json"]
    of_file, of_database = (json.loads(run("calibrate", "--gallery", where, *words).out) for where in both)
    assert of_file["gate"] == of_database["gate"] and Path(of_database["plot"]).is_file()
    assert open_gallery(both[1]).about().gate.to_json() == json.loads(json.dumps(of_database["gate"])) | {
        "fmr_interval": tuple(of_database["gate"]["fmr_interval"])
    }
    assert "calibrated" in run("people", "--gallery", both[1]).out


def test_rename_and_forget_reach_the_database_and_the_folder(run, both, postgres):
    database = both[1]
    assert run("rename", "ana", "ben", "--gallery", database).code == 2  # is taken
    assert run("rename", "ana", "Ünal 李", "--gallery", database).code == 0
    rows = open_gallery(database).load()
    assert rows.people == ["ben", "cleo", "dora", "Ünal 李"]
    mine = rows.sources[rows.labels == "Ünal 李"].tolist()
    assert all(s.startswith("gallery/Ünal 李/") and open_gallery(database).crop(s) for s in mine) and len(mine) == 2
    assert load_embeddings(Path(both[0])).people == rows.people  # the folder's file, too
    assert run("rename", "cleo", "ben", "--merge", "--gallery", database).code == 0
    assert len(open_gallery(database).of("ben")) == 4
    plan = run("forget", "Ünal 李", "--gallery", database)
    assert plan.code == 2 and f"{database}: 2 vectors with their crops" in plan.err
    assert len(open_gallery(database).of("Ünal 李")) == 2  # nobody was there to say yes
    assert run("forget", "Ünal 李", "--yes", "--gallery", database).code == 0
    assert open_gallery(database).load().people == ["ben", "dora"]
    assert run("forget", "Ünal 李", "--yes", "--gallery", database).code == 1
    assert run("rename", "nobody", "x", "--gallery", database).code == 1


def test_putting_two_together_keeps_a_photo_of_both_once(database):
    gallery = open_gallery(database)
    rows = vectors({"ana": 2, "ben": 2})
    gallery.add(replace(rows, digests=np.array(["same", "a", "same", "b"])))
    gallery.rename("ben", "ana")
    assert sorted(gallery.load().digests.tolist()) == ["a", "b", "same"] and gallery.load().people == ["ana"]


def test_putting_two_together_keeps_both_crops_of_one_name(database):
    gallery = open_gallery(database)
    rows = vectors({"ana": 1, "bea": 1})
    rows = replace(rows, sources=np.array(["gallery/ana/ana/1.png", "gallery/bea/ana/1.png"]))
    gallery.add(rows, {"gallery/ana/ana/1.png": b"A", "gallery/bea/ana/1.png": b"B"}.get)
    gallery.rename("ana", "bea")
    sources = gallery.load().sources.tolist()
    assert sorted(sources) == ["gallery/bea/ana/1-2.png", "gallery/bea/ana/1.png"]
    assert {gallery.crop(source) for source in sources} == {b"A", b"B"}


def test_an_address_that_is_none_is_a_usage_error(run):
    refused = run("people", "--gallery", "postgresql://[::1/db")
    assert refused.code == 2 and "no address" in refused.err


def film(path, colour, frames=20):
    return video(path, (photo(3, [colour], 120) for _ in range(frames)))


def test_live_names_by_a_database(run, both):
    path = film(Path("in/a.mp4"), COLOURS["cleo"])
    answer = run("live", path, "--headless", "--json", "--gallery", both[1], "--threshold", "0.5", "--step", "1")
    assert answer.code == 0, answer.err
    assert list(json.loads(answer.out.splitlines()[-1])["names"]) == ["cleo"]


def test_live_sees_whom_others_enrol_and_forget(run, both, monkeypatch):
    """Without asking once a frame, and also after the last one was forgotten."""
    monkeypatch.setattr(names, "LOOK", 0.05)
    gallery, others = open_gallery(both[1]), open_gallery(both[1])
    gate = Gate(0.4)

    def read(gallery):
        return names_of(gallery, gate=gate, nobody=True)

    follower = Follower(Recognizer(FakeDetector(), FakeEmbedder(), read(gallery)), step=1)
    watch = Watch(open_gallery(both[1]), read, gallery.state(), read(gallery))
    learner = Learner(follower, gallery, "nearest", watch)
    frames = iter(range(10_000))

    def seen():
        learner.refresh()
        i = next(frames)
        return [t.name for t in follower.follow(Frame(i, i / 10, photo(3, [STRANGER], 120)))]

    for _ in range(5):
        seen()
    assert seen() == [None]
    stranger = FakeEmbedder().embed(np.full((1, 160, 160, 3), STRANGER, np.uint8))
    others.add(replace(vectors({"Zoe": 1}, dim=3), vectors=stranger, space=gallery.about().space))
    until(lambda: seen() == ["Zoe"])
    others.forget("Zoe")
    until(lambda: seen() == [None])
    for name in COLOURS:
        others.forget(name)
    until(lambda: seen() == [None] and not follower.recognizer.classifier.people)
    assert seen() == [None]
    watch.close()


def test_a_face_named_in_the_window_is_in_the_database_for_everybody(database, recognizer):
    follower = Follower(recognizer, step=1)
    gallery = open_gallery(database)
    learner = Learner(follower, gallery, "nearest")
    image = np.kron(photo(3, [STRANGER]), np.ones((3, 3, 1), np.uint8))
    for i in range(4):
        (track,) = follower.follow(Frame(i, i / 10, image)) or [None]
    assert "is added to postgresql://" in learner.name("eva", image, track)
    rows = open_gallery(database).load()
    assert rows.people == ["ana", "ben", "cleo", "eva"] and rows.gate is None
    assert cv2.imdecode(np.frombuffer(gallery.crop(str(rows.sources[-1])), np.uint8), 1).shape == (160, 160, 3)
    assert learner.save("kept") == "embeddings/kept.npz is written: 4 people"
    assert saved(rows) == Path("embeddings/kept.npz").read_bytes()
    assert learner.load("kept") == "embeddings/kept.npz: 4 people"


def test_the_page_goes_by_the_database_that_was_asked_for(database, monkeypatch):
    """Whatever lies in the folder; `test_app.py` looks at it in the browser."""
    from facerec import app
    from facerec.app import toolkit

    FileGallery(Path("embeddings/gallery.npz")).add(vectors({"zoe": 1}))
    monkeypatch.setenv(app.GALLERY, database)
    assert toolkit.names_path() is None and toolkit.recognizer() is None
    others = open_gallery(database)
    seen = [toolkit.state()]
    for change, people in (
        (lambda: others.add(everything()), ["ana", "ben", "Ünal 李"]),
        (lambda: others.forget("ben"), ["ana", "Ünal 李"]),
        (lambda: others.rename("ana", "bea"), ["bea", "Ünal 李"]),
    ):
        change()
        assert toolkit.names_path() == database and toolkit.state() not in seen
        seen.append(toolkit.state())
        assert toolkit.photos().people == toolkit._names(*seen[-1][:2]).people == people
        assert toolkit.file() == saved(others.load())
    monkeypatch.delenv(app.GALLERY)
    assert toolkit.photos().people == ["zoe"]


# --- between files and databases -----------------------------------------------------------------


@pytest.mark.parametrize("rows", [everything(), vectors({"ana": 9, "Bea": 0})], ids=["everything", "of embed"])
def test_what_was_imported_is_exported_byte_for_byte(run, database, rows):
    before = saved(rows, "in/gallery.npz")
    crop = save(Path("in") / rows.sources[0], photo(1)).read_bytes()
    answer = json.loads(run("gallery", "import", "in/gallery.npz", "--gallery", database, "--json").out)
    assert (answer["done"], answer["people"], answer["crops"]) == (9, len(rows.people), 1)
    assert run("gallery", "export", "out/other.npz", "--gallery", database).code == 0
    assert Path("out/other.npz").read_bytes() == before
    assert (Path("out") / rows.sources[0]).read_bytes() == crop
    assert run("gallery", "export", "out/other.npz", "--gallery", database).code == 2  # is there
    assert run("gallery", "import", "in/gallery.npz", "--gallery", database).code == 0  # once more changes nothing
    assert run("gallery", "export", "out/again.npz", "--gallery", database).code == 0
    assert Path("out/again.npz").read_bytes() == before
    assert run("gallery", "import", "in/gallery.npz", "--gallery", "in/other.npz").code == 2


def test_an_exported_person_can_be_forgotten_with_their_crops(run, both):
    assert run("gallery", "export", "out/copy.npz", "--gallery", both[1]).code == 0
    crops = list(Path("out/gallery/ana").iterdir())
    assert len(crops) == 2
    assert run("forget", "ana", "--yes", "--gallery", "out/copy.npz").code == 0
    assert not Path("out/gallery/ana").exists() and Path("out/gallery/ben").exists()


def test_a_file_is_added_to_the_people_that_are_there(database):
    gallery = open_gallery(database)
    first, second = everything({"ana": 3}), everything({"ana": 3, "zoe": 2})
    gallery.add(first)
    gallery.add(replace(second, gate=None, lookalikes=(("ana", "zoe"),)))
    now = gallery.load()
    assert Counter(now.labels.tolist()) == {"ana": 4, "zoe": 2}  # of ana's, one was not there with that digest
    assert now.gate == GATE and now.failures == first.failures and now.lookalikes == (("ana", "ben"), ("ana", "zoe"))


def test_a_source_that_leads_out_of_the_folder_is_not_followed(database, tmp_path_factory):
    outside = tmp_path_factory.mktemp("other") / "x.png"
    for source in ("../../x.png", str(outside)):
        gallery = open_gallery(database)
        rows = replace(vectors({"ana": 1}), sources=np.array([source]), digests=np.array([source]))
        gallery.add(rows, lambda source: b"x")
        with pytest.raises(ArtifactError, match="outside"):
            FileGallery(Path("deep/er/out.npz")).add(gallery.load(), gallery.crop)
    assert not outside.exists() and not Path("x.png").exists()


@pytest.mark.parametrize("text", ["a\0b", "ph\udcffoto.png"])
def test_what_is_no_text_is_refused_with_the_reason(database, text):
    with pytest.raises(DatabaseError, match="names must be text"):
        open_gallery(database).add(replace(vectors({"ana": 1}), sources=np.array([text + "c"])))
    assert not open_gallery(database).exists()  # all or nothing


def test_vectors_of_another_space_or_length_do_not_mix(run, fakes, database):
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 1}))
    with pytest.raises(SpaceError, match="holds vectors of"):
        gallery.add(vectors({"ben": 1}, space=replace(SPACE, crop=Crop(0.3))))
    with pytest.raises(SpaceError, match="16 numbers, these have 3"):
        gallery.add(vectors({"ben": 1}, dim=3))
    assert gallery.load().people == ["ana"]


def test_an_empty_gallery_keeps_its_space(database):
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 1}))
    gallery.forget("ana")
    assert gallery.exists() and len(gallery.load()) == 0 and gallery.load().vectors.shape == (0, 16)
    with pytest.raises(SpaceError):
        gallery.add(vectors({"ben": 1}, space=Space("other", "x", Crop(0.3), False)))


# --- addresses, rights, servers that are not there ------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ana:s3cret@db/faces",
        "postgres://ana:s3cret@db/faces",
        "postgresql://ana:s3c/s3cret@db/faces",
        "postgresql://ana:s3c?s3cret@db/faces",
        "postgresql://ana:%733cret@db/faces",
        "postgresql://db/faces?password=s3cret",
        "postgresql://db/faces?sslmode=require&p%61ssword=s3cret",
        "postgresql://db/faces?sslpassword=s3cret",
        "postgresql://h1,h2:s3cret@x/faces",
    ],
)
@pytest.mark.parametrize("command", [["people"], ["predict", "a.png"], ["-v", "enroll", "ana", "a.png"], ["app"]])
def test_a_password_in_an_address_is_refused_and_not_repeated(run, address, command):
    save(Path("a.png"), photo(1))
    answer = run(*command, "--gallery", address)
    assert answer.code == 2 and "PGPASSWORD" in answer.err and ".pgpass" in answer.err
    assert "cret" not in answer.out + answer.err


def test_an_address_that_is_none_is_said_without_repeating_it(run):
    answer = run("people", "--gallery", "postgresql://db:s3cret/faces")
    assert answer.code == 2 and "no address" in answer.err and "s3cret" not in answer.err


@pytest.fixture
def guarded(postgres, database):
    """The address for a user who needs a password, of a database that is not theirs."""
    hba = postgres.folder / "pg_hba.conf"
    before = hba.read_text()
    postgres.execute("DROP ROLE IF EXISTS guest")
    postgres.execute("CREATE ROLE guest LOGIN PASSWORD 's3cret'")
    hba.write_text("local all guest scram-sha-256\n" + before)
    postgres.execute("SELECT pg_reload_conf()")
    yield database.replace("postgres@", "guest@")
    hba.write_text(before)
    postgres.execute("SELECT pg_reload_conf()")
    postgres.execute("DROP OWNED BY guest", database)
    postgres.execute("DROP ROLE guest")


def test_the_password_comes_from_the_environment_or_pgpass(run, guarded, database, monkeypatch):
    open_gallery(database).add(vectors({"ana": 1}))
    answer = run("people", "--gallery", guarded)
    assert answer.code == 1 and ".pgpass" in answer.err
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    answer = run("-v", "people", "--gallery", guarded)
    assert answer.code == 1 and "password" in answer.err and "wr0ng" not in answer.err
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    answer = run("-v", "people", "--gallery", guarded)
    assert answer.code == 1 and "permission denied" in answer.err and "s3cret" not in answer.err  # it is not theirs
    monkeypatch.delenv("PGPASSWORD")
    Path("pgpass").write_text("*:*:*:guest:s3cret\n")
    Path("pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", "pgpass")
    assert "permission denied" in run("people", "--gallery", guarded).err


def test_who_may_read_only_reads_and_is_told_when_writing(postgres, database, guarded, monkeypatch, run):
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    answer = run("people", "--gallery", guarded)
    assert answer.code == 1 and "there is no gallery" in answer.err
    with pytest.raises(DatabaseError, match="CREATE EXTENSION vector in this database"):
        open_gallery(guarded).add(vectors({"ana": 1}))
    open_gallery(database).add(vectors({"ana": 2}))
    postgres.execute("GRANT USAGE ON SCHEMA facerec TO guest", database)
    postgres.execute("GRANT SELECT ON ALL TABLES IN SCHEMA facerec TO guest", database)
    assert open_gallery(guarded).load().people == ["ana"]
    with pytest.raises(DatabaseError, match="grant the rights"):
        open_gallery(guarded).add(vectors({"ben": 1}))
    postgres.execute("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA facerec TO guest", database)
    open_gallery(guarded).add(vectors({"ben": 1}))
    assert "bytes may stay" in open_gallery(guarded).forget("ana")  # only the owner may VACUUM, and that is said
    assert open_gallery(database).load().people == ["ben"]


def test_a_server_or_database_that_is_not_there_is_said_with_the_cure(run, postgres):
    answer = run("people", "--gallery", "postgresql://127.0.0.1:1/faces")
    assert answer.code == 1 and "refused" in answer.err and "whether the server runs" in answer.err
    answer = run("people", "--gallery", postgres.address("nonesuch"))
    assert answer.code == 1 and "createdb" in answer.err


def test_without_the_driver_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "facerec.galleries.postgres", None)
    answer = run("people", "--gallery", "postgresql://db/faces")
    assert answer.code == 2 and "facerec[postgres]" in answer.err


def test_only_one_who_asks_for_faiss_is_told_that_it_is_not_for_databases(run, fakes, database):
    open_gallery(database).add(vectors({"ana": 1}))
    answer = run("predict", save(Path("a.png"), photo(1)), "--index", "--gallery", database)
    assert answer.code == 2 and "an index of its own" in answer.err


# --- tables --------------------------------------------------------------------------------------


def test_older_tables_are_brought_up_to_date_and_newer_ones_refused(postgres, database, monkeypatch):
    rows = everything()
    open_gallery(database).add(rows)
    newer = (*migrations.MIGRATIONS, "ALTER TABLE facerec.photo ADD COLUMN camera text NOT NULL DEFAULT 'x'")
    with monkeypatch.context() as patch:
        patch.setattr(backend, "MIGRATIONS", newer)
        assert saved(open_gallery(database).load()) == saved(rows)
        assert postgres.execute("SELECT DISTINCT camera FROM facerec.photo", database) == [("x",)]
        assert postgres.execute("SELECT version FROM facerec.migration ORDER BY 1", database) == [(1,), (2,)]
        assert len(open_gallery(database).load()) == 9  # not twice
    with pytest.raises(DatabaseError, match="newer facerec"):
        open_gallery(database).load()


def test_a_migration_that_fails_leaves_the_tables_as_they_were(postgres, database, monkeypatch):
    open_gallery(database).add(vectors({"ana": 1}))
    broken = (*migrations.MIGRATIONS, "ALTER TABLE facerec.photo ADD COLUMN camera text; SELECT 1/0")
    with monkeypatch.context() as patch:
        patch.setattr(backend, "MIGRATIONS", broken)
        with pytest.raises(DatabaseError, match="by zero"):
            open_gallery(database).load()
    assert open_gallery(database).load().people == ["ana"]


def test_the_extension_may_be_in_a_schema_of_its_own(postgres, database, monkeypatch):
    postgres.execute('CREATE SCHEMA "My Extensions"', database)
    postgres.execute('CREATE EXTENSION vector SCHEMA "My Extensions"', database)
    gallery, rows = open_gallery(database), everything()
    gallery.add(rows)
    assert saved(open_gallery(database).load()) == saved(rows)
    monkeypatch.setattr(search, "ENOUGH", 3)
    assert len(list(gallery.search().see(rows.vectors, 2))) == 9
    assert gallery.forget("ana") != "" and gallery.load().people == ["ben", "Ünal 李"]


def test_a_server_without_pgvector_is_said(database, monkeypatch):
    with psycopg.connect(database) as connection, pytest.raises(psycopg.Error) as error:
        connection.execute("CREATE EXTENSION vectorial")  # as one that is not installed
    assert "install pgvector on the server" in str(backend.explained(error.value, "x"))


def test_what_is_acknowledged_is_on_disk_whatever_the_server_is_used_to(postgres, database):
    postgres.execute(f"ALTER DATABASE {database.split('/')[3].split('?')[0]} SET synchronous_commit = off")
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 1}))
    assert gallery._link.run(lambda c: c.execute("SHOW synchronous_commit").fetchone()) == ("on",)


def test_the_state_changes_with_every_change_and_not_without(database):
    gallery, other = open_gallery(database), open_gallery(database)
    states = [gallery.state()]
    assert states == [None]
    for change in (
        lambda: other.add(vectors({"ana": 2, "ben": 1})),
        lambda: other.add(vectors({"cleo": 1})),
        lambda: other.rename("ana", "zoe"),
        lambda: tell_apart(other, "zoe", "ben"),
        lambda: other.edit(lambda about: replace(about, gate=GATE)),
        lambda: other.forget("zoe"),
    ):
        change()
        assert gallery.state() not in states
        states.append(gallery.state())
        gallery.load(), gallery.search(), gallery.of("ben")
        assert gallery.state() == states[-1]


# --- several writers -----------------------------------------------------------------------------


def one(writer, i, dim=16):
    """An enrolment: one person's photo."""
    rng = np.random.default_rng(1000 * writer + i)
    x = rng.standard_normal((1, dim)).astype(np.float32)
    name = f"p{writer}-{i}"
    rows = vectors({name: 1}, dim=dim)
    return replace(rows, vectors=x / np.linalg.norm(x), digests=np.array([name]))


def enrol(address, writer, count, acknowledged, begin):
    """A writer's process: each enrolment is noted once it is acknowledged."""
    gallery = open_gallery(address)
    begin.wait()
    for i in range(count):
        gallery.add(one(writer, i), lambda source: b"crop of " + source.encode())
        acknowledged.put(f"p{writer}-{i}")


def writers(address, count, n=4):
    context = multiprocessing.get_context("spawn")
    acknowledged, begin = context.Queue(), context.Barrier(n + 1)
    processes = [context.Process(target=enrol, args=(address, w, count, acknowledged, begin)) for w in range(n)]
    for process in processes:
        process.start()
    begin.wait(60)
    return processes, acknowledged


def heard(acknowledged, until_done):
    """What was acknowledged until everybody has ended."""
    found = []
    while not until_done() or not acknowledged.empty():
        with contextlib.suppress(queue.Empty):
            found.append(acknowledged.get(timeout=0.1))
    return found


def test_first_comers_at_once_make_one_gallery_and_lose_nothing(postgres, database):
    processes, acknowledged = writers(database, 5)
    found = heard(acknowledged, lambda: not any(p.is_alive() for p in processes))
    assert [p.exitcode for p in processes] == [0] * 4 and len(found) == 20
    assert Counter(open_gallery(database).load().labels.tolist()) == Counter(found)
    assert tables(postgres, database) == {"gallery": 1, "photo": 20}


def test_writers_go_on_when_the_server_is_killed_and_nothing_acknowledged_is_lost_or_doubled(postgres, database):
    processes, acknowledged = writers(database, 60)
    before = [acknowledged.get(timeout=30) for _ in range(20)]
    postgres.kill()
    assert any(p.is_alive() for p in processes)  # in the middle
    time.sleep(0.5)
    postgres.start()
    found = before + heard(acknowledged, lambda: not any(p.is_alive() for p in processes))
    assert [p.exitcode for p in processes] == [0] * 4
    assert sorted(found) == sorted(f"p{w}-{i}" for w in range(4) for i in range(60))
    rows = open_gallery(database).load()
    assert Counter(rows.labels.tolist()) == Counter(found)
    assert all(open_gallery(database).crop(str(s)) == b"crop of " + str(s).encode() for s in rows.sources[:5])


def test_a_connection_that_is_cut_is_made_again(postgres, database, caplog):
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 1}))
    with caplog.at_level(logging.INFO, "facerec"):
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'facerec'"
        postgres.execute(cut)
        gallery.add(vectors({"ben": 1}))
    assert "once more in" in caplog.text and gallery.load().people == ["ana", "ben"]


def test_a_server_that_stays_away_is_said_after_a_while(postgres, database, monkeypatch):
    monkeypatch.setattr(backend, "WAITS", (0.01, 0.01))
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 1}))
    postgres.kill()
    try:
        with pytest.raises(DatabaseError, match="whether the server runs"):
            gallery.add(vectors({"ben": 1}))
    finally:
        postgres.start()
    assert gallery.load().people == ["ana"]


def test_a_long_import_keeps_nobody_waiting(database):
    """Enrolments commit while another transaction that adds rows is open."""
    gallery, other = open_gallery(database), open_gallery(database)
    gallery.add(vectors({"ana": 1}))
    rows, half, go_on = vectors({"ben": 40}), threading.Event(), threading.Event()

    def crop(source):
        half.set()
        assert go_on.wait(30)

    importing = threading.Thread(target=other.add, args=(rows, crop))
    importing.start()
    assert half.wait(30)
    gallery.add(vectors({"cleo": 1}))
    assert gallery.load().people == ["ana", "cleo"]  # nothing of a transaction that has not ended
    go_on.set()
    importing.join(30)
    assert gallery.load().people == ["ana", "ben", "cleo"]


# --- forgetting ----------------------------------------------------------------------------------


def test_whoever_is_forgotten_leaves_no_bytes_in_the_servers_files(postgres, database):
    gallery = open_gallery(database)
    rng = np.random.default_rng(0)
    rows = everything({"Ottoline": 30, "ben": 30, "cleo": 30}, dim=32)
    rows = replace(
        rows,
        failures=(Failure("raw/Ottoline/x.jpg", "no face", "Ottoline"),),
        lookalikes=(("Ottoline", "ben"),),
        digests=np.array([f"{i:064x}" for i in range(len(rows))]),
    )
    crops = {source: rng.bytes(9000) for source in rows.sources.tolist()}
    gallery.add(rows, crops.get)
    gallery.rename("Ottoline", "Amaryllis")  # dead rows of another name
    postgres.execute("VACUUM ANALYZE", database)
    mine = rows.labels == "Ottoline"
    oid = postgres.execute("SELECT oid FROM pg_database WHERE datname = current_database()", database)[0][0]

    def traces():
        postgres.execute("CHECKPOINT", database)
        held = b"".join(p.read_bytes() for p in (postgres.folder / "base" / str(oid)).iterdir() if p.is_file())
        crop = [crops[s][i * 1000 :][:400] for s in rows.sources[mine].tolist() for i in range(8)]
        vectors = [v[3:11].tobytes() for v in rows.vectors[mine]]
        digests = [d.encode() for d in rows.digests[mine].tolist()]
        given = {"names": [b"Ottoline", b"Amaryllis"], "crops": crop, "vectors": vectors, "digests": digests}
        return {what: sum(part in held for part in parts) for what, parts in given.items()}

    assert all(traces().values()), "what is looked for can be found"
    assert gallery.forget("Amaryllis") == ""
    assert traces() == {"names": 0, "crops": 0, "vectors": 0, "digests": 0}
    rest = gallery.load()
    assert rest.people == ["ben", "cleo"] and rest.failures == () and rest.lookalikes == ()
    assert rest.labels.dtype == "U4" and rest.sources.dtype.itemsize // 4 == max(map(len, rest.sources.tolist()))
    assert b"Amaryllis" not in saved(rest).replace(b"\0", b"")


def test_of_very_many_photos_the_remains_are_said(run, database, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH", 3)
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 5, "ben": 5, "cleo": 5}))
    assert "VACUUM FULL" in gallery.forget("ana")
    assert gallery.load().people == ["ben", "cleo"]
    answer = run("forget", "ben", "--yes", "--gallery", database)
    assert answer.code == 0 and "VACUUM FULL" in answer.err and "from 1 places" in answer.out


def test_a_vacuum_that_fails_is_said_and_the_person_is_gone_all_the_same(database, monkeypatch):
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 5, "ben": 5}))
    monkeypatch.setattr(gallery, "_vacuum", lambda c: c.execute("SELECT 1/0"))
    assert "by zero" in gallery.forget("ana")
    assert gallery.load().people == ["ben"]


# --- searching -----------------------------------------------------------------------------------


def many(people=300, each=5, dim=32):
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((people, dim)).astype(np.float32)
    x = np.repeat(centres, each, axis=0) + 0.4 * rng.standard_normal((people * each, dim)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.repeat([f"person {i:03d}" for i in range(people)], each)
    digests = np.array([str(i) for i in range(len(x))])
    probes = np.concatenate([centres, rng.standard_normal((50, dim)).astype(np.float32)])
    rows = replace(vectors({"x": 1}, dim=dim), labels=labels, vectors=x, digests=digests, sources=digests,
                   splits=np.full(len(x), "train"), quality=None, added=None)  # fmt: skip
    return rows, probes / np.linalg.norm(probes, axis=1, keepdims=True)


def test_the_database_proposes_and_its_answers_are_the_exact_ones(database, monkeypatch, caplog):
    rows, probes = many()
    gallery = open_gallery(database)
    gallery.add(rows)
    with caplog.at_level(logging.INFO, "facerec"):
        exact = {by: names_of(gallery, by, gate=Gate(0.9, 0.05)) for by in ("nearest", "knn")}
        assert "searched exactly" in caplog.text and len(exact["knn"].photos) == 1500
        caplog.clear()
        monkeypatch.setattr(search, "ENOUGH", 1000)
        ours = {by: names_of(gallery, by, gate=Gate(0.9, 0.05)) for by in ("nearest", "knn")}
        assert "HNSW" in caplog.text and len(ours["knn"].photos) == 0
    for by in ("nearest", "knn"):
        found, wanted = ours[by].decide(probes), exact[by].decide(probes)
        assert np.mean([f.name == w.name for f, w in zip(found, wanted, strict=True)]) >= 0.99
        same = [f.nearest[0][0] == w.nearest[0][0] for f, w in zip(found, wanted, strict=True)]
        assert np.mean(same) >= 0.99 and all(same[:300])
        assert all(len(f.nearest) == 3 for f in found)
        for f, w in zip(found[:300], wanted, strict=False):
            assert f.distance == pytest.approx(w.distance, abs=1e-5)
    plan = ours["knn"]._search._link.run(
        lambda c: c.execute("EXPLAIN " + backend._NEAR.format(dim=32), [probes[0], 32]).fetchall()
    )
    assert "photo_vector" in str(plan) and "Seq Scan" not in str(plan)


def test_somebody_with_very_many_photos_hides_nobody(database, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH", 10)
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 700, "ben": 1, "cleo": 1, "dora": 1, "eve": 1}))
    probe = gallery.of("ana").vectors[:1]
    (decision,) = names_of(gallery, gate=Gate(2.0)).decide(probe)
    assert len(decision.nearest) == 3 and decision.candidate == "ana"


def test_who_comes_and_goes_while_a_search_is_open_does_no_harm(database, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH", 10)
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 8, "ben": 8}))
    classifier = names_of(gallery, gate=Gate(2.0))
    probe = gallery.of("ana").vectors[:1]
    gallery.forget("ben")
    gallery.add(vectors({"cleo": 4}))
    (decision,) = classifier.decide(probe)
    assert decision.name == "ana" and {n for n, _ in decision.nearest} == {"ana"}


def test_a_large_gallery_serves_every_command_without_being_loaded(run, both, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH", 3)
    monkeypatch.setattr(backend.PostgresGallery, "load", lambda self: pytest.fail("was loaded"))
    named = json.loads(run("predict", face("cleo", 5), "--json", "--gallery", both[1]).out)["faces"][0]
    assert named["name"] == "cleo"
    answer = run("explain", face("ana", 5), "--gallery", both[1])
    assert answer.code == 0 and "pictures are not in" not in answer.err
    report = json.loads(run("enroll", "Eve", face("ana", 7), "--gallery", both[1], "--json").out)
    assert report["people"] == 5 and "looks like ana" in report["warnings"][0]


def test_a_missing_index_is_said_and_not_made_up_for(postgres, database, monkeypatch):
    monkeypatch.setattr(search, "ENOUGH", 3)
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 5}))
    postgres.execute("DROP INDEX facerec.photo_vector", database)
    with pytest.raises(DatabaseError, match=r"their index is gone — make it: CREATE INDEX photo_vector"):
        gallery.search()
    with pytest.raises(DatabaseError) as error:
        gallery.search()
    postgres.execute(error.value.cure.removeprefix("make it: "), database)
    assert gallery.search().people == ["ana"]


def test_a_large_import_builds_the_index_anew(database, monkeypatch):
    monkeypatch.setattr(backend, "BULK", 20)
    monkeypatch.setattr(search, "ENOUGH", 30)
    gallery = open_gallery(database)
    gallery.add(vectors({"ana": 2}))
    built = []
    monkeypatch.setattr(backend, "_build", lambda c, dim, build=backend._build: built.append(dim) or build(c, dim))
    gallery.add(vectors({"ben": 5}))
    gallery.add(vectors({"cleo": 40}))
    assert built == [16]
    rows = gallery.load()
    found = [seen.closest(1)[0][0] for seen in gallery.search().see(rows.vectors, 1)]
    assert [sorted(rows.people)[i] for i in found] == rows.labels.tolist()
