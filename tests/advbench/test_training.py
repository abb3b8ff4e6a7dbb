import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench import data, training
from advbench.data import Samples
from advbench.defenses.defense import Defense
from advbench.document import ConfigError
from advbench.models.ffn import FFN, Linear
from advbench.models.loading import ModelSpec, load_model
from advbench.recipe import Data, Normalize, Optimizer, Recipe, Train
from advbench.training import Trained, run_recipe, train

CONFIG = """
[train]
epochs = 2
batch_size = 32
schedule = "one_cycle"

[data]
name = "digits"
samples = 200

[model]
name = "ffn"
hidden = [16]

[normalize]
mean = [0.3]
std = [0.4]
"""


def recipe(seed: int = 0, epochs: int = 3, **changes: Any) -> Recipe:
    made = Recipe(
        train=Train(epochs=epochs, seed=seed, batch_size=32),
        data=Data(name="digits"),
        model=FFN(hidden=(16,)),
        optimizer=Optimizer(lr=1e-2),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return data.load("digits", "train", 300)


@pytest.fixture(scope="module")
def validation() -> Samples:
    return data.load("digits", "validation")


def weights(trained: Trained) -> bytes:
    return training.pack(trained.model)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("optimizer", [Optimizer(lr=1e-2), Optimizer(name="sgd", lr=3e-2)])
def test_it_learns(
    schedule: str, loss: str, optimizer: Optimizer, samples: Samples, validation: Samples
) -> None:
    settings = Train(epochs=20, batch_size=16, schedule=schedule, loss=loss)  # type: ignore[arg-type]
    made = recipe(train=settings, optimizer=optimizer, model=FFN(hidden=(64,)))
    trained = train(made, data=samples, validation=validation)
    assert trained.epoch.clean > 0.85
    assert not trained.model.training


def test_the_seed_decides_everything(samples: Samples, validation: Samples) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = train(recipe(), data=samples, validation=validation)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    again = train(recipe(), data=samples, validation=validation)
    other = train(recipe(seed=1), data=samples, validation=validation)
    assert weights(first) == weights(again) != weights(other)


def test_one_step_of_sgd_is_the_textbook_step(samples: Samples, validation: Samples) -> None:
    few = data.load("digits", "train", 10)
    made = recipe(
        train=Train(epochs=1, batch_size=10, loss="squared_error"),
        model=Linear(),
        optimizer=Optimizer(name="sgd", lr=0.1, momentum=0.0, weight_decay=0.5),
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        weight, bias = Linear().build((1, 8, 8), 10).parameters()
    x, wanted = few.x.flatten(1), torch.eye(10)[few.y]
    with torch.no_grad():
        error = 2 * (x @ weight.T + bias - wanted) / 10
        expected = weight - 0.1 * (error.T @ x + 0.5 * weight)
    trained = train(made, data=few, validation=validation)
    torch.testing.assert_close(next(trained.model.parameters()).detach(), expected)


@pytest.mark.parametrize(
    ("schedule", "start", "peak"), [("constant", 1, 1), ("cosine", 1, 1), ("one_cycle", 0.04, 1)]
)
def test_schedules(schedule: str, start: float, peak: float) -> None:
    rates = [training._rate(schedule, done / 1000) for done in range(1000)]
    assert rates[0] == pytest.approx(start)
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] == pytest.approx(1 if schedule == "constant" else 0, abs=1e-3)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.01


def test_the_best_epoch_is_kept(samples: Samples, validation: Samples) -> None:
    made = recipe(epochs=8, optimizer=Optimizer(lr=0.3))
    trained = train(made, data=samples, validation=validation)
    assert [epoch.number for epoch in trained.history] == list(range(8))
    assert trained.epoch.clean == max(epoch.clean for epoch in trained.history)
    assert trained.epoch != trained.history[-1]
    found = training.accuracy(trained.model, validation)
    assert found == trained.epoch.clean


@dataclass(frozen=True, kw_only=True)
class Darken(Defense):
    """A stand-in with a known effect: it blackens every image from `start` on."""

    start: float

    def batch(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, epoch: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        return (x * 0 if epoch >= self.start else x), y


def test_selection_can_go_by_robust_accuracy(samples: Samples, validation: Samples) -> None:
    made = recipe(defense=(Darken(start=1),))
    robust = dataclasses.replace(made, train=dataclasses.replace(made.train, select="robust"))
    by_clean = train(made, data=samples, validation=validation)
    by_robust = train(robust, data=samples, validation=validation)
    assert by_clean.history == by_robust.history
    assert by_clean.epoch.clean == max(epoch.clean for epoch in by_clean.history)
    assert by_robust.epoch.robust == max(epoch.robust or 0 for epoch in by_robust.history)
    # All-black images are told apart by nothing, so at most one class survives.
    assert all(epoch.robust is not None and epoch.robust < 0.15 for epoch in by_clean.history)


def test_impossible_recipes() -> None:
    with pytest.raises(ValueError, match="needs a \\[\\[defense\\]\\]"):
        recipe(train=Train(epochs=1, select="robust"))
    with pytest.raises(ValueError, match="epochs must be at least 1; got 0"):
        Train(epochs=0)
    with pytest.raises(ValueError, match="seed must be 0 to"):
        Train(epochs=1, seed=-1)


def test_a_diverging_loss_is_an_error(samples: Samples, validation: Samples) -> None:
    made = recipe(optimizer=Optimizer(name="sgd", lr=1e30))
    with pytest.raises(FloatingPointError, match=r"lower optimizer\.lr"):
        train(made, data=samples, validation=validation)


def test_a_recipe_file_becomes_weights_and_a_card(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(CONFIG)
    seen: list[training.Epoch] = []
    first = run_recipe(tmp_path / "net.toml", tmp_path / "a", seen.append)
    again = run_recipe(tmp_path / "net.toml", tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "net.json",
        "net.safetensors",
    ]
    assert first.read_bytes() == again.read_bytes()
    assert first.with_suffix(".json").read_bytes() == again.with_suffix(".json").read_bytes()
    assert [epoch.number for epoch in seen] == [0, 1]
    card = json.loads(first.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert card["recipe"]["model"] == {"name": "ffn", "hidden": [16]}
    assert card["architecture"] == {"name": "ffn", "hidden": [16], "activation": "relu"}
    assert card["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert card["robust_accuracy"] == {}
    loaded = load_model(
        ModelSpec(
            name=f"file:{first}",
            architecture=FFN(hidden=(16,)),
            shape=(1, 8, 8),
            classes=10,
            mean=(0.3,),
            std=(0.4,),
            sha256=card["sha256"],
        )
    )
    test = data.load("digits")
    found = training.accuracy(loaded.model, test)
    assert found == pytest.approx(card["clean_accuracy"]["test"], abs=1e-6)


def test_all_that_is_wrong_with_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(CONFIG.replace("epochs", "epoch").replace('"ffn"', '"fnn"'))
    with pytest.raises(ConfigError) as raised:
        run_recipe(path, tmp_path / "out")
    for part in ("Did you mean 'epochs'", "Did you mean 'ffn'", "net.toml:3"):
        assert part in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_normalisation_is_trained_inside_the_model(samples: Samples, validation: Samples) -> None:
    plain = train(recipe(epochs=1), data=samples, validation=validation)
    inside = train(
        recipe(epochs=1, normalize=Normalize(mean=(0.3,), std=(0.4,))),
        data=samples,
        validation=validation,
    )
    assert weights(plain) != weights(inside)
    assert b"mean" not in weights(inside)


def test_the_zoo_follows_from_its_recipes(repository: Path, tmp_path: Path) -> None:
    written = run_recipe(repository / "configs" / "zoo" / "digits" / "linear.toml", tmp_path)
    card = json.loads(written.with_suffix(".json").read_text())
    published = json.loads(
        (repository / "advbench" / "models" / "weights" / "digits" / "linear.json").read_text()
    )
    # Other processors may round otherwise; accuracy then moves by a sample at most.
    assert card["recipe"] == published["recipe"]
    assert card["data"] == published["data"]
    for split, share in published["clean_accuracy"].items():
        assert card["clean_accuracy"][split] == pytest.approx(share, abs=0.01)
