"""Small models, samples and faulty attacks for the tests of the bench."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advbench.attacks import Attack, Linf
from advbench.attacks.attack import Task
from advbench.attacks.losses import CrossEntropy, Loss
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import Record
from advbench.bench.plan import Cell, Selection, Victim
from advbench.data import Samples


class Plane(nn.Module):
    """Two classes divided by the mean of two pixels: class 1 above one half."""

    def __init__(self, slope: float = 2.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 2)."""
        self.seen.append(len(x))
        lead = self.slope * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-lead, lead], 1)


def samples(values: Sequence[float], y: Sequence[int]) -> Samples:
    """Return samples of two equal pixels."""
    x = torch.tensor(values).reshape(-1, 1, 1, 1).repeat(1, 1, 1, 2)
    return Samples("fake", "test", x, torch.tensor(y), torch.arange(len(y)) + 100, ("0", "1"))


def cell(
    attack: Attack,
    eps: tuple[float, ...] = (0.1,),
    values: Sequence[float] = (0.45, 0.3, 0.55, 0.9, 0.9),
    y: Sequence[int] = (0, 0, 1, 1, 0),
    model: nn.Module | None = None,
    seed: int = 0,
    name: str = "fake",
) -> Cell:
    """Return a cell over `Plane`: of the five default samples the last is wrong from the start."""
    chosen = samples(values, y)
    victim = Victim("plane", model or Plane(), "0" * 64)
    return Cell(victim, Selection("fake", chosen, lambda count: chosen), name, attack, eps, seed)


@dataclass(frozen=True, kw_only=True)
class Push(Attack):
    """Moves every pixel by `gain` eps towards the other class, without asking the model.

    `fault` spoils the record: "claim" believes everything a success; the others raise.
    """

    access: ClassVar = "none"
    steps: ClassVar[int] = 1
    restarts: ClassVar[int] = 1
    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    gain: float = 1.0
    fault: str = ""

    @property
    def queries(self) -> int:
        """No query."""
        return 0

    @classmethod
    def examples(cls) -> tuple["Push", ...]:
        """Return instances."""
        return cls(), cls(gain=0.5)

    def find(self, task: Task, record: Record | None = None) -> Record:
        """Answer without a search."""
        if self.fault == "raise":
            raise ZeroDivisionError("a fault of the attack")
        if self.fault == "exit":
            raise SystemExit(3)
        if self.fault == "memory" and task.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        found = record if record is not None else Record.blank(self.perturbation.zero(task.x))
        sign = torch.where(task.criterion.y == 0, 1.0, -1.0) * task.eps * self.gain
        p = sign.reshape(-1, 1, 1, 1).expand_as(task.x).contiguous()
        if self.fault == "nan":
            p = p * torch.nan
        if self.fault == "shape":
            p = p[:, :, :, :1].repeat(1, 1, 1, 3)
        claimed = torch.full_like(found.success, self.fault == "claim")
        return found._replace(p=p, success=claimed, forwards=found.forwards + 7)
