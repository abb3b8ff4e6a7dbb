"""The two files of the comparison of stickers: stickers.csv with every figure, stickers.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from advbench.benchmarks.report import bullets, store


@dataclass(frozen=True)
class StickerLine:
    """One library's stickers on one victim; a `status` other than ok is why nothing was measured.

    Controls and the bare model have lines of their own, without the figures they do not have.
    """

    victim: str
    library: str
    version: str
    status: str
    eps: float | None = None
    targets: int | None = None
    steps: int | None = None
    samples: int | None = None  # images per step
    n: int | None = None  # held-out images judged on
    stickers: int | None = None  # made with different seeds
    success: float | None = None  # share of n that the model takes for the target, mean of stickers
    low: float | None = None  # Wilson interval of that share of n
    high: float | None = None
    weakest: float | None = None  # the success of single stickers
    strongest: float | None = None
    art_success: float | None = None  # the same pictures pasted by ART
    forwards: float | None = None  # rows through the model per step
    backwards: float | None = None
    ratio: float | None = None  # CPU seconds of a step over advbench's: median, lowest, highest
    ratio_low: float | None = None
    ratio_high: float | None = None
    step_seconds: float | None = None  # advbench's, in the race
    fit_seconds: float | None = None  # CPU seconds of a whole sticker, median
    noise: float | None = None  # slowest over fastest run of a fixed spin loop
    growth: float | None = None  # gradient gone by after five equal steps over that after one
    art_area: float | None = None  # share of an image that ART's pasting covers


METHOD = """\
One sticker for all images that makes the model see the target: `Sticker` beside ART's
`AdversarialPatchPyTorch`. Both get the same model, unfrozen as a user has it, the same training
images, steps and images per step, the same target, and a square of the same area and with as many
pixels of its own, anywhere on the image and turned by up to 20 degrees to either side; a square,
because it is the shape that both cut alike. ART's `max_iter` counts rounds through the images, so
it gets as many as make the number of steps. Its default is Adam at a rate of 5, five times the
range of a pixel; it gets smaller rates and its sign rule as well, a line each: the best of them,
found on the images judged on, is what advbench has to beat.

Success is the share of the n held-out images (correct without a sticker, not of the target class)
that the model takes for the target, with one draw of place and angle an image, the same draws for
all. The pictures are rounded to 8 bits and pasted by advbench; the third column has the same
pictures pasted by ART's `apply_patch`. It is the mean over stickers made with different seeds,
theirs from weakest to strongest in square brackets; the interval is that of a share of n images.
The controls are stickers that nobody optimised, pasted alike.

Passes are counted by hooks on the model over whole fits and are exact. The CPU time of a step is
taken from short fits, timed in turn in one process, and given as a multiple of advbench's: the
median of the repetitions, the range in brackets. The bare passes are a forward and a backward to
the input of the frozen model at that batch: a step cannot cost less. Noise is the slowest over the
fastest run of a fixed loop during the measurement: smaller differences than that are not
established. Digital stickers say little about printed ones.
"""

_BLANK = "-"


def write_stickers(folder: Path, lines: Sequence[StickerLine], facts: Mapping[str, str]) -> None:
    """Write stickers.csv and stickers.md into `folder`, which is made where it is missing."""
    store(folder, "stickers", [asdict(line) for line in lines], markdown(lines, facts))


def markdown(lines: Sequence[StickerLine], facts: Mapping[str, str]) -> str:
    """Lay the lines out as one table per victim and area, the facts of the machine above them."""
    parts = ["# Stickers of advbench beside those of ART\n", METHOD]
    parts.append(bullets(facts))
    for victim, group in groupby(lines, key=lambda line: line.victim):
        parts.append(f"## {victim}\n")
        for _, members in groupby(group, key=lambda line: line.eps):
            parts.append(_section(list(members)))
    return "\n".join(parts)


def _section(lines: Sequence[StickerLine]) -> str:
    done = [line for line in lines if line.status == "ok"]
    notes = [f"Not measured: {x.library} ({x.status})." for x in lines if x not in done]
    if not done:
        return "\n".join(notes) + "\n"
    one = done[0]
    head = (
        f"Target {one.targets}, {one.eps:.0%} of the image, {one.steps} steps of {one.samples} "
        f"images, {one.stickers} stickers each, n = {one.n}; a step of {one.library} takes "
        f"{one.step_seconds:.3g} CPU s, noise {one.noise:.2f}.\n"
    )
    table = [
        "| sticker | targeted success | pasted by ART | forwards / backwards per step "
        "| CPU time of a step | CPU s of a sticker |",
        "|---|---|---|---|---|---|",
        *map(_row, done),
    ]
    grown = [line for line in done if line.growth is not None]
    if grown:
        notes.insert(0, _on_growth(grown[0]))
    covered = [line.art_area for line in done if line.art_area is not None]
    if covered:
        notes.insert(0, f"As ART pastes it, a sticker covers {covered[0]:.1%} of the image.")
    return "\n".join([head, *table, *(f"\n{note}" for note in notes)]) + "\n"


def _on_growth(line: StickerLine) -> str:
    assert line.growth is not None
    verdict = "it is never reset between steps" if line.growth > 1.5 else "each step has its own"
    return (
        f"The gradient that {line.library.split()[0]} goes by after five steps at rate 0, with "
        f"nothing changed between them, is {line.growth:.2f} times that after the first: {verdict}."
    )


def _row(line: StickerLine) -> str:
    success, crossed, passes, time, total = [_BLANK] * 5
    if line.success is not None:
        success = f"{line.success:.3f} ({line.low:.3f} to {line.high:.3f})"
    if line.weakest is not None:
        success += f" [{line.weakest:.3f} to {line.strongest:.3f}]"
    if line.art_success is not None:
        crossed = f"{line.art_success:.3f}"
    if line.forwards is not None:
        passes = f"{line.forwards:.2f} / {line.backwards:.2f}"
    if line.ratio is not None:
        time = f"{line.ratio:.2f} ({line.ratio_low:.2f} to {line.ratio_high:.2f})"
    if line.fit_seconds is not None:
        total = f"{line.fit_seconds:.1f}"
    return f"| {line.library} | {success} | {crossed} | {passes} | {time} | {total} |"
