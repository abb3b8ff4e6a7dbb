"""The comparison of robust with autoattack follows from stored rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from advbench.bench.store import Store
from advbench.benchmarks.cascade import compare, main


def rows(success: list[bool], forwards: list[int], backwards: list[int]) -> dict[str, Any]:
    n = len(success)
    return {
        "index": np.arange(n),
        "clean_correct": np.array([True] * (n - 1) + [False]),
        "attacked": np.array([True] * (n - 1) + [False]),
        "success": np.array(success),
        "forwards": np.array(forwards),
        "backwards": np.array(backwards),
    }


LONG = rows([True, False, False, False, False], [10, 100, 100, 100, 0], [5, 50, 50, 50, 0])
SHORT = rows([False, True, False, False, False], [10, 2, 4, 4, 0], [5, 1, 2, 2, 0])


def test_numbers_are_counted_from_the_samples() -> None:
    line = compare(LONG, SHORT)
    assert (line["autoattack"], line["robust"]) == (0.6, 0.6)
    assert (line["only_autoattack"], line["only_robust"]) == (1, 1)
    assert line["autoattack_passes"] == (20 + 3 * 200) / 4
    assert line["robust_passes"] == 40 / 4
    assert line["ratio"] == 15.5


def test_other_samples_are_refused() -> None:
    other = {**SHORT, "index": np.arange(5)[::-1]}
    with pytest.raises(ValueError, match="different samples"):
        compare(LONG, other)


def test_the_command_writes_a_line_for_each_pair(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for key, attack, eps, content in (
        ("aa", "autoattack", 0.1, LONG),
        ("bb", "robust", 0.1, SHORT),
        ("cc", "autoattack", 0.2, LONG),
    ):
        facts = {"dataset": "digits", "model": "m", "perturbation": "linf", "eps": [eps]}
        store.save({"key": key, "attack": attack, "status": "ok", **facts}, content)
    done = CliRunner().invoke(main, [str(tmp_path / "run"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = (tmp_path / "cascade.csv").read_text().splitlines()
    assert len(table) == 2
    assert table[1].endswith("15.5")
    assert "15.5" in (tmp_path / "cascade.md").read_text()


def test_a_folder_without_pairs_is_an_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert not (tmp_path / "out").exists()
