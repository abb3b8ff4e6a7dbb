"""Attacks against the exact answer on a half-space, far from the box and in its corners."""

import dataclasses

import pytest
import torch
from torch import Tensor

from advbench.attacks import (
    BIM,
    FGSM,
    L0,
    L1,
    L2,
    MIFGSM,
    NIFGSM,
    PGD,
    RFGSM,
    Linf,
    MinimumEps,
    Perturbation,
    RandomNoise,
    RandomSearch,
)
from advbench.attacks.attack import Attack
from advbench.attacks.blackbox.grid import Grid
from advbench.testing.halfspace import distance, gain
from advbench.testing.victims import Affine, numbers

WIDTH, COUNT = 20, 16


def problem(near_the_box: bool, lead: float) -> tuple[Affine, Tensor, Tensor, Tensor]:
    """A victim, inputs, labels all 0, and the direction in which the label's lead grows.

    Each row has the given lead, as a share of the most that the box allows (or of the largest
    weight, far from the box).
    """
    spread = 0.6 if near_the_box else 0.03
    x = (0.5 + spread * numbers(31, COUNT, WIDTH)).clamp(0, 1)
    w = numbers(32, WIDTH)
    room = torch.where(w > 0, x, 1 - x)
    goal = lead * ((room * w.abs()).sum(1) if near_the_box else w.abs().amax())
    # One bias for all rows: put the lead right by moving along w, inside the box.
    model = Affine(33, WIDTH, 2, torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, torch.zeros_like(w)]))
        model.bias.copy_(torch.stack([(goal - x @ w).mean(), torch.zeros(()).double()]))
    keep = (x @ w + model.bias.detach()[0]) > 0.1
    return model, x[keep], torch.zeros(int(keep.sum()), dtype=torch.int64), w


def exact(perturbation: Perturbation, model: Affine, x: Tensor, w: Tensor) -> Tensor:
    with torch.no_grad():
        z = model(x)
    return distance(perturbation, w, x, z[:, 0] - z[:, 1])


SHARP: list[tuple[Attack, float, bool]] = [
    # attack, factor of the exact distance at which it must succeed, with the box or far from it
    (FGSM(), 1.001, True),
    (FGSM(perturbation=L2()), 1.001, False),
    (FGSM(perturbation=L1()), 1.001, False),
    (FGSM(perturbation=L0()), 1.001, True),
    (BIM(), 1.001, True),
    (BIM(perturbation=L2(), steps=60), 1.05, True),
    (BIM(perturbation=L1(), steps=60), 1.05, True),
    (BIM(perturbation=L0(), steps=20), 1.001, True),
    (PGD(steps=10), 1.02, True),
    (PGD(perturbation=L2(), steps=100), 1.05, True),
    (PGD(perturbation=L1(), steps=100), 1.05, True),
    (MIFGSM(), 1.001, True),
    (MIFGSM(perturbation=L2(), steps=60, step_size=0.1), 1.05, True),
    (NIFGSM(), 1.001, True),
    (NIFGSM(perturbation=L2(), steps=60, step_size=0.1), 1.05, True),
    # At worst every sign of the start is wrong, and 1 - 2 * share of the way is left.
    (RFGSM(share=0.25), 2.01, False),
    (RFGSM(perturbation=L2(), share=0.1), 1.25, False),
]


@pytest.mark.parametrize("near", [False, True], ids=["free", "box"])
@pytest.mark.parametrize(("attack", "factor", "in_box"), SHARP, ids=lambda v: str(v))
def test_exact_distance(attack: Attack, factor: float, in_box: bool, near: bool) -> None:
    model, x, y, w = problem(near, 0.25)
    d = exact(attack.perturbation, model, x, w)
    assert len(x) >= 4
    assert (d <= attack.perturbation.largest(x)).all()
    assert not near or d.unique().numel() > 1
    reached = attack.run(model, x, y, eps=d * factor).success
    short = attack.run(model, x, y, eps=d * 0.98, stop="never").success
    assert not short.any()
    if in_box or not near:
        assert reached.all()


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1(), L0()], ids=repr)
def test_the_oracle_agrees_with_many_random_changes(perturbation: Perturbation) -> None:
    """No legal change gains more than the oracle says, and its distance is where the gain is."""
    _, x, _, w = problem(True, 0.25)
    eps = torch.full((len(x),), 0.2 * perturbation.largest(x), dtype=torch.float64)
    most = gain(perturbation, w, x, eps)
    for key in range(200):
        p = perturbation.project(x, 3 * numbers(100 + key, *x.shape) - 3 * w.sign(), eps)
        assert (-(p @ w) <= most + 1e-9).all()
    d = distance(perturbation, w, x, most)
    torch.testing.assert_close(d, eps.floor() if isinstance(perturbation, L0) else eps)


def test_the_three_norms_have_three_answers() -> None:
    _, x, _, w = problem(False, 0.25)
    g = numbers(1, 1, WIDTH)
    steps = [p.steepest(x[:1], 0 * x[:1], g, torch.ones(1).double()) for p in (Linf(), L2(), L1())]
    unit = [step / step.norm() for step in steps]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float((unit[i] * unit[j]).sum()) < 0.95
    assert w.abs().amax() > 2 * w.abs().median()


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1(), L0()], ids=repr)
@pytest.mark.parametrize(
    "kind", [RandomNoise(steps=200), RandomSearch(steps=200), Grid(points=5, blocks=2)], ids=repr
)
def test_without_gradients(kind: Attack, perturbation: Perturbation) -> None:
    """Never short of the distance; well beyond it two features are easy."""
    attack = dataclasses.replace(kind, perturbation=perturbation)  # type: ignore[call-arg]
    model, x, y, w = problem(False, 0.25)
    d = exact(perturbation, model, x, w)
    assert not attack.run(model, x, y, eps=d * 0.98, stop="never").success.any()
    if isinstance(perturbation, L0):
        return  # with two features there is nothing beyond the distance
    pair, inner = Affine(41, 2, 2, torch.float64), 0.5 + 0.1 * numbers(42, 8, 2)
    with torch.no_grad():
        pair.bias -= pair(inner).mean(0)
        z = pair(inner)
        v = pair.weight[0] - pair.weight[1]
    y, lead = z.argmax(1), z[:, 0] - z[:, 1]
    up = distance(perturbation, v, inner, lead)
    d = torch.where(y == 0, up, distance(perturbation, -v, inner, -lead))
    assert (d <= 0.2 * perturbation.largest(inner)).all()
    assert attack.run(pair, inner, y, eps=2.5 * d).success.all()


@pytest.mark.parametrize("near", [False, True], ids=["free", "box"])
@pytest.mark.parametrize(
    ("attack", "factor"),
    [
        (MinimumEps(attack=FGSM(), rounds=14), 1.001),
        (MinimumEps(attack=BIM(perturbation=L2(), steps=60), rounds=14), 1.05),
        (MinimumEps(attack=PGD(perturbation=L1(), steps=60), rounds=14), 1.05),
        (MinimumEps(attack=FGSM(perturbation=L0()), rounds=8), 1.0),
    ],
    ids=lambda v: str(v),
)
def test_minimum_eps_finds_the_distance(attack: Attack, factor: float, near: bool) -> None:
    model, x, y, w = problem(near, 0.25)
    d = exact(attack.perturbation, model, x, w)
    found = attack.run(model, x, y)
    assert found.success.all()
    assert (found.size >= d * 0.999).all()
    assert (found.size <= d * factor + 2.0**-12).all()
