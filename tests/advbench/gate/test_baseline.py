"""A baseline as files: what is written is read, and nothing else is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from advbench.bench.groups import Group
from advbench.gate.baseline import BaselineError, read_baseline, write_baseline
from advbench.gate.side import Standing
from tests.advbench.gate.sides import N, side


@pytest.fixture(scope="module")
def one():
    return side()


@pytest.fixture
def path(tmp_path, one):
    write_baseline(tmp_path / "ci.json", one)
    return tmp_path / "ci.json"


def _edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_is_written_is_read(path, one):
    read = read_baseline(path)
    assert read.models == one.models
    assert read.searches == json.loads(json.dumps(one.searches))
    for group, standing in one.groups.items():
        found = read.groups[group]
        assert (found.clean == standing.clean).all()
        assert (found.right == standing.right).all()
        assert (found.changes.places == standing.changes.places).all()
        assert np.abs(found.changes.p - standing.changes.p).max() < 1e-4


def test_it_is_small_and_repeats_itself(path, one, tmp_path):
    assert path.stat().st_size < 2000
    write_baseline(tmp_path / "again.json", one)
    assert (tmp_path / "again.npz").read_bytes() == path.with_suffix(".npz").read_bytes()


def test_shares_of_a_random_model_are_read(tmp_path, one):
    group = Group("net", "", "fake", "linf", 0.1)
    rng = np.random.default_rng(0)
    shares = rng.integers(0, 21, N) / 20
    random = replace(one, groups={group: Standing(shares, shares / 2, 40, None)})
    write_baseline(tmp_path / "random.json", random)
    found = read_baseline(tmp_path / "random.json").groups[group]
    assert found.clean == pytest.approx(shares)
    assert found.right == pytest.approx(shares / 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(worst_case=[]), r"'worst_case'.*Did you mean 'worst_cases'"),
        (lambda d: d.pop("searches"), "'searches' is missing"),
        (lambda d: d.update(worst_cases=[]), "empty"),
        (lambda d: d.update(searches=[]), "empty"),
        (lambda d: d.update(schema_version=2), "expected a baseline with schema_version 1; got 2"),
        (lambda d: d["worst_cases"][0].update(n=N + 9), "bytes of verdicts"),
        (lambda d: d["worst_cases"][0].update(right="?"), "base64"),
        (lambda d: d["worst_cases"][0].update(eps="big"), "eps: expected a number"),
        (lambda d: d.update(changes_sha256="0" * 64), "these are not the changes"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused(path, change, said):
    _edit(path, change)
    with pytest.raises(BaselineError, match=said) as error:
        read_baseline(path)
    assert "ci." in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"schema_version": NaN'])
def test_what_is_no_baseline_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(BaselineError, match=r"ci\.json"):
        read_baseline(path)


def test_a_missing_file_says_how_to_write_it(tmp_path):
    with pytest.raises(BaselineError, match="--update"):
        read_baseline(tmp_path / "none.json")


def test_changes_that_are_missing_are_missed(path):
    path.with_suffix(".npz").unlink()
    with pytest.raises(BaselineError, match="Keep both files together"):
        read_baseline(path)
