"""The five warnings of AutoAttack, to stand beside the diagnosis.

After Croce and Hein's description of their program's flags and its thresholds
(https://github.com/fra31/auto-attack, flags_doc.md, 2021), in code of this package's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks import APGD, DLR, L2, Attack, CrossEntropy, Linf, SquareAttack
from advbench.attacks.criterion import Criterion
from advbench.attacks.gradient.apgd import start
from advbench.attacks.query import Problem
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import frozen
from advbench.data import Samples
from advbench.trust.answers import fooled, predict
from advbench.trust.diagnosis.nature import calls_of

_REPEATS = 5
_MOVED = 1e-4  # L2 distance of logits scaled to length 1
_SUM = 1e-5
_GAIN = 0.002  # of the robust accuracy, by Square
_DIFFERENTIATING = ("grad", "backward", "_make_grads")
_BATCH = 256


@dataclass(frozen=True)
class Warnings:
    """Which warnings are raised; `failed` says that a search ended with an error instead.

    Fields:
        white_box, square: robust accuracy after the searches by gradients, and after Square.
    """

    randomised: bool
    probabilities: bool
    zero_gradient: bool
    square_better: bool
    differentiates: bool
    failed: bool
    white_box: float
    square: float

    @property
    def any(self) -> bool:
        """Whether a user is warned at all."""
        raised = self.randomised, self.probabilities, self.zero_gradient, self.square_better
        return any((*raised, self.differentiates, self.failed))


def warnings(
    model: nn.Module,
    samples: Samples,
    eps: float,
    seed: int,
    perturbation: Linf | L2 = Linf(),  # noqa: B008
    square_steps: int = 5000,
) -> Warnings:
    """Look for all five, at one eps.

    The searches by gradients are APGD on the cross-entropy and, heading for each of the wrong
    classes, on DLR; FAB of the standard set is left out, which finds little that these do not.
    """
    x, y = samples.x, samples.y
    right = ~fooled(predict(model, x, _BATCH), y)
    failed = zero = False
    white = square = float(right.double().mean())
    try:
        zero = _zero_gradient(model, x[right], y[right], eps, seed, perturbation)
        single = APGD(perturbation=perturbation, loss=DLR(), target_classes=9)
        for attack in (APGD(perturbation=perturbation, loss=CrossEntropy()), single):
            right = _left(model, samples, right, attack, eps, seed)
        white = float(right.double().mean())
        black_box = SquareAttack(perturbation=perturbation, steps=square_steps)
        square = float(_left(model, samples, right, black_box, eps, seed).double().mean())
    except (ValueError, RuntimeError):
        failed = True
    return Warnings(
        randomised=_randomised(model, x, y),
        probabilities=_probabilities(model, x),
        zero_gradient=zero,
        square_better=square < white - _GAIN,
        differentiates=_differentiates(model, x[:_BATCH]),
        failed=failed,
        white_box=white,
        square=square,
    )


def _left(
    model: nn.Module, samples: Samples, right: Tensor, attack: Attack, eps: float, seed: int
) -> Tensor:
    """The samples that are still right, (N,) bool."""
    index = right.nonzero().squeeze(1)
    x, y, ids = samples.x[index], samples.y[index], samples.ids[index]
    outcome = attack.run(model, x, y, eps=eps, seed=seed, ids=ids, batch_size=_BATCH)
    broken = fooled(predict(model, outcome.x_adv, _BATCH), y)
    return right.index_put((index,), ~broken)


def _randomised(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Accuracy or scaled logits differ between five runs."""
    with frozen(model), torch.no_grad():
        answers = [model(x) for _ in range(_REPEATS)]
    correct = {int((answer.argmax(1) == y).sum()) for answer in answers}
    scaled = [functional.normalize(answer, dim=1) for answer in answers]
    moved = max(float((scaled[0] - other).norm(dim=1).max()) for other in scaled[1:])
    return len(correct) > 1 or moved > _MOVED


def _probabilities(model: nn.Module, x: Tensor) -> bool:
    """All answers lie in [0, 1] and have the sum 1."""
    answer = predict(model, x, _BATCH)
    inside = bool((answer > -_SUM).all()) and bool((answer < 1 + _SUM).all())
    return inside and bool(((answer.sum(1) - 1).abs() < _SUM).all())


def _zero_gradient(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, perturbation: Linf | L2
) -> bool:
    """The gradient of DLR is zero in every pixel of any sample, where APGD starts."""
    ids = torch.arange(len(x))
    none = torch.zeros_like(ids)
    sizes = torch.full((len(x),), eps)
    draws = Draws(none + seed, ids, none, none)
    p = start(perturbation, Problem(x, sizes, Criterion(y), draws, none))
    with frozen(model):
        images = (x + p).requires_grad_()
        loss = DLR()(model(images), Criterion(y)).sum()
        (gradient,) = torch.autograd.grad(loss, images)
    return bool((gradient.flatten(1).abs().sum(1) == 0).any())


def _differentiates(model: nn.Module, x: Tensor) -> bool:
    """A function that takes gradients is called by name while the model answers."""
    named = calls_of(lambda code: code.co_name in _DIFFERENTIATING)
    with frozen(model), torch.no_grad(), named as calls:
        model(x)
    return bool(calls)
