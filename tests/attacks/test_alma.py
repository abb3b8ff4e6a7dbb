"""ALMA: penalty, ratio and multiplier by hand, and the exact answer on linear victims."""

import pytest
import torch
from torch import Tensor

from advbench.attacks import DLR, L0, L1, L2, Margin, Perturbation
from advbench.attacks.criterion import Criterion
from advbench.attacks.minimal.alma import ALMA, LeadRatio, pressure
from advbench.testing.victims import numbers
from tests.attacks.closed_form import assert_smallest
from tests.attacks.stub import Answer, problem

Y = torch.tensor([0, 1, 2, 0])


def test_published_settings() -> None:
    alma = ALMA()
    assert (alma.steps, alma.step_size, alma.last_step_size) == (1000, 0.1, 0.001)
    assert (alma.memory, alma.checks, alma.progress, alma.growth) == (0.9, 10, 0.95, 1.2)
    assert alma.tolerance == 1e-4


def test_pressure_is_the_derivative_of_the_penalty() -> None:
    c = torch.tensor([-2.0, -0.1, 0.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    rho, mu = torch.full_like(c, 1.7), torch.full_like(c, 0.6)
    broken = mu * c + mu * rho * c**2 + rho**2 * c**3 / 6
    value = torch.where(c >= 0, broken, mu * c / (1 - rho * c.clamp(max=0)))
    (expected,) = torch.autograd.grad(value.sum(), c)
    assert torch.allclose(pressure(c.detach(), rho.detach(), mu.detach()), expected)


def test_the_ratio_is_that_of_dlr_and_its_sign_tells_success_also_with_targets() -> None:
    logits = numbers(41, 4, 6)
    assert torch.allclose(LeadRatio()(logits, Criterion(Y)), DLR()(logits, Criterion(Y)))
    for classes in (2, 3, 4, 6):
        for targets in (None, (Y + 1) % min(classes, 3)):
            given = Criterion(Y % classes, targets)
            if targets is not None and (targets == given.y).any():
                continue
            ratio = LeadRatio()(logits[:, :classes], given)
            assert ratio.isfinite().all()
            assert torch.equal(ratio > 0, given.success(logits[:, :classes]))
    assert torch.equal(
        LeadRatio()(logits[:, :2], Criterion(Y % 2)), Margin()(logits[:, :2], Criterion(Y % 2))
    )


def test_the_penalty_grows_only_where_no_success_was_seen_and_none_is_near() -> None:
    alma = ALMA(steps=50, bisections=0)
    x = torch.full((3, 2), 0.5, dtype=torch.float64)
    g = torch.ones_like(x)

    def lead(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    state = alma.step(alma.init(problem(x)), Answer(lead(-1, -1, 1), g), problem(x))
    at = problem(x, t=9)
    state = alma.step(state, Answer(lead(-0.99, -0.5, -1), g), at)
    assert state.penalty.tolist() == pytest.approx([1.2, 1, 1])
    assert state.found.tolist() == [50, 50, 0]
    wanted = pressure(1e-4 - lead(-0.99, -0.5, -1), state.penalty, torch.ones(3).double())
    assert torch.allclose(state.multiplier, 0.9 + 0.1 * wanted)


def test_the_step_falls_from_the_first_success_on() -> None:
    alma = ALMA(steps=11, bisections=0)
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    g, lead = torch.ones_like(x), torch.ones(1).double()
    early = alma.step(alma.init(problem(x)), Answer(-lead, g), problem(x, t=5))
    found = alma.init(problem(x))._replace(found=torch.zeros(1, dtype=torch.int64))
    late = alma.step(found, Answer(-lead, g), problem(x, t=5))
    share = late.p / early.p
    assert torch.allclose(share, torch.full_like(share, 0.01 ** (5 / 11)), rtol=1e-6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"ALMA: perturbation must be one of .*; got L0"):
        ALMA(perturbation=L0())


@pytest.mark.parametrize("perturbation", [L1(), L2()], ids=repr)
def test_exact_on_linear_victims(perturbation: Perturbation) -> None:
    assert_smallest(ALMA(perturbation=perturbation, steps=200), classes=2, within=1.01)
