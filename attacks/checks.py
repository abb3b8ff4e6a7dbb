"""Checks of what a user hands in; each error says what was given, what was expected, the fix."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion
from advbench.attacks.losses import Loss
from advbench.attacks.perturbations.perturbation import Perturbation

_BOX_TOLERANCE = 1e-6
_COUNTS = (
    "steps",
    "restarts",
    "points",
    "blocks",
    "rounds",
    "samples",
    "images",
    "strata",
    "refinements",
    "population",
    "searches",
    "steps_per_search",
    "round_steps",
    "long_steps",
    "neighbours",
)
_COUNTS_FROM_ZERO = ("target_classes", "long_rounds")
_POSITIVE = ("step_size", "difference", "spread")
_NON_NEGATIVE = ("decay",)
_SHARES = ("share",)
_PARTS = ("rho", "near", "close", "bias", "threshold", "level")
_SWITCHES = ("random_start", "anneal", "large_eps")


def fields(owner: str, values: Mapping[str, object]) -> None:
    """Check hyper-parameters by the meaning of their names, which is the same in every attack."""
    for name, value in values.items():
        counts = value if name in _COUNTS and isinstance(value, tuple) and value else (value,)
        if name in _COUNTS and any(type(count) is not int or count < 1 for count in counts):
            raise ValueError(f"{owner}: {name} must be a whole number of at least 1; got {value!r}")
        if name in _COUNTS_FROM_ZERO and (type(value) is not int or value < 0):
            raise ValueError(f"{owner}: {name} must be a whole number of at least 0; got {value!r}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _POSITIVE and value is not None:
            above_zero(owner, name, value)
        if name in _NON_NEGATIVE and not (number and 0 <= value < float("inf")):  # type: ignore[operator]
            raise ValueError(f"{owner}: {name} must be a number of at least 0; got {value!r}")
        if name in _SHARES and not (number and 0 < value <= 1):  # type: ignore[operator]
            raise ValueError(f"{owner}: {name} must lie in (0, 1]; got {value!r}")
        if name in _PARTS and not (number and 0 <= value <= 1):  # type: ignore[operator]
            raise ValueError(f"{owner}: {name} must lie in [0, 1]; got {value!r}")
        if name in _SWITCHES and not isinstance(value, bool):
            raise TypeError(f"{owner}: {name} must be True or False; got {value!r}")
        for kind, word in ((Perturbation, "perturbation"), (Loss, "loss")):
            if name == word and not isinstance(value, kind):
                raise TypeError(
                    f"{owner}: {word} must be a {kind.__name__} value such as "
                    f"{'Linf()' if word == 'perturbation' else 'CrossEntropy()'}; got {value!r}"
                )


def above_zero(owner: str, name: str, value: object) -> None:
    """Check that a hyper-parameter is a finite number above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 < value < float("inf")):  # type: ignore[operator]
        raise ValueError(f"{owner}: {name} must be a number above 0; got {value!r}")


def inputs(x: Tensor) -> None:
    """Check that ``x`` is a batch of finite floating-point inputs."""
    if not isinstance(x, Tensor):
        raise TypeError(f"images must be a tensor (N, *shape); got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"images must be floating point in [0, 1]; got {x.dtype}. Convert them first: "
            "x.float() / 255"
        )
    if x.dim() < 2:
        raise ValueError(f"images must have the shape (N, *shape); got {tuple(x.shape)}")
    if not len(x):
        return
    bad = (~x.detach().flatten(1).isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(f"images must be finite; sample {int(bad[0])} holds NaN or infinity")


def images(x: Tensor) -> None:
    """Check that ``x`` is a batch of floating-point images in [0, 1]."""
    inputs(x)
    if not len(x):
        return
    flat = x.detach().flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    bad = ((low < -_BOX_TOLERANCE) | (high > 1 + _BOX_TOLERANCE)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"images must lie in [0, 1]; got min {float(low.min()):.3f}, max "
            f"{float(high.max()):.3f} (first in sample {row}). Put the normalisation inside the "
            "model: Normalized(model, mean, std)."
        )


def accepted(owner: str, perturbation: Perturbation, x: Tensor) -> None:
    """Check that ``perturbation`` can change inputs like those of the batch ``x``."""
    if perturbation.bounds == (0, 1):
        images(x)
    else:
        inputs(x)
    refusal = perturbation.refusal(x.shape[1:])
    if refusal is not None:
        raise ValueError(f"{owner}: {refusal}")


def inside_box(x: Tensor, perturbation: Perturbation) -> Tensor:
    """Return a copy of ``x`` without graph, with rounding past the bounds clipped off."""
    return x.detach().clone().clamp_(*perturbation.bounds)


def labels(name: str, values: Tensor, x: Tensor) -> None:
    """Check that ``values`` are integer classes (N,)."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor of classes (N,); got {type(values).__name__}")
    if values.dim() != 1 or len(values) != len(x):
        hint = " For one-hot labels pass y.argmax(1)." if values.dim() == 2 else ""
        raise ValueError(
            f"{name} must have the shape ({len(x)},), a class for each image; got "
            f"{tuple(values.shape)}.{hint}"
        )
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers; got {values.dtype}. Convert: {name}.long()")


def classes(criterion: Criterion, count: int) -> None:
    """Check that a model of ``count`` classes has one for each label and target."""
    for name, values in (("label", criterion.y), ("target", criterion.targets)):
        if values is None:
            continue
        bad = ((values < 0) | (values >= count)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"{name} {int(values[row])} of sample {row} is out of range: the model has "
                f"{count} classes (0 to {count - 1})"
            )


def targets(values: Tensor | None, y: Tensor, x: Tensor) -> None:
    """Check that ``values``, when given, are classes (N,), none of them the true one."""
    if values is None:
        return
    labels("targets", values, x)
    same = (values.to(y.device) == y).nonzero()
    if len(same):
        row = int(same[0])
        raise ValueError(
            f"targets must differ from the labels; sample {row} has label and target {int(y[row])}"
        )


def radius(eps: float | Tensor | None, x: Tensor, perturbation: Perturbation, finds: str) -> Tensor:
    """Return ``eps`` as one number per sample, (N,)."""
    largest = perturbation.largest(x) if len(x) else float("inf")
    name = type(perturbation).__name__
    if eps is None:
        if finds == "inside":
            raise ValueError(f"eps is missing: how far may {name} go? For example eps=8/255.")
        return torch.full((len(x),), largest)
    if isinstance(eps, bool) or not isinstance(eps, int | float | Tensor):
        raise TypeError(f"eps must be a number or a tensor (N,); got {eps!r}")
    values = torch.as_tensor(eps, dtype=torch.float64).detach()
    if values.dim() > 1 or (values.dim() == 1 and len(values) != len(x)):
        raise ValueError(f"eps must be a number or have the shape ({len(x)},); got {values.shape}")
    values = values.expand(len(x))
    for bad, why in (
        (~values.isfinite(), "be finite"),
        (values < 0, "be at least 0"),
        (
            values > largest * (1 + 1e-6),
            f"be at most {largest:g}, the largest that {name} has room for",
        ),
    ):
        if bad.any():
            row = int(bad.nonzero()[0])
            value = float(values[row])
            hint = f". Did you mean {value:g}/255?" if 1 < value <= 255 and largest == 1 else ""
            raise ValueError(f"eps must {why}; got {value:g} (sample {row}){hint}")
    return values


def seed(value: int) -> None:
    """Check that ``value`` is a 32-bit unsigned whole number."""
    if type(value) is not int or not 0 <= value < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2^32 - 1; got {value!r}")


def identities(values: Tensor, count: int) -> Tensor:
    """Return sample ids as int64 (N,)."""
    if values.shape != (count,) or values.is_floating_point():
        raise ValueError(
            f"ids must be {count} integers, one per sample; got {tuple(values.shape)} of "
            f"{values.dtype}"
        )
    return values.to(torch.int64)


def mask(name: str, values: Tensor, count: int) -> Tensor:
    """Return a boolean mask (N,)."""
    if values.shape != (count,) or values.dtype != torch.bool:
        raise ValueError(
            f"{name} must be {count} booleans; got {tuple(values.shape)} of {values.dtype}"
        )
    return values


def positive(name: str, value: int | None) -> None:
    """Check that ``value``, when given, is a whole number of at least 1."""
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")


def choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that ``value`` is one of ``choices``."""
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.{hint}")
