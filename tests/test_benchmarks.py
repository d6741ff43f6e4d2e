"""The benchmarks' clock and their report, on sections that take no time."""

import json

import pytest

from benchmarks.common import timed
from benchmarks.runner import run_all
from facerec import runtime

SECTIONS = {
    "fine": """
        from benchmarks.common import Times
        section.note("A note.")
        section.table(
            "Of two sides",
            {"side": "{}", "ms": "{:.1f}", "accuracy": "{:.2f} ± {:.2f}"},
            [["ours", Times.of([0.003, 0.001, 0.005]), (0.994, 0.002)], ["theirs", None, None]],
        )
    """,
    "lacking": """
        from benchmarks.common import data
        data("no such part")
    """,
    "broken": """
        section.note("This far.")
        raise ValueError("the cause")
    """,
    "killed": """
        import os
        os._exit(7)
    """,
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Makes the sections' modules; a spawned process finds them as this one does."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, body in SECTIONS.items():
        (tmp_path / f"{name}.py").write_text(f"def main(section):{body}", encoding="utf-8")
    return tmp_path


def test_times_are_of_the_repeats_in_turn_each_after_a_call_that_does_not_count():
    calls = []
    ours, theirs = timed(3, lambda: calls.append("a"), lambda: calls.append("b"))
    assert calls == ["a", "a", "b", "b"] * 3
    assert len(ours.seconds) == len(theirs.seconds) == 3
    assert ours.minimum == min(ours.seconds) and ours.median == sorted(ours.seconds)[1]


def test_the_report_holds_minimum_and_median_for_people_and_programs(modules, capfd):
    assert run_all(["fine", "lacking"], modules) == 0
    text = (modules / "benchmarks.md").read_text(encoding="utf-8")
    table = "| side | ms | accuracy |\n| --- | --- | --- |\n| ours | 1.0 / 3.0 | 0.99 ± 0.00 |\n| theirs |  |  |"
    assert f"## Fine (`python -m benchmarks fine`)\n\nA note.\n\nOf two sides:\n\n{table}" in text
    assert "**skipped: no no such part" in text
    assert table in capfd.readouterr().out

    written = json.loads((modules / "benchmarks.json").read_text(encoding="utf-8"))
    (machine,) = written["machines"].values()
    assert {"processor", "cores", "memory", "system", "python", "engine", "mtcnn"} <= set(machine)
    assert all(f"| {name} | {value} |" in text for name, value in machine.items())
    fine, lacking = written["sections"]
    assert fine["parts"][1] == {
        "caption": "Of two sides",
        "head": ["side", "ms", "accuracy"],
        "rows": [
            ["ours", {"minimum": 0.001, "median": 0.003, "seconds": [0.003, 0.001, 0.005]}, [0.994, 0.002]],
            ["theirs", None, None],
        ],
    }
    assert lacking["outcome"].startswith("skipped")


@pytest.mark.parametrize(("name", "cause"), [("broken", "ValueError: the cause"), ("killed", "the process died")])
def test_a_crash_is_said_and_the_others_go_on(modules, name, cause):
    assert run_all([name, "fine"], modules) == 1
    text = (modules / "benchmarks.md").read_text(encoding="utf-8")
    assert f"**crashed: {cause}" in text and "1.0 / 3.0" in text
    assert ("This far." in text) == (name == "broken"), "what was measured before is kept"


def test_a_section_that_is_measured_again_replaces_its_own_part_only(modules, monkeypatch):
    assert run_all(["fine", "lacking"], modules) == 0
    assert run_all(["lacking"], modules) == 0
    written = json.loads((modules / "benchmarks.json").read_text(encoding="utf-8"))
    assert [section["name"] for section in written["sections"]] == ["fine", "lacking"]
    assert (modules / "benchmarks.md").read_text(encoding="utf-8").count("## Fine") == 1


def test_each_section_says_which_machine_measured_it(modules, monkeypatch):
    before = runtime.processor()
    assert run_all(["fine", "lacking"], modules) == 0
    monkeypatch.setattr("facerec.runtime.processor", lambda: "another machine")
    assert run_all(["lacking"], modules) == 0
    _, fine, lacking = (modules / "benchmarks.md").read_text(encoding="utf-8").split("\n## ")
    assert f" on {before}.*" in fine and " on another machine.*" in lacking
    assert run_all(["fine"], modules) == 0
    assert before not in (modules / "benchmarks.md").read_text(encoding="utf-8"), "machines of no section go"
