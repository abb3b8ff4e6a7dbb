"""Proofs by exhaustion: branch and bound over which units of a small ReLU net are on.

Source: Tjeng, Xiao, Tedrake, "Evaluating robustness of neural networks with mixed integer
programming", ICLR 2019, arXiv:1711.07356, with the bounds of back-substitution in place of their
progressive ones, and as a question of yes or no: is there an image whose margin is not above 0?
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, sparse
from torch import Tensor

from advbench.trust.certificates.affine import Dense, Scale
from advbench.trust.certificates.bounds import Margins, by_substitution, margins
from advbench.trust.certificates.curves import Rectifier
from advbench.trust.certificates.network import Network
from advbench.trust.certificates.regions import Cube, Region
from advbench.trust.certificates.rows import Interval

# Every row is loosened by this share of the magnitudes that it adds up: ten times the coarsest
# tolerance of the solver, and far above the rounding of bounds, and of a model of 32 bits.
_SLACK = 1e-5
_INFEASIBLE = 2  # what scipy calls it

Array = NDArray[np.float64]


def fits(network: Network, region: Region) -> bool:
    """Say whether there is an encoding: dense maps with ReLU between them, and a box of images."""
    maps = [one for stage in network.stages for one in stage.maps]
    return (
        isinstance(region, Cube)
        and all(isinstance(one, Dense | Scale) for one in maps)
        and all(stage.activations == (Rectifier(),) for stage in network.hidden)
    )


def prove(network: Network, region: Region, y: Tensor, nodes: int) -> Tensor:
    """Return which samples no image of the region can fool, (B,) bool.

    The network and the region have to fit and to be of 64 bits; y is (B,). Classes that
    back-substitution leaves open are asked for one by one, the least margin first, each with at
    most ``nodes`` nodes of branch and bound, until one is not proven.
    """
    samples = (slice(row, row + 1) for row in range(len(y)))
    found = [_prove(network, region.take(one), y[one], nodes) for one in samples]
    return torch.tensor(found, dtype=torch.bool, device=y.device)


def _prove(network: Network, region: Region, y: Tensor, nodes: int) -> bool:
    """Prove one sample."""
    with torch.no_grad():
        hidden = by_substitution(network, region)
        found = margins(network, region, y, hidden)
        layers = [_layer(network, n) for n in range(len(network.stages))]
    rivals = _open(found, int(y))
    if not rivals:
        return True
    problem, last = Problem.of(region.box), layers.pop()
    for layer, bounds in zip(layers, hidden, strict=True):
        problem = problem.behind(layer, *_one(bounds))
    return all(problem.excludes(last, int(y), rival, nodes) for rival in rivals)


def _open(found: Margins, y: int) -> list[int]:
    """The classes whose margin may be 0 or less, the least margin first."""
    low, scale = found.low[0], found.scale[0]
    order = [int(rival) for rival in low.argsort(stable=True)]
    return [one for one in order if one != y and low[one] <= _SLACK * scale[one]]


class Layer(NamedTuple):
    """A stage's maps as a matrix (outputs, inputs) and an offset (outputs,)."""

    weight: Array
    bias: Array


def _layer(network: Network, place: int) -> Layer:
    parts = list(network.stages[place].blocks())
    return Layer(
        torch.cat([part.matrix[0] for part in parts]).cpu().numpy(),
        torch.cat([part.constant[0] for part in parts]).cpu().numpy(),
    )


def _one(bounds: Interval) -> tuple[Array, Array]:
    """The bounds of the only sample."""
    low, high = (end[0].cpu().numpy() for end in bounds)
    return low, high


@dataclass(frozen=True, eq=False)
class Problem:
    """What the first layers can answer, as linear rows over variables in [0, 1].

    Each variable is a pixel, the output of a unit as a share of its upper bound, or 1 where a unit
    is on and 0 where it is off. So are all coefficients at most about 1, and what the solver drops
    as tiny, or lets pass within its tolerances, is small next to the slack.
    """

    rows: sparse.csr_array  # (R, V): lower <= rows @ variables <= upper
    lower: Array
    upper: Array
    least: Array  # the range of each variable, (V,)
    most: Array
    whole: Array  # 1 where it is 0 or 1, (V,)
    place: NDArray[np.intp]  # of the outputs of the last layer that are not always 0, (U,)
    unit: NDArray[np.intp]  # which outputs those are
    top: Array  # and their upper bounds

    @classmethod
    def of(cls, box: Interval) -> "Problem":
        """Return the problem of the images alone."""
        low, high = _one(box)
        pixels, none = np.arange(len(low)), np.zeros(0)
        rows = sparse.csr_array((0, len(low)))
        one, zero = np.ones(len(low)), np.zeros(len(low))
        return cls(rows, none, none, low, high, zero, pixels, pixels, one)

    def behind(self, layer: Layer, low: Array, high: Array) -> "Problem":
        """Append a layer and its ReLU; low and high bound what comes into the ReLU."""
        weight, bias = layer.weight[:, self.unit] * self.top, layer.bias
        size = np.abs(weight).sum(1) + np.abs(bias)
        low, high = low - _SLACK * size, high + _SLACK * size
        live = (high > 0).nonzero()[0]
        weight, bias, size, low, top = (one[live] for one in (weight, bias, size, low, high))
        free = (low < 0).nonzero()[0]
        old, new, switches = len(self.least), len(live), len(free)
        total = old + new + switches

        into = _spread(-weight / size[:, None], self.place, total)  # output - what comes in
        out = sparse.csr_array((top / size, (range(new), range(old, old + new))), (new, total))
        above = into + out
        switch = sparse.csr_array(
            (np.ones(switches), (range(switches), range(old + new, total))), (switches, total)
        )
        share = (-low / size)[free]
        below = above[free] + switch.multiply(share[:, None]).tocsr()
        cut = sparse.csr_array(
            (np.ones(switches), (range(switches), old + free)), (switches, total)
        )
        offset = bias / size
        ceiling = np.where(low < 0, np.inf, offset + _SLACK)
        return Problem(
            sparse.vstack([_widened(self.rows, total), above, below, cut - switch]).tocsr(),
            np.concatenate([self.lower, offset - _SLACK, np.full(2 * switches, -np.inf)]),
            np.concatenate(
                [self.upper, ceiling, offset[free] + share + _SLACK, np.zeros(switches)]
            ),
            np.concatenate([self.least, np.zeros(new + switches)]),
            np.concatenate([self.most, np.ones(new + switches)]),
            np.concatenate([self.whole, np.zeros(new), np.ones(switches)]),
            np.arange(old, old + new),
            live,
            top,
        )

    def excludes(self, layer: Layer, y: int, rival: int, nodes: int) -> bool:
        """Say whether it is proven that the layer never puts the rival as high as y."""
        weight, bias = layer.weight[:, self.unit] * self.top, layer.bias
        size = np.abs(weight[[y, rival]]).sum() + np.abs(bias[[y, rival]]).sum()
        size = max(size, np.finfo(np.float64).tiny)
        margin = _spread((weight[[y]] - weight[[rival]]) / size, self.place, len(self.least))
        answer = optimize.milp(
            np.zeros(len(self.least)),
            constraints=[
                optimize.LinearConstraint(self.rows, self.lower, self.upper),
                optimize.LinearConstraint(margin, -np.inf, (bias[rival] - bias[y]) / size + _SLACK),
            ],
            bounds=optimize.Bounds(self.least, self.most),
            integrality=self.whole,
            options={"node_limit": nodes},
        )
        return bool(answer.status == _INFEASIBLE)


def _spread(matrix: Array, place: NDArray[np.intp], total: int) -> sparse.csr_array:
    """Put the columns of a matrix where their variables are."""
    found = sparse.coo_array(matrix)
    row, column = found.coords
    return sparse.csr_array((found.data, (row, place[column])), (len(matrix), total))


def _widened(rows: sparse.csr_array, total: int) -> sparse.csr_array:
    """Add columns of zeros."""
    return sparse.csr_array((rows.data, rows.indices, rows.indptr), (rows.shape[0], total))
