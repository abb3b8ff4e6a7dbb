"""The worst of several attacks, sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch

from advbench.attacks.attack import Attack, Task
from advbench.attacks.blackbox.random_noise import RandomNoise
from advbench.attacks.gradient.pgd import BIM, FGSM, PGD
from advbench.attacks.losses import Margin
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.query import Access, Query, Record, Rules, keep_better
from advbench.attacks.rows import put, take


def in_turn(attacks: Sequence[Attack], task: Task, record: Record) -> Record:
    """Run several attacks and keep the worst answer of each sample, going on from ``record``.

    With ``task.stop`` "success" only the samples that have withstood one attack meet the next.
    Otherwise all meet all, and answers are compared by their margin, for one forward pass each.
    ``record.stage`` says which attack an answer is from.
    """
    early = task.stop == "success"
    for number, attack in enumerate(attacks, 1):
        rows = ~record.success if early else torch.ones_like(record.success)
        index = rows.nonzero().squeeze(1)
        if not len(index):
            break
        part = task.select(index)._replace(progress=None, finds="inside").apart(number)
        old = take(record, index)
        new = attack.find(part, Record.blank(old.p).with_costs_of(old))
        if not early:
            new = _by_margin(attack.perturbation, part, new)
        record = put(record, index, joined(old, new, number, comparable=not early or number == 1))
        if task.progress is not None and early:
            task.progress(int(new.success.sum()))
    if task.progress is not None:
        task.progress(int((~record.success).sum()) if early else len(task.x))
    return record


def joined(old: Record, new: Record, stage: int, *, comparable: bool = False) -> Record:
    """Keep the better answer per row, the new ones as those of the attack of number ``stage``.

    Losses of different attacks are not ``comparable``: of two failures the older is then kept.
    """
    new = new._replace(stage=torch.full_like(new.stage, stage))
    if not comparable:
        new = new._replace(loss=torch.where(new.success, new.loss, -torch.inf))
    return keep_better("inside", old, new)


def _by_margin(perturbation: Perturbation, task: Task, record: Record) -> Record:
    """Score the answers by one measure that does not depend on the attack."""
    rules = Rules(task.victim, perturbation, Margin(), "scores", "inside", task.budget, task.eot)
    worst = torch.full_like(record.loss, -torch.inf)
    unasked = record._replace(success=torch.zeros_like(record.success), loss=worst)
    query = Query(rules, task.problem(), unasked)
    query(record.p)
    return query.record._replace(success=record.success | query.record.success)


@final
@dataclass(frozen=True, kw_only=True)
class Worst(Attack):
    """Several attacks on one set, of which each sample meets the next until one succeeds.

    The order is that of the list: put the cheap ones first. With ``stop="never"`` all samples meet
    all attacks, and the answer of largest margin is kept. Source of the measure, the mean of the
    per-sample minima: Carlini et al., "On evaluating adversarial robustness", 2019,
    arXiv:1902.06705, section 5.

    Fields:
        attacks: one or more that share their perturbation set.
    """

    access: ClassVar[Access] = "gradient"

    attacks: tuple[Attack, ...] = (FGSM(), PGD(steps=20), PGD(loss=Margin(), steps=20))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attacks:
            raise ValueError("Worst: attacks is empty; give at least one, such as PGD()")
        for attack in self.attacks[1:]:
            if attack.perturbation != self.perturbation:
                raise ValueError(
                    f"Worst: attacks must share one perturbation set; got {self.perturbation!r} "
                    f"and {attack.perturbation!r}"
                )

    @property
    def perturbation(self) -> Perturbation:
        """The set of all the attacks."""
        return self.attacks[0].perturbation

    @property
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""
        return sum(attack.queries + 1 for attack in self.attacks)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        l2 = BIM(perturbation=L2(), steps=5), RandomNoise(perturbation=L2(), steps=5)
        return cls(attacks=(FGSM(), PGD(steps=10))), cls(attacks=l2)

    def find(self, task: Task, record: Record) -> Record:
        """Run the attacks in turn."""
        return in_turn(self.attacks, task, record)
