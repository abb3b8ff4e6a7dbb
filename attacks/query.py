"""The query: the one way in which an attack touches a model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion, likeliest
from advbench.attacks.expectation import EOT, Expectation
from advbench.attacks.flags import Flag
from advbench.attacks.losses import Loss, Objective
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
    """The best answer so far and what it cost, per row (B, ...).

    ``stage`` is the number, from 1, of the attack that found it, where several work together.
    """

    p: Tensor
    success: Tensor
    size: Tensor
    loss: Tensor
    forwards: Tensor
    backwards: Tensor
    steps: Tensor
    flags: Tensor
    stage: Tensor

    @classmethod
    def blank(cls, p: Tensor) -> "Record":
        """Return the record of rows that nobody has asked about; ``p`` changes nothing."""
        count = torch.zeros(len(p), dtype=torch.int64, device=p.device)
        worst = torch.full_like(count, -torch.inf, dtype=p.dtype)
        return cls(p, count.bool(), -worst, worst, count, count, count, count, count)

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
        stage=torch.where(wins, new.stage, old.stage),
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


class Jacobian(NamedTuple):
    """Logits (B, K) with their gradients (B, k, ...) for k classes, and the success, per row."""

    logits: Tensor
    grads: Tensor
    success: Tensor


@dataclass(frozen=True)
class Rules:
    """What holds for every query of one search.

    ``finds`` is what the answer is wanted for; a rule that ``strays`` asks about changes larger
    than eps as well, none of which is an answer.
    """

    victim: Victim
    perturbation: Perturbation
    loss: Loss
    access: Access
    finds: Finds
    budget: int | None = None
    eot: EOT | None = None
    strays: bool = False

    def expectation(self, objective: Objective) -> Expectation | None:
        """How the mean of an objective over random draws is taken, where one is asked for."""
        if self.eot is None:
            return None
        return Expectation(self.eot, self.perturbation, self.victim, objective)

    @cached_property
    def expected_loss(self) -> Expectation | None:
        """The mean of the loss over random draws, where one is asked for."""
        return self.expectation(self.loss)

    @property
    def forwards(self) -> int:
        """Forward passes of one query, without those that confirm a success."""
        return 1 if self.expected_loss is None else self.expected_loss.forwards


_NO_GRADIENT = (
    "no gradient reaches the input: the model detaches it or leaves torch. Use an attack that "
    "needs none (random_noise, random_search, grid), or give the broken part a differentiable "
    "stand-in (BPDA)."
)


def _logits(logits: Tensor, criterion: Criterion) -> Tensor:
    """Take the logits themselves for the objective."""
    return logits


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

    def __call__(
        self,
        p: Tensor,
        *,
        grad: bool = False,
        aim: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Probe:
        """Ask about the parameters ``p`` (B, ...); one forward pass per row, more under EOT.

        The loss heads for the classes ``aim`` (B,), -1 for the best wrong one, where they are given
        and the attack has no targets; whatever it heads for, any wrong class is then a success.
        Only ``rows`` (B,) bool ask, all by default. One that does not, or whose budget is spent, is
        not run: it gets its best loss so far, no success, and zeros for gradient and logits. If its
        budget is spent it leaves the search at the end of the step.

        Raises:
            AccessError: a gradient was asked for beyond the declared access.
            ValueError: no gradient reaches the input.

        """
        self._begin(grad)
        if aim is not None:
            criterion = self._problem.criterion._replace(aim=aim)
            self._problem = self._problem._replace(criterion=criterion)
        alive = self._alive(rows)
        if alive is None:
            return self._run(p, grad)
        probe = Probe(
            self.record.loss.clone(),
            torch.zeros_like(p) if grad else p.new_empty(0),
            torch.zeros_like(alive),
            self.record.loss.new_zeros(len(alive), self._rules.victim.classes or 2),
        )
        index = alive.nonzero().squeeze(1)
        if not len(index):
            return probe
        part = self._part(index)
        answer = part(p[index], grad=grad)
        self.record = put(self.record, index, part.record)
        return Probe(
            probe.loss.index_put((index,), answer.loss),
            probe.grad.index_put((index,), answer.grad) if grad else probe.grad,
            probe.success.index_put((index,), answer.success),
            probe.logits.index_put((index,), answer.logits),
        )

    def jacobian(
        self, p: Tensor, classes: Tensor | int | None = None, *, rows: Tensor | None = None
    ) -> Jacobian:
        """Ask about ``p`` (B, ...) and differentiate several logits: one forward, k backwards.

        ``classes`` (B, k) names the logits to differentiate, all K of them by default; a number
        stands for the label and the likeliest others there (see ``likeliest``). Under EOT logits
        are means over the draws. A row that does not ask, or whose budget is spent, gets zeros.

        Raises AccessError and ValueError as a query does.
        """
        self._begin(grad=True)
        alive = self._alive(rows)
        if alive is None:
            return self._run_jacobian(p, classes)
        count = self._rules.victim.classes or 2
        if isinstance(classes, int):
            wide = min(classes, count)
        else:
            wide = count if classes is None else classes.shape[1]
        found = Jacobian(
            p.new_zeros(len(p), count),
            p.new_zeros(len(p), wide, *p.shape[1:]),
            torch.zeros_like(alive),
        )
        index = alive.nonzero().squeeze(1)
        if not len(index):
            return found
        part = self._part(index)
        answer = part.jacobian(p[index], classes[index] if isinstance(classes, Tensor) else classes)
        self.record = put(self.record, index, part.record)
        return put(found, index, answer)

    def warn(self, rows: Tensor, flag: Flag) -> None:
        """Put a warning on the record of some rows (B,) bool."""
        flags = self.record.flags | torch.where(rows, int(flag), int(Flag.NONE))
        self.record = self.record._replace(flags=flags)

    def _begin(self, grad: bool) -> None:
        if grad and self._rules.access != "gradient":
            raise AccessError(
                f"a gradient was asked for, but the declared access is {self._rules.access!r}"
            )
        self._calls += 1

    def _alive(self, rows: Tensor | None) -> Tensor | None:
        """The rows that ask and can pay for it, those that cannot flagged; None where all do."""
        if self._rules.budget is None and rows is None:
            return None
        ask = torch.ones_like(self.record.success) if rows is None else rows
        alive = ask
        if self._rules.budget is not None:
            price = self._rules.forwards + (self._rules.victim.exact is not None)
            alive = ask & (self.record.forwards + price <= self._rules.budget)
        if alive.all():
            return None
        spent = torch.where(ask & ~alive, int(Flag.OUT_OF_BUDGET), 0)
        self.record = self.record._replace(flags=self.record.flags | spent)
        return alive

    def _part(self, index: Tensor) -> "Query":
        part = Query(self._rules, take(self._problem, index), take(self.record, index))
        part._calls = self._calls - 1
        return part

    def _run_jacobian(self, p: Tensor, classes: Tensor | int | None) -> Jacobian:
        rules = self._rules
        with torch.enable_grad():
            p = p.detach().requires_grad_()
            logits, _, success = self._score_by(_logits, rules.expectation(_logits), p)
            if not logits.requires_grad:
                raise ValueError(_NO_GRADIENT)
            if isinstance(classes, int):
                classes = likeliest(logits.detach(), self._problem.criterion.y, classes)
            wanted = logits if classes is None else logits.gather(1, classes)
            # The last gradient may free the graph.
            grads = [
                self._differentiate(column, p, keep=place + 1 < wanted.shape[1])
                for place, column in enumerate(wanted.unbind(1))
            ]
        logits, p = logits.detach().to(p.dtype), p.detach()
        criterion = self._problem.criterion
        loss = rules.loss(logits, criterion.aimed(logits))
        gradient, flags = self._inspect(torch.stack(grads, 1), loss)
        self._remember(p, loss, success, flags, backwards=self._draws * len(grads))
        return Jacobian(logits, gradient, success)

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
        return 1 if self._rules.eot is None else self._rules.eot.looks

    def _score(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._score_by(self._rules.loss, self._rules.expected_loss, p)

    def _score_by(
        self, objective: Objective, expected: Expectation | None, p: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rules, problem = self._rules, self._problem
        x, criterion = problem.x, problem.criterion
        if expected is not None:
            return expected.score(x, p, criterion, problem.draws, self._calls)
        logits = rules.victim(rules.perturbation.apply(x, p))
        loss = objective(logits, criterion.aimed(logits))
        return loss, logits, self._confirmed(p, criterion.success(logits.detach()))

    @torch.no_grad()
    def _confirmed(self, p: Tensor, success: Tensor) -> Tensor:
        """Where the victim stands in for another model, ask that one about each success."""
        exact = self._rules.victim.exact
        index = success.nonzero().squeeze(1)
        if exact is None or not len(index):
            return success
        problem = take(self._problem, index)
        logits = exact(self._rules.perturbation.apply(problem.x, p.detach()[index]))
        forwards = self.record.forwards.index_add(0, index, torch.ones_like(index))
        self.record = self.record._replace(forwards=forwards)
        return success.index_put((index,), problem.criterion.success(logits))

    def _differentiate(self, loss: Tensor, p: Tensor, keep: bool = False) -> Tensor:
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(
                loss.sum(), p, allow_unused=True, retain_graph=keep or None
            )
        if gradient is None:
            raise ValueError(_NO_GRADIENT)
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
        rules, old, problem = self._rules, self.record, self._problem
        size = old.size
        if rules.finds == "smallest" or rules.strays:
            size = rules.perturbation.size(problem.x, p)
        if rules.strays:
            legal = size <= rules.perturbation.limit(problem.eps)
            success, loss = success & legal, torch.where(legal, loss, -torch.inf)
        new = Record(
            p=p,
            success=success,
            size=size,
            loss=loss,
            forwards=old.forwards + rules.forwards,
            backwards=old.backwards + backwards,
            steps=old.steps,
            flags=old.flags | flags,
            stage=old.stage,
        )
        self.record = keep_better(rules.finds, old, new)
