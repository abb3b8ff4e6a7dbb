"""The gate itself: two sides of the same searches, each tried with the changes of the other."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from advbench.bench.groups import Group
from advbench.bench.plan import Cell, Victim
from advbench.bench.run import Runner
from advbench.bench.store import flat, to_json
from advbench.bench.verdicts import Row
from advbench.config import GateSection
from advbench.gate.baseline import BaselineError
from advbench.gate.side import Side, Standing, cell_of, falls, searches_of
from advbench.gate.verdict import Comparison, Pair, Verdict, compare, overall
from advbench.trust.statistics import tango_upper

STOPS = {
    "zero_gradient": 0.01,
    "non_finite": 0.0,
    "hidden_gradient": 0.0,
    "one_draw": 0.0,
    "black_box_stronger": 0.0,
    "transfer_stronger": 0.0,
}
"""Flags of the table of which a larger share than this is an alarm."""
_MISSED, _FEW = 0.02, 5
"""The share of the attacked samples, and their number, which stored changes may break where a new
search did not: beyond both, the new search has become weak."""


@dataclass(frozen=True)
class Replay:
    """What the changes of one side did to the model of the other.

    `tried` counts the changes, `broke` those that fooled the model, `only` the samples that its own
    search had left standing. `forward` says that changes of the baseline met the model of now.
    """

    name: str
    forward: bool
    tried: int
    broke: int
    only: int


@dataclass(frozen=True)
class Report:
    """The answer of a gate: comparisons, replays, and what speaks against them.

    `alarms` say why the numbers cannot be trusted; `notes` what else a reader should know;
    `searched` whether the model of now was attacked anew.
    """

    terms: GateSection
    comparisons: tuple[Comparison, ...]
    replays: tuple[Replay, ...] = ()
    alarms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    searched: bool = True

    @property
    def verdict(self) -> Verdict:
        """The verdict on all comparisons together."""
        if self.alarms:
            return Verdict.INVALID
        return overall([one.verdict for one in self.comparisons])

    @property
    def outcome(self) -> Verdict:
        """The verdict, or what an inconclusive one was agreed to come to."""
        lenient = self.terms.inconclusive == "pass" and self.verdict is Verdict.INCONCLUSIVE
        return Verdict.PASS if lenient else self.verdict


def gate(
    baseline: Side,
    now: Side,
    cells: Sequence[Cell],
    terms: GateSection,
    before: Mapping[str, Victim],
    batch_size: int = 128,
) -> Report:
    """Compare two sides.

    Args:
        baseline: the side that is trusted.
        now: the side in question, measured with `cells`.
        cells: the searches, with the models of now.
        terms: what was agreed on.
        before: models of the baseline by label, as far as they are at hand; what was found now is
            tried on them.
        batch_size: inputs at a time.

    Raises:
        BaselineError: the two are not of the same searches on the same samples, or so few that
            nothing could pass.

    """
    check_alike(baseline, now.searches)
    pairs: list[Pair] = []
    replays: list[Replay] = []
    for group, then in baseline.groups.items():
        cell, standing = cell_of(cells, group), now.groups[group]
        new, forward = _tried(standing, then, group, cell, cell.victim, batch_size)
        replays.append(forward)
        old = then
        if group.model in before:
            old, back = _tried(then, standing, group, cell, before[group.model], batch_size)
            replays.append(replace(back, forward=False))
        pairs += _pairs(group, old, new)
    tried = [one for one in replays if one.tried]
    alarms = [*flagged(now.table), *_weak(tried)]
    return Report(
        terms,
        _compared(pairs, terms),
        tuple(tried),
        tuple(alarm for alarm in alarms if alarm not in baseline.accepted),
        tuple(_notes(baseline, now, before, alarms)),
    )


def quick(baseline: Side, cells: Sequence[Cell], terms: GateSection, runner: Runner) -> Report:
    """Ask the models of now about the samples and the changes of the baseline, without any search.

    It takes a moment and finds most of what a model has lost: it can fail, but never pass.

    Raises:
        BaselineError: as `gate`, or the baseline has no changes.

    """
    check_alike(baseline, searches_of(cells))
    if all(one.changes is None for one in baseline.groups.values()):
        raise BaselineError("the baseline has no changes to try: write it again with --update")
    pairs: list[Pair] = []
    replays: list[Replay] = []
    for group, then in baseline.groups.items():
        cell = cell_of(cells, group)
        clean = runner.clean_pass(cell).correct.numpy().astype(float)
        unsearched = Standing(clean, clean, then.draws, None)
        now, tried = _tried(unsearched, then, group, cell, cell.victim, runner.batch_size)
        replays.append(tried)
        pairs += _pairs(group, then, now)
    compared = [
        replace(one, verdict=Verdict.INCONCLUSIVE) if one.verdict is Verdict.PASS else one
        for one in _compared(pairs, terms)
    ]
    notes = ("nothing was searched: this can fail a model, but not pass it",)
    lenient = replace(terms, inconclusive="pass")
    return Report(lenient, tuple(compared), tuple(replays), (), notes, searched=False)


def check_alike(baseline: Side, searches: Sequence[Mapping[str, object]]) -> None:
    """Raise BaselineError, showing the difference, where two sides did not do the same searches."""
    then, now = (
        flat(json.loads(to_json({"searches": list(side)})))
        for side in (baseline.searches, searches)
    )
    changed = [
        f"  {name}: {then.get(name, 'nothing')} in the baseline, {now.get(name, 'nothing')} now"
        for name in sorted(then | now)
        if then.get(name) != now.get(name)
    ]
    if changed:
        lines = "\n".join(changed[:20])
        raise BaselineError(
            f"the baseline is of other samples, attacks or versions, so nothing can be compared:\n"
            f"{lines}\nWrite it again, in a commit of its own, with --update."
        )


def flagged(table: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each flag of a table with which no number can be trusted."""
    for row in table:
        for part in filter(None, (row["flags"] or "").split(";")):
            flag, _, share = part.partition(":")
            if float(share) > STOPS.get(flag, math.inf):
                yield f"{row['model']}: {row['attack']} at {row['eps']:g}: {flag}"


def named(group: Group) -> str:
    """Return what a report calls the robust accuracy of a group."""
    made_on = f" from {group.surrogate}" if group.surrogate else ""
    return f"{group.model} on {group.dataset}: {group.perturbation} {group.eps:g}{made_on}"


def _tried(
    own: Standing, other: Standing, group: Group, cell: Cell, victim: Victim, batch_size: int
) -> tuple[Standing, Replay]:
    """Try the changes of the `other` side on a victim that has come to its `own` standing.

    A model that answers at random is left out: each further try would be another lucky draw.
    """
    if other.changes is None or own.draws > 1:
        return own, Replay(named(group), True, 0, 0, 0)
    fell = falls(cell, victim, group.eps, other.changes, batch_size) & (own.clean > 0)
    only = fell & (own.right > 0)
    tried = Replay(named(group), True, len(other.changes.places), int(fell.sum()), int(only.sum()))
    return replace(own, right=np.where(fell, 0.0, own.right)), tried


def _pairs(group: Group, then: Standing, now: Standing) -> list[Pair]:
    clean = f"{group.model} on {group.dataset}: clean accuracy"
    return [Pair(clean, then.clean, now.clean), Pair(named(group), then.right, now.right)]


def _compared(pairs: Sequence[Pair], terms: GateSection) -> tuple[Comparison, ...]:
    """Compare each accuracy once; raise BaselineError where samples are too few for any pass."""
    once = list({pair.name: pair for pair in pairs}.values())
    for pair in once:
        n = len(pair.now)
        if tango_upper(0, 0, n, terms.alpha) >= terms.margin:
            needed = math.ceil(-math.log(terms.alpha) / terms.margin)
            raise BaselineError(
                f"{pair.name}: {n} samples are too few for a margin of {terms.margin:g}: not even "
                f"the same model could pass. Take {needed} samples or more, or a larger margin."
            )
    return tuple(compare(once, terms))


def _weak(replays: Sequence[Replay]) -> Iterator[str]:
    """Yield a sentence for each search of now that missed what the baseline's had found."""
    for one in replays:
        if one.forward and one.only >= _FEW and one.only > _MISSED * one.tried:
            yield (
                f"{one.name}: {one.only} samples fall to changes of the baseline and to nothing "
                "found now: the search has become too weak"
            )


def _notes(
    baseline: Side, now: Side, before: Mapping[str, Victim], alarms: Sequence[str]
) -> Iterator[str]:
    for alarm in alarms:
        if alarm in baseline.accepted:
            yield f"known since the baseline: {alarm}"
    changed = [label for label, sha256 in now.models.items() if baseline.models[label] != sha256]
    for label in changed:
        if label not in before:
            yield (
                f"{label}: the model of the baseline is not at hand, so what was found now was not "
                "tried on it (--against)"
            )
    if not changed:
        yield "the models are those of the baseline"
    if all(one.changes is None for one in baseline.groups.values()):
        yield "the baseline has no changes to try on the models of now"
