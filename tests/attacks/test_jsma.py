"""JSMA: the best pair against all pairs, steps by hand, targets and limits."""

import math

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import JSMA, L0
from advbench.attacks.minimal.jsma import best_pair
from advbench.testing.halfspace import distance
from advbench.testing.strength import half_space
from advbench.testing.victims import Affine, After, Watched, linear, numbers, smooth


class Scores(nn.Module):
    """Logits that are linear in four pixels."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        super().__init__()
        self.weight, self.bias = torch.tensor(weight).double(), torch.tensor(bias).double()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K)."""
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


@pytest.mark.parametrize("wide", [2, 3, 7, 40])
def test_the_best_pair_is_that_of_all_pairs(wide: int) -> None:
    gain, loss = numbers(1, 30, wide), numbers(2, 30, wide)
    loss[10:20] = 0.1 * loss[10:20] - gain[10:20]  # hardly anything is good in both
    free = numbers(3, 30, wide) > -0.8
    pair, salient = best_pair(gain, loss, free)
    for row in range(30):
        best, which = 0.0, None
        for i in range(wide):
            for j in range(i + 1, wide):
                a, b = float(gain[row, i] + gain[row, j]), float(loss[row, i] + loss[row, j])
                if free[row, i] and free[row, j] and a > 0 and b > 0 and a * b > best:
                    best, which = a * b, {i, j}
        assert bool(salient[row]) == (which is not None)
        if which is not None:
            assert set(pair[row].tolist()) == which


def test_a_hand_made_jacobian_downwards() -> None:
    """Lowering pixels 1 and 3 raises the target; the others have room but the wrong sign."""
    model = Scores([[0.0, 3.0, 0.0, 2.0], [1.0, -4.0, 2.0, -3.0]], [0.0, 2.6])
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    y = model(x).argmax(1)
    assert y.tolist() == [0]
    found = JSMA(direction="down", share=1.0).run(model, x, y)
    assert found.success.all()
    assert found.x_adv.tolist() == [[0.5, 0.0, 0.5, 0.0]]
    masked = x.clone()
    masked[0, 1] = 0  # no room left there: it must not be chosen again
    found = JSMA(direction="down", share=1.0, steps=1).run(model, masked, y)
    assert found.x_adv[0, 1] == 0


def test_saliency_is_a_product_of_sums() -> None:
    """The difference of the sums would take pixels 0 and 1."""
    model = Scores([[-0.01, -0.01, -1.0, -0.9], [3.0, 2.9, 1.0, 0.9]], [9.0, 0.0])
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    watched = Watched(model)
    JSMA(share=1.0, steps=1).run(watched, x, torch.zeros(1, dtype=torch.int64))
    assert watched.seen[-1][0].tolist() == [[1.0, 0.5, 1.0, 0.5]]


def test_published_defaults() -> None:
    attack = JSMA()
    assert (attack.step_size, attack.direction, attack.share) == (1.0, "up", 0.1)
    assert attack.perturbation == L0()


@pytest.mark.parametrize("share", [0.1, 0.33, 1.0])
def test_no_more_pairs_than_its_share(share: float) -> None:
    model, x, _, _ = linear(classes=3, count=4)
    sure = After(model, lambda _, z: z + torch.tensor([1000.0, 0.0, 0.0]))
    watched = Watched(sure)
    found = JSMA(share=share).run(watched, x, torch.zeros(4, dtype=torch.int64))
    assert not found.success.any()
    most = math.ceil(share * x[0].numel() / 2)
    # Rows leave one by one, so each image is compared with the nearest input.
    sizes = [(a.unsqueeze(1) != x).flatten(2).sum(2).amin(1).amax() for a, _ in watched.seen]
    assert 0 < max(sizes) <= 2 * most
    assert (found.forwards <= 1 + 2 * most + 1).all()


def test_targets_and_turns() -> None:
    model, x, y, targets = smooth(classes=4, count=8)
    attack = JSMA(share=1.0, direction="both")
    aimed = attack.run(model, x, y, targets=targets)
    assert aimed.success.any()
    reached = model(aimed.x_adv).argmax(1) == targets
    assert torch.equal(reached, aimed.success)
    one, three = (
        JSMA(share=1.0, direction="both", target_classes=k).run(model, x, y) for k in (0, 3)
    )
    assert (three.size <= one.size).all()
    assert (three.forwards > one.forwards).all()


def test_either_way_is_within_a_pair_of_the_least() -> None:
    """On a half-space with equal and opposite logits the largest weights are the best ones."""
    given, w, lead = half_space((4, 5), count=12)
    least = distance(L0(), w, given.x.flatten(1), lead)
    least = torch.where(given.y == 1, least, distance(L0(), -w, given.x.flatten(1), lead))
    assert isinstance(given.model, Affine)
    offset = float(given.model.bias.detach()[1])
    opposite = Scores([(-w / 2).tolist(), (w / 2).tolist()], [-offset / 2, offset / 2])
    found = JSMA(share=1.0, direction="both").run(opposite, given.x, given.y)
    assert found.success.all()
    assert (found.size >= least).all()
    assert (found.size <= least + 2).all()


def test_fields_out_of_range() -> None:
    with pytest.raises(ValueError, match="JSMA: direction must be up, down or both; got 'left'"):
        JSMA(direction="left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"JSMA: target_classes must be .* got -1"):
        JSMA(target_classes=-1)
