"""The diagnosis of one model: all checks, each asking the model as little as possible."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from advbench.attacks import L1, L2, Attack, Linf, Perturbation, checks
from advbench.attacks.masking import unmasked
from advbench.attacks.victim import Model, device_of
from advbench.data.dataset import Samples
from advbench.trust.answers import draw_seeds, tally
from advbench.trust.diagnosis import finish, gradients, rivals
from advbench.trust.diagnosis.evidence import Evidence, gather
from advbench.trust.diagnosis.finding import Check, Finding
from advbench.trust.diagnosis.nature import inspect
from advbench.trust.diagnosis.scale import chosen
from advbench.trust.diagnosis.subject import VOTES, Logs, Subject
from advbench.trust.diagnosis.substitutes import substitute

PANEL: dict[Check, Callable[[Evidence], Finding]] = {
    gradients.ZERO_GRADIENT: gradients.zero_gradient,
    gradients.NON_FINITE: gradients.non_finite,
    rivals.BLACK_BOX: rivals.black_box,
    rivals.TRANSFER: rivals.transfer,
    rivals.BOX: rivals.unbounded,
    rivals.MONOTONE: rivals.monotone,
    gradients.ONE_STEP: gradients.one_step,
    rivals.NOISE: rivals.noise,
    gradients.LINEARITY: gradients.linearity,
    gradients.RUGGEDNESS: gradients.ruggedness,
    finish.UNFINISHED_SEARCH: finish.unfinished,
    finish.MORE_STEPS: finish.more_steps,
    finish.SILENT: finish.silent,
    finish.INVALID: finish.valid,
    gradients.SATURATED_LOSS: gradients.saturated_loss,
    rivals.WIDE: rivals.wide,
}
"""The checks that go by searches, in their order."""


@dataclass(frozen=True)
class Diagnosis:
    """What all checks found about a model.

    Fields:
        findings: one of each check, in the order of their ids.
        perturbation, eps, seed: what was searched.
        n: samples.
        clean_accuracy: the share of them that the model gets right.
        white_box_accuracy: the share that the attack under examination leaves: what a user would
            quote.
        lowest_accuracy: the share that everything the diagnosis tried leaves. That is an upper
            bound of the robust accuracy as well.
    """

    findings: tuple[Finding, ...]
    perturbation: Perturbation
    eps: float
    seed: int
    n: int
    clean_accuracy: float
    white_box_accuracy: float
    lowest_accuracy: float

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the checks that fired."""
        return tuple(one.name for one in self.findings if one.fired)

    @property
    def stopped(self) -> bool:
        """Whether a check says that no number from gradients can be trusted."""
        return any(one.stop for one in self.findings)

    @property
    def masked(self) -> bool:
        """Whether a check says that gradients mislead, or that the model is random or changes."""
        return any(one.masked for one in self.findings)

    def __getitem__(self, key: str) -> Finding:
        """Return the finding of a check by its id or name."""
        known = [one for one in self.findings if key in (one.id, one.name)]
        if not known:
            raise KeyError(f"no check '{key}'; there are {', '.join(o.id for o in self.findings)}")
        return known[0]


def diagnose(
    model: Model,
    data: Samples | tuple[Tensor, Tensor],
    perturbation: Perturbation | None = None,
    eps: float | None = None,
    seed: int = 0,
    attack: Attack | None = None,
    batch_size: int = 256,
) -> Diagnosis:
    """Find out whether the robust accuracy that attacks by gradients measure can be trusted.

    The checks are necessary, not sufficient: a defence made to pass them would pass. About 200
    samples are enough. Sources: Carlini et al., "On evaluating adversarial robustness", 2019,
    arXiv:1902.06705; Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of
    security", ICML 2018, arXiv:1802.00420; Pintor et al., "Indicators of attack failure", NeurIPS
    2022, arXiv:2106.09947; and the warnings of Croce and Hein's AutoAttack.

    Args:
        model: images (B, *shape) in [0, 1] to logits (B, K), normalisation inside. It is asked in
            eval mode and left as it was, and so are the global random states.
        data: images (N, *shape) in [0, 1] with their classes (N,), or samples of images.
        perturbation: Linf, L2 or L1; that of ``attack`` where one is given, else Linf.
        eps: its size; None for the one at which a short search leaves about half of the samples.
        seed: 0 to 2^32 - 1, of all searches and of the substitutes that are trained.
        attack: the search under examination; PGD on the cross-entropy and on the margin by
            default.
        batch_size: most samples at once.

    Raises:
        ValueError, TypeError: an argument is out of its range or of the wrong kind, or the model
            gets no sample right.

    """
    x, y, ids = _samples(data)
    set_ = _set(perturbation, attack)
    checks.seed(seed)
    checks.positive("batch_size", batch_size)
    device = device_of(model, x)
    x, y, ids = x.to(device), y.to(device), ids.to(device)
    size = 0.0 if eps is None else float(checks.radius(eps, x[:1], set_, "inside"))
    if eps == 0:
        raise ValueError("eps must be above 0: nothing can be searched within it")
    with _untouched(model):
        nature = inspect(model, x)
        seeds = draw_seeds("clean", seed, VOTES) if nature.random else (seed,)
        right = (tally(model, x, y, batch_size, seeds=seeds).right > 0.5).nonzero().squeeze(1)
        if not len(right):
            raise ValueError(
                f"the model gets none of the {len(x)} samples right: there is nothing to diagnose. "
                "Are the images normalised twice, or the classes in another order?"
            )
        subject = Subject(
            model=model,
            asked=Logs(model) if nature.probabilities else model,
            x=x[right],
            y=y[right],
            ids=ids[right],
            perturbation=set_,
            eps=size,
            seed=seed,
            random=nature.random,
            differentiable=nature.differentiable,
            batch_size=batch_size,
        )
        plain = substitute(model, x, seed, batch_size)
        if eps is None:
            subject = subject.at(chosen(subject, plain))
        robust = substitute(model, x, seed, batch_size, set_, subject.eps)
        evidence = gather(subject, attack, [plain, robust, *_known(model)])
        findings = [*nature.findings, *(_asked(check, evidence) for check in PANEL)]
    n = len(x)
    return Diagnosis(
        findings=tuple(findings),
        perturbation=set_,
        eps=subject.eps,
        seed=seed,
        n=n,
        clean_accuracy=len(subject) / n,
        white_box_accuracy=int((~evidence.given.broken).sum()) / n,
        lowest_accuracy=int(evidence.unbroken.sum()) / n,
    )


def _asked(check: Check, evidence: Evidence) -> Finding:
    subject = evidence.subject
    if check.gradient and not subject.differentiable:
        return check.not_asked("no gradient reaches the input")
    if check.repeatable and subject.random:
        return check.not_asked("the model answers at random")
    return PANEL[check](evidence)


def _known(model: Model) -> list[Model]:
    """The model without the layers of ours that hide a gradient, where it has any."""
    seen = unmasked(model)
    return [] if seen is model else [seen]


def _samples(data: Samples | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(data, Samples):
        if data.renderer is not None:
            raise ValueError(f"diagnose looks at images; {data.name} holds scenes")
        return data.x, data.y, data.ids
    x, y = data
    checks.images(x)
    checks.labels("y", y, x)
    if not len(x):
        raise ValueError("data holds no samples")
    return x.detach(), y.long(), torch.arange(len(x), device=y.device)


def _set(perturbation: Perturbation | None, attack: Attack | None) -> Perturbation:
    own = None if attack is None else attack.perturbation
    if perturbation is not None and own not in (None, perturbation):
        raise ValueError(f"attack searches {own!r}, not {perturbation!r}; leave perturbation out")
    chosen_set = perturbation or own or Linf()
    if not isinstance(chosen_set, Linf | L2 | L1):
        raise TypeError(f"perturbation must be Linf(), L2() or L1(); got {chosen_set!r}")
    return chosen_set


@contextmanager
def _untouched(model: Model) -> Iterator[None]:
    """Give the values of all parameters back, and the states of all generators that are global."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    values = [parameter.detach().clone() for parameter in parameters]
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for parameter, value in zip(parameters, values, strict=True):
            if not torch.equal(parameter, value):
                parameter.data.copy_(value)
