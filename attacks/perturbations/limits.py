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


def interval(owner: str, name: str, value: tuple[object, ...]) -> None:
    """Check that a field is a pair of finite numbers with 0 between them.

    Raises:
        ValueError: it is not.

    """
    good = len(value) == 2 and all(type(end) in (int, float) and isfinite(end) for end in value)  # type: ignore[arg-type]
    if not good or not value[0] <= 0 <= value[1]:  # type: ignore[operator]
        raise ValueError(f"{owner}: {name} must go from at most 0 to at least 0; got {value!r}")
