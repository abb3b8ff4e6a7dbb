"""Surrogates in a run: several as one, what is counted as moved, and the table of it."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from advbench.attacks import L2, PGD, UAP, MinimumEps
from advbench.bench.plan import Victim
from advbench.bench.run import Runner
from advbench.bench.store import Store, opened
from advbench.bench.surrogates import MeanLogits, together
from advbench.cli import main
from advbench.report.transfer import transfer_lines, write_transfer
from tests.advbench.fakes import Plane, cell


def other(label="other", slope=2.0, digit="1"):
    return Victim(label, Plane(slope=slope), digit * 64)


def test_several_models_answer_with_their_mean_logits():
    models = Plane(slope=1.0), Plane(slope=4.0)
    x = torch.rand(3, 1, 1, 2)
    torch.testing.assert_close(together(models)(x), Plane(slope=2.5)(x))
    assert together(models[:1]) is models[0]
    assert set(map(id, MeanLogits(models).parameters())) == {id(m.slope) for m in models}


def test_models_of_other_classes_are_not_taken_together():
    three = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"the same classes; they have \[2, 3\]"):
        together([Plane(), three])(torch.rand(1, 1, 1, 2))


def test_all_surrogates_are_asked_and_their_mean_is_attacked():
    """Together, the second outweighs the first: what the first alone wants does not happen."""
    first, second = other("first", 2.0), other("second", -6.0, "2")
    one = cell(PGD(steps=3), (0.2,))
    _, alone = Runner().run(replace(one, surrogates=(first,)))
    _, both = Runner().run(replace(one, surrogates=(first, second)))
    _, mean = Runner().run(replace(one, surrogates=(other("mean", -2.0, "3"),)))
    assert alone["success"].sum() > 0
    assert both["success"].sum() == 0
    assert second.model.seen
    assert both["claimed"].tolist() == mean["claimed"].tolist()
    assert both["backwards"].tolist() == mean["backwards"].tolist()


def test_the_key_tells_several_surrogates_from_the_first_alone():
    one = cell(PGD(steps=3))
    pair = replace(one, surrogates=(other(), other("second", digit="2")))
    assert pair.content["together"] == "logits"
    assert "together" not in replace(one, surrogates=(other(),)).content
    assert "together" not in replace(pair, attack=UAP()).content


def stored(folder, one, success, claimed, size=0.1, status="ok"):
    """Store rows for a cell of five samples, the last of which was wrong from the start."""
    record, rows = Runner().run(one)
    attacked = rows["attacked"]
    rows = dict(rows)
    rows["success"] = np.array(success, bool) & attacked
    rows["claimed"] = np.array(claimed, bool) & attacked
    rows["size"] = np.where(attacked, size, np.nan)
    Store(folder).save(record | {"status": status}, rows)
    return one


def test_rates_are_of_the_samples_that_the_judged_model_gets_right(tmp_path):
    one = stored(
        tmp_path,
        replace(cell(PGD(steps=1)), surrogates=(other(),)),
        success=[1, 1, 0, 0, 1],
        claimed=[1, 0, 1, 1, 1],
    )
    (line,) = transfer_lines([one], Store(tmp_path))
    assert (line["made_on"], line["judged_on"]) == ("other", "plane")
    assert (line["n"], line["rate"]) == (4, 0.5)
    assert (line["moved_n"], line["moved"]) == (3, pytest.approx(1 / 3, abs=1e-6))
    assert line["low"] < 0.5 < line["high"]
    assert line["moved_low"] < line["moved"] < line["moved_high"]


def test_changes_of_no_size_or_beyond_eps_are_not_made(tmp_path):
    smallest = MinimumEps(attack=PGD(steps=2), rounds=2)
    one = stored(
        tmp_path,
        replace(cell(smallest, (0.1, 0.3)), surrogates=(other(),)),
        success=[1, 1, 1, 0, 0],
        claimed=[1, 1, 1, 1, 0],
        size=np.array([0.05, 0.2, 0.0, 0.3, 0.0]),
    )
    near, far = transfer_lines([one], Store(tmp_path))
    assert (near["eps"], near["rate"], near["moved_n"], near["moved"]) == (0.1, 0.5, 1, 1.0)
    assert (far["eps"], far["rate"], far["moved_n"]) == (0.3, 0.75, 3)


def test_of_what_was_fitted_nothing_is_known_to_have_moved(tmp_path):
    fitted = UAP(perturbation=L2(), steps=2, samples=2, images=5)
    one = stored(tmp_path, replace(cell(fitted), surrogates=(other(),)), [1] * 5, [1] * 5)
    (line,) = transfer_lines([one], Store(tmp_path))
    assert (line["rate"], line["moved_n"], line["moved"]) == (1.0, 0, None)


def test_unsound_and_missing_cells_have_no_line(tmp_path):
    one = replace(cell(PGD(steps=1)), surrogates=(other(),))
    assert transfer_lines([one], Store(tmp_path)) == []
    stored(tmp_path, one, [1] * 5, [1] * 5, status="invalid")
    assert transfer_lines([one], Store(tmp_path)) == []


def test_without_a_surrogate_there_is_no_table(tmp_path):
    with opened(tmp_path) as store:
        assert write_transfer([cell(PGD(steps=1))], store) is None
    assert not (tmp_path / "transfer.csv").exists()


CONFIG = """
[data]
name = "digits"
samples = 40
[[model]]
name = "zoo:digits/linear"
label = "a"
[[model]]
name = "zoo:digits/ffn_relu"
label = "b"
[[attack]]
name = "fgsm"
eps = 0.1
surrogate = ["", "a", ["a", "b"]]
"""


@pytest.mark.slow
def test_a_run_writes_a_matrix_of_all_pairs(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    run = ["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(run) == 0
    text = (tmp_path / "out" / "transfer.csv").read_text()
    lines = {(one["made_on"], one["judged_on"]): one for one in csv.DictReader(text.splitlines())}
    assert set(lines) == {("a", "a"), ("a", "b"), ("b", "b"), ("a + b", "a"), ("a + b", "b")}
    assert lines["a", "a"]["moved"] == "1.0"
    assert 0 < float(lines["a", "b"]["moved"]) < 1
    assert main(run) == 0
    assert (tmp_path / "out" / "transfer.csv").read_text() == text
