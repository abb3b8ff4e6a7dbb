"""One sticker for all images, beside ART's: `python -m advbench.benchmarks.stickers`.

Both are made for the same model from the same images in as many steps, and judged by the same code
at the same places; how is written above the tables (`sticker_report.METHOD`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median

import click
import torch
from torch import Tensor, nn

from advbench.attacks import Picture
from advbench.benchmarks.machine import facts, installed
from advbench.benchmarks.measuring import Spread, Whole, counted, cpu_seconds, floor, race
from advbench.benchmarks.report import out_option
from advbench.benchmarks.sticker_contestants import (
    MAKERS,
    Paste,
    StickerMaker,
    StickerTask,
    art_paste,
    paste,
    picture_of,
    sticker_of,
)
from advbench.benchmarks.sticker_report import StickerLine, write_stickers
from advbench.benchmarks.sticker_victims import VICTIMS, Pair
from advbench.registry import name_of
from advbench.trust.statistics import wilson

Call = Callable[[], object]
_BARE = "bare passes"
_BATCH = 256


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Classes (N,) that the model gives to `images`."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(_BATCH)])


def training(pair: Pair, task: StickerTask) -> Pair:
    """Return the first images that are not of the target class, as many as the task wants."""
    x, y = pair
    rest = (y != task.targets).nonzero().squeeze(1)[: task.images]
    if len(rest) < task.images:
        raise ValueError(
            f"the task wants {task.images} training images of other classes than "
            f"{task.targets}; got {len(rest)}"
        )
    return x[rest], y[rest]


def judged_on(model: nn.Module, pair: Pair, task: StickerTask, most: int) -> Tensor:
    """Return the first images that are correct without a sticker and not of the target class."""
    x, y = pair
    return x[(answers(model, x) == y) & (y != task.targets)][:most]


def success(model: nn.Module, images: Tensor, task: StickerTask) -> float:
    """Share of `images` that the model takes for the target."""
    return float((answers(model, images) == task.targets).double().mean())


def measure(
    victim: str,
    model: nn.Module,
    train: Pair,
    test: Pair,
    task: StickerTask,
    *,
    makers: Sequence[StickerMaker] = MAKERS,
    art: Paste | None = None,
    judged: int = 1000,
    stickers: int = 3,
    repetitions: int = 5,
    short: int = 10,
) -> list[StickerLine]:
    """Compare the installed makers of stickers; one that is missing gets a line saying so.

    Images (N, C, H, W) in [0, 1] with labels (N,) int64. The first maker is the yardstick of the
    times, which are raced over fits of `short` steps. `art` is the second way of pasting; None
    leaves its columns empty. Raises RuntimeError for a maker that no hook saw, since its cost would
    read as zero.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    x, y = training(train, task)
    brief = replace(task, images=short * task.samples, steps=short)
    if len(x) < brief.images:
        raise ValueError(f"a short fit wants {brief.images} images; got {len(x)}")
    held = judged_on(frozen, test, task, judged)
    blank = StickerLine(
        victim,
        "",
        "",
        "ok",
        eps=task.eps,
        targets=task.targets,
        steps=task.steps,
        samples=task.samples,
        n=len(held),
        art_area=None if art is None else _area(art, frozen, held, task),
    )
    missing: list[StickerLine] = []
    made: dict[str, StickerLine] = {}
    calls: dict[str, Call] = {}
    for maker in makers:
        if maker.version is None:
            missing.append(StickerLine(victim, maker.name, "", "not installed", eps=task.eps))
            continue
        line = replace(blank, library=maker.name, version=maker.version)
        own = Whole(copy.deepcopy(model)).eval()
        few = x[: brief.images], y[: brief.images]
        calls[maker.name] = partial(maker.fit, own, *few, brief, 0)
        calls[maker.name]()  # imports and warms up
        pictures, line = _make(line, maker, own, x, y, task, stickers)
        line = _judge(line, pictures, frozen, held, task, art)
        growth = maker.growth(own, x, task) if maker.growth else None
        made[maker.name] = replace(line, growth=growth)
    bare = partial(floor, frozen, x[: task.samples], y[: task.samples], short)
    made[_BARE] = replace(blank, library=_BARE)
    timed = _time(made, calls, bare, short, repetitions)
    return [*timed, *_controls(blank, frozen, train, held, task, art), *missing]


def _time(
    made: Mapping[str, StickerLine],
    calls: Mapping[str, Call],
    bare: Call,
    short: int,
    repetitions: int,
) -> list[StickerLine]:
    """Race fits of `short` steps and as many bare passes against the first of the fits."""
    first, *others = calls
    rivals: dict[str, Call] = {_BARE: bare, **{name: calls[name] for name in others}}
    timing = race(calls[first], rivals, repetitions=repetitions)
    ratios = {first: Spread(1, 1, 1), **timing.ratios}
    return [
        replace(
            line,
            ratio=ratios[name].median,
            ratio_low=ratios[name].low,
            ratio_high=ratios[name].high,
            step_seconds=timing.floor.median / short,
            noise=timing.noise.high / timing.noise.low,
        )
        for name, line in made.items()
    ]


def _make(
    line: StickerLine,
    maker: StickerMaker,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    task: StickerTask,
    stickers: int,
) -> tuple[list[Tensor], StickerLine]:
    """Make the stickers, counting passes and seconds."""
    pictures: list[Tensor] = []

    def make(seed: int) -> None:
        pictures.append(maker.fit(model, x, y, task, seed))

    with counted(model) as passes:
        seconds = [cpu_seconds(partial(make, seed)) for seed in range(stickers)]
    if not passes.forwards:
        raise RuntimeError(f"{maker.name}: ran the model past the counting hook")
    return pictures, replace(
        line,
        forwards=passes.forwards / (stickers * task.steps),
        backwards=passes.backwards / (stickers * task.steps),
        fit_seconds=median(seconds),
    )


def _judge(
    line: StickerLine,
    pictures: Sequence[Tensor],
    model: nn.Module,
    x: Tensor,
    task: StickerTask,
    art: Paste | None,
) -> StickerLine:
    """Paste the pictures, rounded to 8 bits, on held-out images and ask the model."""
    rounded = [Picture.of(picture).tensor() for picture in pictures]
    shares = [success(model, paste(model, picture, x, task), task) for picture in rounded]
    low, high = wilson(round(mean(shares) * len(x)), len(x))
    line = replace(line, stickers=len(shares), success=mean(shares), low=low, high=high)
    if len(shares) > 1:
        line = replace(line, weakest=min(shares), strongest=max(shares))
    if art is None:
        return line
    shares = [success(model, art(model, picture, x, task), task) for picture in rounded]
    return replace(line, art_success=mean(shares))


def _controls(
    blank: StickerLine,
    model: nn.Module,
    train: Pair,
    held: Tensor,
    task: StickerTask,
    art: Paste | None,
) -> list[StickerLine]:
    """Judge the stickers that nobody optimised; they see all training images."""
    lines = []
    for control in sticker_of(task).controls():
        attack = control.fit(model, [train], eps=task.eps, targets=task.targets)
        line = replace(blank, library=f"control: {name_of(type(control))}")
        lines.append(_judge(line, [picture_of(attack)], model, held, task, art))
    return lines


def _area(way: Paste, model: nn.Module, x: Tensor, task: StickerTask) -> float:
    """Share of an image that a white sticker changes when it is pasted on black."""
    side = task.patch.side(x)
    white = torch.ones(x.shape[1], side, side)
    return float(way(model, white, torch.zeros_like(x), task).double().mean())


@click.command()
@out_option("stickers")
@click.option("--repetitions", type=click.IntRange(min=5), default=7, show_default=True)
@click.option("--stickers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--victim", "only", multiple=True, help="Measure this victim only; repeatable.")
def main(out: Path, repetitions: int, stickers: int, only: tuple[str, ...]) -> None:
    """Compare advbench's sticker with ART's patch (pip install -e ".[bench]")."""
    chosen = [victim for victim in VICTIMS if not only or victim.label in only]
    if not chosen:
        known = ", ".join(dict.fromkeys(victim.label for victim in VICTIMS))
        raise click.UsageError(f"no victim is named {', '.join(only)}. Victims: {known}.")
    torch.set_num_threads(1)
    distributions = dict.fromkeys(maker.distribution for maker in MAKERS)
    lines: list[StickerLine] = []
    for victim in chosen:
        click.echo(victim.label, err=True)
        try:
            model, train, test = victim.load()
        except FileNotFoundError as error:
            click.echo(error, err=True)
            reason = "its weights or data are not here; set ADVBENCH_DATA"
            lines.append(StickerLine(victim.label, "all", "", reason, eps=victim.task.eps))
            continue
        lines += measure(
            victim.label,
            model,
            train,
            test,
            victim.task,
            art=art_paste if all(map(installed, distributions)) else None,
            judged=victim.judged,
            stickers=stickers,
            repetitions=repetitions,
        )
    write_stickers(out, lines, facts(repetitions, distributions))
    click.echo(out / "stickers.md")


if __name__ == "__main__":
    main()
