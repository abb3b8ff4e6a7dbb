"""N-FGSM."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from advbench.attacks.perturbations import Linf
from advbench.defenses.adversarial.adversarial_training import warmed
from advbench.defenses.adversarial.collapse import conclude, watch
from advbench.defenses.adversarial.one_step import one_step
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class NFGSM(Defense):
    """Train on examples of a single step from strong noise, not brought back to within eps.

    An example is ``x + n + step_size eps sign(g)`` with ``n`` uniform within ``magnitude eps`` and
    ``g`` the gradient at ``x + n``; both points are clipped to [0, 1], and the example may lie
    farther from x than eps. It costs one forward and one backward pass. Source: de Jorge, Bibi,
    Volpi, Sanyal, Torr, Rogez, Dokania, Make Some Noise: Reliable and Efficient Single-Step
    Adversarial Training, NeurIPS 2022, arXiv:2202.01181, algorithm 1. Deviations: the network is in
    eval mode meanwhile, and eps may grow over the first epochs. The alarm for catastrophic
    overfitting is always on, see ``collapse``.

    Fields:
        eps: the largest change of a pixel that the network is to resist.
        magnitude: of the noise, in units of eps.
        step_size: the length of the step, as a fraction of eps.
        warmup: epochs over which eps grows from 0; 0 for none.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples"})
    adaptive: ClassVar[str] = "Many steps with restarts: a single one is what it was trained on."

    eps: float
    magnitude: float = 2.0
    step_size: float = 1.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if min(self.eps, self.magnitude, self.warmup) < 0:
            raise ValueError(
                f"n_fgsm: eps, magnitude and warmup must not be negative; "
                f"got {self.eps}, {self.magnitude} and {self.warmup}"
            )
        if self.step_size <= 0:
            raise ValueError(f"n_fgsm: step_size must be above 0; got {self.step_size}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(eps=0.1), cls(eps=0.05, magnitude=1.0, step_size=1.25)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the examples, with the labels unchanged.

        Raises ValueError where samples are not images in [0, 1].
        """
        return batch._replace(x=self._stepped(batch, fit, warmed(self.eps, self.warmup, fit)))

    def after_epoch(self, fit: Fit) -> None:
        """Look for catastrophic overfitting."""
        watch(self, fit, Linf(), self.eps, self._stepped)

    def finish(self, fit: Fit) -> None:
        """Say whose weights the network has after an alarm."""
        conclude(self, fit)

    def _stepped(self, batch: Batch, fit: Fit, eps: float) -> Tensor:
        start, length = self.magnitude * eps, self.step_size * eps
        # As far as the two can lead together: nothing but the box cuts the step short.
        bound = start + length
        return one_step("n_fgsm", Linf(), batch, fit, start=start, length=length, bound=bound)
