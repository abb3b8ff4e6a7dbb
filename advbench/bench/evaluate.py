"""The bench from Python: the same plan, run, judge and table as the command, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from advbench import registry
from advbench.attacks import checks
from advbench.attacks.attack import Attack
from advbench.attacks.victim import Model
from advbench.bench.plan import DRAWS, Cell, Selection, Victim, cells
from advbench.bench.run import Runner, run_cells
from advbench.bench.table import COLUMNS, summary
from advbench.config import AttackEntry, CertifySection, Eps
from advbench.data import Samples
from advbench.models.loading import content_address


@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluation found.

    `table` has the columns of summary.csv: a row per attack and eps, and the worst case of each
    eps. `samples` has a row per attack and sample, from which every number of `table` follows.
    `errors` has the traceback of each attack that failed.
    """

    table: pd.DataFrame
    samples: pd.DataFrame
    errors: tuple[str, ...] = ()


def evaluate(
    model: Model,
    data: Samples | tuple[Tensor, Tensor],
    attacks: Sequence[Attack | str],
    eps: float | Sequence[float],
    seed: int | Sequence[int] = 0,
    batch_size: int = 128,
    names: Sequence[str] | None = None,
    targets: int | None = None,
    train: Samples | tuple[Tensor, Tensor] | None = None,
    adaptive: bool = False,
    draws: int = DRAWS,
    certify: Literal["auto", "always", "never"] = "auto",
) -> Results:
    """Attack a classifier and judge what the attacks return.

    Args:
        model: images (B, *shape) in [0, 1] to logits (B, K), with the normalisation inside. It is
            attacked in eval mode and left as it was.
        data: images (N, *shape), floating point in [0, 1], and their classes (N,), or Samples,
            which may also be scenes that they bring a renderer for.
        attacks: instances, or registered names for the defaults.
        eps: one scale of the perturbation sets or several, in their unit.
        seed: one seed or several.
        batch_size: most samples in flight.
        names: a name for each attack; registered names by default.
        targets: the class to reach; None for any wrong one.
        train: images and classes that attacks such as `Sticker` are fitted to, other than `data`.
        adaptive: attack the model without the layers that hide its gradient; the model itself is
            still what is judged.
        draws: how often a model that answers at random is asked about each example it is judged
            on, at least 2.
        certify: whether to prove samples robust: where bounds are cheap, where there are any, or
            never; see `CertifySection`.

    Raises:
        ValueError, TypeError: an argument is out of its range or of the wrong kind. What an attack
            raises does not come out here: it gives a row of status `error`.

    """
    learnt = None if train is None else _samples(train)
    selection = Selection("data", _samples(data), lambda count: _first(learnt, count))
    address = content_address(model) if isinstance(model, nn.Module) else ""
    victim = Victim("model", model, address)
    if not attacks:
        raise ValueError("attacks is empty; give instances or names, as in attacks=['pgd']")
    if names is not None and len(names) != len(attacks):
        raise ValueError(f"names: expected {len(attacks)}, one per attack; got {len(names)}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2; got {draws}")
    scales = tuple(Eps(float(e), str(e)) for e in ([eps] if isinstance(eps, int | float) else eps))
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if not scales or not seeds:
        raise ValueError("eps and seed need at least one value each")
    built = [registry.get("attacks", a)() if isinstance(a, str) else a for a in attacks]
    labels = list(names) if names is not None else [registry.name_of(type(a)) for a in built]
    entries = [
        AttackEntry(label, attack, scales, targets=targets, adaptive=adaptive)
        for label, attack in zip(labels, built, strict=True)
    ]
    section = CertifySection(when=certify)
    planned = cells([(victim, selection)], entries, seeds, draws, certify=section)
    finished = dict(run_cells(planned, Runner(batch_size)))
    table = summary([cell.facts() for cell in planned], finished)
    records = [finished[cell.key] for cell in planned]
    return Results(
        pd.DataFrame(table, columns=list(COLUMNS)),
        _per_sample(planned, [rows for _, rows in records]),
        tuple(record["traceback"] for record, rows in records if rows is None),
    )


def _samples(data: Samples | tuple[Tensor, Tensor]) -> Samples:
    if isinstance(data, Samples):
        return data
    x, y = data
    checks.images(x)
    checks.labels("y", y, x)
    if not len(x):
        raise ValueError("data holds no samples")
    classes = tuple(str(number) for number in range(int(y.max()) + 1))
    ids = torch.arange(len(x))
    return Samples("data", "test", x.detach().cpu(), y.cpu().long(), ids, classes)


def _first(train: Samples | None, count: int | None) -> Samples:
    if train is None:
        raise ValueError("this attack is first fitted: give evaluate the images, train=(x, y)")
    return train.first(count)


def _per_sample(planned: Sequence[Cell], results: Sequence[object]) -> pd.DataFrame:
    frames = []
    for cell, rows in zip(planned, results, strict=True):
        if isinstance(rows, dict):
            head = {"attack": cell.name, "eps": cell.scale, "seed": cell.seed}
            frames.append(pd.DataFrame({**head, **rows}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
