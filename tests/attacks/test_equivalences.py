"""Attacks that must agree where their definitions do, and differ where they do not."""

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from advbench.attacks import (
    BIM,
    EOT,
    FGSM,
    L1,
    L2,
    MIFGSM,
    NIFGSM,
    PGD,
    RFGSM,
    Linf,
    Margin,
    Perturbation,
    View,
)
from advbench.attacks.attack import Attack, Outcome
from advbench.attacks.randomness import Draws
from advbench.testing.requirement import require_same
from advbench.testing.victims import scale, smooth

SETS = [Linf(), L2(), L1()]


def run(attack: Attack, classes: int = 3, targeted: bool = False, **terms: Any) -> Outcome:
    model, x, y, targets = smooth(classes, count=6)
    eps = scale(attack, x, 0.05)
    aims = targets if targeted else None
    return attack.run(model, x, y, eps=eps, targets=aims, **{"stop": "never", **terms})


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_one_family(perturbation: Perturbation, targeted: bool) -> None:
    def same(one: Attack, two: Attack) -> None:
        got, expected = run(one, targeted=targeted), run(two, targeted=targeted)
        require_same(one, got, expected, f"differs from {two!r}")
        assert (got.p != 0).flatten(1).any(1).all(), "an attack that does nothing proves nothing"

    p = perturbation
    same(PGD(perturbation=p, steps=1, step_size=1, random_start=False), FGSM(perturbation=p))
    same(PGD(perturbation=p, steps=7, random_start=False), BIM(perturbation=p, steps=7))
    same(
        MIFGSM(perturbation=p, steps=7, step_size=0.3, decay=0.0),
        BIM(perturbation=p, steps=7, step_size=0.3),
    )
    same(
        NIFGSM(perturbation=p, steps=7, step_size=0.3, decay=0.0),
        BIM(perturbation=p, steps=7, step_size=0.3),
    )
    same(MIFGSM(perturbation=p, steps=4), MIFGSM(perturbation=p, steps=4, step_size=0.25))
    same(BIM(perturbation=p, steps=5), BIM(perturbation=p, steps=5, step_size=0.5))


def test_what_must_differ_differs() -> None:
    def differ(one: Attack, two: Attack) -> None:
        gap = (run(one).p - run(two).p).flatten(1).abs().amax(1)
        assert (gap > 1e-6).any(), f"{one!r} equals {two!r}"

    differ(PGD(steps=1, step_size=0.5), BIM(steps=1, step_size=0.5))
    differ(FGSM(), RFGSM())
    two = L2()
    momentum = MIFGSM(perturbation=two, steps=7)
    differ(momentum, BIM(perturbation=two, steps=7, step_size=1 / 7))
    differ(momentum, NIFGSM(perturbation=two, steps=7))
    differ(momentum, MIFGSM(perturbation=two, steps=7, decay=0.5))
    differ(FGSM(perturbation=two), FGSM(perturbation=two, loss=Margin()))


def test_a_tiny_random_share_is_fgsm() -> None:
    for perturbation in (Linf(), L2()):
        one = run(RFGSM(perturbation=perturbation, share=1e-7)).p
        torch.testing.assert_close(one, run(FGSM(perturbation=perturbation)).p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", [None, Margin()], ids=repr)
def test_two_classes_targeted_is_untargeted(loss: Margin | None) -> None:
    for attack in (FGSM(), PGD(steps=5), MIFGSM(), NIFGSM(perturbation=L2())):
        spec = attack if loss is None else dataclasses.replace(attack, loss=loss)
        got, plain = run(spec, classes=2, targeted=True), run(spec, classes=2)
        torch.testing.assert_close(got.x_adv, plain.x_adv, rtol=0, atol=1e-9)
        assert torch.equal(got.success, plain.success)


class Nothing(View):
    """A view that changes nothing and does not say so."""

    copies: ClassVar[int] = 1

    def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
        return images


@pytest.mark.parametrize(
    "attack", [FGSM(), PGD(steps=5, restarts=2), MIFGSM(perturbation=L2())], ids=repr
)
def test_expectation_over_nothing_is_plain(attack: Attack) -> None:
    plain = run(attack)
    for eot in (EOT(1), EOT(4), EOT(1, (Nothing(),)), EOT(4, (Nothing(),))):
        got = run(attack, eot=eot)
        torch.testing.assert_close(got.x_adv, plain.x_adv, rtol=0, atol=1e-9)
        torch.testing.assert_close(got.loss, plain.loss)
        assert torch.equal(got.success, plain.success)
        assert torch.equal(got.forwards, plain.forwards * (eot.samples + bool(eot.views)))
        assert torch.equal(got.backwards, plain.backwards * eot.samples)


def test_steps_are_shared_by_the_step_size_rule() -> None:
    """A step size of None is the same share of eps for any eps and for each row's own."""
    model, x, y, _ = smooth(count=2)
    eps = torch.tensor([0.01, 0.2], dtype=torch.float64)
    found = BIM(steps=1, step_size=0.5).run(model, x, y, eps=eps, stop="never")
    torch.testing.assert_close(found.size, eps / 2)


def test_calling_is_running_to_the_end() -> None:
    model, x, y, _ = smooth()
    attack = PGD(steps=3)
    assert torch.equal(attack(model, x, y, eps=0.1), run_never(attack, model, x, y))


def run_never(attack: Attack, model: Any, x: Tensor, y: Tensor) -> Tensor:
    return attack.run(model, x, y, eps=0.1, stop="never").x_adv
