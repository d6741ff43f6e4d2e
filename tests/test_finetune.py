"""finetune: the loss against the paper's equations, mining, batches, a run that is killed, and the whole command."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import photos, vectors

from facerec import catalogue, weights
from facerec.artifacts import load_embeddings, save_embeddings, sha256_of, write_npz
from facerec.errors import UsageError
from facerec.stages.finetune import Comparison, _gate, compare, for_training, of_side, sides
from facerec.types import TrainingSettings

training = pytest.importorskip("facerec.training")
tf = pytest.importorskip("tensorflow")

RULES = ("batch-all", "batch-hard", "semi-hard")


# --- the loss ------------------------------------------------------------------------------------


def plain(x, labels, rule, margin):
    """Equations 1 to 3 of the paper in loops; the mean over the triplets that the rule chooses."""

    def apart(i, j):
        return float(((x[i].astype(np.float64) - x[j].astype(np.float64)) ** 2).sum())

    n = len(x)
    losses = []
    for a in range(n):
        positives = [p for p in range(n) if labels[p] == labels[a] and p != a]
        negatives = [k for k in range(n) if labels[k] != labels[a]]
        if not positives or not negatives:
            continue
        if rule == "batch-all":
            losses += [apart(a, p) - apart(a, k) + margin for p in positives for k in negatives]
        elif rule == "batch-hard":
            hardest, closest = max(apart(a, p) for p in positives), min(apart(a, k) for k in negatives)
            losses.append(hardest - closest + margin)
        else:
            for p in positives:
                further = [apart(a, k) for k in negatives if apart(a, k) > apart(a, p)]
                negative = min(further) if further else max(apart(a, k) for k in negatives)
                losses.append(apart(a, p) - negative + margin)
    active = [loss for loss in losses if loss > 0]
    total = sum(active)
    mean = total / max(len(active), 1) if rule == "batch-all" else total / len(losses)
    return mean, len(active) / len(losses)


def batch(seed, n=24, people=6, d=16):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, people, n)
    x = rng.standard_normal((people, d))[labels] + 0.8 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(8))
def test_loss_and_mining_are_the_papers(rule, seed):
    x, labels = batch(seed)
    loss, active = training.triplet_loss(tf.constant(x), tf.constant(labels), rule, 0.2)
    expected, share = plain(x, labels, rule, 0.2)
    assert float(loss) == pytest.approx(expected, abs=1e-5) and float(active) == pytest.approx(share, abs=1e-6)
    assert 0 < share < 1


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_finite_differences(rule):
    x, labels = batch(3, n=10, people=3, d=4)
    x = tf.Variable(x.astype(np.float64))
    with tf.GradientTape() as tape:
        loss, _ = training.triplet_loss(tf.cast(x, tf.float32), tf.constant(labels), rule, 0.2)
    gradient = tape.gradient(loss, x).numpy()
    step = 1e-5
    for i, j in ((0, 0), (3, 2), (7, 1), (9, 3)):
        moved = [x.numpy().copy() for _ in range(2)]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        up, down = (plain(m, labels, rule, 0.2)[0] for m in moved)
        assert gradient[i, j] == pytest.approx((up - down) / (2 * step), abs=2e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_without_pairs_costs_nothing_and_a_person_alone_neither(rule):
    x, _ = batch(0, n=4)
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0]):
        loss, _ = training.triplet_loss(tf.constant(x), tf.constant(labels), rule, 0.2)
        assert not float(loss) > 0


def test_batches_hold_p_people_with_k_photos_and_everybody_comes():
    labels = np.repeat(np.arange(10), [2, 3, 4, 5, 6, 2, 3, 4, 5, 6])
    drawn = training.batches(labels, 4, 3, np.random.default_rng(0))
    assert [len(rows) for rows in drawn] == [12, 12, 12]
    assert {int(p) for rows in drawn for p in labels[rows]} == set(range(10))
    for rows in drawn:
        _, counts = np.unique(labels[rows], return_counts=True)
        assert counts.tolist() == [3] * 4


@pytest.mark.parametrize("n", range(2, 100, 3))
def test_no_person_comes_twice_in_a_batch_and_none_is_left_out(n):
    labels = np.repeat(np.arange(n), 2)
    drawn = training.batches(labels, 32, 2, np.random.default_rng(n))
    sets = [set(labels[rows].tolist()) for rows in drawn]
    assert all(len(s) == min(32, n) for s in sets) and set().union(*sets) == set(range(n))


def test_augmented_crops_differ_and_keep_their_shape(astronaut):
    crop = astronaut[:160, 140:300]
    seen = [training.augmented(crop, np.random.default_rng(i)) for i in range(20)]
    assert all(s.shape == crop.shape and s.dtype == np.uint8 for s in seen)
    assert len({s.tobytes() for s in seen}) >= 19
    assert (training.augmented(crop, np.random.default_rng(1)) == seen[1]).all()


# --- training ------------------------------------------------------------------------------------


def crowd(people=30, photos_each=5, d=16, seed=0):
    """People who differ in half of the dimensions; the other half is noise that a projection can drop."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), photos_each)
    x = 0.5 * rng.standard_normal((people, d))[labels] + 0.1 * rng.standard_normal((len(labels), d))
    x[:, d // 2 :] = 0.5 * rng.standard_normal((len(labels), d - d // 2))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


EVERY = np.arange(150)
SETTINGS = TrainingSettings(people=10, photos=4, rate=0.02, epochs=12, patience=12)


def fit(folder, settings=SETTINGS, x=None, **options):
    x, labels = crowd() if x is None else x
    learner = training.Head(x)
    learn, rest = labels < 20, labels >= 20
    history = training.train(learner, labels, learn, rest, settings, folder / "checkpoint.npz", **options)
    return history, learner


def test_a_head_learns_what_tells_people_apart_also_those_it_has_not_seen(tmp_path):
    history, learner = fit(tmp_path)
    assert history.tar[history.best] > history.tar[0] + 0.2 and history.loss[-1] < history.loss[0]
    np.testing.assert_allclose(np.linalg.norm(learner.embed(EVERY), axis=1), 1, atol=1e-5)


def test_before_training_a_head_changes_nothing():
    x, _ = crowd()
    np.testing.assert_allclose(training.Head(x).embed(EVERY), x, atol=1e-6)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 4, 11])
def test_a_run_that_was_killed_goes_on_on_the_same_curve(tmp_path, epoch):
    def progress(items, total, title):
        for i, item in enumerate(items):
            if title == f"epoch {epoch}" and i == 1:
                raise KilledError
            yield item

    whole, learner = fit(tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(tmp_path / "cut", progress=progress)
    resumed, again = fit(tmp_path / "cut")
    assert resumed == whole
    assert (again.embed(EVERY) == learner.embed(EVERY)).all()


def test_a_checkpoint_of_other_settings_or_photos_is_not_taken_up(tmp_path):
    first, _ = fit(tmp_path)
    other, _ = fit(tmp_path, replace(SETTINGS, seed=1))
    assert other.loss != first.loss
    told = []
    fit(tmp_path, replace(SETTINGS, seed=1), say=lambda epoch, history: told.append(epoch))
    assert told == []  # it was finished
    fit(tmp_path, replace(SETTINGS, seed=1), identity="other photos", say=lambda epoch, history: told.append(epoch))
    assert told == list(range(1, 13))
    (tmp_path / "checkpoint.npz").write_bytes(b"damaged")
    assert fit(tmp_path)[0] == first


def test_training_stops_when_nothing_gets_better(tmp_path):
    x, labels = crowd()
    alike = np.tile(x[:1], (len(x), 1))
    history, _ = fit(tmp_path, replace(SETTINGS, patience=2, epochs=50), (alike, labels))
    assert len(history.loss) == 2 and history.best == 0


# --- who learns, who judges ----------------------------------------------------------------------


def test_people_are_on_one_side_each_whatever_order_they_come_in():
    names = [f"p{i}" for i in range(70)]
    first = sides(names, 0)
    assert first == sides(names[::-1], 0) != sides(names, 1)
    assert [list(first.values()).count(s) for s in ("learn", "validate", "test")] == [40, 10, 20]


def test_those_with_one_photo_are_left_out_and_the_photos_that_train_tests_on():
    rows = vectors({"ana": 3, "ben": 1, "cleo": 2})
    assert for_training(rows).people == ["ana", "cleo"] and len(of_side(rows, 0)) == 6
    rows.splits[[0, -1]] = "test"
    assert for_training(rows).people == ["ana"] and len(for_training(rows)) == 2


def test_better_is_said_only_beyond_the_interval():
    x, labels = crowd(60, 4)
    half = x.copy()
    half[:, 8:] = 0
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    assert compare("", x, half, labels).verdict == "better" and compare("", half, x, labels).verdict == "worse"
    assert compare("", x, x, labels).verdict == "not better"
    few = compare("", x[:8], half[:8], labels[:8])
    assert few.verdict == "not enough data" and few == Comparison("", 8, 2, None, None, None)
    x, labels = crowd(5, 10)
    judged = compare("", x, x, labels)
    assert judged.before and judged.gain is None and judged.verdict == "not enough data"


def test_a_gate_needs_people_who_look_alike():
    gate = _gate(*crowd(60, 4, d=6), "facenet-128")
    assert gate.fmr == catalogue.gate("facenet-128").fmr and gate.fmr_interval[0] > 0
    assert _gate(np.eye(200, dtype=np.float32), np.repeat(np.arange(100), 2), "facenet-128") is None


def test_too_few_people_and_names_that_are_none_are_refused(in_tmp, run, facerec_home):
    photos(Path("raw_images"), {"ana": 2})
    save_embeddings(Path("embeddings/faces.npz"), vectors({"ana": 3, "ben": 3}, dim=128))
    for words, message in (
        (["--name", "mine"], "2 people have two training photos"),
        (["--name", "facenet-128"], "facenet-128 is a model that is published"),
        (["--name", "../x"], "cannot be a model's name"),
        (["--name", "mine", "--layers", "some"], "none of head, all"),
        (["--name", "mine", "--photos", "1"], "1 is not 2 or more"),
        (["--name", "mine", "--alpha", "nan"], "nan is not between 0 and 2"),
        (["--name", "mine", "--rate", "0"], "0 is not between 0 and 1"),
        (["--name", "mine", "--report"], "no fine-tuned model 'mine'"),
    ):
        result = run("finetune", *words)
        assert result.code in (1, 2) and message in result.err, result.err


# --- the catalogue -------------------------------------------------------------------------------


def test_a_tuned_model_is_in_the_catalogue_until_it_is_removed(facerec_home, in_tmp, tmp_path, run):
    (tmp_path / "g.onnx").write_bytes(b"graph")
    catalogue.add_tuned("mine", "facenet-128", tmp_path / "g.onnx", catalogue.gate("facenet-128"), {"layers": "head"})
    assert weights.status("mine") == "ready" and catalogue.gate("mine") == catalogue.gate("facenet-128")
    assert catalogue.gate("mine", sha256_of(weights.graph("mine", "mine.onnx"))) == catalogue.gate("facenet-128")
    assert catalogue.gate("mine", "of another network of that name") is None
    assert weights.graph("mine", "mine.onnx").read_bytes() == b"graph"
    assert "fine-tuned here (head)" in run("models", "list").out
    with pytest.raises(UsageError, match="already"):
        catalogue.require_new("mine")
    save_embeddings(Path("embeddings/gallery.npz"), vectors({"ana": 2, "ben": 2}))
    write_npz(Path("finetuned/mine/checkpoint.npz"), {"kind": "training"}, {"state0": np.zeros(3)})
    forgotten = run("forget", "ana", "--yes")
    assert forgotten.code == 0 and "facerec models remove mine" in forgotten.err
    assert catalogue.gate_at("mine", 0.01) is None
    weights.graph.cache_clear()
    (facerec_home / "tuned/mine.onnx").write_bytes(b"changed")
    assert weights.status("mine") == "damaged"
    with pytest.raises(weights.WeightsError, match="changed"):
        weights.graph("mine", "mine.onnx")
    (facerec_home / "tuned/mine.json").write_text("{")
    listed = run("models", "list")
    assert listed.code == 0 and "mine         damaged" in listed.out and "facenet-128" in listed.out
    assert "mine: damaged — facerec models remove mine" in run("models", "verify").out
    assert "is damaged" in run("verify", "a.jpg", "b.jpg", "--model", "mine").err
    assert run("models", "remove", "mine").code == 0 and catalogue.tuned_names() == []
    assert run("models", "remove", "facenet-128").code == 2


# --- all of it, on the real network --------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Fourteen people: the sample photos of five, in three parts each, so that there are enough names."""
    from facerec.cli import main

    folder = tmp_path_factory.mktemp("finetune")
    for person in sorted((weights.samples() / "train").iterdir()):
        shots = sorted(person.iterdir())
        for part in range(3):
            target = folder / "raw_images" / f"{person.name}{part}"
            target.mkdir(parents=True)
            for shot in shots[part::3]:
                (target / shot.name).write_bytes(shot.read_bytes())
    before = Path.cwd()
    os.chdir(folder)
    assert main(["detect", "--test-size", "0"]) in (0, 3) and main(["embed"]) == 0
    os.chdir(before)
    return folder


@pytest.fixture
def own_models(project, monkeypatch):
    monkeypatch.chdir(project)
    yield project
    for name in catalogue.tuned_names():
        if name.startswith("test-"):
            catalogue.remove_tuned(name)
    weights.graph.cache_clear()


def tune(run, layers, *words):
    """A model's name and its report."""
    result = run("finetune", "--name", f"test-{layers}", "--layers", layers, *words, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out.splitlines()[-1])
    assert report["agreement"] >= 0.9999 and [c["what"] for c in report["comparisons"]] == [
        "yours",
        "others: the sample photos",
    ]
    return f"test-{layers}", report


@pytest.mark.real
def test_a_model_is_trained_exported_judged_and_used(own_models, run):
    name, report = tune(run, "head", "--epochs", "2")
    assert len(report["history"]["loss"]) == 2
    assert (own_models / "finetuned" / name / "report.html").is_file()
    assert run("embed", "--model", name, "--output", f"embeddings/{name}.npz").code == 0
    assert run("train", "--nearest", f"embeddings/{name}.npz", "--threshold", "0.9").code == 0
    added = run("enroll", "Ana", "raw_images/madonna0", "--gallery", f"embeddings/{name}.npz", "--force")
    assert added.code == 0, added.err  # by the gallery's own model
    assert run("train", "--nearest", "--output", "classifiers/old.npz").code == 0
    old = ["--classifier", "classifiers/old.npz", "--embeddings", f"embeddings/{name}.npz"]
    refused = run("evaluate", "classifier", *old)
    assert refused.code == 1 and "`facerec train` makes a classifier of these" in refused.err
    again = run("finetune", "--name", name, "--report", "--json")
    assert json.loads(again.out.splitlines()[-1])["comparisons"] == report["comparisons"]
    assert not (own_models / "finetuned" / name / "checkpoint.npz").exists()
    fewer = load_embeddings(Path("embeddings/faces.npz"))
    save_embeddings(Path("embeddings/fewer.npz"), fewer[fewer.labels != "madonna0"])
    changed = run("finetune", "--name", name, "--report", "--embeddings", "embeddings/fewer.npz")
    assert changed.code == 1 and "other people" in changed.err
    names = {p.name for p in (own_models / "raw_images").iterdir()}
    record = (catalogue.home() / "tuned" / f"{name}.json").read_text()
    assert not any(person in record for person in names)


@pytest.mark.real
def test_the_last_block_is_trained_and_exported_with_the_rest(own_models, run):
    name, report = tune(run, "1", "--epochs", "1", "--people", "4", "--photos", "2")
    assert len(report["history"]["loss"]) == 1
    assert weights.status(name) == "ready"


@pytest.mark.real
def test_the_last_blocks_learn_or_everything_but_never_batch_normalisation():
    from facerec import reference

    ((_, path),) = weights.weights("facenet-128").items()
    network = reference.facenet(path, 128)

    def learning(layers):
        training.free_layers(network, layers)
        return {layer.name for layer in network.layers if layer.trainable and layer.trainable_variables}

    one, two, everything = learning(1), learning(2), learning(None)
    assert {name.split("_Branch")[0].split("_Conv")[0] for name in one} == {"Block8_6", "Bottleneck"}
    assert one < two < everything and "Conv2d_1a_3x3" in everything
    assert not any("BatchNorm" in name for name in everything)


@pytest.mark.real
def test_a_killed_process_goes_on(own_models):
    command = [
        sys.executable,
        "-m",
        "facerec",
        "finetune",
        "--name",
        "test-killed",
        "--epochs",
        "40",
        "--patience",
        "40",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "epoch 5:" in line:
            break
    process.kill()
    process.wait()
    assert "test-killed" not in catalogue.tuned_names()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    first = next(line for line in done.stderr.splitlines() if "epoch" in line)
    assert done.returncode == 0 and int(first.split("epoch ")[1].split(":")[0]) >= 5, done.stderr
