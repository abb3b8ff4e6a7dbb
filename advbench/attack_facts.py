"""What each registered attack is, read from its class: for lists, pages and docs/attacks.md.

Nothing here is kept by hand: norms are those that the class can be built with, costs those of a
run, the paper is the one that the docstring names. `python -m advbench.attack_facts` writes the
tables of docs/attacks.md again.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import click
import torch
from torch import Tensor

from advbench import registry
from advbench.attacks.attack import Adversary, Attack, Fittable
from advbench.attacks.perturbations import Perturbation
from advbench.attacks.search import Rule
from advbench.files import write_atomic

NORMS = ("linf", "l2", "l1", "l0")
Kind = Literal["fixed budget", "minimum norm", "universal", "ensemble"]

_HEADINGS: dict[Kind, str] = {
    "fixed budget": "Inside a set of fixed size",
    "minimum norm": "The smallest change",
    "ensemble": "Several attacks together",
    "universal": "One change for all samples",
}
_ACCESS = ("gradient", "scores", "labels", "none")
_BEGIN, _END_MARK = "<!-- written by make docs -->", "<!-- up to here -->"
_SOURCE = re.compile(r"\bSource\b[^:.]*: *(.+)", re.DOTALL)
_END = re.compile(r"[.;:](?:\s|$)")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[\w-]+/\d{7})")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_LOOKED_AT = 128  # queries of a run that are counted; the rest goes on in the same way
_CLASSES = 10


@dataclass(frozen=True)
class AttackFacts:
    """What is known of one attack at its defaults.

    ``norms`` and ``sets`` are the names of the balls and of the other perturbation sets that it can
    be built with; ``queries`` and ``backwards`` are the passes on a sample that withstands, None
    for an attack that is fitted, to ``images`` training images; ``paper`` is an arXiv id or a short
    citation, empty where nobody is cited.
    """

    name: str
    summary: str
    family: Kind
    access: str
    norms: tuple[str, ...]
    sets: tuple[str, ...]
    queries: int | None
    backwards: int | None
    images: int | None
    paper: str
    citation: str


def facts(name: str) -> AttackFacts:
    """Return the facts of a registered attack; imports it.

    Raises ValueError or ImportError as `registry.get` does.
    """
    cls = registry.get("attacks", name)
    if not issubclass(cls, Adversary):
        raise ImportError(f"the attack '{name}' is no Attack or Fittable but {cls!r}")
    attack = default(cls)
    given = accepted(attack)
    cited = citation(inspect.getdoc(cls) or "")
    return AttackFacts(
        name=name,
        summary=(inspect.getdoc(cls) or "").partition("\n")[0],
        family=family(attack),
        access=cls.access,
        norms=tuple(norm for norm in NORMS if norm in given),
        sets=tuple(other for other in given if other not in NORMS),
        queries=attack.queries if isinstance(attack, Attack) else None,
        backwards=backwards(attack) if isinstance(attack, Attack) else None,
        images=attack.images if isinstance(attack, Fittable) else None,
        paper=short(cited),
        citation=cited,
    )


def default(cls: type[Adversary]) -> Adversary:
    """Build an attack with its defaults; with those of its first example where some are missing."""
    needed = (
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(cls)
        if field.init
    )
    return cls.examples()[0] if any(needed) else cls()


def family(attack: Adversary) -> Kind:
    """Return what an attack looks for: a change in a set, the smallest, one for all samples."""
    if isinstance(attack, Fittable):
        return "universal"
    if len(parts(attack)) > 1:
        return "ensemble"
    return "minimum norm" if attack.finds == "smallest" else "fixed budget"


def parts(attack: Adversary) -> tuple[Attack, ...]:
    """Return the attacks that an attack is made of: those in its fields and its properties."""
    names = [field.name for field in dataclasses.fields(attack)]
    for name, _ in inspect.getmembers(type(attack), lambda one: isinstance(one, property)):
        names += [name] if name not in names else []
    return tuple(one for name in names for one in _attacks(getattr(attack, name)))


def accepted(attack: Adversary) -> tuple[str, ...]:
    """Return the names of the perturbation sets that an attack can search, in its other settings.

    Those are all with which it, or each attack inside it, can be built.
    """
    found = []
    for name in registry.names("perturbations"):
        set_ = registry.get("perturbations", name)()
        try:
            fits = isinstance(inside(attack, set_).perturbation, type(set_))
        except (TypeError, ValueError):
            continue
        if fits:
            found.append(name)
    return tuple(found)


def inside(attack: Any, perturbation: Perturbation) -> Any:
    """Return the same attack, and the same attacks in it, in another perturbation set.

    Raises TypeError or ValueError as the class does for a set that it cannot search.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(attack):
        value = getattr(attack, field.name)
        if field.name == "perturbation":
            wanted = typing.get_type_hints(type(attack))[field.name]
            if not isinstance(perturbation, wanted):
                raise TypeError(f"{attack!r} searches a {wanted.__name__}; got {perturbation!r}")
            changes[field.name] = perturbation
        elif isinstance(value, Attack):
            changes[field.name] = inside(value, perturbation)
        elif isinstance(value, tuple) and _attacks(value):
            changes[field.name] = tuple(inside(one, perturbation) for one in value)
    return dataclasses.replace(attack, **changes)


@cache
def backwards(attack: Attack) -> int:
    """Count the backward passes at most spent on a sample that withstands, of ten classes.

    The first queries of a run are counted; a longer run goes on in the same proportion. Attacks
    that work together are counted one by one.
    """
    if attack.access != "gradient":
        return 0
    together = parts(attack)
    if len(together) > 1:
        return sum(map(backwards, together))
    whole = attack.queries_per_step if isinstance(attack, Rule) else 1
    budget = max(_LOOKED_AT // whole, 1) * whole
    outcome = attack.run(
        _unmoved,
        torch.full((1, 1, 8, 8), 0.5),
        torch.zeros(1, dtype=torch.int64),
        eps=None if attack.finds == "smallest" else 0.1,
        correct=torch.ones(1, dtype=torch.bool),
        budget=budget,
    )
    seen, spent = int(outcome.forwards), int(outcome.backwards)
    if seen < budget or attack.queries <= budget:
        return spent
    return round(spent * _asked_in_steps(attack) / seen)


def citation(docstring: str) -> str:
    """Return the first source that a docstring names, on one line; empty where it names none."""
    found = _SOURCE.search(docstring)
    if found is None:
        return ""
    text = " ".join(found[1].split())
    title = re.search(r'"[^"]*"', text)
    end = _END.search(text, title.end() if title else 0)
    return text[: end.start()] if end else text


def short(cited: str) -> str:
    """Return the arXiv id of a citation, or else its authors and year."""
    found = _ARXIV.search(cited)
    if found:
        return found[0]
    authors = cited.partition('"')[0].rstrip(" ,")
    names = [name for name in re.split(r",\s*|\s+and\s+", authors) if name]
    years = _YEAR.findall(cited)
    known = f"{names[0]} et al." if len(names) > 2 else ", ".join(names)
    return " ".join([known, *years[-1:]]).strip()


def told(name: str) -> dict[str, str]:
    """Return the facts of an attack as lines of its page.

    Raises ValueError or ImportError as `registry.get` does.
    """
    one = facts(name)
    queries, spent = _cost(one)
    cost = f"fitted to {one.images} training images"
    if one.queries is not None:
        cost = f"at most {queries} queries and {spent} backward passes a sample, of ten classes"
    return {
        "kind": one.family,
        "norms": " ".join(one.norms),
        "other sets": " ".join(one.sets),
        "cost": cost,
        "paper": one.citation,
    }


def table(attacks: Sequence[AttackFacts]) -> str:
    """Lay out the facts of attacks as aligned columns under a heading."""
    heading = ("name", "norms", "access", "kind", "queries", "backwards", "paper")
    rows = [
        (
            one.name,
            searched(one),
            one.access,
            one.family,
            *(_cost(one)),
            one.paper or "-",
        )
        for one in attacks
    ]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = []
    for row in (heading, *rows):
        cells = [
            cell.rjust(width) if title in ("queries", "backwards") else cell.ljust(width)
            for cell, width, title in zip(row, widths, heading, strict=True)
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def sections(attacks: Sequence[AttackFacts]) -> str:
    """Lay out the facts of attacks in Markdown, a table for each kind."""
    lines = []
    for kind, heading in _HEADINGS.items():
        rows = [one for one in attacks if one.family == kind]
        rows.sort(key=lambda one: (_ACCESS.index(one.access), one.name))
        if not rows:
            continue
        cost = "training images" if kind == "universal" else "queries | backward passes"
        rule = "|---" * (5 + cost.count("|") + 1)
        lines += [
            f"### {heading}",
            "",
            f"| name | what it does | norms | access | {cost} | paper |",
        ]
        lines += [f"{rule}|", *map(_row, rows), ""]
    return "\n".join(lines)


def document(page: str, attacks: Sequence[AttackFacts]) -> str:
    """Return a page of docs with the tables between its two marks written anew.

    Raises ValueError where the marks are missing.
    """
    before, opened, rest = page.partition(_BEGIN)
    _, closed, after = rest.partition(_END_MARK)
    if not (opened and closed):
        raise ValueError(f"the page has no line {_BEGIN!r} followed by a line {_END_MARK!r}")
    return f"{before}{_BEGIN}\n\n{sections(attacks)}\n{_END_MARK}{after}"


def ours() -> list[AttackFacts]:
    """Return the facts of all attacks that advbench itself brings."""
    named = (registry.describe("attacks", name) for name in registry.names("attacks"))
    return [facts(plugin.name) for plugin in named if plugin.distribution == "advbench"]


def _row(one: AttackFacts) -> str:
    number = one.paper.removeprefix("arXiv:")
    linked = f"[{number}](https://arxiv.org/abs/{number})" if number != one.paper else one.paper
    cost = str(one.images) if one.queries is None else f"{one.queries} | {one.backwards}"
    summary = one.summary.replace("|", "\\|").replace("``", "`")
    cells = (f"`{one.name}`", summary, searched(one), one.access, cost, linked or "-")
    return f"| {' | '.join(cells)} |"


def searched(one: AttackFacts) -> str:
    """Return the norms of an attack, and that it takes other sets; these alone by their names."""
    if not one.norms:
        return " ".join(one.sets)
    return " ".join([*one.norms, *(["+sets"] if one.sets else [])])


def _cost(one: AttackFacts) -> tuple[str, str]:
    if one.queries is None:
        return "fitted", "-"
    return str(one.queries), str(one.backwards)


def _attacks(value: object) -> Iterator[Attack]:
    """The attacks in a field."""
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, Attack):
            yield one


def _asked_in_steps(attack: Attack) -> int:
    """The queries of the steps alone: not the clean one, nor those about what they left."""
    if not isinstance(attack, Rule):
        return attack.queries
    aims = attack.target_classes
    clean = attack.loss.wants_clean or aims > 0
    return attack.queries - attack.restarts * max(aims, 1) * attack.scores_last - clean


def _unmoved(x: Tensor) -> Tensor:
    """Logits of ten classes whose order nothing in the box changes, with gradients that differ."""
    flat = x.flatten(1)
    weights = torch.linspace(-1, 1, flat.shape[1] * _CLASSES, dtype=x.dtype, device=x.device)
    logits = 0.01 * flat @ weights.view(_CLASSES, -1).sin().T
    return logits + 10 * torch.nn.functional.one_hot(
        torch.zeros(len(x), dtype=torch.int64, device=x.device), _CLASSES
    )


@click.command()
@click.argument(
    "page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("docs/attacks.md"),
)
def main(page: Path) -> None:
    """Write the tables of attacks in PAGE again."""
    text = document(page.read_text(encoding="utf-8"), ours())
    write_atomic(page, text.encode())


if __name__ == "__main__":
    main()
