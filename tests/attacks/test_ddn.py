"""DDN: the algorithm by hand, its traps, and the exact answer on linear victims."""

import pytest
import torch

from advbench.attacks import CrossEntropy
from advbench.attacks.minimal.ddn import DDN
from advbench.attacks.minimal.directions import follow, level
from advbench.testing.victims import Watched, smooth
from tests.attacks.closed_form import assert_smallest
from tests.attacks.stub import Answer, problem

X = torch.full((2, 2), 0.5, dtype=torch.float64)
G = torch.tensor([[3.0, 4.0]] * 2, dtype=torch.float64)


def test_published_settings() -> None:
    ddn = DDN()
    assert (ddn.steps, ddn.start, ddn.change) == (100, 1.0, 0.05)
    assert (ddn.step_size, ddn.last_step_size) == (1.0, 0.01)


def test_two_steps_by_hand() -> None:
    """The first row fails and the second succeeds: directions alike, lengths apart."""
    ddn = DDN(start=0.2, steps=10, bisections=0)
    at = problem(X)
    state = ddn.step(ddn.init(at), Answer(torch.tensor([-1.0, 1.0]).double(), G), at)
    expected = torch.tensor([[0.6, 0.8]]).double() * torch.tensor([[0.21], [0.19]]).double()
    assert torch.allclose(state.p, expected)
    across = torch.tensor([[-4.0, 3.0]] * 2, dtype=torch.float64)
    at = problem(X, t=5)
    state = ddn.step(state, Answer(torch.tensor([-1.0, -1.0]).double(), across), at)
    turned = expected + 0.505 * across / 5
    length = torch.tensor([[0.21 * 1.05], [0.19 * 1.05]]).double()
    assert torch.allclose(state.p, turned / turned.norm(dim=1, keepdim=True) * length)


def test_a_step_that_leads_back_to_the_input_is_no_nan() -> None:
    ddn = DDN(steps=10, bisections=0)
    at = problem(X)
    state = ddn.init(at)._replace(p=-G / 5)
    state = ddn.step(state, Answer(torch.tensor([-1.0, 1.0]).double(), G), at)
    assert torch.equal(state.p, torch.zeros_like(X))


def test_the_length_is_that_of_the_box_at_most() -> None:
    ddn = DDN(start=50.0, steps=10, bisections=0)
    state = ddn.step(
        ddn.init(problem(X)), Answer(torch.tensor([-1.0, 1.0]).double(), G), problem(X)
    )
    assert state.reach.tolist() == pytest.approx([0.5**0.5] * 2)
    assert (state.p.abs() <= 0.5).all()


def test_a_direction_without_a_gradient_is_random_of_length_one_or_the_last() -> None:
    at = problem(torch.zeros(2, 9, dtype=torch.float64))
    none = torch.zeros(2, 9, dtype=torch.float64)
    first = follow(level(at), none, at)
    assert first.g.norm(dim=1).tolist() == pytest.approx([1, 1])
    assert not torch.equal(first.g[0], first.g[1])
    real = follow(level(at), none + 2, at)
    for tells_nothing in (none, none + 1e-9 * torch.arange(9)):
        again = follow(real, tells_nothing, at)
        assert torch.allclose(again.g, real.g)


def test_costs() -> None:
    model, x, y, _ = smooth(count=3)
    watched = Watched(model)
    found = DDN(steps=20, bisections=6, loss=CrossEntropy()).run(watched, x, y)
    assert found.forwards.tolist() == [21] * 3
    assert found.backwards.tolist() == [14] * 3


@pytest.mark.parametrize("fields", [{"bisections": 100}, {"start": 0.0}, {"change": 1.0}], ids=str)
def test_refusals(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"DDN: {next(iter(fields))} must"):
        DDN(**fields)  # type: ignore[arg-type]


def test_exact_on_linear_victims() -> None:
    assert_smallest(DDN(), classes=2, within=1.001)
    assert_smallest(DDN(steps=60, target_classes=9), classes=10)
