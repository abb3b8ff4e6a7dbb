"""What other attacks find on the rows that all searches by gradients have left."""

from torch import Tensor

from advbench.trust.diagnosis.evidence import NOISES, QUERIES, Evidence, margin_search
from advbench.trust.diagnosis.finding import Check, Finding
from advbench.trust.diagnosis.thresholds import (
    GAP,
    MISLED,
    ROWS,
    SMALL_GAP,
    UNBOUNDED,
    stronger,
)

_AHEAD = f"> {GAP:g} and >= {ROWS} rows"
_BELIEVE = (
    "The gradients mislead. Do not quote the white-box number: give what hides the gradient a "
    "stand-in (BPDA, Masking), run robust or autoattack, and quote the worst case of all."
)

BLACK_BOX = Check("BB1", "black_box_stronger", _AHEAD, _BELIEVE, stops=True, repeatable=True)
TRANSFER = Check("BB2", "transfer_stronger", _AHEAD, _BELIEVE, stops=True)
NOISE = Check(
    "N1",
    "noise_stronger",
    f"> {SMALL_GAP:g} and >= {ROWS} rows",
    "Random draws beat a search: it starts badly, or the gradient misleads. " + _BELIEVE,
    masks=True,
    repeatable=True,
)
BOX = Check(
    "U1",
    "unbounded_survives",
    f"> {UNBOUNDED:g}",
    "A search that may change everything must always succeed: there is no gradient to follow. "
    + _BELIEVE,
    stops=True,
    gradient=True,
    repeatable=True,
)
MONOTONE = Check(
    "C1",
    "not_monotone",
    f"> {SMALL_GAP:g} and >= {ROWS} rows",
    "What falls at eps must fall at 2 eps: the search loses its way where it may go further. "
    "Start from what a smaller eps found (replay), or use smaller steps.",
    masks=True,
    gradient=True,
    repeatable=True,
)
WIDE = Check(
    "W1",
    "masked_gradient",
    f"> {MISLED:g} of the rows left and >= {ROWS} rows",
    "Gradients within eps mislead: run robust, which starts in wider balls, and do not quote PGD.",
    masks=True,
    gradient=True,
    repeatable=True,
)


def black_box(evidence: Evidence) -> Finding:
    """BB1: how many rows does Square break that no search by gradients does?"""
    return _ahead(BLACK_BOX, evidence, evidence.black_box, f"Square with {QUERIES} queries")


def transfer(evidence: Evidence) -> Finding:
    """BB2: how many rows fall to examples made on surrogates?"""
    return _ahead(
        TRANSFER, evidence, evidence.transfer, f"MI-FGSM on {evidence.surrogates} substitutes"
    )


def noise(evidence: Evidence) -> Finding:
    """N1: how many rows fall to random draws?"""
    return _ahead(NOISE, evidence, evidence.noise, f"{NOISES} random draws", SMALL_GAP)


def unbounded(evidence: Evidence) -> Finding:
    """U1: what does a search leave that may change everything?

    It begins at the samples, since a random start in the whole box is a find by itself.
    """
    subject, set_ = evidence.subject, evidence.subject.perturbation
    everything = subject.at(set_.largest(subject.x))
    found = everything.attacked(margin_search(set_, random_start=False))
    rows = int((~found.broken).sum())
    n = len(subject)
    told = f"PGD that may change everything leaves {rows} of {n} rows ({rows / n:.1%})."
    return BOX.found(rows > UNBOUNDED * n, {"share": rows / n, "rows": rows}, told)


def monotone(evidence: Evidence) -> Finding:
    """C1: how many rows fall at eps and, searched afresh, not at 2 eps?"""
    subject, search = evidence.subject, margin_search(evidence.subject.perturbation)
    double = min(2 * subject.eps, subject.perturbation.largest(subject.x))
    near = subject.attacked(search)
    far = subject.at(double).where(near.broken).attacked(search)
    rows, n = int((~far.broken).sum()), len(subject)
    told = f"{rows} of {n} rows ({rows / n:.1%}) fall to PGD at eps and not at {double:.3g}."
    return MONOTONE.found(stronger(rows, n, SMALL_GAP), {"share": rows / n, "rows": rows}, told)


def wide(evidence: Evidence) -> Finding:
    """W1: on how many rows do ascents from wide balls get much further than those from within eps?

    A row is counted where the distance to success shrinks by 30 % or more in a ball that begins at
    6 eps and ends at eps: the flag MASKED_GRADIENT of ``Rounds``.
    """
    asked = int((evidence.standing & ~evidence.longer).sum())
    rows = int(evidence.misled.sum())
    share = rows / max(asked, 1)
    told = (
        f"Ascents from balls of 6 eps get much further than all from within eps on {rows} of "
        f"{asked} rows that were left ({share:.1%})."
    )
    return WIDE.found(stronger(rows, asked, MISLED), {"share": share, "rows": rows}, told)


def _ahead(
    check: Check, evidence: Evidence, broken: Tensor, what: str, gap: float = GAP
) -> Finding:
    rows, n = int(broken.sum()), len(evidence.subject)
    told = (
        f"{what} break {rows} of {n} rows ({rows / n:.1%}) that no search by gradients breaks; "
        f"{int(evidence.survivors.sum())} were left."
    )
    return check.found(stronger(rows, n, gap), {"share": rows / n, "rows": rows}, told)
