"""Attacks that know a defence: made on the model without its masks, judged on the model itself."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import advbench
from advbench.attacks import PGD, Linf, Perturbation
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.masking import Masking
from advbench.attacks.query import Access
from advbench.attacks.victim import BPDA
from advbench.bench.plan import Victim
from advbench.bench.run import Runner, run_cells
from advbench.bench.table import summary
from tests.advbench.fakes import Plane, Push, cell


class Steps(Masking):
    """Rounds pixels to hundredths, whose gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded pixels."""
        return (x * 100).round() / 100

    def stand_in(self) -> nn.Module:
        """Differentiate the identity."""
        return BPDA(self.forward)


class Wrong(Masking):
    """Lets pass what it is given, but stands in for itself with half of the brightness more."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pixels."""
        return x

    def stand_in(self) -> nn.Module:
        """Return another model."""
        return Brighter()


class Brighter(nn.Module):
    """What `Wrong` shows to an attack."""

    def forward(self, x: Tensor) -> Tensor:
        """Return brighter pixels."""
        return x + 0.5


def _masked(layer: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(layer or Steps(), Plane())


def _run(attack=PGD(steps=5), **more):  # noqa: B008
    return Runner().run(replace(cell(attack, model=_masked()), **more))


def test_only_an_adaptive_attack_sees_through_a_mask():
    record, blind = _run()
    assert not blind["success"].any()
    assert record["masked"]
    assert record["content"].get("adaptive") is None
    record, rows = _run(adaptive=True)
    assert rows["success"].tolist() == [True, False, True, False, False]
    assert record["masked"]
    assert record["content"]["adaptive"]
    assert Runner().run(cell(PGD(steps=5)))[0]["masked"] is False


def test_the_model_itself_is_judged():
    """All is lost on the stand-in; on the model only what is changed far enough."""
    one = cell(PGD(steps=5), values=[0.45, 0.3], y=[0, 0], model=_masked(Wrong()))
    _, rows = Runner().run(replace(one, adaptive=True))
    assert rows["claimed"].all()
    assert not rows["success"][1]
    assert rows["clean_correct"].all()


def test_without_a_mask_the_rows_are_those_of_the_plain_attack():
    one = cell(PGD(steps=5))
    _, plain = Runner().run(one)
    _, rows = Runner().run(replace(one, adaptive=True))
    for name, values in plain.items():
        assert values.tolist() == pytest.approx(rows[name].tolist(), nan_ok=True, abs=0), name


def test_surrogates_are_attacked_without_their_masks():
    other = Victim("other", _masked(), "1" * 64)
    one = replace(cell(PGD(steps=5)), surrogates=(other,))
    record, blind = Runner().run(one)
    assert record["masked"]
    assert not blind["success"].any()
    _, rows = Runner().run(replace(one, adaptive=True))
    assert rows["success"].sum() == 2


@dataclass(frozen=True, kw_only=True)
class _Looks(Fittable):
    """Learns nothing but whether the models that it is fitted on have masks."""

    access: ClassVar[Access] = "none"
    perturbation: Perturbation = Linf()
    images: int = 5
    found: ClassVar[list[bool]] = []

    @classmethod
    def examples(cls):
        return cls(), cls(images=4)

    def fit(self, models, batches, *, eps, targets=None, seed=0) -> Attack:
        _Looks.found += [any(isinstance(m, Masking) for m in one.modules()) for one in models]
        return Push()

    def controls(self):
        return ()


def test_what_is_fitted_is_fitted_without_masks_and_kept_apart():
    _Looks.found.clear()
    runner, one = Runner(), cell(_Looks(), model=_masked())
    for each in (one, replace(one, adaptive=True)):
        assert runner.run(each)[0]["status"] == "ok"
    assert _Looks.found == [True, False]


def test_weights_are_shared_and_left_as_they_were():
    model = _masked().train()
    Runner().run(replace(cell(PGD(steps=2), model=model), adaptive=True))
    assert model.training
    assert all(module.training for module in model.modules())
    assert model[1].slope.requires_grad
    assert isinstance(model[0], Steps)


def test_a_table_warns_until_an_adaptive_attack_is_there():
    one = cell(PGD(steps=2), model=_masked(), name="pgd")
    knowing = replace(one, adaptive=True, name="adaptive pgd")
    flags = []
    for cells in ([one], [one, knowing]):
        table = summary([each.facts() for each in cells], dict(run_cells(cells, Runner())))
        flags.append(table[0]["flags"])
    assert flags == ["zero_gradient:1.00;hidden_gradient:1.00", "zero_gradient:1.00"]


def test_it_is_an_argument_of_evaluate():
    x = torch.full((4, 1, 1, 2), 0.45)
    y = torch.zeros(4, dtype=torch.int64)
    attack = [PGD(steps=5)]
    blind = advbench.evaluate(_masked(), (x, y), attack, eps=0.1).table
    known = advbench.evaluate(_masked(), (x, y), attack, eps=0.1, adaptive=True).table
    assert blind["robust_accuracy"].tolist() == [1, 1]
    assert known["robust_accuracy"].tolist() == [0, 0]
    assert known["attack"].tolist() == ["adaptive pgd", "worst"]
