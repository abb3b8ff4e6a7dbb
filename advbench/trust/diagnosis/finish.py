"""Whether the search under examination had finished, and whether it returns what it found."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from advbench.attacks import PGD
from advbench.attacks.victim import Model
from advbench.trust.diagnosis.evidence import STEPS, Evidence, margin_search
from advbench.trust.diagnosis.finding import Check, Finding
from advbench.trust.diagnosis.subject import Subject
from advbench.trust.diagnosis.thresholds import (
    ROWS,
    UNFINISHED,
    UNFINISHED_SHARE,
    stronger,
)

_LAST = 10
"""Steps at the end of a search that must no longer gain."""
_WATCHED = 6
"""Rows that are attacked once more, alone, with every query watched."""
_TOLERANCE = 1e-6

UNFINISHED_SEARCH = Check(
    "O1",
    "unfinished",
    f"> {UNFINISHED_SHARE:g} of the rows left",
    "The loss was still rising: take more steps, or another step size.",
    gradient=True,
    repeatable=True,
)
MORE_STEPS = Check(
    "O2",
    "more_steps_help",
    f">= {ROWS} rows",
    "The search had not converged: take more steps and restarts, or robust, until nothing changes.",
    gradient=True,
    repeatable=True,
)
SILENT = Check(
    "O3",
    "silent_success",
    "any",
    "The attack meets adversarial examples and does not return them: repair it; return the best "
    "point of the path, not the last.",
    stops=True,
    gradient=True,
    repeatable=True,
)
INVALID = Check(
    "V1",
    "invalid_examples",
    "any",
    "The attack breaks its own threat model, or claims what the model denies: repair it before "
    "any of its numbers is believed.",
    stops=True,
)


def unfinished(evidence: Evidence) -> Finding:
    """O1: on how many rows that are left do the last steps of PGD still gain?

    Source: the indicator of incomplete optimisation of Pintor et al., "Indicators of attack
    failure", NeurIPS 2022, arXiv:2106.09947: the best loss so far, scaled to its rise from the
    first step, over the last 10 steps. It is that of the attack under examination where that is
    PGD, else that of PGD on the margin.
    """
    left = evidence.subject.where(evidence.survivors)
    pgd = margin_search(left.perturbation)
    if isinstance(evidence.attack, PGD):
        pgd = replace(evidence.attack, restarts=1)
    length = pgd.step_size or 2.5 / pgd.steps
    first, before, last = (
        left.attacked(replace(pgd, steps=steps, step_size=length), stop="never").outcome.loss
        for steps in (1, max(1, pgd.steps - _LAST), pgd.steps)
    )
    rise = (last - first).clamp_min(torch.finfo(last.dtype).tiny)
    rows = int(((last - before) / rise > UNFINISHED).sum())
    share = rows / max(len(left), 1)
    told = (
        f"On {rows} of {len(left)} rows that are left ({share:.1%}) the last {_LAST} of "
        f"{pgd.steps} steps still add more than {UNFINISHED:.0%} to the rise of the loss."
    )
    fired = share > UNFINISHED_SHARE and rows >= ROWS
    return UNFINISHED_SEARCH.found(fired, {"share": share, "rows": rows}, told)


def more_steps(evidence: Evidence) -> Finding:
    """O2: how many rows fall to twice the steps and restarts, after the attack has left them?"""
    n = len(evidence.subject)
    rows = int((~evidence.given.broken & (evidence.pair.broken | evidence.longer)).sum())
    told = (
        f"PGD of {2 * STEPS} steps from 2 starts breaks {rows} of {n} rows ({rows / n:.1%}) more."
    )
    return MORE_STEPS.found(stronger(rows, n, 0), {"share": rows / n, "rows": rows}, told)


def silent(evidence: Evidence) -> Finding:
    """O3: does the attack pass over adversarial examples on its way?

    Rows on which it failed are attacked once more, one at a time, so that every query is known to
    be about that row; draws belong to the sample, so the path is the same. Source: the indicator
    of silent success of Pintor et al., NeurIPS 2022, arXiv:2106.09947.
    """
    failed = evidence.subject.where(~evidence.given.broken).first(_WATCHED)
    rows = 0
    for number in range(len(failed)):
        one = failed.rows(torch.tensor([number], device=failed.y.device))
        watched = Watched(one.asked)
        again = one.attacked(evidence.attack, on=watched)
        rows += _met(one, watched) and not bool(again.broken)
    told = (
        f"On {rows} of {len(failed)} rows that withstood the attack and were watched, it met an "
        "adversarial example and did not return it."
    )
    return SILENT.found(rows > 0, {"rows": rows, "watched": len(failed)}, told)


def valid(evidence: Evidence) -> Finding:
    """V1: is what the attack returns within eps and the box, and as successful as it claims?

    Of what fools the model, the share that still does when rounded to 8 bits is told.
    """
    subject, (broken, outcome) = evidence.subject, evidence.given
    set_ = subject.perturbation
    x_adv = outcome.x_adv
    size = set_.size(subject.x.double(), outcome.p.to(subject.x.device).double())
    low, high = set_.bounds
    flat = x_adv.flatten(1)
    made = set_.apply(subject.x, outcome.p.to(subject.x))
    illegal = ~(size <= set_.limit(torch.full_like(size, subject.eps)))
    illegal |= ~((flat >= low - _TOLERANCE) & (flat <= high + _TOLERANCE)).all(1)
    illegal |= ~((made - x_adv).flatten(1).abs() <= _TOLERANCE).all(1)
    denied = outcome.success & ~broken
    if subject.random:  # there a claim is one of chance
        denied = torch.zeros_like(broken)
    rounded = subject.where(broken).broken((x_adv[broken] * 255).round() / 255)
    bits = float(rounded.double().mean()) if len(rounded) else 1.0
    rows = int((illegal | denied).sum())
    told = (
        f"{int(illegal.sum())} answers are outside eps or the box, {int(denied.sum())} claims are "
        f"denied by the model; {bits:.1%} of the successes last when rounded to 8 bits."
    )
    return INVALID.found(rows > 0, {"rows": rows, "share_8_bit": bits}, told)


class Watched(nn.Module):
    """A model that keeps all that it is asked and answers."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model returns."""
        answer = self.model(x)
        self.seen.append((x.detach(), answer.detach()))
        return answer


def _met(one: Subject, watched: Watched) -> bool:
    """Whether a single row was asked about at a change of legal size that fools the model."""
    for x, answer in watched.seen:
        change = (x - one.x).double()
        size = one.perturbation.size(one.x.double().expand_as(change), change)
        legal = size <= one.perturbation.limit(torch.full_like(size, one.eps))
        lead = answer.amax(1) - answer[:, one.y[0]]
        if bool((legal & (lead > 0)).any()):
            return True
    return False
