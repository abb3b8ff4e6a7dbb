"""What the speed options of a run gain and cost: `python -m advbench.benchmarks.speed`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from advbench.attacks import PGD, Linf, Margin, Outcome
from advbench.attacks.speed import Speedup, accelerated
from advbench.benchmarks.machine import facts
from advbench.benchmarks.measuring import race
from advbench.benchmarks.report import bullets, out_option, store
from advbench.benchmarks.victims import VICTIMS, Victim

OPTIONS: tuple[tuple[Speedup, ...], ...] = (
    ("fold",),
    ("channels_last",),
    ("fold", "channels_last"),
    ("compile",),
    ("fold", "channels_last", "compile"),
    ("bf16",),
)
_ATTACK = PGD(perturbation=Linf(), loss=Margin(), steps=20)

METHOD = """\
CPU time of PGD on the margin, 20 steps, with a faster stand-in for the model over that without one,
timed in turn in one process: the median of the repetitions, the range in brackets. Below 1 the
option pays. What it takes to build the stand-in and to compile it is left out. Every success is
confirmed by the model itself, which costs a forward pass each, so robust accuracy can only rise:
where it does, the option has cost successes. Noise is the slowest over the fastest run of a fixed
loop meanwhile: smaller differences than that are not established.
"""


@dataclass(frozen=True)
class SpeedLine:
    """One set of options on one victim."""

    victim: str
    eps: float
    n: int
    options: str
    ratio: float  # CPU seconds over those without: median, lowest, highest
    ratio_low: float
    ratio_high: float
    robust_accuracy: float
    without: float  # robust accuracy without the options
    noise: float  # slowest over fastest run of a fixed spin loop


def measure(victim: Victim, repetitions: int) -> Iterator[SpeedLine]:
    """Yield a line for every set of options. Raises what the victim's ``load`` raises."""
    model, x, y = victim.load()

    def runner(options: Sequence[Speedup]) -> Callable[[], Outcome]:
        fast = accelerated(model, x, options) if options else None
        return lambda: _ATTACK.run(model, x, y, eps=victim.linf, stand_in=fast)

    plain = runner(())
    calls: Mapping[str, Callable[[], Outcome]] = {
        ", ".join(options): runner(options) for options in OPTIONS
    }
    kept = {name: _robust(call()) for name, call in calls.items()}  # it warms up as well
    without = _robust(plain())
    timing = race(plain, calls, repetitions=repetitions)
    for name, ratio in timing.ratios.items():
        yield SpeedLine(
            victim=victim.label,
            eps=victim.linf,
            n=len(x),
            options=name,
            ratio=round(ratio.median, 3),
            ratio_low=round(ratio.low, 3),
            ratio_high=round(ratio.high, 3),
            robust_accuracy=kept[name],
            without=without,
            noise=round(timing.noise.high / timing.noise.low, 2),
        )


def _robust(found: Outcome) -> float:
    return round(1 - float(found.success.double().mean()), 4)


def page(lines: Sequence[SpeedLine], machine: Mapping[str, str]) -> str:
    """Return the table as Markdown, the facts of the machine above it."""
    parts = ["# Speed options\n", METHOD]
    parts.append(bullets(machine))
    parts.append("| model | eps | n | options | CPU time | robust accuracy (without) | noise |")
    parts.append("|---|---|---|---|---|---|---|")
    for line in lines:
        parts.append(
            f"| {line.victim} | {line.eps:.4g} | {line.n} | {line.options} "
            f"| {line.ratio:.2f} ({line.ratio_low:.2f} to {line.ratio_high:.2f}) "
            f"| {line.robust_accuracy:.3f} ({line.without:.3f}) | {line.noise:.2f} |"
        )
    return "\n".join(parts) + "\n"


@click.command()
@out_option("speed")
@click.option("--repetitions", type=click.IntRange(5), default=9, show_default=True)
@click.option("--victim", "wanted", help="One of the victims only, by its label.")
def main(out: Path, repetitions: int, wanted: str | None) -> None:
    """Measure what the options of [run] speed gain and cost, on one thread."""
    torch.set_num_threads(1)
    lines = []
    for victim in VICTIMS:
        if wanted in (None, victim.label):
            for line in measure(victim, repetitions):
                click.echo(f"{line.victim}: {line.options}: {line.ratio}")
                lines.append(line)
    if not lines:
        labels = ", ".join(victim.label for victim in VICTIMS)
        raise click.UsageError(f"no victim named {wanted!r}; choose from {labels}")
    store(
        out,
        "speed",
        [asdict(line) for line in lines],
        page(lines, facts(repetitions, ("advbench",))),
    )


if __name__ == "__main__":
    main()
