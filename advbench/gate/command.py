"""What the command `advbench gate` does: from names of files to a report."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from advbench.bench.benchmark import benchmark
from advbench.bench.plan import Cell, Victim, plan
from advbench.bench.run import Found, Progress, Runner
from advbench.bench.store import FolderError, opened
from advbench.config import Config, Document, GateSection, load, load_text
from advbench.gate.baseline import BaselineError, read_baseline, write_baseline
from advbench.gate.canary import Canary, canary
from advbench.gate.gate import Report, check_alike, flagged, gate, quick
from advbench.gate.side import IncompleteError, Side, measure, searches_of, side_of
from advbench.models.loading import ModelSpec, load_model


@dataclass(frozen=True)
class Searches:
    """What is to be compared: a configuration, or the folder of a run that has finished."""

    config: Config
    document: Document
    cells: Sequence[Cell]
    folder: Path | None  # that holds the results already


def searches(run: Path, overrides: Sequence[str]) -> Searches:
    """Read a configuration, whose changes are then kept, or the folder of a run.

    Raises ConfigError, and FolderError for a folder that holds no run.
    """
    if not run.is_dir():
        config, document = load(run, ["run.keep_changes=true", *overrides])
        return Searches(config, document, plan(config), None)
    try:
        manifest = json.loads((run / "manifest.json").read_bytes())
        text, given = manifest["config_text"], manifest["overrides"]
    except (OSError, ValueError, KeyError) as error:
        raise FolderError(f"{run}: holds no run that could be gated: {error}") from error
    config, document = load_text(str(run / "manifest.json"), text, [*given, *overrides])
    return Searches(config, document, plan(config), run)


@dataclass(frozen=True, eq=False)
class Request:
    """What a user asks of a gate.

    `baseline` is the file, `folder` where the run is kept, `against` the name of the baseline's
    model, where it has changed since.
    """

    searches: Searches
    terms: GateSection
    baseline: Path | None
    device: str
    progress: Progress
    folder: Path | None = None
    against: str | None = None

    def report(self) -> Report:
        """Run the searches and put them through the gate."""
        then = self._then()
        cells = self.searches.cells
        check_alike(then, searches_of(cells))  # before the work
        before = _before(then, cells, self.against)
        return gate(then, self._now(), cells, self.terms, before, self._runner.batch_size)

    def quick(self) -> Report:
        """Try the changes of the baseline alone."""
        return quick(self._then(), self.searches.cells, self.terms, self._runner)

    def canary(self) -> Canary:
        """Put a weakened model through the gate, against the baseline or the model as it is."""
        then = self._now() if self.baseline is None else self._then()
        return canary(then, self.searches.cells, self.terms, self._runner)

    def update(self, force: bool) -> list[str]:
        """Write the baseline; return how its searches differ from those of the old one.

        Raises BaselineError, and writes nothing, where its numbers cannot be trusted or this is a
        CI system, unless it is forced: a baseline that is written there passes whatever comes.
        """
        if os.environ.get("CI", "").lower() not in ("", "0", "false") and not force:
            raise BaselineError(
                "--update is for people: in CI it would accept whatever comes. Write the baseline "
                "on your machine and commit it, or add --force."
            )
        assert self.baseline is not None
        if not self.searches.cells:
            raise BaselineError("nothing to gate: name at least one model and one attack")
        now = self._now()
        alarms = tuple(dict.fromkeys(flagged(now.table)))
        if alarms and not force:
            raise BaselineError(
                "these numbers cannot be trusted, so they are no baseline:\n"
                + "\n".join(f"  {alarm}" for alarm in alarms)
                + "\nMend the searches, or add --force to accept these alarms from now on."
            )
        changed = []
        if self.baseline.exists():
            try:
                check_alike(self._then(), now.searches)
            except BaselineError as error:
                changed = [line for line in str(error).splitlines() if line.startswith("  ")]
        write_baseline(self.baseline, replace(now, accepted=alarms))
        return changed

    @cached_property
    def _runner(self) -> Runner:
        return Runner(self.searches.config.run.batch_size, self.device, self.progress)

    def _then(self) -> Side:
        assert self.baseline is not None
        return read_baseline(self.baseline)

    def _now(self) -> Side:
        """Run the searches, into the folder if there is one, or read the results of a run."""
        given, cells = self.searches, self.searches.cells
        if given.folder is not None:
            return side_of(cells, _stored(cells, given.folder))
        if self.folder is None:
            return measure(cells, self._runner)
        command = ["advbench", *sys.argv[1:]]
        benchmark(cells, self.folder, self._runner, given.config, given.document, command)
        return side_of(cells, _stored(cells, self.folder))


def _before(baseline: Side, cells: Sequence[Cell], against: str | None) -> Mapping[str, Victim]:
    """The models of the baseline that are at hand, by label."""
    if against is None:
        return {}
    now = {cell.victim.label: cell.victim.sha256 + cell.victim.code for cell in cells}
    changed = [label for label, address in now.items() if baseline.models[label] != address]
    try:
        model = load_model(ModelSpec(name=against))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise BaselineError(f"--against {against}: {error}") from error
    matching = [label for label in changed if baseline.models[label] == model.sha256]
    if not matching:
        raise BaselineError(
            f"--against {against}: its weights are those of no model of the baseline that has "
            f"changed since ({', '.join(changed) or 'none has'})"
        )
    return {label: Victim(label, model.model, model.sha256) for label in matching}


def _stored(cells: Sequence[Cell], folder: Path) -> dict[str, Found]:
    found: dict[str, Found] = {}
    with opened(folder) as store:
        for cell in cells:
            stored = store.load(cell.key)
            if stored is None:
                raise IncompleteError(
                    f"{folder}: {cell.victim.label}: {cell.name}: no result. The run is not "
                    "finished, or the model, the samples or the attack have changed since."
                )
            found[cell.key] = stored
    return found
