"""Checks that an attack finds what is there, and nothing that is not."""

from typing import get_args

import torch
from torch import Tensor

from advbench.attacks.attack import Attack, Stop
from advbench.attacks.criterion import Criterion
from advbench.attacks.flags import Flag
from advbench.attacks.losses import Margin
from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.search import Rule
from advbench.testing.halfspace import distance, knows
from advbench.testing.requirement import require
from advbench.testing.victims import (
    After,
    Case,
    Stalled,
    case,
    first_layer,
    inputs,
    linear,
    scale,
    shape_for,
)

_STOPS: tuple[Stop, ...] = get_args(Stop)
_GENEROUS = 4.0
"""Times the exact distance at which any attack with gradients, however short, succeeds."""


def half_space(shape: tuple[int, ...], count: int = 6) -> tuple[Case, Tensor, Tensor]:
    """Return a two-class linear victim, the direction ``w`` (d,) of its lead and the leads (N,)."""
    x = inputs(11, count, shape, torch.float64)
    model = first_layer(12, shape, 2, torch.float64)
    with torch.no_grad():
        w = model.weight[1] - model.weight[0]
        model.bias[0], model.bias[1] = 0, -(x.flatten(1) @ w).mean()
        given = case(model, x)
        lead = (x.flatten(1) @ w + model.bias[1]).abs()
    return given, w, lead


def distances(attack: Attack, given: Case, w: Tensor, lead: Tensor) -> Tensor:
    """Return the exact distance of each row (N,) to the boundary inside the box."""
    x, y = given.x.flatten(1), given.y
    found = distance(attack.perturbation, w, x, lead)
    return torch.where(y == 1, found, distance(attack.perturbation, -w, x, lead))


def check_zero_eps(attack: Attack) -> None:
    """An eps of zero is the input itself, without a gradient."""
    model, x, y, _ = linear(shape=shape_for(attack))
    for stop in _STOPS:
        found = attack.run(model, x, y, eps=0.0, stop=stop)
        require(torch.equal(found.x_adv, x), attack, "eps = 0 changes the input")
        require(~found.success, attack, "eps = 0 is a success")
        if attack.finds == "inside":
            require(found.backwards == 0, attack, "eps = 0 takes a gradient")


def check_half_space(attack: Attack) -> None:
    """On a half-space nothing succeeds short of the exact distance, gradients do well beyond it.

    Of sets whose exact distance is not known this asks nothing; ``check_monotone`` and
    ``check_targeted`` ask that their gradients lead somewhere.
    """
    if not knows(attack.perturbation):
        return
    given, w, lead = half_space(shape_for(attack))
    exact = distances(attack, given, w, lead)
    targets = 1 - given.y
    near, far = exact * 0.98, (exact * _GENEROUS).clamp_max(scale(attack, given.x, 1))
    x, y, eps = torch.cat([given.x] * 2), given.y.repeat(2), torch.cat([near, far])
    for stop in _STOPS:
        for aims in (None, targets.repeat(2)):
            found = attack.run(given.model, x, y, eps=eps, targets=aims, stop=stop).x_adv
            below, beyond = (given.model(found).argmax(1) != y).chunk(2)
            require(~below, attack, "succeeds at 0.98 times the exact distance")
            if attack.access == "gradient":
                require(beyond, attack, f"fails at {_GENEROUS:g} times the exact distance")


def check_monotone(attack: Attack) -> None:
    """On a half-space an attack with gradients that succeeds also does so with a larger eps.

    A larger patch has other places to go than a smaller one, and a pose can turn past the best
    one: of sets that cannot change every pixel, more rows have to succeed with the largest eps than
    with the smallest.
    """
    if attack.access != "gradient":
        return
    given, _, _ = half_space(shape_for(attack))
    count, shares = len(given.x), torch.tensor([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
    eps = scale(attack, given.x, 1) * shares.repeat_interleave(count)
    x, y, ids = torch.cat([given.x] * 6), given.y.repeat(6), torch.arange(count).repeat(6)
    found = attack.run(given.model, x, y, eps=eps, ids=ids, stop="never").success.view(6, count)
    if not isinstance(attack.perturbation, Pixels):
        require(bool(found[-1].sum() > found[0].sum()), attack, "gains nothing by a larger eps")
        return
    for share, before, now in zip(shares[1:], found, found[1:], strict=False):
        require(now | ~before, attack, f"fails at {share:.3f} of the box, succeeds with less")
    require(found[-1], attack, "does not cross a half-space with the whole box to move in")


def check_targeted(attack: Attack) -> None:
    """With targets only the target counts, among 2, 3, 4 and 10 classes, and gradients reach it.

    What a set that cannot change every pixel reaches depends on the victim: there, gradients bring
    the targets nearer, in the mean of the rows.
    """
    for classes in (2, 3, 4, 10):
        model, x, y, targets = linear(classes, shape=shape_for(attack))
        for stop in _STOPS if classes == 3 else _STOPS[:1]:
            eps = scale(attack, x, 0.5)
            found = attack.run(model, x, y, eps=eps, targets=targets, stop=stop)
            reached = model(found.x_adv).argmax(1) == targets
            require(found.success == reached, attack, "success is not to reach the target")
        if attack.access != "gradient":
            continue
        if isinstance(attack.perturbation, Pixels):
            require(found.success.float().mean() >= 0.5, attack, f"misses targets of {classes}")
        else:
            aim = Criterion(y, targets)
            before, after = (Margin()(model(images), aim).mean() for images in (x, found.x_adv))
            require(bool(after > before), attack, f"leads away from targets of {classes}")


def _without_gradient(_: Tensor, logits: Tensor) -> Tensor:
    return logits.detach() + 0 * logits


def check_zero_gradient_at_start(attack: Attack) -> None:
    """N3: One gradient of zero at the start is flagged and does not stop the search for good.

    It succeeds after all; where the set cannot change every pixel, it at least moves on.
    """
    if attack.access != "gradient":
        return
    given, _, _ = half_space(shape_for(attack))
    eps = scale(attack, given.x, 0.3)
    for stop in _STOPS:
        found = attack.run(Stalled(given.model), given.x, given.y, eps=eps, stop=stop)
        require(found.x_adv.flatten(1).isfinite().all(1), attack, "x_adv is not finite")
        require((found.flags & Flag.ZERO_GRADIENT) != 0, attack, "the zero gradient has no flag")
        if not (isinstance(attack, Rule) and attack.steps > 1):
            continue
        moves = found.success
        if not isinstance(attack.perturbation, Pixels):
            dead = After(given.model, _without_gradient)
            still = attack.run(dead, given.x, given.y, eps=eps, stop="never")
            moves = moves | (found.x_adv != still.x_adv).flatten(1).any(1)
        require(moves, attack, "one gradient of zero stops the search for good")
