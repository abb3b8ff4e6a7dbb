"""Two attacks that advbench knows nothing of until this package is installed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks import (
    Attack,
    CrossEntropy,
    Fittable,
    Linf,
    Loss,
    Margin,
    Perturbation,
    Rule,
)
from advbench.attacks.criterion import Criterion
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.rows import lift
from advbench.attacks.victim import Model, Victim, frozen


class Place(NamedTuple):
    """Where a row is."""

    p: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class ToySign(Rule[Place]):
    """Steps along the sign of the gradient, each half as long as the one before."""

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 4

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(steps=2)

    def init(self, problem: Problem) -> Place:
        """Start at the input."""
        return Place(self.perturbation.zero(problem.x))

    def step(self, state: Place, query: Query, problem: Problem) -> Place:
        """Take the next step."""
        g = query(state.p, grad=True).grad
        length = problem.eps * 0.5 ** problem.t.to(problem.eps.dtype)
        step = self.perturbation.steepest(problem.x, state.p, g, length)
        return Place(self.perturbation.project(problem.x, state.p + step, problem.eps))


@final
@dataclass(frozen=True, kw_only=True)
class ToyUniversal(Fittable):
    """The sign of the mean gradient over all training images: one direction for every image."""

    access: ClassVar[Access] = "gradient"

    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    images: int = 500

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(loss=Margin())

    def fit(
        self,
        models: Model | Sequence[Model],
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that goes in this direction."""
        total: Tensor | None = None
        pairs = [(x.detach().float(), y.long()) for x, y in batches]
        if not any(targets is None or bool((y != targets).any()) for _, y in pairs):
            raise ValueError("ToyUniversal: no batches to fit to, or all of the class to reach")
        for model in models if isinstance(models, Sequence) else (models,):
            with frozen(model, seed):
                for x, y in pairs:
                    x = x.clone().requires_grad_()
                    aims = None if targets is None else torch.full_like(y, targets)
                    loss = self.loss(Victim(model, x)(x), Criterion(y, aims)).sum()
                    gradient = torch.autograd.grad(loss, x)[0].sum(0)
                    total = gradient if total is None else total + gradient
        assert total is not None
        return ToyDirection(signs=tuple(int(s) for s in total.sign().flatten()))

    def controls(self) -> tuple[Fittable, ...]:
        """Return nothing to compare with."""
        return ()


@final
@dataclass(frozen=True, kw_only=True)
class ToyDirection(Rule[Place]):
    """Go by eps in one direction, the same for every image."""

    access: ClassVar[Access] = "none"
    scores_last: ClassVar[bool] = False
    restarts: ClassVar[int] = 1
    steps: ClassVar[int] = 1

    signs: tuple[int, ...]
    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances, for images of four numbers."""
        return cls(signs=(1, -1, 1, 1)), cls(signs=(1, 1, 1, 1))

    def init(self, problem: Problem) -> Place:
        """Start in the direction."""
        signs = torch.tensor(self.signs, dtype=problem.x.dtype, device=problem.x.device)
        p = signs.view(problem.x.shape[1:]) * lift(problem.eps, problem.x)
        return Place(self.perturbation.project(problem.x, p, problem.eps))

    def step(self, state: Place, query: Query, problem: Problem) -> Place:
        """Ask about it once."""
        query(state.p)
        return state
