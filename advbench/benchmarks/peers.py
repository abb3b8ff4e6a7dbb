"""Cost and strength beside other attack libraries: `python -m advbench.benchmarks.peers`.

Every library attacks the same images of the same model inside the same ball with the same steps;
how cost and strength are measured is written above the tables (`report.METHOD`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from advbench.benchmarks.contestants import CONTESTANTS, Contestant, Task
from advbench.benchmarks.machine import facts
from advbench.benchmarks.measuring import Whole, counted, floor, race
from advbench.benchmarks.report import Line, out_option, write
from advbench.benchmarks.victims import VICTIMS, Victim


def outside(x: Tensor, images: Tensor, task: Task) -> int:
    """Count the rows of `images` that leave [0, 1] or the ball of `task` around `x`."""
    delta = (images.double() - x.double()).flatten(1)
    size = delta.abs().amax(1) if task.norm == "linf" else delta.norm(dim=1)
    flat = images.flatten(1)
    inside = (size <= task.eps * (1 + 1e-5) + 1e-6) & (flat.amin(1) >= 0) & (flat.amax(1) <= 1)
    return int((~inside).sum())


@torch.no_grad()
def robust_accuracy(model: nn.Module, x: Tensor, images: Tensor, y: Tensor) -> float:
    """Share of all rows that the bare model classifies as `y`, clean (`x`) and attacked."""
    kept = (model(x).argmax(1) == y) & (model(images).argmax(1) == y)
    return float(kept.double().mean())


def measure(
    victim: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    task: Task,
    *,
    contestants: Iterable[Contestant] = CONTESTANTS,
    repetitions: int = 5,
) -> list[Line]:
    """Compare the installed contestants on one task; one that is missing gets a line saying so.

    x (N, *shape) in [0, 1], y (N,) int64. The counted call is also the warm-up of the race. Raises
    RuntimeError for a contestant that no hook saw, since its cost would read as zero.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    lines, calls = {}, {}
    for contestant in contestants:
        found = contestant.version
        line = Line(
            victim, task.label, task.norm, task.eps, contestant.name, found or "", "not installed"
        )
        if found:
            own = Whole(copy.deepcopy(model)).eval()
            calls[contestant.name] = call = contestant.prepare(own, x, y, task)
            with counted(own) as passes:
                images = call().detach()
            if not passes.forwards:
                raise RuntimeError(f"{contestant.name}: ran the model past the counting hook")
            line = replace(
                line,
                status="ok",
                n=len(x),
                forwards=passes.forwards / len(x),
                backwards=passes.backwards / len(x),
                robust_accuracy=robust_accuracy(frozen, x, images, y),
                outside=outside(x, images, task),
            )
        lines[contestant.name] = line
    timing = race(lambda: floor(frozen, x, y, task.steps), calls, repetitions=repetitions)
    for name, ratio in timing.ratios.items():
        lines[name] = replace(
            lines[name],
            ratio=ratio.median,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            floor_seconds=timing.floor.median,
            noise=timing.noise.high / timing.noise.low,
        )
    return list(lines.values())


def tasks(victim: Victim) -> Iterator[Task]:
    """Yield FGSM, PGD-10 and PGD-40 in both balls."""
    for steps in (1, 10, 40):
        yield Task(steps, "linf", victim.linf)
        yield Task(steps, "l2", victim.l2)


@click.command()
@out_option("peers")
@click.option("--repetitions", type=click.IntRange(min=5), default=5, show_default=True)
@click.option("--victim", "only", multiple=True, help="Measure this victim only; repeatable.")
def main(out: Path, repetitions: int, only: tuple[str, ...]) -> None:
    """Compare advbench with the attack libraries that are installed (pip install -e ".[bench]")."""
    chosen = [victim for victim in VICTIMS if not only or victim.label in only]
    if not chosen:
        known = ", ".join(victim.label for victim in VICTIMS)
        raise click.UsageError(f"no victim is named {', '.join(only)}. Victims: {known}.")
    torch.set_num_threads(1)
    lines: list[Line] = []
    for victim in chosen:
        try:
            model, x, y = victim.load()
        except FileNotFoundError as error:
            click.echo(error, err=True)
            reason = "its weights or data are not here; set ADVBENCH_DATA"
            lines.append(Line(victim.label, "", "", None, "all", "", reason))
            continue
        for task in tasks(victim):
            click.echo(f"{victim.label}: {task.label} {task.norm}", err=True)
            lines += measure(victim.label, model, x, y, task, repetitions=repetitions)
    distributions = [contestant.distribution for contestant in CONTESTANTS]
    write(out, lines, facts(repetitions, distributions))
    click.echo(out / "peers.md")


if __name__ == "__main__":
    main()
