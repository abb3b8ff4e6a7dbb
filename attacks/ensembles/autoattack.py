"""AutoAttack: the published sets of attacks that robust accuracies are reported by."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, final

from advbench.attacks.attack import Attack, Task
from advbench.attacks.blackbox.square import SquareAttack
from advbench.attacks.ensembles.worst import in_turn
from advbench.attacks.expectation import EOT
from advbench.attacks.gradient.apgd import APGD
from advbench.attacks.gradient.apgd_l1 import APGDL1
from advbench.attacks.losses import DLR, CrossEntropy, Loss
from advbench.attacks.minimal.fab import FAB
from advbench.attacks.perturbations import L1, L2, Linf, Perturbation
from advbench.attacks.query import Access, Record

_DRAWS = 20
"""Draws of a random model that a query of the set ``rand`` averages."""


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """APGD, FAB and Square in turn, each on the samples that the ones before have not broken.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, arXiv:2003.01690; for L1 "Mind the box: l1-APGD for sparse
    adversarial attacks on image classifiers", ICML 2021, arXiv:2103.01208. Deviations: samples
    leave as soon as they are broken, within an attack too; the classes to head for are as many as
    there are, at most 9 (5 for APGD in L1).

    Fields:
        perturbation: Linf, L2 or L1.
        preset: "standard": APGD on cross-entropy, APGD and FAB heading for single classes, Square;
            "plus": untargeted APGD-DLR and FAB as well, with 5 restarts; "rand", for models that
            answer at random: APGD on cross-entropy and DLR with gradients averaged over 20 draws.
        steps: iterations of each APGD and FAB run.
        square_steps: queries of Square.

    Cost of a robust sample of 10 classes under "standard": about 7,800 forward and 1,900 backward
    passes.
    """

    access: ClassVar[Access] = "gradient"
    version: ClassVar[int] = 2

    perturbation: Perturbation = Linf()
    preset: Literal["standard", "plus", "rand"] = "standard"
    steps: int = 100
    square_steps: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.perturbation, Linf | L2 | L1):
            raise ValueError(
                f"AutoAttack: perturbation must be Linf(), L2() or L1(); got {self.perturbation!r}"
            )
        if self.preset not in ("standard", "plus", "rand"):
            raise ValueError(
                f"AutoAttack: preset must be 'standard', 'plus' or 'rand'; got {self.preset!r}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(steps=5, square_steps=5), cls(perturbation=L2(), steps=6, square_steps=3)

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """The attacks in their order."""
        if self.preset == "rand":
            return self._apgd(CrossEntropy()), self._apgd(DLR())
        sparse = isinstance(self.perturbation, L1)
        single = self._apgd(DLR(), target_classes=5 if sparse and self.preset == "standard" else 9)
        square = SquareAttack(perturbation=self.perturbation, steps=self.square_steps)
        if self.preset == "standard":
            first = self._apgd(CrossEntropy(), restarts=5 if sparse else 1)
            return first, single, self._fab(target_classes=9), square
        return (
            self._apgd(CrossEntropy(), restarts=5),
            self._apgd(DLR(), restarts=5),
            self._fab(restarts=5),
            square,
            single,
            self._fab(target_classes=9),
        )

    @property
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""
        return sum(attack.queries + 1 for attack in self.attacks)

    def find(self, task: Task, record: Record) -> Record:
        """Run the attacks in turn."""
        if self.preset == "rand" and task.eot is None:
            task = task._replace(eot=EOT(_DRAWS))
        return in_turn(self.attacks, task, record)

    def _apgd(self, loss: Loss, restarts: int = 1, target_classes: int = 0) -> Attack:
        if isinstance(self.perturbation, L1):
            return APGDL1(
                loss=loss,
                steps=self.steps,
                restarts=restarts,
                target_classes=target_classes,
                large_eps=self.preset == "standard",
            )
        return APGD(
            perturbation=self.perturbation,
            loss=loss,
            steps=self.steps,
            restarts=restarts,
            target_classes=target_classes,
        )

    def _fab(self, restarts: int = 1, target_classes: int = 0) -> Attack:
        return FAB(
            perturbation=self.perturbation,
            steps=self.steps,
            restarts=restarts,
            target_classes=target_classes,
        )
