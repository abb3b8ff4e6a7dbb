"""Names to classes: everything advbench can run is found through entry points.

The built-in attacks, perturbation sets, losses, defences, architectures and datasets are declared
in the same entry-point groups (`advbench.attacks`, …) as those of any other installed package.
Reading names imports none of them; `get` imports exactly the one that is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

KINDS = (
    "attacks",
    "perturbations",
    "rotations",
    "masks",
    "penalties",
    "losses",
    "views",
    "defenses",
    "models",
    "datasets",
)


@dataclass(frozen=True)
class Plugin:
    """What is known of a registered name without importing it."""

    kind: str
    name: str
    value: str  # "module:object"
    distribution: str
    version: str

    @property
    def module(self) -> str:
        """Dotted name of the module that holds the class."""
        return self.value.partition(":")[0]

    @property
    def attribute(self) -> str:
        """Qualified name of the class inside its module."""
        return self.value.partition(":")[2].partition("[")[0].strip()


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the choice nearest to what was given, or an empty string."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.5)
    return f" Did you mean '{lowered[near[0]]}'?" if near else ""


def names(kind: str) -> list[str]:
    """Return the registered names of a kind in alphabetical order."""
    return sorted(_plugins(kind))


def describe(kind: str, name: str) -> Plugin:
    """Return the facts of one registered name without importing it.

    Raises ValueError for an unknown kind or name, and where two distributions claim the name.
    """
    plugins = _plugins(kind)
    if name not in plugins:
        raise ValueError(
            f"there is no {_singular(kind)} named '{name}'.{did_you_mean(name, plugins)} "
            f"Choices: {', '.join(sorted(plugins)) or 'none are installed'}."
        )
    claims = plugins[name]
    if len(claims) > 1:
        owners = " and ".join(f"{p.distribution} {p.version} ({p.value})" for p in claims)
        raise ValueError(
            f"the {_singular(kind)} name '{name}' is claimed by {owners}; uninstall one of them."
        )
    return claims[0]


@cache
def get(kind: str, name: str) -> type:
    """Import and return the class registered under a name.

    Raises ValueError as `describe` does, and ImportError, naming the plugin and its distribution,
    where the module cannot be imported.
    """
    plugin = describe(kind, name)
    try:
        loaded = EntryPoint(name, plugin.value, f"advbench.{kind}").load()
    except Exception as error:
        raise ImportError(
            f"the {_singular(kind)} '{name}' ({plugin.value}) of {plugin.distribution} "
            f"{plugin.version} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, type):
        raise ImportError(
            f"the {_singular(kind)} '{name}' ({plugin.value}) of {plugin.distribution} "
            f"{plugin.version} is not a class but {loaded!r}"
        )
    return loaded


def name_of(cls: type) -> str:
    """Return the registered name of a class, or `module:Class` where it has none."""
    address = f"{cls.__module__}:{cls.__qualname__}"
    claims = [p for kind in KINDS for owned in _plugins(kind).values() for p in owned]
    for plugin in claims:
        if plugin.value == address:
            return plugin.name
    for plugin in claims:  # registered through a module that re-exports it
        if plugin.attribute.endswith(cls.__name__) and get(plugin.kind, plugin.name) is cls:
            return plugin.name
    return address


@cache
def _plugins(kind: str) -> dict[str, tuple[Plugin, ...]]:
    """Every claim to every name of a kind; a distribution seen twice on the path counts once."""
    if kind not in KINDS:
        raise ValueError(f"there is no kind '{kind}'.{did_you_mean(kind, KINDS)}")
    claims: dict[str, dict[Plugin, None]] = {}
    for point in entry_points(group=f"advbench.{kind}"):
        owner = point.dist
        plugin = Plugin(
            kind,
            point.name,
            point.value.replace(" ", ""),
            owner.name if owner else "unknown",
            owner.version if owner else "unknown",
        )
        claims.setdefault(point.name, {})[plugin] = None
    return {name: tuple(owned) for name, owned in claims.items()}


def _singular(kind: str) -> str:
    odd = {"losses": "loss", "models": "architecture", "penalties": "penalty"}
    return odd.get(kind, kind.removesuffix("s"))
