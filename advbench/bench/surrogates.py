"""Several surrogates as the one model that an attack is made on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advbench.attacks.victim import Model


class MeanLogits(nn.Module):
    """Models as one that answers with their mean logits.

    Source: Liu, Chen, Liu, Song, Delving into Transferable Adversarial Examples and Black-box
    Attacks, ICLR 2017, arXiv:1611.02770, in the form of Dong et al., Boosting Adversarial Attacks
    with Momentum, CVPR 2018, arXiv:1710.06081, section 3.3.
    """

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        self.members = list(members)
        # Where torch finds their parameters, modes and buffers.
        self.registered = nn.ModuleList(one for one in members if isinstance(one, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K); raises ValueError where the members differ in their classes."""
        answers = [member(x) for member in self.members]
        counts = [answer.shape[1] for answer in answers]
        if len(set(counts)) > 1:
            raise ValueError(f"surrogates taken together need the same classes; they have {counts}")
        return torch.stack(answers).mean(0)


def together(models: Sequence[Model]) -> Model:
    """Return several models as one; one alone is itself."""
    return models[0] if len(models) == 1 else MeanLogits(models)
