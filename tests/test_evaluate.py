"""Error rates: against hand-computed examples, scikit-learn and scipy; failures stay in the denominators."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, photo, save
from scipy import stats
from sklearn.metrics import det_curve, roc_auc_score, roc_curve
from sklearn.metrics.cluster import contingency_matrix

from facerec import metrics, plots, protocols
from facerec.artifacts import load_embeddings, save_embeddings, write_text
from facerec.classify import KINDS
from facerec.errors import DataError
from facerec.metrics import Pair
from facerec.protocols import Photos


def comparisons(seed: int, n: int = 400, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.4
    dist = np.where(same, rng.normal(0.7, 0.2, n), rng.normal(1.1, 0.2, n)).clip(0, 2)
    return (dist.round(1) if ties else dist), same


def photos(
    people: int = 30,
    each: int = 3,
    noise: float | np.ndarray = 0.2,
    seed: int = 0,
    missing: tuple[int, ...] = (),
) -> Photos:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((people, 16))
    spread = np.repeat(np.broadcast_to(noise, people), each)[:, None]
    vectors = np.repeat(centre, each, axis=0) + spread * rng.standard_normal((people * each, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[list(missing)] = np.nan
    names = [f"p{i:02d}/{k}.jpg" for i in range(people) for k in range(each)]
    return Photos(np.array(names), np.array([n.split("/")[0] for n in names]), vectors)


# --- measures ------------------------------------------------------------------------------------


def test_rates_of_a_hand_computed_example():
    rates = metrics.error_rates(np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, False, True, False]))
    assert rates.thresholds[1:].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert rates.fmr.tolist() == [0, 0, 0.5, 0.5, 1] and rates.fnmr.tolist() == [1, 0.5, 0.5, 0, 0]
    assert (rates.auc, rates.eer) == (0.75, 0.5)
    assert rates.tar_at_far(0.1) == 0.5 and rates.tar_at_far(0.5) == 1


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_rates_agree_with_scikit_learn(seed, ties):
    dist, same = comparisons(seed, ties=ties)
    rates = metrics.error_rates(dist, same)
    assert rates.auc == pytest.approx(roc_auc_score(same, -dist), abs=1e-12)
    fpr, tpr, _ = roc_curve(same, -dist, drop_intermediate=False)
    for far in (0.3, 0.1, 0.05, 0.01):
        assert rates.tar_at_far(far) == pytest.approx(tpr[fpr <= far].max())
    fmr, fnmr, _ = det_curve(same, -dist)
    k = np.argmin(np.abs(fmr - fnmr))
    assert abs(rates.eer - (fmr[k] + fnmr[k]) / 2) <= abs(fmr[k] - fnmr[k]) / 2 + 0.5 / (~same).sum()


def test_weights_count_like_repetitions():
    dist, same = comparisons(1, 60)
    times = np.random.default_rng(0).integers(0, 4, 60)
    weighted = metrics.error_rates(dist, same, times.astype(float))
    repeated = metrics.error_rates(np.repeat(dist, times), np.repeat(same, times))
    assert weighted.auc == pytest.approx(repeated.auc) and weighted.eer == pytest.approx(repeated.eer)


def test_no_face_never_matches():
    rates = metrics.error_rates(np.array([0.1, np.inf, 0.5, np.inf]), np.array([True, True, False, False]))
    assert rates.fnmr.min() == 0.5 and rates.fmr.max() == 0.5
    assert rates.tar_at_far(0.1) == 0.5


def test_the_equal_error_rate_lies_on_the_chord_where_many_have_no_face():
    dist = np.array([0.1, 0.2, 0.3, *[np.inf] * 5, 0.9, 1.0, 1.1, *[np.inf] * 3])
    assert metrics.error_rates(dist, np.arange(14) < 8).eer == pytest.approx(5 / 9)


def test_where_no_photo_has_a_face_every_pair_is_an_error():
    nobody = photos(missing=tuple(range(90)))
    result = protocols.evaluate_pairs(nobody, protocols.make_pairs(photos()))
    assert (result.accuracy, result.accuracy_without_failures, result.auc) == (0, 0, 0.5)


def test_nobody_with_a_face_to_enrol_is_nobody_found(tmp_path):
    vectors = np.full((4, 3), np.nan, np.float32)
    vectors[1] = vectors[3] = (1, 0, 0)
    people = np.array(["a", "a", "b", "b"])
    photos = Photos(np.array([f"{p}/{i}" for i, p in enumerate(people)]), people, vectors)
    assert protocols._ranks(photos, np.array([0, 2]), np.array([1, 3])).tolist() == [0, 0]


def test_whoever_is_as_close_counts_against_the_search():
    people = np.array(["a", "b", "a"])  # one photo under two names
    photos = Photos(np.array(["a/0", "b/0", "a/1"]), people, np.eye(3, dtype=np.float32)[[0, 0, 0]])
    assert protocols._ranks(photos, np.array([0, 1]), np.array([2])).tolist() == [2]


def test_wilson_agrees_with_scipy():
    for k, n in ((0, 10), (3, 10), (10, 10), (994, 1000)):
        expected = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert metrics.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_covers_in_a_simulation():
    # over many shares: at a single one the coverage of any interval of a count swings around 95 %
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.02, 0.98, 5000)
    intervals = [metrics.wilson(k, 200) for k in rng.binomial(200, shares)]
    assert 0.94 <= np.mean([low <= p <= high for p, (low, high) in zip(shares, intervals, strict=True)]) <= 0.96


@pytest.mark.parametrize(("first", "second"), [(8, 2), (3, 3), (0, 0), (12, 0)])
def test_mcnemar_agrees_with_the_binomial_test(first, second):
    a = np.array([True] * 20 + [True] * first + [False] * second)
    b = np.array([True] * 20 + [False] * first + [True] * second)
    n = first + second
    expected = stats.binomtest(first, n).pvalue if n else 1.0
    assert metrics.mcnemar(a, b) == pytest.approx(expected) == pytest.approx(metrics.mcnemar(b, a))


def test_cumulative_match_of_a_hand_computed_example():
    assert metrics.cumulative_match(np.array([1, 2, 0, 1]), 3).tolist() == [0.5, 0.75, 0.75]


def test_open_set_rates_of_a_hand_computed_example():
    mated = np.array([0.5, 0.6, 0.9, np.inf])  # right, wrong person, right but far, no face
    correct = np.array([True, False, True, False])
    strangers = np.array([0.7, 0.8, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, np.inf])
    fnir, threshold = metrics.fnir_at_fpir(mated, correct, strangers, 0.1)
    assert 0.7 <= threshold < 0.8 and fnir == 0.75
    assert metrics.fnir_at_fpir(mated, correct, strangers, 0.3)[0] == 0.5


def test_a_rate_needs_three_expected_errors():
    assert metrics.enough_for(1e-3, 3000) and not metrics.enough_for(1e-3, 2999)


def test_bcubed_of_a_hand_computed_example():
    # Amigó et al. 2009: {a a b} {b} {c c}: precision (2/3+2/3+1/3+1+1+1)/6, recall (1+1+1/2+1/2+1+1)/6
    precision, recall, f = metrics.bcubed(np.array(list("aabbcc")), np.array([0, 0, 0, 1, 2, 2]))
    assert (precision, recall) == (pytest.approx(14 / 18), pytest.approx(5 / 6))
    assert f == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.bcubed(np.array(list("aab")), np.array([5, 5, 7])) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_bcubed_agrees_with_scikit_learns_contingency_matrix(seed):
    rng = np.random.default_rng(seed)
    truth, clusters = rng.integers(0, 9, 200), rng.integers(-1, 6, 200)
    table = contingency_matrix(truth, clusters).astype(float)
    precision = (table**2 / table.sum(axis=0)).sum() / table.sum()
    recall = (table**2 / table.sum(axis=1, keepdims=True)).sum() / table.sum()
    assert metrics.bcubed(truth, clusters)[:2] == pytest.approx((precision, recall))


def test_the_interval_of_a_share_covers_where_a_persons_trials_go_together():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        own = rng.beta(1, 9, 80)  # a mean of 0.1, and very different people
        who = np.repeat(np.arange(80), 10)
        share, (low, high) = metrics.share_by_person(rng.random(800) < own[who], who, rng)
        assert low <= share <= high
        covered.append(low <= 0.1 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_identity_bootstrap_of_pairs_covers():
    rng = np.random.default_rng(0)

    def make(people):  # some people are harder
        return photos(people, 3, noise=rng.uniform(0.4, 1.2, people), seed=int(rng.integers(2**32)))

    many = make(1500)
    truth = protocols.evaluate_pairs(many, protocols.make_pairs(many), draws=2)
    covered = {"auc": [], "eer": [], "accuracy": []}
    for seed in range(60):
        some = make(80)
        found = protocols.evaluate_pairs(some, protocols.make_pairs(some, seed=seed), draws=200)
        for name, (low, high) in (
            ("auc", found.auc_interval),
            ("eer", found.eer_interval),
            ("accuracy", found.interval),
        ):
            covered[name].append(low <= getattr(truth, name) <= high)
    assert all(0.85 <= np.mean(inside) <= 1 for inside in covered.values()), {k: np.mean(v) for k, v in covered.items()}


def test_the_interval_is_that_of_the_mean_over_folds_where_one_is_small():
    some = photos(40, 4, noise=np.where(np.arange(40) < 6, 6.0, 0.3))  # of six people nothing can be told
    hard = {f"p{i:02d}" for i in range(6)}
    pairs = [replace(p, fold=int(p.first[:3] in hard)) for p in protocols.make_pairs(some, folds=2)]
    result = protocols.evaluate_pairs(some, pairs)
    assert result.interval[0] <= result.accuracy <= result.interval[1] < result.right.mean()


def test_a_margin_keeps_its_promise_for_most_strangers():
    # one search in a hundred may pass; the margin is chosen on 500 strangers and measured on very many
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(100):
        lead = rng.exponential(0.1, (500, 4)) * rng.uniform(0.5, 1.5, (500, 1))
        margin = metrics.margin_at_fpir(lead.ravel(), np.repeat(np.arange(500), 4), 0.01, rng)
        others = rng.exponential(0.1, 20000) * rng.uniform(0.5, 1.5, 20000)
        kept.append((others >= margin).mean() <= 0.01)
    assert np.mean(kept) >= 0.9
    assert metrics.margin_at_fpir(np.full(50, -np.inf), np.arange(50), 0.01, rng) == 0


# --- protocols -----------------------------------------------------------------------------------


def test_pairs_drawn_from_a_folder_are_balanced_and_share_no_person_between_folds():
    pairs = protocols.make_pairs(photos(40, 4), seed=3)
    people = {}
    for pair in pairs:
        a, b = pair.first.split("/")[0], pair.second.split("/")[0]
        assert (a == b) == pair.same and pair.first != pair.second
        for person in (a, b):
            assert people.setdefault(person, pair.fold) == pair.fold
    assert sum(p.same for p in pairs) * 2 == len(pairs) and len({p.fold for p in pairs}) == 10
    assert pairs == protocols.make_pairs(photos(40, 4), seed=3) != protocols.make_pairs(photos(40, 4), seed=4)


def test_names_that_are_not_unicode_survive_the_file_of_pairs(tmp_path):
    listed = [Pair("Jos\udce9/1.jpg", "Jos\udce9/2.jpg", True, 0)]
    write_text(tmp_path / "pairs.json", metrics.write_pairs(listed))
    assert metrics.read_pairs(tmp_path / "pairs.json") == listed


def test_pairs_survive_their_file(tmp_path):
    pairs = protocols.make_pairs(photos(8, 2))
    path = tmp_path / "pairs.json"
    path.write_text(metrics.write_pairs(pairs))
    assert metrics.read_pairs(path) == pairs


def test_pairs_without_a_face_are_errors_and_listed():
    all_found, one_missing = photos(), photos(missing=(0,))
    pairs = protocols.make_pairs(all_found)
    hit = [p for p in pairs if "p00/0.jpg" in (p.first, p.second)]
    before, after = protocols.evaluate_pairs(all_found, pairs), protocols.evaluate_pairs(one_missing, pairs)
    assert before.accuracy == 1 and not before.failures
    assert after.failures == hit and after.accuracy < 1 and after.accuracy_without_failures == 1
    assert after.interval[0] <= after.accuracy <= after.interval[1]
    assert set(after.to_json()) >= {"accuracy", "standard_error", "auc", "eer", "tar_at_far", "pairs", "failures"}
    assert after.to_json()["tar_at_far"]["0.0001"] is None
    json.dumps(after.to_json(), allow_nan=False)


def test_pairs_of_an_unknown_photo_or_of_one_kind_are_refused():
    some = photos(4, 2)
    with pytest.raises(DataError, match="nobody/1"):
        protocols.evaluate_pairs(some, [Pair("nobody/1.jpg", "p00/0.jpg", True, 0)])
    with pytest.raises(DataError, match="both kinds"):
        protocols.evaluate_pairs(some, [Pair("p00/0.jpg", "p00/1.jpg", True, k) for k in (0, 1)])


def test_identification_of_clear_people_is_perfect_and_a_missing_probe_costs():
    clear = protocols.evaluate_identify(photos(), 0.01, draws=3)
    assert all(p.accuracy == 1 for points in clear.points.values() for p in points) and clear.cmc[0] == 1
    assert [p.n for p in clear.points["svm"]] == [10, 20, 30]
    assert all(p.seconds_per_sample > 0.01 and p.interval[0] < 1 for p in clear.points["knn"])
    lossy = protocols.evaluate_identify(photos(each=2, missing=tuple(range(0, 60, 6))), 0.0, draws=3)
    assert all(points[-1].accuracy == pytest.approx(20 / 30) for points in lossy.points.values())
    low, high = lossy.points["svm"][-1].interval
    assert 0.45 < low < 20 / 30 < high < 0.85, "ten of thirty people are never found: those count, not the draws"
    assert len(lossy.failures) == 10 and lossy.cmc[-1] == pytest.approx(20 / 30)
    with pytest.raises(DataError, match="shows a face"):
        protocols.evaluate_identify(photos(4, 2, missing=tuple(range(8))), 0.0)


def test_open_set_of_clear_people_refuses_every_stranger_and_counts_failures_to_enrol():
    clear = protocols.evaluate_open_set(photos(60, 3), draws=3)
    assert (clear.gallery, clear.impostors, clear.probes) == (30, 3 * 90, 3 * 60)
    assert all(rates[0.1] == 0 and rates[0.001] is None for rates in clear.fnir_at_fpir.values())
    lossy = protocols.evaluate_open_set(photos(60, 3, missing=tuple(range(0, 180, 9))), draws=3)
    assert all(rates[0.1] > 0.05 for rates in lossy.fnir_at_fpir.values()) and len(lossy.failures) == 20
    assert lossy.promises["nearest, distance"].fnir > 0.05
    assert set(lossy.to_json()) >= {"gallery", "probes", "impostors", "fnir_at_fpir", "failures"}


def test_shuffled_labels_are_at_chance():
    honest = photos(40, 4)
    rng = np.random.default_rng(0)
    shuffled = Photos(honest.names, rng.permutation(honest.people), honest.vectors)
    renamed = Photos(
        np.array([f"{p}/{i}.jpg" for i, p in enumerate(shuffled.people)]), shuffled.people, shuffled.vectors
    )
    pairs = protocols.evaluate_pairs(renamed, protocols.make_pairs(renamed))
    assert 0.4 < pairs.accuracy < 0.6 and 0.4 < pairs.auc < 0.6
    identify = protocols.evaluate_identify(renamed, 0.0)
    assert all(points[-1].accuracy < 0.1 for points in identify.points.values())
    assert all(rates[0.1] > 0.9 for rates in protocols.evaluate_open_set(renamed).fnir_at_fpir.values())


def test_the_promised_rates_are_kept_on_other_people_and_without_a_gate_everybody_gets_a_name():
    crowd = photos(120, 3, noise=0.55)
    result = protocols.evaluate_open_set(crowd, draws=5)
    for kind in KINDS:
        alone, _, gated = (result.promises[f"{kind}, {name}"] for name in ("alone", *protocols.GATES))
        assert alone.fpir == 1 and gated.fpir <= protocols.FPIR and gated.fnir < 0.5
        assert gated.fpir_interval[0] <= gated.fpir <= gated.fpir_interval[1]
    assert result.promised_gallery == 30 and result.to_json()["promised"]["gallery"] == 30
    assert 0 < result.gate.threshold < 2 and result.gate.fmr == protocols.FMR
    assert len(result.fmr_of_each) == 120
    assert np.mean([*result.fmr_of_each.values()]) == pytest.approx(protocols.FMR, rel=0.1)
    assert protocols.evaluate_open_set(photos(6, 3), draws=2).promises == {}
    for size in (1, 4):
        with pytest.raises(DataError, match="2 to 3"):
            protocols.evaluate_open_set(photos(6, 3), size=size)


def test_an_open_set_where_hardly_anybody_can_be_enrolled_fails_every_search_and_states_no_gate():
    result = protocols.evaluate_open_set(photos(4, 2, missing=(0, 1, 2, 3)), draws=5)
    assert result.gate is None and result.to_json()["gate"] is None and len(result.failures) == 4
    with pytest.raises(DataError, match="faces of two people"):
        protocols.evaluate_open_set(photos(4, 2, missing=(0, 1, 2, 3, 4, 5)))


def test_an_open_set_leaves_out_draws_whose_gate_would_be_chosen_on_one_person():
    result = protocols.evaluate_open_set(photos(10, 2, missing=range(4, 20)), draws=20)  # faces of two people
    assert result.draws == 20 and result.promises["nearest, distance"].fnir > 0.5


def test_a_photo_under_two_names_makes_a_threshold_of_nothing_not_below():
    twice = photos(10, 3)
    vectors = twice.vectors.copy()
    vectors[3] = vectors[0] = np.eye(vectors.shape[1], dtype=np.float32)[0]  # its distance is exactly 0
    doubled = replace(twice, vectors=vectors)
    assert protocols.choose_gate(doubled, sorted(doubled.of_people(1))).threshold == 0


def test_no_error_among_few_people_is_no_promise_of_none():
    assert metrics.share_by_person(np.zeros(300, bool), np.repeat(np.arange(30), 10), np.random.default_rng(0)) == (
        0.0,
        (0.0, pytest.approx(metrics.wilson(0, 30)[1])),
    )
    few = photos(8, 4)
    result = protocols.evaluate_pairs(few, protocols.make_pairs(few))
    assert result.accuracy == result.auc == 1 and result.eer == 0
    assert result.interval[0] < 0.8 and result.auc_interval[0] < 0.8 and result.eer_interval[1] > 0.2


@pytest.mark.parametrize("protocol", ["evaluate_identify", "evaluate_open_set"])
def test_too_few_people_are_refused_with_what_to_do(protocol):
    arguments = (0.0,) if protocol == "evaluate_identify" else ()
    with pytest.raises(DataError, match="add"):
        getattr(protocols, protocol)(photos(1, 2), *arguments)


def test_a_confusion_matrix_of_many_people_shows_what_they_were_taken_for():
    truth = [f"p{i:02d}" for i in range(70)] * 2
    answers = truth[:70] + ["unknown"] * 8 + ["p00"] * 2 + truth[80:]
    answers[69] = "p00"
    people, columns, counts = plots.confusions(truth, answers)
    assert len(people) == 60 and columns[-1] == "unknown" and columns[:60] == people and "p69" in people
    assert counts[:, -1].sum() == 8 and counts.sum() == 120 and counts[people.index("p69"), 0] == 1
    moved = ["p60" if a == "unknown" else a for a in answers]
    _, columns, counts = plots.confusions(truth, moved)
    assert columns[-1] == plots.OTHERS and counts[:, -1].sum() == 8
    assert plots.confusions(["a", "b"], ["b", "no face"])[1] == ["a", "b", "no face"]


def test_names_with_a_dollar_are_no_formulas():
    name = r"$\nonsense$"  # as mathematics, an error
    line = [0.0, 1.0], [0.0, 1.0]
    assert plots.curves({name: line, "b": line}, name, "x", "y").startswith(b"\x89PNG")
    assert plots.confusion_matrix([name], [name], name).startswith(b"\x89PNG")


def test_names_that_are_no_unicode_are_plotted():
    name = os.fsdecode(b"J\xf6rg")
    assert plots.confusion_matrix([name], [name], "confusion").startswith(b"\x89PNG")


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.real
def test_every_protocol_runs_on_photographs_and_the_second_takes_over_the_vectors(tmp_path, monkeypatch, capsys):
    from facerec import weights
    from facerec.cli import main

    monkeypatch.chdir(tmp_path)
    data = weights.samples() / "val"
    figures = {}
    for protocol in ("pairs", "identify", "open-set"):
        assert main(["evaluate", protocol, str(data), "--json"]) == 0
        figures[protocol] = json.loads(capsys.readouterr().out)
        report = (tmp_path / "evaluation" / f"{protocol}.html").read_text()
        assert "<img" in report and 'src="http' not in report and "Settings" in report
        assert json.loads((tmp_path / "evaluation" / f"{protocol}.json").read_text())["made with"]["facerec"]
    assert figures["pairs"]["accuracy"] > 0.8
    assert figures["identify"]["nearest"][-1]["n"] == 5
    assert len(list((tmp_path / "evaluation" / "cache").iterdir())) == 1
    stamp = next((tmp_path / "evaluation").rglob("faces.npz")).stat().st_mtime_ns
    assert main(["evaluate", "pairs", str(data)]) == 0
    assert next((tmp_path / "evaluation").rglob("faces.npz")).stat().st_mtime_ns == stamp
    assert "accuracy, mean of the folds" in capsys.readouterr().out
    assert main(["evaluate", "compare", str(data), "margin=0.075", "margin=0.3,crop=square,flip", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["variants"]
    assert compared["margin=0.075"]["p_against_first"] == 1
    assert compared["margin=0.075"]["accuracy"] == figures["pairs"]["accuracy"]
    assert compared["margin=0.3,crop=square,flip"]["accuracy"] != compared["margin=0.075"]["accuracy"]
    assert main(["evaluate", "compare", str(data), "margin=wide"]) == 2
    assert main(["evaluate", "compare", str(data), "colour=red"]) == 2
    for nothing in (["flip"], ["flip", "flip"], ["margin=0.1", "margin=0.10"]):
        capsys.readouterr()
        assert main(["evaluate", "compare", str(data), *nothing]) == 2
        assert "nothing to compare — give two settings that differ" in capsys.readouterr().err


def test_a_folder_without_a_face_is_said(in_tmp, fakes, run):
    for name in ("ana", "ben"):
        save(in_tmp / f"photos/{name}/1.png", photo(1))
    answer = run("evaluate", "pairs", "photos")
    assert answer.code == 1 and "not one face in the 2 photos of photos" in answer.err


@pytest.mark.parametrize("protocol", ["pairs", "identify", "open-set"])
def test_photos_that_are_in_no_persons_folder_are_refused_and_nothing_is_made(
    tmp_path, monkeypatch, capsys, fakes, protocol
):
    from facerec.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"found by its name")
    assert main(["evaluate", protocol, "photos"]) == 2
    assert "put them into photos/NAME/, a folder a person" in capsys.readouterr().err
    assert not (tmp_path / "evaluation").exists()


def test_photos_that_cannot_be_read_are_named_and_the_command_says_so(in_tmp, run, fakes):
    for i, name in enumerate(sorted(COLOURS) * 4):
        save(in_tmp / "people" / name / f"{i}.png", photo(i, [COLOURS[name]]))
    save(in_tmp / "people" / "ana" / "wall.png", photo(1))
    answer = run("evaluate", "pairs", "people")
    assert answer.code == 0 and "cannot be read" not in answer.out
    (in_tmp / "linked").symlink_to("people")
    assert run("evaluate", "pairs", "linked").code == 0
    (in_tmp / "people" / "ben" / "torn.png").write_bytes(b"\x89PNG")
    answer = run("evaluate", "pairs", "people")
    assert answer.code == 3 and "cannot be read, and so has no face: ben/torn.png" in " ".join(answer.out.split())
    assert "ben/torn.png" in Path("evaluation/pairs.html").read_text()


@pytest.mark.real
def test_a_classifier_is_evaluated_with_its_worst_mistakes(tmp_path, monkeypatch, capsys):
    import shutil

    from facerec import weights
    from facerec.cli import main

    monkeypatch.chdir(tmp_path)
    shutil.copytree(weights.samples(), "raw_images")
    assert main(["detect"]) == 3 and main(["embed"]) == 0
    assert main(["train", "--svm", "--threshold", "0.6"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "classifier", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["photos"] == 25 and result["unknown"] > 3 and result["wrong"] == 0
    assert result["accuracy"] == pytest.approx(1 - result["unknown"] / 25)
    assert "worst mistakes" in (tmp_path / "evaluation" / "classifier.html").read_text()
    shutil.rmtree("processed/train")  # a picture that is gone is no reason to tell nothing
    assert main(["evaluate", "classifier", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result

    # of the photos that it was trained on, and of strangers, nothing is to be learned about it
    faces = load_embeddings(Path("embeddings/faces.npz"))
    splits = faces.splits.copy()
    mixed = np.flatnonzero(faces.splits == "train")[:4]
    splits[mixed] = "test"
    labels = faces.labels.copy()
    labels[np.flatnonzero(faces.splits == "test")[:3]] = "a stranger"
    save_embeddings(Path("embeddings/mixed.npz"), replace(faces, splits=splits, labels=labels))
    assert main(["evaluate", "classifier", "--embeddings", "embeddings/mixed.npz", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["photos"] == 22 and result["trained_on"] == 4
    text = (tmp_path / "evaluation" / "classifier.html").read_text()
    assert "4 more photos are left out: the classifier was trained on them" in text
    assert "3 more photos are left out: it does not know their people" in text
    trained = faces.splits == "train"
    save_embeddings(Path("seen.npz"), replace(faces[trained], splits=splits[trained]))
    assert main(["evaluate", "classifier", "--embeddings", "seen.npz"]) == 1
    assert "was trained on all 4 test photos" in capsys.readouterr().err
