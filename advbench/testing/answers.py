"""Checks of what comes back: its form, its legality, and that its claims are true."""

from functools import partial
from typing import get_args

import torch
from torch import Tensor

from advbench.attacks.attack import Attack, Outcome, Stop
from advbench.attacks.criterion import Criterion, margin
from advbench.attacks.flags import Flag
from advbench.attacks.losses import Loss
from advbench.attacks.perturbations import L0, L1, L2, Linf
from advbench.attacks.rendering.scene import unpack
from advbench.attacks.search import Rule
from advbench.testing.requirement import require, require_same, rows
from advbench.testing.victims import (
    SCENE,
    Affine,
    After,
    Case,
    Watched,
    Wavy,
    case,
    inputs,
    kind,
    linear,
    scale,
    shape_for,
    smooth,
    two_kinds,
)

SHAPES = ((1, 4, 5), (3, 2, 4), (12,))
"""Grey, colour, oblong and flat images."""

_BOX_TOLERANCE = 1e-6
_TURN_TOLERANCE = 1e-5
_STOPS: tuple[Stop, ...] = get_args(Stop)


def check_shapes(attack: Attack) -> None:
    """Grey, colour, oblong and flat images, or scenes, one row or none: the answer has their shape.

    What the set refuses, the attack refuses with the same words.
    """
    for shape in dict.fromkeys((shape_for(attack), *SHAPES)):
        if refuses(attack, shape):
            continue
        for count in (0, 1, 2):
            model, x, y, _ = linear(shape=shape, count=count)
            for stop in _STOPS:
                _check_form(attack, attack.run(model, x, y, eps=scale(attack, x, 0.1), stop=stop))
                x_adv = attack(model, x, y, eps=scale(attack, x, 0.1), stop=stop)
                require(x_adv.shape == x.shape, attack, f"{x.shape} became {x_adv.shape}")


def refuses(attack: Attack, shape: tuple[int, ...]) -> bool:
    """Whether the set cannot change such inputs; then the call has to say so."""
    refusal = attack.perturbation.refusal(torch.Size(shape))
    if refusal is None:
        return False
    model, x, y, _ = linear(shape=shape, count=1)
    try:
        attack.run(model, x, y, eps=0.01)
    except ValueError as error:
        require(refusal in str(error), attack, f"refuses {shape} without the reason: {error}")
    else:
        require(False, attack, f"takes inputs {shape}, though its set does not: {refusal}")
    return True


def _check_form(attack: Attack, outcome: Outcome) -> None:
    count = len(outcome.x_adv)
    for name, value in outcome._asdict().items():
        require(value.shape[:1] == (count,), attack, f"{name} must have a row per sample")
        if name not in ("x_adv", "p"):
            require(value.dim() == 1, attack, f"{name} must be (N,); got {tuple(value.shape)}")
        kind = {"success": torch.bool}.get(name, torch.int64)
        if name in ("success", "forwards", "backwards", "steps", "flags"):
            require(value.dtype == kind, attack, f"{name} must be {kind}; got {value.dtype}")
    require(outcome.x_adv.flatten(1).isfinite().all(1), attack, "x_adv must be finite")


def check_precision(attack: Attack) -> None:
    """N1: Half, single and double precision come back as they came, whatever that of the model."""
    for weights in (torch.float32, torch.float64):
        model, x, y, _ = linear(count=2, shape=shape_for(attack), dtype=weights)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            got = attack.run(model, x.to(dtype), y, eps=scale(attack, x, 0.1)).x_adv
            require(got.dtype == dtype, attack, f"{dtype} came back as {got.dtype}")
            require(got.device == x.device, attack, "the answer lies on another device")


def _extreme(shape: tuple[int, ...]) -> tuple[Case, Tensor]:
    """Images on the bounds, near them and inside, or scenes, and scales of eps per row."""
    model, _, _, _ = smooth(shape=shape)
    x = inputs(8, 6, shape, torch.float32)
    if shape != SCENE:
        x = (0.5 + 0.8 * x.sub(0.5).mul(4)).clamp(0, 1)
    return case(model.float(), x), torch.tensor([0.01, 0.05, 0.1, 0.3, 0.7, 1.0])


def check_box(attack: Attack) -> None:
    """N6: Every answer lies within the bounds of the set, from images on the bounds as well.

    Scenes have no bounds, but stay scenes: a rotation that only turns, a light of length 1.
    """
    (model, x, y, _), shares = _extreme(shape_for(attack))
    low, high = attack.perturbation.bounds
    for stop in _STOPS:
        found = attack.run(model, x, y, eps=scale(attack, x, 1) * shares, stop=stop)
        x_adv = found.x_adv.flatten(1)
        inside = (x_adv >= low - _BOX_TOLERANCE) & (x_adv <= high + _BOX_TOLERANCE)
        require(inside.all(1), attack, f"x_adv leaves [{low:g}, {high:g}]")
        if x.shape[1:] == SCENE:
            require(_are_scenes(x_adv), attack, "x_adv is no scene: object or light are stretched")


def _are_scenes(x: Tensor) -> Tensor:
    scene = unpack(x)
    squared = scene.rotation @ scene.rotation.transpose(1, 2)
    stretch = (squared - torch.eye(3)).flatten(1).abs().amax(1)
    glare = (scene.light.norm(dim=1) - 1).abs()
    mirrored = torch.linalg.det(scene.rotation) < 0
    whole: Tensor = ~mirrored & (stretch.maximum(glare) < _TURN_TOLERANCE)
    return whole


def check_size(attack: Attack) -> None:
    """N5: No change is larger than its own eps, measured in 64 bits, and it makes the answer."""
    (model, x, y, _), shares = _extreme(shape_for(attack))
    eps = scale(attack, x, 1) * shares
    for stop in _STOPS:
        outcome = attack.run(model, x, y, eps=eps, stop=stop)
        size = attack.perturbation.size(x.double(), outcome.p.double())
        legal = size <= attack.perturbation.limit(eps.double())
        require(legal, attack, f"changes of size {size.tolist()} for eps {eps.tolist()}")
        made = attack.perturbation.apply(x.to(outcome.p), outcome.p)
        gap = (made - outcome.x_adv).flatten(1).abs().amax(1)
        require(gap <= _BOX_TOLERANCE, attack, "x_adv is not what the parameters p make of x")
        told = torch.isclose(outcome.size.double(), size, rtol=1e-5, atol=1e-6)
        if attack.finds == "smallest":
            told = torch.where(outcome.success, told, outcome.size == torch.inf)
        require(told, attack, f"sizes are {size.tolist()} but told as {outcome.size.tolist()}")


def check_claims(attack: Attack) -> None:
    """A success is one when the answer is shown to the model again, and so is a failure."""
    model, x, y, targets = smooth(count=12, shape=shape_for(attack))
    eps = scale(attack, x, 1) * torch.tensor([0.02, 0.1, 0.5]).repeat(4)
    for stop in _STOPS:
        for aims in (None, targets):
            found = attack.run(model, x, y, eps=eps, targets=aims, stop=stop)
            real = Criterion(y, aims).success(model(found.x_adv))
            require(found.success == real, attack, "success is claimed wrongly")


def check_best_is_kept(attack: Attack) -> None:
    """Of all that was asked, the answer is a success if there was one, and then the strongest."""
    shape = shape_for(attack)
    for sample in range(4):
        model = Watched(Wavy(shape))
        given = case(model.model, inputs(9 + sample, 1, shape, torch.float64))
        found = attack.run(model, given.x, given.y, eps=scale(attack, given.x, 0.3), stop="never")
        logits = torch.cat([logits for _, logits in model.seen])
        won = -margin(logits, given.y.expand(len(logits))) > 0
        differs = isinstance(attack.perturbation, Linf | L2 | L1 | L0)
        smallest = isinstance(attack, Rule) and attack.finds == "smallest" and differs
        inside = torch.ones_like(won)
        if smallest or (isinstance(attack, Rule) and attack.strays and differs):
            # It may ask about more than eps, and only what is smaller is an answer.
            seen = torch.cat([images for images, _ in model.seen])
            sizes = attack.perturbation.size(given.x.expand_as(seen), seen - given.x)
            eps = torch.full_like(sizes, scale(attack, given.x, 0.3))
            inside = sizes <= attack.perturbation.limit(eps)
            won &= inside
        if smallest:
            least = sizes[won].amin() if won.any() else torch.tensor(torch.inf)
            require(found.size <= least * (1 + 1e-9), attack, "a smaller success that was seen")
        require(found.success == won.any(), attack, "a success that was seen is lost")
        if not isinstance(attack, Rule) or attack.access not in ("gradient", "scores"):
            continue
        if attack.finds == "inside" and attack.target_classes == 0:
            rule: Loss = attack.loss
            clean = model.model(given.x)
            aim = Criterion(given.y.expand(len(logits)), clean=clean.expand_as(logits))
            best = rule(logits, aim)[inside].amax()
            own = rule(model.model(found.x_adv), Criterion(given.y, clean=clean))
            require(own >= best - 1e-9, attack, f"loss {best:.6f} was seen, {own[0]:.6f} returned")


def check_costs(attack: Attack) -> None:
    """The passes that are told are those that the model saw, no more than are declared."""
    for stop in _STOPS:
        for batch_size in (None, 2):
            model, x, y, _ = smooth(count=3, shape=shape_for(attack))
            watched = Watched(model)
            found = attack.run(
                watched, x, y, eps=scale(attack, x, 0.05), stop=stop, batch_size=batch_size
            )
            told = int(found.forwards.sum()), int(found.backwards.sum())
            seen = watched.forwards, watched.backwards
            require(told == seen, attack, f"(forwards, backwards) told {told}, seen {seen}")
            clean = int(stop == "success" or attack.finds == "smallest")
            most = attack.queries + clean
            require(found.forwards <= most, attack, f"{seen[0]} passes, declared {most} a sample")


def check_budget(attack: Attack) -> None:
    """No row passes the budget; one that is large enough changes nothing; a cut is flagged."""
    model, x, y, _ = smooth(count=3, shape=shape_for(attack))
    eps = scale(attack, x, 0.05)
    whole = attack.run(model, x, y, eps=eps, stop="never")
    cost = int(whole.forwards.max())
    for budget in sorted({1, 2, 3, cost - 1, cost, cost + 1} - {0}):
        watched = Watched(model)
        found = attack.run(watched, x, y, eps=eps, stop="never", budget=budget)
        require(found.forwards <= budget, attack, f"{found.forwards.tolist()} passes of {budget}")
        require(watched.forwards <= budget * len(x), attack, f"uncounted passes beyond {budget}")
        cut = (found.flags & Flag.OUT_OF_BUDGET) != 0
        require(cut == (budget < whole.forwards), attack, f"budget {budget}: flag OUT_OF_BUDGET")
        if budget >= cost:
            require_same(attack, found, whole, f"under a budget of {budget} that it can keep")


def _refuse_gradients(x: Tensor, logits: Tensor) -> Tensor:
    if x.requires_grad:
        raise AssertionError("the input requires a gradient")
    return logits


def _decide(x: Tensor, logits: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x.dtype)


def check_access(attack: Attack) -> None:
    """Without access to gradients none is asked for; without scores the answer needs none."""
    model, x, y, _ = smooth(shape=shape_for(attack))
    eps = scale(attack, x, 0.2)
    if attack.access == "gradient":
        found = attack.run(model, x, y, eps=eps, stop="never")
        require(bool(found.backwards.any()), attack, "declares access to gradients and uses none")
        return
    try:
        found = attack.run(After(model, _refuse_gradients), x, y, eps=eps, stop="never")
    except AssertionError as error:
        require(False, attack, f"declares access to {attack.access}, but {error}")
    require(found.backwards == 0, attack, "counts backward passes it must not need")
    if attack.access in ("labels", "none"):
        blind = attack.run(After(model, _decide), x, y, eps=eps, stop="never")
        same = (blind.x_adv - found.x_adv).flatten(1).abs().amax(1) < 1e-9
        require(same, attack, f"access to {attack.access}, but scores change the answer")


def check_constant_model(attack: Attack) -> None:
    """N3: A model that nothing can change: no success, nothing that is not finite, and a flag."""
    model, x, _, _ = linear(shape=shape_for(attack))
    assert isinstance(model, Affine)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.5, 1.0, -2.0]))
    y = torch.zeros(len(x), dtype=torch.int64)
    for stop in _STOPS:
        found = attack.run(model, x, y, eps=scale(attack, x, 0.2), stop=stop)
        require(~found.success, attack, "fools a constant model")
        require(found.x_adv.flatten(1).isfinite().all(1), attack, "x_adv is not finite")
        # One that strays beyond eps may have asked nothing that it can answer with.
        asked = (found.p != 0).flatten(1).any(1) | (attack.finds == "inside")
        require(found.loss.isfinite() | ~asked, attack, "loss is not finite")
        if attack.access == "gradient":
            told = (found.flags & Flag.ZERO_GRADIENT) != 0
            require(told, attack, "a gradient of zero is not flagged")


def check_ties(attack: Attack) -> None:
    """The label and another class with the same score: not a success."""
    model, x, _, _ = linear(shape=shape_for(attack))
    tied = After(model, lambda _, z: torch.stack([z[:, 0], z[:, 0], z[:, 0] - 1], 1))
    y = torch.zeros(len(x), dtype=torch.int64)
    for stop in _STOPS:
        for targets in (None, y + 1):
            found = attack.run(tied, x, y, eps=scale(attack, x, 0.2), targets=targets, stop=stop)
            require(~found.success, attack, "takes a tie for a success")


def check_nan_rows(attack: Attack) -> None:
    """N2: Logits that are NaN are flagged and no success, and other rows do not notice."""
    model, x, y, _ = smooth(count=6, shape=shape_for(attack))
    second = torch.tensor([True, False, True, False, False, True])
    x = two_kinds(x, second)
    y = torch.where(second, 1, case(model, x).y)
    broken = After(model, lambda x, z: z.where(~kind(x).unsqueeze(1), torch.nan))
    eps = scale(attack, x, 0.05)
    for stop in _STOPS:
        found = attack.run(broken, x, y, eps=eps, stop=stop)
        require(~found.success[second], attack, "takes NaN for a success")
        require(found.x_adv.flatten(1).isfinite().all(1), attack, "x_adv is not finite")
        flagged = (found.flags[second] & Flag.NON_FINITE) != 0
        require(flagged, attack, "NaN is not flagged")
        alone = attack.run(broken, x[~second], y[~second], eps=eps, stop=stop, ids=_ids(~second))
        require_same(attack, rows(found, ~second), alone, "differs beside a row of NaN")


def _ids(mask: Tensor) -> Tensor:
    return mask.nonzero().squeeze(1)


def check_misclassified(attack: Attack) -> None:
    """A row that is wrong as it is stays untouched, and costs the one pass that found out."""
    model, x, y, targets = smooth(shape=shape_for(attack))
    wrong = torch.tensor([True, False, True, False])
    y = torch.where(wrong, targets, y)
    found = rows(attack.run(model, x, y, eps=scale(attack, x, 0.1), stop="success"), wrong)
    require(found.success, attack, "a row that is wrong as it is counts as correct")
    same = (found.x_adv == x[wrong]).flatten(1).all(1)
    require(same, attack, "a row that is wrong as it is was changed")
    require(found.size == 0, attack, "the size of no change is 0")
    require((found.forwards == 1) & (found.backwards == 0), attack, "pays for a finished row")
    told = attack.run(model, x, y, eps=scale(attack, x, 0.1), correct=~wrong)
    require(told.forwards[wrong] == 0, attack, "pays for rows that are told to be wrong")


def _add(shift: float, x: Tensor, logits: Tensor) -> Tensor:
    return logits + shift


def check_logit_shift(attack: Attack) -> None:
    """A number added to all logits changes no decision, so it changes no answer."""
    model, x, y, _ = smooth(shape=shape_for(attack))
    eps = scale(attack, x, 0.1)
    plain = attack.run(model, x, y, eps=eps, stop="never")
    for shift in (-100.0, 100.0):
        shifted = After(model, partial(_add, shift))
        moved = attack.run(shifted, x, y, eps=eps, stop="never")
        gap = (plain.x_adv - moved.x_adv).flatten(1).abs().amax(1)
        require(gap < 1e-6, attack, f"logits {shift:+g} change the answer")
        require(plain.success == moved.success, attack, f"logits {shift:+g} change the verdict")


def check_probabilities(attack: Attack) -> None:
    """Outputs that are probabilities are flagged, logits are not."""
    model, x, y, _ = smooth(shape=shape_for(attack))
    soft = After(model, lambda _, z: z.softmax(1))
    for victim, expected in ((soft, True), (model, False)):
        found = attack.run(victim, x, y, eps=scale(attack, x, 0.1))
        told = (found.flags & Flag.PROBABILITIES) != 0
        require(told == expected, attack, f"flag PROBABILITIES must be {expected}")
