"""Fast adversarial training."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.defenses.adversarial.adversarial_training import warmed
from advbench.defenses.adversarial.collapse import conclude, watch
from advbench.defenses.adversarial.one_step import one_step
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class FastAT(Defense):
    """Train on examples of a single steepest step from a uniform draw (fast adversarial training).

    An example costs one forward and one backward pass. Source: Wong, Rice, Kolter, Fast Is Better
    than Free: Revisiting Adversarial Training, ICLR 2020, arXiv:2001.03994, algorithm 3.
    Deviations: the network is in eval mode meanwhile; the start is clipped to [0, 1] before the
    gradient is taken; eps may grow over the first epochs. The alarm for catastrophic overfitting is
    always on, see ``collapse``.

    Fields:
        perturbation: the set that the examples come from.
        eps: its scale.
        step_size: the length of the step, as a fraction of eps.
        warmup: epochs over which eps grows from 0; 0 for none.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples"})
    adaptive: ClassVar[str] = "Many steps with restarts: a single one is what it was trained on."

    perturbation: Perturbation = Linf()
    eps: float
    step_size: float = 1.25
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.eps < 0 or self.warmup < 0:
            raise ValueError(
                f"fast_at: eps and warmup must not be negative; got {self.eps} and {self.warmup}"
            )
        if self.step_size <= 0:
            raise ValueError(f"fast_at: step_size must be above 0; got {self.step_size}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(eps=0.1), cls(perturbation=L2(), eps=0.5, step_size=1.0, warmup=1.0)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the examples, with the labels unchanged."""
        return batch._replace(x=self._stepped(batch, fit, warmed(self.eps, self.warmup, fit)))

    def after_epoch(self, fit: Fit) -> None:
        """Look for catastrophic overfitting."""
        watch(self, fit, self.perturbation, self.eps, self._stepped)

    def finish(self, fit: Fit) -> None:
        """Say whose weights the network has after an alarm."""
        conclude(self, fit)

    def _stepped(self, batch: Batch, fit: Fit, eps: float) -> Tensor:
        length = self.step_size * eps
        return one_step(
            "fast_at", self.perturbation, batch, fit, start=eps, length=length, bound=eps
        )
