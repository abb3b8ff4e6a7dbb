"""From the rows of pose searches to the lines of CSV files; no model and no file is looked at.

Every share is one of the samples that the model recognises as they are, which alone are attacked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from advbench.attacks.perturbations.pose import Pose
from advbench.attacks.perturbations.ranges import Axis, Ranges
from advbench.bench.store import Rows
from advbench.report.curves import Line, binned
from advbench.report.pictures import class_name
from advbench.report.trial import Hits, Mask, Rate

CONFIDENT = 0.7
"""Probability of the prediction from which an error counts as confident."""
BINS = 12
"""Bins of the angle by which an object is turned."""
_QUARTERS = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}

Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PoseTrial:
    """One search of a set of named ranges, judged on one model.

    ``key`` is that of the cell, ``surrogate`` names what the search was made on ("" for the model
    itself), ``terms`` are all that the rows depend on but the model. ``census`` says that it is one
    uniform draw per sample; ``points`` is into how many parts a sweep cuts a range, None for other
    searches; ``inside`` says that it stays within the set instead of looking for the smallest
    change, and ``until`` that a sample costs what was spent before it fell. ``eps`` is the scale it
    was run at, ``limit`` the largest size that counts, ``targets`` the class to reach.
    """

    key: str
    model: str
    dataset: str
    attack: str
    perturbation: str
    ranges: Ranges
    eps: float
    limit: float
    seed: int
    classes: tuple[str, ...]
    rows: Rows
    terms: str
    surrogate: str = ""
    targets: int | None = None
    census: bool = False
    points: int | None = None
    inside: bool = True
    until: bool = True

    def facts(self) -> Line:
        """Return the columns that say which trial a line is about."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "perturbation": self.perturbation,
            "ranges": reach(self.ranges, self.eps),
            "eps": self.eps,
            "seed": self.seed,
        }

    @property
    def wrong(self) -> Mask:
        """Which samples (N,) were recognised and no longer are."""
        rows = self.rows
        found: Mask = rows["attacked"] & rows["success"] & (rows["size"] <= self.limit)
        return found

    @property
    def right(self) -> Mask:
        """Which samples (N,) were recognised and still are."""
        found: Mask = self.rows["attacked"] & ~self.wrong
        return found

    def fell(self) -> Hits:
        """Return what was taken for a wrong class, or for the class to reach, of the others."""
        rows = self.rows
        if self.targets is None:
            return Hits(rows["attacked"], self.wrong)
        others = rows["attacked"] & (rows["label"] != self.targets)
        reached = (rows["prediction"] == self.targets) & (rows["size"] <= self.limit)
        return Hits(others, others & reached)


def reach(ranges: Ranges, eps: float) -> str:
    """Return in words how far the numbers of a set may go at ``eps``."""
    axes = ranges.axes
    parts = []
    if ranges.ball:
        parts.append(f"rotation up to {axes[0].reach * eps:.4g} deg")
        axes = axes[3:]
    return ", ".join([*parts, *(_span(axis, eps) for axis in axes)])


def _span(axis: Axis, eps: float) -> str:
    low, high = axis.ends
    span = f"+-{high * eps:.4g}" if -low == high else f"{low * eps:.4g} to {high * eps:.4g}"
    return f"{axis.name} {span}{_unit(axis)}"


def entropy(counts: Counts) -> float | None:
    """Return the entropy in bits of what was counted (K,), None of nothing.

    It is that of the shares observed, and too low where few were counted.
    """
    total = counts.sum()
    if not total:
        return None
    shares = counts[counts > 0] / total
    return round(float(-(shares * np.log2(shares)).sum()) + 0.0, 6)


def share_lines(trials: Sequence[PoseTrial]) -> list[Line]:
    """Return the share of each set that is seen right, and what the errors are; a line a census.

    ``confident`` counts the errors with a probability of at least 0.7; ``entropy`` is that of the
    wrong classes in bits, ``common`` the most frequent of them and ``common_share`` its share of
    the errors.
    """
    lines = []
    for trial in _censuses(trials):
        sure = trial.wrong & (trial.rows["confidence"] >= CONFIDENT)
        confident = Hits(trial.rows["attacked"], sure).rate()
        low, high = confident.interval
        lines.append(
            {
                **trial.facts(),
                **_right(trial, trial.rows["attacked"]),
                "confident": confident.hits,
                "confident_share": confident.rate,
                "confident_low": low,
                "confident_high": high,
                **_errors(trial, trial.wrong),
                "key": trial.key,
            }
        )
    return lines


def label_lines(trials: Sequence[PoseTrial]) -> list[Line]:
    """Return the same of each true class alone, without the confidence."""
    lines = []
    for trial in _censuses(trials):
        for number in np.unique(trial.rows["label"]).tolist():
            own = trial.rows["attacked"] & (trial.rows["label"] == number)
            line = {**trial.facts(), "label": class_name(trial.classes, number)}
            errors = _errors(trial, trial.wrong & own)
            lines.append({**line, **_right(trial, own), **errors, "key": trial.key})
    return lines


def distance_lines(trials: Sequence[PoseTrial], bins: int = BINS) -> list[Line]:
    """Return the share seen right by the angle in degrees from the canonical pose.

    The bins, of equal width, cover what the set can reach. Only sets that turn objects have lines.
    """
    lines = []
    for trial in _censuses(trials):
        farthest = _farthest(trial)
        if not farthest:
            continue
        which = binned(trial.rows["turned"], 0, farthest, bins)
        edges = np.linspace(0, farthest, bins + 1).round(6).tolist()
        for number, (low, high) in enumerate(pairwise(edges)):
            line = {**trial.facts(), "angle_from": low, "angle_to": high}
            right = _right(trial, trial.rows["attacked"] & (which == number))
            lines.append({**line, **right, "key": trial.key})
    return lines


def flip_lines(trials: Sequence[PoseTrial]) -> list[Line]:
    """Return the quartiles of the smallest turn to a mistake, for sweeps of a single angle.

    In degrees, to within one ``step``. A sample that never flips counts as an infinite turn: a
    quartile is empty where fewer than that share flip. ``never`` is the share that does not.
    """
    lines = []
    for trial in trials:
        axes = trial.ranges.axes
        if trial.points is None or trial.surrogate or len(axes) > 1 or not _unit(axes[0]):
            continue
        fell = trial.fell()
        turns = np.where(fell.hit, np.abs(trial.rows[axes[0].name]), np.inf)[fell.counted]
        never = Rate(len(turns), int(np.isinf(turns).sum()))
        low, high = never.interval
        lines.append(
            {
                **trial.facts(),
                "axis": axes[0].name,
                "n": never.n,
                "step": _digits(axes[0].reach * trial.eps / trial.points),
                **{name: _quantile(turns, share) for name, share in _QUARTERS.items()},
                "never": never.rate,
                "never_low": low,
                "never_high": high,
                "key": trial.key,
            }
        )
    return lines


def render_lines(trials: Sequence[PoseTrial]) -> list[Line]:
    """Return the share that fell within so many renders, for every search on the model itself.

    A forward pass is one render, a backward pass counts as one more. The lines of a search end
    with the most that it spent on any sample. A census is no search.
    """
    lines = []
    for trial in trials:
        if trial.census or trial.surrogate or not trial.until:
            continue
        fell = trial.fell()
        spent = trial.rows["forwards"] + trial.rows["backwards"]
        for renders in _budgets(int(spent[fell.counted].max(initial=1))):
            line = {**trial.facts(), "attack": trial.attack, "targets": trial.targets}
            line |= {"finds": "inside" if trial.inside else "smallest", "renders": renders}
            rate = Hits(fell.counted, fell.hit & (spent <= renders)).rate()
            lines.append({**line, **rate.table(), "key": trial.key})
    return lines


def transfer_lines(trials: Sequence[PoseTrial]) -> list[Line]:
    """Return how many failures of one model are failures of another.

    ``kind`` says of what: "same poses" compares two censuses, sample by sample, among those that
    both models recognise as they are; "surrogate" are poses searched on one model and judged on
    the other. ``n`` are the failures of the model ``made_on``, ``rate`` is the share of them that
    fool ``judged_on``, and ``anyway`` the share that this one gets wrong whatever the first says.
    """
    alike: dict[tuple[str, str, str], list[PoseTrial]] = {}
    for trial in _censuses(trials):
        alike.setdefault((trial.dataset, trial.attack, trial.terms), []).append(trial)
    lines = [
        _same_poses(one, other)
        for group in alike.values()
        for one, other in permutations(group, 2)
        if one.model != other.model
    ]
    for trial in trials:
        if trial.surrogate:
            fell = trial.fell()
            rate = Hits(fell.counted & trial.rows["claimed"], fell.hit).rate()
            lines.append(_pair("surrogate", trial.surrogate, trial, rate, None))
    return lines


def _same_poses(one: PoseTrial, other: PoseTrial) -> Line:
    both: Mask = one.rows["attacked"] & other.rows["attacked"]
    rate = Hits(both & one.wrong, other.wrong).rate()
    return _pair("same poses", one.model, other, rate, Hits(both, other.wrong).rate().rate)


def _pair(kind: str, made_on: str, trial: PoseTrial, rate: Rate, anyway: float | None) -> Line:
    facts = trial.facts()
    judged_on = facts.pop("model")
    return {
        "kind": kind,
        **facts,
        "attack": trial.attack,
        "made_on": made_on,
        "judged_on": judged_on,
        **rate.table(),
        "anyway": anyway,
        "key": trial.key,
    }


def _censuses(trials: Sequence[PoseTrial]) -> list[PoseTrial]:
    return [trial for trial in trials if trial.census and not trial.surrogate]


def _right(trial: PoseTrial, among: Mask) -> Line:
    """How many samples are seen right of those that are asked about, with interval."""
    rate = Hits(among, trial.right).rate()
    low, high = rate.interval
    return {"n": rate.n, "right": rate.hits, "share": rate.rate, "low": low, "high": high}


def _errors(trial: PoseTrial, wrong: Mask) -> Line:
    """What samples are taken for; of several classes as frequent the first."""
    labels, counts = np.unique(trial.rows["prediction"][wrong], return_counts=True)
    most = int(counts.argmax()) if len(counts) else None
    return {
        "wrong": int(counts.sum()),
        "entropy": entropy(counts),
        "common": None if most is None else class_name(trial.classes, int(labels[most])),
        "common_share": None if most is None else round(float(counts[most] / counts.sum()), 6),
    }


def _farthest(trial: PoseTrial) -> float:
    """The largest angle that a set can turn an object by, at most; 0 where it turns none."""
    ranges = trial.ranges
    if not isinstance(ranges, Pose) or not ranges.rotation.axes:
        return 0.0
    reaches = [axis.reach for axis in ranges.rotation.axes]
    return min(180.0, trial.eps * (reaches[0] if ranges.ball else sum(reaches)))


def _budgets(most: int) -> list[int]:
    """Numbers of renders, two in every doubling, and the last one."""
    grid = {1} | {base << power for base in (2, 3) for power in range(most.bit_length())}
    return [*sorted(renders for renders in grid if renders < most), most]


def _quantile(turns: NDArray[np.float64], share: float) -> float | None:
    """The smallest turn within which so large a share flips; None where it never does."""
    if not len(turns):
        return None
    found = float(np.quantile(turns, share, method="inverted_cdf"))
    return _digits(found) if np.isfinite(found) else None


def _unit(axis: Axis) -> str:
    return " deg" if np.isfinite(axis.turn) else ""


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
