"""The zoo: small trained networks that come with advbench, each with a card."""

import json
from pathlib import Path
from typing import Any

from advbench.registry import did_you_mean

_WEIGHTS = Path(__file__).with_name("weights")


def names() -> list[str]:
    """The names of the zoo's networks, `<dataset>/<network>`, in alphabetical order."""
    return sorted(
        path.relative_to(_WEIGHTS).with_suffix("").as_posix() for path in _WEIGHTS.glob("*/*.json")
    )


def card(name: str) -> dict[str, Any]:
    """What is known of a network: recipe, data, accuracies, sha256 of the weights.

    Raises ValueError for a name that the zoo does not have.
    """
    found: dict[str, Any] = json.loads(_file(name, ".json").read_text(encoding="utf-8"))
    return found


def card_beside(path: Path) -> dict[str, Any] | None:
    """The card that `advbench train` wrote beside a weights file, if it is there.

    Raises ValueError, naming the card, where it cannot be read or is none.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{beside}: no JSON: {error}") from None
    needed = ("name", "architecture", "defenses", "normalize", "shape", "classes", "data", "sha256")
    lacking = [key for key in needed if not isinstance(found, dict) or key not in found]
    if lacking:
        raise ValueError(f"{beside}: no card of a network: {', '.join(lacking)} missing")
    return found


def path(name: str) -> Path:
    """The weights file of a network; raises ValueError for a name that the zoo does not have."""
    return _file(name, ".safetensors")


def _file(name: str, suffix: str) -> Path:
    known = names()
    if name not in known:
        raise ValueError(
            f"the zoo has no network '{name}'.{did_you_mean(name, known)} "
            f"Choices: {', '.join(known)}."
        )
    return _WEIGHTS / f"{name}{suffix}"
