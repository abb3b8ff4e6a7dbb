"""A gate's report for people, for CI systems and for programs."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from advbench.bench.render import aligned, escaped
from advbench.files import WriteError, write_atomic
from advbench.gate.gate import Report
from advbench.gate.verdict import Comparison, Verdict

_COLUMNS = ("accuracy", "n", "baseline", "now", "drop", "at most", "lost", "won", "p", "verdict")
_WORDS = ("accuracy", "verdict")
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUMMARY_BYTES = 1_000_000
"""What GitHub takes of a step's summary is 1024 KiB."""


def text(report: Report) -> str:
    """Return the report as an aligned table with sentences below it."""
    lines = [_COLUMNS, *(_cells(one) for one in report.comparisons)]
    table = aligned(lines, [name in _WORDS for name in _COLUMNS])
    return table + "\n".join(sentences(report)) + "\n"


def markdown(report: Report) -> str:
    """Return the report as Markdown; the columns are fixed."""
    rule = ["---" if name in _WORDS else "---:" for name in _COLUMNS]
    lines = [list(_COLUMNS), rule, *(_cells(one) for one in report.comparisons)]
    table = "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)
    told = "\n".join(f"- {escaped(sentence)}" for sentence in sentences(report))
    return f"### advbench gate: {report.verdict}\n\n{table}\n\n{told}\n"


def document(report: Report) -> str:
    """Return the report as JSON."""
    content: dict[str, Any] = {"schema_version": 1, "verdict": report.verdict, **asdict(report)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def junit(report: Report) -> bytes:
    """Return the report as JUnit XML: a test case per comparison, and one for the alarms.

    What is inconclusive is a failure with that word as its type; alarms are errors.
    """
    bad = [one for one in report.comparisons if one.verdict is not Verdict.PASS]
    counts = {
        "tests": str(len(report.comparisons) + 1),
        "failures": str(len(bad)),
        "errors": str(min(len(report.alarms), 1)),
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "advbench gate", **counts})
    for one in report.comparisons:
        case = _case(suite, one.name)
        if one.verdict is not Verdict.PASS:
            about = {"type": str(one.verdict), "message": _printable(sentence(one))}
            ElementTree.SubElement(case, "failure", about)
    case = _case(suite, "the numbers can be trusted")
    if report.alarms:
        about = {"type": "alarm", "message": _printable("; ".join(report.alarms))}
        ElementTree.SubElement(case, "error", about)
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True))


def annotations(report: Report) -> Iterator[str]:
    """Yield the workflow commands that make GitHub show what is wrong."""
    for alarm in report.alarms:
        yield _command("error", "advbench: invalid", alarm)
    for one in report.comparisons:
        if one.verdict is not Verdict.PASS:
            kind = "error" if one.verdict is Verdict.FAIL else "warning"
            yield _command(kind, f"advbench: {one.verdict}", sentence(one))


def append_summary(report: Report) -> None:
    """Append the report to the summary of a GitHub step, if this is one.

    Raises WriteError where GitHub's file cannot be written.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    told = markdown(report).encode()
    if len(told) > _SUMMARY_BYTES:
        cut = told[:_SUMMARY_BYTES].decode(errors="ignore")
        told = (cut.rpartition("\n")[0] + "\n\nThe rest is left out: it is too long.\n").encode()
    try:
        with Path(path).open("ab") as file:
            file.write(told)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_reports(report: Report, junit_path: Path | None, markdown_path: Path | None) -> None:
    """Write the files that were asked for; raises WriteError."""
    if junit_path is not None:
        write_atomic(junit_path, junit(report))
    if markdown_path is not None:
        write_atomic(markdown_path, markdown(report).encode())


def sentence(one: Comparison) -> str:
    """Say what a comparison has come to."""
    facts = f"{one.name}: {one.before:.4f} before, {one.now:.4f} now, of {one.n} samples"
    counts = f"{one.lost} lost, {one.won} won"
    return f"{facts} ({counts}; the drop is at most {one.bound:.4f}): {one.verdict}"


def sentences(report: Report) -> Iterator[str]:
    """Yield what the table does not show."""
    for tried in report.replays:
        whose = "the baseline's changes" if tried.forward else "the changes found now"
        on = "the model of now" if tried.forward else "the model of the baseline"
        counts = f"{tried.broke} of {tried.tried} of {whose} fool {on}"
        only = f"; {tried.only} of these samples fell to nothing else" if report.searched else ""
        yield f"{tried.name}: {counts}{only}"
    unsure = [one for one in report.comparisons if one.verdict is Verdict.INCONCLUSIVE]
    for one in unsure if report.searched else []:
        yield (
            f"{one.name}: inconclusive. With {one.n} samples a drop of {one.detectable:.4f} would "
            "be found in four cases of five: take more samples, or agree on a larger margin first"
        )
    yield from (f"note: {note}" for note in report.notes)
    yield from (f"alarm: {alarm}" for alarm in report.alarms)
    terms = report.terms
    yield f"margin {terms.margin:g}, alpha {terms.alpha:g}: {report.verdict}"


def _cells(one: Comparison) -> list[str]:
    numbers = (one.before, one.now, one.drop, one.bound)
    shown = [f"{number:.4f}" for number in numbers]
    counts = [str(one.lost), str(one.won)]
    return [one.name, str(one.n), *shown, *counts, f"{one.p_value:.3g}", str(one.verdict)]


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    about = {"classname": "advbench.gate", "name": _printable(name)}
    return ElementTree.SubElement(suite, "testcase", about)


def _command(kind: str, title: str, message: str) -> str:
    """One workflow command; what ends or splits one is escaped as GitHub says."""
    body = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    head = title.replace(",", "%2C").replace(":", "%3A")
    return f"::{kind} title={head}::{body}"


def _printable(value: str) -> str:
    """Text that XML can hold."""
    return _CONTROL.sub("?", value)
