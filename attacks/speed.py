"""A faster stand-in for a model, for the search alone: each option says what it trades."""

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from advbench.attacks import checks

Speedup = Literal["fold", "channels_last", "compile", "bf16"]

_CLOSE = 1e-2
"""How far logits may lie apart, in units of their spread, after folding."""


class _InBfloat16(nn.Module):
    """A model run under autocast; its logits come back in 32 bits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.model(x)
        return logits.float()


def accelerated(model: nn.Module, x: Tensor, options: Sequence[Speedup]) -> nn.Module:
    """Return a copy of ``model`` that answers faster, for ``Attack.run(stand_in=...)``.

    The copy is in eval mode; ``model`` is left as it is. Since every success is confirmed by the
    model itself, an option can cost successes, never invent one. A search on another arithmetic
    takes another path: compare results made with the same options alone.

    Args:
        model: images (B, *shape) to logits (B, K).
        x: images (N, *shape) to try the copy on, N >= 1.
        options: any of

            - ``fold``: batch normalisation is folded into the convolution before it; logits change
              by rounding. The model has to be traceable by ``torch.fx``.
            - ``channels_last``: the memory layout that convolutions on a CPU and on tensor cores
              prefer; logits change by rounding. Only for images (C, H, W).
            - ``compile``: ``torch.compile``; the first passes, and those of a new batch size, take
              seconds to minutes, so it pays in long runs.
            - ``bf16``: autocast to 16 bits; logits change in the third digit.

    Raises:
        ValueError: an option is none of these, or the model cannot be folded.

    """
    for option in options:
        checks.choice("speed", option, get_args(Speedup))
    fast = copy.deepcopy(model).eval()
    if "fold" in options:
        fast = _folded(fast, x)
    if "channels_last" in options:
        fast = fast.to(memory_format=torch.channels_last)
    if "bf16" in options:
        fast = _InBfloat16(fast)
    if "compile" in options:
        fast.compile(dynamic=True)
    return fast


def _folded(model: nn.Module, x: Tensor) -> nn.Module:
    try:
        folded: nn.Module = fuse(model)
    except Exception as error:
        raise ValueError(
            f"speed: batch normalisation cannot be folded, for the model cannot be traced: {error}"
        ) from error
    with torch.no_grad():
        device = next((p.device for p in model.parameters()), x.device)
        before, after = (one(x[:8].to(device)) for one in (model, folded))
    spread = (before.amax(1) - before.amin(1)).unsqueeze(1)
    if not ((before - after).abs() <= _CLOSE * spread).all():
        raise ValueError("speed: folding batch normalisation changes what the model answers")
    return folded
