"""The smallest eps at which an attack succeeds, per sample."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.attack import Attack, Task
from advbench.attacks.gradient.pgd import FGSM, PGD
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import Access, Finds, Record, keep_better


@final
@dataclass(frozen=True, kw_only=True)
class MinimumEps(Attack):
    """Bisect eps per sample with an attack that searches inside a set.

    Until the first success each round asks at half the eps of the one before, starting with the
    upper bound: an attack of few long steps may fail there and succeed nearer. Afterwards each
    success lowers the bound to the size it found, and each failure raises the lower one. The
    answer is the smallest success, so it is an upper bound on the true distance whatever the
    attack misses. Its queries are at most ``rounds`` times those of the attack inside.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"

    attack: Attack = PGD()
    rounds: int = 12

    @property
    def perturbation(self) -> Perturbation:
        """The set of the attack inside."""
        return self.attack.perturbation

    @property
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""
        return self.rounds * self.attack.queries

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(attack=PGD(steps=10)), cls(attack=FGSM(), rounds=8)

    def find(self, task: Task, record: Record) -> Record:
        """Bisect between 0 and ``task.eps``."""
        low, high = torch.zeros_like(task.eps), task.eps
        inner = task._replace(stop="success", progress=None, finds="inside")
        for round_ in range(self.rounds):
            eps = torch.where(record.success, (low + high) / 2, task.eps / 2**round_)
            fresh = Record.blank(self.perturbation.zero(task.x)).with_costs_of(record)
            new = self.attack.find(inner._replace(eps=eps), fresh)
            size = self.perturbation.size(task.x, new.p)
            new = new._replace(size=torch.where(new.success, size, torch.inf))
            record = keep_better("smallest", record, new)
            # A success may lie a rounding above the eps it was asked at: size cannot tell.
            low = torch.where(record.success & ~new.success, eps, low)
            high = torch.minimum(high, record.size)
        if task.progress is not None:
            task.progress(len(task.x))
        return record
