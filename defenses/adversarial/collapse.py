"""The alarm that one-step adversarial training always runs with."""

import logging
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.losses import Margin
from advbench.attacks.perturbations import Perturbation
from advbench.defenses.defense import Defense
from advbench.defenses.fit import Batch, Fit, logits, robust_accuracy, set_weights, weights_of

_log = logging.getLogger(__name__)

_SAMPLES = 500
_POINTS, _SHARE = 0.10, 1 / 3


def watch(
    defense: Defense,
    fit: Fit,
    perturbation: Perturbation,
    eps: float,
    attacked: Callable[[Batch, Fit, float], Tensor],
) -> None:
    """Look, after an epoch, whether the network has learnt to fool a single step.

    That is so when its accuracy under PGD of ten steps on the margin falls within the epoch by more
    than 10 points and more than a third, while that under its own one step does not fall. Both are
    measured on the first 500 validation samples. Then the alarm of ``fit`` says so, the weights of
    the epoch before come back, and training ends. Source: Wong, Rice, Kolter, Fast Is Better than
    Free: Revisiting Adversarial Training, ICLR 2020, arXiv:2001.03994, who found it and end
    training when the accuracy under PGD on a training batch falls. ``attacked`` makes the one-step
    examples of a batch at an eps.
    """
    part = fit.validation.first(_SAMPLES)
    steps = PGD(perturbation=perturbation, steps=10, loss=Margin())
    seen = fit.seen_validation
    robust = robust_accuracy(fit.model, seen, part, steps, eps, fit.seed)
    own_examples = attacked(Batch(*part), replace(fit, seen=seen), eps)
    answers = logits(fit.model, seen, own_examples, fit.seed)
    own = (answers.argmax(1) == part.y).double().mean().item()
    kept, number = fit.kept(defense), fit.log[-1].number
    if "good" in kept:
        before, fall = kept["robust"], kept["robust"] - robust
        if fall > max(_POINTS, before * _SHARE) and own >= kept["own"]:
            fit.alarm = (
                f"catastrophic overfitting in epoch {number}: accuracy under ten steps fell from "
                f"{before:.1%} to {robust:.1%}, under one step it went from {kept['own']:.1%} to "
                f"{own:.1%}; training ended with the weights of epoch {kept['good']}"
            )
            _log.warning("%s: %s", type(defense).__name__, fit.alarm)
            set_weights(fit.model, kept["weights"])
            fit.stop = kept["collapsed"] = True
            return
    kept |= {
        "good": number,
        "robust": robust,
        "own": own,
        "weights": weights_of(fit.model),
        "collapsed": False,
    }


def conclude(defense: Defense, fit: Fit) -> None:
    """After the last epoch: say whose weights the network has, unless another defence chose."""
    kept = fit.kept(defense)
    if kept["collapsed"] and fit.kept_epoch == fit.log[-1].number:
        fit.kept_epoch = kept["good"]
