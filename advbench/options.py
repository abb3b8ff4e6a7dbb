"""What commands share: their options, and whether a device is there."""

from pathlib import Path

import click

from advbench.console import Exit, say

CONFIG = click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
SET = click.option(
    "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override one key."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def device_problem(device: str) -> Exit | None:
    """Say what is wrong with a device, if anything is."""
    import torch

    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        known = device.partition(":")[0] in ("cuda", "mps", "xpu")
        say(f"device '{device}': {'not available here' if known else 'not a device'}: {reason}")
        return Exit.UNAVAILABLE if known else Exit.USAGE
    return None
