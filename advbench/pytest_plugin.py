"""The pytest plugin: robustness as an ordinary test.

    def test_is_robust(assert_robust):
        assert_robust(model, (x, y), attack="robust", eps=8 / 255, at_least=0.4)

    def test_has_not_lost(assert_no_regression):
        assert_no_regression("ci.toml", baseline="ci.json")

Collecting tests imports neither torch nor pandas; a test that uses one of the fixtures does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import pytest

from advbench import registry

if TYPE_CHECKING:
    from torch import Tensor

    from advbench.attacks.attack import Attack
    from advbench.attacks.perturbations import Perturbation
    from advbench.attacks.victim import Model
    from advbench.data import Samples
    from advbench.gate.bound import Bound

_MARKER = (
    "robustness(attack, eps, at_least, confidence, perturbation, seed, batch_size): "
    "what assert_robust asks in this test where its call does not say."
)
_OPTIONS = (
    "(With pytest, --update is called --update-robustness, and --force --force-update-robustness.)"
)
Recorder: TypeAlias = Callable[[str, object], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that write baselines."""
    group = parser.getgroup("advbench", "robustness")
    group.addoption(
        "--update-robustness",
        action="store_true",
        help="assert_no_regression writes its baselines, and skips; not in CI",
    )
    group.addoption(
        "--force-update-robustness",
        action="store_true",
        help="the same, in CI too, and in spite of alarms",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def assert_robust(request: pytest.FixtureRequest, record_property: Recorder) -> "AssertRobust":
    """Fail where a model is not provably as robust as asked, over the choice of the samples."""
    return AssertRobust(_marked(request.node), record_property)


@pytest.fixture
def assert_no_regression(
    request: pytest.FixtureRequest, record_property: Recorder
) -> "AssertNoRegression":
    """Fail where the models of a configuration are less robust than those of a baseline."""
    config = request.config
    force = config.getoption("--force-update-robustness")
    update = force or config.getoption("--update-robustness")
    places = (request.path.parent, config.rootpath)
    return AssertNoRegression(request.node.nodeid, places, record_property, update, force)


@final
@dataclass(frozen=True, eq=False)
class AssertRobust:
    """What the fixture `assert_robust` is: a function with the defaults of a test's markers."""

    bound: "Bound"
    record: Recorder

    def __call__(
        self,
        model: "Model",
        data: "Samples | tuple[Tensor, Tensor]",
        attack: "Attack | str | None" = None,
        eps: float | None = None,
        at_least: float | None = None,
        confidence: float | None = None,
        perturbation: "Perturbation | str | None" = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Attack a model; raise AssertionError where it is not as robust as asked.

        It passes where the exact one-sided lower limit of the robust accuracy is not below
        `at_least`. An attack that fails, or that does not work on the model, is no pass.

        Args:
            model: images (B, *shape) in [0, 1] to logits (B, K).
            data: images (N, *shape) and their classes (N,), or Samples.
            attack: an attack or its registered name; "robust" by default.
            eps: the scale of the perturbation set, in its unit; 8/255 by default.
            at_least: the robust accuracy that is asked for; 0.4 by default.
            confidence: of the limit; 0.95 by default.
            perturbation: the set or its registered name; the attack's own by default.
            seed: of all draws; 0 by default.
            batch_size: most samples in flight; 128 by default.

        Raises:
            AssertionError: the model is not as robust as asked, or nothing can be said of it.
            ValueError, TypeError: an argument is out of its range or of the wrong kind.

        """
        __tracebackhide__ = True
        from advbench.gate.bound import examine
        from advbench.gate.verdict import Verdict

        given: dict[str, Any] = {
            "attack": attack,
            "eps": eps,
            "at_least": at_least,
            "confidence": confidence,
            "perturbation": perturbation,
            "seed": seed,
            "batch_size": batch_size,
        }
        named = {name: value for name, value in given.items() if value is not None}
        found = examine(model, data, replace(self.bound, **named))
        self.record("robustness", str(found.verdict))
        if found.n is not None:
            self.record("robust_accuracy", found.robust_accuracy)
            self.record("robust_low", found.low)
            self.record("robust_high", found.high)
            self.record("n", found.n)
        if found.verdict is not Verdict.PASS:
            raise AssertionError(found.text)


@final
@dataclass(frozen=True, eq=False)
class AssertNoRegression:
    """What the fixture `assert_no_regression` is: a function that knows where the test lies."""

    test: str
    places: Sequence[Path]
    record: Recorder
    update: bool = False
    force: bool = False

    def __call__(
        self,
        config: str | Path,
        baseline: str | Path,
        margin: float | None = None,
        alpha: float | None = None,
        inconclusive: str | None = None,
        against: str | None = None,
        quick: bool = False,
        overrides: Sequence[str] = (),
    ) -> None:
        """Put the models of a configuration through the gate; raise AssertionError if they fail.

        With `--update-robustness` it writes the baseline and skips the test.

        Args:
            config: a configuration, or the folder of a finished run. Relative paths are looked for
                in the folder of the test, then in pytest's root.
            baseline: the file to compare with; one that is yet to be written comes to lie there.
            margin: the drop of an accuracy that is too much; else that of [gate].
            alpha: how often the gate may err; else that of [gate].
            inconclusive: what too few samples come to, "fail" or "pass"; else that of [gate].
            against: the baseline's model, where it has changed.
            quick: only try the stored changes, which takes a moment: can fail, but prove nothing.
            overrides: texts `table.key=value`, as `--set` takes them.

        """
        __tracebackhide__ = True
        from advbench.bench.run import Silent
        from advbench.bench.store import FolderError
        from advbench.config import ConfigError
        from advbench.gate.baseline import BaselineError
        from advbench.gate.command import Request, searches
        from advbench.gate.output import sentence, text
        from advbench.gate.side import IncompleteError
        from advbench.gate.verdict import Verdict

        path = self._place(Path(baseline))
        if not path.exists() and not self.update:
            raise AssertionError(
                f"{path}: no such baseline. Write one from a model you trust, and commit it: "
                f"pytest --update-robustness '{self.test}'"
            )
        terms: dict[str, Any] = {"margin": margin, "alpha": alpha, "inconclusive": inconclusive}
        named = {name: value for name, value in terms.items() if value is not None}
        try:
            found = searches(self._place(Path(config)), overrides)
            if not found.cells:
                raise AssertionError(f"{config}: nothing to gate: name a model and an attack")
            agreed = replace(found.config.gate, **named)
            request = Request(
                found, agreed, path, found.config.run.device, Silent(), against=against
            )
            if self.update:
                pytest.skip("\n".join([*request.update(self.force), f"written: {path}"]))
            report = request.quick() if quick else request.report()
        except BaselineError as error:
            raise AssertionError(f"{error}\n{_OPTIONS}") from None
        except (ConfigError, FolderError, IncompleteError) as error:
            raise AssertionError(str(error)) from None
        self.record("robustness", str(report.verdict))
        for one in report.comparisons:
            self.record(one.name, sentence(one))
        if report.outcome is not Verdict.PASS:
            raise AssertionError(text(report))

    def _place(self, path: Path) -> Path:
        """Where a path lies, or where it is to be written if there is none."""
        found = [place / path for place in self.places if (place / path).exists()]
        return found[0] if found else self.places[0] / path


def _marked(node: pytest.Item) -> "Bound":
    """What the markers of a test ask for, the nearest of them first."""
    from advbench.gate.bound import Bound

    known = [field.name for field in fields(Bound)]
    asked: dict[str, Any] = {}
    for marker in node.iter_markers("robustness"):
        for name in marker.kwargs:
            if name not in known:
                near = registry.did_you_mean(name, known)
                raise ValueError(
                    f"@pytest.mark.robustness takes no '{name}'.{near} Known: {', '.join(known)}."
                )
        if marker.args:
            raise ValueError(
                f"@pytest.mark.robustness takes keywords only; got {marker.args[0]!r}. "
                f"Known: {', '.join(known)}."
            )
        asked = {**marker.kwargs, **asked}
    return Bound(**asked)
