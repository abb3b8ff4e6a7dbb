"""What all tests share: one thread, repeatable examples, the data root."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before anything imports torch, and for subprocesses too: the order of sums depends on threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with MNIST, Fashion-MNIST, CIFAR-10 and published weights, or a skip."""
    given = os.environ.get("ADVBENCH_DATA")
    if not given:
        pytest.skip("needs the data root: set ADVBENCH_DATA")
    root = Path(given)
    if not root.is_dir():
        pytest.fail(f"ADVBENCH_DATA is '{given}', which is no folder")
    return root


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def no_second_copy() -> Iterator[None]:
    """Look, after all tests, whether a class was loaded twice, by the name of its folder."""
    yield
    assert not {"attacks", "defenses"} & set(sys.modules)
