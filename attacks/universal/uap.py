"""Universal adversarial perturbation: one difference for all images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.criterion import Criterion
from advbench.attacks.gradient.mi_fgsm import MIFGSM
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access
from advbench.attacks.universal.delta import AddedDelta, Delta, Everywhere, SignNoise, check_set
from advbench.attacks.universal.fitting import Models, fit_shared


@dataclass(frozen=True)
class _Capped(Loss):
    """A loss that no image can raise beyond a cap."""

    inner: Loss
    cap: float

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """Return the objective (B,)."""
        return self.inner(logits, criterion).clamp_max(self.cap)


@final
@dataclass(frozen=True, kw_only=True)
class UAP(Fittable):
    """Universal perturbation: one difference that fools a model on many images it is added to.

    Source: Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, "Universal adversarial perturbations", CVPR
    2017, arXiv:1610.08401, in the form of Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein,
    "Universal adversarial training", AAAI 2020, arXiv:1811.11304, algorithm 2: projected
    steepest ascent on the mean loss over minibatches, in which no image counts beyond ``cap``.
    Deviations: steps shrink along half a cosine, and images are drawn with replacement for each
    step. It is fitted against the true labels and counts on images that are classified
    correctly without it. Cost of the fit: ``steps * samples`` forward and backward passes, of the
    attack that results: one forward pass.

    Fields:
        steps, step_size: of the fit; a step is a fraction of eps.
        samples: images that a step takes its mean over.
        images: training images to fit to.
    """

    access: ClassVar[Access] = "gradient"

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    cap: float = 9.0
    steps: int = 150
    step_size: float = 0.1
    samples: int = 64
    images: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_set(type(self).__name__, self.perturbation)
        if not self.cap > 0:
            raise ValueError(f"UAP: cap must be a number above 0; got {self.cap!r}")
        if self.loss.wants_clean:
            raise ValueError(
                "UAP: loss must not ask for clean logits, which a shared difference has none of; "
                f"use CrossEntropy() or Margin(); got {self.loss!r}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return (
            cls(steps=15, step_size=0.3, samples=16, images=32),
            cls(perturbation=L2(), steps=15, step_size=0.3, samples=16, images=32),
        )

    def fit(
        self,
        models: Models,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that adds the fitted difference."""
        assert isinstance(self.perturbation, Linf | L2)
        rule = MIFGSM(
            perturbation=Everywhere(self.perturbation),
            loss=_Capped(self.loss, self.cap),
            steps=self.steps,
            step_size=self.step_size,
            decay=0.0,
            anneal=True,
        )
        p = fit_shared(
            rule, models, batches, eps=eps, targets=targets, seed=seed, samples=self.samples
        )
        return AddedDelta(delta=Delta.of(p[0]), perturbation=self.perturbation)

    def controls(self) -> tuple[Fittable, ...]:
        """Return random signs of the same size."""
        return (SignNoise(perturbation=self.perturbation),)
