"""Free adversarial training."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks.perturbations import Linf
from advbench.defenses.adversarial.collapse import conclude, watch
from advbench.defenses.adversarial.one_step import one_step
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit


@final
@dataclass(frozen=True, kw_only=True)
class FreeAT(Defense):
    """Train on each minibatch several times; one backward pass moves weights and perturbation.

    Examples cost nothing, as epochs become fewer by the number of replays. The perturbation stays
    over the replays and from one minibatch to the next. Source: Shafahi, Najibi, Ghiasi, Xu,
    Dickerson, Studer, Davis, Taylor, Goldstein, Adversarial Training for Free!, NeurIPS 2019,
    arXiv:1904.12843, algorithm 1. Deviation: the gradient passes where a pixel is clipped to
    [0, 1]. The network is in training mode meanwhile, as its step is the same pass. It has to be
    the last defence that changes the samples. The alarm for catastrophic overfitting is always on,
    see ``collapse``; the one step that it looks at goes from the clean sample by eps.

    Fields:
        eps: the largest change of a pixel, and the length of a step.
        replays: how often each minibatch is trained on in a row.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"examples"})
    adaptive: ClassVar[str] = "Many steps with restarts: a single one is what it was trained on."

    eps: float
    replays: int = 4

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"free_at: eps must not be negative; got {self.eps}")
        if self.replays < 1:
            raise ValueError(f"free_at: replays must be at least 1; got {self.replays}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(eps=0.1), cls(eps=0.05, replays=2)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the samples with the perturbation as it stands.

        Raises ValueError where samples are not images (B, C, H, W).
        """
        if batch.x.dim() != 4:
            raise ValueError(
                f"free_at: samples must be images (B, C, H, W); got {tuple(batch.x.shape)}"
            )
        delta = fit.kept(self).setdefault("delta", torch.zeros_like(batch.x))
        x = (batch.x + delta[: len(batch.x)]).clamp(0, 1)
        return batch._replace(x=x.requires_grad_())

    def after_step(self, batch: Batch, fit: Fit) -> None:
        """Move the perturbation along the gradient that the step has left."""
        if not batch.x.is_leaf or batch.x.grad is None:
            raise ValueError(
                "free_at: a defence listed after it has changed the samples; list free_at last"
            )
        kept, count = fit.kept(self), len(batch.x)
        delta = kept["delta"]
        moved = delta[:count] + self.eps * batch.x.grad.sign()
        kept["delta"] = torch.cat([moved.clamp(-self.eps, self.eps), delta[count:]])

    def after_epoch(self, fit: Fit) -> None:
        """Look for catastrophic overfitting."""
        watch(self, fit, Linf(), self.eps, self._stepped)

    def finish(self, fit: Fit) -> None:
        """Say whose weights the network has after an alarm."""
        conclude(self, fit)

    def _stepped(self, batch: Batch, fit: Fit, eps: float) -> Tensor:
        return one_step("free_at", Linf(), batch, fit, start=0.0, length=eps, bound=eps)
