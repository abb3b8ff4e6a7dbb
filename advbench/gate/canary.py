"""A model weakened on purpose, which a gate that works must fail."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from advbench.bench.plan import Cell, Victim
from advbench.bench.run import Runner
from advbench.config import GateSection
from advbench.gate.baseline import BaselineError
from advbench.gate.gate import Report, gate, quick
from advbench.gate.side import Side, measure
from advbench.gate.verdict import Verdict, overall

_SCALES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)
"""Standard deviations of the noise on the weights, in units of that of each tensor."""


@dataclass(frozen=True)
class Canary:
    """What a gate says of a weakened model; `scale` is how much noise its weights were given."""

    report: Report
    scale: float

    @property
    def failed(self) -> bool:
        """Whether the gate has failed it, as it must."""
        return overall([one.verdict for one in self.report.comparisons]) is Verdict.FAIL


def canary(
    baseline: Side, cells: Sequence[Cell], terms: GateSection, runner: Runner, seed: int = 0
) -> Canary:
    """Put models through the gate whose weights got just enough noise to be clearly worse.

    Raises:
        BaselineError: as `gate`, or no noise makes the models clearly worse, as where nothing is
            robust to begin with.

    """
    for scale in _SCALES:
        weak = list(weakened(cells, scale, seed))
        fresh = Runner(runner.batch_size, runner.device)
        if quick(baseline, weak, terms, fresh).verdict is Verdict.FAIL:
            now = measure(weak, Runner(runner.batch_size, runner.device, runner.progress))
            return Canary(gate(baseline, now, weak, terms, {}, runner.batch_size), scale)
    raise BaselineError(
        "no noise on the weights made the models clearly worse: they have too little to lose, or "
        "there are too few samples to see it. Gate at a smaller eps, or with more samples."
    )


def weakened(cells: Sequence[Cell], scale: float, seed: int) -> Iterator[Cell]:
    """Yield the cells with noise on the weights of their victims, the same for the same seed."""
    victims: dict[str, Victim] = {}
    for cell in cells:
        label = cell.victim.label
        if label not in victims:
            if not isinstance(cell.victim.model, nn.Module):
                raise BaselineError(f"{label}: only a torch.nn.Module has weights to weaken")
            victims[label] = replace(
                cell.victim,
                model=noisy(cell.victim.model, scale, seed),
                sha256=f"{cell.victim.sha256} with noise {scale:g} of seed {seed}",
            )
        yield replace(cell, victim=victims[label])


def noisy(model: nn.Module, scale: float, seed: int) -> nn.Module:
    """Return a copy of a model with Gaussian noise on every parameter, `scale` times its spread."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            spread = parameter.std(correction=0) if parameter.numel() > 1 else parameter.abs()
            parameter.add_(scale * spread * noise)
    return model
