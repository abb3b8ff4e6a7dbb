"""The last queries of a minimum-norm attack: what they ask, what they gain, what they cost."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L0, L1, L2, CrossEntropy, Linf, Perturbation
from advbench.attacks.minimal.bisection import ask, nothing
from advbench.attacks.minimal.ddn import DDN
from advbench.attacks.minimal.fmn import FMN
from advbench.testing.victims import Watched, case, inputs
from tests.attacks.closed_form import linear_cases
from tests.attacks.stub import Answer, problem

X = torch.full((1, 3), 0.5, dtype=torch.float64)


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_of_one_norm_the_first_question_is_the_nearest_point_of_the_linear_model() -> None:
    """Lead 3 d_0 + 4 d_1 - 1, first seen fooled well beyond: the nearest point is (.12, .16)."""
    g = torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64)
    p = torch.tensor([[0.4, 0.2, 0.1]], dtype=torch.float64)
    _, best = ask(L2(), p, nothing(problem(X), p * 0), Answer(one(1.0), g), problem(X), 1)
    asked = Answer(one(0.001), g)
    _, best = ask(L2(), p, best, asked, problem(X, t=1), 1)
    assert torch.allclose(asked.asked[0], torch.tensor([[0.12, 0.16, 0]]).double(), rtol=2e-3)
    assert torch.equal(best.p, asked.asked[0])


def test_then_the_root_of_the_leads_at_both_ends() -> None:
    p = torch.tensor([[0.4, 0.0, 0.0]], dtype=torch.float64)
    g = torch.zeros_like(p)
    best = nothing(problem(X), p * 0)
    _, best = ask(L2(), p * 0, best, Answer(one(-3.0), g), problem(X), 5)
    _, best = ask(L2(), p, best, Answer(one(1.0), g), problem(X, t=1), 5)
    fails, succeeds = Answer(one(-1.0), g), Answer(one(0.5), g)
    _, best = ask(L2(), p, best, fails, problem(X, t=7), 5)
    assert fails.asked[0][0, 0].item() == pytest.approx(0.75 * 0.4, rel=2e-3)
    _, best = ask(L2(), p, best, succeeds, problem(X, t=8), 5)
    # The lead of the end that stayed counts half: the root of -1 at .75 and .5 at 1 is 11/12.
    assert succeeds.asked[0][0, 0].item() == pytest.approx(11 / 12 * 0.4, rel=2e-3)
    assert best.high.tolist() == pytest.approx([11 / 12], rel=2e-3)
    assert best.low.tolist() == pytest.approx([0.75], rel=2e-3)


def test_a_question_lies_beyond_the_root_where_rounding_would_decide() -> None:
    given, exact = linear_cases(DDN(), 2)
    found = DDN(steps=60, loss=CrossEntropy()).run(given.model, given.x, given.y)
    assert (found.size > exact * (1 + 1e-13)).all()


def test_of_a_count_the_first_question_is_the_fewest_coordinates_of_the_linear_model() -> None:
    """Gains to the bounds are 1.5, 2 and .2; the lead of 1 seen at 3.2 asks for 2.2 in all."""
    g = torch.tensor([[3.0, -4.0, 0.4]], dtype=torch.float64)
    p = torch.tensor([[0.4, -0.45, 0.5]], dtype=torch.float64)
    _, best = ask(L0(), p, nothing(problem(X), p * 0), Answer(one(1.0), g), problem(X), 1)
    asked = Answer(one(0.1), g)
    _, best = ask(L0(), p, best, asked, problem(X, t=1), 1)
    assert asked.asked[0].tolist() == [[0.5, -0.5, 0]]
    assert best.size.tolist() == [2]


def test_of_a_count_the_coordinates_that_gain_most_are_kept() -> None:
    p = torch.tensor([[0.1, 0.5, -0.5]], dtype=torch.float64)
    g = torch.tensor([[9.0, 0.5, -1.0]], dtype=torch.float64)  # gains .9, .25, .5
    _, best = ask(L0(), p, nothing(problem(X), p * 0), Answer(one(1.0), g), problem(X), 1)
    asked = Answer(one(-1.0), g)
    _, best = ask(L0(), p, best, asked, problem(X, t=2), 1)
    assert asked.asked[0].tolist() == [[0.1, 0, 0]]
    _, best = ask(L0(), p, best, asked, problem(X, t=3), 1)
    assert asked.asked[1].tolist() == [[0.1, 0, -0.5]]


def test_a_row_without_success_goes_on_asking_about_its_own_point() -> None:
    p = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    asked = Answer(one(-1.0), p)
    ask(L2(), p, nothing(problem(X), p * 0), asked, problem(X, t=4), 2)
    assert torch.equal(asked.asked[0], p)


def test_they_cost_no_gradient_and_gain_precision() -> None:
    given, exact = linear_cases(DDN(), 2)
    sizes = []
    for bisections in (0, 8):
        watched = Watched(given.model)
        attack = DDN(steps=60, bisections=bisections, loss=CrossEntropy())
        found = attack.run(watched, given.x, given.y)
        assert watched.backwards == (60 - bisections) * len(given.x)
        assert watched.forwards == 61 * len(given.x)
        sizes.append((found.size / exact).mean())
    assert sizes[1] < sizes[0] - 0.005


@pytest.mark.parametrize("perturbation", [L0(), L1(), L2(), Linf()], ids=repr)
def test_no_answer_grows(perturbation: Perturbation) -> None:
    """Of a curved victim as well: what was found is only replaced by something smaller."""
    layers = nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for key, part in enumerate(model.parameters()):
            part.copy_(inputs(50 + key, 1, tuple(part.shape), torch.float64)[0] * 8 - 4)
    given = case(model, inputs(9, 6, (12,), torch.float64))
    short = FMN(perturbation=perturbation, steps=20, bisections=0)
    longer = FMN(perturbation=perturbation, steps=28, bisections=8)
    before, after = (attack.run(model, given.x, given.y) for attack in (short, longer))
    assert before.success.any()
    assert (after.size <= before.size).all()
