"""Whether the same run gives the same bits: what torch may choose between, and what it chose."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def numerics() -> dict[str, Any]:
    """Say what decides whether a GPU repeats itself, and how exactly it multiplies."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cublas_workspace": os.environ.get(_WORKSPACE),
    }


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Let torch take only algorithms that repeat themselves, if ``wanted``; then all is as before.

    An operation that has none on its device raises RuntimeError. On a CPU nothing changes: with one
    number of threads it repeats itself anyway.
    """
    if not wanted:
        yield
        return
    cudnn, before = torch.backends.cudnn, numerics()
    # Read by cuBLAS when it is first used; torch refuses to multiply without it.
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic = before["cudnn_deterministic"]
        cudnn.benchmark = before["cudnn_benchmark"]
        if before["cublas_workspace"] is None:
            del os.environ[_WORKSPACE]
