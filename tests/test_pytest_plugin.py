"""The pytest plugin, which is loaded in these very tests: its fixtures are used as users do."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from advbench.attacks import FGSM, L2, PGD, DeepFool
from advbench.gate.bound import Bound, _count, enough
from advbench.pytest_plugin import AssertNoRegression, AssertRobust
from advbench.trust.statistics import clopper_pearson
from tests.advbench.fakes import Plane, Push, samples


def robust(count: int, n: int) -> tuple[Tensor, Tensor]:
    """Samples of which `Plane` is right on `count` in spite of changes up to 0.1."""
    data = samples([0.9] * count + [0.55] * (n - count), [1] * n)
    return data.x, data.y


class Steps(nn.Module):
    """`Plane` with a gradient of zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 2)."""
        lead = (x.flatten(1).mean(1) * 4).round() - 2 + 0.5
        return torch.stack([-lead, lead], 1)


def test_enough_samples_pass(assert_robust: AssertRobust, request: pytest.FixtureRequest) -> None:
    assert_robust(Plane(), robust(190, 200), FGSM(), eps=0.1, at_least=0.91)
    told = dict(request.node.user_properties)
    low, high = clopper_pearson(190, 200, 0.9)  # two limits of 95 %
    assert told == {
        "robustness": "pass",
        "robust_accuracy": 0.95,
        "robust_low": low,
        "robust_high": high,
        "n": 200,
    }
    assert binom.sf(189, 200, low) == pytest.approx(0.05)
    assert binom.cdf(190, 200, high) == pytest.approx(0.05)


def test_too_low_an_accuracy_fails(assert_robust: AssertRobust) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_robust(Plane(), robust(150, 200), FGSM(), eps=0.1, at_least=0.8)
    assert re.fullmatch(
        r"fail: robust accuracy 0\.7500 \(0\.69\d\d to 0\.79\d\d, each at confidence 0\.95\) of "
        r"200 samples under fgsm at eps 0\.1; asked for at least 0\.8",
        str(caught.value),
    )


def test_the_bound_itself_is_failed_by_a_model_that_just_has_it(
    assert_robust: AssertRobust,
) -> None:
    with pytest.raises(AssertionError, match=r"^fail: robust accuracy 0\.7500"):
        assert_robust(Plane(), robust(150, 200), "fgsm", eps=0.1, at_least=0.75)


def test_too_few_samples_are_inconclusive_and_as_many_as_it_says_are_enough(
    assert_robust: AssertRobust,
) -> None:
    with pytest.raises(AssertionError, match=r"^inconclusive: ") as caught:
        assert_robust(Plane(), robust(17, 20), FGSM(), eps=0.1, at_least=0.8)
    (told,) = re.findall(r"; take about (\d+) samples$", str(caught.value))
    n = int(told)
    assert_robust(Plane(), robust(math.ceil(0.85 * n), n), FGSM(), eps=0.1, at_least=0.8)


@pytest.mark.parametrize("at_least", [0.05, 0.4, 0.8, 0.99])
@pytest.mark.parametrize("lead", [0.005, 0.02, 0.2, 0.9])
def test_the_number_of_samples_is_sufficient_and_no_waste(at_least: float, lead: float) -> None:
    share = min(at_least + lead, 1.0)
    n = enough(share, Bound(at_least=at_least))

    def passes(n: int) -> bool:
        return clopper_pearson(math.ceil(share * n), n, 0.9)[0] >= at_least

    assert passes(n)
    assert not any(passes(fewer) for fewer in range(1, n // 2, max(n // 50, 1)))


def test_counts_survive_the_digits_of_the_table() -> None:
    for n in (1, 7, 1797, 10_000):
        assert all(_count(round(k / n, 6), n) == k for k in range(n + 1))
    assert _count(round(2.95 / 3, 6), 3) == 2


def test_a_failed_attack_fails_and_says_why(assert_robust: AssertRobust) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_robust(Plane(), robust(20, 20), Push(fault="raise"), eps=0.1, at_least=0.1)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("invalid: no result under ")
    assert first.endswith("error: ZeroDivisionError: a fault of the attack")
    assert any("Traceback" in line for line in rest)


def test_an_attack_that_strays_fails(assert_robust: AssertRobust) -> None:
    with pytest.raises(AssertionError, match=r"^invalid: .*: invalid: 20 rows larger than 0\.1$"):
        assert_robust(Plane(), robust(20, 20), Push(gain=2.0), eps=0.1, at_least=0.1)


def test_a_model_without_finite_logits_fails(assert_robust: AssertRobust) -> None:
    def broken(x: Tensor) -> Tensor:
        logits: Tensor = Plane()(x)
        return torch.where(x.flatten(1).mean(1, keepdim=True) < 0.85, torch.nan, logits)

    with pytest.raises(AssertionError, match=r"^invalid: .*: nan: logits that are not finite$"):
        assert_robust(broken, robust(20, 20), Push(gain=1.0), eps=0.1, at_least=0.1)


def test_a_hidden_gradient_is_no_robustness(
    assert_robust: AssertRobust, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(AssertionError, match=r"^invalid: robust accuracy 1\.0000") as caught:
        assert_robust(Steps(), robust(100, 100), FGSM(), eps=0.1, at_least=0.1)
    assert "does not work on this model: model: fgsm at 0.1: zero_gradient" in str(caught.value)
    assert dict(request.node.user_properties)["robustness"] == "invalid"


@pytest.mark.robustness(attack="pgd", eps=0.1, at_least=0.9)
class TestMarker:
    def test_gives_what_the_call_leaves_out(self, assert_robust: AssertRobust) -> None:
        assert assert_robust.bound == Bound(attack="pgd", eps=0.1, at_least=0.9)
        with pytest.raises(AssertionError, match=r"under pgd at eps 0\.1; .* at least 0\.9$"):
            assert_robust(Plane(), robust(15, 20))

    def test_gives_way_to_the_call(self, assert_robust: AssertRobust) -> None:
        with pytest.raises(AssertionError, match=r"under fgsm at eps 0\.2; .* at least 0\.9$"):
            assert_robust(Plane(), robust(15, 20), attack=FGSM(), eps=0.2)

    @pytest.mark.robustness(at_least=0.7, seed=3)
    def test_gives_way_to_a_nearer_one(self, assert_robust: AssertRobust) -> None:
        assert assert_robust.bound == Bound(attack="pgd", eps=0.1, at_least=0.7, seed=3)


@pytest.mark.robustness(at_most=0.9)
def test_marker_with_an_unknown_keyword(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ValueError, match=r"takes no 'at_most'\. Did you mean 'at_least'\?"):
        request.getfixturevalue("assert_robust")


@pytest.mark.robustness("pgd")
def test_marker_without_a_keyword(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ValueError, match="keywords only; got 'pgd'"):
        request.getfixturevalue("assert_robust")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"at_least": 1.0}, "at_least must lie between 0 and 1"),
        ({"at_least": 0.0}, "at_least must lie between 0 and 1"),
        ({"confidence": 95.0}, r"confidence must lie between 0\.5 and 1; got 95"),
        ({"eps": "8/255"}, "eps must be a number; got '8/255'"),
        ({"attack": "pgdd"}, r"no attack named 'pgdd'\. Did you mean 'pgd'\?"),
    ],
)
def test_bad_arguments_are_told(
    assert_robust: AssertRobust, given: dict[str, float], error: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        assert_robust(Plane(), robust(1, 2), **given)


@pytest.mark.parametrize("changes", ["l2", L2()])
def test_the_set_can_be_named_apart(assert_robust: AssertRobust, changes: str | L2) -> None:
    two_pixels = 0.05 * 2**0.5
    assert_robust(
        Plane(), robust(50, 50), PGD(steps=5), eps=two_pixels, at_least=0.9, perturbation=changes
    )
    with pytest.raises(AssertionError, match=r"fgsm\(perturbation=l2\)|pgd\(perturbation=l2"):
        assert_robust(Plane(), robust(0, 50), "fgsm", eps=0.1, perturbation=changes)


def test_smallest_changes_count_up_to_eps(assert_robust: AssertRobust) -> None:
    attack = DeepFool(perturbation=L2())
    assert_robust(Plane(), robust(50, 50), attack, eps=0.1, at_least=0.9)  # broken, but not within
    with pytest.raises(AssertionError, match=r"robust accuracy 0\.0000"):
        assert_robust(Plane(), robust(50, 50), attack, eps=1.0, at_least=0.9)


CONFIG = """
[gate]
margin = 0.05
[data]
samples = 120
[certify]
when = "never"
[[model]]
name = "zoo:digits/{net}"
label = "ours"
[[attack]]
name = "pgd"
steps = 5
eps = 0.05
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "ci.toml"
    path.write_text(CONFIG.format(net="ffn_adv"))
    return path


def written(config: Path, record: list[tuple[str, object]] | None = None) -> AssertNoRegression:
    """The fixture's value after a first call with --update-robustness."""
    told = record if record is not None else []
    places = (config.parent, config.parent)
    update = AssertNoRegression("t.py::t", places, lambda *both: told.append(both), True, True)
    with pytest.raises(pytest.skip.Exception, match=r"^written: .*ci\.json"):
        update("ci.toml", baseline="ci.json")
    assert not told
    return AssertNoRegression("t.py::t", places, lambda *both: told.append(both))


def test_the_model_of_the_baseline_passes_and_a_weaker_one_fails(configuration: Path) -> None:
    told: list[tuple[str, object]] = []
    gate = written(configuration, told)
    gate("ci.toml", baseline="ci.json")
    assert ("robustness", "pass") in told
    assert any("0 lost, 0 won" in str(value) for _, value in told)
    gate("ci.toml", baseline="ci.json", quick=True)

    configuration.write_text(CONFIG.format(net="ffn_relu"))
    for quick in (False, True):
        with pytest.raises(AssertionError) as caught:
            gate("ci.toml", baseline="ci.json", quick=quick)
        *_, last = str(caught.value).splitlines()
        assert last == "margin 0.05, alpha 0.05: fail"
    assert told[-1][0] == "ours on digits: linf 0.05"
    gate("ci.toml", baseline="ci.json", margin=0.9)
    with pytest.raises(AssertionError, match=r"(?s)attack\.steps: 5 in the baseline, 6 now.*--up"):
        gate("ci.toml", baseline="ci.json", overrides=["attack.steps=6"])


def test_a_missing_baseline_says_how_to_write_it(
    configuration: Path, assert_no_regression: AssertNoRegression, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(AssertionError, match="no such baseline") as caught:
        assert_no_regression(configuration, baseline="missing.json")
    assert str(caught.value).endswith(f"pytest --update-robustness '{request.node.nodeid}'")
    assert f"{Path(__file__).parent / 'missing.json'}: " in str(caught.value)


def test_ci_does_not_write_a_baseline(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    places = (configuration.parent,)
    gate = AssertNoRegression("t.py::t", places, lambda *both: None, True)
    with pytest.raises(AssertionError, match=r"--update is for people(?s:.)*--force-update-rob"):
        gate("ci.toml", baseline="ci.json")
    assert not (configuration.parent / "ci.json").exists()


def test_what_the_test_folder_lacks_is_taken_from_the_root(tmp_path: Path) -> None:
    root, tests = tmp_path, tmp_path / "tests"
    tests.mkdir()
    gate = AssertNoRegression("t", (tests, root), lambda *both: None)
    (root / "a").touch()
    (root / "b").touch()
    (tests / "b").touch()
    assert gate._place(Path("a")) == root / "a"
    assert gate._place(Path("b")) == tests / "b"
    assert gate._place(Path("c")) == tests / "c"
    assert gate._place(root / "b") == root / "b"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (CONFIG.format(net="fnn"), r"ci\.toml:9: model\.name: .* Did you mean"),
        ("", "empty"),
        ('attack = []\n[[model]]\nname = "zoo:digits/linear"\n', "nothing to gate"),
    ],
)
def test_what_cannot_be_gated_is_told(configuration: Path, text: str, error: str) -> None:
    configuration.write_text(text)
    gate = AssertNoRegression("t", (configuration.parent,), lambda *both: None, True, True)
    with pytest.raises(AssertionError, match=error):
        gate("ci.toml", baseline="ci.json")
    assert not (configuration.parent / "ci.json").exists()


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run pytest as a user of advbench does, outside CI."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_collecting_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys, pytest\n"
        "@pytest.mark.robustness(attack='pgd', perturbation='l2', eps=0.5)\n"
        "def test_robust(assert_robust, assert_no_regression): ...\n"
    )
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        "def pytest_collection_finish(session):\n"
        "    print('items', len(session.items), sorted({'torch', 'pandas'} & set(sys.modules)))\n"
    )
    done = run(tmp_path, "--collect-only", "--strict-markers", "-W", "error", "-s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "items 1 []" in done.stdout


@pytest.mark.slow
def test_a_suite_writes_its_baseline_once_and_is_held_to_it(configuration: Path) -> None:
    (configuration.parent / "tests").mkdir()
    (configuration.parent / "pytest.ini").touch()
    (configuration.parent / "tests" / "test_it.py").write_text(
        "def test_gate(assert_no_regression):\n"
        "    assert_no_regression('ci.toml', baseline='ci.json')\n"
    )
    done = run(configuration.parent, "--update-robustness", "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SKIPPED .*written: ", done.stdout)
    baseline = configuration.parent / "tests" / "ci.json"
    assert json.loads(baseline.read_bytes())["worst_cases"]
    configuration.write_text(CONFIG.format(net="ffn_relu"))
    done = run(configuration.parent, "--junitxml=report.xml")
    assert done.returncode == 1
    assert "margin 0.05, alpha 0.05: fail" in done.stdout
    assert "assert_no_regression('ci.toml'" in done.stdout
    assert "pytest_plugin.py" not in done.stdout
    report = ElementTree.parse(configuration.parent / "report.xml")
    told = {one.get("name"): one.get("value") for one in report.iter("property")}
    assert told["robustness"] == "fail"
    assert "lost" in (told["ours on digits: linf 0.05"] or "")
