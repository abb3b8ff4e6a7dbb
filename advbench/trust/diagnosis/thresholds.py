"""The thresholds of all checks, and the one rule of when rows are more than chance.

Frozen on nets of the digits, seeds 0 to 2; `results/diagnosis/panel.md` measures them on others.
"""

ROWS = 5
"""Rows that another search alone broke: fewer are no evidence at 5 % (exact McNemar, 5 to 0)."""
GAP = 0.02
"""And their share: up to this much an honest search that has not finished leaves to any other."""
SMALL_GAP = 0.01
"""The same for searches that are far too weak to be ahead of one that is not misled."""

SAME_ANSWER = 1e-4
"""How far two answers, scaled to length 1, may lie apart by rounding (Croce and Hein's figure)."""
PROBABILITY = 1e-5
"""How far a row of probabilities may miss the sum of 1 (Croce and Hein's figure)."""

ZERO = 1e-6
"""A gradient is zero below this share of the median of all rows, or below the next in itself."""
ZERO_EXACTLY = 1e-10
ZERO_SHARE = 0.01
"""Rows with a gradient of zero; honest nets have none."""
SATURATED = 0.1
"""Rows that the margin broke and the cross-entropy did not: up to 0.04 on honest nets."""
LINEAR = (0.5, 2.0)
"""What a step gains over what the gradient foretells, in the median: 1.0 to 1.1 on honest nets."""
RUGGED = 0.15
"""Relative change of the margin by noise of half of eps: up to 0.1 on honest nets."""
UNBOUNDED = 0.01
"""Rows that a search in the whole box leaves."""
MISLED = 0.25
"""Rows, of those left, on which a wide ball gets much further: up to 0.14 on honest nets."""
UNFINISHED = 0.05
"""What the last steps of a search add to its rise as a whole, per row."""
UNFINISHED_SHARE = 0.25
"""Rows of those left that are unfinished."""


def stronger(rows: int, n: int, gap: float = GAP) -> bool:
    """Tell whether `rows` of `n`, broken by another search alone, say that a search was misled."""
    return rows >= ROWS and rows > gap * n
