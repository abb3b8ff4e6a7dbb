"""The command `advbench gate`."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advbench.console import Console, Exit, out, say
from advbench.options import JSON, SET, device_problem

if TYPE_CHECKING:
    from advbench.config import GateSection
    from advbench.gate.command import Request
    from advbench.gate.gate import Report

_EXIT = {
    "pass": Exit.OK,
    "inconclusive": Exit.FAILED,
    "fail": Exit.FAILED,
    "invalid": Exit.INCOMPLETE,
}
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--baseline", type=_FILE, help="The file to compare with.")
@click.option("--update", is_flag=True, help="Write the baseline.")
@click.option("--force", is_flag=True, help="Write it in CI too, and in spite of alarms.")
@click.option("--margin", type=float, help="The drop that is too much; else that of [gate].")
@click.option("--alpha", type=float, help="How often the gate may err; else that of [gate].")
@click.option("--inconclusive", type=click.Choice(["fail", "pass"]), help="Else that of [gate].")
@click.option("--against", metavar="MODEL", help="The baseline's model, where it has changed.")
@click.option("--quick", is_flag=True, help="Only try the stored changes: can fail, not pass.")
@click.option("--canary", is_flag=True, help="Prove that a weakened model is failed.")
@click.option("--junit", type=_FILE, help="Write the verdicts as JUnit XML.")
@click.option("--markdown", type=_FILE, help="Write the verdicts as Markdown.")
@click.option("--out", "folder", type=click.Path(path_type=Path), help="Keep the run here.")
@click.option("--device", help="Where the models run, as torch names it.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@SET
@JSON
def gate(
    run: Path,
    baseline: Path | None,
    update: bool,
    force: bool,
    margin: float | None,
    alpha: float | None,
    inconclusive: str | None,
    against: str | None,
    quick: bool,
    canary: bool,
    junit: Path | None,
    markdown: Path | None,
    folder: Path | None,
    device: str | None,
    quiet: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Fail where the models of RUN are less robust than those of a baseline.

    RUN is a configuration, which is run, or the folder of a finished run. Exit codes: 0 pass,
    1 fail or inconclusive, 2 a configuration or baseline that cannot be used, 3 no result, or one
    that cannot be trusted.
    """
    from advbench.bench.store import FolderError
    from advbench.files import WriteError
    from advbench.gate.baseline import BaselineError
    from advbench.gate.command import Request, searches
    from advbench.gate.output import write_reports
    from advbench.gate.side import IncompleteError

    if baseline is None and (update or quick or not canary):
        raise click.UsageError("--baseline FILE is missing; only --canary does without")
    if update + quick + canary > 1:
        raise click.UsageError("--update, --quick and --canary do not go together")
    given = {"margin": margin, "alpha": alpha, "inconclusive": inconclusive}
    try:
        found = searches(run, overrides)
        terms = _terms(found.config.gate, given)
        where = device or found.config.run.device
        problem = device_problem(where)
        if problem is not None:
            return problem
        if not found.cells:
            say(f"{run}: nothing to gate: name at least one model and one attack")
            return Exit.NOTHING
        rows = sum(len(cell.selection.samples) for cell in found.cells)
        with Console([cell.work for cell in found.cells], rows, quiet) as console:
            request = Request(found, terms, baseline, where, console, folder, against)
            if update:
                return _updated(baseline, request.update(force))
            if canary:
                return _flown(request)
            report = request.quick() if quick else request.report()
        write_reports(report, junit, markdown)
        return _shown(report, as_json)
    except (BaselineError, FolderError) as error:
        say(str(error))
        return Exit.USAGE
    except IncompleteError as error:
        say(f"no verdict, for something has no result: {error}")
        return Exit.INCOMPLETE
    except WriteError as error:
        say(str(error))
        return Exit.INCOMPLETE


def _terms(section: "GateSection", given: dict[str, Any]) -> "GateSection":
    """The terms of a configuration with what the command line says."""
    try:
        return dataclasses.replace(section, **{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _updated(baseline: Path | None, changed: list[str]) -> Exit:
    for line in changed:
        say(line)
    say(f"written: {baseline}. Commit it with the changes that belong to it.")
    return Exit.OK


def _flown(request: "Request") -> Exit:
    """Show what became of a weakened model; only a failure is a success."""
    from advbench.gate.output import text

    canary = request.canary()
    out(text(canary.report))
    noise = f"with noise of {canary.scale:g} standard deviations on its weights"
    if canary.failed:
        say(f"the gate works here: it fails the model {noise}")
        return Exit.OK
    say(f"the gate does not work here: it has not failed the model {noise}")
    return Exit.FAILED


def _shown(report: "Report", as_json: bool) -> Exit:
    """Show a report on stdout, and to GitHub where it runs there."""
    from advbench.gate.output import annotations, append_summary, document, text

    out(document(report) if as_json else text(report))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations(report):
            say(line)
    append_summary(report)
    return _EXIT[report.outcome]
