"""Where the faults of numbers, processes, files and strangers are tested: each has an id.

A test, or a check of the contract, that covers one says so: `test_n7_…`, or `N7: …` at the start of
its docstring, `N7, F1: …` for several. To find it: `git grep -iE '\\bn7\\b|_n7_' tests advbench`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_layout import PACKAGE

FAULTS = {
    "N1": "16-bit models and callers under autocast",
    "N2": "logits or losses that are no numbers",
    "N3": "gradients that are zero",
    "N4": "results that contradict each other",
    "N5": "rounding past eps",
    "N6": "results outside the box",
    "N7": "successes lost when an image is saved",
    "N8": "a mean of attacks in place of the worst",
    "N9": "global random states used or reseeded",
    "N10": "answers that depend on batch, order, shard or worker",
    "N11": "GPUs that do not repeat themselves",
    "X1": "kill -9 at any moment",
    "X2": "two runs in one folder",
    "X3": "models and plugins that cannot be sent to a process",
    "X4": "clocks that are set back",
    "F1": "disks that fail at any call",
    "F2": "folders that cannot be written to",
    "F3": "another configuration, model or data in a folder of results",
    "F4": "damaged results",
    "F5": "weights with prefixes, or of another architecture",
    "F6": "weights from another device or version",
    "F7": "interrupted downloads, and no network",
    "S1": "weights files that are none, or not the ones meant",
    "S2": "pickles that do harm",
    "S3": "names that break out of files, tables and pages",
}
"""What can go wrong, by the id that tests name."""

_IN_NAME = re.compile(r"_([nxfs]\d+)(?=_)")
_IN_DOCSTRING = re.compile(r"(?:[NXFS]\d+, )*[NXFS]\d+(?=: )")


def named(source: str, kind: str = "test_") -> Iterator[tuple[str, str]]:
    """Yield each id that a test or a check names, with its name; a module may name it for all."""
    tree = ast.parse(source)
    whole = _ids(ast.get_docstring(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith(kind):
            found = [one.upper() for one in _IN_NAME.findall(node.name)]
            for one in {*found, *_ids(ast.get_docstring(node)), *whole}:
                yield one, node.name


def _ids(docstring: str | None) -> list[str]:
    match = _IN_DOCSTRING.match(docstring or "")
    return match[0].split(", ") if match else []


def naming(files: list[Path]) -> dict[str, list[str]]:
    """The tests and checks of each fault, as file and function."""
    found: dict[str, list[str]] = {}
    for file in files:
        kind = "test_" if file.name.startswith("test_") else "check_"
        for one, name in named(file.read_text(encoding="utf-8"), kind):
            found.setdefault(one, []).append(f"{file.name}::{name}")
    return found


def unnamed(found: dict[str, list[str]]) -> list[str]:
    """What nobody tests, and ids that are no fault."""
    missing = [f"{one}: {text}" for one, text in FAULTS.items() if one not in found]
    return missing + [f"{one}: unknown, in {found[one][0]}" for one in found if one not in FAULTS]


def test_every_fault_is_named_by_a_test() -> None:
    tests = sorted(Path(__file__).parent.rglob("test_*.py"))
    checks = sorted((PACKAGE / "testing").rglob("*.py"))
    assert unnamed(naming([*tests, *checks])) == []


def test_a_fault_that_nobody_names_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    text = "\n".join(f'def test_{one.lower()}_is_met():\n    "{one}"' for one in FAULTS)
    file.write_text(text)
    assert unnamed(naming([file])) == []
    file.write_text(text.replace("test_n10_", "test_n100_"))
    assert unnamed(naming([file])) == [
        f"N10: {FAULTS['N10']}",
        "N100: unknown, in test_some.py::test_n100_is_met",
    ]


def test_what_names_a_fault() -> None:
    text = (
        '"""S1: A whole file."""\ndef test_n2_a():\n    "F1, X3: text."\ndef helper():\n    "N3: x"'
    )
    assert {one for one, _ in named(text)} == {"S1", "N2", "F1", "X3"}
    assert not list(named('def test_b13_x():\n    "Not F1: text."\ndef test_another(): ...'))
