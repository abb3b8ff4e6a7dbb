"""Models that answer at random are scored by what they are, not by the luck of a draw."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import advbench
from advbench.attacks import PGD, MinimumEps, RandomNoise
from advbench.bench import run as running
from advbench.bench import table as tabulating
from advbench.bench.plan import Cell, Victim
from advbench.bench.run import Runner
from advbench.trust.answers import fooled, predict
from tests.advbench.fakes import Plane, cell

_N = 400
_X = torch.linspace(0, 1, _N).reshape(-1, 1, 1, 1).repeat(1, 1, 1, 2)
_Y = torch.zeros(_N, dtype=torch.int64)
_ATTACKS = (PGD(steps=4, restarts=3), RandomNoise(steps=4), PGD(steps=8))


class Coin(nn.Module):
    """Right with a known probability on any input of class 0, independently of everything."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 2)."""
        lead = torch.where(torch.rand(len(x)) < self.share, 1.0, -1.0) + x.flatten(1).sum(1) * 1e-4
        return torch.stack([lead, -lead], 1)


class Noisy(Plane):
    """A `Plane` with noise on its margin."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 2)."""
        noise = 0.05 * torch.randn(len(x))
        return super().forward(x) + torch.stack([-noise, noise], 1)


def _table(share: float) -> pd.DataFrame:
    found = advbench.evaluate(Coin(share), (_X, _Y), _ATTACKS, eps=0.1, seed=[0, 1], batch_size=150)
    assert not found.errors
    return found.table


def _faults(table: pd.DataFrame, share: float) -> list[str]:
    """What a table says of a coin that cannot be."""
    faults = []
    for _, row in table.iterrows():
        name = f"{row['attack']}, seed {row['seed']}"
        if row["status"] != "ok":
            faults.append(f"{name}: {row['status']}")
        if abs(row["clean_accuracy"] - share) > 0.02:
            faults.append(f"{name}: clean {row['clean_accuracy']}")
        if abs(row["robust_accuracy"] - share) > 0.02:
            faults.append(f"{name}: robust {row['robust_accuracy']}")
        if not row["robust_low"] <= share <= row["robust_high"]:
            faults.append(f"{name}: {row['robust_low']} to {row['robust_high']}")
    return faults


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_coin_is_as_robust_as_it_is_right(share):
    """At one half, samples that are left out for their bad luck would bias the rest."""
    table = _table(share)
    assert len(table) == 2 * len(_ATTACKS) + 1
    assert _faults(table, share) == []
    assert set(table["draws"]) == {20}
    if share == 0.9:
        assert (table["success_rate"] < 0.01).all()


def test_single_draws_are_far_off():
    """The clean pass and each attack by one answer, as a deterministic model is judged."""
    model = Coin(0.9)
    right = torch.ones(_N, dtype=torch.bool)
    for seed in range(1 + 2 * len(_ATTACKS)):
        right &= ~fooled(predict(model, _X, 150, seed=seed), _Y)
    assert right.double().mean() < 0.9 - 0.1


def test_what_an_attack_claims_is_far_off_and_luck_is_no_success():
    one = replace(_cell(Coin(0.9), PGD(steps=20)), eot=1)
    _, rows = Runner().run(one)
    assert (rows["clean_correct"] & ~rows["claimed"]).mean() < 0.9 - 0.1
    assert rows["success"].sum() == 0
    assert rows["right"].mean() == pytest.approx(0.9, abs=0.02)


def _cell(model: nn.Module, attack=PGD(steps=4), **more) -> Cell:  # noqa: B008
    return cell(attack, values=_X[:, 0, 0, 0].tolist(), y=_Y.tolist(), model=model, **more)


_SEEDS: Callable[[str, int, int], list[int]] = running.draw_seeds


def _attacks_own(purpose: str, seed: int, count: int) -> Sequence[int]:
    """A judge that asks in the draws that the attack has seen."""
    return [seed] * count


def _same_for_choosing(purpose: str, seed: int, count: int) -> Sequence[int]:
    """A judge that chooses the worst attack by the draws that count."""
    return _SEEDS("all", seed, count)


@pytest.mark.parametrize("fault", [_attacks_own, _same_for_choosing])
def test_a_judge_with_faulty_draws_is_found_out(monkeypatch, fault):
    monkeypatch.setattr(running, "draw_seeds", fault)
    assert _faults(_table(0.9), 0.9)


def _union(self, other):
    """A table that counts every piece of bad luck."""
    return replace(self, right=np.minimum(self.right, other.right))


def test_a_union_over_attacks_is_found_out(monkeypatch):
    monkeypatch.setattr(tabulating.Verdicts, "joined", _union)
    faults = _faults(_table(0.9), 0.9)
    assert faults
    assert all(fault.startswith("worst") for fault in faults)


def test_a_random_model_that_can_be_broken_is_broken():
    """The search goes on past the first majority of wrong draws, to where nearly all are wrong."""
    model = Noisy()
    record, rows = Runner().run(
        cell(PGD(steps=20), (0.1,), values=[0.47] * 5, y=[0] * 5, model=model)
    )
    assert rows["clean_right"].mean() > 0.75
    assert rows["success"].all()
    assert rows["right"].mean() < 0.05
    assert (rows["steps"] == 20).all()
    assert (record["draws"], record["eot"]) == (20, 10)


@pytest.mark.parametrize(
    ("model", "given", "used"),
    [(Noisy, None, 10), (Noisy, 3, 3), (Noisy, 1, 1), (Plane, None, None)],
)
def test_gradients_are_means_over_draws_of_what_the_attack_is_made_on(model, given, used):
    record, rows = Runner().run(replace(cell(PGD(steps=3), (0.01,), model=model()), eot=given))
    assert record["eot"] == used
    spent = rows["backwards"][rows["attacked"]]
    assert (spent == 3 * (used or 1)).all()


def test_a_random_surrogate_of_a_fixed_victim_is_averaged_and_the_victim_judged_once():
    other = Victim("other", Noisy(), "1" * 64)
    record, rows = Runner().run(replace(cell(PGD(steps=3), (0.1,)), surrogates=(other,)))
    assert (record["eot"], record["draws"]) == (10, None)
    assert "right" not in rows


def test_the_smallest_change_is_found_for_a_random_model():
    one = cell(
        MinimumEps(attack=PGD(steps=4)), (0.01, 0.2), values=[0.45] * 4, y=[0] * 4, model=Noisy()
    )
    record, rows = Runner().run(one)
    assert record["status"] == "ok"
    assert ((rows["size"] > 0.01) & (rows["size"] < 0.2)).all()
    low, high = [
        row["robust_accuracy"]
        for row in tabulating.summary([one.facts()], {one.key: (record, rows)})
        if row["attack"] == "fake"
    ]
    assert low == pytest.approx(rows["clean_right"].mean(), abs=1e-6)
    assert high == pytest.approx(rows["right"].mean(), abs=1e-6)


def test_the_same_cell_gives_the_same_shares_and_draws_are_as_many_as_asked():
    one = _cell(Coin(0.9))
    _, rows = Runner().run(one)
    _, again = Runner().run(one)
    _, fewer = Runner().run(replace(one, draws=3))
    for name in ("clean_right", "right", "screened"):
        assert (rows[name] == again[name]).all()
        assert (np.abs(rows[name] * 20 - (rows[name] * 20).round()) < 1e-9).all()
        assert set(fewer[name].round(3)) <= {0, 0.333, 0.667, 1}
    assert (rows["right"] != rows["screened"]).any()
    assert (rows["right"] != rows["clean_right"]).any()


def test_other_seeds_judge_by_other_draws_and_share_the_clean_pass():
    runner, one = Runner(), _cell(Coin(0.9))
    _, rows = runner.run(one)
    _, other = runner.run(replace(one, seed=1))
    assert (rows["clean_right"] == other["clean_right"]).all()
    assert (rows["right"] != other["right"]).any()


def test_a_draw_that_is_not_finite_is_a_status():
    class Spoilt(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / (torch.rand(len(x), 1) < 0.9)

    record, rows = Runner().run(_cell(Spoilt()))
    assert record["status"] == "nan"
    assert (rows["clean_prediction"] == -1).any()


def test_a_model_without_draws_has_the_same_rows_at_two_small_forwards(monkeypatch):
    one, other = _cell(Plane()), _cell(Plane())
    record, rows = Runner(batch_size=64).run(one)
    monkeypatch.setattr(running, "answers_at_random", lambda *_: False)
    _, expected = Runner(batch_size=64).run(other)
    assert set(rows) == set(expected)
    assert not {"clean_right", "right", "screened"} & set(rows)
    for name, values in rows.items():
        np.testing.assert_array_equal(values, expected[name])
    assert record["draws"] is None
    seen, before = one.victim.model.seen, other.victim.model.seen
    assert len(seen) == len(before) + 2
    assert sum(seen) == sum(before) + 2 * 32
