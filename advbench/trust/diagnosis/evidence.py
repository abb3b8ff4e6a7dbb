"""All searches of a diagnosis, run once, for the checks that go by them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advbench.attacks import (
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    CrossEntropy,
    Margin,
    Perturbation,
    RandomNoise,
    RelativeMargin,
    SquareAttack,
    Worst,
)
from advbench.attacks.ensembles.rounds import Rounds
from advbench.attacks.flags import Flag
from advbench.attacks.victim import Model
from advbench.trust.diagnosis.slopes import Slope, slope
from advbench.trust.diagnosis.subject import Found, Subject

STEPS = 40
"""Of the usual search."""
_FEW = 10
"""The same on a model that answers at random, which is asked often in each step."""
QUERIES = 1000
"""Of the black box."""
NOISES = 300
"""Random draws."""
_TRANSFER_STEPS = 20
_AIMS = 5
"""Short ascents, each towards one class, after two towards any."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What each search did to the rows of a subject; masks are (N,) bool.

    Fields:
        attack: the one under examination, and `given` what it found.
        pair: what the usual search found.
        one_step: broken by FGSM on the margin.
        longer: broken by twice the steps from twice the starts, of what withstands all of these.
        aimed: broken by short ascents towards one class after the other, of what withstands that.
        misled: rows of these on which ascents from wide balls got much further than all others.
        black_box, transfer, noise: broken by Square, by what was made on `surrogates` other models,
            and by random draws, of the `survivors`.
        slopes: at the samples, and half way to what the usual search returned; none without a
            gradient that reaches the input.
    """

    subject: Subject
    attack: Attack
    given: Found
    pair: Found
    one_step: Tensor
    longer: Tensor
    aimed: Tensor
    misled: Tensor
    black_box: Tensor
    transfer: Tensor
    noise: Tensor
    surrogates: int
    slopes: tuple[Slope, ...]

    @property
    def standing(self) -> Tensor:
        """The rows that withstand the attack and the usual search."""
        return ~(self.given.broken | self.pair.broken)

    @property
    def survivors(self) -> Tensor:
        """The rows that withstand all that follows gradients and stays near eps."""
        return self.standing & ~self.longer & ~(self.aimed & ~self.misled)

    @property
    def unbroken(self) -> Tensor:
        """The rows that nothing breaks."""
        fallen = self.one_step | self.longer | self.aimed
        return self.standing & ~(fallen | self.black_box | self.transfer | self.noise)


def usual(perturbation: Perturbation, steps: int = STEPS) -> Attack:
    """Return what is examined where no attack is given: PGD on the cross-entropy, then the margin.

    ``Outcome.stage`` is 2 where only the margin broke a sample.
    """
    entropy = PGD(perturbation=perturbation, loss=CrossEntropy(), steps=steps)
    return Worst(attacks=(entropy, margin_search(perturbation, steps)))


def margin_search(
    perturbation: Perturbation, steps: int = STEPS, restarts: int = 1, random_start: bool = True
) -> PGD:
    """Return PGD on the margin."""
    return PGD(
        perturbation=perturbation,
        loss=RelativeMargin(),
        steps=steps,
        restarts=restarts,
        random_start=random_start,
    )


def gather(subject: Subject, attack: Attack | None, surrogates: Sequence[Model]) -> Evidence:
    """Run all searches; where no gradient reaches the input, those that need one find nothing.

    A model that answers at random is asked by its gradient and by surrogates alone: others compare
    single answers.
    """
    set_ = subject.perturbation
    usual_search = usual(set_, _FEW if subject.random else STEPS)
    pair = subject.attacked(usual_search)
    given = pair if attack is None else subject.attacked(attack)
    one_step = subject.attacked(FGSM(perturbation=set_, loss=RelativeMargin())).broken
    nothing = torch.zeros_like(one_step)
    places = (subject.x, (subject.x + pair.outcome.x_adv) / 2) if subject.differentiable else ()
    found = Evidence(
        subject=subject,
        attack=attack or usual_search,
        given=given,
        pair=pair,
        one_step=one_step,
        longer=nothing,
        aimed=nothing,
        misled=nothing,
        black_box=nothing,
        transfer=nothing,
        noise=nothing,
        surrogates=len(surrogates),
        slopes=tuple(slope(subject, place) for place in places),
    )
    if subject.differentiable and not subject.random:
        found = _with_longer(found)
    return _with_rivals(found, surrogates)


def _with_longer(found: Evidence) -> Evidence:
    """Add the searches by gradients that only rows meet which the others have left."""
    set_ = found.subject.perturbation
    more = margin_search(set_, 2 * STEPS, restarts=2)
    longer, _ = _on(found.subject, found.standing, more)
    rounds = Rounds(perturbation=set_, rounds=_AIMS, long_rounds=0)
    aimed, flags = _on(found.subject, found.standing & ~longer, rounds)
    misled = (flags & int(Flag.MASKED_GRADIENT)) != 0
    return replace(found, longer=longer, aimed=aimed, misled=misled)


def _with_rivals(found: Evidence, surrogates: Sequence[Model]) -> Evidence:
    """Add the searches that need no gradient of the model."""
    subject, set_, left = found.subject, found.subject.perturbation, found.survivors
    black_box = noise = transfer = torch.zeros_like(left)
    if not subject.random:
        black_box, _ = _on(subject, left, SquareAttack(perturbation=set_, steps=QUERIES))
        noise, _ = _on(subject, left, RandomNoise(perturbation=set_, steps=NOISES))
    momentum = MIFGSM(perturbation=set_, loss=Margin(), steps=_TRANSFER_STEPS)
    for surrogate in surrogates:
        broken, _ = _on(subject, left & ~transfer, momentum, surrogate)
        transfer = transfer | broken
    return replace(found, black_box=black_box, transfer=transfer, noise=noise)


def _on(
    subject: Subject, rows: Tensor, attack: Attack, surrogate: Model | None = None
) -> tuple[Tensor, Tensor]:
    """Attack some rows; returns which of all are broken, and the flags of all, (N,)."""
    if surrogate is None:
        found = subject.where(rows).attacked(attack)
    else:
        found = subject.where(rows).attacked(attack, on=surrogate, stop="never")
    place = (rows.nonzero().squeeze(1),)
    broken = torch.zeros_like(rows).index_put(place, found.broken)
    return broken, torch.zeros_like(subject.ids).index_put(place, found.outcome.flags)
