"""What counts as success, per sample."""

from typing import NamedTuple

import torch
from torch import Tensor


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``z_label - max of the other logits``, (B,); ``logits`` (B, K), ``labels`` (B,)."""
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1) - others(logits, labels).amax(1)


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits (B, K) with that of the label out of the running, at minus infinity."""
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf)


def rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the wrong classes (B, K - 1), that of the largest logit first, equal ones in order."""
    return others(logits, labels).argsort(dim=1, descending=True, stable=True)[:, :-1]


def likeliest(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the label and the ``count - 1`` other classes of largest logit, in order, (B, count).

    All of them where there are not as many.
    """
    first = logits.scatter(1, labels.unsqueeze(1), torch.inf)
    return first.topk(min(count, logits.shape[1]), dim=1).indices


class Criterion(NamedTuple):
    """The true classes ``y`` (B,) int64 and, for targeted attacks, the classes to reach.

    ``clean`` (B, K) are the logits of the samples as they are, for a loss that wants them. ``aim``
    (B,) are classes that an untargeted attack heads for, though any wrong one is a success; -1
    stands for the best wrong class of the moment.
    """

    y: Tensor
    targets: Tensor | None = None
    clean: Tensor | None = None
    aim: Tensor | None = None

    def success(self, logits: Tensor) -> Tensor:
        """Decide per row, (B,) bool: the label is beaten, or the target is reached.

        A tie of logits is not a success, nor is a lead that is NaN or infinite.
        """
        if self.targets is None:
            lead = logits.amax(1) - logits.gather(1, self.y.unsqueeze(1)).squeeze(1)
        else:
            lead = margin(logits, self.targets)
        return (lead > 0) & (lead < torch.inf)

    def aimed(self, logits: Tensor) -> "Criterion":
        """Return what a loss is to go by: where there is an aim, it is the class to reach."""
        if self.aim is None or self.targets is not None:
            return self
        best = others(logits.detach(), self.y).argmax(1)
        return self._replace(targets=torch.where(self.aim < 0, best, self.aim))
