"""`advbench.evaluate`: the bench from Python."""

import pandas as pd
import pytest
import torch

import advbench
from advbench import config, data
from advbench.attacks import FGSM, PGD
from advbench.bench.plan import plan
from advbench.bench.run import Runner, run_cells
from advbench.bench.table import COLUMNS, summary
from advbench.models.loading import ModelSpec, load_model
from advbench.testing.manners import random_states
from advbench.trust.diagnosis import diagnose
from tests.advbench.fakes import Plane, Push, samples


@pytest.fixture(scope="module")
def linear():
    return load_model(ModelSpec(name="zoo:digits/linear")).model


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", samples=40)


def test_the_table_has_the_columns_of_the_summary(linear, digits):
    results = advbench.evaluate(linear, digits, [PGD(steps=5), "fgsm"], eps=[0.05, 0.1])
    assert list(results.table.columns) == list(COLUMNS)
    assert list(results.table["attack"]) == ["pgd", "fgsm", "worst"] * 2
    assert (results.table["status"] == "ok").all()
    assert results.errors == ()
    worst = results.table[results.table["attack"] == "worst"]["robust_accuracy"].to_list()
    assert worst[0] >= worst[1]


def test_every_number_follows_from_the_samples(linear, digits):
    results = advbench.evaluate(linear, digits, [PGD(steps=5)], eps=0.1, seed=[0, 1])
    rows = results.samples
    assert len(rows) == 2 * 40
    for _, line in results.table[results.table["attack"] == "pgd"].iterrows():
        own = rows[rows["seed"] == line["seed"]]
        robust = (own["clean_correct"] & ~own["success"]).mean()
        assert line["robust_accuracy"] == pytest.approx(robust, abs=1e-6)
    broken = rows[rows["success"]].groupby("index").size()
    worst = results.table.iloc[-1]
    clean = rows[rows["seed"] == 0]["clean_correct"].sum()
    assert worst["robust_accuracy"] == pytest.approx((clean - len(broken)) / 40, abs=1e-6)


def test_it_agrees_with_a_run_from_a_file(tmp_path, linear, digits):
    path = tmp_path / "bench.toml"
    path.write_text(
        '[data]\nsamples = 40\n[[model]]\nname = "zoo:digits/linear"\n'
        '[[attack]]\nname = "pgd"\nsteps = 5\neps = 0.1\n'
    )
    cells = plan(config.load(path)[0])
    table = pd.DataFrame(
        summary([cell.facts() for cell in cells], dict(run_cells(cells, Runner())))
    )
    ours = advbench.evaluate(linear, digits, [PGD(steps=5)], eps=0.1).table
    same = ["robust_accuracy", "robust_low", "success_rate", "median_size", "forwards", "flags"]
    pd.testing.assert_frame_equal(ours[same], table[same])


def test_plain_tensors_and_plain_functions_do():
    """X3: A lambda cannot be pickled, and need not be."""
    model = Plane()
    few = samples([0.45, 0.3, 0.9], [0, 0, 0])
    results = advbench.evaluate(lambda x: model(x), (few.x, few.y), [FGSM()], eps=0.1)
    row = results.table.iloc[0]
    assert (row["n"], row["status"]) == (3, "ok")
    assert row["clean_accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert row["robust_accuracy"] == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.slow
def test_n9_what_asks_a_model_leaves_every_random_state(linear):
    few = data.load("digits", samples=8)
    before = random_states()
    assert not advbench.evaluate(linear, few, ["pgd", "square"], eps=0.1).errors
    assert random_states() == before
    diagnose(linear, few, eps=0.1)
    assert random_states() == before


def test_names_are_used_and_duplicates_kept_apart(linear, digits):
    table = advbench.evaluate(linear, digits, [FGSM(), FGSM()], eps=0.1, names=["a", "b"]).table
    assert list(table["attack"]) == ["a", "b", "worst"]
    table = advbench.evaluate(linear, digits, [PGD(steps=1), PGD(steps=2)], eps=0.1).table
    assert list(table["attack"]) == ["pgd(steps=1)", "pgd(steps=2)", "worst"]


def test_a_failing_attack_is_a_row_without_numbers_and_a_traceback(digits, linear):
    results = advbench.evaluate(linear, digits, [Push(fault="raise"), FGSM()], eps=0.1)
    assert list(results.table["status"]) == ["error", "ok", "incomplete"]
    assert results.table["robust_accuracy"].isna().tolist() == [True, False, True]
    assert "ZeroDivisionError" in results.errors[0]


def test_the_model_stays_where_and_as_it_was(linear, digits):
    linear.train()
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    state = torch.random.get_rng_state()
    advbench.evaluate(linear, digits, ["fgsm"], eps=0.1)
    assert linear.training
    assert all(torch.equal(before[name], value) for name, value in linear.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    linear.eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": []}, "attacks is empty"),
        ({"attacks": ["pgb"]}, "Did you mean 'pgd'"),
        ({"names": ["a", "b"]}, "names: expected 1, one per attack; got 2"),
        ({"eps": []}, "eps and seed need at least one value"),
        ({"draws": 1}, "draws must be at least 2; got 1"),
        ({"data": (torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))}, "no samples"),
        ({"data": (torch.full((1, 1, 2, 2), 2.0), torch.zeros(1).long())}, "must lie in"),
        ({"data": (torch.zeros(2, 1, 2, 2), torch.zeros(1).long())}, "must have the shape"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(linear, digits, change, message):
    arguments = {"data": digits, "attacks": ["fgsm"], "eps": 0.1} | change
    with pytest.raises(ValueError, match=message):
        advbench.evaluate(linear, **arguments)


def test_bytes_for_images_are_refused(linear):
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(TypeError, match="/ 255"):
        advbench.evaluate(linear, (images, torch.zeros(1).long()), ["fgsm"], eps=0.1)


def test_the_package_names_only_what_it_has():
    assert advbench.__version__
    with pytest.raises(AttributeError, match="has no attribute 'evalute'"):
        advbench.evalute  # noqa: B018


def test_a_sticker_is_fitted_to_the_training_images_and_judged_beside_its_controls(linear, digits):
    train = data.load("digits", "train", 100)
    results = advbench.evaluate(linear, digits, ["sticker"], eps=0.3, targets=3, train=train)
    assert not results.errors
    names = ["sticker", "noise_sticker", "grey_sticker", "picture_sticker", "worst"]
    assert list(results.table.attack) == names
    rates = results.table.set_index("attack").targeted_rate
    assert rates["sticker"] > rates.drop(["sticker", "worst"]).max()
    assert {"patch_y", "patch_x", "patch_angle"} <= set(results.samples.columns)


def test_without_training_images_nothing_is_fitted(linear, digits):
    with pytest.raises(ValueError, match=r"train=\(x, y\)"):
        advbench.evaluate(linear, digits, ["sticker"], eps=0.3)
