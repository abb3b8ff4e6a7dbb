"""HopSkipJump: the rounds of the paper, its defaults and its sharpness."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L1, L2, HopSkipJump, Linf, Perturbation
from advbench.testing.strength import distances, half_space
from advbench.testing.victims import Watched


class Slope(nn.Module):
    """Class 1 where the mean of four pixels, unequally weighed, is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        lead = x @ torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=x.dtype) - 0.6
        return torch.stack([torch.zeros_like(lead), lead], 1)


def test_defaults_are_those_of_the_paper() -> None:
    one = HopSkipJump()
    assert (one.perturbation, one.probes, one.most_probes) == (L2(), 100, 10_000)
    assert (one.steps, one.looseness, one.restarts) == (25_000, 1.0, 1)
    assert one.queries == 25_000


def test_it_halves_probes_and_leaps() -> None:
    model, x = Watched(Slope()), torch.full((1, 4), 0.5, dtype=torch.float64)
    HopSkipJump(steps=60, probes=7).run(model, x, torch.tensor([0]))
    images = torch.cat([image for image, _ in model.seen]) - x
    won = torch.cat([logits.argmax(1) for _, logits in model.seen]) == 1
    first = int(won.nonzero()[0, 0])
    halved = images[first + 1 : first + 4]
    start = images[first]
    for p in halved:
        cosine = (p * start).sum() / (p.norm() * start.norm())
        assert cosine == pytest.approx(1), "on the way to the first success"
    assert halved[0].norm() == pytest.approx(float(start.norm() / 2))
    low, high = 0.0, 1.0
    for p, success in zip(halved, won[first + 1 : first + 4], strict=True):
        middle = float(p.norm() / start.norm())
        assert middle == pytest.approx((low + high) / 2)
        low, high = (low, middle) if success else (middle, high)
    edge = high * start
    probes = images[first + 4 : first + 11] - edge
    assert probes.norm(dim=1).tolist() == pytest.approx([0.1] * 7), "the first reach is 0.1"
    sign = torch.where(won[first + 4 : first + 11], 1.0, -1.0).double()
    weights = sign - sign.mean() if sign.abs().sum() != sign.sum().abs() else sign
    estimate = (weights.unsqueeze(1) * probes).sum(0)
    leap = (edge + edge.norm() * estimate / estimate.norm()).clamp(-0.5, 0.5)
    torch.testing.assert_close(images[first + 11], leap)


def test_rounds_grow_by_their_square_root() -> None:
    attack = HopSkipJump(probes=100, most_probes=150)
    assert attack._wanted(torch.tensor([1, 2, 3, 4])).tolist() == [100, 141, 150, 150]


@pytest.mark.parametrize("perturbation", [L2(), Linf()], ids=repr)
def test_close_to_the_optimum(perturbation: Perturbation) -> None:
    attack = HopSkipJump(perturbation=perturbation, steps=800)
    given, w, lead = half_space((1, 3, 4))
    exact = distances(attack, given, w, lead)
    found = attack.run(given.model, given.x, given.y)
    within = 1.1 if perturbation == L2() else 1.2
    assert found.success.all()
    assert (found.size >= exact * (1 - 1e-6)).all()
    assert (found.size <= exact * within).all(), (found.size / exact).tolist()


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"HopSkipJump: perturbation must be one of L2\(\), Linf"):
        HopSkipJump(perturbation=L1())
    for wrong in ({"probes": 0}, {"looseness": -1.0}, {"tries": 0}, {"most_probes": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a number above 0"):
            HopSkipJump(**wrong)
