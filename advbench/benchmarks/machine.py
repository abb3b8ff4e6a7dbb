"""What the figures of a benchmark depend on besides the code: machine, versions, threads, day."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def installed(distribution: str) -> str | None:
    """Return the installed version, or None where the distribution is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def facts(repetitions: int, distributions: Iterable[str]) -> dict[str, str]:
    """Describe what the figures depend on: machine, versions, threads, day."""
    found = {name: installed(name) for name in distributions}
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}, medians of {repetitions} repetitions",
        "processor": f"{_processor()}, {torch.get_num_threads()} thread",
        "python, torch": f"{platform.python_version()}, {version('torch')}",
        "libraries": ", ".join(f"{name} {number}" for name, number in found.items() if number),
    }


def _processor() -> str:
    """Name of the CPU as the kernel gives it, where it does."""
    listing = Path("/proc/cpuinfo")
    text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
