"""The query: the one way in which an attack touches a model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion
from advbench.attacks.expectation import EOT, Expectation
from advbench.attacks.flags import Flag
from advbench.attacks.losses import Loss
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import lift, put, take
from advbench.attacks.victim import Victim

Access = Literal["gradient", "scores", "labels", "none"]
Finds = Literal["inside", "smallest"]


class Problem(NamedTuple):
    """What a batch of rows has to solve; every tensor is (B, ...).

    ``t`` counts the steps a row has done; ``draws`` gives fresh numbers at each step.
    """

    x: Tensor
    eps: Tensor
    criterion: Criterion
    draws: Draws
    t: Tensor


class Record(NamedTuple):
    """The best answer so far and what it cost, per row (B, ...)."""

    p: Tensor
    success: Tensor
    size: Tensor
    loss: Tensor
    forwards: Tensor
    backwards: Tensor
    steps: Tensor
    flags: Tensor

    @classmethod
    def blank(cls, p: Tensor) -> "Record":
        """Return the record of rows that nobody has asked about; ``p`` changes nothing."""
        count = torch.zeros(len(p), dtype=torch.int64, device=p.device)
        worst = torch.full_like(count, -torch.inf, dtype=p.dtype)
        return cls(p, count.bool(), -worst, worst, count, count, count, count)

    def with_costs_of(self, other: "Record") -> "Record":
        """Return this answer with the costs and the flags of ``other`` added."""
        return self._replace(
            forwards=self.forwards + other.forwards,
            backwards=self.backwards + other.backwards,
            steps=self.steps + other.steps,
            flags=self.flags | other.flags,
        )


def keep_better(finds: Finds, old: Record, new: Record) -> Record:
    """Keep the better answer per row, the older in a tie; ``new`` carries the costs of both.

    A success beats a failure. Among successes an attack that looks for the smallest change wants
    the smaller one, any other the larger loss; among failures all want the larger loss. A loss
    that is NaN or infinite never wins.
    """
    stronger = (new.loss > old.loss) & (new.loss < torch.inf)
    if finds == "smallest":
        stronger = torch.where(old.success, new.size < old.size, stronger)
    wins = (new.success > old.success) | ((new.success == old.success) & stronger)
    return new._replace(
        p=torch.where(lift(wins, old.p), new.p, old.p),
        success=old.success | new.success,
        size=torch.where(wins, new.size, old.size) if finds == "smallest" else old.size,
        loss=torch.where(wins, new.loss, old.loss),
    )


class Probe(NamedTuple):
    """The answer to a query, per row, as far as the declared access allows.

    ``grad`` has the shape of ``p`` and is empty unless asked for. With access to labels alone the
    loss is 1 for a success and 0 otherwise and the logits are one-hot; with no access all is zero.
    """

    loss: Tensor
    grad: Tensor
    success: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Rules:
    """What holds for every query of one search."""

    victim: Victim
    perturbation: Perturbation
    loss: Loss
    access: Access
    finds: Finds
    budget: int | None = None
    eot: EOT | None = None

    @cached_property
    def expectation(self) -> Expectation | None:
        """How the mean over random draws is taken, where one is asked for."""
        if self.eot is None:
            return None
        return Expectation(self.eot, self.perturbation, self.victim, self.loss)

    @property
    def forwards(self) -> int:
        """Forward passes of one query."""
        return 1 if self.expectation is None else self.expectation.forwards


class AccessError(Exception):
    """An attack asked for more than its declared access."""


class Query:
    """Queries on a batch of rows: applies, runs, scores, counts and remembers the best.

    ``record`` holds, after each call, the best legal answer per row: for an attack inside a set
    the success of largest loss, or the largest loss while there is none; for an attack that looks
    for the smallest change the smallest success (see ``keep_better``).
    """

    def __init__(self, rules: Rules, problem: Problem, record: Record) -> None:
        self._rules = rules
        self._problem = problem
        self._calls = 0
        self.record = record

    def __call__(self, p: Tensor, *, grad: bool = False) -> Probe:
        """Ask about the parameters ``p`` (B, ...); one forward pass per row, more under EOT.

        A row whose budget is spent is not run: it gets its best loss so far, no success and no
        gradient, and leaves the search at the end of the step.

        Raises:
            AccessError: a gradient was asked for beyond the declared access.
            ValueError: no gradient reaches the input.

        """
        rules = self._rules
        if grad and rules.access != "gradient":
            raise AccessError(
                f"a gradient was asked for, but the declared access is {rules.access!r}"
            )
        self._calls += 1
        if rules.budget is not None:
            alive = self.record.forwards + rules.forwards <= rules.budget
            if not alive.all():
                return self._run_some(p, grad, alive)
        return self._run(p, grad)

    def _run_some(self, p: Tensor, grad: bool, alive: Tensor) -> Probe:
        spent = torch.where(alive, 0, int(Flag.OUT_OF_BUDGET))
        self.record = self.record._replace(flags=self.record.flags | spent)
        classes = self._rules.victim.classes or 2
        probe = Probe(
            self.record.loss.clone(),
            torch.zeros_like(p) if grad else p.new_empty(0),
            torch.zeros_like(alive),
            self.record.loss.new_zeros(len(alive), classes),
        )
        index = alive.nonzero().squeeze(1)
        if not len(index):
            return probe
        part = Query(self._rules, take(self._problem, index), take(self.record, index))
        part._calls = self._calls - 1
        answer = part(p[index], grad=grad)
        self.record = put(self.record, index, part.record)
        return Probe(
            probe.loss.index_put((index,), answer.loss),
            probe.grad.index_put((index,), answer.grad) if grad else probe.grad,
            probe.success.index_put((index,), answer.success),
            probe.logits.index_put((index,), answer.logits),
        )

    def _run(self, p: Tensor, grad: bool) -> Probe:
        rules = self._rules
        with torch.set_grad_enabled(grad):
            p = p.detach().requires_grad_(grad)
            loss, logits, success = self._score(p)
            gradient = self._differentiate(loss, p) if grad else p.new_empty(0)
            price = rules.perturbation.price(self._problem.x, p)
        loss, logits = loss.detach().to(p.dtype), logits.detach().to(p.dtype)
        gradient, flags = self._inspect(gradient, loss)
        if price is not None:
            if grad:
                gradient = gradient - torch.autograd.grad(price.sum(), p)[0]
            loss = loss - price.detach()
        p = p.detach()
        if rules.access == "labels":
            loss = success.to(loss.dtype)
            logits = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(loss.dtype)
        elif rules.access == "none":
            loss, logits = torch.zeros_like(loss), torch.zeros_like(logits)
        self._remember(p, loss, success, flags, backwards=self._draws if grad else 0)
        if rules.access == "none":
            success = torch.zeros_like(success)
        return Probe(loss, gradient, success, logits)

    @property
    def _draws(self) -> int:
        return 1 if self._rules.eot is None else self._rules.eot.samples

    def _score(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rules, problem = self._rules, self._problem
        x, criterion = problem.x, problem.criterion
        if rules.expectation is not None:
            loss, logits, success = rules.expectation.score(
                x, p, criterion, problem.draws, self._calls
            )
        else:
            logits = rules.victim(rules.perturbation.apply(x, p))
            loss, success = rules.loss(logits, criterion), criterion.success(logits.detach())
        return loss, logits, success

    def _differentiate(self, loss: Tensor, p: Tensor) -> Tensor:
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.sum(), p, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "no gradient reaches the input: the model detaches it or leaves torch. Use an "
                "attack that needs none (random_noise, random_search, grid), or give the broken "
                "part a differentiable stand-in (BPDA)."
            )
        return gradient

    def _inspect(self, gradient: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient without NaN and infinity, each read as zero, and the flags."""
        if not len(gradient):
            return gradient, torch.where(loss.isfinite(), int(Flag.NONE), int(Flag.NON_FINITE))
        peak = gradient.flatten(1).abs().amax(1)
        both = peak + loss
        flags = (peak == 0) * int(Flag.ZERO_GRADIENT) | (both - both != 0) * int(Flag.NON_FINITE)
        return gradient.nan_to_num(0, 0, 0), flags

    def _remember(
        self, p: Tensor, loss: Tensor, success: Tensor, flags: Tensor, backwards: int
    ) -> None:
        rules, old = self._rules, self.record
        size = old.size
        if rules.finds == "smallest":
            size = rules.perturbation.size(self._problem.x, p)
        new = Record(
            p=p,
            success=success,
            size=size,
            loss=loss,
            forwards=old.forwards + rules.forwards,
            backwards=old.backwards + backwards,
            steps=old.steps,
            flags=old.flags | flags,
        )
        self.record = keep_better(rules.finds, old, new)
