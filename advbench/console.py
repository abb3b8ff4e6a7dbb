"""What the command line shares: exit codes, streams that may be closed, signals, progress."""

import contextlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

if TYPE_CHECKING:
    from advbench.bench.plan import Cell
    from advbench.bench.store import Rows
    from advbench.defenses.fit import Epoch, Fit


_PATIENCE = 30.0  # seconds without a line


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    UNAVAILABLE = 4
    NOTHING = 5
    INTERRUPTED = 130
    TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM arrived."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into Terminated, so that a run ends in order."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before: Any = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tolerant_streams() -> None:
    """Let characters that a terminal cannot show become escapes instead of errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def out(text: str) -> None:
    """Write data to stdout; a reader that has gone away is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write a line to stderr; a closed stderr is no error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        tqdm.write(text, file=sys.stderr)


def log_to_stderr(verbosity: int) -> None:
    """Show warnings of the library on stderr; more with each -v."""
    logger = logging.getLogger("advbench")
    for handler in [h for h in logger.handlers if isinstance(h, _Lines)]:
        logger.removeHandler(handler)
    logger.addHandler(_Lines())
    logger.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2)])


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


class _Bar:
    """A bar that is there on a terminal only, and whose terminal may go away."""

    def __init__(self, total: int | None, unit: str, quiet: bool = False) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar: tqdm[Any] | None = (
            tqdm(total=total, unit=unit, file=sys.stderr, smoothing=0.1, leave=False)
            if terminal and not quiet
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._on_bar(lambda bar: bar.close())

    def _on_bar(self, action: "Callable[[tqdm[Any]], object]") -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                action(self._bar)


class Console(_Bar):
    """Progress of a run: one changing line on a terminal, else a line per cell or half a minute.

    The time left is that of the work left, counted in queries at most: `work` has those of each
    cell. It is too long where samples fall early, and wrong between models of different speed.
    """

    def __init__(self, work: Sequence[int], rows: int, quiet: bool) -> None:
        self._work, self._done, self._since = work, 0, 0
        self._quiet = quiet
        self._started = self._said = time.monotonic()
        super().__init__(rows, " rows", quiet)

    def rows(self, count: int) -> None:
        """Advance by finished samples."""
        self._since += count
        self._on_bar(lambda bar: bar.update(count))
        if self._bar is None and time.monotonic() - self._said > _PATIENCE:
            self._line(f"cell {self._done + 1}/{len(self._work)}: {self._since} samples finished")

    def cell(self, cell: "Cell", record: dict[str, Any], rows: "Rows | None") -> None:
        """Report a finished cell."""
        self._done += 1
        # An attack that failed, or was begun anew, has reported too few or too many.
        missing, self._since = record["n"] - self._since, 0
        result = record["status"]
        if rows is not None and result == "ok":
            right = rows["clean_correct"] & ~rows["success"]
            robust = float(rows.get("right", right).mean())
            result = f"robust accuracy {robust:.3f}"
        self._on_bar(lambda bar: bar.update(missing))
        self._on_bar(lambda bar: bar.set_description(f"{result}, {self._left()}"))
        if self._bar is None:
            self._line(
                f"[{self._done}/{len(self._work)}] {cell.victim.label} {cell.name} "
                f"{record['perturbation']} eps {cell.scale:.4g} seed {cell.seed}: {result}"
            )

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        if not self._quiet:
            say(f"{text} ({self._said - self._started:.0f} s, {self._left()})")

    def _left(self) -> str:
        done, total = sum(self._work[: self._done]), sum(self._work)
        if not done:
            return "time left not known yet"
        spent = time.monotonic() - self._started
        return f"about {spent / done * (total - done):.0f} s left"


class Epochs(_Bar):
    """Progress of a training: a bar with loss and accuracies on a terminal, else lines."""

    def __init__(self) -> None:
        self._said = -_PATIENCE
        super().__init__(None, " epochs")

    def __call__(self, epoch: "Epoch", fit: "Fit") -> None:
        """Report the standing after an epoch."""
        text = f"loss {epoch.loss:.4f}, validation {epoch.validation.accuracy:.4f}"
        for name in ("train", "validation", "test"):
            score = getattr(epoch, name)
            if score is not None and score.robust is not None:
                text += f", {name} under attack {score.robust:.4f}"
        done = epoch.number + 1

        def show(bar: "tqdm[Any]") -> None:
            bar.total, bar.n = fit.epochs, done
            bar.set_postfix_str(text)

        self._on_bar(show)
        late = time.monotonic() - self._said > 1 or done == fit.epochs
        if self._bar is None and late:
            self._said = time.monotonic()
            say(f"epoch {done}/{fit.epochs}: {text}")


class Nets(_Bar):
    """Progress of a study: one changing line on a terminal, else a line per network.

    The time left takes all networks for equally long.
    """

    def __init__(self, total: int, quiet: bool) -> None:
        self._total, self._done, self._fresh = total, 0, 0
        self._quiet = quiet
        self._started = time.monotonic()
        super().__init__(total, " nets", quiet)

    def net(self, label: str, result: str, fresh: bool) -> None:
        """Report a finished network; not ``fresh`` if all of it was there already."""
        self._done += 1
        self._fresh += fresh
        spent = time.monotonic() - self._started
        left = "time left not known yet"
        if self._fresh:
            rest = spent / self._fresh * (self._total - self._done)
            left = f"about {rest:.0f} s left"
        told = f"{label}: {result}, {left}"
        self._on_bar(lambda bar: bar.set_description(told, refresh=False))
        self._on_bar(lambda bar: bar.update())
        if self._bar is None and not self._quiet:
            say(f"[{self._done}/{self._total}] {label}: {result} ({spent:.0f} s, {left})")
