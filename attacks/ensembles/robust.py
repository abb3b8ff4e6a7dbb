"""The robust accuracy in few passes: a cascade that spends effort where it may pay."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

from advbench.attacks.attack import Attack, Task
from advbench.attacks.blackbox.random_search import RandomSearch
from advbench.attacks.blackbox.square import SquareAttack
from advbench.attacks.ensembles.rounds import Rounds
from advbench.attacks.ensembles.worst import joined
from advbench.attacks.flags import Flag
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Record
from advbench.attacks.rows import put, take


@final
@dataclass(frozen=True, kw_only=True)
class Robust(Attack):
    """A cascade of short and long ascents, and of a black box where these cannot be trusted.

    ``Rounds`` on all samples; then ``SquareAttack`` (``RandomSearch`` in sets it does not know) on
    those that all of its rounds brought within ``close`` of success, and on those that met a
    gradient of zero, or one that was not finite, of which an ascent can make nothing. What is spent
    on a sample depends on that sample alone. Our own.

    Fields:
        rounds, round_steps, long_rounds, long_steps, near: those of ``Rounds``.
        close: the distance to success up to which the black box is asked, in the relative margin
            of the best point.
        black_box_steps: queries of the black box.

    Cost of a robust sample: 101 forward and 100 backward passes as a rule, up to 360 more of each
    where an ascent came near or gradients mislead, and ``black_box_steps`` forward passes where one
    came close on a rugged loss.
    """

    access: ClassVar[Access] = "gradient"
    takes_proofs: ClassVar[bool] = True

    perturbation: Perturbation = Linf()
    rounds: int = 9
    round_steps: int = 10
    long_rounds: int = 9
    long_steps: int = 40
    near: float = 0.06
    close: float = 0.04
    black_box_steps: int = 3000

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        few = cls(rounds=2, round_steps=6, long_rounds=1, long_steps=8, black_box_steps=10)
        l2 = cls(
            perturbation=L2(), rounds=1, round_steps=6, long_rounds=0, near=1.0, black_box_steps=5
        )
        return few, l2

    @property
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""
        return self._ascents.queries + self._black_box.queries

    def find(self, task: Task, record: Record) -> Record:
        """Run the ascents, then the black box on the samples that call for it."""
        quiet = task._replace(progress=None, finds="inside")
        fresh = Record.blank(record.p).with_costs_of(record)
        ascended = self._ascents.find(quiet.apart(1), fresh)
        found = joined(fresh, ascended, 1, comparable=True)
        blind = (found.flags & (Flag.ZERO_GRADIENT | Flag.NON_FINITE)) != 0
        rugged = found.steps - record.steps == self._ascents.steps
        rugged &= found.loss > -self.close
        index = (~found.success & (blind | rugged)).nonzero().squeeze(1)
        if len(index):
            old = take(found, index)
            asked = Record.blank(old.p).with_costs_of(old)
            new = self._black_box.find(quiet.select(index).apart(2), asked)
            found = put(found, index, joined(old, new, 2))
        if task.progress is not None:
            task.progress(len(task.x))
        return found

    @property
    def _ascents(self) -> Rounds:
        return Rounds(
            perturbation=self.perturbation,
            rounds=self.rounds,
            round_steps=self.round_steps,
            long_rounds=self.long_rounds,
            long_steps=self.long_steps,
            near=self.near,
        )

    @property
    def _black_box(self) -> Attack:
        if isinstance(self.perturbation, Linf | L2 | L1):
            return SquareAttack(perturbation=self.perturbation, steps=self.black_box_steps)
        return RandomSearch(perturbation=self.perturbation, steps=self.black_box_steps)
