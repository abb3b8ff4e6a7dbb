"""Adam, per row."""

import torch

from advbench.attacks.adam import Moments, adam


def test_the_moves_are_those_of_torch() -> None:
    gradients = torch.tensor([[0.5, -2.0], [0.1, 0.3], [-4.0, 0.0]], dtype=torch.float64)
    theirs = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimiser = torch.optim.Adam([theirs], lr=0.03, maximize=True)
    ours, moments = torch.zeros(1, 2, dtype=torch.float64), Moments.zero(torch.zeros(1, 2))
    for count, g in enumerate(gradients, start=1):
        theirs.grad = g.clone()
        optimiser.step()
        step, moments = adam(moments, g.unsqueeze(0), torch.tensor([count]), 0.03)
        ours = ours + step
        torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-12, atol=0)


def test_each_row_has_its_own_count_and_step_size() -> None:
    g, zero = torch.tensor([[1.0], [1.0]]), Moments.zero(torch.zeros(2, 1))
    step, moments = adam(zero, g, torch.tensor([1, 2]), torch.tensor([[0.1], [0.2]]))
    late = 0.2 * (0.1 / (1 - 0.9**2)) / (0.001 / (1 - 0.999**2)) ** 0.5
    torch.testing.assert_close(step, torch.tensor([[0.1], [late]]))
    torch.testing.assert_close(moments.m, torch.full((2, 1), 0.1))


def test_gradients_of_zero_move_nothing() -> None:
    zero = Moments.zero(torch.zeros(1, 3))
    step, _ = adam(zero, torch.zeros(1, 3), torch.tensor([1]), 1.0)
    assert torch.equal(step, torch.zeros(1, 3))
