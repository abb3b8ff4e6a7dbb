"""The panel as a whole: what it says of nets of the zoo, and that it leaves no trace."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from advbench import data, registry
from advbench.attacks import L0, L2, PGD
from advbench.models.loading import ModelSpec, load_model
from advbench.trust.diagnosis import Diagnosis, diagnose, evidence
from tests.advbench.trust import faults

_IDS = [
    "G0",
    "R1",
    "P1",
    "D1",
    "G1",
    "G2",
    "BB1",
    "BB2",
    "U1",
    "C1",
    "S1",
    "N1",
    "L1",
    "L2",
    "O1",
    "O2",
    "O3",
    "V1",
    "X1",
    "W1",
]


def loaded(name: str, *defenses: str) -> nn.Module:
    around = tuple(registry.get("defenses", one)() for one in defenses)
    return load_model(ModelSpec(name=f"zoo:digits/{name}", defenses=around)).model


@pytest.fixture(scope="module")
def digits() -> data.Samples:
    return data.load("digits", samples=60)


@pytest.fixture(scope="module", autouse=True)
def few_queries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "QUERIES", 150)
        patch.setattr(evidence, "NOISES", 50)
        yield


@pytest.fixture(scope="module")
def of_ffn(digits, few_queries) -> Diagnosis:
    return diagnose(loaded("ffn_adv"), digits)


def test_every_check_has_a_finding(of_ffn) -> None:
    assert [one.id for one in of_ffn.findings] == _IDS
    assert len({one.name for one in of_ffn.findings}) == len(_IDS)
    assert all(one.asked and one.sentence and one.remedy for one in of_ffn.findings)
    assert of_ffn["BB1"] is of_ffn["black_box_stronger"]
    with pytest.raises(KeyError, match="no check 'B1'"):
        of_ffn["B1"]


def test_accuracies_fall_with_what_is_tried(of_ffn) -> None:
    assert of_ffn.n == 60
    assert of_ffn.clean_accuracy > 0.9
    assert 0.2 < of_ffn.white_box_accuracy < 0.8
    assert 0 < of_ffn.lowest_accuracy <= of_ffn.white_box_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "cnn_adv"])
def test_the_panel_is_silent_on_an_honest_net(name, digits) -> None:
    found = diagnose(loaded(name), digits.first(60))
    assert found.flags == ()
    assert not found.masked
    assert not found.stopped


def test_it_is_silent_on_an_adversarially_trained_feed_forward_net(of_ffn) -> None:
    assert of_ffn.flags == ()
    assert not of_ffn.masked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "defenses", "flags"),
    [
        ("cnn_distilled", (), {"saturated_loss"}),
        ("cnn_thermometer", (), {"zero_gradient", "black_box_stronger", "transfer_stronger"}),
        ("ffn_relu", ("bit_depth",), {"zero_gradient", "black_box_stronger", "unbounded_survives"}),
    ],
)
def test_broken_defences_are_flagged(name, defenses, flags, digits) -> None:
    found = diagnose(loaded(name, *defenses), digits.first(30))
    assert found.masked
    assert flags <= set(found.flags)
    assert found.stopped == (name != "cnn_distilled")
    assert 0 < found.eps < 0.3


def test_a_stand_in_that_is_known_is_used_against_the_model(digits, of_ffn) -> None:
    few = digits.first(6)
    known = diagnose(loaded("ffn_relu", "bit_depth"), few, eps=0.15)
    assert "3 substitutes" in known["BB2"].sentence
    assert "2 substitutes" in of_ffn["BB2"].sentence


def test_of_a_random_model_only_some_checks_are_asked(digits) -> None:
    found = diagnose(faults.Noisy(loaded("ffn_relu")), digits.first(20), eps=0.1)
    assert found.masked
    assert not found["BB1"].asked
    assert "answers at random" in found["BB1"].sentence
    assert found["BB1"].verdict == "not asked"
    assert found["G1"].asked
    assert found["BB2"].asked
    assert "random_answers" in found.flags


def test_without_a_gradient_black_boxes_still_speak(digits) -> None:
    found = diagnose(faults.Broken(loaded("ffn_relu")), digits.first(30), eps=0.15)
    assert found["G0"].verdict == "stop"
    assert not found["G1"].asked
    assert found["BB2"].fired
    assert found.white_box_accuracy == found.clean_accuracy > found.lowest_accuracy


def test_a_model_that_differentiates_while_it_answers_is_diagnosed(digits) -> None:
    found = diagnose(faults.Optimising(loaded("ffn_relu")), digits.first(6), eps=0.1)
    assert found["D1"].verdict == "masked"
    assert "differentiates" in found["D1"].sentence


def test_nothing_is_left_behind(digits) -> None:
    model = nn.Sequential(faults.Counting(faults.Drifting(loaded("ffn_relu")))).train()
    model[0].net.net.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    diagnose(model, digits.first(5), eps=0.1)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_the_same_seed_finds_the_same(digits) -> None:
    model, few = loaded("ffn_relu"), digits.first(10)
    first, second = (diagnose(model, few, eps=0.1, seed=1) for _ in range(2))
    assert first == second


def test_one_sample_is_enough(digits) -> None:
    found = diagnose(loaded("ffn_relu"), (digits.x[:1], digits.y[:1]), eps=0.2)
    assert found.n == 1
    assert not found.stopped


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"perturbation": L0()}, "Linf"),
        ({"eps": 0}, "above 0"),
        ({"eps": 2.0}, "at most 1"),
        ({"seed": -1}, "seed must be"),
        ({"batch_size": 0}, "batch_size"),
        ({"attack": PGD(perturbation=L2()), "perturbation": L0()}, "leave perturbation out"),
    ],
)
def test_wrong_arguments_are_named(more, message, digits) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        diagnose(loaded("ffn_relu"), digits.first(5), **more)


def test_a_model_that_gets_nothing_right_is_refused(digits) -> None:
    few = digits.first(5)
    with pytest.raises(ValueError, match="none of the 5 samples right"):
        diagnose(loaded("ffn_relu"), (few.x, (few.y + 1) % 10))
