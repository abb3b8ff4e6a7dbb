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
