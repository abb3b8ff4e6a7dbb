"""FMN: the ball by hand in each norm, its traps, and the exact answer on linear victims."""

import pytest
import torch

from advbench.attacks import L0, L1, L2, Linf, Perturbation, Pose
from advbench.attacks.minimal.fmn import FMN
from tests.attacks.closed_form import assert_smallest
from tests.attacks.stub import Answer, problem

X = torch.full((1, 4), 0.5, dtype=torch.float64)
G = torch.tensor([[1.0, -2.0, 2.0, 0.0]], dtype=torch.float64)


def lead(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_published_settings() -> None:
    fmn = FMN()
    assert (fmn.steps, fmn.step_size, fmn.last_step_size) == (100, 1.0, 0.01)
    assert (fmn.change, fmn.last_change) == (0.05, 0.001)


@pytest.mark.parametrize(
    ("perturbation", "rate"), [(Linf(), 5.0), (L2(), 3.0), (L1(), 2.0)], ids=repr
)
def test_the_first_ball_reaches_the_boundary_of_the_linear_model(
    perturbation: Perturbation, rate: float
) -> None:
    fmn = FMN(perturbation=perturbation, steps=10, bisections=0)
    at = problem(X)
    state = fmn.step(fmn.init(at), Answer(lead(-0.3), G), at)
    assert state.reach.tolist() == pytest.approx([0.3 / rate * 1.05])
    assert perturbation.size(X, state.p).tolist() == pytest.approx(state.reach.tolist())


def test_the_ball_shrinks_after_a_success_and_grows_after_a_later_failure() -> None:
    fmn = FMN(steps=10, bisections=0)
    at = problem(X)
    state = fmn.init(at)._replace(reach=lead(0.4), p=torch.full_like(X, 0.05))
    state = fmn.step(state, Answer(lead(0.1), G), at)
    assert state.reach.tolist() == pytest.approx([0.09999])  # just below success
    state = fmn.step(state, Answer(lead(-0.1), G), at)
    assert state.reach.tolist() == pytest.approx([0.09999 * 1.05])


def test_a_point_inside_the_ball_is_not_scaled_up() -> None:
    fmn = FMN(step_size=1e-3, last_step_size=1e-3, steps=10, bisections=0)
    at = problem(X)
    state = fmn.init(at)._replace(reach=lead(0.4), p=torch.full_like(X, 0.05))
    state = fmn.step(state, Answer(lead(-9.0), G), at)
    assert torch.allclose(state.p, torch.full_like(X, 0.05) + 1e-3 * G / 3)


def test_a_count_never_exceeds_the_ball_even_in_a_tie() -> None:
    fmn = FMN(perturbation=L0(), steps=10, bisections=0)
    at = problem(X)
    state = fmn.init(at)
    equal = torch.ones_like(X)
    for radius in (2, 3, 4, 4):
        state = fmn.step(state, Answer(lead(-1.0), equal), at)
        assert state.reach.tolist() == [radius]
        assert int((state.p != 0).sum()) == radius
    state = fmn.step(state, Answer(lead(1.0), equal), at)
    assert state.reach.tolist() == [3]
    assert int((state.p != 0).sum()) == 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"FMN: perturbation must be one of .*; got Pose"):
        FMN(perturbation=Pose())
    with pytest.raises(ValueError, match="FMN: bisections must"):
        FMN(steps=5, bisections=5)
    with pytest.raises(ValueError, match="FMN: change must"):
        FMN(change=0.01, last_change=0.1)


@pytest.mark.parametrize("perturbation", [L0(), L1(), L2(), Linf()], ids=repr)
def test_exact_on_linear_victims(perturbation: Perturbation) -> None:
    within = 1.0 if perturbation == L0() else 1.002
    assert_smallest(FMN(perturbation=perturbation), classes=2, within=within)
    heading = FMN(perturbation=perturbation, steps=50, target_classes=9)
    assert_smallest(heading, classes=10, within=within)
