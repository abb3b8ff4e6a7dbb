"""The command `advbench`. Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 a gate failed or was inconclusive, or a diagnosis says stop, 2 usage,
configuration or baseline, 3 incomplete, 4 a device or dependency is missing, 5 nothing to do, 130
and 143 ended by a signal. Commands import torch only when they need it.
"""

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from advbench import __version__, catalogue, registry
from advbench.config import ConfigError, load
from advbench.console import (
    Console,
    Epochs,
    Exit,
    Nets,
    Terminated,
    log_to_stderr,
    out,
    say,
    terminable,
    tolerant_streams,
)
from advbench.diagnose_command import diagnose
from advbench.gate.cli import gate
from advbench.options import CONFIG, JSON, SET, device_problem

_KINDS = click.Choice(registry.KINDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    tolerant_streams()
    try:
        with terminable():
            code = cli.main(arguments, prog_name="advbench", standalone_mode=False)
        return int(code or Exit.OK)
    except SystemExit:  # click's answer to a reader of stdout that has gone away
        return Exit.OK
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except ConfigError as error:
        say(str(error))
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return Exit.INTERRUPTED
    except Terminated:
        say("terminated")
        return Exit.TERMINATED
    except Exception:  # a fault of advbench itself; Python would exit 1, which is a gate's verdict
        say(traceback.format_exc())
        return Exit.INCOMPLETE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="advbench")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for still more.")
def cli(verbose: int) -> None:
    """Find out how robust an image classifier really is."""
    log_to_stderr(verbose)


@cli.command()
@CONFIG
@click.option("--out", "folder", type=click.Path(path_type=Path), help="Results folder.")
@click.option("--device", help="Where the models run, as torch names it.")
@SET
@click.option("--dry-run", is_flag=True, help="List the cells and stop.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "--format", "style", type=click.Choice(["table", "csv", "md", "json"]), default="table"
)
def run(
    config: Path,
    folder: Path | None,
    device: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    style: str,
) -> int:
    """Attack the models of CONFIG and print how many samples stay right.

    Results go to results/<name of CONFIG>. An interrupted run is continued by the same command.
    """
    settings, document = load(config, overrides)
    from advbench.bench.benchmark import benchmark
    from advbench.bench.plan import plan
    from advbench.bench.render import advice, render
    from advbench.bench.run import Runner
    from advbench.bench.store import FolderError, opened
    from advbench.files import WriteError
    from advbench.report.poses import write_poses
    from advbench.report.queries import write_queries
    from advbench.report.stickers import write_stickers
    from advbench.report.transfer import write_transfer

    where = device or settings.run.device
    problem = device_problem(where)
    if problem is not None:
        return problem
    cells = plan(settings)
    rows = sum(len(cell.selection.samples) for cell in cells)
    say(f"{len(cells)} cells, {rows} attacked samples at most")
    if not cells:
        say(f"{config}: nothing to do: name at least one model and one attack")
        return Exit.NOTHING
    if dry_run:
        out("".join(_line(cell.facts()) for cell in cells))
        return Exit.OK
    target = folder or Path("results", config.stem)
    command = ["advbench", *sys.argv[1:]]
    try:
        with Console([cell.work for cell in cells], rows, quiet) as console:
            runner = Runner(settings.run.batch_size, where, console)
            table = benchmark(cells, target, runner, settings, document, command)
    except (KeyboardInterrupt, Terminated):
        say("finished cells are kept; the same command continues the run")
        raise
    except FolderError as error:
        say(str(error))
        return Exit.USAGE
    except WriteError as error:
        say(f"{error}. Finished cells are kept; the same command continues the run")
        return Exit.INCOMPLETE
    out(render(table, style))
    for sentence in advice(table):
        say(f"warning: {sentence}")
    say(f"written to {target}")
    try:
        with opened(target) as store:
            stickers = write_stickers(cells, store)
            poses = write_poses(cells, store)
            transfer = write_transfer(cells, store)
            queries = write_queries(cells, store)
    except (FolderError, WriteError) as error:
        say(str(error))
        return Exit.INCOMPLETE
    if stickers is not None:
        say(f"stickers to print, curves and maps in {stickers}")
    if poses is not None:
        say(f"tables and pictures of poses in {poses}")
    if transfer is not None:
        say(f"what moves from model to model in {transfer}")
    if queries is not None:
        say(f"success against queries in {queries}")
    return Exit.OK if all(row["status"] == "ok" for row in table) else Exit.INCOMPLETE


cli.add_command(gate)
cli.add_command(diagnose)


@cli.command()
@CONFIG
@SET
def check(config: Path, overrides: tuple[str, ...]) -> None:
    """Check CONFIG and report everything that is wrong with it."""
    settings, document = load(config, overrides)
    amounts = " and ".join(
        f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
        for name, things in (("model", settings.model), ("attack", settings.attack))
    )
    say(f"{document.name}: {amounts}, no problem found")


@cli.command()
@CONFIG
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("results", "train"),
    show_default=True,
)
def train(config: Path, folder: Path) -> int:
    """Train the network of the recipe CONFIG.

    Writes weights, a card and the log of the training. The same command goes on where a training
    was killed.
    """
    from advbench.training.produce import run_recipe

    try:
        with Epochs() as epochs:
            written = run_recipe(config, folder, epochs)
        out(f"{written}\n")
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        say(f"{config}: {error}")
        return Exit.USAGE
    except OSError as error:
        say(f"{folder}: {error}")
        return Exit.INCOMPLETE
    return Exit.OK


@cli.command()
@CONFIG
@click.option("--out", "folder", type=click.Path(path_type=Path), help="Results folder.")
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Networks at a time; as many as there are cores."
)
@SET
@click.option("--dry-run", is_flag=True, help="List the networks and stop.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def study(
    config: Path,
    folder: Path | None,
    jobs: int | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
) -> int:
    """Train the networks of CONFIG with every remedy, attack them all and compare.

    Results go to results/<name of CONFIG>. An interrupted study is continued by the same command.
    """
    from concurrent.futures import BrokenExecutor

    from advbench.bench.render import advice
    from advbench.bench.store import FolderError
    from advbench.files import WriteError
    from advbench.study.config import load_study
    from advbench.study.run import prepare, run_study

    settings, document = load_study(config, overrides)
    problem = device_problem(settings.run.device)
    if problem is not None:
        return problem
    planned = prepare(settings, document)
    at_a_time = jobs or _cores()
    say(f"{len(planned.nets)} networks to train and attack, {at_a_time} at a time")
    if not planned.nets or not settings.attack:
        say(f"{config}: nothing to do: name at least one network, remedy and attack")
        return Exit.NOTHING
    if dry_run:
        out("".join(f"{net.label}\n" for net in planned.nets))
        return Exit.OK
    target = folder or Path("results", config.stem)
    command = ["advbench", *sys.argv[1:]]
    try:
        with Nets(len(planned.nets), quiet) as progress:
            table = run_study(planned, target, at_a_time, progress, command)
    except (KeyboardInterrupt, Terminated):
        say("finished networks are kept; the same command continues the study")
        raise
    except FolderError as error:
        say(str(error))
        return Exit.USAGE
    except (WriteError, BrokenExecutor) as error:
        reason = str(error).rstrip(".")
        say(f"{reason}. Finished networks are kept; the same command continues the study")
        return Exit.INCOMPLETE
    for sentence in advice(table):
        say(f"warning: {sentence}")
    out((target / "study.md").read_text(encoding="utf-8"))
    say(f"written to {target}")
    return Exit.OK if all(row["status"] == "ok" for row in table) else Exit.INCOMPLETE


@cli.command("list")
@click.argument("kind", metavar="KIND", type=_KINDS)
@JSON
def list_(kind: str, as_json: bool) -> int:
    """List what a configuration can name: attacks, perturbations, models, datasets and so on.

    Of an attack: the norms that it takes ("+sets": and other perturbation sets), what it asks of
    the model, what it looks for, its most passes on a sample of ten classes, and its paper.
    """
    plugins = _plugins(kind)
    if kind == "attacks":
        return _list_attacks(plugins, as_json)
    entries: list[dict[str, Any]] = [
        {**dataclasses.asdict(plugin), "summary": catalogue.first_line(plugin)}
        for plugin in plugins
    ]
    if kind == "models":
        entries.extend(_zoo())
    if as_json:
        _json(kind, entries)
        return Exit.OK
    width = max((len(entry["name"]) for entry in entries), default=0)
    out("".join(f"{entry['name'].ljust(width)}  {entry['summary']}\n" for entry in entries))
    return Exit.OK


@cli.command()
@click.argument("name")
def show(name: str) -> int:
    """Show what NAME is: its fields, defaults, facts and source."""
    from advbench.models import zoo

    if name.startswith("zoo:") and name[4:] in zoo.names():
        out(json.dumps(zoo.card(name[4:]), indent=1) + "\n")
        return Exit.OK
    kinds = [kind for kind in registry.KINDS if name in registry.names(kind)]
    if not kinds:
        known = [n for kind in registry.KINDS for n in registry.names(kind)]
        near = registry.did_you_mean(name, known + [f"zoo:{n}" for n in zoo.names()])
        say(f"there is nothing named '{name}'.{near} See advbench list --help.")
        return Exit.USAGE
    try:
        out("\n".join(catalogue.page(kind, name) for kind in kinds))
    except (ValueError, ImportError) as error:
        say(str(error))
        return Exit.USAGE
    return Exit.OK


def _plugins(kind: str) -> list[registry.Plugin]:
    """Every plugin of a kind; a name claimed twice is said and left out."""
    found = []
    for name in registry.names(kind):
        try:
            found.append(registry.describe(kind, name))
        except ValueError as error:
            say(f"warning: {error}")
    return found


def _list_attacks(plugins: Sequence[registry.Plugin], as_json: bool) -> Exit:
    """List the attacks with what their classes tell; one that cannot be imported is an error."""
    from advbench.attack_facts import AttackFacts, facts, table

    found: list[tuple[registry.Plugin, AttackFacts]] = []
    for plugin in plugins:
        try:
            found.append((plugin, facts(plugin.name)))
        except ImportError as error:
            say(str(error))
    if as_json:
        told = [{**dataclasses.asdict(plugin), **dataclasses.asdict(one)} for plugin, one in found]
        _json("attacks", told)
    else:
        out(table([one for _, one in found]))
    return Exit.OK if len(found) == len(plugins) else Exit.USAGE


def _json(kind: str, entries: list[dict[str, Any]]) -> None:
    out(json.dumps({"schema_version": 1, kind: entries}, indent=1, allow_nan=False) + "\n")


def _zoo() -> list[dict[str, Any]]:
    from advbench.models import zoo

    entries = []
    for name in zoo.names():
        card = zoo.card(name)
        summary = f"Clean accuracy {card['clean_accuracy']['test']:.4f} on the test split."
        entries.append({"name": f"zoo:{name}", "kind": "zoo", "summary": summary, "card": card})
    return entries


def _cores() -> int:
    """How many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _line(facts: dict[str, Any]) -> str:
    eps = ", ".join(f"{value:.4g}" for value in facts["eps"])
    named = " ".join(str(facts[name]) for name in ("model", "dataset", "attack", "perturbation"))
    return f"{facts['key'][:12]}  {named} eps {eps} seed {facts['seed']} n {facts['n']}\n"
