"""What the stored rows of cells say of each sample, and what is counted from that."""

from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from advbench.bench.store import Rows
from advbench.trust.statistics import clopper_pearson, wilson

Row: TypeAlias = dict[str, Any]
"""A line of the summary."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What one cell, or several together, say of each sample at one eps; all (N,).

    Shares of draws are 0 or 1 for a model that does not answer at random.
    """

    index: NDArray[np.int64]
    correct: NDArray[np.bool_]
    clean: NDArray[np.float64]  # share of draws that are right without attack
    right: NDArray[np.float64]  # share of draws that are right in spite of it
    screened: NDArray[np.float64]  # the same of other draws, to choose between attacks by
    random: bool
    attacked: NDArray[np.bool_]
    broken: NDArray[np.bool_]
    broken_8bit: NDArray[np.bool_]
    size: NDArray[np.float64]  # infinite where not broken
    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]
    bounded: bool  # whether anybody has looked for proofs
    certified: NDArray[np.bool_]  # proven robust

    @classmethod
    def of(cls, rows: Rows, limit: float, eps: float) -> Self:
        """Read them off the rows of a cell at `eps`: changes of a size up to `limit` count."""
        inside = rows["size"] <= limit
        broken = rows["success"] & inside
        correct = rows["clean_correct"]
        clean, right = correct.astype(float), (correct & ~broken).astype(float)
        screened, random = right, "right" in rows
        if random:
            clean = rows["clean_right"]
            right = np.where(inside, rows["right"], clean)
            screened = np.where(inside, rows["screened"], rows["clean_screened"])
        return cls(
            index=rows["index"],
            correct=correct,
            clean=clean,
            right=right,
            screened=screened,
            random=random,
            attacked=rows["attacked"],
            broken=broken,
            broken_8bit=broken & rows["success_8bit"],
            size=np.where(broken, rows["size"], np.inf),
            forwards=rows["forwards"],
            backwards=rows["backwards"],
            bounded="certified_eps" in rows,
            certified=rows.get("certified_eps", np.full(len(correct), -1)) >= eps,
        )

    def joined(self, other: Self) -> Self:
        """Both attacks as if they were one: on each sample the worse, at the smaller size."""
        if not np.array_equal(self.index, other.index):
            raise ValueError("cells of one group hold different samples")
        worse = other.screened < self.screened
        return replace(
            self,
            right=np.where(worse, other.right, self.right),
            screened=np.where(worse, other.screened, self.screened),
            attacked=self.attacked | other.attacked,
            broken=np.where(worse, other.broken, self.broken),
            broken_8bit=self.broken_8bit | other.broken_8bit,
            size=np.minimum(self.size, other.size),
            forwards=self.forwards + other.forwards,
            backwards=self.backwards + other.backwards,
            bounded=self.bounded | other.bounded,
            certified=self.certified | other.certified,
        )

    def numbers(self) -> Row:
        """Return the columns of the table that are counted from the samples."""
        n, attacked = len(self.correct), int(self.attacked.sum())
        robust = float(self.right.sum())
        low, high = wilson(robust, n)
        fooled, correct = int(self.broken.sum()), int(self.correct.sum())
        least, most = wilson(fooled, correct) if correct else (0.0, 1.0)
        sizes = self.size[self.broken]
        kept_8bit = self.correct & ~self.broken_8bit
        return {
            "n": n,
            "clean_accuracy": share(self.clean.sum(), n),
            "robust_accuracy": share(robust, n),
            "robust_low": round(low, 6),
            "robust_high": round(high, 6),
            "success_rate": share(fooled, correct),
            "success_low": round(least, 6),
            "success_high": round(most, 6),
            "median_size": float(f"{np.median(sizes):.6g}") if len(sizes) else None,
            "forwards": share(self.forwards[self.attacked].sum(), attacked),
            "backwards": share(self.backwards[self.attacked].sum(), attacked),
            "robust_8bit": None if self.random else share(kept_8bit.sum(), n),
        } | (_proven(self.certified) if self.bounded else {})


def share(part: Any, whole: int) -> float | None:
    """Return a share as a table shows it; None of nothing."""
    return round(float(part) / whole, 6) if whole else None


def _proven(certified: NDArray[np.bool_]) -> Row:
    n, count = len(certified), int(certified.sum())
    low, high = clopper_pearson(count, n)
    return {
        "certified_accuracy": share(count, n),
        "certified_low": round(low, 6),
        "certified_high": round(high, 6),
    }
