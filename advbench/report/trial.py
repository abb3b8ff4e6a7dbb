"""One sticker judged on one model, and how often it succeeded there."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advbench.attacks.perturbations.patch import Patch
from advbench.bench.store import Rows
from advbench.trust.statistics import wilson

CAUTION = (
    "Measured on digital images only. How often a sticker succeeds there does not predict how "
    "often its print succeeds in front of a camera: see REAP (Hingun et al., ICCV 2023, "
    "arXiv:2212.05680)."
)
"""Stands beside every number of a sticker."""

Mask: TypeAlias = NDArray[np.bool_]


class Rate(NamedTuple):
    """How many of ``n`` samples were hit."""

    n: int
    hits: int

    @property
    def rate(self) -> float | None:
        """The share, None of nothing."""
        return round(self.hits / self.n, 6) if self.n else None

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """The 95 % Wilson interval of the share."""
        if not self.n:
            return None, None
        low, high = wilson(self.hits, self.n)
        return round(low, 6), round(high, 6)

    def table(self) -> dict[str, Any]:
        """Return ``n``, ``rate``, ``low`` and ``high``; JSON throughout."""
        low, high = self.interval
        return {"n": self.n, "rate": self.rate, "low": low, "high": high}


class Hits(NamedTuple):
    """Which samples count and which of these were hit, both (N,)."""

    counted: Mask
    hit: Mask

    def rate(self, where: Mask | None = None) -> Rate:
        """Return the rate among the samples ``where`` (N,), or among all."""
        among = self.counted if where is None else self.counted & where
        return Rate(int(among.sum()), int((among & self.hit).sum()))


@dataclass(frozen=True, eq=False)
class Trial:
    """One fitted sticker judged on one model.

    ``key`` is that of the cell, ``recipe`` tells attacks of the same name apart, ``made_on`` names
    the models it was fitted to ("a + b" for several), ``control`` says that it was not optimised,
    ``area`` is the share of the image it was made to cover and ``limit`` the most that counts;
    ``asked`` are the budget and the draws of an EOT.
    """

    key: str
    model: str
    made_on: str
    dataset: str
    attack: str
    recipe: str
    control: bool
    perturbation: str
    patch: Patch
    area: float
    limit: float
    targets: int | None
    seed: int
    classes: tuple[str, ...]
    rows: Rows
    asked: tuple[int | None, int | None] = (None, None)

    @property
    def terms(self) -> tuple[Any, ...]:
        """What a control shares with the sticker that it stands beside."""
        return (self.model, self.made_on, self.dataset, self.area, *self._pasting)

    @property
    def series(self) -> tuple[Any, ...]:
        """What trials that differ in their area alone have in common."""
        who = (self.model, self.made_on, self.dataset, self.attack, self.recipe)
        return (*who, *self._pasting)

    @property
    def _pasting(self) -> tuple[Any, ...]:
        picture = self.patch.picture
        side = None if picture is None else picture.shape[-1]
        bare = replace(self.patch, picture=None, resolution=None, penalties=())
        return (bare, side, self.targets, self.seed, self.asked)

    @property
    def goal(self) -> str:
        """What the sticker is for, in words."""
        if self.targets is None:
            return "any wrong class"
        return f"class {self.classes[self.targets]}"

    def facts(self) -> dict[str, Any]:
        """Return the columns that say which trial a line is about."""
        return {
            "dataset": self.dataset,
            "attack": self.attack,
            "control": int(self.control),
            "perturbation": self.perturbation,
            "targets": self.targets,
            "seed": self.seed,
            "made_on": self.made_on,
            "judged_on": self.model,
            "area": self.area,
        }

    def untargeted(self) -> Hits:
        """Return what was no longer seen right, of what had been."""
        rows = self.rows
        return Hits(rows["attacked"], rows["success"] & (rows["size"] <= self.limit))

    def targeted(self) -> Hits | None:
        """Return what was taken for the class to reach, of the other classes; None without one."""
        if self.targets is None:
            return None
        rows = self.rows
        counted = rows["attacked"] & (rows["label"] != self.targets)
        return Hits(counted, (rows["prediction"] == self.targets) & (rows["size"] <= self.limit))

    def hits(self) -> dict[str, Hits]:
        """Return the measures that the sticker has, the one it was made for first."""
        targeted = self.targeted()
        aimed = {} if targeted is None else {"targeted": targeted}
        return {**aimed, "untargeted": self.untargeted()}

    def measured(self) -> float | None:
        """Return the mean opacity over the stored rows, the area really covered."""
        sizes = self.rows["size"][self.rows["attacked"]]
        return float(f"{sizes.mean():.6g}") if len(sizes) else None


def controls_of(trial: Trial, trials: Iterable[Trial]) -> list[Trial]:
    """Return the controls pasted on the same terms, each kind once."""
    found: dict[tuple[str, str], Trial] = {}
    for other in trials:
        if other.control and other.terms == trial.terms:
            found.setdefault((other.attack, other.recipe), other)
    return list(found.values())
