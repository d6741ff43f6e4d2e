"""predict: who is in images and videos; the recognizer; pictures for people."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import COLOURS, CROP, SPACE, STRANGER, FakeDetector, FakeEmbedder, photo, save, tree, video

from facerec.artifacts import save_embeddings
from facerec.classify import Classifier
from facerec.draw import annotate_predictions, caption, contact_sheet, label
from facerec.errors import FacerecError, SpaceError, UsageError
from facerec.images import read_image
from facerec.recognizer import Recognizer
from facerec.stages.appearances import appearances
from facerec.stages.predict import expand, predict
from facerec.types import Embeddings, Face, Gate, Prediction, Space
from facerec.video import Video


def colours(space=SPACE):
    """Three enrolled people, one photo each."""
    x = np.array([COLOURS[name] for name in ("ana", "ben", "cleo")], np.float32) - 127.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = np.array(["ana", "ben", "cleo"])
    return Embeddings(x, names, names, np.array(["train"] * 3), names, space)


GROUP = photo(5, [COLOURS["ben"], STRANGER, COLOURS["ana"]])


def names(predictions):
    return {p.name for p in predictions}


# --- recognizer ----------------------------------------------------------------------------------


def test_every_face_is_named_in_the_order_of_the_detections(recognizer):
    predictions = recognizer.recognize(GROUP)
    assert sorted((p.face.box[0] // 90, p.name) for p in predictions) == [(0, "ben"), (1, None), (2, "ana")]
    assert [p.face.confidence for p in predictions] == sorted((p.face.confidence for p in predictions), reverse=True)
    (stranger,) = (p for p in predictions if p.name is None)
    assert stranger.distance > 0.4 and "threshold 0.40" in stranger.reason and stranger.candidate in COLOURS


def test_an_image_without_faces_has_no_predictions(recognizer):
    assert recognizer.recognize(photo(1)) == []


def test_only_the_chosen_faces_are_named(recognizer):
    chosen = Recognizer(recognizer.detector, recognizer.embedder, recognizer.classifier, "largest")
    assert names(chosen.recognize(GROUP)) == {"ana"}


@pytest.mark.parametrize(
    "space",
    [
        Space("facenet-512", "fake", CROP, False),
        Space("facenet-128", "other", CROP, False),
        replace(SPACE, flip=True),
    ],
)
def test_a_classifier_of_another_space_is_refused(space):
    with pytest.raises(SpaceError, match="the classifier holds vectors of"):
        Recognizer(FakeDetector(), FakeEmbedder(), Classifier.train("nearest", colours(space), Gate(0.4)))


# --- predict -------------------------------------------------------------------------------------


@pytest.fixture
def album(in_tmp):
    save(in_tmp / "album" / "a" / "1.png", photo(1, [COLOURS["ana"]]))
    save(in_tmp / "album" / "b" / "1.png", photo(2, [COLOURS["ben"]]))
    save(in_tmp / "album" / "b" / "10.png", GROUP)
    (in_tmp / "album" / "notes.txt").write_text("no picture")
    video(in_tmp / "party.mp4", [photo(1)] * 3)
    return in_tmp


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["album"], ["album/a/1.png", "album/b/1.png", "album/b/10.png"]),
        (["album/b/10.png"], ["album/b/10.png"]),
        (["album/*/1.png"], ["album/a/1.png", "album/b/1.png"]),
        (["album/**/1*"], ["album/a/1.png", "album/b/1.png", "album/b/10.png"]),
        (["album/a", "album/b/10.png"], ["album/a/1.png", "album/b/10.png"]),
        (["album/notes.txt"], ["album/notes.txt"]),
        (["album/n*.txt"], []),
    ],
)
def test_files_folders_and_patterns_are_expanded(album, inputs, expected):
    assert [p.as_posix() for p in expand(inputs)] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.jpg", r"no gone\.jpg"), ("gone/*.jpg", "no gone"), ("party.mp4", "facerec extract party")],
)
def test_what_is_not_there_or_a_video_is_a_usage_error(album, name, message):
    with pytest.raises(UsageError, match=message):
        list(expand([name]))


def test_a_file_name_with_brackets_is_no_pattern(album):
    save(album / "a[1].png", GROUP)
    assert [p.name for p in expand(["a[1].png"])] == ["a[1].png"]


def answers(inputs, recognizer, output=None, **options):
    seen = {}
    report = predict(
        list(expand(inputs)),
        output,
        recognizer=recognizer,
        emit=lambda name, p, e: seen.update({name: (p, e)}),
        **options,
    )
    return report, seen


def test_every_image_gets_its_answer_and_an_annotated_copy(album, recognizer):
    report, seen = answers(["album"], recognizer, album / "named")
    assert report.done == 3 and {name: names(p) for name, (p, _) in seen.items()} == {
        "album/a/1.png": {"ana"}, "album/b/1.png": {"ben"}, "album/b/10.png": {"ana", "ben", None},
    }  # fmt: skip
    copies = sorted(p.relative_to(album / "named").as_posix() for p in (album / "named").rglob("*.*"))
    assert copies == ["a/1.jpg", "b/1.jpg", "b/10.jpg"]
    assert read_image(album / "named" / "b" / "10.jpg").shape == GROUP.shape


def test_an_image_that_cannot_be_read_is_reported_and_the_others_go_on(album, recognizer):
    (album / "album" / "a" / "0.png").write_text("no picture")
    report, seen = answers(["album"], recognizer)
    assert report.done == 3 and [f.source for f in report.failed] == ["album/a/0.png"]
    assert seen["album/a/0.png"][0] == [] and "not a picture" in seen["album/a/0.png"][1]
    with pytest.raises(FacerecError, match=r"0\.png: not a picture"):
        answers(["album"], recognizer, strict=True)


@pytest.mark.parametrize(
    "inputs", [["../other/1.png", "b/1.png"], ["b/../../other/1.png", "b/1.png"]], ids=["beside", "through"]
)
def test_annotated_copies_stay_inside_the_output_folder(album, recognizer, monkeypatch, inputs):
    save(album / "other" / "1.png", GROUP)
    monkeypatch.chdir(album / "album")
    before = {p for p in album.rglob("*") if p.is_file()}
    answers(inputs, recognizer, album / "album" / "named")
    new = {p for p in album.rglob("*") if p.is_file()} - before
    assert len(new) == 2 and all((album / "album" / "named").resolve() in p.resolve().parents for p in new)


def test_an_annotated_copy_never_overwrites_its_original(album, recognizer):
    path = save(album / "album" / "c.jpg", GROUP)
    before = path.read_bytes()
    with contextlib.suppress(FacerecError):  # refusing is as right as another name
        answers(["album"], recognizer, album / "album")
    assert path.read_bytes() == before


# --- predict on videos ---------------------------------------------------------------------------


def film(path, n=6):
    return video(path, [photo(3, [COLOURS["ana"]])] * n, fps=10)


def test_appearances_are_who_was_there_from_when_to_when(in_tmp, recognizer):
    """Ana for four seconds, then nobody, then a stranger and ben."""
    ana, pair = photo(3, [COLOURS["ana"], (120, 120, 120)]), photo(3, [STRANGER, COLOURS["ben"]])
    path = video(in_tmp / "party.mp4", [ana] * 40 + [photo(3, [(120, 120, 120)] * 2)] * 20 + [pair] * 40, fps=10)
    before = path.read_bytes()
    found, cut_off = appearances(path, in_tmp / "named" / f"{path.stem}.mp4", recognizer=recognizer)
    assert cut_off is None and [a.name for a in found if a.name] == ["ana", "ben"]
    who = {a.name: a for a in found}
    assert (who["ana"].start, who["ben"].start, who[None].start) == pytest.approx((0, 6, 6), abs=0.11)
    assert (who["ana"].end, who["ben"].end, who[None].end) == pytest.approx((3.8, 9.8, 9.8), abs=0.21)
    assert (
        0 <= who["ana"].best <= 3.9 and "threshold 0.40" in who[None].reason and who["ana"].to_json()["reason"] is None
    )
    with Video(in_tmp / "named" / "party.mp4") as copy:
        assert copy.count == 100
    assert read_image(in_tmp / "named" / "party.faces.png").shape[1] > 3 * 160
    assert path.read_bytes() == before and {p.name for p in (in_tmp / "named").iterdir()} == {
        "party.mp4", "party.faces.png",
    }  # fmt: skip


def test_the_annotated_copy_never_overwrites_the_video(in_tmp, recognizer):
    path = film(in_tmp / "party.mp4")
    with pytest.raises(UsageError, match="the video itself"):
        appearances(path, path, recognizer=recognizer)


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "a/v.mp4", "v.mp4", "--output", "."],
        ["predict", "a/x.png", "--output", "a"],
        ["explain", "a/x.png", "--output", "a"],
        ["blur", "a/v.mp4", "--output", "a"],
    ],
)
def test_what_lies_among_the_inputs_is_never_written_over(in_tmp, run, fakes, words):
    for name, n in (("a/v.mp4", 3), ("v.mp4", 4)):
        (in_tmp / name).parent.mkdir(exist_ok=True)
        film(in_tmp / name, n)
    save(in_tmp / "a" / "x.png", GROUP)
    save(in_tmp / "a" / "x.jpg", GROUP)
    save_embeddings(in_tmp / "embeddings" / "gallery.npz", colours(SPACE))
    before = tree(in_tmp)
    answer = run(*words)
    assert answer.code == 2 and "among the inputs" in answer.err and tree(in_tmp) == before


def test_a_narrow_sheet_has_room_for_its_title_and_captions_keep_their_ends():
    tile = np.zeros((9, 9, 3), np.uint8)
    assert contact_sheet([(tile, "", (0, 0, 0))], title="x" * 60).shape[1] > 400
    many = [contact_sheet([(tile, f"a very long name of somebody~{n}", (0, 0, 0))]) for n in (1, 1, 2)]
    assert (many[0] == many[1]).all() and (many[0] != many[2]).any()


def test_only_east_asian_names_need_another_font(caplog, monkeypatch):
    from facerec import draw

    monkeypatch.setattr(draw, "FONTS", ("no such font.ttf",))
    for cached in (draw._east_asian, draw._say_once):
        cached.cache_clear()
    draw.font(31, "Anna \U0001f600 Nguy\u1ec5n \u0434\u043e\u043c")
    assert caplog.text == ""
    for _ in range(2):
        draw.font(31, "\u674e\u5c0f\u9f8d")
    assert caplog.text.count("no font here has Chinese") == 1


def test_a_copy_is_never_written_through_a_link_to_its_original(in_tmp, run, fakes):
    save(in_tmp / "x.jpg", GROUP)
    (in_tmp / "out").mkdir()
    (in_tmp / "out" / "x.jpg").symlink_to(in_tmp / "x.jpg")
    before = (in_tmp / "x.jpg").read_bytes()
    answer = run("blur", "x.jpg", "--output", "out")
    assert answer.code == 2 and "among the inputs" in answer.err and (in_tmp / "x.jpg").read_bytes() == before


def test_videos_of_one_name_get_a_copy_each_and_pictures_beside_them_theirs(in_tmp, run, fakes):
    for folder, n in (("m", 3), ("n", 4)):
        (in_tmp / "in" / folder).mkdir(parents=True)
        film(in_tmp / "in" / folder / "v.mp4", n)
    save(in_tmp / "in" / "x.png", GROUP)
    save_embeddings(in_tmp / "embeddings" / "gallery.npz", colours(SPACE))
    answer = run("predict", "in", "--output", "named", "--json")
    assert answer.code == 0
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line.get("image") or line["video"] for line in lines] == ["in/x.png", "in/m/v.mp4", "in/n/v.mp4"]
    copies = sorted(p.relative_to(in_tmp / "named").as_posix() for p in (in_tmp / "named").rglob("*.*"))
    assert copies == ["m/v.faces.png", "m/v.mp4", "n/v.faces.png", "n/v.mp4", "x.jpg"]
    assert run("predict", "in", "--csv").code == 2


# --- pictures for people -------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(10, 10, 40, 40), (0, 0, 5, 5), (60, 60, 90, 90), (-5, -5, 200, 200)])
def test_annotations_are_drawn_on_a_copy_of_the_same_size(box):
    image = photo(1)
    before = image.copy()
    marked = annotate_predictions(image, [Prediction(Face(box, 1), "Ünal", 0.5, None, "", "Ünal")])
    assert marked.shape == image.shape and (image == before).all() and (marked != before).any()


def test_a_caption_of_a_file_with_a_line_break_in_its_name_is_one_line():
    assert label("a\nb\tc", 12, (0, 0, 0), 2).shape == label("a�b�c", 12, (0, 0, 0), 2).shape


def test_a_caption_gives_the_distance_that_the_answer_goes_by():
    face, nearest = Face((0, 0, 9, 9), 1), (("ben", 1.11), ("ana", 1.24))
    assert caption(Prediction(face, "ana", 0.62, None, "", "ana", nearest)) == "ana 0.62"
    assert caption(Prediction(face, None, 1.24, None, "too far from everyone: 1.11", "ana", nearest)) == "unknown 1.11"
    assert caption(Prediction(face, None, 2.0, None, "nobody is enrolled", "")) == "unknown 2.00"


@pytest.mark.parametrize(("n", "columns"), [(1, 8), (5, 3), (0, 3)])
def test_contact_sheets_hold_any_number_of_pictures(n, columns):
    tiles = [(np.full((40 + i, 300, 3), 200, np.uint8), "a very long name " * 4, (255, 0, 0)) for i in range(n)]
    sheet = contact_sheet(tiles, columns=columns, width=120, height=100, title="people")
    rows = -(-n // columns)
    assert sheet.shape[0] >= rows * 100 and sheet.shape[1] >= min(n, columns) * 120
