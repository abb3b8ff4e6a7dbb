"""A report for people, CI systems and programs."""

import json
from xml.etree import ElementTree

import pytest

from advbench.config import GateSection
from advbench.gate.gate import Replay, Report
from advbench.gate.output import annotations, append_summary, document, junit, markdown, text
from advbench.gate.verdict import Comparison, Verdict

_HOSTILE = "a|b<script>\x00\x1b[31m\n::error::%"


def _one(name, verdict):
    return Comparison(name, 400, 0.9, 0.8, 0.1, 0.13, 45, 5, 1e-6, 0.02, verdict)


@pytest.fixture
def report():
    return Report(
        GateSection(),
        (_one("net on d: linf 0.1", Verdict.FAIL), _one(_HOSTILE, Verdict.INCONCLUSIVE)),
        (Replay("net on d: linf 0.1", True, 300, 40, 7),),
        ("net: pgd: zero_gradient",),
        ("a note",),
    )


def test_text_says_all(report):
    said = text(report)
    for part in ("0.9000", "0.1300", "fail", "40 of 300", "a note", "zero_gradient", "invalid"):
        assert part in said
    assert "margin 0.01, alpha 0.05" in said


def test_markdown_has_fixed_columns_and_is_escaped(report):
    lines = markdown(report).splitlines()
    assert lines[0] == "### advbench gate: invalid"
    assert lines[2] == (
        "| accuracy | n | baseline | now | drop | at most | lost | won | p | verdict |"
    )
    assert len([line for line in lines if line.startswith("| ")]) == 3 + 1
    assert "<script>" not in markdown(report)
    assert "a\\|b" in markdown(report)


def test_json_is_strict_and_versioned(report):
    data = json.loads(document(report))
    assert data["schema_version"] == 1
    assert data["verdict"] == "invalid"
    assert data["comparisons"][0]["lost"] == 45
    assert data["terms"] == {"margin": 0.01, "alpha": 0.05, "inconclusive": "fail"}


def test_junit_has_a_case_for_each_comparison(report):
    root = ElementTree.fromstring(junit(report))
    cases = root.findall(".//testcase")
    assert len(cases) == 3
    assert [case.find("failure").get("type") for case in cases[:2]] == ["fail", "inconclusive"]
    assert "zero_gradient" in cases[2].find("error").get("message")
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "2", "1")
    assert "\x1b" not in cases[1].get("name")


def test_annotations_are_one_line_each(report):
    lines = list(annotations(report))
    assert lines[0].startswith("::error title=advbench%3A invalid::")
    assert lines[1].startswith("::error title=advbench%3A fail::")
    assert lines[2].startswith("::warning title=advbench%3A inconclusive::")
    assert all("\n" not in line for line in lines)
    assert "%0A::error::%25" in lines[2]


def test_the_summary_is_appended_and_cut(report, tmp_path, monkeypatch):
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    append_summary(report)
    assert path.read_text() == "before\n" + markdown(report)
    many = Report(GateSection(), tuple(_one(f"n{i}", Verdict.PASS) for i in range(20000)))
    path.write_text("")
    append_summary(many)
    assert path.stat().st_size < 1024 * 1024
    assert path.read_text().endswith("The rest is left out: it is too long.\n")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    append_summary(report)
    assert path.stat().st_size < 1024 * 1024
