"""sigma-zero."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks.minimal.sigma_zero import SigmaZero
from advbench.testing.victims import After, smooth
from tests.attacks.closed_form import assert_smallest


def test_published_defaults() -> None:
    attack = SigmaZero()
    assert (attack.steps, attack.step_size, attack.sigma) == (1000, 1.0, 1e-3)
    assert (attack.threshold, attack.adaptation) == (0.3, 0.01)
    assert attack.queries == 1000


@pytest.mark.parametrize("classes", [2, 10])
def test_smallest_on_a_linear_victim(classes: int) -> None:
    assert_smallest(SigmaZero(steps=100), classes, within=1.0)


class Recorder(nn.Module):
    """A linear victim of two classes that remembers its inputs."""

    def __init__(self, weight: list[float]) -> None:
        super().__init__()
        self.weight = torch.tensor(weight, dtype=torch.float64)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2)."""
        self.seen.append(x.detach().clone())
        lead = (x * self.weight).sum(1) - 1
        return torch.stack([-lead, lead], 1)


def test_the_first_steps_by_hand() -> None:
    """One step to the bounds along the signs; what is smaller than the threshold is set back."""
    model = Recorder([1.0, 2.0, -0.5])
    x = torch.tensor([[0.5, 0.2, 0.2]], dtype=torch.float64)
    SigmaZero(steps=10).run(model, x, torch.tensor([0]))
    clean, start, moved = model.seen[:3]
    assert torch.equal(clean, x)
    assert torch.equal(start, x)
    torch.testing.assert_close(moved, torch.tensor([[1.0, 1.0, 0.2]], dtype=torch.float64))


def test_the_last_steps_prune() -> None:
    """One coordinate is enough, where a step to the bounds changes all."""
    model = Recorder([0.4, 2.0, -0.5, 0.4])
    x = torch.tensor([[0.3, 0.3, 0.6, 0.3]], dtype=torch.float64)
    found = SigmaZero(steps=40, threshold=0.0, adaptation=1e-9).run(model, x, torch.tensor([0]))
    assert (found.p[0] != 0).tolist() == [False, True, False, False]
    assert found.forwards < 41, "goes on when there is nothing to prune"


def test_where_the_slope_misleads_coordinates_are_left_out_one_by_one() -> None:
    """By its slope the first coordinate is best; it is the second that cannot be spared."""
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    best, slope = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[9.0, 1.0, 2.0]])
    count, tries = torch.tensor([2.0]), []
    for failures in range(3):
        k = torch.tensor([failures])
        tries.append(SigmaZero()._pruned(x, best.to(x), slope.to(x), count.to(x), k)[0].tolist())
    assert tries == [[0.5, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]


def _lowered(_: Tensor, logits: Tensor) -> Tensor:
    return logits - 100


def test_logits_below_zero_are_logits() -> None:
    model, x, y, _ = smooth()
    one, two = (SigmaZero(steps=30).run(m, x, y) for m in (model, After(model, _lowered)))
    assert one.success.all()
    torch.testing.assert_close(one.x_adv, two.x_adv, rtol=0, atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="SigmaZero: sigma must be a number above 0; got 0"):
        SigmaZero(sigma=0)
    with pytest.raises(ValueError, match=r"SigmaZero: threshold must lie in \[0, 1\]; got 2"):
        SigmaZero(threshold=2)
