"""The smallest eps at which an attack succeeds, per sample."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.attack import Attack, Task
from advbench.attacks.gradient.pgd import FGSM, PGD
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import Access, Finds, Record, keep_better
from advbench.attacks.rows import put, take


@final
@dataclass(frozen=True, kw_only=True)
class MinimumEps(Attack):
    """Bisect eps per sample with an attack that searches inside a set.

    The first round asks at the upper bound; each success lowers the bound to the size it found,
    each failure raises the lower one. After ``rounds`` rounds the bracket has shrunk at least
    2^(rounds - 1)-fold. The answer is the smallest success, so it is an upper bound on the true
    distance whatever the attack misses.
    """

    access: ClassVar[Access] = "gradient"
    finds: ClassVar[Finds] = "smallest"

    attack: Attack = PGD()
    rounds: int = 12

    @property
    def perturbation(self) -> Perturbation:
        """The set of the attack inside."""
        return self.attack.perturbation

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(attack=PGD(steps=10)), cls(attack=FGSM(), rounds=8)

    def find(self, task: Task, record: Record) -> Record:
        """Bisect between 0 and ``task.eps``."""
        low, high = torch.zeros_like(task.eps), task.eps
        inner = task._replace(stop="success", progress=None)
        for round_ in range(self.rounds):
            open_ = record.success if round_ else torch.ones_like(record.success)
            index = open_.nonzero().squeeze(1)
            if not len(index):
                break
            middle = (low + high) / 2 if round_ else high
            old = take(record, index)
            fresh = Record.blank(self.perturbation.zero(task.x[index])).with_costs_of(old)
            new = self.attack.find(inner._replace(eps=middle).select(index), fresh)
            size = self.perturbation.size(task.x[index], new.p)
            new = new._replace(size=torch.where(new.success, size, torch.inf))
            record = put(record, index, keep_better(self.finds, old, new))
            # Not `size > middle`: a success may lie a rounding above the eps it was asked at.
            failed = torch.zeros_like(record.success).index_put((index,), ~new.success)
            low = torch.where(failed, middle, low)
            high = torch.minimum(high, record.size)
        if task.progress is not None:
            task.progress(len(task.x))
        return record
