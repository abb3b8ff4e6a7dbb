"""What a defence is, and the moments of training at which it may act."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from advbench.attacks.victim import Model


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A way of training that makes a model more robust; its fields are its hyper-parameters."""

    @abstractmethod
    def batch(
        self, model: Model, x: Tensor, y: Tensor, ids: Tensor, epoch: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """What to train on instead of the minibatch x (B, *shape), y (B,), ids (B,).

        x are images in [0, 1], or scenes, of which `model` is then one.

        `epoch` counts the epochs done so far, with fractions; `seed` differs from epoch to epoch.
        The model comes back as it was.
        """
