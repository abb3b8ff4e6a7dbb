"""Train what a study asks for, attack it, store the rows: in worker processes, to be continued.

    OUT/nets/<network>-<remedy>-<seed>.*   weights, card and log of each training
    OUT/cells, manifest.json, summary.csv  as `advbench run` writes them
    OUT/study.csv, gaps.csv, study.md, learning.png

Workers write nets and nothing else; rows and tables are written by the process that holds the
folder.
"""

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from advbench import data
from advbench.bench.determinism import repeatable
from advbench.bench.plan import Cell, Victim, cells, plan, select
from advbench.bench.run import Found, Runner, provenance
from advbench.bench.store import FolderError, Store, differences, opened, to_json
from advbench.bench.table import summary, to_csv
from advbench.bench.verdicts import Row
from advbench.config import Config, DataSection, ModelEntry
from advbench.console import log_to_stderr
from advbench.document import ConfigError, Document
from advbench.files import WriteError, set_aside, write_atomic
from advbench.report.output import make_folder
from advbench.schema import plain
from advbench.study.config import Net, Study, nets
from advbench.study.tables import Result, write_tables
from advbench.training.produce import beside, produce


@dataclass(frozen=True, eq=False)
class Plan:
    """A study ready to run.

    Fields:
        nets: every training.
        blank: the cells of a network that there is no model of yet.
        digest: sha256 of the samples trained on.
    """

    study: Study
    document: Document
    nets: tuple[Net, ...]
    blank: Callable[[Net], list[Cell]]
    digest: str


@dataclass(frozen=True, eq=False)
class Task:
    """What a worker needs to make one network and to attack it."""

    net: Net
    study: Study
    folder: Path
    digest: str


@dataclass(frozen=True, eq=False)
class Made:
    """What came of a task.

    Fields:
        planned: what the plan says of each cell; None where there is no network.
        found: the cells run now, by key.
        trained: whether the network was trained now, not by an earlier run.
        error: what went wrong with it, in a line and as a traceback.
    """

    net: Net
    planned: list[dict[str, Any]] | None = None
    found: Mapping[str, Found] | None = None
    trained: bool = True
    error: tuple[str, str] = ("", "")


class Progress(Protocol):
    """Hears how a study gets on."""

    def net(self, label: str, result: str, fresh: bool) -> None:
        """A network is finished; not `fresh` if all of it was there already."""


def prepare(study: Study, document: Document) -> Plan:
    """Load what all trainings share; raises ConfigError with what is wrong with it."""
    name = study.data.name
    try:
        selection = select(name, "test", study.study.test_samples, None)
        digest = data.load(name, "train", study.data.samples).digest()

        def blank(net: Net) -> list[Cell]:
            victim = Victim(net.label, _nothing, "", net.label)
            return cells([(victim, selection)], study.attack, study.run.seed, study.run.draws)

        planned = tuple(nets(study, document))
        if planned:
            blank(planned[0])
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return Plan(study, document, planned, blank, digest)


def run_study(
    planned: Plan, folder: Path, jobs: int, progress: Progress, command: Sequence[str]
) -> list[Row]:
    """Make and attack what the folder does not hold yet, write all tables, return the summary.

    Whatever ends it early, what is finished by then is kept.

    Raises:
        WriteError: a file cannot be written.
        FolderError: the folder belongs to another run or another configuration.

    """
    with repeatable(planned.study.run.deterministic):
        facts = provenance(command)
    manifest = {
        "config": plain(planned.study),
        "config_text": planned.document.text,
        "overrides": sorted(set(planned.document.overridden.values())),
        "provenance": facts,
    }
    with opened(folder) as store:
        _claim(store, manifest)
        make_folder(folder / "nets")
        tasks = [Task(net, planned.study, folder, planned.digest) for net in planned.nets]
        made: dict[str, Made] = {}
        with closing(_made(tasks, jobs)) as finished:
            for one in finished:
                for record, rows in (one.found or {}).values():
                    store.save(record, rows)
                made[one.net.label] = one
                progress.net(one.net.label, _told(one), one.trained or bool(one.found))
        results = [_result(planned, store, made[net.label]) for net in planned.nets]
        return _write(store, planned.study, manifest, results)


def make(task: Task) -> Made:
    """Train a network unless it is there, and run those of its cells that are not stored."""
    with repeatable(task.study.run.deterministic):
        return _make(task)


def _make(task: Task) -> Made:
    net, study = task.net, task.study
    target = task.folder / "nets" / net.file
    try:
        trained = not _is_there(net, target, task.digest)
        if trained:
            produce(net.recipe, net.given, net.label, target)
        config = Config(
            model=(ModelEntry(name=f"file:{target.resolve()}.safetensors", label=net.label),),
            attack=study.attack,
            run=study.run,
            data=DataSection(name=study.data.name, samples=study.study.test_samples),
        )
        planned = plan(config)
    except WriteError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return Made(net, error=(text, traceback.format_exc()))
    store, runner = Store(task.folder), Runner(study.run.batch_size, study.run.device)
    found = {cell.key: runner.run(cell) for cell in planned if store.load(cell.key) is None}
    return Made(net, [cell.facts() for cell in planned], found, trained)


def _is_there(net: Net, target: Path, digest: str) -> bool:
    """Whether an earlier run has made the very same network."""
    wanted = {
        "recipe": net.given,
        "architecture": plain(net.recipe.model),
        "defenses": [plain(defense) for defense in net.recipe.defenses],
        "torch": torch.__version__,
    }
    try:
        card = read_card(target)
        weights = beside(target, ".safetensors").read_bytes()
        same = json.loads(json.dumps(wanted)) == {key: card[key] for key in wanted}
        return (
            same
            and card["data"]["digest"] == digest
            and card["sha256"] == hashlib.sha256(weights).hexdigest()
            and beside(target, ".csv").is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_card(target: Path) -> dict[str, Any]:
    """Return the card of a training; raises OSError or ValueError where there is none."""
    card = json.loads(beside(target, ".json").read_bytes())
    if not isinstance(card, dict):
        raise ValueError(f"{target}: its card holds no JSON object")
    return card


def _made(tasks: Sequence[Task], jobs: int) -> Generator[Made, None, None]:
    """Yield what came of the tasks, one job in this process, more in processes of their own."""
    if jobs > 1:
        yield from _in_workers(tasks, min(jobs, len(tasks)))
        return
    before = torch.get_num_threads()
    try:
        for task in tasks:
            torch.set_num_threads(task.study.train.threads)
            yield make(task)
    finally:
        torch.set_num_threads(before)


def _in_workers(tasks: Sequence[Task], jobs: int) -> Iterator[Made]:
    _check_can_be_sent(tasks)
    context = multiprocessing.get_context("spawn")
    alive, watched = context.Pipe()
    threads = tasks[0].study.train.threads
    with ProcessPoolExecutor(jobs, context, _begin, (watched, threads)) as pool:
        try:
            for future in as_completed([pool.submit(make, task) for task in tasks]):
                yield future.result()
        except BaseException:
            alive.close()  # ends the workers, whatever they are at
            raise


def _check_can_be_sent(tasks: Sequence[Task]) -> None:
    """Refuse, before anything is trained, what a process of its own could not be given."""
    for task in tasks:
        try:
            pickle.dumps(task)
        except Exception as error:  # pickle raises many kinds
            raise ConfigError(
                f"study: '{task.net.label}' cannot be sent to a worker process: {error}. Networks, "
                "defences and attacks must be classes that can be imported by their name, and hold "
                "only what can be pickled, no lambda; --jobs 1 uses no other process."
            ) from error


def _begin(watched: Connection, threads: int) -> None:
    """Set up a worker, which ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    log_to_stderr(0)
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()


def _end_with(watched: Connection) -> None:
    with suppress(EOFError, OSError):
        watched.recv()
    os._exit(1)


def _claim(store: Store, manifest: Mapping[str, Any]) -> None:
    """Make the folder that of this study, or accept that it is; else raise FolderError."""
    earlier = _manifest(store)
    if earlier is None:
        write_atomic(store.folder / "manifest.json", to_json(manifest))
    elif earlier.get("config") != json.loads(to_json(manifest))["config"]:
        lines = "\n".join(f"  {line}" for line in differences(earlier, manifest)[:20])
        raise FolderError(
            f"{store.folder}: holds the results of another configuration:\n{lines}\n"
            "Give another folder with --out, or remove this one."
        )


def _manifest(store: Store) -> dict[str, Any] | None:
    """The manifest of the folder, if it has one; a damaged one is set aside with a warning."""
    path = store.folder / "manifest.json"
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        set_aside(path, error)
        return None
    return found


def _result(planned: Plan, store: Store, made: Made) -> Result:
    """What the folder holds of a network in the end."""
    net = made.net
    if made.planned is None:
        facts = [cell.facts() for cell in planned.blank(net)]
        failure = {"status": "error", "detail": made.error[0], "traceback": made.error[1]}
        records: dict[str, Found] = {one["key"]: ({**one, **failure}, None) for one in facts}
        for record, rows in records.values():
            store.save(record, rows)
        return Result(net.network, net.remedy, net.seed, None, "", facts, records)
    target = store.folder / "nets" / net.file
    found = {}
    for one in made.planned:
        stored = store.load(one["key"]) or (made.found or {}).get(one["key"])
        if stored is not None:
            found[one["key"]] = stored
    log = beside(target, ".csv").read_text(encoding="utf-8")
    return Result(net.network, net.remedy, net.seed, read_card(target), log, made.planned, found)


def _write(
    store: Store, study: Study, manifest: Mapping[str, Any], results: Sequence[Result]
) -> list[Row]:
    planned = [facts for result in results for facts in result.planned]
    complete = {**manifest, "cells": planned}
    earlier = _manifest(store)
    if earlier is None or earlier.get("cells") != json.loads(to_json(complete))["cells"]:
        write_atomic(store.folder / "manifest.json", to_json(complete))
    table = summary(planned, {key: f for result in results for key, f in result.found.items()})
    store.write("summary.csv", to_csv(table))
    write_tables(store.folder, results, study.study.baseline, study.shown)
    return table


def _told(made: Made) -> str:
    if made.planned is None:
        return f"error: {made.error[0]}"
    failed = [record["detail"] for record, rows in (made.found or {}).values() if rows is None]
    done = ["trained"] * made.trained + ["attacked"] * bool(made.found)
    text = " and ".join(done) or "there already"
    return f"{text}, error: {failed[0]}" if failed else text


def _nothing(x: Tensor) -> Tensor:
    raise NotImplementedError("there is no model")
