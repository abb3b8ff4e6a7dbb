"""The search: the only loop in which a rule runs.

As many rows as fit are in flight. A row leaves when it is fooled, out of steps and restarts, or
out of budget, and the next waiting sample takes its place. Since the state of a rule is explicit
and per row, none of this is visible to the rule.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor

from advbench.attacks.attack import Attack, Task
from advbench.attacks.criterion import rivals
from advbench.attacks.flags import Flag
from advbench.attacks.losses import Loss
from advbench.attacks.query import Problem, Query, Record, Rules, keep_better
from advbench.attacks.rows import join, put, take


class State(Protocol):
    """What a rule remembers between steps: a named tuple of tensors, each (B, ...)."""

    @property
    def p(self) -> Tensor:
        """The current parameters of the perturbation set."""


S = TypeVar("S", bound=State)


class Rule(Attack, Generic[S]):
    """An attack that is an update rule with explicit state; a paper becomes one of these."""

    scores_last: ClassVar[bool] = True
    """Whether the parameters left by the last step still have to be scored."""
    queries_per_step: ClassVar[int] = 1
    """The most queries of one step."""
    ascending: ClassVar[bool] = False
    """Whether its queries go from small changes to large, so that the first success is smallest."""
    stops_itself: ClassVar[bool] = False
    """Whether its state has ``done`` (B,) bool: rows that have asked all they want to."""
    strays: ClassVar[bool] = False
    """Whether it may ask about more than eps, though no answer lies there.

    One that looks for the smallest change always may.
    """

    @property
    @abstractmethod
    def loss(self) -> Loss:
        """The objective that the rule increases."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """The iterations of one run."""

    @property
    @abstractmethod
    def restarts(self) -> int:
        """The independent runs, of which the best answer is kept."""

    @property
    def target_classes(self) -> int:
        """How many of the likeliest wrong classes are headed for one after the other; 0 for none.

        An attack that has targets of its own heads for those.
        """
        return 0

    @final
    @property
    def queries(self) -> int:
        """The most queries that the search spends on a sample: forward passes, without EOT."""
        run = self.steps * self.queries_per_step + self.scores_last
        return self.restarts * run * max(self.target_classes, 1) + self._wants_clean

    @final
    @property
    def _wants_clean(self) -> bool:
        return self.loss.wants_clean or self.target_classes > 0

    @abstractmethod
    def init(self, problem: Problem) -> S:
        """Return the state of fresh rows."""

    @abstractmethod
    def step(self, state: S, query: Query, problem: Problem) -> S:
        """Do one iteration, with one query or more, and return the next state."""

    @final
    def find(self, task: Task, record: Record) -> Record:
        """Run the rule on all samples of ``task``, going on from ``record``."""
        if self._wants_clean and task.criterion.clean is None:
            index = torch.arange(len(task.x), device=task.x.device)
            if task.budget is not None:
                able = record.forwards < task.budget
                spent = torch.where(able, 0, int(Flag.OUT_OF_BUDGET))
                record = record._replace(flags=record.flags | spent)
                index = able.nonzero().squeeze(1)
            if len(index) < len(task.x):
                if task.progress is not None:
                    task.progress(len(task.x) - len(index))
                if not len(index):
                    return record
                return put(record, index, self.find(task.select(index), take(record, index)))
            task = task._replace(criterion=task.criterion._replace(clean=_clean_logits(task)))
            record = record._replace(forwards=record.forwards + 1)
        if self.target_classes == 0 or task.criterion.targets is not None:
            return self._run(task, record)
        return self._head_for_each(task, record)

    def _head_for_each(self, task: Task, record: Record) -> Record:
        """Head for the likeliest wrong classes in turn; where a success is enough, only until it.

        Source: Gowal, Uesato, Qin, Huang, Mann, Kohli, "An alternative surrogate loss for PGD-based
        adversarial testing", 2019, arXiv:1910.09338.
        """
        criterion = task.criterion
        assert criterion.clean is not None
        order = rivals(criterion.clean, criterion.y)
        enough = task.stop == "success" and task.finds == "inside"
        for place in range(min(self.target_classes, order.shape[1])):
            rows = ~record.success if enough else torch.ones_like(record.success)
            index = rows.nonzero().squeeze(1)
            if not len(index):
                break
            part = task._replace(criterion=criterion._replace(aim=order[:, place]), progress=None)
            found = self._run(part.select(index).apart(place), take(record, index))
            record = put(record, index, found)
        if task.progress is not None:
            task.progress(len(task.x))
        return record

    def _run(self, task: Task, record: Record) -> Record:
        """Do the runs, all with the same aim."""
        count = len(task.x)
        places = count * self.restarts if task.batch_size is None else task.batch_size
        streams = torch.arange(self.restarts, device=task.x.device).repeat_interleave(count)
        if task.stop == "success" or task.budget is not None or count >= places:
            return _Loop(self, task, record, streams[:count], self.restarts).run()
        # No restart depends on an earlier one, so all of them fill the batch together.
        rows = torch.arange(count, device=task.x.device).repeat(self.restarts)
        blank = Record.blank(take(record, rows).p)
        many = task.select(rows)._replace(progress=None)
        answers = _Loop(self, many, blank, streams, 1).run()
        for run in range(self.restarts):
            new = take(answers, torch.arange(count, device=rows.device) + run * count)
            record = keep_better(task.finds, record, new.with_costs_of(record))
        if task.progress is not None:
            task.progress(count)
        return record


def _clean_logits(task: Task) -> Tensor:
    """Return the logits (N, K) of the samples as they are."""
    with torch.no_grad():
        batches = task.x.split(task.batch_size or len(task.x))
        return torch.cat([task.victim(images) for images in batches])


class _Flight(NamedTuple):
    """The rows in flight: whose they are, which restart they are at, and all that is known."""

    sample: Tensor
    restart: Tensor
    problem: Problem
    record: Record
    state: Any


class _Loop:
    def __init__(
        self, rule: Rule[Any], task: Task, answers: Record, streams: Tensor, restarts: int
    ) -> None:
        self.rule, self.task, self.streams, self.restarts = rule, task, streams, restarts
        self.answers = answers
        self.rules = Rules(
            task.victim,
            rule.perturbation,
            rule.loss,
            rule.access,
            task.finds,
            task.budget,
            task.eot,
            strays=rule.strays or rule.finds == "smallest",
        )
        self.early = task.stop == "success" and (task.finds == "inside" or rule.ascending)
        self.boarded = 0

    def run(self) -> Record:
        flight = self.board(None)
        while flight is not None:
            for _ in range(self.quiet_steps(flight)):
                flight = self.advance(flight)
            flight = self.land(flight)
        return self.answers

    def quiet_steps(self, flight: _Flight) -> int:
        """Count the steps before a row can leave: no need to look, no wait for the device."""
        if self.early or self.rules.budget is not None or self.rule.stops_itself:
            return 1
        return self.rule.steps - int(flight.problem.t.max())

    def board(self, flight: _Flight | None) -> _Flight | None:
        """Fill the free places with waiting samples."""
        places = self.task.batch_size or len(self.task.x)
        free = places - (0 if flight is None else len(flight.sample))
        stop = min(self.boarded + free, len(self.task.x))
        if stop <= self.boarded:
            return flight
        sample = torch.arange(self.boarded, stop, device=self.task.x.device)
        self.boarded = stop
        task = self.task.select(sample)
        problem = task.problem()
        draws = problem.draws._replace(stream=self.streams[sample])
        problem = problem._replace(draws=draws)
        record = take(self.answers, sample)
        new = _Flight(sample, torch.zeros_like(sample), problem, record, self.rule.init(problem))
        return new if flight is None else join(flight, new)

    def advance(self, flight: _Flight) -> _Flight:
        """Run one step of the rule on every row."""
        t = flight.problem.t + 1
        problem = flight.problem._replace(draws=flight.problem.draws._replace(number=t))
        query = Query(self.rules, problem, flight.record)
        state = self.rule.step(flight.state, query, problem)
        record = query.record._replace(steps=query.record.steps + 1)
        return flight._replace(problem=problem._replace(t=t), record=record, state=state)

    def land(self, flight: _Flight) -> _Flight | None:
        """Write down the rows that are done, restart those that may, and refill."""
        over = flight.problem.t >= self.rule.steps
        asked: Tensor = flight.state.done if self.rule.stops_itself else torch.zeros_like(over)
        if self.rule.scores_last:
            open_ = over & ~asked
            if self.early:
                open_ &= ~flight.record.success
            flight = self.score_last(flight, open_)
        over = over | asked
        done = over & (flight.restart + 1 >= self.restarts)
        if self.early:
            done = done | flight.record.success
        if self.rules.budget is not None:
            spent = flight.record.forwards + self.rules.forwards > self.rules.budget
            cut = torch.where(spent & ~done, int(Flag.OUT_OF_BUDGET), 0)
            record = flight.record._replace(flags=flight.record.flags | cut)
            flight, done = flight._replace(record=record), done | spent
        again = over & ~done
        if again.any():
            index = again.nonzero().squeeze(1)
            flight = put(flight, index, self.restart(take(flight, index)))
        if not done.any():
            return flight
        landed = take(flight, done)
        self.answers = put(self.answers, landed.sample, landed.record)
        if self.task.progress is not None:
            self.task.progress(len(landed.sample))
        return self.board(None if done.all() else take(flight, ~done))

    def restart(self, flight: _Flight) -> _Flight:
        """Begin again with fresh draws; the record, and with it the best answer, goes on."""
        old, zero = flight.problem, torch.zeros_like(flight.problem.t)
        draws = old.draws._replace(stream=old.draws.stream + 1, number=zero)
        problem = old._replace(draws=draws, t=zero)
        return flight._replace(
            restart=flight.restart + 1, problem=problem, state=self.rule.init(problem)
        )

    def score_last(self, flight: _Flight, rows: Tensor) -> _Flight:
        """Score the last iterate of ``rows``, which no query has seen."""
        if not rows.any():
            return flight
        index = rows.nonzero().squeeze(1)
        part = flight if len(index) == len(rows) else take(flight, index)
        problem = part.problem
        draws = problem.draws._replace(number=problem.t + 1)
        query = Query(self.rules, problem._replace(draws=draws), part.record)
        query(part.state.p)
        return flight._replace(record=put(flight.record, index, query.record))
