"""Run cells: clean pass, attack, verdict, rows. One bad cell never ends a run.

Seconds are wall-clock time of the attack alone. What an attack raises becomes the record of its
cell, and the cell is then missing from every table: neither robust nor broken.

A victim that answers at random is scored by shares of draws, each from a seed that no attack uses:
`clean_right` of the samples as they are, `right` of the final examples, and `screened` of the final
examples in as many other draws, by which the worst attack is chosen without a bias on its `right`.
"""

import contextlib
import datetime
import json
import logging
import platform
import subprocess
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from advbench import registry
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.expectation import EOT
from advbench.attacks.masking import unmasked
from advbench.attacks.speed import accelerated
from advbench.attacks.victim import Model
from advbench.bench.determinism import numerics
from advbench.bench.judge import judge
from advbench.bench.plan import Cell, Selection, Victim
from advbench.bench.proofs import Proofs, proven, settle
from advbench.bench.store import Rows, Store
from advbench.bench.surrogates import together
from advbench.bench.table import status_of
from advbench.schema import plain
from advbench.trust.answers import (
    answers_at_random,
    classes,
    confidence,
    draw_seeds,
    predict,
    tally,
)

_log = logging.getLogger(__name__)

_CHANCE = (
    "%s: clean accuracy %.3f on %s is no better than chance. Are the images normalised twice, or "
    "the classes in another order?"
)

_EOT = 10
"""Draws of a random model that a query averages, where the configuration does not say."""
_PROBED = 32
"""Samples on which a model is asked whether it answers at random."""

Found: TypeAlias = tuple[dict[str, Any], Rows | None]
"""Record and rows of one cell; a cell that failed has no rows."""


class Progress(Protocol):
    """Hears how a run gets on."""

    def rows(self, count: int) -> None:
        """`count` more samples of the current cell are finished."""

    def cell(self, cell: Cell, record: dict[str, Any], rows: Rows | None) -> None:
        """A cell is finished, now or in an earlier run."""


class Silent:
    """Progress that nobody looks at."""

    def rows(self, count: int) -> None:
        """Ignore it."""

    def cell(self, cell: Cell, record: dict[str, Any], rows: Rows | None) -> None:
        """Ignore it."""


@dataclass(frozen=True, eq=False)
class Clean:
    """What a model makes of the samples as they are, (N,).

    Where it answers at random, `correct` is what most screening draws say, and says which samples
    are attacked; `right` comes from other draws, so that those left out are no unlucky choice.
    """

    prediction: Tensor
    confidence: Tensor
    correct: Tensor
    right: Tensor | None = None
    screened: Tensor | None = None


@dataclass
class Runner:
    """Runs cells one after the other; the clean pass of a model and its samples is made once."""

    batch_size: int = 128
    device: str | None = None  # None leaves every model where it is
    progress: Progress = field(default_factory=Silent)
    _clean: dict[tuple[int, int, int], Clean] = field(default_factory=dict)
    _random: dict[tuple[int, int], bool] = field(default_factory=dict)
    _fits: dict[str, Attack] = field(default_factory=dict)
    _proofs: dict[str, Proofs | None] = field(default_factory=dict)
    # By the model's id, which is free for another once the model is gone: so it is kept beside.
    _fast: dict[tuple[int, tuple[str, ...]], tuple[Model, nn.Module]] = field(default_factory=dict)

    def run(self, cell: Cell) -> Found:
        """Return record and rows of a cell; a failure gives a record with the traceback."""
        record: dict[str, Any] = {
            **cell.facts(),
            "started": _now(),
            "device": self.device or "as given",
            "threads": torch.get_num_threads(),
            "versions": _versions(),
        }
        try:
            rows, facts = self._within_memory(cell)
        except (Exception, SystemExit) as error:
            _log.error("%s on %s failed: %s", cell.name, cell.victim.label, _summary(error))
            failure = {"status": "error", "detail": _summary(error)}
            return record | failure | {"traceback": _source(cell) + traceback.format_exc()}, None
        return record | {"status": status_of(rows), "ended": _now()} | facts, rows

    def _within_memory(self, cell: Cell) -> tuple[Rows, dict[str, Any]]:
        """Run a cell; out of memory, start it again with half as many rows in flight."""
        batch_size = self.batch_size
        failed: list[int] = []
        while True:
            try:
                rows, facts = self._rows(cell, batch_size)
                return rows, facts | {"batch_size": batch_size, "out_of_memory_at": failed}
            except RuntimeError as error:
                if batch_size == 1 or not _out_of_memory(error):
                    raise
            failed.append(batch_size)
            batch_size //= 2
            _log.warning("%s: out of memory; again with %d rows", cell.name, batch_size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _rows(self, cell: Cell, batch_size: int) -> tuple[Rows, dict[str, Any]]:
        clean = self.clean_pass(cell, batch_size)
        samples = cell.selection.samples
        random = clean.right is not None
        fits = isinstance(cell.attack, Fittable)
        attacked = clean.correct
        if cell.targets is not None and not fits:  # there is nothing to reach for the others
            attacked = attacked & (samples.y != cell.targets)
        index = attacked.nonzero().squeeze(1)
        self.progress.rows(len(samples) - len(index))
        rows = _blank(cell, clean, attacked)
        proofs = self._proven(cell, clean.correct, batch_size)
        masked = any(unmasked(one.model) is not one.model for one in cell.made_on)
        known: dict[str, Any] = {"draws": cell.draws if random else None, "masked": masked}
        if proofs is not None:
            known["proof_seconds"] = proofs.seconds
        if not len(index):
            settle(cell, rows, proofs, random)
            return rows, known | {"seconds": 0.0, "eot": cell.eot}
        x, y, ids = samples.x[index], samples.y[index], samples.ids[index]
        started = time.perf_counter()
        attack = self._fitted(cell)
        fitted = {"fitted": plain(attack)} if fits else {}
        aims = None if cell.targets is None or fits else torch.full_like(y, cell.targets)
        transferred = bool(cell.surrogates) and not fits
        made_on = cell.made_on if transferred else (cell.victim,)
        self._move(*made_on)
        asked = [self._at_random(one, cell.selection, batch_size) for one in made_on]
        uses_proofs = cell.attack.takes_proofs and not transferred and not random
        eot = cell.eot
        if eot is None and not fits and any(asked):
            eot = _EOT
        seen = cell.victim.model if fits else together([_differentiated(o, cell) for o in made_on])
        outcome = attack.run(
            samples.seen_by(seen),
            x,
            y,
            eps=cell.scale,
            targets=aims,
            seed=cell.seed,
            ids=ids,
            stop="never" if transferred or random else "success",
            correct=None if transferred else torch.ones(len(x), dtype=torch.bool),
            proven=proofs.at(cell.scale, index) if proofs is not None and uses_proofs else None,
            batch_size=batch_size,
            budget=cell.budget,
            eot=None if eot is None else EOT(eot),
            stand_in=None if eot is not None or fits else self._faster(cell, seen, x),
            progress=self.progress.rows,
        )
        seconds = time.perf_counter() - started
        verdict = judge(
            cell.victim.model,
            attack,
            x,
            y,
            cell.scale,
            outcome,
            batch_size,
            samples.images,
            seeds=draw_seeds("right", cell.seed, cell.draws) if random else (0,),
            screening=draw_seeds("screened", cell.seed, cell.draws) if random else (),
        )
        at = index.numpy()
        judged = ["prediction", "confidence", "success", "success_8bit", "size", "invalid", "nan"]
        for name in [*judged, *(("right", "screened") if random else ())]:
            rows[name][at] = getattr(verdict, name)
        for name in ("forwards", "backwards", "steps", "flags"):
            rows[name][at] = getattr(outcome, name).cpu().numpy()
        rows["claimed"][at] = outcome.success.cpu().numpy()
        if outcome.stage.any():
            rows["stage"] = np.zeros(len(samples), int)
            rows["stage"][at] = outcome.stage.cpu().numpy()
        parts = zip(x.split(batch_size), outcome.p.to(x).split(batch_size), strict=True)
        facts = [attack.perturbation.facts(*part) for part in parts]
        for name in facts[0]:
            rows[name] = np.full(len(samples), np.nan)
            rows[name][at] = torch.cat([part[name] for part in facts]).cpu().numpy()
        if cell.keep_changes and not fits:
            p = outcome.p.cpu().numpy()
            rows["changes"] = np.zeros((len(samples), *p.shape[1:]), p.dtype)
            rows["changes"][at] = p
        settle(cell, rows, proofs, random)
        found = {"seconds": seconds, "detail": verdict.detail or None, "eot": eot}
        return rows, known | found | fitted

    def _fitted(self, cell: Cell) -> Attack:
        """The attack itself; one that learns is first fitted to samples it is not judged on.

        What is fitted on the same models and images is the same, whoever it is judged on.
        """
        if not isinstance(cell.attack, Fittable):
            return cell.attack
        train = cell.train
        made_of = [
            plain(cell.attack),
            [other.sha256 + other.code for other in cell.made_on],
            train.digest(),
            [cell.scale, cell.targets, cell.seed, cell.adaptive],
        ]
        key = json.dumps(made_of, sort_keys=True)
        if key not in self._fits:
            self._move(*cell.made_on)
            self._fits[key] = cell.attack.fit(
                [train.seen_by(_differentiated(other, cell)) for other in cell.made_on],
                [(train.x, train.y)],
                eps=cell.scale,
                targets=cell.targets,
                seed=cell.seed,
            )
        return self._fits[key]

    def _proven(self, cell: Cell, correct: Tensor, batch_size: int) -> Proofs | None:
        """What is proven, once for all attacks on one model, set and eps."""
        about = [id(cell.victim), id(cell.selection), plain(cell.attack.perturbation), cell.eps]
        key = json.dumps([*about, plain(cell.certify)], sort_keys=True)
        if key not in self._proofs:
            self._move(cell.victim)
            self._proofs[key] = proven(cell, correct, batch_size)
        return self._proofs[key]

    def _faster(self, cell: Cell, model: Model, x: Tensor) -> Model | None:
        """Return what the search asks instead of the model; None without any shortcut."""
        if not cell.speed:
            return None
        if not isinstance(model, nn.Module) or cell.selection.samples.renderer is not None:
            raise ValueError("run.speed is for models of images that are a torch.nn.Module")
        key = id(model), cell.speed
        if key not in self._fast:
            self._fast[key] = model, accelerated(model, x, cell.speed)
        return self._fast[key][1]

    def _move(self, *victims: Victim) -> None:
        for victim in victims:
            if self.device is not None and isinstance(victim.model, nn.Module):
                victim.model.to(self.device)

    def _at_random(self, victim: Victim, selection: Selection, batch_size: int) -> bool:
        key = (id(victim), id(selection))
        if key not in self._random:
            x = selection.samples.x[:_PROBED]
            self._random[key] = answers_at_random(
                victim.model, x, batch_size, selection.samples.images
            )
        return self._random[key]

    def clean_pass(self, cell: Cell, batch_size: int | None = None) -> Clean:
        """Return what the victim of a cell makes of its samples as they are."""
        batch_size = batch_size or self.batch_size
        victim, selection = cell.victim, cell.selection
        key = (id(victim), id(selection), cell.draws)
        if key not in self._clean:
            self._move(victim)
            samples = selection.samples
            if self.device is not None and isinstance(samples.renderer, nn.Module):
                samples.renderer.to(self.device)
            logits = predict(victim.model, samples.x, batch_size, samples.images)
            _check_labels(logits, selection)
            guess = classes(logits)
            clean = Clean(guess, confidence(logits), guess == samples.y)
            if self._at_random(victim, selection, batch_size):
                clean = _drawn(victim.model, selection, batch_size, cell.draws)
            share = (clean.correct if clean.right is None else clean.right).double().mean().item()
            if share <= 1 / logits.shape[1]:
                _log.warning(_CHANCE, victim.label, share, selection.label)
            self._clean[key] = clean
        return self._clean[key]


def run_cells(
    cells: Sequence[Cell], runner: Runner, store: Store | None = None
) -> Iterator[tuple[str, Found]]:
    """Yield each cell by its key, run now or found in the store, as soon as it is finished."""
    done: dict[str, Found] = {}  # two names for one content are run once
    for cell in cells:
        found = done.get(cell.key)
        if found is None and store is not None:
            found = store.load(cell.key)
        if found is None:
            found = runner.run(cell)
            if store is not None:
                store.save(*found)
        else:
            runner.progress.rows(len(cell.selection.samples))
        done[cell.key] = found
        runner.progress.cell(cell, *found)
        yield cell.key, found


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """Say what a run was made with: versions, machine, threads, settings, command and time."""
    return {
        "versions": _versions(),
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "numerics": numerics(),
        "command": list(command),
        "started": _now(),
    }


def _differentiated(made_on: Victim, cell: Cell) -> Model:
    """The model that an attack is made on."""
    return unmasked(made_on.model) if cell.adaptive else made_on.model


def _drawn(model: Model, selection: Selection, batch_size: int, draws: int) -> Clean:
    """The clean pass of a model that answers at random."""
    samples = selection.samples
    images = samples.images(samples.x)
    right, screened = (
        tally(model, images, samples.y, batch_size, seeds=draw_seeds(purpose, 0, draws))
        for purpose in ("clean_right", "clean_screened")
    )
    guess = screened.prediction.where(right.finite, -1)
    correct = screened.right > 0.5
    return Clean(guess, screened.confidence, correct, right.right, screened.right)


def _blank(cell: Cell, clean: Clean, attacked: Tensor) -> dict[str, Any]:
    """Rows as they are without any attack."""
    samples = cell.selection.samples
    n = len(samples)
    prediction, correct = clean.prediction.numpy(), clean.correct.numpy()
    rows: dict[str, Any] = {
        "index": samples.ids.numpy().copy(),
        "label": samples.y.numpy().copy(),
        "clean_prediction": prediction.copy(),
        "clean_correct": correct.copy(),
        "attacked": attacked.numpy().copy(),
        "prediction": prediction.copy(),
        "confidence": clean.confidence.numpy().copy(),
        "size": np.full(n, np.nan),
        "nan": prediction == -1,
    }
    rows |= {name: np.zeros(n, bool) for name in ("claimed", "success", "success_8bit", "invalid")}
    rows |= {name: np.zeros(n, int) for name in ("forwards", "backwards", "steps", "flags")}
    if clean.right is not None and clean.screened is not None:
        right = clean.right.numpy()
        rows |= {"clean_right": right.copy(), "right": right.copy()}
        screened = clean.screened.numpy()
        rows |= {"clean_screened": screened.copy(), "screened": screened.copy()}
    return rows


def _check_labels(logits: Tensor, selection: Selection) -> None:
    worst = int(selection.samples.y.max())
    if worst >= logits.shape[1]:
        raise ValueError(
            f"{selection.label} has the label {worst}, but the model returns {logits.shape[1]} "
            "classes, 0 to " + str(logits.shape[1] - 1)
        )


def _out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    told = "out of memory" in text or "can't allocate memory" in text  # a GPU's words, a CPU's
    return told or isinstance(error, torch.OutOfMemoryError)


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _source(cell: Cell) -> str:
    """Whose attack it was."""
    name = registry.name_of(type(cell.attack))
    if ":" in name:
        return f"{name}\n"
    plugin = registry.describe("attacks", name)
    return f"{name} ({plugin.value}) of {plugin.distribution} {plugin.version}\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("advbench", "torch", "torchvision", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit() -> str | None:
    """Commit of the working folder, with `-dirty` where it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
