"""The attack: what a user calls and what a plugin is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.criterion import Criterion
from advbench.attacks.expectation import EOT
from advbench.attacks.flags import Flag
from advbench.attacks.losses import Margin
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.query import Access, Finds, Problem, Query, Record, Rules, keep_better
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import map_rows, put, take
from advbench.attacks.victim import Model, Victim, device_of, frozen, full_precision

Stop = Literal["success", "never"]
Progress = Callable[[int], None]


class Task(NamedTuple):
    """The samples to attack, none of them fooled yet, and the terms; tensors are (N, ...).

    ``finds`` is what the answer is wanted for, whatever the attack itself looks for; ``purpose``
    keeps the draws of attacks that work together apart.
    """

    victim: Victim
    x: Tensor
    eps: Tensor
    criterion: Criterion
    ids: Tensor
    seed: int
    stop: Stop
    batch_size: int | None
    budget: int | None
    eot: EOT | None
    progress: Progress | None
    finds: Finds
    purpose: int = 0

    def apart(self, number: int) -> "Task":
        """Return the same task with other random draws for each ``number``, the same ones for 0."""
        return self._replace(purpose=(self.purpose * 1009 + number) & 0x7FFFFFFF)

    def problem(self) -> Problem:
        """Return what the samples have to solve, before any step."""
        zero = torch.zeros_like(self.ids)
        draws = Draws(zero + self.seed, self.ids, zero, zero)
        if self.purpose:
            draws = draws.reseed(self.purpose)
        return Problem(self.x, self.eps, self.criterion, draws, zero)

    def select(self, index: Tensor) -> "Task":
        """Return the task of some samples alone."""
        return self._replace(
            x=self.x[index],
            eps=self.eps[index],
            criterion=take(self.criterion, index),
            ids=self.ids[index],
        )


class Outcome(NamedTuple):
    """What an attack found, per sample; every tensor is (N, ...).

    ``x_adv`` are the changed inputs and ``p`` the parameters that make them; ``success`` is what
    the attack believes, ``size`` is measured in the unit of the set (infinite for a minimum-norm
    attack without success), ``loss`` is the attack's own; ``forwards``, ``backwards`` and
    ``steps`` count what was spent; ``flags`` is a mask of ``Flag``; ``stage`` is the number, from
    1, of the attack that found the answer where several work together, else 0.
    """

    x_adv: Tensor
    p: Tensor
    success: Tensor
    size: Tensor
    loss: Tensor
    forwards: Tensor
    backwards: Tensor
    steps: Tensor
    flags: Tensor
    stage: Tensor


@dataclass(frozen=True, kw_only=True)
class Adversary(ABC):
    """What an attack declares: its fields are hyper-parameters, its class variables facts.

    ``access`` is what it asks of the victim, ``finds`` whether it looks inside a set of size
    ``eps`` or for the smallest change, ``version`` rises when its numbers change,
    ``takes_proofs`` whether samples that are proven robust are left out where it is run for a
    robust accuracy.
    """

    access: ClassVar[Access]
    finds: ClassVar[Finds] = "inside"
    version: ClassVar[int] = 1
    takes_proofs: ClassVar[bool] = False

    @property
    @abstractmethod
    def perturbation(self) -> Perturbation:
        """The set that the attack searches."""

    @classmethod
    @abstractmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two or more instances that run in a moment, for the contract suite."""

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        checks.fields(type(self).__name__, values)
        inner = values.get("attack", self)
        if inner is not self and not (isinstance(inner, Attack) and inner.finds == "inside"):
            raise TypeError(
                f"{type(self).__name__}: attack must be one that searches inside a set, such as "
                f"PGD(); got {inner!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Attack(Adversary):
    """An attack: its fields are hyper-parameters, its call is the problem."""

    @property
    @abstractmethod
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""

    @abstractmethod
    def find(self, task: Task, record: Record) -> Record:
        """Search for all samples of ``task``, going on from ``record``, the best answers so far."""

    @final
    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        eps: float | Tensor | None = None,
        targets: Tensor | None = None,
        seed: int = 0,
        ids: Tensor | None = None,
        stop: Stop = "never",
        eot: EOT | None = None,
    ) -> Tensor:
        """Return adversarial inputs shaped like ``x``; see ``run``."""
        outcome = self.run(
            model, x, y, eps=eps, targets=targets, seed=seed, ids=ids, stop=stop, eot=eot
        )
        return outcome.x_adv

    @final
    def run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        eps: float | Tensor | None = None,
        targets: Tensor | None = None,
        seed: int = 0,
        ids: Tensor | None = None,
        stop: Stop = "success",
        correct: Tensor | None = None,
        proven: Tensor | None = None,
        replay: Tensor | None = None,
        batch_size: int | None = None,
        budget: int | None = None,
        eot: EOT | None = None,
        stand_in: Model | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Attack ``model`` and return what was found, per sample.

        Args:
            model: images (B, *shape) in [0, 1] to logits (B, K), normalisation inside. Its modes,
                buffers, gradients and the global random state are left as they were.
            x: floating-point images (N, *shape) in [0, 1], or scenes where the set moves these;
                the model is then one of scenes, as ``SceneModel`` makes it.
            y: true classes (N,), integers.
            eps: size of the set, one number or one per sample (N,), in the set's unit. May be left
                out by an attack that looks for the smallest change; given, it is an upper bound.
            targets: classes to reach (N,); without them any wrong class is a success.
            seed: 0 to 2^32 - 1. Random numbers depend on it and on ``ids`` alone.
            ids: a number per sample (N,) that keys its randomness; 0 to N - 1 by default.
            stop: "success" leaves a sample as soon as it is fooled, and one that is fooled as it
                is, or has an eps of 0, untouched; "never" uses all steps on every sample and keeps
                the strongest answer, as adversarial training and transfer want it.
            correct: (N,) bool, the samples known not to be fooled as they are. With
                ``stop="success"`` it saves the one forward pass that finds out.
            proven: (N,) bool, the samples that nothing of size eps can fool, as a certificate
                tells; they are not searched.
            replay: changes found earlier, as in ``Outcome.p``, (N, M, ...): each is projected and
                tried before the search, for one forward pass. Not with ``stop="never"``, unless
                the attack looks for the smallest change.
            batch_size: most samples in flight at once; all of them by default.
            budget: most forward passes per sample.
            eot: mean loss over random draws at each query.
            stand_in: a faster model that the search asks instead, such as ``accelerated`` returns;
                nothing is a success before ``model`` has confirmed it, for one forward pass more.
                Not together with ``eot``.
            progress: called with the number of samples newly finished.

        Returns:
            Outcome on the device and in the precision of ``x``.

        Raises:
            ValueError, TypeError: an argument is out of its range or of the wrong kind.

        """
        checks.accepted(type(self).__name__, self.perturbation, x)
        checks.labels("y", y, x)
        checks.targets(targets, y, x)
        checks.seed(seed)
        checks.choice("stop", stop, ("success", "never"))
        checks.positive("batch_size", batch_size)
        checks.positive("budget", budget)
        radius = checks.radius(eps, x, self.perturbation, self.finds)
        if replay is not None and stop == "never" and self.finds == "inside":
            raise ValueError(
                'replay: stop="never" wants the strongest answer of this search; use stop="success"'
            )
        if stand_in is not None and eot is not None:
            raise ValueError("stand_in: not together with eot, whose successes are majorities")
        device = device_of(model, x)
        with (
            frozen(model, seed),
            frozen(model if stand_in is None else stand_in, seed),
            full_precision(device) as mode,
        ):
            working = torch.float64 if x.dtype == torch.float64 else torch.float32
            aims = None if targets is None else targets.to(device, torch.int64)
            criterion = Criterion(y.to(device, torch.int64), aims)
            numbers = torch.arange(len(x)) if ids is None else ids
            victim = Victim(model, x, criterion, mode=mode)
            if stand_in is not None:
                victim = Victim(stand_in, x, criterion, exact=victim, mode=mode)
            task = Task(
                victim,
                checks.inside_box(x, self.perturbation).to(device, working),
                radius.to(device, working),
                criterion,
                checks.identities(numbers, len(x)).to(device),
                seed,
                stop,
                batch_size,
                budget,
                eot,
                progress,
                self.finds,
            )
            old = None if replay is None else self._accepted(replay, task.x)
            record = self._attack(task, correct, proven, old)
            return self._outcome(task, record, x)

    def _attack(
        self, task: Task, correct: Tensor | None, proven: Tensor | None, replay: Tensor | None
    ) -> Record:
        record = Record.blank(self.perturbation.zero(task.x))
        still = task.eps == 0
        sparing = task.stop == "success" or self.finds == "smallest"
        if sparing and correct is not None:
            right = checks.mask("correct", correct, len(task.x)).to(still.device)
            record = record._replace(success=~right)
        else:
            seen = (still | sparing).nonzero().squeeze(1)
            record = put(record, seen, self._look_clean(task.select(seen), take(record, seen)))
        open_ = ~still & ~(record.success & sparing)
        if proven is not None:
            open_ &= ~checks.mask("proven", proven, len(task.x)).to(open_.device)
        if replay is not None:
            index = open_.nonzero().squeeze(1)
            found = self._replay(task.select(index), take(record, index), replay[index])
            record = put(record, index, found)
            open_ &= ~record.success | (self.finds == "smallest")
        index = open_.nonzero().squeeze(1)
        if task.progress is not None and len(index) < len(open_):
            task.progress(len(open_) - len(index))
        if not len(index):
            return record
        return put(record, index, self.find(task.select(index), take(record, index)))

    def _accepted(self, replay: Tensor, x: Tensor) -> Tensor:
        wanted = self.perturbation.zero(x).shape
        if replay.dim() != len(wanted) + 1 or (len(replay), *replay.shape[2:]) != tuple(wanted):
            form = ", ".join(map(str, (wanted[0], "M", *wanted[1:])))
            raise ValueError(f"replay must be ({form}); got {tuple(replay.shape)}")
        return replay.to(x)

    def _replay(self, task: Task, record: Record, replay: Tensor) -> Record:
        """Try changes found earlier, of which only successes are kept: one forward pass each."""
        rules = Rules(
            task.victim, self.perturbation, Margin(), "scores", self.finds, task.budget, task.eot
        )
        problem = task.problem()
        blank = Record.blank(record.p).with_costs_of(record)
        for p in replay.to(record.p).unbind(1):
            rows = (~blank.success | (self.finds == "smallest")).nonzero().squeeze(1)
            query = Query(rules, take(problem, rows), take(blank, rows))
            query(self.perturbation.project(task.x[rows], p[rows], task.eps[rows]))
            blank = put(blank, rows, query.record)
        # Their losses are of another kind than those of the search.
        found = blank._replace(loss=torch.where(blank.success, blank.loss, -torch.inf))
        return keep_better(self.finds, record, found)

    def _look_clean(self, task: Task, record: Record) -> Record:
        """Find the samples that are fooled as they are.

        Untargeted, argmax decides, as it does for clean accuracy.
        """
        if not len(task.x):
            return record
        with torch.no_grad():
            batches = task.x.split(task.batch_size or len(task.x))
            victim = task.victim.exact or task.victim
            logits = torch.cat([victim(images) for images in batches])
        wrong = (logits.argmax(1) != task.criterion.y) & logits.isfinite().all(1)
        fooled = wrong if task.criterion.targets is None else task.criterion.success(logits)
        return record._replace(success=fooled, forwards=record.forwards + 1)

    def _outcome(self, task: Task, record: Record, x: Tensor) -> Outcome:
        rows = task.batch_size or max(len(task.x), 1)
        with torch.no_grad():
            parts = list(zip(task.x.split(rows), record.p.split(rows), strict=True))
            x_adv = torch.cat([self.perturbation.apply(*part) for part in parts])
            size = torch.cat([self.perturbation.size(*part) for part in parts])
        if self.finds == "smallest":
            size = torch.where(record.success, size, torch.inf)
        odd = int(Flag.PROBABILITIES) if task.victim.probabilities else 0
        outcome = Outcome(
            x_adv.to(x.dtype),
            record.p,
            record.success,
            size,
            record.loss,
            record.forwards,
            record.backwards,
            record.steps,
            record.flags | odd,
            record.stage,
        )
        return map_rows(lambda part: part.to(x.device), outcome)


@dataclass(frozen=True, kw_only=True)
class Fittable(Adversary):
    """An attack that is first fitted: one change for all samples, learnt from other samples.

    What is fitted is an ordinary attack; it is judged on samples that the fit has not seen.
    """

    @property
    @abstractmethod
    def images(self) -> int:
        """How many training images the fit is to be given."""

    @abstractmethod
    def fit(
        self,
        models: Model | Sequence[Model],
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Fit to training images and return the attack that results.

        Args:
            models: one victim, or several that the change is made for together.
            batches: images (B, *shape) in [0, 1] with their labels (B,); how they are cut into
                batches changes nothing.
            eps: size of the set.
            targets: the class to reach; without it any wrong class.
            seed: keys all random draws.

        Raises:
            ValueError, TypeError: an argument is out of its range or of the wrong kind.

        """

    @abstractmethod
    def controls(self) -> "tuple[Fittable, ...]":
        """Return what has to stand beside it in a table: changes of equal size, not optimised."""
