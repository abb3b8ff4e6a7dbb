"""Minimum-norm attacks beside other libraries: `python -m advbench.benchmarks.minimal`.

Two comparisons, each explained above its tables: the same attack of several libraries with the same
steps (minimal), and all attacks of all libraries at the same budget (optimality).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import click
import torch
from torch import Tensor, nn

from advbench import data
from advbench.benchmarks.machine import facts
from advbench.benchmarks.measuring import Whole, counted
from advbench.benchmarks.minimal_contestants import (
    APGD_ENTRANTS,
    Entrant,
    FixedEntrant,
    advbench_entrants,
    peers,
)
from advbench.benchmarks.minimal_report import (
    OVERALL,
    MinimalLine,
    OptimalityLine,
    write_minimal,
    write_optimality,
)
from advbench.benchmarks.report import out_option
from advbench.models.loading import ModelSpec, load_model

TASKS = (
    ("DDN", "l2", 200),
    ("FMN", "linf", 200),
    ("FMN", "l2", 200),
    ("FMN", "l1", 200),
    ("FMN", "l0", 200),
    ("CWL2", "l2", 1800),
    ("ALMA", "l2", 200),
    ("ALMA", "l1", 200),
    ("DeepFool", "l2", 500),
    ("DeepFool", "linf", 500),
)
"""Attack, norm and passes of the first comparison, on the first victim."""

BALLS = (
    ("mnist/cnn", "linf", 0.1),
    ("mnist/cnn", "l2", 1.5),
    ("mnist/cnn_adv", "linf", 0.3),
)
"""Where APGD is compared, with eps."""

VICTIMS = ("mnist/cnn", "mnist/cnn_adv", "fashion_mnist/cnn")
_APGD_STEPS = 100
_AT_ONCE = 250  # samples in a batch
_NEARLY = 1.001  # of the best distance


Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Images (n, *shape) for a model, x and y."""


@dataclass(frozen=True)
class Found:
    """What an attack returned, measured: sizes (n,), infinite for a failure, and its passes."""

    size: Tensor
    outside: int
    forwards: float
    backwards: float


def sizes(x: Tensor, images: Tensor, norm: str) -> Tensor:
    """Measure changes (n,) in a norm; an L0 counts the coordinates that differ at all."""
    delta = (images.double() - x.double()).flatten(1)
    if norm == "l0":
        return (delta != 0).sum(1).double()
    order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[norm]
    length: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=1)
    return length


def measure(model: nn.Module, x: Tensor, y: Tensor, norm: str, run: Attack) -> Found:
    """Run an attack on samples in batches, count its passes and judge what it returns.

    x (n, *shape) in [0, 1], y (n,) int64. `run` gets a copy of the model, unfrozen. Raises
    RuntimeError for an attack that no hook saw, since its cost would read as zero.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    own = Whole(copy.deepcopy(model)).eval()
    found, outside = [], 0
    with counted(own) as passes, torch.random.fork_rng():
        torch.manual_seed(0)
        for images, labels in zip(x.split(_AT_ONCE), y.split(_AT_ONCE), strict=True):
            answer = run(own, images.clone(), labels.clone()).detach()
            with torch.no_grad():
                fooled = frozen(answer).argmax(1) != labels
            flat = answer.flatten(1)
            legal = (flat.amin(1) >= -1e-6) & (flat.amax(1) <= 1 + 1e-6)  # false for NaN
            outside += int((~legal).sum())
            size = sizes(images, answer, norm)
            found.append(torch.where(fooled & legal, size, torch.inf))
    if not passes.forwards:
        raise RuntimeError("ran the model past the counting hook")
    return Found(torch.cat(found), outside, passes.forwards / len(x), passes.backwards / len(x))


def compare(
    victim: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    entrants: Iterable[Entrant],
    passes: int,
) -> list[tuple[MinimalLine, Tensor | None]]:
    """Measure the installed entrants at one budget; one that is missing or fails says so.

    Returns lines with the sizes (n,) found, None where there are none.
    """
    results: list[tuple[MinimalLine, Tensor | None]] = []
    for one in entrants:
        line = MinimalLine(
            victim, one.attack, one.norm, one.library, one.version or "", "ok", passes
        )
        if not one.version:
            results.append((replace(line, status="not installed"), None))
            continue
        try:
            found = measure(model, x, y, one.norm, _spending(one, passes))
        except Exception as error:  # a library's own failure is no result, and ends no benchmark
            results.append((replace(line, status=f"failed: {_first(error)}"), None))
            continue
        results.append((_filled(line, found), found.size))
    return results


def optimality(
    victim: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    entrants: Sequence[Entrant],
    passes: int,
    said: Callable[[str], None] = lambda text: None,
) -> list[OptimalityLine]:
    """Compare all entrants on one victim with the best of all, norm by norm."""
    lines = []
    for norm in dict.fromkeys(one.norm for one in entrants):
        results = []
        for one in entrants:
            if one.norm == norm:
                said(f"{victim}: {one.attack} {norm} of {one.library}")
                results += compare(victim, model, x, y, [one], passes)
        measured = [size for _, size in results if size is not None]
        best = torch.stack(measured).amin(0) if measured else torch.empty(0)
        lines += [_placed(line, size, best, passes) for line, size in results]
    return lines


def optimal(size: Tensor, best: Tensor) -> float:
    """Return the optimality of distances (n,) beside the best ones (n,) of samples all right.

    1 means the best distance everywhere, 0 no success below the largest of them. Without a finite
    best distance, or where the best are all equally large, nothing can be told: NaN.
    """
    finite = best[best.isfinite()]
    if not len(finite):
        return math.nan
    largest = finite.max()
    area = size.clamp_max(largest).mean()
    least = best.clamp_max(largest).mean()
    return math.nan if least == largest else float(1 - (area - least) / (largest - least))


def overall(lines: Iterable[OptimalityLine]) -> list[OptimalityLine]:
    """Average the lines of each attack over the victims; without those that lack a victim."""
    measured = [line for line in lines if line.status == "ok"]
    victims = {line.victim for line in measured}
    groups: dict[tuple[str, str, str], list[OptimalityLine]] = {}
    for line in measured:
        groups.setdefault((line.norm, line.attack, line.library), []).append(line)
    return [
        replace(
            own[0],
            victim=OVERALL,
            n=sum(line.n or 0 for line in own),
            optimality=mean(line.optimality or 0 for line in own),
            nearest=mean(line.nearest or 0 for line in own),
            median_size=None,
            unfooled=mean(line.unfooled or 0 for line in own),
            forwards=mean(line.forwards or 0 for line in own),
            backwards=mean(line.backwards or 0 for line in own),
        )
        for own in groups.values()
        if len(own) == len(victims)
    ]


def fixed(
    victim: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    eps: float,
    entrants: Iterable[FixedEntrant] = APGD_ENTRANTS,
) -> list[MinimalLine]:
    """Measure APGD of the installed libraries inside one ball."""
    lines = []
    for one in entrants:
        line = MinimalLine(
            victim, "APGD-CE", norm, one.library, one.version or "", "ok", 2 * _APGD_STEPS, eps
        )
        if not one.version:
            lines.append(replace(line, status="not installed"))
            continue
        try:
            found = measure(model, x, y, norm, _within(one, norm, eps))
        except Exception as error:  # as above
            lines.append(replace(line, status=f"failed: {_first(error)}"))
            continue
        inside = found.size <= eps * (1 + 1e-5) + 1e-6
        beyond = int((found.size.isfinite() & ~inside).sum())
        lines.append(
            replace(
                line,
                n=len(x),
                robust_accuracy=float((~inside).double().mean()),
                outside=found.outside + beyond,
                forwards=found.forwards,
                backwards=found.backwards,
            )
        )
    return lines


def _spending(one: Entrant, passes: int) -> Attack:
    return lambda model, x, y: one.run(model, x, y, passes)


def _within(one: FixedEntrant, norm: str, eps: float) -> Attack:
    return lambda model, x, y: one.run(model, x, y, norm, eps, _APGD_STEPS)


def _filled(line: MinimalLine, found: Found) -> MinimalLine:
    return replace(
        line,
        n=len(found.size),
        median_size=float(found.size.quantile(0.5, interpolation="lower")),
        unfooled=float(found.size.isinf().double().mean()),
        outside=found.outside,
        forwards=found.forwards,
        backwards=found.backwards,
    )


def _placed(line: MinimalLine, size: Tensor | None, best: Tensor, passes: int) -> OptimalityLine:
    bare = OptimalityLine(
        line.victim, line.norm, line.attack, line.library, line.version, line.status, passes
    )
    if size is None:
        return bare
    return replace(
        bare,
        n=line.n,
        optimality=optimal(size, best),
        nearest=float(((size <= best * _NEARLY) & size.isfinite()).double().mean()),
        median_size=line.median_size,
        unfooled=line.unfooled,
        forwards=line.forwards,
        backwards=line.backwards,
    )


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _load(victim: str, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Load a net of the zoo and the first so many test images that it has right."""
    model = load_model(ModelSpec(name=f"zoo:{victim}")).model.eval()
    chosen = data.load(victim.partition("/")[0], samples=images + images // 4 + 20)
    with torch.no_grad():
        right = model(chosen.x).argmax(1) == chosen.y
    return model, chosen.x[right][:images], chosen.y[right][:images]


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.command()
@out_option("minimal", "optimality")
@click.option("--images", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--pool-images",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images of each victim in the comparison of all attacks.",
)
@click.option(
    "--passes",
    type=click.IntRange(min=40),
    default=1000,
    show_default=True,
    help="Forwards and backwards of a sample in the comparison of all attacks.",
)
@click.option(
    "--part",
    type=click.Choice(["minimal", "optimality", "both"]),
    default="both",
    show_default=True,
)
def main(out: Path, images: int, pool_images: int, passes: int, part: str) -> None:
    """Compare minimum-norm attacks with adv-lib, foolbox and torchattacks.

    pip install -e ".[bench]" && pip install --no-deps adv-lib
    """
    torch.set_num_threads(1)
    own, others = advbench_entrants(), peers()
    known = facts(1, dict.fromkeys(one.distribution for one in [*own, *others]))
    known["measured"] = known["measured"].partition(",")[0]
    if part != "optimality":
        done: list[MinimalLine] = []
        for lines in _minimal([*own, *others], images):
            done += lines
            write_minimal(out, done, known)
        click.echo(out / "minimal.md")
    if part != "minimal":
        ranked: list[OptimalityLine] = []
        for victim in VICTIMS:
            loaded = _load(victim, pool_images)
            ranked += optimality(f"zoo:{victim}", *loaded, [*own, *others], passes, _say)
            write_optimality(out, [*ranked, *overall(ranked)], known)
        click.echo(out / "optimality.md")


def _minimal(entrants: Sequence[Entrant], images: int) -> Iterator[list[MinimalLine]]:
    """Measure task by task: what is done is written at once."""
    model, x, y = _load(VICTIMS[0], images)
    for attack, norm, passes in TASKS:
        same = [one for one in entrants if (one.attack, one.norm) == (attack, norm)]
        _say(f"{attack} {norm}, steps for {passes} passes")
        yield [line for line, _ in compare(f"zoo:{VICTIMS[0]}", model, x, y, same, passes)]
    for victim, norm, eps in BALLS:
        _say(f"APGD-CE {norm} on {victim}")
        yield fixed(f"zoo:{victim}", *_load(victim, images), norm, eps)


if __name__ == "__main__":
    main()
