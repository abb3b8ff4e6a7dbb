"""Reading weights files: data that stay data, whatever is in the file.

Nothing in a weights file is ever executed. Pickled modules are refused; there is no way round it.
"""

import hashlib
import io
import logging
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

_log = logging.getLogger("advbench.models")

_WRAPPERS = ("module.", "_orig_mod.")
_NESTED = ("state_dict", "model_state_dict", "model", "net")


def read_weights(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Read a state dict from a safetensors or torch file; returns it with the file's sha256.

    Raises ValueError, which names the file and what is wrong with it: empty, truncated, no weights
    at all (an HTML page, a git-LFS pointer), Python objects inside, or not the expected sha256.
    """
    content = path.read_bytes()
    _refuse_what_is_no_weights(path, content)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"{path}: sha256 mismatch: expected {sha256}, found {found}; the file is not the one "
            "that was meant, or is damaged"
        )
    pickled = content.startswith((b"PK", b"\x80"))
    loaded = _read_torch(path, content) if pickled else _read_safetensors(path, content)
    return _state_dict(path, loaded), found


def fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict into a model, all of it or nothing.

    Raises ValueError with the first five keys that are missing, unexpected or of another shape.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        own = model.state_dict()
        wrong = {
            "missing": [key for key in own if key not in state and "num_batches" not in key],
            "unexpected": sorted(key for key in state if key not in own),
            "of another shape": [
                f"{key} (file {tuple(state[key].shape)}, model {tuple(own[key].shape)})"
                for key in own
                if key in state and state[key].shape != own[key].shape
            ],
        }
        listed = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:5])}{', …' if len(keys) > 5 else ''}"
            for what, keys in wrong.items()
            if keys
        )
        raise ValueError(
            f"{path}: the weights do not fit the architecture: {listed or error}"
        ) from error


def _refuse_what_is_no_weights(path: Path, content: bytes) -> None:
    start = content[:256].lstrip().lower()
    if not content:
        raise ValueError(f"{path}: the file is empty")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: an HTML page, not weights; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a git-LFS pointer, not weights; run git lfs pull")


def _read_safetensors(path: Path, content: bytes) -> object:
    header = int.from_bytes(content[:8], "little")
    if len(content) >= 9 and content[8:9] != b"{":
        raise ValueError(f"{path}: neither a safetensors nor a torch file")
    if len(content) < 8 + header:
        raise ValueError(f"{path}: the file is truncated ({len(content)} bytes)")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        if "incomplete" in str(error).lower():
            raise ValueError(f"{path}: the file is truncated ({len(content)} bytes)") from error
        raise ValueError(f"{path}: not a valid safetensors file: {error}") from error


def _read_torch(path: Path, content: bytes) -> object:
    truncated = f"{path}: the file is truncated ({len(content)} bytes)"
    if content.startswith(b"PK") and not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError(truncated)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickle protocols, which fail or load
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise ValueError(
            f"{path}: contains Python objects{what}, which are not loaded; re-save only the "
            "weights: torch.save(model.state_dict(), PATH)"
        ) from error
    except EOFError as error:
        raise ValueError(truncated) from error
    except Exception as error:
        raise ValueError(
            f"{path}: torch {torch.__version__} cannot read it: {type(error).__name__}: {error}"
        ) from error


def _state_dict(path: Path, loaded: object) -> dict[str, Tensor]:
    """The table of tensors in a checkpoint, without the prefixes that wrappers put before keys."""
    if isinstance(loaded, dict):
        nested = [key for key in _NESTED if isinstance(loaded.get(key), dict)]
        if nested:
            _log.info("%s: took the entry '%s' of the checkpoint", path, nested[0])
            loaded = loaded[nested[0]]
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"{path}: expected a state dict, found {type(loaded).__name__}")
    strange = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(
            f"{path}: expected a state dict of tensors; not tensors: {', '.join(strange[:5])}"
        )
    state = {str(key): value for key, value in loaded.items()}
    while prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in state)), None):
        _log.info("%s: stripped the prefix '%s' from every key", path, prefix)
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
