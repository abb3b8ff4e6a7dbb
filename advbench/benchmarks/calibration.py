"""How often the gate errs: `python -m advbench.benchmarks.calibration`.

A net of the zoo is weakened by noise on its weights, from many seeds, each by as much as costs it a
given share of its robust accuracy on all test images. The gate then compares it with the net itself
on samples drawn from these images. What the gate ought to say is known, for all images are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench import data
from advbench.attacks import PGD
from advbench.attacks.losses import Margin
from advbench.benchmarks.machine import facts
from advbench.benchmarks.report import bullets, out_option, store
from advbench.config import GateSection
from advbench.gate.canary import noisy
from advbench.gate.verdict import Pair, Verdict, compare, overall
from advbench.models.loading import ModelSpec, load_model
from advbench.trust.answers import fooled, predict

_CLOSE = 0.0015
"""How near to the wanted drop, on all images, a weakened net has to come."""
_HALVINGS = 12
_METHOD = """\
A pair is the net and the net weakened, judged on `samples` images drawn from all test images with
replacement, so that the true drop is that on all images. With a drop of 0, each drawn image swaps
its two sides with probability one half: the sides then differ on as many images as those of a drop
of 0.015 do, and neither is better. `fail` there is a false alarm; at a drop of the margin or more
`pass` is a mistake. A pair has two comparisons, clean and robust accuracy, adjusted for their
number.
"""


class Answers(NamedTuple):
    """What a net makes of all images, both (N,): right without and right under attack."""

    clean: NDArray[np.float64]
    robust: NDArray[np.float64]


def answers(model: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int) -> Answers:
    """Attack a net on images (N, C, H, W) and judge what comes back."""
    clean = ~fooled(predict(model, x, batch_size), y)
    attack = PGD(loss=Margin(), steps=10)
    x_adv = attack.run(model, x, y, eps=eps, correct=clean, batch_size=batch_size).x_adv
    robust = clean & ~fooled(predict(model, x_adv, batch_size), y)
    return Answers(clean.double().cpu().numpy(), robust.double().cpu().numpy())


def weakened(
    model: nn.Module, first: Answers, drop: float, seed: int, x: Tensor, y: Tensor, eps: float
) -> tuple[float, Answers] | None:
    """Return noise that costs about so much robust accuracy, and the answers; None without any."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        scale = (low + high) / 2
        found = answers(noisy(model, scale, seed), x, y, eps, len(x))
        lost = float(first.robust.mean() - found.robust.mean())
        if abs(lost - drop) < _CLOSE:
            return scale, found
        low, high = (scale, high) if lost < drop else (low, scale)
    return None


def judged(
    before: Answers, now: Answers, samples: int, swap: bool, rng: np.random.Generator
) -> Verdict:
    """Put a pair through the gate on samples drawn from all images."""
    drawn = rng.integers(len(before.clean), size=samples)
    sides = np.stack([np.stack(before), np.stack(now)])[:, :, drawn]
    if swap:
        turned = rng.random(samples) < 0.5
        sides = np.where(turned, sides[::-1], sides)
    names = ("clean", "robust")
    pairs = [Pair(name, *sides[:, place]) for place, name in enumerate(names)]
    return overall([one.verdict for one in compare(pairs, GateSection())])


def rows(
    name: str, images: int, eps: float, drops: Sequence[float], seeds: int, pairs: int, device: str
) -> Iterator[dict[str, Any]]:
    """Yield a row for each seed and drop: what the gate said of its pairs."""
    model = load_model(ModelSpec(name=name)).model.to(device)
    chosen = data.load(name.partition(":")[2].partition("/")[0], samples=images)
    x, y = chosen.x.to(device), chosen.y.to(device)
    first = answers(model, x, y, eps, len(x))
    for seed in range(seeds):
        for drop in drops:
            found = weakened(model, first, drop or 0.015, seed, x, y, eps)
            if found is None:
                click.echo(f"seed {seed}: no noise costs {drop:g}", err=True)
                continue
            scale, now = found
            rng = np.random.default_rng([seed, round(1000 * drop)])
            said = Counter(
                str(judged(first, now, samples=2000, swap=not drop, rng=rng)) for _ in range(pairs)
            )
            yield {
                "model": name,
                "eps": eps,
                "drop": drop,
                "seed": seed,
                "noise": round(scale, 5),
                "true_drop": round(float((first.robust - now.robust).mean()) * (drop > 0), 5),
                "discordance": round(float((first.robust != now.robust).mean()), 5),
                "pairs": pairs,
                **{str(verdict): said[verdict] for verdict in list(Verdict)[:3]},
            }


def markdown(lines: Sequence[dict[str, Any]], about: dict[str, str]) -> str:
    """Lay out what was said for each drop."""
    parts = [
        "# How often the gate errs\n",
        _METHOD,
        bullets(about),
        "| true drop | nets | pairs | discordance | pass | inconclusive | fail |",
        "|---|---|---|---|---|---|---|",
    ]
    for drop in sorted({line["drop"] for line in lines}):
        own = [line for line in lines if line["drop"] == drop]
        total = sum(line["pairs"] for line in own)
        shares = [
            f"{sum(line[name] for line in own) / total:.3f}"
            for name in ("pass", "inconclusive", "fail")
        ]
        mean = np.mean([line["discordance"] for line in own])
        parts.append(f"| {drop:g} | {len(own)} | {total} | {mean:.3f} | {' | '.join(shares)} |")
    return "\n".join(parts) + "\n"


@click.command()
@click.option("--model", default="zoo:mnist/cnn", show_default=True, help="A net of the zoo.")
@click.option("--images", default=10_000, show_default=True, help="Test images.")
@click.option("--eps", default=0.1, show_default=True, help="Radius in Linf.")
@click.option("--seeds", default=20, show_default=True, help="Weakened nets for each drop.")
@click.option("--pairs", default=10, show_default=True, help="Drawn samples for each net.")
@click.option("--device", default="cpu", show_default=True)
@out_option("calibration")
def main(
    model: str, images: int, eps: float, seeds: int, pairs: int, device: str, out: Path
) -> None:
    """Measure how often the gate errs; an hour on a processor, minutes on an accelerator."""
    torch.set_num_threads(1)
    drops = (0.0, 0.005, 0.015, 0.03)
    lines = list(rows(model, images, eps, drops, seeds, pairs, device))
    terms = GateSection()
    about = {
        "net": f"{model}, PGD with 10 steps on the margin, Linf {eps:g}, {images} images",
        "samples of a pair": "2000",
        "margin, alpha": f"{terms.margin:g}, {terms.alpha:g}",
        "device": device,
        **facts(1, ["advbench", "scipy"]),
    }
    store(out, "calibration", lines, markdown(lines, about))


if __name__ == "__main__":
    main()
