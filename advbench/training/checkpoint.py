"""The file that a training goes on from after it was killed."""

import io
import time
from pathlib import Path
from typing import Any

import torch

from advbench.defenses.fit import Epoch, Fit, Score
from advbench.files import set_aside, write_atomic


class Checkpoint:
    """The file that a training goes on from after it was killed."""

    def __init__(self, path: Path | None, address: str, patience: float) -> None:
        self._path, self._address, self._patience = path, address, patience
        self._written = time.monotonic()

    def resume(self, fit: Fit) -> bool:
        """Set a training to where the file has it; False where there is none of this training.

        A damaged file is set aside with a warning. Raises WriteError.
        """
        if self._path is None or not self._path.exists():
            return False
        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
            if not isinstance(found, dict):
                raise ValueError("it holds no checkpoint")
        except Exception as error:  # torch raises many kinds for a file that is no checkpoint
            set_aside(self._path, str(error).partition("\n")[0] or type(error).__name__)
            return False
        if found.get("address") != self._address:
            return False
        fit.model.load_state_dict(found["model"])
        fit.optimizer.load_state_dict(found["optimizer"])
        fit.memory = found["memory"]
        fit.log = [_epoch_of(one) for one in found["log"]]
        fit.epoch = float(len(fit.log))
        fit.stop, fit.alarm = found["stop"], found["alarm"]
        torch.random.set_rng_state(found["random"])
        return True

    def write(self, fit: Fit) -> None:
        """Write the file if it is time."""
        if self._path is None or time.monotonic() - self._written < self._patience:
            return
        state: dict[str, Any] = {
            "address": self._address,
            "model": fit.model.state_dict(),
            "optimizer": fit.optimizer.state_dict(),
            "memory": fit.memory,
            "log": [_plain_epoch(one) for one in fit.log],
            "stop": fit.stop,
            "alarm": fit.alarm,
            "random": torch.random.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self._path, buffer.getvalue())
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file of a finished training."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _plain_epoch(epoch: Epoch) -> dict[str, Any]:
    parts = epoch._asdict()
    return {key: list(p) if isinstance(p, Score) else p for key, p in parts.items()}


def _epoch_of(given: dict[str, Any]) -> Epoch:
    parts: dict[str, Any] = {
        key: Score(*part) if isinstance(part, list) else part for key, part in given.items()
    }
    return Epoch(**parts)
