"""N1: Models in 16 bits and callers under autocast: what is the attack's own stays in 32 bits."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import APGD, L2, PGD, Attack, CrossEntropy, Loss, Sticker
from advbench.attacks.criterion import Criterion
from advbench.testing.victims import Case, balanced, case, inputs, smooth

HALVES = (torch.float16, torch.bfloat16)
PRECISE: list[Attack] = [
    PGD(steps=6),
    PGD(perturbation=L2(), steps=6),
    APGD(steps=8),
    APGD(perturbation=L2(), steps=8),
]
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)


def half_model(dtype: torch.dtype, count: int = 6) -> Case:
    """A network whose weights and activations have 16 bits, on images of 32."""
    given = smooth(count=count, dtype=torch.float32)
    return case(given.model.to(dtype), given.x.to(dtype))._replace(x=given.x)


@halves
@pytest.mark.parametrize("attack", PRECISE, ids=repr)
def test_n1_a_model_in_16_bits_is_attacked_in_32(attack: Attack, dtype: torch.dtype) -> None:
    model, x, y, _ = half_model(dtype)
    eps = torch.linspace(0.02, 0.3, len(x), dtype=torch.float64)
    found = attack.run(model, x, y, eps=eps, stop="never")
    assert found.x_adv.dtype == found.p.dtype == found.loss.dtype == torch.float32
    size = attack.perturbation.size(x.double(), found.p.double())
    assert (size <= attack.perturbation.limit(eps)).all()
    assert (size > 0.99 * eps).all(), "no part of the room is lost to rounding"
    assert (found.p.to(dtype).float() != found.p).any(), "the changes have more than 16 bits"


def test_n1_sums_of_losses_do_not_overflow() -> None:
    """Of 64 rows, each with a loss near the largest number of 16 bits."""
    layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half()
    with torch.no_grad():
        layer[1].weight.copy_(torch.tensor([[3e4] * 4, [-3e4] * 4]))
        layer[1].bias.zero_()
    x = 0.2 + 0.1 * inputs(3, 64, (1, 2, 2), torch.float32)
    y = torch.ones(64, dtype=torch.int64)  # wrong by 40,000 and more: the loss is the lead
    together = PGD(steps=3).run(layer, x, y, eps=0.01, stop="never")
    assert together.loss.isfinite().all()
    assert together.loss.sum() > 65504
    alone = PGD(steps=3).run(layer, x[5:6], y[5:6], eps=0.01, stop="never", ids=torch.tensor([5]))
    assert torch.equal(alone.x_adv[0], together.x_adv[5])


class Spy(nn.Module):
    """Remembers the precision of its products."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        self.seen.add(logits.dtype)
        return logits


@dataclass(frozen=True)
class Listening(Loss):
    """Cross-entropy that notes whether autocast reaches it."""

    heard: list[bool]

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        self.heard.append(torch.is_autocast_enabled("cpu"))
        assert logits.dtype == torch.float32
        return CrossEntropy()(logits, criterion)


def test_n1_autocast_reaches_the_model_and_nothing_else() -> None:
    model, x, y, _ = smooth(dtype=torch.float32)
    spy, heard = Spy(model), list[bool]()
    attack = PGD(steps=3, loss=Listening(heard))
    with torch.autocast("cpu", torch.bfloat16):
        found = attack.run(spy, x, y, eps=0.1, stop="never")
        assert torch.is_autocast_enabled("cpu")
    assert spy.seen == {torch.bfloat16}
    assert not any(heard)
    assert len(heard) == 4
    assert found.x_adv.dtype == torch.float32


def test_n1_autocast_is_as_before_after_an_exception() -> None:
    def fail(x: Tensor) -> Tensor:
        raise InterruptedError

    x, y = torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(InterruptedError):
            PGD(steps=1).run(fail, x, y, eps=0.1)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_n1_a_fit_under_autocast_keeps_its_arithmetic() -> None:
    given = balanced(dtype=torch.float32)

    def exact(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            logits: Tensor = given.model(x)
        return logits

    one = Sticker.examples()[0]
    plain = one.fit(exact, [(given.x, given.y)], eps=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        found = one.fit(exact, [(given.x, given.y)], eps=0.3)
    assert found == plain
