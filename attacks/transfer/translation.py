"""Translation invariance: TI-FGSM."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.randomness import Draws
from advbench.attacks.transfer.view import View

_DEVIATIONS = 3.0  # standard deviations from the middle of the kernel to its end


class _Smoothed(torch.autograd.Function):
    """Pass images (B, C, H, W) as they are, and their gradient through a filter of every line."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        planes = gradients[0].flatten(0, 1).unsqueeze(1)
        for kernel in (weights.view(1, 1, -1, 1), weights.view(1, 1, 1, -1)):
            planes = functional.conv2d(planes, kernel, padding="same")
        return planes.view_as(gradients[0]), None


@final
@dataclass(frozen=True, kw_only=True)
class Translation(View):
    """Images as they are, whose gradient is smoothed: it stands for those of shifted images.

    Source: Dong, Pang, Su, Zhu, "Evading defenses to transferable adversarial examples by
    translation-invariant attacks", CVPR 2019, arXiv:1904.02884, section 3.2, with the Gaussian
    kernel. It costs nothing. List it before other views, so that the gradient of the image is
    smoothed and not that of what they show. Inputs that are no images (C, H, W) have no
    neighbourhood, and their gradient stays as it is.

    Fields:
        kernel: side of the kernel in pixels, an odd number; it ends at three standard deviations,
            and with 1 nothing is smoothed.
    """

    keeps_first: ClassVar[bool] = True
    copies: ClassVar[int] = 1

    kernel: int = 15

    def __post_init__(self) -> None:
        if type(self.kernel) is not int or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"Translation: kernel must be an odd number of at least 1; got {self.kernel!r}"
            )

    def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
        """Return the images (B, *shape)."""
        if images.dim() != 4:
            return images
        seen: Tensor = _Smoothed.apply(images, self._weights().to(images))
        return seen

    def _weights(self) -> Tensor:
        """Return one factor of the kernel, (kernel,), with the sum 1."""
        at = torch.linspace(-_DEVIATIONS, _DEVIATIONS, self.kernel, dtype=torch.float64)
        return (-at.square() / 2).softmax(0)
