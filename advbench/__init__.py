"""Find out how robust an image classifier really is.

`advbench.evaluate(model, (x, y), attacks=["pgd"], eps=8 / 255)` attacks a classifier from Python;
the command `advbench run` does the same from a configuration file. Importing this package imports
neither torch nor pandas; the first use of `evaluate` does.
"""

import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advbench.bench.evaluate import Results, evaluate

__all__ = ["Results", "__version__", "evaluate"]

try:
    __version__ = version("advbench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

for _library in ("attacks", "defenses"):
    if not Path(__file__).with_name(_library).is_dir():
        raise ImportError(
            f"advbench/{_library} must be a link to ../{_library}, and this checkout has lost it. "
            "Run `git config core.symlinks true` and `git checkout -- advbench`, or use the wheel."
        )

logging.getLogger("advbench").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    """Import what needs torch when it is first asked for."""
    if name in ("evaluate", "Results"):
        from advbench.bench import evaluate

        return getattr(evaluate, name)
    raise AttributeError(f"module 'advbench' has no attribute '{name}'")
