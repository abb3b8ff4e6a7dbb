"""Universal perturbations: what is fitted on linear models, and the value that comes of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import (
    L1,
    L2,
    UAP,
    AddedDelta,
    Delta,
    Linf,
    Margin,
    SignNoise,
    TemperedMargin,
)
from advbench.config import plain
from advbench.schema import remade
from advbench.testing.victims import Watched, balanced

QUICK: dict[str, Any] = {"steps": 20, "step_size": 0.2, "samples": 8, "images": 16}
W = torch.tensor([0.5, -2.0, 0.25, 1.0])
"""Unequal, so that the best differences in Linf and in L2 are not the same."""


class _Line(nn.Module):
    """Class 1 where ``W . x`` exceeds a bias."""

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1).to(W) @ W - 10
        return torch.stack([torch.zeros_like(lead), lead], 1)


def images(count: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    x[0] = 0  # what has no room to become darker
    return x, torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(
    ("perturbation", "best"), [(Linf(), 0.3 * W.sign()), (L2(), 0.3 * W / W.norm())]
)
def test_difference_is_the_steepest_whatever_the_box_of_one_image(perturbation, best) -> None:
    fitted = UAP(perturbation=perturbation, **QUICK).fit(_Line(), [images()], eps=0.3)
    assert isinstance(fitted, AddedDelta)
    torch.testing.assert_close(fitted.delta.tensor().flatten(), best, rtol=0, atol=1e-3)


def test_difference_may_be_as_large_as_the_box() -> None:
    fitted = UAP(**QUICK).fit(_Line(), [images()], eps=1.0)
    assert isinstance(fitted, AddedDelta)
    torch.testing.assert_close(fitted.delta.tensor().flatten(), W.sign())


def test_images_beyond_the_cap_do_not_count() -> None:
    """Half of the images are lost by far: only the others have a gradient."""
    given = balanced(classes=2, count=24)
    lead = given.model(given.x).detach()
    lead = lead[:, 1] - lead[:, 0]
    y = torch.where(torch.arange(24) < 12, given.y, 1 - given.y)  # wrong as they are
    certain = replace(UAP(**QUICK), loss=Margin(), cap=float(lead.abs().min()) / 2, samples=24)
    watched = Watched(given.model)
    wrong = certain.fit(watched, [(given.x[12:], y[12:])], eps=1e-6)
    assert isinstance(wrong, AddedDelta)
    assert (wrong.delta.tensor() == 0).all()
    right = certain.fit(watched, [(given.x[:12], y[:12])], eps=1e-6)
    assert isinstance(right, AddedDelta)
    assert (right.delta.tensor() != 0).any()


def test_fitted_attack_adds_the_same_to_new_images_and_asks_once() -> None:
    fitted = UAP(**QUICK).fit(_Line(), [images()], eps=0.3)
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    found = fitted.run(_Line(), x, y, eps=0.3, stop="never")
    torch.testing.assert_close(found.x_adv - x, (0.3 * W.sign()).view(1, 1, 2, 2).expand_as(x))
    assert (found.forwards == 1).all()
    assert (found.backwards == 0).all()
    smaller = fitted.run(_Line(), x, y, eps=0.1, stop="never")
    torch.testing.assert_close(smaller.size, torch.full((3,), 0.1))
    larger = fitted.run(_Line(), x, y, eps=0.5, stop="never")
    assert torch.equal(larger.x_adv, found.x_adv)


def test_difference_is_a_value_that_can_be_written_down() -> None:
    values = torch.tensor([[0.1, -0.25], [1e-7, 0.0]], dtype=torch.float64)
    attack = AddedDelta(delta=Delta.of(values), perturbation=L2())
    assert torch.equal(attack.delta.tensor(), values.float())
    assert remade("attacks", plain(attack), "cell.json", "fitted") == attack
    assert attack.delta != Delta.of(-values)


def test_difference_of_another_shape_is_refused() -> None:
    attack = AddedDelta(delta=Delta.of(torch.zeros(1, 3, 3)))
    x, y = images()
    with pytest.raises(ValueError, match=r"delta of shape \(1, 3, 3\) is not for images"):
        attack(_Line(), x, y, eps=0.1)


@pytest.mark.parametrize("perturbation", [Linf(), L2()], ids=repr)
def test_noise_is_random_signs_of_the_same_size(perturbation) -> None:
    x = torch.rand(2, 3, 8, 8)
    y = torch.zeros(2, dtype=torch.int64)
    (control,) = UAP(perturbation=perturbation).controls()
    assert control == SignNoise(perturbation=perturbation)
    made = []
    for seed in (0, 1):
        fitted = control.fit(_Line(), [(x, y)], eps=0.5, seed=seed)
        assert isinstance(fitted, AddedDelta)
        made.append(fitted.delta.tensor())
    torch.testing.assert_close(perturbation.size(x, torch.stack(made)), torch.tensor([0.5, 0.5]))
    assert len(made[0].abs().unique()) == 1
    assert 0.35 < (made[0] > 0).float().mean() < 0.65
    assert not torch.equal(*made)


def test_defaults_are_pinned() -> None:
    one = UAP()
    assert (one.cap, one.steps, one.step_size, one.samples, one.images) == (9, 150, 0.1, 64, 1000)
    assert one.perturbation == Linf()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UAP(perturbation=L1()), r"perturbation must be Linf\(\) or L2\(\)"),
        (lambda: SignNoise(perturbation=L1()), r"perturbation must be Linf\(\) or L2\(\)"),
        (lambda: UAP(cap=0.0), "cap must be a number above 0"),
        (lambda: UAP(loss=TemperedMargin()), "must not ask for clean logits"),
        (lambda: Delta((2,), "AAAA"), "8 bytes of 2 numbers"),
        (lambda: Delta.of(torch.tensor([torch.nan])), "finite"),
    ],
)
def test_wrong_fields_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
