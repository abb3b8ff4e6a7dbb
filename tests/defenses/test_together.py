import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import pytest
from torch import nn

from advbench import registry
from advbench.defenses.defense import Claim, Defense, Make, built, check_together, wrapped
from advbench.defenses.regularization.early_stopping import EarlyStopping
from advbench.defenses.regularization.weight_decay import WeightDecay
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Recipe, Train

DEFENSES: list[Defense] = [
    registry.get("defenses", name).examples()[0] for name in registry.names("defenses")
]


@dataclass(frozen=True, kw_only=True)
class Averages(Defense):
    """Claims two things."""

    claims: ClassVar[Any] = frozenset({"kept weights", "answer"})
    adaptive: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Answers(Defense):
    """Claims one of these and another."""

    claims: ClassVar[Any] = frozenset({"answer", "input"})
    adaptive: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Outer(Defense):
    """Puts a layer around what it is given."""

    adaptive: ClassVar[str] = ""

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(make(shape, classes), nn.Tanh())

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(model, nn.Sigmoid())


@dataclass(frozen=True, kw_only=True)
class Inner(Defense):
    """Puts another layer around what it is given."""

    adaptive: ClassVar[str] = ""

    def build(self, make: Make, shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(make(shape, classes), nn.ReLU())

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(model, nn.Softplus())


def test_what_decides_different_things_goes_together() -> None:
    check_together(())
    check_together((WeightDecay(), EarlyStopping(), Answers()))


def test_both_are_named_with_what_both_decide() -> None:
    words = "Averages and Answers contradict each other: both decide answer;"
    with pytest.raises(ValueError, match=words):
        check_together((WeightDecay(), Averages(), Answers()))
    with pytest.raises(ValueError, match=r"EarlyStopping and Averages .* both decide kept weights"):
        check_together((EarlyStopping(), WeightDecay(), Averages()))


def test_no_defense_is_listed_twice() -> None:
    with pytest.raises(ValueError, match="WeightDecay is listed twice"):
        check_together((WeightDecay(), EarlyStopping(), WeightDecay(strength=0.1)))


def test_a_recipe_refuses_what_contradicts() -> None:
    with pytest.raises(ValueError, match="Averages and Answers contradict each other"):
        Recipe(
            train=Train(epochs=1),
            data=Data(name="digits"),
            model=FFN(),
            defenses=(Averages(), Answers()),
        )


def contradict(*pair: Defense) -> bool:
    try:
        check_together(pair)
    except ValueError:
        return True
    return False


def test_registered_defenses_contradict_each_other_just_where_they_claim_the_same() -> None:
    for one, other in itertools.combinations(DEFENSES, 2):
        same = bool(one.claims & other.claims)
        assert contradict(one, other) == contradict(other, one) == same, (one, other)


def test_everything_that_can_be_claimed_is_claimed_by_some_defense() -> None:
    assert set().union(*(one.claims for one in DEFENSES)) == set(get_args(Claim))


def test_the_first_of_those_that_build_or_wrap_is_the_innermost() -> None:
    def make(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Linear(shape[0], classes)

    order = (Inner(), Outer())
    model = wrapped(order, built(order, make, (3,), 2))
    layers = [type(layer).__name__ for layer in model.modules() if not list(layer.children())]
    assert layers == ["Linear", "ReLU", "Tanh", "Softplus", "Sigmoid"]
    assert built((), make, (3,), 2).weight.shape == (2, 3)
