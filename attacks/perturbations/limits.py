"""Checks of the fields of perturbation sets."""

from math import inf, isfinite


def number(owner: str, name: str, value: object, most: float = inf) -> None:
    """Check that a field is a finite number from 0 to ``most``.

    Raises:
        ValueError: it is not.

    """
    given = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not given or not 0 <= value <= most:  # type: ignore[operator]
        limit = f"from 0 to {most:g}" if isfinite(most) else "of at least 0"
        raise ValueError(f"{owner}: {name} must be a number {limit}; got {value!r}")
