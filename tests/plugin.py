"""The toy package, installed into a folder of its own, and code that sees it there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def install(repository: Path, folders: pytest.TempPathFactory) -> Path:
    """Install the package; returns the folder."""
    source = folders.mktemp("source") / "plugin_pkg"
    shutil.copytree(repository / "tests" / "plugin_pkg", source)
    target = folders.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    pip += ["--no-index", "--disable-pip-version-check", "--target", str(target), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def call(site: Path, code: str, folder: Path) -> str:
    """Run Python code in a folder; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
