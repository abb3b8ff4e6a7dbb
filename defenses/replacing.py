"""Putting other layers into a network that is already built."""

from collections.abc import Callable

from torch import nn


def replace_layers(model: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> int:
    """Put ``replacement`` of a layer in its place wherever that is not None, in place.

    Every layer that ``model`` had is asked about once, however deep, but not ``model`` itself; what
    is put in is not asked about. Returns how many layers were replaced.
    """
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            other = replacement(child)
            if other is not None:
                setattr(module, name, other)
                count += 1
    return count
