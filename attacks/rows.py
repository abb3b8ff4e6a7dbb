"""Rows: trees of tensors whose first axis is the sample, cut, joined and merged as one."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def lift(values: Tensor, like: Tensor) -> Tensor:
    """View per-sample ``values`` (B,) so that they broadcast over ``like`` (B, ...)."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def map_rows(function: Callable[..., Tensor], first: T, *others: T) -> T:
    """Apply ``function`` to the corresponding tensors of equally shaped (nested) named tuples."""
    if first is None:
        return first
    if isinstance(first, Tensor):
        return cast("T", function(first, *others))
    parts = zip(cast("tuple[Any, ...]", first), *cast("tuple[Any, ...]", others), strict=True)
    return type(first)(*(map_rows(function, *part) for part in parts))


def take(rows: T, index: Tensor) -> T:
    """Select rows by an index or a boolean mask."""
    return map_rows(lambda part: part[index], rows)


def join(first: T, second: T) -> T:
    """Append the rows of ``second`` to those of ``first``."""
    return map_rows(lambda a, b: torch.cat([a, b]), first, second)


def put(rows: T, index: Tensor, values: T) -> T:
    """Return ``rows`` with those at ``index`` replaced by ``values``."""
    return map_rows(lambda part, new: part.index_put((index,), new), rows, values)
