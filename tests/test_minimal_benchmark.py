"""The benchmark of minimum-norm attacks: what it counts, judges, compares and writes."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advbench.attack_facts import backwards
from advbench.attacks import APGD, FAB, PGD, MinimumEps
from advbench.attacks.attack import Attack
from advbench.attacks.minimal.ddn import DDN
from advbench.benchmarks import minimal
from advbench.benchmarks.measuring import floor
from advbench.benchmarks.minimal import compare, fixed, measure, optimal, optimality, overall, sizes
from advbench.benchmarks.minimal_contestants import (
    Entrant,
    FixedEntrant,
    advbench_entrants,
    peers,
    sized,
)
from advbench.benchmarks.minimal_report import (
    OVERALL,
    MinimalLine,
    OptimalityLine,
    write_minimal,
    write_optimality,
)


class Step(nn.Module):
    """Class 1 where the first of four pixels is above one half, scaled by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        lead = self.slope * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-lead, lead, torch.full_like(lead, -9.0)], 1)


@pytest.fixture
def model() -> nn.Module:
    return Step().eval()


@pytest.fixture
def x() -> Tensor:
    x = torch.full((3, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.tensor([0.4, 0.3, 0.1])
    return x


@pytest.fixture
def y() -> Tensor:
    return torch.zeros(3, dtype=torch.int64)


def moving(*shifts: float, extra: int = 0) -> Callable[[nn.Module, Tensor, Tensor, int], Tensor]:
    """Move the first pixel of each sample, after one forward and backward and `extra` forwards."""

    def run(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
        floor(model, x, y, 1)
        for _ in range(extra):
            model(x)
        images = x.clone()
        images[:, 0, 0, 0] += torch.tensor(shifts[: len(x)])
        return images

    return run


def entrant(name: str, *shifts: float, distribution: str = "torch", extra: int = 0) -> Entrant:
    return Entrant(name, "l2", name, distribution, moving(*shifts, extra=extra))


def broken(model: nn.Module, x: Tensor, y: Tensor, passes: int) -> Tensor:
    raise ValueError("no such norm\nat all")


def test_sizes_are_those_of_the_norms() -> None:
    x = torch.zeros(2, 1, 2, 2)
    images = torch.tensor([[0.3, 0.0, 0.4, 0.0], [0.0, 0.0, 1e-8, 0.0]]).view_as(x)
    wanted = {"linf": 0.4, "l2": 0.5, "l1": 0.7, "l0": 2.0}
    for norm, size in wanted.items():
        assert sizes(x, images, norm)[0] == pytest.approx(size)
    assert sizes(x, images, "l0")[1] == 1


def test_failures_are_infinitely_far(model: nn.Module, x: Tensor, y: Tensor) -> None:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return moving(0.2, 0.1, 0.6)(model, x, y, 0)

    found = measure(model, x, y, "l2", run)
    assert found.size.tolist() == [pytest.approx(0.2), math.inf, pytest.approx(0.6)]
    assert (found.forwards, found.backwards, found.outside) == (1, 1, 0)


def test_what_leaves_the_box_is_no_success(model: nn.Module, x: Tensor, y: Tensor) -> None:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        images = moving(0.7, math.nan, 0.6)(model, x, y, 0)
        return images

    found = measure(model, x, y, "l2", run)
    assert found.size.isinf().tolist() == [True, True, False]
    assert found.outside == 2


def test_batches_are_put_together(
    model: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minimal, "_AT_ONCE", 1)
    seen: list[int] = []

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        return moving(0.3)(model, x, y, 0)

    found = measure(model, x, y, "l1", run)
    assert seen == [1, 1, 1]
    assert found.size.isinf().tolist() == [False, False, True]
    assert (found.forwards, found.backwards) == (1, 1)


def test_refuses_an_attack_that_avoids_the_counter(model: nn.Module, x: Tensor, y: Tensor) -> None:
    with pytest.raises(RuntimeError, match="past the counting hook"):
        measure(model, x, y, "l2", lambda model, x, y: x)


def test_measuring_leaves_model_and_generator_alone(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.train()
    before = torch.get_rng_state()
    compare("v", model, x, y, [entrant("a", 0.2, 0.3, 0.5)], 10)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_comparison_says_what_is_missing_and_what_failed(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    others = [
        entrant("good", 0.2, 0.3, 0.5, extra=2),
        entrant("gone", distribution="no-such-distribution"),
        Entrant("bad", "l2", "bad", "torch", broken),
        entrant("weak", 0.2, 0.0, 0.0),
    ]
    results = compare("v", model, x, y, others, 10)
    good, gone, bad, weak = (line for line, _ in results)
    assert (good.status, good.n, good.unfooled, good.forwards, good.backwards) == ("ok", 3, 0, 3, 1)
    assert good.median_size == pytest.approx(0.3)
    assert (gone.status, gone.median_size, results[1][1]) == ("not installed", None, None)
    assert (bad.status, results[2][1]) == ("failed: ValueError: no such norm", None)
    assert weak.median_size == math.inf
    assert weak.unfooled == pytest.approx(2 / 3)


def test_optimality_is_one_for_the_best_and_zero_for_nothing() -> None:
    best = torch.tensor([1.0, 2.0, 4.0])
    assert optimal(best, best) == 1
    assert optimal(torch.full((3,), math.inf), best) == 0
    assert optimal(torch.tensor([2.0, 2.0, math.inf]), best) == pytest.approx(1 - 1 / 5)
    never = torch.tensor([1.0, 2.0, math.inf])
    assert optimal(torch.tensor([1.0, math.inf, math.inf]), never) == 1
    assert math.isnan(optimal(torch.full((2,), math.inf), torch.full((2,), math.inf)))


def test_each_attack_is_compared_with_the_best_of_all(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    near, far = entrant("near", 0.2, 0.3, 0.0), entrant("far", 0.4, 0.3, 0.5)
    said: list[str] = []
    first, second = optimality("v", model, x, y, [near, far], 10, said.append)
    # d* = 0.2, 0.3, 0.5: the first misses nothing below 0.5, the second 0.2 of one sample.
    assert first.optimality == pytest.approx(1)
    assert second.optimality == pytest.approx(1 - 0.2 / (3 * 0.5 - 1.0))
    assert (first.nearest, second.nearest) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert len(said) == 2
    absent = entrant("gone", distribution="no-such-distribution")
    lines = [
        *optimality("v", model, x, y, [near, absent], 10),
        *optimality("w", model, x, y, [near, far], 10),
    ]
    (mean,) = overall(lines)
    assert (mean.victim, mean.attack, mean.n) == (OVERALL, "near", 6)
    assert mean.optimality == pytest.approx(1)


def test_robust_accuracy_inside_a_ball(model: nn.Module, x: Tensor, y: Tensor) -> None:
    def run(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, steps: int) -> Tensor:
        return moving(0.15, 0.5, 0.1)(model, x, y, 0)

    absent = FixedEntrant("gone", "no-such-distribution", run)
    line, missing = fixed("v", model, x, y, "linf", 0.2, [FixedEntrant("a", "torch", run), absent])
    assert line.robust_accuracy == pytest.approx(2 / 3)  # the second is fooled, but not inside
    assert line.outside == 1
    assert missing.status == "not installed"


@pytest.mark.parametrize("attack", [DDN(), FAB()], ids=["ddn", "fab"])
def test_steps_are_as_many_as_the_passes_pay_for(attack: Attack) -> None:
    small = sized(attack, 400)
    spent = small.queries + backwards(small)
    assert 300 < spent + 1 <= 400


def test_a_bisection_may_ask_for_twice_its_passes_and_is_held_to_them(
    model: nn.Module, x: Tensor, y: Tensor
) -> None:
    for attack in (MinimumEps(attack=APGD(), rounds=10), MinimumEps(attack=PGD(steps=200))):
        small = sized(attack, 400)
        spent = small.queries + backwards(small)
        assert 600 < spent + 1 <= 800
    bisected = next(one for one in advbench_entrants() if one.attack == "MinimumEps")
    (line,) = (line for line, _ in compare("v", model, x, y, [bisected], 100))
    assert line.status == "ok"
    assert line.forwards is not None
    assert line.backwards is not None
    assert (
        0 < line.forwards + line.backwards <= 101
    )  # one look at the clean sample is not the search


def test_all_tasks_have_contestants() -> None:
    ours = {(one.attack, one.norm) for one in advbench_entrants()}
    theirs = {(one.attack, one.norm) for one in peers()}
    assert {(attack, norm) for attack, norm, _ in minimal.TASKS} <= ours & theirs
    assert {norm for _, norm in ours} == {"linf", "l2", "l1", "l0"}


def test_writes_all_tables(tmp_path: Path, model: nn.Module, x: Tensor, y: Tensor) -> None:
    both = [entrant("near", 0.2, 0.3, 0.0), entrant("gone", distribution="no-such-distribution")]
    lines = [line for line, _ in compare("v", model, x, y, both, 10)]
    ball = MinimalLine("v", "APGD-CE", "l2", "a", "1", "ok", 200, 0.5, 3, robust_accuracy=0.25)
    ball = MinimalLine(**{**vars(ball), "forwards": 101.0, "backwards": 100.0, "outside": 0})
    write_minimal(tmp_path, [*lines, ball], {"processor": "test"})
    with (tmp_path / "minimal.csv").open(encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    assert [row["status"] for row in stored] == ["ok", "not installed", "ok"]
    page = (tmp_path / "minimal.md").read_text(encoding="utf-8")
    assert "| near | 0.3 | 0.333 | 1.0 / 1.0 |" in page
    assert "Not measured: gone of gone (not installed)." in page
    assert "**APGD-CE, l2, eps 0.5**: n = 3" in page
    assert "| a | 0.250 | 101.0 / 100.0 |" in page

    ranked = optimality("v", model, x, y, [*both, entrant("far", 0.4, 0.3, 0.5)], 10)
    lost = OptimalityLine("v", "l0", "near", "near", "1", "failed: E: reason", 10)
    write_optimality(tmp_path, [*ranked, lost, *overall(ranked)], {"processor": "test"})
    page = (tmp_path / "optimality.md").read_text(encoding="utf-8")
    assert page.index("**means over the victims**") < page.index("**v**: n = 3")
    assert "| near | near | 1.000 | 0.67 | 0.3 | 0.333 | 1 / 1 |" in page
    assert page.index("| near | near |") < page.index("| far | far |")
    assert "Not measured: near of near (failed: E: reason)." in page
    assert len((tmp_path / "optimality.csv").read_text(encoding="utf-8").splitlines()) == 7
