"""Arithmetic that rounds no more than its type says."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_COARSE = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
)


@contextmanager
def ieee(device: torch.device) -> Iterator[None]:
    """Switch off, and back on afterwards, what computes 32 bits with less: autocast and TF32.

    Convolutions on a GPU round to 10 bits by default, a thousand times coarser than bounds expect.
    """
    before = [one.fp32_precision for one in _COARSE]
    with torch.autocast(device.type, enabled=False):
        try:
            for one in _COARSE:
                one.fp32_precision = "ieee"
            yield
        finally:
            for one, setting in zip(_COARSE, before, strict=True):
                one.fp32_precision = setting
