"""Checks of an attack that is fitted first: of the fit, and of the attack that comes of it."""

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import nn

from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.criterion import Criterion
from advbench.attacks.losses import Margin
from advbench.attacks.perturbations import Patch, Perturbation
from advbench.testing.answers import SHAPES, refuses
from advbench.testing.contract import CHECKS
from advbench.testing.manners import photograph, random_states
from advbench.testing.requirement import ContractError, require
from advbench.testing.victims import Case, Stateful, Watched, balanced, inputs, scale, shape_for

_SHARE = 0.5
_ELSEWHERE = ("shapes",)  # what is fitted to inputs of one shape need not take another


def fitted(
    one: Fittable,
    given: Case,
    *,
    eps: float | None = None,
    targets: int | None = None,
    seed: int = 0,
) -> Attack:
    """Fit to all inputs of a case as one batch, by default at half of the largest eps."""
    eps = scale(one, given.x, _SHARE) if eps is None else eps
    return one.fit(given.model, [(given.x, given.y)], eps=eps, targets=targets, seed=seed)


def _optimises(one: Fittable) -> bool:
    """Whether it searches for what reaches a class from others; a control need not."""
    return one.access == "gradient" or bool(one.controls())


def _refuses_to_fit(
    one: Fittable, given: Case, *, eps: float | None = None, targets: int | None = None
) -> str | None:
    """Return the words of the ``ValueError`` that the fit raises; None if it raises none."""
    try:
        fitted(one, given, eps=eps, targets=targets)
    except ValueError as error:
        return str(error)
    return None


def check_images(one: Fittable) -> None:
    """The number of training images that it wants is a whole number of at least 1."""
    require(type(one.images) is int and one.images >= 1, one, f"images is {one.images!r}")


def check_fit_shapes(one: Fittable) -> None:
    """Images of several shapes, or scenes: fitted to them, or refused by fit and by attack."""
    whole = fitted(one, balanced(shape=shape_for(one)))
    for shape in dict.fromkeys((shape_for(one), *SHAPES)):
        given = balanced(shape=shape, count=12)
        why = one.perturbation.refusal(torch.Size(shape))
        if why is not None:
            said = _refuses_to_fit(one, given, eps=0.1)
            require(said is not None and why in said, one, f"fits to {shape} although {why}")
        else:
            attack = fitted(one, given)
            x_adv = attack(given.model, given.x, given.y, eps=scale(one, given.x, _SHARE))
            require(x_adv.shape == given.x.shape, one, f"{given.x.shape} became {x_adv.shape}")
        refuses(whole, shape)


def check_fit_precision(one: Fittable) -> None:
    """Images of any precision, whatever that of the model, and labels of any integer type."""
    for weights in (torch.float32, torch.float64):
        given = balanced(shape=shape_for(one), dtype=weights)
        for dtype in (torch.float16, torch.float32, torch.float64):
            batch = given.x.to(dtype), given.y.to(torch.uint8)
            try:
                one.fit(given.model, [batch], eps=scale(one, given.x, _SHARE))
            except (RuntimeError, TypeError) as error:
                require(False, one, f"images in {dtype}, a model in {weights}: {error}")


def check_fitted_attack(one: Fittable) -> None:
    """What is fitted is an ordinary attack inside a set, and keeps every promise of one."""
    attack = fitted(one, balanced(shape=shape_for(one)))
    require(isinstance(attack, Attack), one, f"the fit returns {type(attack).__name__}")
    require(attack.finds == one.finds == "inside", one, "looks for the smallest change")
    for name, check in CHECKS.items():
        if name in _ELSEWHERE:
            continue
        try:
            check(attack)
        except ContractError as error:
            require(False, one, f"the fitted attack breaks {name!r}: {error}")


def _place(perturbation: Perturbation) -> object:
    """Return what a fit may not change of a set."""
    if isinstance(perturbation, Patch):
        return perturbation.mask, perturbation.placement
    return perturbation


def check_fitted_set(one: Fittable) -> None:
    """What is fitted searches the declared set; a patch keeps its mask and placement."""
    attack = fitted(one, balanced(shape=shape_for(one)))
    same = _place(attack.perturbation) == _place(one.perturbation)
    require(same, one, f"fitted to another set: {attack.perturbation!r:.300}")


def check_fit_repeatable(one: Fittable) -> None:
    """The same seed gives the same attack, whatever the batches and the mode of the caller."""
    given = balanced(shape=shape_for(one))
    eps = scale(one, given.x, _SHARE)
    for target in (None, 1):
        whole = fitted(one, given, targets=target, seed=3)
        again = fitted(one, given, targets=target, seed=3)
        require(again == whole, one, "a second fit is different")
        for size in (1, 7):
            batches = zip(given.x.split(size), given.y.split(size), strict=True)
            cut = one.fit(given.model, batches, eps=eps, targets=target, seed=3)
            require(cut == whole, one, f"differs in batches of {size}")
        with torch.no_grad():
            off = fitted(one, given, targets=target, seed=3)
        require(off == whole, one, "differs under no_grad")
        require(torch.is_grad_enabled(), one, "gradients are left switched off")


def check_fit_access(one: Fittable) -> None:
    """A fit asks the victim for no more than its declared access, and one without for nothing."""
    given = balanced(shape=shape_for(one))
    watched = Watched(given.model)
    fitted(one, given._replace(model=watched), targets=1)
    asked = watched.forwards > 0
    require(asked == (one.access != "none"), one, f"access {one.access}, asked: {asked}")
    require(one.access == "gradient" or not watched.backwards, one, "takes gradients")


def check_several_models(one: Fittable) -> None:
    """A list of one model is that model; of several models, each is asked."""
    given = balanced(shape=shape_for(one))
    batches = [(given.x, given.y)]
    eps = scale(one, given.x, _SHARE)
    single = one.fit([given.model], batches, eps=eps, targets=1)
    require(single == fitted(one, given, targets=1), one, "a list of one model is another victim")
    members = [Watched(given.model), Watched(given.model)]
    one.fit(members, batches, eps=eps, targets=1)
    asked = [member.forwards > 0 for member in members]
    require(asked == [one.access != "none"] * 2, one, f"of two models, these are asked: {asked}")


def check_fit_model(one: Fittable) -> None:
    """Modes, buffers, parameters, gradients and hooks are as before, also after an exception."""
    shape = shape_for(one)
    x = inputs(6, 12, shape, torch.float64)
    y = torch.arange(12) % 3
    for fails_at in (None, 1, 2, 3):
        models: list[nn.Module] = [Stateful(fails_at, shape), Stateful(None, shape)]
        before = [photograph(model) for model in models]
        with suppress(InterruptedError):
            one.fit(models, [(x, y)], eps=scale(one, x, _SHARE))
        when = "" if fails_at is None else f" after an exception in forward pass {fails_at}"
        same = [photograph(model) for model in models] == before
        require(same, one, f"a model was changed{when}")


def check_fit_inputs(one: Fittable) -> None:
    """No training image and no label is written to, and no image gets a gradient."""
    given = balanced(shape=shape_for(one))
    x, y = given.x.clone().requires_grad_(), given.y.clone()
    one.fit(given.model, [(x, y)], eps=scale(one, x, _SHARE), targets=1)
    require(torch.equal(x, given.x) and torch.equal(y, given.y), one, "writes to its images")
    require(x.requires_grad and x.grad is None, one, "an image got a gradient")


def check_fit_random_state(one: Fittable) -> None:
    """The random states of torch, NumPy and Python are as before, also after an exception."""
    shape = shape_for(one)
    x = inputs(6, 12, shape, torch.float64)
    for fails_at in (None, 2):
        model, before = Stateful(fails_at, shape), random_states()
        with suppress(InterruptedError):
            one.fit(model, [(x, torch.arange(12) % 3)], eps=scale(one, x, _SHARE))
        require(random_states() == before, one, "a global random state was changed")


def check_nothing_to_fit_to(one: Fittable) -> None:
    """No batches are a ``ValueError``."""
    given = balanced(shape=shape_for(one))
    try:
        one.fit(given.model, [], eps=scale(one, given.x, _SHARE))
    except ValueError:
        return
    require(False, one, "is fitted to no images at all")


def check_contradiction(one: Fittable) -> None:
    """Training images that all are of the class to reach are a ``ValueError``."""
    if not _optimises(one):
        return
    given = balanced(shape=shape_for(one))
    said = _refuses_to_fit(one, given._replace(y=torch.ones_like(given.y)), targets=1)
    require(said is not None, one, "is fitted to reach class 1 from images of class 1 alone")


def _lead(attack: Attack, given: Case, criterion: Criterion, eps: float) -> float:
    """Return the mean lead of the targets, or of any wrong class, under an attack."""
    x_adv = attack(given.model, given.x, given.y, eps=eps)
    with torch.no_grad():
        return float(Margin()(given.model(x_adv), criterion).mean())


def check_fit_targets(one: Fittable) -> None:
    """Of what is fitted to each class, that fitted to a class does most for it."""
    if not _optimises(one):
        return
    given = balanced(count=48, shape=shape_for(one))
    eps = scale(one, given.x, _SHARE)
    attacks = [fitted(one, given, targets=target) for target in range(3)]
    for target in range(3):
        aim = Criterion(given.y, torch.full_like(given.y, target))
        leads = [_lead(attack, given, aim, eps) for attack in attacks]
        best = leads.index(max(leads)) == target and len(set(leads)) == 3
        require(best, one, f"fitted to classes 0, 1, 2, the lead of {target} is {leads}")


def _controls(one: Fittable) -> Iterator[tuple[Fittable, Attack]]:
    given = balanced(shape=shape_for(one))
    for control in one.controls():
        require(isinstance(control, Fittable), one, f"the control {control!r:.100} is no Fittable")
        yield control, fitted(control, given)


def check_controls(one: Fittable) -> None:
    """Controls have none themselves and change inputs in the same way: same set, same places."""
    given = balanced(shape=shape_for(one))
    eps = scale(one, given.x, _SHARE)
    own = fitted(one, given)
    for control, attack in _controls(one):
        require(control.controls() == (), one, f"{control!r:.100} has controls itself")
        for theirs in (control.perturbation, attack.perturbation):
            same = _place(theirs) == _place(one.perturbation)
            require(same, one, f"the control {control!r:.100} changes another set")
        facts = [
            other.perturbation.facts(
                given.x, other.run(given.model, given.x, given.y, eps=eps, stop="never").p
            )
            for other in (own, attack)
        ]
        same = all(torch.equal(facts[0][name], facts[1][name]) for name in facts[0])
        require(same, one, f"the control {control!r:.100} changes other places")


def check_beats_controls(one: Fittable) -> None:
    """On a linear victim what is fitted does more than each of its controls, also to new inputs."""
    given = balanced(count=48, shape=shape_for(one))
    eps = scale(one, given.x, _SHARE)
    half = given._replace(x=given.x[:24], y=given.y[:24])
    rest = given._replace(x=given.x[24:], y=given.y[24:])
    for target in (None, 1):
        aims = None if target is None else torch.full_like(rest.y, target)
        leads = [
            _lead(fitted(each, half, targets=target), rest, Criterion(rest.y, aims), eps)
            for each in (one, *one.controls())
        ]
        best = all(leads[0] > lead for lead in leads[1:])
        require(best, one, f"with targets={target} it gains {leads[0]:.3f}, controls {leads[1:]}")
