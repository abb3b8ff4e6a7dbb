"""Running cells: what is attacked, what is recorded, and what a bad attack can not do."""

import itertools
import random
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from advbench import data
from advbench.attacks import (
    BIM,
    PGD,
    Flag,
    Linf,
    Patch,
    Perturbation,
    Placement,
    RandomNoise,
    SquareAttack,
)
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.query import Access
from advbench.bench.determinism import numerics
from advbench.bench.plan import Cell, Selection, Victim
from advbench.bench.run import Runner, Silent, provenance, run_cells
from advbench.bench.table import summary
from advbench.models.loading import ModelSpec, load_model
from advbench.testing.victims import Watched
from tests.advbench.fakes import Plane, Push, cell, samples


def test_only_clean_correct_rows_are_attacked():
    record, rows = Runner().run(cell(Push(), (0.1,)))
    assert record["status"] == "ok"
    assert rows["index"].tolist() == [100, 101, 102, 103, 104]
    assert rows["clean_correct"].tolist() == [True, True, True, True, False]
    assert rows["attacked"].tolist() == [True, True, True, True, False]
    assert rows["success"].tolist() == [True, False, True, False, False]
    assert rows["forwards"].tolist() == [7, 7, 7, 7, 0]
    assert rows["prediction"].tolist() == [1, 0, 0, 1, 1]
    assert np.isnan(rows["size"][4])


def test_the_claim_of_an_attack_is_kept_apart_from_the_verdict():
    _, rows = Runner().run(cell(Push(fault="claim"), (0.1,)))
    assert rows["claimed"].tolist() == [True, True, True, True, False]
    assert rows["success"].tolist() == [True, False, True, False, False]


def test_nothing_is_attacked_where_nothing_is_right():
    record, rows = Runner().run(cell(Push(fault="raise"), values=[0.9, 0.1], y=[0, 1]))
    assert record["status"] == "ok"
    assert not rows["attacked"].any()


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ("raise", "ZeroDivisionError: a fault of the attack"),
        ("exit", "SystemExit: 3"),
        ("shape", "Error: "),
    ],
)
def test_what_an_attack_raises_is_the_record_of_its_cell(fault, detail):
    record, rows = Runner().run(cell(Push(fault=fault)))
    assert rows is None
    assert record["status"] == "error"
    assert detail in record["detail"]
    assert "tests.advbench.fakes:Push" in record["traceback"]
    assert "Traceback" in record["traceback"]


def test_an_interrupt_is_not_taken_for_a_fault():
    with pytest.raises(KeyboardInterrupt):
        Runner().run(cell(Push(fault="interrupt")))


def test_a_bad_cell_does_not_end_the_run():
    model = Plane()
    cells = [cell(Push(fault="raise"), model=model), cell(Push(), model=model)]
    found = dict(run_cells(cells, Runner()))
    assert [record["status"] for record, _ in found.values()] == ["error", "ok"]


def test_the_status_names_rows_that_broke_the_rules():
    record, rows = Runner().run(cell(Push(gain=2), (0.1,)))
    assert record["status"] == "invalid"
    assert record["detail"] == "4 rows larger than 0.1; 1 rows outside [0, 1]" or (
        record["detail"] == "4 rows larger than 0.1"
    )
    assert not rows["success"].any()


class Walled(Plane):
    """NaN wherever the mean of an image is past a wall, and nothing but a right answer before."""

    def __init__(self, wall: float) -> None:
        super().__init__()
        self.wall = wall

    def forward(self, x):
        return super().forward(x) / (x.flatten(1).mean(1, keepdim=True) < self.wall)


@pytest.mark.parametrize("attack", [BIM(steps=5), PGD(steps=5), RandomNoise(steps=9)], ids=repr)
def test_n2_where_all_around_is_nan_nothing_is_robust(attack):
    """The samples lie just before the wall: what a step meets is NaN, which never changes class."""

    class Island(Walled):
        def forward(self, x):
            inside = (x.flatten(1) == torch.tensor(0.25)).all(1, keepdim=True)
            return super().forward(x) / inside

    one = cell(attack, (0.1,), values=[0.25] * 3, y=[0] * 3, model=Island(0.5))
    record, rows = Runner().run(one)
    assert record["status"] == "nan"
    assert rows["clean_correct"].all()
    assert rows["nan"].all()
    assert (rows["flags"] & Flag.NON_FINITE).all()
    row, worst = summary([one.facts()], {one.key: (record, rows)})
    assert (row["status"], row["nan"], row["robust_accuracy"]) == ("nan", 3, None)
    assert worst["robust_accuracy"] is None


@pytest.mark.parametrize("attack", [BIM(steps=8), PGD(steps=8, restarts=2)], ids=repr)
@pytest.mark.parametrize("value", [0.3, 0.35, 0.4])
def test_n2_the_best_finite_iterate_is_kept(attack, value):
    """Class 1 begins at 0.5; a wall of NaN stands before it, and the nearest to it is kept."""
    seen, one = Watched(Walled(0.49)), samples([value], [0])
    found = attack.run(seen, one.x, one.y, eps=0.3, stop="never")
    assert found.flags[0] & Flag.NON_FINITE
    means = torch.cat([images.flatten(1).mean(1) for images, _ in seen.seen])
    finite = torch.cat([logits.isfinite().all(1) for _, logits in seen.seen])
    assert finite.any()
    assert not finite.all()
    assert float(found.x_adv.mean()) == pytest.approx(float(means[finite].max()), abs=1e-6)


def test_n2_what_met_nan_on_its_way_is_flagged_and_judged():
    """Of the two samples one has room for a step before the wall, the other has not."""
    one = cell(BIM(steps=8), (0.3,), values=[0.3, 0.4], y=[0, 0], model=Walled(0.49))
    record, rows = Runner().run(one)
    assert rows["nan"].tolist() == [False, True]
    assert (rows["flags"] & Flag.NON_FINITE).all()
    assert record["status"] == "nan"


def test_a_clean_logit_that_is_not_finite_is_a_status():
    """N2: Apart from what is robust and from what is broken."""

    class Spoilt(Plane):
        def forward(self, x):
            return super().forward(x) / (x.flatten(1).mean(1, keepdim=True) < 0.8)

    record, rows = Runner().run(cell(Push(), model=Spoilt()))
    assert record["status"] == "nan"
    assert rows["nan"].tolist() == [False, False, False, True, True]
    assert rows["clean_prediction"].tolist()[3:] == [-1, -1]


def test_out_of_memory_halves_the_batch_and_is_recorded():
    record, rows = Runner(batch_size=8).run(cell(Push(fault="memory")))
    assert record["batch_size"] == 2
    assert record["out_of_memory_at"] == [8, 4]
    assert record["status"] == "ok"
    assert rows["success"].sum() == 2


def test_out_of_memory_at_one_row_is_an_error():
    class Full(Plane):
        def forward(self, x):
            if x.requires_grad:
                raise RuntimeError("CUDA out of memory")
            return super().forward(x)

    record, _ = Runner(batch_size=8).run(cell(PGD(steps=2), model=Full()))
    assert record["status"] == "error"
    assert "out of memory" in record["detail"]


def test_a_model_at_chance_is_warned_about(caplog):
    Runner().run(cell(Push(), y=[1, 1, 0, 0, 0]))
    assert "plane: clean accuracy 0.000 on fake is no better than chance" in caplog.text
    caplog.clear()
    Runner().run(cell(Push()))
    assert caplog.text == ""


def test_a_label_past_the_classes_is_an_error():
    record, _ = Runner().run(cell(Push(), y=[0, 0, 1, 7, 0]))
    assert "has the label 7, but the model returns 2 classes" in record["detail"]


def test_the_clean_pass_and_the_two_answers_that_are_compared_are_made_once():
    first = cell(Push())
    cells = [first, *(replace(first, attack=Push(gain=gain)) for gain in (0.25, 0.5))]
    dict(run_cells(cells, Runner()))
    assert first.victim.model.seen.count(5) == 1 + 2


def test_a_cell_named_twice_is_run_once():
    model = Plane()
    once = cell(Push(), model=model, name="a")
    again = cell(Push(), model=model, name="b")
    assert once.key == again.key
    seen = []
    for _ in run_cells([once, again], Runner()):
        seen.append(len(model.seen))
    assert seen[0] == seen[1]


@pytest.fixture(scope="module")
def whole():
    """A cell over 24 digits that draws at random throughout, and its rows."""
    loaded = load_model(ModelSpec(name="zoo:digits/cnn"))
    digits = data.load("digits", samples=24)
    victim = Victim("cnn", loaded.model, loaded.sha256)
    selection = Selection("digits", digits, lambda count: digits)
    attacks = {"pgd": PGD(steps=4, restarts=2), "square": SquareAttack(steps=12)}
    cells = [Cell(victim, selection, name, one, (0.15,), 3) for name, one in attacks.items()]
    return [(one, Runner(batch_size=24).run(one)[1]) for one in cells]


def _selected(one: Cell, index: list[int]) -> Cell:
    chosen = one.selection.samples._rows(torch.tensor(index))
    return replace(one, selection=Selection("digits", chosen, lambda count: chosen))


def _same(rows, expected, index):
    for name, values in expected.items():
        got = rows[name]
        if values.dtype.kind == "f":  # another batch has other kernels
            assert got == pytest.approx(values[index], abs=1e-5, nan_ok=True), name
        else:
            np.testing.assert_array_equal(got, values[index], err_msg=name)


def test_n10_order_and_company_of_the_samples_change_nothing(whole):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5)).tolist()
    for one, expected in whole:
        assert 0 < expected["success"].sum() < expected["attacked"].sum()
        _, rows = Runner(batch_size=24).run(_selected(one, order))
        _same(rows, expected, order)


def test_n10_shards_together_are_the_whole(whole):
    for one, expected in whole:
        for shard in (list(range(0, 24, 3)), list(range(1, 24, 3)), list(range(2, 24, 3))):
            _, rows = Runner(batch_size=8).run(_selected(one, shard))
            _same(rows, expected, shard)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_n10_rows_in_flight_change_nothing(whole, batch_size):
    for one, expected in whole:
        _, rows = Runner(batch_size=batch_size).run(one)
        _same(rows, expected, list(range(24)))


def test_a_shard_that_draws_by_position_is_found_out(whole):
    """Without the ids of the samples, other rows are drawn for."""
    one, expected = whole[0]
    moved = _selected(one, list(range(12, 24)))
    renumbered = replace(moved.selection.samples, ids=torch.arange(12))
    selection = Selection("digits", renumbered, lambda count: renumbered)
    _, rows = Runner(batch_size=24).run(replace(moved, selection=selection))
    same = [np.array_equal(rows[k], expected[k][12:], equal_nan=True) for k in ("size", "steps")]
    assert not all(same)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batch_size_is_not_in_the_rows(batch_size):
    """N10: Exactly, where the model's arithmetic does not depend on it."""
    _, expected = Runner(batch_size=64).run(cell(PGD(steps=3), (0.06,)))
    _, rows = Runner(batch_size=batch_size).run(cell(PGD(steps=3), (0.06,)))
    for name in ("success", "forwards", "backwards", "prediction", "flags"):
        assert (rows[name] == expected[name]).all(), name
    assert rows["size"] == pytest.approx(expected["size"], nan_ok=True)


def test_progress_hears_of_every_row():
    class Counter(Silent):
        total = 0

        def rows(self, count):
            self.total += count

    counter = Counter()
    Runner(progress=counter).run(cell(PGD(steps=2)))
    assert counter.total == 5


def test_model_and_random_state_are_left_as_they_were():
    """N9: By a cell; by a whole run, see test_cli."""
    model = Plane().train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    Runner().run(cell(PGD(steps=2), model=model))
    assert model.training
    assert model.slope.requires_grad
    assert model.slope.grad is None
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


@dataclass(frozen=True, kw_only=True)
class _Fitted(Fittable):
    """Learns from training samples how far to push."""

    access: ClassVar[Access] = "none"
    perturbation: Perturbation = Linf()
    images: int = 5

    @classmethod
    def examples(cls):
        return cls(), cls(images=4)

    def fit(self, models, batches, *, eps, targets=None, seed=0) -> Attack:
        assert sum(len(y) for _, y in batches) == 5
        _Fitted.calls.append((len(models), eps, targets, seed))
        return Push(gain=0.5)

    def controls(self):
        return (_Fitted(images=1),) if self.images > 1 else ()

    calls: ClassVar[list] = []


def test_an_attack_that_learns_is_fitted_to_the_training_samples():
    record, rows = Runner().run(cell(_Fitted(), (0.2,)))
    assert rows["size"][:4] == pytest.approx(0.1)
    assert record["fitted"]["gain"] == 0.5


def test_what_is_fitted_to_the_same_models_is_fitted_once():
    _Fitted.calls.clear()
    runner = Runner()
    one = cell(_Fitted(), (0.2,))
    for each in (one, replace(one, name="again"), replace(one, targets=1), replace(one, seed=3)):
        runner.run(each)
    other = replace(one.victim, sha256="1" * 64)
    runner.run(replace(one, surrogates=(one.victim, other)))
    assert _Fitted.calls == [
        (1, 0.2, None, 0),
        (1, 0.2, 1, 0),
        (1, 0.2, None, 3),
        (2, 0.2, None, 0),
    ]


def test_a_surrogate_is_attacked_and_the_victim_is_judged():
    """The surrogate sees the classes the other way round: what fools it helps the victim."""
    one = cell(PGD(steps=2), (0.2,))
    _, own = Runner().run(one)
    opposite = Victim("opposite", Plane(slope=-10.0), "1" * 64)
    record, rows = Runner().run(replace(one, surrogates=(opposite,)))
    assert record["surrogate"] == "opposite"
    assert own["success"].sum() > 0
    assert rows["success"].sum() == 0
    assert (rows["forwards"][rows["attacked"]] > 0).all()


def test_a_class_to_reach_leaves_its_own_samples_alone():
    _, rows = Runner().run(replace(cell(PGD(steps=2), (0.2,)), targets=1))
    assert rows["attacked"].tolist() == [True, True, False, False, False]
    assert (rows["prediction"][rows["success"]] == 1).all()


def test_rows_tell_where_a_patch_lies():
    lies = Placement(location=(0.5, 0.25))
    patch = RandomNoise(perturbation=Patch(placement=lies, resolution=2), steps=1)
    _, rows = Runner().run(cell(patch, (0.2,)))
    assert rows["patch_x"][rows["attacked"]] == pytest.approx(0.25)
    assert np.isnan(rows["patch_x"][~rows["attacked"]]).all()


def test_eot_multiplies_what_a_query_costs():
    once = cell(PGD(steps=3), (0.01,))
    _, rows = Runner().run(once)
    _, averaged = Runner().run(replace(once, eot=5))
    assert (averaged["forwards"] == 5 * rows["forwards"]).all()
    assert (averaged["backwards"] == 5 * rows["backwards"]).all()
    assert rows["forwards"].any()


def test_x4_a_clock_that_is_set_back_makes_no_negative_time(monkeypatch):
    hours = itertools.count(1e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(hours) * 1e9))
    record, rows = Runner().run(cell(PGD(steps=3)))
    assert 0 < record["seconds"] < 60
    assert rows is not None


def test_provenance_names_versions_and_settings():
    """N11: Among them all that decides whether a GPU repeats itself."""
    facts = provenance(["advbench", "run"])
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["numerics"] == numerics()
    assert facts["command"] == ["advbench", "run"]
