"""The golden numbers are those that the attacks produce; a linear model sees too little."""

import json

import pytest
import torch

from advbench.attacks.attack import Attack
from tests import golden

TABLE = json.loads(golden.PATH.read_text(encoding="utf-8"))
ATTACKS = golden.attacks()


def test_every_attack_has_numbers_and_no_number_is_left_over() -> None:
    assert set(TABLE) == {repr(attack) for attack in ATTACKS}


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_numbers(attack: Attack) -> None:
    """``make golden`` writes them again, where a change is meant."""
    got = golden.numbers(attack)
    for aim, expected in TABLE[repr(attack)].items():
        assert got[aim]["successes"] == expected["successes"]
        for name in ("loss", "size", "rows"):
            assert got[aim][name] == pytest.approx(expected[name], abs=2e-4)


def test_the_numbers_say_something() -> None:
    """Attacks differ in them, and few of them fool nothing or everything."""
    rows = {json.dumps(entry) for entry in TABLE.values()}
    assert len(rows) >= len(TABLE) - 1
    inside = [e["untargeted"]["successes"] for k, e in TABLE.items() if "MinimumEps" not in k]
    assert sum(0 < count < golden.COUNT for count in inside) > len(inside) / 2


def test_the_victim_depends_on_no_generator() -> None:
    model, x, y = golden.build()
    before = torch.get_rng_state()
    again, x2, y2 = golden.build()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, x2)
    assert torch.equal(y, y2)
    assert torch.equal(model(x), again(x))
    assert len(y.unique()) == golden.CLASSES
