"""The command `advbench diagnose`."""

import click

from advbench.console import Exit, out, say
from advbench.options import JSON, device_problem
from advbench.schema import number

_SAMPLES = 200


def _number(_: click.Context, __: click.Parameter, given: str | None) -> float | None:
    """Read a number or a fraction."""
    if given is None:
        return None
    try:
        return float(given)
    except ValueError:
        found = number(given)
    if found is None:
        raise click.BadParameter(f"expected a number or a fraction such as 8/255; got '{given}'")
    return found


@click.command()
@click.argument("model")
@click.option("--data", metavar="NAME", help="The dataset; by default that of a zoo net or card.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help=f"First test samples; {_SAMPLES} or all, if fewer.",
)
@click.option(
    "--eps",
    callback=_number,
    help="The size, such as 0.1 or 8/255; else that at which a short search leaves about half.",
)
@click.option(
    "--perturbation",
    type=click.Choice(["linf", "l2", "l1"]),
    default="linf",
    show_default=True,
    help="The set of changes.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="As torch names it.")
@JSON
def diagnose(
    model: str,
    data: str | None,
    samples: int | None,
    eps: float | None,
    perturbation: str,
    seed: int,
    device: str,
    as_json: bool,
) -> int:
    """Ask whether attacks by gradients can be trusted on MODEL, and explain what is suspicious.

    MODEL is zoo:NAME, python:module:function or file:PATH. Prints a table of checks, and for each
    that fires what was found and what to do. Exit codes: 0 nothing says stop, 1 a check says that
    no number from gradients can be trusted, 2 usage, 4 no such device here.
    """
    problem = device_problem(device)
    if problem is not None:
        return problem
    from advbench import registry
    from advbench.data import load
    from advbench.models.loading import ModelSpec, load_model
    from advbench.trust.diagnosis.page import document, text
    from advbench.trust.diagnosis.panel import diagnose as examine

    try:
        loaded = load_model(ModelSpec(name=model))
        name = data or loaded.data
        if name is None:
            raise ValueError(f"--data is missing: '{model}' does not say what it is judged on")
        chosen = load(name, samples=samples)
        if samples is None:
            chosen = chosen.first(_SAMPLES)
        found = examine(
            loaded.model.to(device),
            chosen,
            registry.get("perturbations", perturbation)(),
            eps,
            seed,
        )
    except (ValueError, TypeError, FileNotFoundError) as error:
        say(str(error))
        return Exit.USAGE
    out((document if as_json else text)(found, loaded.label, chosen.name))
    return Exit.FAILED if found.stopped else Exit.OK
