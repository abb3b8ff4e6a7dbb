"""From a module to what it computes, or to the reason why it has no bounds."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from advbench.attacks.victim import frozen
from advbench.models.normalized import Normalized
from advbench.trust.certificates.affine import AffineMap, Shape
from advbench.trust.certificates.layers import READERS, Layer, NoBoundsError, Own, layer
from advbench.trust.certificates.network import Network, Stage
from advbench.trust.certificates.precision import ieee

_PRECISIONS = (torch.float32, torch.float64)
_AGREEMENT = 1e-4  # between the model and what was read, as a share of the largest logit


def read(model: nn.Module, shape: Shape, dtype: torch.dtype | None = None) -> Network:
    """Return what ``model`` computes in eval mode on images of ``shape``, without the batch.

    ``dtype`` is the precision of the answer, by default that of the model. Layers are known by
    their exact type: a subclass may compute anything. The model is left as it was.

    Raises:
        NoBoundsError: a layer, named with its place, is none of those that have bounds, or the
            layers in their order do not answer as the model does.

    """
    if not isinstance(model, nn.Module):
        raise NoBoundsError(f"the model is a {type(model).__name__}, no torch.nn.Module")
    chain, own = list(_chain(model, "")), _own(model)
    with frozen(model), torch.no_grad(), ieee(own.device):
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(*own[::-1])
        try:
            logits = model(images)
        except (RuntimeError, ValueError) as error:
            raise NoBoundsError(f"the model takes no images of shape {shape}: {error}") from None
        network = _network(chain, shape, own)
        apart = (logits - network(images.flatten(1))).abs().max()
        if not apart <= _AGREEMENT * logits.abs().max():
            raise NoBoundsError("the layers, in their order, answer otherwise than the model does")
        return _network(chain, shape, own._replace(dtype=dtype)) if dtype else network


def _chain(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers in their order, each with its place in the model."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if changed:
        raise NoBoundsError(f"{_named(place, module)} has a hook or a forward of its own")
    dot = f"{place}." if place else ""
    if type(module) is nn.Sequential:
        for name, child in module._modules.items():
            assert child is not None
            yield from _chain(child, f"{dot}{name}")
    elif type(module) in READERS:
        yield place, module
        if isinstance(module, Normalized):
            yield from _chain(module.model, f"{dot}model")
    else:
        known = ", ".join(kind.__name__ for kind in READERS)
        raise NoBoundsError(
            f"{_named(place, module)} has no bounds; they are known for chains of {known}"
        )


def _named(place: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"layer '{place}', a {kind}," if place else f"the model itself, a {kind},"


def _own(model: nn.Module) -> Own:
    tensors: list[Tensor] = [*model.parameters()] or [*model.buffers()]
    found = {Own(one.dtype, one.device) for one in tensors} or {
        Own(torch.float32, torch.device("cpu"))
    }
    if len(found) > 1 or (own := found.pop()).dtype not in _PRECISIONS:
        raise NoBoundsError("the weights must all be float32, or all float64, on one device")
    return own


def _network(chain: Sequence[tuple[str, nn.Module]], shape: Shape, own: Own) -> Network:
    layers: list[Layer] = []
    for place, module in chain:
        try:
            layers.append(layer(module, layers[-1].shape if layers else shape, own))
        except NoBoundsError as error:
            raise NoBoundsError(f"{_named(place, module)} {error}") from None
    after = layers[-1].shape if layers else shape
    if len(after) != 1 or after[0] < 2:
        raise NoBoundsError(f"the model answers with {after} numbers, and not with K >= 2 logits")
    return Network(tuple(_stages(layers, shape, own)), after[0])


def _stages(layers: Sequence[Layer], shape: Shape, own: Own) -> Iterator[Stage]:
    """Cut where an affine map follows an activation; the last stage has no activations."""
    like = torch.empty(0, dtype=own.dtype, device=own.device)
    stage = Stage((), (), math.prod(shape), math.prod(shape), like)
    width = stage.outputs
    for step, after in layers:
        if isinstance(step, AffineMap):
            if stage.activations:
                yield stage
                stage = Stage((), (), width, width, like)
            width = math.prod(after)
            stage = Stage((*stage.maps, step), (), stage.inputs, width, like)
        elif step is not None:
            width = math.prod(after)
            activations = (*stage.activations, step)
            stage = Stage(stage.maps, activations, stage.inputs, stage.outputs, like)
    yield stage
    if stage.activations:
        yield Stage((), (), width, width, like)
