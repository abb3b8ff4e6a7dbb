"""A baseline as files for git: a small JSON file, and beside it the changes that broke its model.

    ci.json     verdicts of all samples, packed; what was run; hashes of models and samples
    ci.npz      for each worst case, the changes, in 16 bits

Nothing in them is ever executed. The JSON file is read strictly: what is unknown, missing or of
another kind is an error.
"""

import base64
import binascii
import datetime
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from advbench import __version__
from advbench.bench.groups import Group
from advbench.bench.store import to_json
from advbench.document import Document, Keys
from advbench.files import write_atomic
from advbench.gate.side import Changes, Side, Standing
from advbench.schema import Reader, build, plain

SCHEMA = 1
"""Version of the file."""
_MAX_BYTES = 50_000_000


class BaselineError(ValueError):
    """A baseline that cannot be used; says why and what to do."""


class _Table:
    """Converter for a table of any keys, which is only ever compared."""

    def read(self, reader: Reader, given: Any, keys: Keys) -> Any:
        """Return it as it is."""
        return given if isinstance(given, dict) else reader.fail(keys, "expected a table")


@dataclass(frozen=True)
class _Model:
    label: str
    sha256: str


@dataclass(frozen=True)
class _Worst:
    """A worst case: of each sample how many of `draws` answers were right, in base64."""

    model: str
    surrogate: str
    dataset: str
    perturbation: str
    eps: float
    n: int
    draws: int
    clean_accuracy: float
    robust_accuracy: float
    clean: str
    right: str


@dataclass(frozen=True)
class _File:
    schema_version: int
    advbench: str
    written: str
    models: tuple[_Model, ...]
    searches: tuple[Annotated[Any, _Table()], ...]
    worst_cases: tuple[_Worst, ...]
    accepted: tuple[str, ...]
    changes_sha256: str | None = None


def write_baseline(path: Path, side: Side) -> None:
    """Write a side as a baseline, the changes first; raises WriteError."""
    content = _packed(side.groups)
    if content is not None:
        write_atomic(path.with_suffix(".npz"), content)
    file = _File(
        schema_version=SCHEMA,
        advbench=__version__,
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        models=tuple(_Model(*pair) for pair in sorted(side.models.items())),
        searches=tuple(side.searches),
        worst_cases=tuple(_worst(group, one) for group, one in side.groups.items()),
        accepted=tuple(side.accepted),
        changes_sha256=None if content is None else hashlib.sha256(content).hexdigest(),
    )
    write_atomic(path, to_json({k: v for k, v in _as_table(file).items() if v is not None}))


def read_baseline(path: Path) -> Side:
    """Read a baseline.

    Raises BaselineError, naming the file, for what is missing, damaged, of another version, empty,
    or does not hold what it should.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BaselineError(f"{path}: larger than {_MAX_BYTES} bytes; this is no baseline")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BaselineError(
            f"{path}: no such baseline. Write one from a model you trust: advbench gate CONFIG "
            f"--baseline {path} --update"
        ) from None
    except (OSError, ValueError) as error:
        raise BaselineError(f"{path}: cannot be read as JSON: {error}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA:
        raise BaselineError(
            f"{path}: expected a baseline with schema_version {SCHEMA}; got {version}. Write it "
            "again with --update."
        )
    try:
        file = build(_File, Document(str(path), "", data, {}))
    except ValueError as error:
        raise BaselineError(str(error)) from None
    if not file.worst_cases or not file.searches or not file.models:
        raise BaselineError(f"{path}: empty: it compares nothing. Write it again with --update.")
    changes = _unpacked(path, file)
    groups = {}
    for place, one in enumerate(file.worst_cases):
        group = Group(one.model, one.surrogate, one.dataset, one.perturbation, one.eps)
        clean, right = (_shares(path, one, text) for text in (one.clean, one.right))
        groups[group] = Standing(clean, right, one.draws, changes.get(place))
    models = {model.label: model.sha256 for model in file.models}
    return Side(models, list(file.searches), groups, (), file.accepted)


def _as_table(file: _File) -> dict[str, Any]:
    table: dict[str, Any] = plain(asdict(file))
    return table


def _worst(group: Group, one: Standing) -> _Worst:
    return _Worst(
        **group._asdict(),
        n=len(one.right),
        draws=one.draws,
        clean_accuracy=round(float(one.clean.mean()), 6),
        robust_accuracy=round(float(one.right.mean()), 6),
        clean=_text(one.clean, one.draws),
        right=_text(one.right, one.draws),
    )


def _text(shares: NDArray[np.float64], draws: int) -> str:
    counts = np.rint(shares * draws).astype("<u2")
    raw = np.packbits(counts > 0) if draws == 1 else counts
    return base64.b64encode(raw.tobytes()).decode("ascii")


def _shares(path: Path, one: _Worst, text: str) -> NDArray[np.float64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BaselineError(f"{path}: verdicts are no base64: {error}") from None
    wanted = (one.n + 7) // 8 if one.draws == 1 else 2 * one.n
    if len(raw) != wanted or one.n < 1 or one.draws < 1:
        raise BaselineError(
            f"{path}: {one.model} at {one.eps:g}: {len(raw)} bytes of verdicts for {one.n} samples"
        )
    if one.draws == 1:
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=one.n).astype(float)
    return np.frombuffer(raw, "<u2").astype(float) / one.draws


def _packed(groups: Mapping[Group, Standing]) -> bytes | None:
    """The changes of all worst cases as an archive; None without any."""
    arrays = {}
    for place, one in enumerate(groups.values()):
        if one.changes is not None:
            arrays[f"places_{place}"] = one.changes.places.astype(np.int32)
            arrays[f"p_{place}"] = one.changes.p.astype(np.float16)
    if not arrays:
        return None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _unpacked(path: Path, file: _File) -> dict[int, Changes]:
    if file.changes_sha256 is None:
        return {}
    beside = path.with_suffix(".npz")
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise BaselineError(
            f"{beside}: the changes that belong to {path} cannot be read: "
            f"{error.strerror or error}. Keep both files together."
        ) from None
    if hashlib.sha256(content).hexdigest() != file.changes_sha256:
        raise BaselineError(
            f"{beside}: these are not the changes that {path} was written with: its sha256 is not "
            f"{file.changes_sha256[:12]}…. Keep both files of one --update together."
        )
    found = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for place, one in enumerate(file.worst_cases):
                if f"p_{place}" in archive.files:
                    places = archive[f"places_{place}"].astype(np.int64)
                    found[place] = Changes(places, archive[f"p_{place}"])
                    if len(places) and not 0 <= places.min() <= places.max() < one.n:
                        raise ValueError("a change belongs to no sample")
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BaselineError(f"{beside}: damaged: {error}") from None
    return found
