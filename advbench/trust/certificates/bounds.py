"""Lower bounds of the margins of all classes, from cheap and loose to dear and tight.

Sources: Gowal et al., "On the effectiveness of interval bound propagation for training verifiably
robust models", 2018, arXiv:1810.12715 (intervals, with the last layer taken into the margins);
Zhang, Weng, Chen, Hsieh, Daniel, "Efficient neural network robustness certification with general
activation functions", NeurIPS 2018, arXiv:1811.00866 (back-substitution).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from advbench.trust.certificates.network import BUDGET, Network
from advbench.trust.certificates.regions import Region
from advbench.trust.certificates.rows import Interval, Rows, Step, dot, least_in_box


class Margins(NamedTuple):
    """Lower bounds of the margins z_y - z_t, (B, K), and the scale of their rounding, (B, K).

    The scale is the sum of the magnitudes of all that was added up. For t = y the bound is 0.
    """

    low: Tensor
    scale: Tensor


def by_intervals(network: Network, region: Region) -> list[Interval]:
    """Return bounds of what each hidden stage passes to its activations, by intervals alone.

    In the first stage the norm of the change is used as well.
    """
    hidden: list[Interval] = []
    given = region.box
    for stage in network.hidden:
        bounds = stage.interval(given)
        hidden.append(bounds if hidden else region.narrow(stage, bounds))
        given = stage.after(hidden[-1])
    return hidden


def by_substitution(network: Network, region: Region) -> list[Interval]:
    """Return the same, with back-substitution for what intervals leave open."""
    hidden: list[Interval] = []
    relaxed: list[list[Step]] = []
    given = region.box
    for stage in network.hidden:
        bounds = stage.interval(given)
        if not hidden:
            bounds = region.narrow(stage, bounds)
        if hidden or not stage.exact:
            bounds = _searched(network, region, relaxed, bounds)
        hidden.append(bounds)
        relaxed.append(stage.relax(bounds))
        given = stage.after(bounds)
    return hidden


def margins(network: Network, region: Region, y: Tensor, hidden: Sequence[Interval]) -> Margins:
    """Return the margins by back-substitution, given bounds of the hidden stages.

    They are exact where there is no hidden stage.
    """
    relaxed = [stage.relax(one) for stage, one in zip(network.hidden, hidden, strict=True)]
    return _substituted(network, region, relaxed, differences(network, y), exact=True)


def interval_margins(network: Network, y: Tensor, hidden: Sequence[Interval]) -> Margins:
    """Return the margins from the bounds of the last hidden stage alone."""
    rows = differences(network, y)
    box = network.hidden[-1].after(hidden[-1])
    return added(rows, least_in_box(rows.matrix, box), box)


def differences(network: Network, y: Tensor) -> Rows:
    """Every margin in terms of what comes into the last stage."""
    last = network.stages[-1]
    unit = torch.eye(network.classes, dtype=last.like.dtype, device=last.like.device)
    return last.back(Rows.of(unit[y].unsqueeze(1) - unit, measured=True))


def _searched(
    network: Network, region: Region, relaxed: Sequence[list[Step]], bounds: Interval
) -> Interval:
    """Improve the bounds of the stage behind the relaxed ones, where it matters."""
    stage = network.hidden[len(relaxed)]
    needed = stage.needs(bounds)
    most = int(needed.sum(1).max())
    units = needed.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    low, high = bounds.low.clone(), bounds.high.clone()
    at_once = max(1, BUDGET // (2 * len(units) * network.widest))
    for part in units.split(at_once, dim=1) if most else ():
        matrix, constant, _ = stage.rows(part)
        both = Rows(torch.cat([matrix, -matrix], 1), torch.cat([constant, -constant], 1))
        least = _substituted(network, region, relaxed, both, exact=False).low
        above, below = least.chunk(2, dim=1)
        asked = needed.gather(1, part)  # of some samples, fewer than of others
        old_low, old_high = low.gather(1, part), high.gather(1, part)
        low.scatter_(1, part, torch.maximum(old_low, above).where(asked, old_low))
        high.scatter_(1, part, torch.minimum(old_high, -below).where(asked, old_high))
    return Interval(low, high)


def _substituted(
    network: Network, region: Region, relaxed: Sequence[list[Step]], rows: Rows, exact: bool
) -> Margins:
    """Bound rows of what comes out of the relaxed stages."""
    done = network.hidden[: len(relaxed)]
    for stage, steps in zip(reversed(done), reversed(relaxed), strict=True):
        for step in reversed(steps):
            rows = step.back(rows)
        rows = stage.back(rows)
    return added(rows, region.least(rows.matrix, exact), region.box)


def added(rows: Rows, least: Tensor, box: Interval) -> Margins:
    """Add what the rows are at least over the box to their constants, and the scale up."""
    low = rows.constant + least
    if rows.size is None:
        return Margins(low, low)
    largest = torch.maximum(box.low.abs(), box.high.abs())
    return Margins(low, rows.size + dot(rows.matrix.abs(), largest))
