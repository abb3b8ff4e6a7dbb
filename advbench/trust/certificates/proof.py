"""Which samples no change of a set can fool: proven, not tried."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advbench.attacks import PGD, checks
from advbench.attacks.criterion import Criterion
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.victim import frozen
from advbench.trust.certificates import exhaustive
from advbench.trust.certificates.affine import Shape
from advbench.trust.certificates.bounds import (
    Margins,
    by_intervals,
    by_substitution,
    interval_margins,
    margins,
)
from advbench.trust.certificates.layers import NoBoundsError
from advbench.trust.certificates.network import BUDGET, Network
from advbench.trust.certificates.precision import ieee
from advbench.trust.certificates.reading import read
from advbench.trust.certificates.regions import REGIONS, Region

# What share of its scale a bound has to exceed, by the precision of the model; and in 64 bits, one
# for a model of 32 bits, whose answers are rounded by about as much.
_CLEAR = {torch.float32: 1e-5, torch.float64: 1e-9}
_FINE = 1e-6
_AT_ONCE = 256
_TRY = PGD(steps=40)

Method = Callable[[Network, Region, Tensor], Margins]


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    perturbation: Perturbation,
    eps: float | Tensor,
    batch_size: int | None = None,
    nodes: int = 0,
) -> Tensor:
    """Return which samples no change in ``perturbation`` of size ``eps`` can fool, (N,) bool.

    False means that nothing is known, or that the sample is wrong as it is. Proven is that all
    margins of the network are above 0 for all images of the set, by more than rounding: a bound
    has to exceed 1e-5 of the magnitudes that were added up for it. One that comes closer to 0 than
    that is computed once more in 64 bits, where 1e-6 suffices, which is about the rounding of the
    model itself, or 1e-9 for a model of 64 bits. A model that answers in coarser arithmetic, such
    as TF32 or autocast, is another one than what is proven. Cheap bounds come first, and what they
    prove is done: intervals, back-substitution from intervals, and back-substitution throughout
    (CROWN); see ``bounds``.

    What these leave open of a ReLU net under Linf, ``nodes`` above 0 searches by branch and bound,
    sample by sample in 64 bits, unless a short PGD breaks it. On two hidden layers of 128 units
    most samples need fewer than 100 nodes, and a thousand take one or two seconds. Of other
    activations, maxima and sets nothing more is proven than by bounds alone.

    Args:
        model: images (B, *shape) in [0, 1] to logits (B, K), taken in eval mode; left as it was.
        x: images (N, *shape) in [0, 1].
        y: true classes (N,).
        perturbation: Linf(), L2() or L1(); changed images stay in [0, 1].
        eps: one number or one per sample (N,). ``perturbation.limit(eps)`` covers what passes as
            legal in spite of rounding, too.
        batch_size: most samples at once; what fits into some 300 MB by default.
        nodes: most nodes of the search for each class of a sample; 0 for no search.

    Returns:
        The answer on the device of ``x``.

    Raises:
        NoBoundsError: ``reason`` has a reason.
        ValueError, TypeError: an argument is out of its range or of the wrong kind.

    """
    if nodes < 0:
        raise ValueError(f"nodes must be at least 0; got {nodes}")
    network, region, labels = _problem(model, x, y, perturbation, eps, batch_size)
    right = _right(model, region.x.view(x.shape), labels, batch_size)
    proven, index = torch.zeros_like(right), right.nonzero().squeeze(1)
    precision = region.x.dtype
    for method in _methods(network):
        found = _bound(method, network, region.take(index), labels[index], batch_size)
        sure = _exceed(found, labels[index], _CLEAR[precision])
        near = _exceed(found, labels[index], -_CLEAR[precision]) & ~sure
        proven[index[sure]] = True
        index, close = index[~sure], index[near]
    if precision != torch.float64 and len(close):
        fine = read(model, tuple(x.shape[1:]), torch.float64)
        found = _bound(method, fine, region.take(close).double(), labels[close], batch_size)
        proven[close] = _exceed(found, labels[close], _FINE)
    if nodes:
        left = (right & ~proven).nonzero().squeeze(1)
        proven[left] = _searched(model, tuple(x.shape[1:]), region.take(left), labels[left], nodes)
    return proven.to(x.device)


def lower_margins(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    perturbation: Perturbation,
    eps: float | Tensor,
    batch_size: int | None = None,
) -> Tensor:
    """Return lower bounds of the margins z_y - z_t to all classes t over the set, (N, K).

    By back-substitution throughout, in the precision of the model and up to its rounding; exact
    for a linear model. Arguments and errors are those of ``certify``. For t = y it is 0.
    """
    network, region, labels = _problem(model, x, y, perturbation, eps, batch_size)
    return _bound(_methods(network)[-1], network, region, labels, batch_size).low.to(x.device)


def reason(model: nn.Module, perturbation: Perturbation, shape: Shape) -> str | None:
    """Say why ``certify`` cannot bound a model of images of ``shape``; None if it can.

    The shape is that of one image. Where it is a layer, it is named with its place.
    """
    try:
        _region(perturbation)
        read(model, shape)
    except NoBoundsError as error:
        return str(error)
    return None


def price(model: nn.Module, shape: Shape) -> int:
    """Return how many rows of back-substitution an image of ``shape`` takes at most.

    It is the width of all hidden layers that need more than intervals, and the number of classes.
    Raises NoBoundsError where there are no bounds.
    """
    network = read(model, shape)
    return sum(network.searched) + network.classes


def _problem(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    perturbation: Perturbation,
    eps: float | Tensor,
    batch_size: int | None,
) -> tuple[Network, Region, Tensor]:
    """Check the arguments and bring them to the model's device, in its precision."""
    kind = _region(perturbation)
    checks.images(x)
    checks.labels("y", y, x)
    checks.positive("batch_size", batch_size)
    radius = torch.as_tensor(eps, dtype=torch.float64).detach()
    if radius.shape not in ((), (len(x),)) or not ((radius >= 0) & radius.isfinite()).all():
        raise ValueError(f"eps must be finite and at least 0, one number or ({len(x)},); got {eps}")
    network = read(model, tuple(x.shape[1:]))
    like = network.like
    labels = y.to(like.device, torch.int64)
    checks.classes(Criterion(labels), network.classes)
    flat = checks.inside_box(x, perturbation).flatten(1).to(like)
    return network, kind(flat, radius.expand(len(x)).to(like)), labels


def _region(perturbation: Perturbation) -> type[Region]:
    kind = REGIONS.get(type(perturbation))
    if kind is None:
        known = ", ".join(one.__name__ for one in REGIONS)
        raise NoBoundsError(
            f"the set {type(perturbation).__name__} has no bounds; they are known for {known}"
        )
    return kind


def _right(model: nn.Module, x: Tensor, y: Tensor, batch_size: int | None) -> Tensor:
    """Which samples are right as they are, (N,)."""
    with frozen(model), torch.no_grad(), ieee(x.device):
        parts = zip(*(whole.split(batch_size or _AT_ONCE) for whole in (x, y)), strict=True)
        answers = [(model(images), labels) for images, labels in parts]
    return torch.cat([logits.argmax(1) == labels for logits, labels in answers])


def _methods(network: Network) -> list[Method]:
    """The methods from cheap to dear, without those that cannot tell more than one before."""
    if not network.hidden:
        return [_half_substituted]
    return [_propagated, _half_substituted, *([_substituted] if network.searched else [])]


def _propagated(network: Network, region: Region, y: Tensor) -> Margins:
    return interval_margins(network, y, by_intervals(network, region))


def _half_substituted(network: Network, region: Region, y: Tensor) -> Margins:
    return margins(network, region, y, by_intervals(network, region))


def _substituted(network: Network, region: Region, y: Tensor) -> Margins:
    return margins(network, region, y, by_substitution(network, region))


def _bound(
    method: Method, network: Network, region: Region, y: Tensor, batch_size: int | None
) -> Margins:
    """Run a method on as many samples at once as memory allows."""
    if not len(y):
        nothing = region.x.new_empty(0, network.classes)
        return Margins(nothing, nothing)
    rows = 2 * max(network.searched) if method is _substituted else network.classes
    fits = max(1, BUDGET // (rows * network.widest))
    with torch.no_grad(), ieee(y.device):
        found = [
            method(network, region.take(part), y[part])
            for part in torch.arange(len(y), device=y.device).split(min(fits, batch_size or fits))
        ]
    return Margins(*map(torch.cat, zip(*found, strict=True)))


def _searched(model: nn.Module, shape: Shape, region: Region, y: Tensor, nodes: int) -> Tensor:
    """Which samples a search proves, (B,); what PGD breaks need not be searched."""
    proven, fine = torch.zeros_like(y, dtype=torch.bool), read(model, shape, torch.float64)
    if not len(y) or not exhaustive.fits(fine, region):
        return proven
    broken = _TRY.run(model, region.x.view(-1, *shape), y, eps=region.eps).success
    left = (~broken).nonzero().squeeze(1)
    share = _CLEAR[torch.float64] if region.x.dtype == torch.float64 else _FINE
    with ieee(y.device):
        proven[left] = exhaustive.prove(fine, region.take(left).double(), y[left], nodes, share)
    return proven


def _exceed(found: Margins, y: Tensor, share: float) -> Tensor:
    """Which samples have all margins above a share of their scale, (B,)."""
    return (found.low > share * found.scale).scatter(1, y.unsqueeze(1), True).all(1)
