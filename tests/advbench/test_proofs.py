"""Proofs in a run: what is stored, what attacks leave out, and what must never be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from advbench import data
from advbench.attacks import DDN, PGD, Patch, Placement, RandomNoise, Robust
from advbench.bench import proofs as bench_proofs
from advbench.bench.plan import Cell, Victim, select
from advbench.bench.run import Runner
from advbench.bench.table import summary
from advbench.config import CertifySection
from advbench.models.loading import ModelSpec, load_model
from advbench.trust.statistics import clopper_pearson

N = 60


def _cell(attack, eps=(0.0333,), model="zoo:digits/ffn_adv", when="auto"):
    loaded = load_model(ModelSpec(name=model))
    victim = Victim(model, loaded.model, loaded.sha256)
    selection = select("digits", "test", N, None)
    return Cell(victim, selection, "a", attack, eps, 0, certify=CertifySection(when))


@pytest.fixture(scope="module")
def proven():
    return Runner().run(_cell(Robust()))


def test_rows_say_what_is_known_of_each_sample(proven):
    _, rows = proven
    certified = rows["certified_eps"] == 0.0333
    assert certified.sum() > 0.9 * N
    expected = np.full(N, "gap", dtype="<U9")
    expected[certified] = "certified"
    expected[rows["success"]] = "broken"
    expected[~rows["clean_correct"]] = "wrong"
    assert (rows["standing"] == expected).all()
    assert not (certified & (rows["success"] | ~rows["clean_correct"])).any()


def test_what_is_proven_costs_no_search_and_changes_no_verdict(proven):
    _, rows = proven
    record, without = Runner().run(_cell(Robust(), when="never"))
    certified = rows["certified_eps"] == 0.0333
    assert "certified_eps" not in without
    assert "proof_seconds" not in record
    assert (rows["forwards"][certified] == 0).all()
    assert (without["forwards"][certified] > 0).all()
    assert (rows["success"] == without["success"]).all()


def test_other_attacks_meet_all_samples():
    _, rows = Runner().run(_cell(PGD(steps=3)))
    assert (rows["certified_eps"] == 0.0333).any()
    assert (rows["forwards"][rows["attacked"]] > 0).all()


def test_the_table_counts_proofs(proven):
    cell = _cell(Robust())
    own, worst = summary([cell.facts()], {cell.key: proven})
    count = int((proven[1]["certified_eps"] == 0.0333).sum())
    for row in (own, worst):
        assert row["certified_accuracy"] == pytest.approx(count / N, abs=1e-6)
        low, high = clopper_pearson(count, N)
        assert row["certified_low"] == pytest.approx(low, abs=1e-6)
        assert row["certified_high"] == pytest.approx(high, abs=1e-6)
        assert row["certified_accuracy"] <= row["robust_accuracy"]


def test_one_run_for_the_smallest_change_has_proofs_at_every_eps():
    cell = _cell(DDN(steps=20), eps=(0.05, 0.2, 0.4))
    found = Runner().run(cell)
    shares = [
        row["certified_accuracy"]
        for row in summary([cell.facts()], {cell.key: found})
        if row["attack"] == "worst"
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    assert set(found[1]["certified_eps"]) <= {-1.0, 0.05, 0.2, 0.4}


def test_a_sample_that_is_proven_and_broken_is_an_error_that_names_it(monkeypatch):
    """A certifier that proves everything: the saboteur of the sandwich."""
    monkeypatch.setattr(bench_proofs, "certify", lambda model, x, *more: torch.ones(len(x)).bool())
    record, rows = Runner().run(_cell(PGD(steps=5), eps=(0.2,)))
    assert rows is None
    assert record["status"] == "error"
    _, honest = Runner().run(_cell(PGD(steps=5), eps=(0.2,), when="never"))
    first = honest["index"][honest["success"].argmax()]
    assert f"sample {first} is proven robust up to 0.2 and broken by" in record["detail"]


@pytest.mark.parametrize(
    ("attack", "model", "when"),
    [
        (PGD(steps=1), "zoo:digits/cnn", "auto"),  # dear
        (PGD(steps=1), "zoo:digits/ffn_step", "always"),  # no bounds
        (
            RandomNoise(perturbation=Patch(placement=Placement()), steps=1),
            "zoo:digits/linear",
            "always",
        ),
    ],
)
def test_nobody_looks_where_there_are_no_cheap_bounds(attack, model, when):
    _, rows = Runner().run(_cell(attack, model=model, when=when))
    assert "certified_eps" not in rows


def test_a_smoothed_model_is_certified_where_it_is_asked_for():
    loaded = load_model(ModelSpec(name="zoo:digits/cnn_smoothed"))
    victim = Victim("smoothed", loaded.model, loaded.sha256)
    selection = select("digits", "test", 20, None)
    section = CertifySection("always", draws=100, alpha=0.05)
    cell = Cell(victim, selection, "a", PGD(steps=1), (0.001,), 0, draws=2, certify=section)
    record, rows = Runner().run(cell)
    assert record["status"] == "ok"
    assert (rows["certified_eps"] == 0.001).sum() > 10
    _, none = Runner().run(replace(cell, certify=CertifySection()))
    assert "certified_eps" not in none


def test_evaluate_takes_the_option():
    import advbench

    samples = data.load("digits", samples=20)
    model = load_model(ModelSpec(name="zoo:digits/linear")).model
    table = advbench.evaluate(model, samples, ["fgsm"], 0.02).table
    assert (table["certified_accuracy"] > 0).all()
    none = advbench.evaluate(model, samples, ["fgsm"], 0.02, certify="never").table
    assert none["certified_accuracy"].isna().all()
