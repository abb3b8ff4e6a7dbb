"""Which samples of a cell are proven robust, before anything attacks them."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.attacks.perturbations import L1, L2, Linf
from advbench.bench.plan import Cell
from advbench.defenses.randomized_smoothing import Smoothed
from advbench.trust.certificates import certify, price, reason, smoothed_eps, smoothed_radius

CHEAP = 300
"""The price, in rows of back-substitution per sample, up to which `certify = "auto"` pays it."""


class ContradictionError(RuntimeError):
    """A sample is proven robust and broken: one of the two, proof or attack, is wrong."""


class Proofs(NamedTuple):
    """The largest eps of a cell up to which each sample (N,) is proven robust, and the time taken.

    It is -1 without any proof, and for samples that are wrong as they are.
    """

    eps: NDArray[np.float64]
    seconds: float

    def at(self, eps: float, index: Tensor) -> Tensor:
        """Which of the samples at `index` (M,) are proven at eps, (M,)."""
        return torch.from_numpy(self.eps[index.numpy()] >= eps)


def proven(cell: Cell, correct: Tensor, batch_size: int) -> Proofs | None:
    """Prove what can be proven of the samples that are `correct` (N,).

    None where nobody looks: `when` says so, the model or the perturbation set has no bounds, or
    they are not cheap. A proof covers all that the judge accepts as legal, which is more than eps
    by a rounding.
    """
    started = time.perf_counter()
    found = _proven(cell, correct, batch_size)
    return None if found is None else Proofs(found, time.perf_counter() - started)


def settle(cell: Cell, rows: dict[str, Any], proofs: Proofs | None, random: bool) -> None:
    """Add what is proven to the rows, and `standing`: what is known of each sample at `cell.scale`.

    That is `wrong` as it is, `broken`, `certified`, or `gap`: neither broken nor proven. The proof
    of a smoothed model is about its vote, so of a random model both can be true.

    Raises ContradictionError, naming the sample, where one is proven robust and broken.
    """
    if proofs is None:
        return
    rows["certified_eps"] = proofs.eps
    limit = cell.attack.perturbation.limit(torch.from_numpy(proofs.eps)).numpy()
    both = rows["success"] & (rows["size"] <= limit)
    if both.any() and not random:
        row = int(both.argmax())
        raise ContradictionError(
            f"sample {rows['index'][row]} is proven robust up to {proofs.eps[row]:g} and broken by "
            f"a change of size {rows['size'][row]:g}: the certificate or the judge is wrong, and "
            "neither number can be trusted. Please report it."
        )
    known = np.full(len(proofs.eps), "gap", dtype="<U9")
    known[proofs.eps >= cell.scale] = "certified"
    known[rows["success"]] = "broken"
    known[~rows["clean_correct"]] = "wrong"
    rows["standing"] = known


def _proven(cell: Cell, correct: Tensor, batch_size: int) -> NDArray[np.float64] | None:
    samples, model, change = cell.selection.samples, cell.victim.model, cell.attack.perturbation
    if cell.certify.when == "never" or samples.renderer is not None:
        return None
    if not isinstance(model, nn.Module):
        return None
    if isinstance(model, Smoothed):
        return _smoothed(cell, model, correct, batch_size)
    shape = tuple(samples.x.shape[1:])
    if reason(model, change, shape) is not None:
        return None
    if cell.certify.when == "auto" and price(model, shape) > CHEAP:
        return None
    found = np.full(len(samples), -1.0)
    open_ = correct.clone()
    for eps in sorted(cell.eps):  # what is not proven is not proven in a larger ball
        index = open_.nonzero().squeeze(1)
        limit = change.limit(torch.full((len(index),), eps, dtype=torch.float64))
        x, y, nodes = samples.x[index], samples.y[index], cell.certify.nodes
        sure = certify(model, x, y, change, limit, batch_size, nodes)
        found[index[sure].numpy()] = eps
        open_[index[~sure]] = False
    return found


def _smoothed(
    cell: Cell, model: Smoothed, correct: Tensor, batch_size: int
) -> NDArray[np.float64] | None:
    """What is proven of the vote of a smoothed model, asked infinitely often."""
    change, samples = cell.attack.perturbation, cell.selection.samples
    if cell.certify.when != "always" or not isinstance(change, Linf | L2 | L1):
        return None
    radius = smoothed_radius(
        model,
        samples.x,
        samples.y,
        ids=samples.ids,
        seed=cell.seed,
        n=cell.certify.draws,
        alpha=cell.certify.alpha,
        batch_size=batch_size,
    )
    covered = smoothed_eps(radius, change, tuple(samples.x.shape[1:]))
    found = np.full(len(samples), -1.0)
    for eps in sorted(cell.eps):
        limit = change.limit(torch.tensor([eps], dtype=torch.float64))
        found[(correct & (covered >= limit)).numpy()] = eps
    return found
