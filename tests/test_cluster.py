"""cluster: grouping, names, edits that survive the next run, and undo."""

import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import COLOURS, STRANGER, photo, save, tree, vectors, video
from sklearn.cluster import AgglomerativeClustering

from facerec.grouping import group, halves
from facerec.images import find_images
from facerec.metrics import bcubed, distances
from facerec.stages import cluster as stage
from facerec.stages.cluster import name_clusters

PEOPLE = {"ana": 6, "ben": 5, "cleo": 4}


# --- grouping ------------------------------------------------------------------------------------


def test_grouping_finds_the_people_and_leaves_strangers_alone():
    faces = vectors({**PEOPLE, "x": 1, "yy": 1})
    labels = group(faces.vectors, 0.7)
    assert bcubed(faces.labels, labels) == (1, 1, 1)


def test_grouping_is_average_linkage():
    v = np.random.default_rng(3).standard_normal((600, 8)).astype(np.float32)  # more than a block of rows
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    dist = distances(v, v).astype(float)
    np.fill_diagonal(dist, 0)
    theirs = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=0.8)
    assert bcubed(theirs.fit_predict(dist), group(v, 0.8)) == (1, 1, 1)


@pytest.mark.parametrize("n", [0, 1])
def test_grouping_of_nothing_and_of_one(n):
    assert group(np.eye(3, dtype=np.float32)[:n], 0.9).tolist() == [0] * n


def test_fixed_faces_stay_together_and_apart_whatever_the_distance():
    v = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)  # four people, three times the same vector
    fixed = np.array([0, 1, -1, 0, -1, -1, 2, 2, -1, -1, -1, -1])
    labels = group(v, 0.9, fixed)
    assert labels[0] == labels[3] != labels[1]
    assert labels[6] == labels[7] == labels[8]
    assert len(set(labels[9:])) == 1 and labels[9] not in labels[:9]


def test_halves_are_those_that_were_joined_last():
    faces = vectors({"ana": 5, "ben": 3})
    assert halves(faces.vectors).tolist() == [False] * 5 + [True] * 3
    assert halves(np.repeat(faces.vectors[:1], 4, axis=0)).sum() in (1, 2)


def test_clusters_take_the_name_they_share_most_faces_with():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    before = ["Ana", "Ana", "person_004", "Ana", "", "", "", "", "noise"]
    names = name_clusters(labels, [""] * 9, before, 2, set())
    assert names == ["Ana"] * 3 + ["person_005"] * 3 + ["person_006"] * 2 + ["noise"]
    names = name_clusters(labels, [""] * 8 + ["Zoe"], before, 3, {"person_010"})
    assert names == ["Ana"] * 3 + ["person_011"] * 3 + ["noise"] * 2 + ["Zoe"]


# --- the command, with the fakes -----------------------------------------------------------------


@pytest.fixture
def album(in_tmp, fakes):
    """Photos of three people and a stranger, flat and nested, two of them on one photo."""
    for i in range(4):
        save(in_tmp / f"album/a{i}.png", photo(i, [COLOURS["ana"]]))
        save(in_tmp / f"album/trip/b{i}.png", photo(20 + i, [COLOURS["ben"]]))
    save(in_tmp / "album/both.png", photo(40, [COLOURS["ana"], COLOURS["cleo"]]))
    save(in_tmp / "album/c.png", photo(41, [COLOURS["cleo"]]))
    save(in_tmp / "album/stranger.png", photo(42, [STRANGER]))
    return in_tmp


def view():
    """Cluster → the names of its pictures."""
    folders = [p for p in stage.Path("clusters").iterdir() if p.is_dir() and p.name[0] != "."]
    return {p.name: sorted(f.stem for f in p.iterdir()) for p in folders}


FIRST = {
    "person_001": ["a0", "a1", "a2", "a3", "both~1"],
    "person_002": ["trip_b0", "trip_b1", "trip_b2", "trip_b3"],
    "person_003": ["both~2", "c"],
    "noise": ["stranger"],
}


def both_sides(shown):
    """The two faces of one photo come in either order."""
    return {
        name: sorted(f.replace("both~1", "both").replace("both~2", "both") for f in faces)
        for name, faces in shown.items()
    }


def test_a_folder_a_person_and_the_same_again(album, run):
    result = run("cluster", "album", "--threshold", "0.4")
    assert result.code == 0 and "3 people with 11 faces, 1 faces of nobody" in result.out
    assert both_sides(view()) == both_sides(FIRST)
    assert (album / "clusters/contact_sheet.png").exists()
    before = tree(album / "clusters")
    result = run("cluster", "album", "--threshold", "0.4", "--json")
    data = json.loads(result.out)
    assert tree(album / "clusters") == before and data["done"] == 0 and data["skipped"] == 11
    assert [(c["name"], c["size"]) for c in data["clusters"]] == [
        ("person_001", 5),
        ("person_002", 4),
        ("person_003", 2),
    ]
    face = data["clusters"][1]["faces"][0]
    assert face["photo"].startswith("album/trip/b") and len(face["box"]) == 4


def test_a_blurred_face_is_nobodys_until_the_user_says_whose(album, run):
    save(album / "album/blurred.png", cv2.GaussianBlur(photo(43, [COLOURS["ana"]]), (0, 0), 9))
    assert run("cluster", "album", "--threshold", "0.4").code == 0
    assert both_sides(view()) == both_sides(FIRST | {"noise": ["blurred", "stranger"]})
    assert run("cluster", "--split", "noise", "blurred").code == 0
    assert {"blurred", "a0"} <= set(view()["person_004"])
    assert run("cluster", "album", "--threshold", "0.4").code == 0
    assert {"blurred", "a0"} <= set(view()["person_004"])


def test_edits_hold_for_the_next_run_and_are_undone_one_by_one(album, run):
    def edit(*words):
        result = run("cluster", *words)
        assert result.code == 0, result.err
        return tree(album / "clusters")

    states = [edit("album", "--threshold", "0.4")]
    states.append(edit("--rename", "person_002", "Ben"))
    states.append(edit("--merge", "Ben", "person_003"))
    states.append(edit("--split", "person_001", "a0", "clusters/person_001/a1.png"))
    states.append(edit("--split", "noise", "stranger"))
    states.append(edit("--merge", "Ben", "person_005"))
    assert set(view()) == {"person_001", "Ben", "person_004"} and len(view()["Ben"]) == 7
    assert view()["person_004"] == ["a0", "a1"]
    before = view()

    save(album / "album/trip/b9.png", photo(60, [COLOURS["ben"]]))
    save(album / "album/d.png", photo(61, [COLOURS["dora"]]))
    save(album / "album/d2.png", photo(62, [COLOURS["dora"]]))
    (album / "album/a2.png").rename(album / "album/moved.png")  # the same face under another name
    edit("album", "--threshold", "0.4")
    expected = {**before, "Ben": sorted([*before["Ben"], "trip_b9"]), "person_006": ["d", "d2"]}
    expected["person_001"] = sorted({*before["person_001"], "moved"} - {"a2"})
    assert view() == expected

    (album / "album/moved.png").rename(album / "album/a2.png")
    for name in ("trip/b9", "d", "d2"):
        (album / f"album/{name}.png").unlink()
    assert edit("album", "--threshold", "0.4") == states.pop()
    while states:
        assert edit("--undo") == states.pop()
    result = run("cluster", "--undo")
    assert result.code == 2 and "nothing to undo" in result.err


def test_undo_of_a_name_after_more_photos(album, run):
    run("cluster", "album", "--threshold", "0.4")
    run("cluster", "--rename", "person_003", "Cleo")
    for i in range(3):
        save(album / f"album/new{i}.png", photo(70 + i, [COLOURS["cleo"]]))
    run("cluster", "album", "--threshold", "0.4")
    assert len(view()["Cleo"]) == 5
    result = run("cluster", "--undo")
    assert "undone: --rename person_003 Cleo" in result.out
    assert len(view()["person_003"]) == 5 and "Cleo" not in view()


def test_splitting_by_itself_and_down_to_one(album, run):
    run("cluster", "album", "--threshold", "1.2")  # ana and cleo, or others, become one
    sizes = []
    while run("cluster", "--split", next(iter(c["name"] for c in clusters() if c["size"] > 1), "none")).code == 0:
        sizes.append(len(clusters()))
    assert sizes == list(range(sizes[0], sizes[0] + len(sizes))) and all(c["size"] == 1 for c in clusters())


def clusters(output="clusters"):
    return json.loads(stage.Path(f"{output}/clusters.json").read_text(encoding="utf-8"))["clusters"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "give a folder of photos, or an edit"),
        ("album --undo", "give a folder of photos, or an edit"),
        ("--rename nobody Ana", "there is no cluster 'nobody'"),
        ("--rename person_001 PERSON_002", "there is a person_002 already"),
        ("--rename person_001 ../away", "cannot be a folder"),
        ("--rename person_001 .hidden", "cannot be a folder"),
        ("--rename person_001 noise", "is not a person"),
        ("--rename noise Ana", "noise is not a person — take faces out of it first"),
        ("--merge person_001", "two clusters or more"),
        ("--merge person_001 nobody", "there is no cluster 'nobody'"),
        ("--split person_001 c", "there is no c in person_001"),
        ("--split person_003 c both~1 both~2", "there is no both~"),
        ("--split person_002 trip_b0 trip_b1 trip_b2 trip_b3", "nothing would be left"),
        ("--split noise", "noise is not a person"),
        ("--rename a b --undo", "not allowed with"),
        ("gone/", "there is no folder"),
        ("empty/", "no photos in"),
        ("album --threshold 3", "not between 0 and 2"),
        ("album --output album/clusters", "lie in one another"),
    ],
)
def test_usage_errors_change_nothing(album, run, words, why):
    (album / "empty").mkdir()
    run("cluster", "album", "--threshold", "0.4")
    before = tree(album)
    result = run("cluster", *words.split())
    assert result.code == 2 and why in result.err
    assert tree(album) == before


def test_an_edit_without_clusters(in_tmp, run):
    result = run("cluster", "--undo")
    assert result.code == 1 and "make it with `facerec cluster FOLDER`" in result.err
    assert not list(in_tmp.iterdir())


def test_names_are_not_lost_to_another_folder_or_setting(album, run):
    run("cluster", "album", "--threshold", "0.4")
    shutil.copytree(album / "album", album / "other")
    assert run("cluster", "other", "--threshold", "0.4").code == 0  # nothing to lose yet
    assert {f["photo"].split("/")[0] for c in clusters() for f in c["faces"]} == {"other"}
    run("cluster", "--rename", "person_001", "Ana")
    for words in (["album"], ["other", "--min-face", "40"]):
        result = run("cluster", *words)
        assert result.code == 2 and "names in clusters are about other photos or settings" in result.err
    assert len(view()["Ana"]) == 5


@pytest.mark.parametrize("words", [["album", "--threshold", "0.4"], ["--merge", "Ana", "person_002"], ["--undo"]])
def test_a_crash_leaves_the_old_state_and_the_next_run_mends_the_folders(album, run, monkeypatch, words):
    run("cluster", "album", "--threshold", "0.4")
    run("cluster", "--rename", "person_001", "Ana")
    before = tree(album / "clusters")
    save(album / "album/new.png", photo(9, [COLOURS["dora"]]))
    with monkeypatch.context() as patch:
        patch.setattr(stage.State, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("cluster", *words).code == 130
    assert tree(album / "clusters")["clusters.json"] == before["clusters.json"]
    (album / "album/new.png").unlink()
    assert run("cluster", "album", "--threshold", "0.4").code == 0
    assert tree(album / "clusters") == before


def test_a_name_whose_folder_holds_somebodys_files_is_refused(album, run):
    assert run("cluster", "album").code == 0
    save(album / "clusters/Ana/mine.png", photo(99))
    before = tree(album / "clusters")
    refused = run("cluster", "--rename", "person_001", "Ana")
    assert refused.code == 2 and "clusters/Ana holds other files" in refused.err
    assert tree(album / "clusters") == before
    (album / "clusters/Ana/mine.png").unlink()
    assert run("cluster", "--rename", "person_001", "Ana").code == 0


def test_a_person_of_two_clusters_folders_is_renamed_in_both_or_neither(album, run):
    for output in ("clusters", "more"):
        assert run("cluster", "album", "--output", output).code == 0
        assert run("cluster", "--rename", "person_001", "Ana", "--output", output).code == 0
    save(album / "more/Eva/mine.png", photo(99))
    before = tree(album)
    refused = run("rename", "Ana", "Eva")
    assert refused.code == 2 and "more/Eva holds other files" in refused.err
    assert tree(album) == before
    (album / "more/Eva/mine.png").unlink()
    assert run("rename", "Ana", "Eva").code == 0
    assert (album / "clusters/Eva").is_dir() and (album / "more/Eva").is_dir() and not (album / "more/Ana").exists()


def test_what_is_not_ours_stays_whoever_is_forgotten(album, run):
    """Also pictures that are called like ours, and a folder that holds more than clusters."""
    mine = {"clusters/notes/x.txt", "clusters/trip/a0.png", "clusters/person_001/mine.png", "clusters/mine.txt"}
    for path in mine:
        save(album / path, photo(99)) if path.endswith(".png") else (album / path).parent.mkdir(
            parents=True, exist_ok=True
        )
        (album / path).touch()
    (album / "clusters/empty").mkdir()
    kept = {path: (album / path).read_bytes() for path in mine}
    assert run("cluster", "album", "--threshold", "0.4").code == 0
    for name in [*(c["name"] for c in clusters()), *(["noise"] if (album / "clusters/noise").exists() else [])]:
        if name == "noise":
            face = next((album / "clusters/noise").iterdir()).stem
            assert run("cluster", "--split", "noise", face).code == 0
            (name,) = [c["name"] for c in clusters()]
        assert run("forget", name, "--yes").code in (0, 3)
    assert {path: (album / path).read_bytes() for path in mine} == kept
    left = {p.relative_to(album).as_posix() for p in (album / "clusters").rglob("*") if p.is_file()}
    assert left == mine and (album / "clusters/empty").is_dir()


def test_clusters_are_photos_to_detect_without_the_noise_and_the_sheet(album, run):
    assert run("cluster", "album", "--threshold", "0.4").code == 0
    report = json.loads(run("detect", "clusters", "--output", "processed", "--json").out)
    people = {p.name for p in (album / "processed/train").iterdir()}
    assert report["failed"] == [] and people == {"person_001", "person_002", "person_003"}
    assert "at least four people" in run("evaluate", "pairs", "clusters").err


def test_a_crop_that_leads_out_of_the_folder_is_damage(album, run):
    run("cluster", "album", "--threshold", "0.4")
    save(album / "victim.png", photo(1))
    state = json.loads((album / "clusters/clusters.json").read_text())
    state["clusters"][0]["faces"][0]["crop"] = "../../victim.png"
    (album / "clusters/clusters.json").write_text(json.dumps(state))
    assert "damaged" in run("cluster", "--rename", "person_001", "Ana").err
    run("forget", "person_001", "--yes")
    assert (album / "victim.png").exists()


def test_files_of_the_users_own_are_left_alone(album, run):
    run("cluster", "album", "--threshold", "0.4")
    (album / "clusters/person_001/notes.txt").write_text("at the lake")
    run("cluster", "--rename", "person_001", "Ana")
    assert [p.name for p in (album / "clusters/person_001").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', "evil"])
def test_a_damaged_state_is_said(album, run, text):
    run("cluster", "album", "--threshold", "0.4")
    state = album / "clusters/clusters.json"
    if text == "evil":
        text = state.read_text(encoding="utf-8").replace("person_001", "../../away")
    state.write_text(text, encoding="utf-8")
    for words in (["album"], ["--undo"]):
        result = run("cluster", *words)
        assert result.code == 1 and "is damaged" in result.err
    assert state.read_text(encoding="utf-8") == text


def test_another_stages_folder_is_refused_and_keeps_what_is_in_it(album, run):
    """What extract or detect made would be taken for faces of photos that are gone, and removed."""
    video(album / "videos/ana.mp4", [photo(i, [COLOURS["ana"]]) for i in range(8)])
    assert run("extract", "videos", "--count", "4").code == 0 and run("detect").code == 0
    manifest = album / "processed/manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(', "stage": "detect"', "", 1))  # a line of an earlier version
    before = tree(album / "raw_images") | tree(album / "processed")
    for words in (
        ["cluster", "album", "--output", "raw_images"],
        ["cluster", "album", "--output", "processed"],
        ["detect", "album", "--output", "raw_images"],
        ["extract", "videos", "--output", "processed"],
    ):
        refused = run(*words)
        assert refused.code == 2 and "is the folder of `facerec" in refused.err, words
    assert before == {
        k: v for k, v in (tree(album / "raw_images") | tree(album / "processed")).items() if "lock" not in k
    }


def test_one_face_no_face_and_too_many(album, run, monkeypatch):
    save(album / "one/a.png", photo(1, [COLOURS["ana"]]))
    result = run("cluster", "one", "--output", "alone", "--min-size", "1")
    assert result.code == 0 and "1 people with 1 faces, 0 faces of nobody" in result.out
    result = run("cluster", "one", "--output", "alone")
    assert result.code == 0 and "0 people with 0 faces, 1 faces of nobody" in result.out
    save(album / "none/a.png", photo(1))
    result = run("cluster", "none", "--output", "nobody")
    assert result.code == 1 and "no face in 1 photos of none" in result.err
    monkeypatch.setattr(stage, "MAX_FACES", 3)
    result = run("cluster", "album", "--output", "many")
    assert result.code == 1 and "12 faces are more than the 3" in result.err


# --- real faces ----------------------------------------------------------------------------------


@pytest.mark.real
def test_real_people_stay_who_they_are(in_tmp, samples, run):
    people = sorted((samples / "train").iterdir())
    for person in people:
        for i, path in enumerate(find_images(person)[:8]):
            folder = in_tmp / ("photos" if i < 6 else "later")
            folder.mkdir(exist_ok=True)
            shutil.copy(path, folder / f"{person.name}-{i}{path.suffix}")
    result = run("cluster", "photos")
    assert result.code == 0, result.err

    def who():
        """Cluster → the people in it."""
        return {name: {f.split("-")[0] for f in faces} for name, faces in view().items() if name != "noise"}

    assert all(len(inside) == 1 for inside in who().values()), "pure"
    assert set.union(*who().values()) == {p.name for p in people}

    whose = {next(iter(inside)): name for name, inside in sorted(who().items(), reverse=True)}
    first, second, third = (p.name for p in people[:3])
    run("cluster", "--rename", whose[first], "Ana")
    run("cluster", "--merge", whose[second], whose[third])
    odd = next(c["faces"][-1]["crop"] for c in clusters() if c["name"] == "Ana").removesuffix(".png")
    run("cluster", "--split", "Ana", odd)
    before = view()

    for path in (in_tmp / "later").iterdir():
        shutil.copy(path, in_tmp / "photos")
    save(in_tmp / "photos/empty.png", np.full((300, 300, 3), 128, np.uint8))
    (in_tmp / "photos/broken.jpg").write_bytes(find_images(people[0])[0].read_bytes()[:2000])
    (in_tmp / "photos/text.jpg").write_text("not a picture")
    result = run("cluster", "photos")
    assert result.code == 3 and "3 failed" in result.out
    assert all(f"{name}: " in result.err for name in ("photos/empty.png", "photos/broken.jpg", "photos/text.jpg"))
    assert all(set(faces) <= set(view()[name]) for name, faces in before.items() if name != "noise")
    assert {second, third} <= who()[whose[second]] and who()["Ana"] == {first}
    assert odd not in view()["Ana"] and any(len(view()[name]) > len(before[name]) for name in before if name != "noise")

    for _ in range(3):
        assert run("cluster", "--undo").code == 0
    after = view()  # as if nothing had ever been edited, but for the numbers
    assert "Ana" not in after
    run("cluster", "photos", "--output", "fresh")
    fresh = [{f["crop"].removesuffix(".png") for f in c["faces"]} for c in clusters("fresh")]
    assert sorted(map(sorted, fresh)) == sorted(faces for name, faces in after.items() if name != "noise")
