"""Tracks: faces that move, cross, hide and come back; votes; and following them through a film."""

import numpy as np
import pytest
from conftest import COLOURS, STRANGER

from facerec.follower import AT_ONCE, MAX_STEP, Follower
from facerec.tracking import EVIDENCE, PATIENCE, VISIBLE, Track, Tracker, moved, overlaps
from facerec.types import Face, Prediction
from facerec.video import Frame

FPS = 25


def face(x, y=50.0, side=40.0, confidence=0.99):
    points = np.array(
        [[x + a * side, y + b * side] for a, b in ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.4, 0.8), (0.6, 0.8))]
    )
    return Face((x, y, x + side, y + side), confidence, points)


def answer(name, distance=0.5, confidence=1.0):
    return Prediction(face(0, confidence=confidence), name, distance, None, "" if name else "far", name or "ana")


def numbers(tracks):
    return [track.number for track in tracks]


# --- tracker -------------------------------------------------------------------------------------


def test_moving_faces_keep_their_tracks_also_between_detections():
    tracker = Tracker()
    for i in range(60):
        if i % 3 == 0:
            tracker.update([face(10 + 6 * i), face(700 - 6 * i, 200)], i / FPS)
        else:
            assert tracker.advance(i / FPS) == []
        if i > 3:  # the motion is known
            for track, x in zip(tracker.tracks, (10 + 6 * i, 700 - 6 * i), strict=True):
                assert track.face.box[0] == pytest.approx(x, abs=0.5)
                assert track.face.keypoints[2, 0] == pytest.approx(x + 20, abs=0.5)
    assert numbers(tracker.tracks) == [1, 2]


def test_faces_that_cross_keep_their_tracks():
    tracker = Tracker()
    for i in range(50):
        tracker.update([face(10 + 8 * i, 50), face(402 - 8 * i, 62)], i / FPS)
    assert [round(track.face.box[0]) for track in tracker.tracks] == [402, 10]


def test_a_face_hidden_for_a_moment_comes_back_as_itself_and_is_not_shown_meanwhile():
    tracker = Tracker()
    for i in range(40):
        hidden = 10 <= i < 28
        tracker.update([] if hidden else [face(10 + 5 * i)], i / FPS)
        shown = numbers(tracker.visible(i / FPS))
        since = (i - 9) / FPS
        assert shown == ([] if i == 0 or (hidden and since > VISIBLE) else [1])
    assert numbers(tracker.tracks) == [1]


def test_a_face_that_is_gone_ends_once_and_another_there_is_another_track():
    tracker = Tracker()
    tracker.update([face(10)], 0)
    tracker.update([face(10)], 0.1)
    assert tracker.advance(0.1 + PATIENCE) == []
    (gone,) = tracker.advance(0.2 + PATIENCE)
    assert gone.number == 1 and tracker.tracks == [] and tracker.advance(9) == []
    found, _ = tracker.update([face(10)], 9)
    assert numbers(found) == [2]


def test_what_is_seen_once_is_not_shown():
    tracker = Tracker()
    tracker.update([face(10), face(300)], 0)
    assert tracker.visible(0) == []
    tracker.update([face(11)], 0.04)
    assert numbers(tracker.visible(0.04)) == [1]


def test_who_was_found_last_time_is_shown_until_the_next_detection_however_late_it_comes():
    tracker = Tracker()
    for seconds in (0, 0.1):
        tracker.update([face(10), face(300)], seconds)
    tracker.update([face(10)], 0.5)
    for seconds in (0.6, 1.2):
        tracker.advance(seconds)
        assert numbers(tracker.visible(seconds)) == [1]


def test_each_detection_goes_to_one_track_and_the_better_one():
    tracker = Tracker()
    tracker.update([face(100), face(130)], 0)
    found, _ = tracker.update([face(128)], 0.04)
    assert numbers(found) == [2]


def test_a_face_that_is_hidden_does_not_take_the_one_in_front_of_it():
    tracker = Tracker()
    for i in range(3):
        tracker.update([face(100), face(104 - i)], i / FPS)  # number 2 moves to the left and stands still
    tracker.update([face(103)], 3 / FPS)  # hides number 1, or number 2, and nobody knows
    (in_front,) = (t for t in tracker.tracks if t.last == 3 / FPS)
    hidden = next(t for t in tracker.tracks if t is not in_front)
    hidden.velocity[:] = 0
    hidden.face = hidden._detected = face(108)  # exactly where the next detection is
    tracker.update([face(108)], 4 / FPS)
    assert in_front.last == 4 / FPS and hidden.last == 2 / FPS


def test_overlaps_are_of_widened_boxes():
    assert overlaps([face(0, side=10)], [face(0, side=10)])[0, 0] == pytest.approx(1)
    touching = overlaps([face(0, side=10)], [face(10, side=10)])[0, 0]  # widened to 18: 8 of them shared
    assert touching == pytest.approx(8 * 18 / (2 * 18 * 18 - 8 * 18))
    assert overlaps([], [face(0)]).shape == (0, 1) and overlaps([face(0)], []).shape == (1, 0)
    assert moved(face(0, side=10), np.array([0, 0, -50, -50.0])).size == 1


# --- votes ---------------------------------------------------------------------------------------


def test_one_good_view_or_several_poor_ones_give_a_name():
    good, poor = Track(1, face(0), 0, 0), Track(2, face(0), 0, 0)
    assert good.vote(answer("ana"), EVIDENCE, 0) and good.name == "ana"
    for i in range(4):
        assert poor.name is None
        poor.vote(answer("ana"), EVIDENCE / 3 + 0.01, i)
    assert poor.name == "ana"


def test_no_name_without_most_of_the_votes():
    track = Track(1, face(0), 0, 0)
    for i, name in enumerate([None, "ana", "ben", None, "ana", "ben"] * 3):
        track.vote(answer(name), 0.9, i)
        assert track.name is None
    assert track.prediction.name is None


def test_a_name_stays_and_what_is_shown_is_its_best_view():
    track = Track(1, face(0), 0, 0)
    track.vote(answer("ana", 0.7), 0.9, 0)
    assert track.vote(answer(None, 1.2), 0.6, 1) and track.vote(answer("ben", 0.9), 0.5, 2)
    assert (track.name, track.prediction.distance) == ("ana", 0.7)
    assert track.vote(answer("ana", 0.4), 0.9, 3) and track.prediction.distance == 0.4


def test_a_track_that_has_gone_over_to_another_person_says_so():
    track = Track(1, face(0), 0, 0)
    track.vote(answer("ana"), 0.6, 0)
    assert track.vote(answer("ben"), 0.5, 1)
    assert not track.vote(answer("ben"), 0.5, 2) and track.name == "ana"


def test_a_stranger_does_not_keep_a_name_but_a_persons_word_stays():
    track, told = Track(1, face(0), 0, 0), Track(2, face(0), 0, 0)
    for i in range(5):
        track.vote(answer("ana"), 0.6, i)
    told.rename("ana")
    kept = [track.vote(answer(None), 0.6, i) for i in range(6)]
    assert kept == [True] * 3 + [False] * 3 and track.name == "ana"
    assert all(told.vote(answer(None), 0.6, i) for i in range(6))


# --- following a film ----------------------------------------------------------------------------


def scene(i, faces):
    """A noisy grey picture with coloured squares at (x, y)."""
    rng = np.random.default_rng(i)
    image = np.repeat(rng.integers(90, 150, (200, 640, 1)).astype(np.uint8), 3, axis=2)
    for (x, y), colour in faces:
        image[y : y + 50, x : x + 50] = np.clip(np.array(colour) + rng.integers(-9, 10, (50, 50, 1)), 0, 255)
    return Frame(i, i / FPS, image)


def walk(i):
    """Ana walks to the right, a stranger to the left, ben comes and goes."""
    faces = [((10 + 4 * i, 20), COLOURS["ana"]), ((500 - 4 * i, 120), STRANGER)]
    return scene(i, faces + ([((580, 10), COLOURS["ben"])] if 20 <= i < 50 else []))


def followed(recognizer, frames, **options):
    """Name or None by track, in each frame; and the events."""
    follower = Follower(recognizer, **options)
    shown, events = [], []
    for frame in frames:
        shown.append({track.number: track.name for track in follower.follow(frame)})
        happened = follower.events
        events += [(kind, t.number, t.name) for kind in ("appeared", "named", "left") for t in getattr(happened, kind)]
    return follower, shown, events + [("left", t.number, t.name) for t in follower.finish()]


@pytest.mark.parametrize("step", [1, 3])
def test_everyone_is_followed_and_named_once_and_strangers_are_not(recognizer, step):
    _, shown, events = followed(recognizer, map(walk, range(90)), step=step)
    assert sorted(e for e in events if e[0] != "appeared") == [
        ("left", 1, "ana"), ("left", 2, None), ("left", 3, "ben"), ("named", 1, "ana"), ("named", 3, "ben"),
    ]  # fmt: skip
    assert sorted(number for kind, number, _ in events if kind == "appeared") == [1, 2, 3]
    assert all(frame.keys() >= {1, 2} for frame in shown[2 * step :])
    for number in (1, 3):  # once shown, a name never changes
        names = [frame[number] for frame in shown if number in frame]
        assert len(set(names[names.index(next(filter(None, names))) :])) == 1
    assert recognizer.detector.calls == -(-90 // step)
    assert recognizer.embedder.embedded < 20


def test_few_faces_are_looked_at_in_one_frame(recognizer):
    film = [scene(i, [((10 + 100 * k, 20), COLOURS["ana"]) for k in range(6)]) for i in range(8)]
    follower = Follower(recognizer, step=1)
    before = 0
    for frame in film:
        follower.follow(frame)
        assert recognizer.embedder.embedded - before <= AT_ONCE
        before = recognizer.embedder.embedded
    assert before == 6 and {t.name for t in follower.tracker.tracks} == {"ana"}


def test_another_person_in_the_same_place_is_another_track(recognizer):
    film = [scene(i, [((50, 50), COLOURS["ana" if i < 40 else "ben"])]) for i in range(200)]
    _, shown, events = followed(recognizer, film, step=1)
    assert [e for e in events if e[0] == "named"] == [("named", 1, "ana"), ("named", 2, "ben")]
    assert shown[39] == {1: "ana"} and shown[-1] == {2: "ben"}
    assert all(name in {1: (None, "ana"), 2: (None, "ben")}[number] for f in shown for number, name in f.items())


def test_a_stranger_in_a_named_persons_place_is_another_track(recognizer):
    film = [scene(i, [((50, 50), COLOURS["ana"] if i < 40 else STRANGER)]) for i in range(120)]
    _, shown, _ = followed(recognizer, film, step=1)
    assert shown[39] == {1: "ana"} and shown[-1] == {2: None}


def test_who_comes_after_a_stranger_is_looked_at_too(recognizer):
    """However often the stranger was looked at before."""
    film = [scene(i, [((50, 50), STRANGER if i < 120 else COLOURS["ana"])]) for i in range(240)]
    _, shown, _ = followed(recognizer, film, step=1)
    assert set(shown[119].values()) == {None} and set(shown[-1].values()) == {"ana"}


def test_in_another_scene_everybody_is_somebody_else(recognizer):
    def shot(i):
        light = scene(i, [((50, 50), COLOURS["ana"] if i < 40 or i >= 43 else STRANGER)])
        ground = np.ptp(light.image, axis=2, keepdims=True) == 0
        return light if i < 40 or i >= 43 else Frame(i, light.seconds, np.where(ground, np.uint8(255), light.image))

    _, shown, events = followed(recognizer, map(shot, range(80)), step=1)
    assert [frame.get(1) for frame in shown[39:44]] == ["ana", None, None, None, None]
    assert all(name is None for frame in shown[40:43] for name in frame.values())
    assert [e for e in events if e[0] == "named"] == [("named", 1, "ana"), ("named", 3, "ana")]


def test_a_camera_that_sways_shows_no_other_scene(recognizer):
    ground = np.kron(np.random.default_rng(0).integers(0, 2, (50, 200, 1)), np.ones((8, 8, 3))).astype(np.uint8) * 200

    def view(i):
        left = 400 + round(200 * np.sin(i / 6))  # up to 33 pixels a frame, over blocks of 8
        image = ground[:200, left : left + 640].copy()
        image[50:100, 50:100] = COLOURS["ana"]
        return Frame(i, i / FPS, image)

    _, _, events = followed(recognizer, map(view, range(60)), step=1)
    assert {number for _, number, _ in events} == {1} and events[-1] == ("left", 1, "ana")


@pytest.mark.parametrize("fps", [0.2, 0.8, 1.5])
@pytest.mark.parametrize("step", [1, 2])
def test_films_of_few_frames_a_second_have_tracks(recognizer, fps, step):
    film = [Frame(i, i / fps, scene(i, [((50, 50), COLOURS["ana"])]).image) for i in range(20)]
    _, shown, events = followed(recognizer, film, step=step)
    assert {number for frame in shown for number in frame} == {1} and ("left", 1, "ana") in events
    assert all(shown[2 * step :])


def test_whoever_was_there_before_a_long_gap_is_gone():
    tracker = Tracker()
    for i in range(10):
        tracker.update([face(50)], i / FPS)
    found, ended = tracker.update([face(50)], 9.0)
    assert numbers(ended) == [1] and numbers(found) == [2]


def test_the_step_fits_the_machine(recognizer):
    follower = Follower(recognizer, rate=25)
    follower._detecting = 0.030
    follower.worked(0.005)
    assert follower.step == 1
    follower._detecting = 0.110
    assert follower.step == 3
    follower._between = 0.045
    assert follower.step == MAX_STEP
    assert Follower(recognizer, step=4).step == 4
