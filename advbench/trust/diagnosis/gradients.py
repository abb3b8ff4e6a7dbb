"""What the gradient is worth: whether it is there, is finite, and foretells what a step does."""

import math

import torch
from torch import Tensor

from advbench.attacks import RelativeMargin
from advbench.attacks.flags import Flag
from advbench.attacks.randomness import Draws
from advbench.trust.diagnosis.evidence import STEPS, Evidence
from advbench.trust.diagnosis.finding import Check, Finding
from advbench.trust.diagnosis.slopes import differentiated
from advbench.trust.diagnosis.thresholds import (
    LINEAR,
    ROWS,
    RUGGED,
    SATURATED,
    SMALL_GAP,
    ZERO,
    ZERO_EXACTLY,
    ZERO_SHARE,
    stronger,
)

_STEP = 0.25
"""Length of the step whose gain is foretold, in units of eps."""
_NOISE = 0.5
"""Size of the noise that ruggedness is measured by, in units of eps."""
_DRAWS = 20

ZERO_GRADIENT = Check(
    "G1",
    "zero_gradient",
    f"> {ZERO_SHARE:g}",
    "The attack is blind there: give the layer without a gradient a stand-in (BPDA, Masking), and "
    "believe attacks that need no gradient.",
    stops=True,
    gradient=True,
)
NON_FINITE = Check(
    "G2",
    "non_finite",
    "any",
    "Look for overflow in the model: divisions by zero, logarithms and roots of zero.",
    stops=True,
    gradient=True,
)
SATURATED_LOSS = Check(
    "X1",
    "saturated_loss",
    f"> {SATURATED:g} and >= {ROWS} rows",
    "The scale of the logits hides the gradient of the cross-entropy: attack the margin "
    "(loss = margin or relative_margin, apgd with dlr, robust).",
    masks=True,
    gradient=True,
)
ONE_STEP = Check(
    "S1",
    "fgsm_stronger",
    f"> {SMALL_GAP:g} and >= {ROWS} rows",
    "One long step beats many short ones: the gradient nearby misleads. Average it over noise, "
    "start in larger balls (robust), or ask black boxes.",
    masks=True,
    gradient=True,
)
LINEARITY = Check(
    "L1",
    "nonlinear",
    f"outside {LINEAR[0]:g} to {LINEAR[1]:g}",
    "The gradient does not foretell what a short step does: smooth what jumps (BPDA), average the "
    "gradient over noise, or ask black boxes.",
    masks=True,
    gradient=True,
    repeatable=True,
)
RUGGEDNESS = Check(
    "L2",
    "rugged",
    f"> {RUGGED:g}",
    "The loss changes much from point to point: take the mean gradient over noise, more restarts, "
    "and a black box beside it.",
    gradient=True,
    repeatable=True,
)


def zero_gradient(evidence: Evidence) -> Finding:
    """G1: on how many rows is the gradient of the margin zero?

    That of the cross-entropy is told beside it: alone it is no masking, for the margin can be used.
    """
    margin = max(_zero(place.gradient) for place in evidence.slopes)
    entropy = max(_zero(place.entropy) for place in evidence.slopes)
    told = (
        f"The gradient of the margin is zero on {margin:.1%} of the rows, that of the "
        f"cross-entropy on {entropy:.1%}."
    )
    measured = {"margin": margin, "cross_entropy": entropy}
    return ZERO_GRADIENT.found(margin > ZERO_SHARE, measured, told)


def non_finite(evidence: Evidence) -> Finding:
    """G2: did a search meet a loss or a gradient that is NaN or infinite?"""
    flags = evidence.pair.outcome.flags | evidence.given.outcome.flags
    rows = int(((flags & int(Flag.NON_FINITE)) != 0).sum())
    told = f"A loss or gradient is NaN or infinite on {rows} of {len(flags)} rows."
    return NON_FINITE.found(rows > 0, {"share": rows / len(flags), "rows": rows}, told)


def saturated_loss(evidence: Evidence) -> Finding:
    """X1: how many rows does the margin break that the cross-entropy does not?"""
    n = len(evidence.subject)
    rows = int((evidence.pair.broken & (evidence.pair.outcome.stage == 2)).sum())
    told = (
        f"PGD on the margin breaks {rows} of {n} rows ({rows / n:.1%}) that PGD on the "
        "cross-entropy leaves."
    )
    fired = stronger(rows, n, SATURATED)
    return SATURATED_LOSS.found(fired, {"share": rows / n, "rows": rows}, told)


def one_step(evidence: Evidence) -> Finding:
    """S1: how many rows does FGSM break that PGD does not?"""
    n = len(evidence.subject)
    rows = int((evidence.one_step & ~evidence.pair.broken).sum())
    told = f"FGSM breaks {rows} of {n} rows ({rows / n:.1%}) that PGD of {STEPS} steps leaves."
    fired = stronger(rows, n, SMALL_GAP)
    return ONE_STEP.found(fired, {"share": rows / n, "rows": rows}, told)


def linearity(evidence: Evidence) -> Finding:
    """L1: how much of what the gradient foretells does a steepest step of eps / 4 gain?"""
    subject = evidence.subject
    ratios = []
    for place in evidence.slopes:
        sizes = torch.full_like(place.margin, _STEP * subject.eps)
        still = torch.zeros_like(place.inputs)
        step = subject.perturbation.steepest(place.inputs, still, place.gradient, sizes)
        there = (place.inputs + step).clamp(0, 1)
        foretold = ((there - place.inputs) * place.gradient).flatten(1).sum(1)
        gained = differentiated(subject, there, RelativeMargin())[0] - place.margin
        ratios.append(float((gained / foretold).nan_to_num(0, 0, 0).median()))
    low, high = LINEAR
    worst = max(ratios, key=lambda ratio: abs(math.log(max(ratio, 1e-6))))
    told = (
        f"A step of eps / 4 gains {ratios[0]:.2f} times what the gradient foretells at the samples "
        f"and {ratios[1]:.2f} times half way through an attack, in the median."
    )
    measured = {"worst": worst, "at_samples": ratios[0], "midway": ratios[1]}
    return LINEARITY.found(not low <= worst <= high, measured, told)


def ruggedness(evidence: Evidence) -> Finding:
    """L2: by how much of itself does the margin change in small noise?

    Source: the indicator of unstable predictions of Pintor, Demetrio, Sotgiu, Manca, Demontis,
    Carlini, Biggio, Roli, "Indicators of attack failure: debugging and improving optimization of
    adversarial examples", NeurIPS 2022, arXiv:2106.09947; here of the margin, in noise of eps / 2.
    """
    subject, place = evidence.subject, evidence.slopes[0]
    zero = torch.zeros_like(subject.ids)
    sizes = torch.full_like(place.margin, _NOISE * subject.eps)
    changes = []
    for number in range(_DRAWS):
        draws = Draws(zero + subject.seed, subject.ids, zero, zero + number)
        noise = subject.perturbation.draw(place.inputs, sizes, draws)
        there = (place.inputs + noise).clamp(0, 1)
        moved = differentiated(subject, there, RelativeMargin())[0] - place.margin
        changes.append((moved / place.margin).abs().nan_to_num(1, 1, 1).clamp_max(1))
    mean = float(torch.stack(changes).mean())
    told = f"Noise of eps / 2 changes the margin by {mean:.1%} of itself, in the mean."
    return RUGGEDNESS.found(mean > RUGGED, {"change": mean}, told)


def _zero(gradient: Tensor) -> float:
    """The share of rows whose gradient (N, *shape) is zero for all that it is worth."""
    peak = gradient.flatten(1).abs().amax(1)
    return float(((peak < ZERO * peak.median()) | (peak < ZERO_EXACTLY)).double().mean())
