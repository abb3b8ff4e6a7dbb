import csv
import dataclasses
import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advbench import data
from advbench.attacks.gradient.pgd import PGD
from advbench.data import Samples
from advbench.defenses.adversarial.adversarial_training import AdversarialTraining
from advbench.defenses.averaging.swa import SWA
from advbench.defenses.controls.bit_depth import BitDepth
from advbench.defenses.fit import Epoch, Fit, Score, robust_accuracy, score
from advbench.defenses.regularization.early_stopping import EarlyStopping
from advbench.defenses.regularization.weight_decay import WeightDecay
from advbench.document import ConfigError
from advbench.models.ffn import FFN, Linear
from advbench.models.loading import ModelSpec, load_model
from advbench.training import trainer
from advbench.training.produce import log_csv, pack, run_recipe
from advbench.training.recipe import Data, Log, Normalize, Optimizer, Recipe, Train
from advbench.training.trainer import Trained, train
from tests.faults import Payload

CONFIG = """
defenses = ["weight_decay", { name = "early_stopping", patience = 5 }]

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

[log]
attack = { name = "pgd", steps = 2 }
eps = 0.1
samples = 50
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


@pytest.fixture(scope="module")
def test() -> Samples:
    return data.load("digits", "test", 100)


def weights(trained: Trained) -> bytes:
    return pack(trained.model)


def scored(model: nn.Module, samples: Samples) -> Score:
    return score(model, model, trainer._split(samples))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("optimizer", [Optimizer(lr=1e-2), Optimizer(name="sgd", lr=3e-2)])
def test_it_learns(
    schedule: str, loss: str, optimizer: Optimizer, samples: Samples, validation: Samples
) -> None:
    settings = Train(epochs=20, batch_size=16, schedule=schedule, loss=loss)  # type: ignore[arg-type]
    made = recipe(train=settings, optimizer=optimizer, model=FFN(hidden=(64,)))
    trained = train(made, data=samples, validation=validation)
    assert trained.log[-1].validation.accuracy > 0.85
    assert trained.log[-1].loss < trained.log[0].loss / 2
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
    assert first.log == again.log != other.log


def test_the_number_of_threads_comes_back(samples: Samples, validation: Samples) -> None:
    before, within = torch.get_num_threads(), []
    settings = Train(epochs=1, threads=before + 1)
    train(
        recipe(train=settings),
        data=samples,
        validation=validation,
        progress=lambda *_: within.append(torch.get_num_threads()),
    )
    assert (torch.get_num_threads(), within) == (before, [before + 1])


def test_one_step_of_sgd_is_the_textbook_step(validation: Samples) -> None:
    few = data.load("digits", "train", 10)
    made = recipe(
        train=Train(epochs=1, batch_size=10, loss="squared_error"),
        model=Linear(),
        optimizer=Optimizer(name="sgd", lr=0.1, momentum=0.0),
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        weight, bias = Linear().build((1, 8, 8), 10).parameters()
    x, wanted = few.x.flatten(1), torch.eye(10)[few.y]
    with torch.no_grad():
        error = 2 * (x @ weight.T + bias - wanted) / 10
        expected = weight - 0.1 * error.T @ x
        loss = (x @ weight.T + bias - wanted).square().sum(1).mean().item()
    trained = train(made, data=few, validation=validation)
    torch.testing.assert_close(next(trained.model.parameters()).detach(), expected)
    assert trained.log[0].loss == pytest.approx(loss, rel=1e-5)
    assert trained.log[0].rate == 0.1


@pytest.mark.parametrize(
    ("schedule", "start", "peak"), [("constant", 1, 1), ("cosine", 1, 1), ("one_cycle", 0.04, 1)]
)
def test_schedules(schedule: str, start: float, peak: float) -> None:
    rates = [trainer._rate(schedule, done / 1000) for done in range(1000)]
    assert rates[0] == pytest.approx(start)
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] == pytest.approx(1 if schedule == "constant" else 0, abs=1e-3)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.01


def test_the_last_epoch_is_the_result(samples: Samples, validation: Samples) -> None:
    made = recipe(epochs=8, optimizer=Optimizer(lr=0.3))
    trained = train(made, data=samples, validation=validation)
    assert [epoch.number for epoch in trained.log] == list(range(8))
    assert trained.kept == 7
    assert trained.alarm == ""
    assert scored(trained.model, validation) == trained.log[-1].validation


def test_the_best_epoch_is_kept_by_early_stopping(samples: Samples, validation: Samples) -> None:
    made = recipe(epochs=8, optimizer=Optimizer(lr=0.3))
    last = train(made, data=samples, validation=validation)
    stopping = dataclasses.replace(made, defenses=(EarlyStopping(),))
    best = train(stopping, data=samples, validation=validation)
    assert best.log == last.log
    best_score = max(epoch.validation.accuracy for epoch in best.log)
    assert best.kept != last.kept
    assert best.log[best.kept or 0].validation.accuracy == best_score
    assert scored(best.model, validation) == best.log[best.kept or 0].validation


def test_impossible_recipes() -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1; got 0"):
        Train(epochs=0)
    with pytest.raises(ValueError, match="seed must be 0 to"):
        Train(epochs=1, seed=-1)
    with pytest.raises(ValueError, match="every and samples must be at least 1; got 0 and None"):
        Log(every=0)
    for alone in ({"eps": 0.1}, {"attack": PGD()}):
        with pytest.raises(ValueError, match="attack and eps go together"):
            Log(**alone)
    with pytest.raises(ValueError, match="WeightDecay is listed twice"):
        recipe(defenses=(WeightDecay(), WeightDecay(strength=0.1)))


def test_a_diverging_loss_is_an_error(samples: Samples, validation: Samples) -> None:
    made = recipe(optimizer=Optimizer(name="sgd", lr=1e30))
    with pytest.raises(FloatingPointError, match=r"lower optimizer\.lr"):
        train(made, data=samples, validation=validation)


# The log


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_without_a_log_only_the_validation_split_is_looked_at(
    samples: Samples, validation: Samples, test: Samples
) -> None:
    log = train(recipe(), data=samples, validation=validation, test=test).log
    assert [(epoch.train, epoch.test, epoch.validation.robust) for epoch in log] == (
        [(None, None, None)] * 3
    )


def test_the_log_measures_all_splits_every_so_often_and_at_the_end(
    samples: Samples, validation: Samples, test: Samples
) -> None:
    made = recipe(epochs=6, log=Log(attack=PGD(steps=2), eps=0.1, samples=20, every=4))
    trained = train(made, data=samples, validation=validation, test=test)
    measured = [epoch.number for epoch in trained.log if epoch.train is not None]
    assert measured == [3, 5]
    for epoch in trained.log:
        asked = epoch.number in measured
        assert (epoch.test is not None) == asked
        assert (epoch.validation.robust is not None) == asked
    last = trained.log[-1]
    for split, found in ((samples, last.train), (validation, last.validation), (test, last.test)):
        assert found is not None
        assert found._replace(robust=None) == scored(trained.model, split)
        few = trainer._split(split.first(20))
        robust = robust_accuracy(trained.model, trained.model, few, PGD(steps=2), 0.1, seed=0)
        assert found.robust == robust <= scored(trained.model, split.first(20)).accuracy
    silent = train(recipe(epochs=6), data=samples, validation=validation, test=test)
    assert weights(silent) == weights(trained)


def test_the_log_as_csv() -> None:
    log = [
        Epoch(0, 0.01, 2.25, Score(0.5, 1.5)),
        Epoch(1, 0.001, 1 / 3, Score(0.75, 1.0, 0.25), Score(1.0, 0.5, 0.0), Score(0.7, 1.25)),
    ]
    assert log_csv(log) == (
        "epoch,rate,loss,train_accuracy,train_loss,train_robust,validation_accuracy,"
        "validation_loss,validation_robust,test_accuracy,test_loss,test_robust\n"
        "0,0.01,2.25,,,,0.5,1.5,,,,\n"
        "1,0.001,0.333333,1,0.5,0,0.75,1,0.25,0.7,1.25,\n"
    )


# Resumption


RESUMED = {
    "plain": recipe(optimizer=Optimizer(name="sgd", lr=3e-2)),
    "adam": recipe(epochs=4, train=Train(epochs=4, batch_size=32, schedule="one_cycle")),
    "early stopping": recipe(
        epochs=8, optimizer=Optimizer(lr=0.3), defenses=(EarlyStopping(patience=2),)
    ),
    "several": recipe(
        defenses=(
            WeightDecay(strength=0.1),
            AdversarialTraining(attack=PGD(steps=1), eps=0.1, share=0.5),
            SWA(after=0.3),
        ),
        log=Log(every=2),
    ),
}


class Kill:
    """Raises after each epoch, and remembers which."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, epoch: Epoch, fit: Fit) -> None:
        self.seen.append(epoch.number)
        raise InterruptedError


@pytest.mark.parametrize("made", RESUMED.values(), ids=RESUMED)
def test_a_killed_training_comes_to_the_same_bits(
    made: Recipe, samples: Samples, validation: Samples, tmp_path: Path
) -> None:
    """X1: Killed after every epoch."""
    whole = train(made, data=samples, validation=validation)
    kill, path = Kill(), tmp_path / "checkpoint"
    for epoch in whole.log:
        torch.manual_seed(epoch.number)
        with pytest.raises(InterruptedError):
            train(
                made,
                data=samples,
                validation=validation,
                progress=kill,
                checkpoint=path,
                patience=0,
            )
        assert path.exists()
    parts = train(made, data=samples, validation=validation, checkpoint=path, patience=0)
    assert kill.seen == [epoch.number for epoch in whole.log]
    assert weights(parts) == weights(whole)
    assert parts.log == whole.log
    assert (parts.kept, parts.alarm) == (whole.kept, whole.alarm)
    assert not path.exists()


def test_a_checkpoint_is_written_when_patience_is_over(
    samples: Samples, validation: Samples, tmp_path: Path
) -> None:
    kill, path = Kill(), tmp_path / "checkpoint"
    with pytest.raises(InterruptedError):
        train(
            recipe(),
            data=samples,
            validation=validation,
            progress=kill,
            checkpoint=path,
            patience=1e9,
        )
    assert not path.exists()


def killed(path: Path, made: Recipe, samples: Samples, validation: Samples) -> None:
    """Leave the checkpoint of a training that was killed after its first epoch."""
    with pytest.raises(InterruptedError):
        train(
            made,
            data=samples,
            validation=validation,
            progress=Kill(),
            checkpoint=path,
            patience=0,
        )


def epochs_run(path: Path, made: Recipe, samples: Samples, validation: Samples) -> list[int]:
    """Train on with a checkpoint; the epochs that this took, if the result is that without one."""
    seen: list[int] = []
    resumed = train(
        made,
        data=samples,
        validation=validation,
        progress=lambda epoch, _: seen.append(epoch.number),
        checkpoint=path,
    )
    assert weights(resumed) == weights(train(made, data=samples, validation=validation))
    return seen


def test_a_checkpoint_of_another_training_is_ignored(
    samples: Samples, validation: Samples, tmp_path: Path
) -> None:
    path, made = tmp_path / "checkpoint", recipe()
    killed(path, made, samples, validation)
    kept = path.read_bytes()
    assert epochs_run(path, made, samples, validation) == [1, 2]
    others: list[tuple[Recipe, Samples, Samples]] = [
        (recipe(seed=1), samples, validation),
        (recipe(defenses=(WeightDecay(),)), samples, validation),
        (made, samples.first(200), validation),
        (made, samples, validation.first(200)),
    ]
    for other in others:
        path.write_bytes(kept)
        assert epochs_run(path, *other) == [0, 1, 2]


def test_f4_a_damaged_checkpoint_is_set_aside(
    samples: Samples, validation: Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, made = tmp_path / "checkpoint", recipe()
    killed(path, made, samples, validation)
    content = path.read_bytes()
    other = io.BytesIO()
    torch.save([1, 2], other)
    for damaged in (b"", b"no checkpoint", content[: len(content) // 2], other.getvalue()):
        path.write_bytes(damaged)
        caplog.clear()
        assert epochs_run(path, made, samples, validation) == [0, 1, 2]
        assert f"{path} is damaged" in caplog.text
        assert (tmp_path / "checkpoint.corrupt").read_bytes() == damaged
    assert not path.exists()


def test_s2_a_malicious_checkpoint_does_not_run(
    samples: Samples, validation: Samples, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    torch.save({"address": Payload(tmp_path / "sentinel")}, path)
    assert epochs_run(path, recipe(), samples, validation) == [0, 1, 2]
    assert not (tmp_path / "sentinel").exists()


# Files


def test_a_recipe_file_becomes_weights_a_card_and_a_log(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(CONFIG)
    seen: list[Epoch] = []
    first = run_recipe(tmp_path / "net.toml", tmp_path / "a", lambda epoch, _: seen.append(epoch))
    again = run_recipe(tmp_path / "net.toml", tmp_path / "b")
    suffixes = [".csv", ".json", ".png", ".safetensors"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"net{suffix}" for suffix in suffixes
    ]
    for suffix in suffixes:
        assert first.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    assert [epoch.number for epoch in seen] == [0, 1]
    assert first.with_suffix(".csv").read_text() == log_csv(seen)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file that comes of the recipe."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "net.toml").write_text(CONFIG)
    return run_recipe(folder / "net.toml", folder)


def test_the_card_says_how_a_network_was_made(written: Path) -> None:
    card = json.loads(written.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(written.read_bytes()).hexdigest()
    assert card["recipe"]["model"] == {"name": "ffn", "hidden": [16]}
    assert card["architecture"] == {"name": "ffn", "hidden": [16], "activation": "relu"}
    assert card["normalize"] == {"mean": [0.3], "std": [0.4]}
    assert [one["name"] for one in card["defenses"]] == ["weight_decay", "early_stopping"]
    assert card["defenses"][0] == {"name": "weight_decay", "strength": 5e-4, "biases": False}
    assert card["broken"] == {}
    assert card["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert card["alarm"] == ""


def test_the_card_says_what_a_network_is_worth(written: Path) -> None:
    card = json.loads(written.with_suffix(".json").read_text())
    lines = rows(written.with_suffix(".csv").read_text())
    best = max(range(2), key=lambda n: float(lines[n]["validation_accuracy"]))
    assert (card["epochs"], card["epoch"]) == (2, best)
    for split in ("train", "validation", "test"):
        for fact, column in (("clean_accuracy", "accuracy"), ("loss", "loss")):
            told = float(lines[best][f"{split}_{column}"])
            assert card[fact][split] == pytest.approx(told, abs=1e-5)
        robust = card["robust_accuracy"]
        told = float(lines[best][f"{split}_robust"])
        assert robust["result"][split] == pytest.approx(told, abs=1e-5)
        told = float(lines[-1][f"{split}_robust"])
        assert robust["last_epoch"][split] == pytest.approx(told, abs=1e-5)
    assert card["robust_accuracy"]["eps"] == 0.1
    assert card["robust_accuracy"]["samples"] == 50
    assert card["robust_accuracy"]["attack"]["name"] == "pgd"


def test_the_weights_can_be_loaded_by_hand(written: Path) -> None:
    card = json.loads(written.with_suffix(".json").read_text())
    alone = written.with_name("alone.safetensors")
    alone.write_bytes(written.read_bytes())
    loaded = load_model(
        ModelSpec(
            name=f"file:{alone}",
            architecture=FFN(hidden=(16,)),
            shape=(1, 8, 8),
            classes=10,
            mean=(0.3,),
            std=(0.4,),
            sha256=card["sha256"],
        )
    )
    found = scored(loaded.model, data.load("digits"))
    assert found.accuracy == pytest.approx(card["clean_accuracy"]["test"], abs=1e-6)
    assert found.loss == pytest.approx(card["loss"]["test"], abs=1e-5)


def test_a_control_is_called_broken_on_its_card(tmp_path: Path) -> None:
    text = CONFIG.replace("defenses = [", 'defenses = ["bit_depth", ')
    (tmp_path / "net.toml").write_text(text)
    card = json.loads(run_recipe(tmp_path / "net.toml", tmp_path).with_suffix(".json").read_text())
    assert card["broken"] == {"bit_depth": BitDepth.broken}


def test_all_that_is_wrong_with_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    text = CONFIG.replace("epochs", "epoch").replace('"ffn"', '"fnn"')
    path.write_text(text.replace("weight_decay", "wait_decay").replace("patience", "patients"))
    with pytest.raises(ConfigError) as raised:
        run_recipe(path, tmp_path / "out")
    for part in ("'epochs'", "'ffn'", "'weight_decay'", "'patience'"):
        assert f"Did you mean {part}" in str(raised.value)
    for line in (2, 5):
        assert f"net.toml:{line}" in str(raised.value)
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
