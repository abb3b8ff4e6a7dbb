"""The layers that have bounds, each turned into what it computes."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from advbench.models.normalized import Normalized
from advbench.trust.certificates.affine import AffineMap, Convolution, Dense, Mean, Scale, Shape
from advbench.trust.certificates.curves import Activation, Rectifier, Sigmoid, Softplus, Tanh
from advbench.trust.certificates.pooling import MaxPool
from advbench.trust.certificates.windows import Pair, Windows


class NoBoundsError(ValueError):
    """A model, or a set of changes, for which no bounds are known; the message says why."""


class Own(NamedTuple):
    """Precision and device of what is read."""

    dtype: torch.dtype
    device: torch.device


class Layer(NamedTuple):
    """What a layer computes, None where it computes nothing, and the shape that it returns."""

    step: AffineMap | Activation | None
    shape: Shape


def layer(module: nn.Module, shape: Shape, own: Own) -> Layer:
    """Return what a module of ``READERS`` makes of images of ``shape``.

    Raises NoBoundsError, as the rest of a sentence, where its settings have no bounds.
    """
    return READERS[type(module)](module, shape, own)


def _identity(module: nn.Module, shape: Shape, own: Own) -> Layer:
    return Layer(None, shape)


def _flatten(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.Flatten", module)
    if module.start_dim == 0:
        raise NoBoundsError("joins the samples of a batch")
    image = torch.empty(1, *shape, device="meta")
    return Layer(None, tuple(module(image).shape[1:]))


def _linear(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.Linear", module)
    dense = Dense(shape, _held(module.weight, own), _maybe(module.bias, own))
    return Layer(dense, dense.shape_after)


def _conv(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.Conv2d", module)
    _image(shape)
    if module.padding_mode != "zeros":
        raise NoBoundsError(f"pads with '{module.padding_mode}', and bounds are known for 'zeros'")
    convolution = Convolution(
        shape,
        _held(module.weight, own),
        _maybe(module.bias, own),
        _pair(module.stride),
        _padding(module),
        _pair(module.dilation),
        module.groups,
    )
    return Layer(convolution, convolution.shape_after)


def _padding(module: nn.Conv2d) -> Pair:
    if not isinstance(module.padding, str):
        return _pair(module.padding)
    if module.padding == "valid":
        return 0, 0
    kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
    total = [gap * (side - 1) for gap, side in zip(dilation, kernel, strict=True)]
    if any(count % 2 for count in total):
        raise NoBoundsError("pads one side more than the other")
    return total[0] // 2, total[1] // 2


def _normalized(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("Normalized", module)
    mean, std = _held(module.mean, own), _held(module.std, own)
    return _scaled(shape, 1 / std, -mean / std)


def _batch_norm(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.BatchNorm2d", module)
    if module.running_mean is None or module.running_var is None:
        raise NoBoundsError("normalises by the batch, so that samples depend on each other")
    factor = (_held(module.running_var, own) + module.eps).rsqrt()
    offset = -_held(module.running_mean, own) * factor
    if module.affine:
        weight, bias = _held(module.weight, own), _held(module.bias, own)
        factor, offset = weight * factor, weight * offset + bias
    form = (-1, *([1] * (len(shape) - 1)))
    return _scaled(shape, factor.view(form), offset.view(form))


def _scaled(shape: Shape, factor: Tensor, offset: Tensor) -> Layer:
    flat = (part.expand(shape).reshape(-1) for part in (factor, offset))
    return Layer(Scale(shape, *flat), shape)


def _avg_pool(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.AvgPool2d", module)
    _image(shape)
    ones = torch.ones(1, *shape, dtype=own.dtype, device=own.device)
    shares = module(ones)  # of each window: how many places it has, over what it divides by
    stride, padding = _pair(module.stride), _pair(module.padding)
    after = shares.shape[2:]
    windows = Windows(shape, after, _pair(module.kernel_size), stride, padding, (1, 1), own.device)
    factor = shares.flatten(1) / windows.gather(ones.flatten(1), 0.0).sum(2)
    return Layer(Mean(windows, factor[0]), windows.shape_after)


def _adaptive_avg_pool(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.AdaptiveAvgPool2d", module)
    _image(shape)
    sides = zip(_pair(module.output_size), shape[1:], strict=True)
    after = [old if new is None else new for new, old in sides]
    if any(old % new for new, old in zip(after, shape[1:], strict=True)):
        raise NoBoundsError(f"averages windows of unequal size, {shape[1:]} to {tuple(after)}")
    kernel = (shape[1] // after[0], shape[2] // after[1])
    return _avg_pool(nn.AvgPool2d(kernel), shape, own)


def _max_pool(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.MaxPool2d", module)
    _image(shape)
    if module.return_indices:
        raise NoBoundsError("returns the places of the maxima too")
    after = module(torch.empty(1, *shape, device="meta")).shape[2:]
    stride, padding = _pair(module.stride), _pair(module.padding)
    kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
    windows = Windows(shape, after, kernel, stride, padding, dilation, own.device)
    return Layer(MaxPool(windows), windows.shape_after)


def _rectifier(module: nn.Module, shape: Shape, own: Own) -> Layer:
    slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
    if not 0 <= slope <= 1:
        raise NoBoundsError(f"has the slope {slope:g} below zero, and bounds are known for 0 to 1")
    return Layer(Rectifier(slope), shape)


def _tanh(module: nn.Module, shape: Shape, own: Own) -> Layer:
    return Layer(Tanh(), shape)


def _sigmoid(module: nn.Module, shape: Shape, own: Own) -> Layer:
    return Layer(Sigmoid(), shape)


def _softplus(module: nn.Module, shape: Shape, own: Own) -> Layer:
    module = cast("nn.Softplus", module)
    if not (module.beta > 0 and module.threshold >= 20):  # where it turns straight, it may jump
        raise NoBoundsError("has bounds for a beta above 0 and a threshold of at least 20")
    return Layer(Softplus(float(module.beta)), shape)


def _image(shape: Shape) -> None:
    if len(shape) != 3:
        raise NoBoundsError(f"has bounds for images (C, H, W); it is given {shape}")


def _held(tensor: Tensor, own: Own) -> Tensor:
    return tensor.detach().to(own.dtype)


def _maybe(tensor: Tensor | None, own: Own) -> Tensor | None:
    return None if tensor is None else _held(tensor, own)


def _pair(value: object) -> Pair:
    return cast("Pair", value if isinstance(value, tuple) else (value, value))


READERS: dict[type[nn.Module], Callable[[nn.Module, Shape, Own], Layer]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: _rectifier,
    nn.LeakyReLU: _rectifier,
    nn.Tanh: _tanh,
    nn.Sigmoid: _sigmoid,
    nn.Softplus: _softplus,
    Normalized: _normalized,
    nn.Flatten: _flatten,
    nn.Identity: _identity,
    nn.Dropout: _identity,
    nn.Dropout1d: _identity,
    nn.Dropout2d: _identity,
    nn.Dropout3d: _identity,
    nn.AlphaDropout: _identity,
    nn.FeatureAlphaDropout: _identity,
}
"""How each kind of layer is read; a Normalized stands for its normalisation alone."""
