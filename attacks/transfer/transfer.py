"""An attack whose loss is taken over views of the image, so that its answer fools other models."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

from advbench.attacks.attack import Attack, Task
from advbench.attacks.expectation import EOT
from advbench.attacks.gradient.mi_fgsm import MIFGSM
from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.perturbations import L2, Perturbation
from advbench.attacks.query import Access, Record
from advbench.attacks.transfer.diverse_inputs import DiverseInputs
from advbench.attacks.transfer.scaled_copies import ScaledCopies
from advbench.attacks.transfer.translation import Translation
from advbench.attacks.transfer.view import View, Views


@final
@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """An attack that sees the image through views, for answers that carry over to other models.

    Each query of the attack inside takes the mean loss over the copies that the views show, one
    view through the other; success is read from the image itself. A query costs a forward and a
    backward pass per copy, and a forward pass for the image unless it is among the copies.
    Sources are those of the views. DI-, TI- and SI-FGSM in their papers' form are ``MIFGSM`` with
    one view each.

    Fields:
        attack: the search, one that follows gradients inside a set of images.
        views: what it sees, in the order in which they are applied; without any, it is the attack.
    """

    access: ClassVar[Access] = "gradient"

    attack: Attack = MIFGSM()
    views: tuple[View, ...] = (DiverseInputs(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack.access != "gradient" or self.perturbation.bounds != (0, 1):
            raise TypeError(
                "Transfer: attack must follow gradients of images, as MIFGSM() does; got "
                f"{self.attack!r:.200}"
            )
        for view in self.views:
            if not isinstance(view, View):
                raise TypeError(
                    f"Transfer: views must be values such as DiverseInputs(); got {view!r:.200}"
                )

    @property
    def perturbation(self) -> Perturbation:
        """The set of the attack inside."""
        return self.attack.perturbation

    @property
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""
        views = Views(self.views)
        return self.attack.queries * (views.copies + (not views.keeps_first))

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        views = Translation(kernel=3), DiverseInputs(), ScaledCopies(copies=2)
        return cls(), cls(attack=PGD(perturbation=L2(), steps=20), views=views)

    def find(self, task: Task, record: Record) -> Record:
        """Run the attack inside with the loss taken over the views."""
        eot = task.eot or EOT(1, chance=False)
        seen = replace(eot, views=(*self.views, *eot.views))
        return self.attack.find(task._replace(eot=seen), record)
