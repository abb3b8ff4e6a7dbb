"""A defence from another package is found, held to the contract and trained with like ours."""

from pathlib import Path

import pytest

from tests.plugin import call, install

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(repository, tmp_path_factory)


def test_registry_lists_it_without_importing_it(installed: Path, tmp_path: Path) -> None:
    code = """
import sys
from advbench import registry
assert {"weight_decay", "toy_clipping"} <= set(registry.names("defenses"))
plugin = registry.describe("defenses", "toy_clipping")
print(plugin.distribution, plugin.version, "toy_attacks" in sys.modules)
cls = registry.get("defenses", "toy_clipping")
print(cls.__name__, registry.name_of(cls))
"""
    assert call(installed, code, tmp_path).split() == (
        ["toy-attacks", "0.3", "False", "ToyClipping", "toy_clipping"]
    )


def test_contract_runs_over_it(installed: Path, tmp_path: Path) -> None:
    code = """
from advbench import registry
from advbench.testing import DEFENSE_CHECKS
for defense in registry.get("defenses", "toy_clipping").examples():
    for check in DEFENSE_CHECKS.values():
        check(defense)
        print(check.__name__)
"""
    done = call(installed, code, tmp_path).split()
    assert len(done) == 2 * len(set(done)) >= 30


def test_a_recipe_file_takes_it_by_name(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text("""
defenses = ["weight_decay", { name = "toy_clipping", limit = 0.02 }]
train = { epochs = 1 }
data = { name = "digits", samples = 50 }
model = { name = "linear" }
""")
    code = """
from pathlib import Path
from advbench.models.loading import ModelSpec, load_model
from advbench.training.produce import run_recipe
weights = run_recipe(Path("net.toml"), Path("."))
model = load_model(ModelSpec(name=f"file:{weights.resolve()}")).model
print(max(float(weight.detach().abs().max()) for weight in model.parameters()))
"""
    assert float(call(installed, code, tmp_path)) == pytest.approx(0.02)
