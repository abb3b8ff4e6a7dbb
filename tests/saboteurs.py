"""Attacks with one planted fault each, and the check that has to see it.

``Honest`` does what every attack promises. ``Sly`` and its children are honest up to one method;
``Tampered`` stands in front of an honest attack and changes what goes in or comes out.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from advbench.attacks import (
    BIM,
    Ball,
    CrossEntropy,
    Linf,
    Loss,
    Margin,
    Patch,
    Perturbation,
    Pose,
    Rule,
)
from advbench.attacks.attack import Attack, Outcome, Task
from advbench.attacks.criterion import Criterion
from advbench.attacks.flags import Flag
from advbench.attacks.gradient.steepest import Iterate, ascend, origin
from advbench.attacks.query import Access, Problem, Query, Record
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift

SABOTEURS: list[tuple[str, Any]] = []
"""Name of the check, attack that it must refuse."""


@dataclass(frozen=True, kw_only=True)
class Honest(Rule[Iterate]):
    """Five steps from a random start."""

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1
    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()
    steps: int = 5

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(steps=6)

    def init(self, problem: Problem) -> Iterate:
        start = self.perturbation.draw(problem.x, problem.eps / 4, problem.draws)
        return Iterate(self.perturbation.project(problem.x, start, problem.eps))

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        return ascend(self.perturbation, state, query, problem, 2.5 / self.steps)


@dataclass(frozen=True, kw_only=True)
class Sly(Attack):
    """An honest search; a child spoils ``find``."""

    access: ClassVar[Access] = "gradient"
    perturbation: Perturbation = Linf()
    steps: int = 5

    @property
    def queries(self) -> int:
        return self.steps + 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(steps=6)

    def find(self, task: Task, record: Record) -> Record:
        return Honest(perturbation=self.perturbation, steps=self.steps).find(task, record)


class Tampered:
    """An attack whose ``run`` is replaced; everything else is that of ``inner``."""

    def __init__(self, run: Callable[..., Outcome], inner: Attack | None = None) -> None:
        self.run_instead = run
        self.inner = inner or Honest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return f"Tampered({self.run_instead.__name__})"

    def run(self, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
        return self.run_instead(self.inner, model, x, y, **terms)

    def __call__(self, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Tensor:
        return self.run(model, x, y, **terms).x_adv


def caught_by(check: str) -> Callable[[Any], Any]:
    """Enlist an attack class (as its default instance) or a replacement for ``run``."""

    def enlist(fault: Any) -> Any:
        SABOTEURS.append((check, fault() if isinstance(fault, type) else Tampered(fault)))
        return fault

    return enlist


# What comes back


@caught_by("shapes")
def squeezes(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    return found._replace(x_adv=found.x_adv.squeeze())


def takes_what_the_set_refuses(
    inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any
) -> Outcome:
    if x.dim() == 4:
        return inner.run(model, x, y, **terms)
    found = inner.run(model, x.view(len(x), 1, 1, -1), y, **terms)
    return found._replace(x_adv=found.x_adv.view_as(x))


SABOTEURS.append(("shapes", Tampered(takes_what_the_set_refuses, Honest(perturbation=Patch()))))


@caught_by("precision")
def returns_float32(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    return found._replace(x_adv=found.x_adv.float())


@dataclass(frozen=True)
class Overflowing(Perturbation):
    """The maximum norm without the box."""

    inner: Linf = Linf()

    def zero(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        return x + p

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        return p.clamp(-lift(eps, p), lift(eps, p))

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        return self.inner.size(x, p)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        return self.inner.steepest(x, p, g, length)

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        return self.inner.draw(x, eps, draws)

    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        return self.inner.extreme(x, eps, draws)

    @property
    def names(self) -> tuple[str, ...]:
        return self.inner.names

    def closed(self, eps: Tensor, count: int) -> Tensor:
        return self.inner.closed(eps, count)

    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        return self.inner.lattice(x, eps, u)

    @property
    def varies(self) -> bool:
        return self.inner.varies

    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        return p

    def price(self, x: Tensor, p: Tensor) -> None:
        return None

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        return {}

    def refusal(self, shape: torch.Size) -> str | None:
        return None

    def largest(self, x: Tensor) -> float:
        return self.inner.largest(x)

    def limit(self, eps: Tensor) -> Tensor:
        return self.inner.limit(eps)


SABOTEURS.append(("box", Honest(perturbation=Overflowing())))


@caught_by("size")
@caught_by("half_space")
@dataclass(frozen=True, kw_only=True)
class GoesTooFar(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(eps=task.eps * 1.5), record)


@caught_by("claims")
@dataclass(frozen=True, kw_only=True)
class ClaimsSuccess(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task, record)._replace(success=torch.ones_like(record.success))


@caught_by("best_is_kept")
@dataclass(frozen=True, kw_only=True)
class KeepsTheLast(Honest):
    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        nothing = Record.blank(query.record.p).with_costs_of(query.record)
        query.record = nothing
        return super().step(state, query, problem)


@caught_by("costs")
@dataclass(frozen=True, kw_only=True)
class CountsHalf(Sly):
    def find(self, task: Task, record: Record) -> Record:
        found = super().find(task, record)
        return found._replace(forwards=found.forwards // 2)


@caught_by("costs")
@dataclass(frozen=True, kw_only=True)
class AsksOutsideTheQuery(Sly):
    def find(self, task: Task, record: Record) -> Record:
        task.victim(task.x)
        return super().find(task, record)


@caught_by("costs")
@dataclass(frozen=True, kw_only=True)
class DeclaresTooLittle(Sly):
    @property
    def queries(self) -> int:
        return self.steps - 1


@caught_by("budget")
@dataclass(frozen=True, kw_only=True)
class IgnoresTheBudget(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(budget=None), record)


@caught_by("access")
@dataclass(frozen=True, kw_only=True)
class Peeks(Sly):
    """Takes gradients, though it declares scores."""

    access: ClassVar[Access] = "scores"

    def find(self, task: Task, record: Record) -> Record:
        return super().find(task, record)._replace(backwards=record.backwards)


@caught_by("access")
@dataclass(frozen=True, kw_only=True)
class PeeksAtScores(Sly):
    """Declares labels, but keeps the change that an honest random search by scores finds."""

    access: ClassVar[Access] = "labels"

    def find(self, task: Task, record: Record) -> Record:
        with torch.no_grad():
            score = task.victim(task.x)[:, 0]
        zero = self.perturbation.zero(task.x)
        p = lift((score * 1e3).sin() * task.eps, zero).expand_as(zero)
        return record._replace(p=self.perturbation.project(task.x, p, task.eps))


@caught_by("constant_model")
@dataclass(frozen=True, kw_only=True)
class DividesByZero(Honest):
    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        g = query(state.p, grad=True).grad
        g = g / lift(g.flatten(1).norm(dim=1), g)
        query.record = query.record._replace(p=query.record.p + 0 * g)
        return Iterate(self.perturbation.project(problem.x, state.p + g, problem.eps))


@caught_by("ties")
@dataclass(frozen=True, kw_only=True)
class TakesTies(Sly):
    def find(self, task: Task, record: Record) -> Record:
        found = Honest(perturbation=self.perturbation, loss=Margin()).find(task, record)
        return found._replace(success=found.loss >= 0)


@caught_by("nan_rows")
@dataclass(frozen=True, kw_only=True)
class TakesNaN(Sly):
    def find(self, task: Task, record: Record) -> Record:
        found = super().find(task, record)
        with torch.no_grad():
            guess = task.victim(self.perturbation.apply(task.x, found.p)).argmax(1)
        return found._replace(success=guess != task.criterion.y)


@caught_by("nan_rows")
@dataclass(frozen=True, kw_only=True)
class SpreadsNaN(Honest):
    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        probe = query(state.p, grad=True)
        g = probe.grad + 0 * probe.loss.sum()
        return Iterate(self.perturbation.project(problem.x, state.p + g.nan_to_num(0), problem.eps))


@caught_by("misclassified")
def attacks_the_fallen(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    return inner.run(model, x, y, **{**terms, "stop": "never", "correct": None})


@dataclass(frozen=True)
class MaskedMargin(Loss):
    """The best wrong logit by a mask of zeros: wrong where all logits are negative."""

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        own = torch.nn.functional.one_hot(criterion.y, logits.shape[1]).to(logits.dtype)
        return (logits * (1 - own)).amax(1) - (logits * own).amax(1)


SABOTEURS.append(("logit_shift", Honest(loss=MaskedMargin())))


@caught_by("probabilities")
def drops_flags(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    return found._replace(flags=found.flags & ~int(Flag.PROBABILITIES))


# What is left behind


@caught_by("inputs")
def writes_to_x(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    x.data.add_(1e-3)
    return found


@caught_by("inputs")
def returns_x_itself(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    same = torch.equal(found.x_adv, x)
    return found._replace(x_adv=x.detach()) if same else found


@caught_by("model")
def stays_in_eval(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    """Restores one mode for all modules, and none after an exception."""
    training = model.training
    model.eval()
    found = inner.run(model, x, y, **terms)
    model.train(training)
    return found


@caught_by("model")
def restores_only_at_the_end(
    inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any
) -> Outcome:
    handle = model.register_forward_hook(lambda *_: None)
    found = inner.run(model, x, y, **terms)
    handle.remove()
    return found


@caught_by("random_state")
@dataclass(frozen=True, kw_only=True)
class UsesNumPy(Sly):
    def find(self, task: Task, record: Record) -> Record:
        np.random.random()
        return super().find(task, record)


@caught_by("random_state")
@dataclass(frozen=True, kw_only=True)
class UsesPython(Sly):
    def find(self, task: Task, record: Record) -> Record:
        random.random()
        return super().find(task, record)


@caught_by("grad_modes")
def gives_up_without_grad(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    if not torch.is_grad_enabled():
        terms["eps"] = 0.0
    return inner.run(model, x, y, **terms)


@caught_by("autocast")
def multiplies_in_16_bits(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    """The same but for a product of matrices, which autocast takes hold of."""
    found = inner.run(model, x, y, **terms)
    flat = found.x_adv.flatten(1)
    return found._replace(x_adv=(flat @ torch.eye(flat.shape[1]).to(flat)).to(flat).view_as(x))


@caught_by("labels")
def takes_one_hot(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    return inner.run(model, x, y.argmax(1) if y.dim() == 2 else y, **terms)


@caught_by("progress")
@dataclass(frozen=True, kw_only=True)
class Silent(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(progress=None), record)


# Independence of rows


@caught_by("batch_size")
@dataclass(frozen=True, kw_only=True)
class Couples(Honest):
    """Divides by the largest gradient of the whole batch."""

    def step(self, state: Iterate, query: Query, problem: Problem) -> Iterate:
        g = query(state.p, grad=True).grad
        step = lift(problem.eps, g) * g / g.abs().amax().clamp_min(1e-12)
        return Iterate(self.perturbation.project(problem.x, state.p + step, problem.eps))


@caught_by("composition")
@dataclass(frozen=True, kw_only=True)
class DrawsByPosition(Honest):
    def init(self, problem: Problem) -> Iterate:
        place = torch.arange(len(problem.x))
        return super().init(problem._replace(draws=problem.draws._replace(ids=place)))


@caught_by("composition")
@dataclass(frozen=True, kw_only=True)
class DrawsGlobally(Honest):
    def init(self, problem: Problem) -> Iterate:
        zero = self.perturbation.zero(problem.x)
        return Iterate(torch.rand_like(zero) * lift(problem.eps / 4, zero))


@caught_by("repeatable")
@dataclass(frozen=True, kw_only=True)
class Remembers(Sly):
    calls: list[int] = field(default_factory=list, compare=False, repr=False)

    def find(self, task: Task, record: Record) -> Record:
        self.calls.append(1)
        return super().find(task._replace(seed=len(self.calls)), record)


@caught_by("eps_per_sample")
@dataclass(frozen=True, kw_only=True)
class SharesEps(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(eps=task.eps.amin().expand_as(task.eps)), record)


@caught_by("stop")
@dataclass(frozen=True, kw_only=True)
class HurriesWhenStopping(Sly):
    def find(self, task: Task, record: Record) -> Record:
        if task.stop == "success":
            task = task._replace(eps=task.eps / 2)
        return super().find(task, record)


# Strength


@caught_by("zero_eps")
def always_adds_noise(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    return found._replace(x_adv=(found.x_adv + 1e-4).clamp(0, 1))


@caught_by("half_space")
@caught_by("monotone")
@dataclass(frozen=True, kw_only=True)
class DoesNothing(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(eps=task.eps * 0), record)


SABOTEURS.append(("monotone", DoesNothing(perturbation=Patch())))


@caught_by("monotone")
@dataclass(frozen=True, kw_only=True)
class LostWithMoreRoom(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(eps=task.eps * (1 - task.eps)), record)


@caught_by("targeted")
@dataclass(frozen=True, kw_only=True)
class IgnoresTargets(Sly):
    def find(self, task: Task, record: Record) -> Record:
        return super().find(task._replace(criterion=Criterion(task.criterion.y)), record)


@dataclass(frozen=True)
class Descends(Loss):
    """The sign of the targeted form forgotten."""

    def __call__(self, logits: Tensor, criterion: Criterion) -> Tensor:
        labels = criterion.y if criterion.targets is None else criterion.targets
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


SABOTEURS.append(("targeted", Honest(loss=Descends())))
SABOTEURS.append(("targeted", Honest(perturbation=Patch(), loss=Descends())))


class Running(NamedTuple):
    """Where it is, and a running sum of gradients."""

    p: Tensor
    g: Tensor


@caught_by("zero_gradient_at_start")
@dataclass(frozen=True, kw_only=True)
class FreezesOnZero(Rule[Running]):
    """0 / 0 in a running sum of gradients: from then on it stays where it is."""

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1
    steps: ClassVar[int] = 5
    perturbation: Perturbation = Linf()
    loss: Loss = CrossEntropy()

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(loss=Margin()))

    def init(self, problem: Problem) -> Running:
        start = origin(self.perturbation, problem)
        return Running(start, torch.zeros_like(start))

    def step(self, state: Running, query: Query, problem: Problem) -> Running:
        gradient = query(state.p, grad=True).grad
        g = state.g + gradient / lift(gradient.flatten(1).abs().mean(1), gradient)
        p = state.p + (g.sign() * lift(problem.eps / 2, g)).nan_to_num(0)
        return Running(self.perturbation.project(problem.x, p, problem.eps), g)


SABOTEURS.append(("zero_gradient_at_start", FreezesOnZero(perturbation=Patch())))


# What it says about itself


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class WantsEverything(Sly):
    access: ClassVar[Any] = "everything"


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class NoExamples(Sly):
    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(),)


@caught_by("round_trip")
@dataclass(frozen=True, kw_only=True, repr=False)
class Mumbles(Sly):
    def __repr__(self) -> str:
        return "Mumbles"


@caught_by("vocabulary")
@dataclass(frozen=True, kw_only=True)
class SpeaksAnotherTongue(Sly):
    n_iter: int = 3


# The same faults in attacks that pose objects

POSE = Pose(Ball(40), x=0.1, z=0.2, azimuth=30)
NORMS_ALONE = ("half_space",)  # a check that needs an exact answer


def on_scenes(saboteur: Any) -> Any:
    """Return the attack with its fault and another set."""
    if isinstance(saboteur, Tampered):
        return Tampered(saboteur.run_instead, on_scenes(saboteur.inner))
    return replace(saboteur, perturbation=POSE)


def stretches(inner: Attack, model: Any, x: Tensor, y: Tensor, **terms: Any) -> Outcome:
    found = inner.run(model, x, y, **terms)
    return found._replace(x_adv=found.x_adv * 1.01)


ON_SCENES: list[tuple[str, Any]] = [
    *(
        (check, on_scenes(one))
        for check, one in SABOTEURS
        if isinstance(one.perturbation, Linf) and check not in NORMS_ALONE
    ),
    ("box", Tampered(stretches, Honest(perturbation=POSE))),
]
"""Name of the check, attack on scenes that it must refuse."""


@dataclass(frozen=True)
class Picky(Overflowing):
    """A set that no check has inputs for."""

    def refusal(self, shape: torch.Size) -> str | None:
        return None if tuple(shape) == (99,) else f"needs 99 numbers; got {tuple(shape)}"


HONEST = (Honest(), Sly(), BIM(steps=3), Honest(perturbation=POSE))
