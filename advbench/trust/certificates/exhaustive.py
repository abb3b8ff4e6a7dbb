"""Proofs by exhaustion for small ReLU nets: branch and bound over which units are on.

Source: Wang, Zhang, Xu, Lin, Jana, Hsieh, Kolter, "Beta-CROWN: efficient bound propagation with
per-neuron split constraints for neural network robustness verification", NeurIPS 2021,
arXiv:2103.06624, with the bounds of hidden layers as back-substitution leaves them at the root. A
unit is chosen by what its chord gives away (Bunel et al., "Branch and bound for piecewise linear
neural network verification", JMLR 2020, arXiv:1909.06588), at its largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advbench.trust.certificates.bounds import Margins, added, by_substitution, differences, margins
from advbench.trust.certificates.curves import Rectifier
from advbench.trust.certificates.network import Network
from advbench.trust.certificates.regions import Cube, Region
from advbench.trust.certificates.rows import Elementwise, Interval, Lines, Rows

_AT_ONCE = 128
_STEPS = 12
_MORE_STEPS = 100
_RATE = 0.2  # of Adam; slopes lie in [0, 1]


def fits(network: Network, region: Region) -> bool:
    """Say whether the search applies: ReLU is the only activation, and the region is a box.

    Without any activation there is nothing to search: bounds are exact.
    """
    relu = all(stage.activations == (Rectifier(),) for stage in network.hidden)
    return isinstance(region, Cube) and bool(network.hidden) and relu


def prove(network: Network, region: Region, y: Tensor, nodes: int, share: float) -> Tensor:
    """Return which samples no image of the region can fool, (B,) bool.

    The network and the region have to fit and to be of 64 bits; y is (B,). A margin is proven
    where its bound exceeds ``share`` of its scale. Classes that back-substitution leaves open are
    searched one by one, the least margin first, each with at most ``nodes`` nodes, until one is
    not proven.
    """
    samples = [slice(row, row + 1) for row in range(len(y))]
    found = [_prove(network, region.take(one), y[one], nodes, share) for one in samples]
    return torch.tensor(found, dtype=torch.bool, device=y.device)


def _prove(network: Network, region: Region, y: Tensor, nodes: int, share: float) -> bool:
    """Prove one sample."""
    with torch.no_grad():
        hidden = by_substitution(network, region)
        low, scale = (one[0] for one in margins(network, region, y, hidden))
        every = differences(network, y)
        order = low.argsort(stable=True)
        rivals = [int(one) for one in order if one != y and not low[one] > share * scale[one]]
        return all(
            Search(network, region, hidden, _row(every, rival), share).closes(nodes)
            for rival in rivals
        )


def _row(rows: Rows, place: int) -> Rows:
    return Rows(*(one[:, place : place + 1] for one in rows if one is not None))


class Nodes(NamedTuple):
    """Parts of the region, and the bound that each was given last; all (B, units of all layers)."""

    sign: Tensor  # 1 where the unit is on, -1 where it is off, 0 where it may be both
    slope: Tensor  # of the line below a unit that may be both, 0 to 1
    price: Tensor  # on the sign, at least 0: the multiplier of what the part demands

    def take(self, index: Tensor | slice) -> "Nodes":
        """Select nodes."""
        return Nodes(*(one[index] for one in self))

    def before(self, others: "Nodes") -> "Nodes":
        """Put these before the others."""
        return Nodes(*(torch.cat(both) for both in zip(self, others, strict=True)))


@dataclass(frozen=True, eq=False)
class Search:
    """The search for an image of one sample whose margin is not above 0."""

    network: Network
    region: Region  # of one sample
    hidden: Sequence[Interval]
    margin: Rows  # (1, 1, n), in terms of what comes into the last stage
    share: float

    def closes(self, nodes: int) -> bool:
        """Say whether at most so many nodes prove that there is none."""
        left = self._root()
        while len(left.sign):
            some, left = left.take(slice(_AT_ONCE)), left.take(slice(_AT_ONCE, None))
            nodes -= len(some.sign)
            if nodes < 0:
                return False
            some = self._open(some, _STEPS)
            if len(some.sign):
                gain, unit = self._bound(some)[1].max(1)
                decided = gain == 0  # nothing is left to split, and the bound can only be climbed
                if decided.any() and len(self._open(some.take(decided), _MORE_STEPS).sign):
                    return False
                left = _halves(some.take(~decided), unit[~decided]).before(left)
        return True

    def _root(self) -> Nodes:
        low, high = (torch.cat(ends, 1) for ends in zip(*self.hidden, strict=True))
        return Nodes(torch.zeros_like(low), (high >= -low).to(low), torch.zeros_like(low))

    def _open(self, nodes: Nodes, steps: int) -> Nodes:
        """Return what stays open of the nodes, each with the best bound of a climb.

        Whatever the slopes and prices are, the bound holds.
        """
        slope, price = (one.clone().requires_grad_() for one in nodes[1:])
        climb = torch.optim.Adam([slope, price], _RATE, maximize=True)
        best, most = nodes, torch.full_like(nodes.sign[:, :1], -torch.inf)
        open_ = torch.ones_like(most, dtype=torch.bool)
        for step in range(steps):
            climb.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            with torch.enable_grad():
                now = self._bound(Nodes(nodes.sign, slope, price))[0]
                slope.grad, price.grad = torch.autograd.grad(now.low.sum(), [slope, price])
            better = now.low > most
            most = torch.where(better, now.low.detach(), most)
            best = Nodes(
                nodes.sign,
                torch.where(better, slope.detach(), best.slope),
                torch.where(better, price.detach(), best.price),
            )
            open_ &= ~(now.low > self.share * now.scale)
            if not open_.any():
                break
            climb.step()
            with torch.no_grad():
                slope.clamp_(0, 1)
                price.clamp_(min=0)
        return best.take(open_.squeeze(1))

    def _bound(self, nodes: Nodes) -> tuple[Margins, Tensor]:
        """Return the margin on each node, (B, 1), and what each unit gives away, (B, units)."""
        count = len(nodes.sign)
        rows = Rows(*(one.expand(count, *one.shape[1:]) for one in self.margin if one is not None))
        widths = [one.low.shape[1] for one in self.hidden]
        parts = [
            Nodes(*part) for part in zip(*(one.split(widths, 1) for one in nodes), strict=True)
        ]
        gains = []
        for stage, bounds, part in reversed(
            list(zip(self.network.hidden, self.hidden, parts, strict=True))
        ):
            lines = _lines(bounds, part)
            gains.append(_gain(rows.matrix.detach().squeeze(1), lines))
            rows = Elementwise(lines).back(rows)
            demand = (part.sign * part.price).unsqueeze(1)
            rows = stage.back(rows._replace(matrix=rows.matrix - demand))
        region = self.region.take(torch.zeros(count, dtype=torch.int64, device=nodes.sign.device))
        least = region.least(rows.matrix, exact=True)
        return added(rows, least, region.box), torch.cat(gains[::-1], 1)


def _lines(bounds: Interval, part: Nodes) -> Lines:
    """The lines below and above ReLU on each node, (B, n)."""
    low = torch.where(part.sign > 0, bounds.low.clamp_min(0), bounds.low)
    high = torch.where(part.sign < 0, bounds.high.clamp_max(0), bounds.high)
    both = (low < 0) & (high > 0)
    sure = (low >= 0).to(low)
    chord = torch.where(both, high / torch.where(both, high - low, 1), sure)
    lift = torch.where(both, -low * chord, 0)
    return Lines(torch.where(both, part.slope, sure), torch.zeros_like(lift), chord, lift)


def _gain(matrix: Tensor, lines: Lines) -> Tensor:
    """What each chord gives away at 0; above 0 for every unit that may be both, and only there."""
    lift = lines.high_constant
    return torch.where(lift > 0, lift * (-matrix).clamp_min(torch.finfo(lift.dtype).eps), 0)


def _halves(nodes: Nodes, unit: Tensor) -> Nodes:
    """Split each node by the sign of a unit."""
    place = unit.unsqueeze(1)
    on, off = (nodes._replace(sign=nodes.sign.scatter(1, place, sign)) for sign in (1.0, -1.0))
    return on.before(off)
