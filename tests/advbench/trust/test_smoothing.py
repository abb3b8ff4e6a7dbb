"""Certificates by sampling, on planes whose smoothed vote is known."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor, nn

from advbench.attacks import L0, L1, L2, Linf
from advbench.data import load
from advbench.defenses.randomized_smoothing import RandomizedSmoothing, Smoothed
from advbench.models.loading import ModelSpec, load_model
from advbench.trust.certificates import NoBoundsError, smoothed_eps, smoothed_radius


class Plane(nn.Module):
    """Class 1 where the weighted sum of the pixels is above 1.5."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        self.classes = classes
        self.dropout = nn.Dropout(0.9)

    def lead(self, x: Tensor) -> Tensor:
        return self.dropout(x.flatten(1)) @ self.weight - 1.5

    def forward(self, x: Tensor) -> Tensor:
        lead = self.lead(x)
        rest = lead.new_full((len(x), self.classes - 2), -9.0)
        return torch.cat([torch.stack([-lead, lead], 1), rest], 1)

    def distance(self, x: Tensor) -> Tensor:
        """To the plane: the radius of the vote, for noise of any size."""
        found: Tensor = self.eval().lead(x) / self.weight.norm()
        return found.detach().double()


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_radius_is_nearly_the_distance_to_a_plane() -> None:
    plane, x = Plane(), images(40)
    distance = plane.distance(x)
    y = (distance > 0).long()
    radius = smoothed_radius(Smoothed(plane, 0.25, 3), x, y, n=4000)
    true = distance.abs()
    assert (radius <= true).all()
    near = (true > 0.05) & (true < 0.4)  # further away, draws are too few to tell
    assert near.sum() >= 20
    assert (radius >= 0.85 * true - 0.02)[near].all()
    assert (smoothed_radius(Smoothed(plane, 0.25, 3), x, 1 - y, n=100)[near] == 0).all()


@pytest.mark.parametrize(("alpha", "valid"), [(0.1, True), (0.5, False)])
def test_radius_holds_with_the_probability_that_is_asked_for(alpha: float, valid: bool) -> None:
    """A bound that is wrong in half of the cases, as the plain share would be, is seen."""
    plane = Plane()
    x = images(10)
    x = x[plane.distance(x).abs().argsort()[3:4]].expand(400, -1, -1, -1)
    distance = plane.distance(x)
    y = (distance > 0).long()
    radius = smoothed_radius(Smoothed(plane, 0.25, 1), x, y, n=100, n0=20, alpha=alpha)
    broken = float((radius > distance.abs()).double().mean())
    assert (broken <= 0.1 + 3 * math.sqrt(0.09 / 400)) == valid


@pytest.mark.parametrize(("n", "most"), [(1000, 2.46), (10_000, 3.20)])
def test_draws_that_all_agree(n: int, most: float) -> None:
    model = Smoothed(Constant(), 0.5, 1)
    x = images(1)
    radius = smoothed_radius(model, x, torch.tensor([1]), n=n, batch_size=4000)
    share = binomtest(n, n, alternative="greater").proportion_ci(0.999, "exact").low
    assert radius.item() == pytest.approx(0.5 * norm.ppf(share))
    assert radius.item() == pytest.approx(0.5 * most, abs=0.005)
    assert smoothed_radius(model, x, torch.tensor([0]), n=n).item() == 0


def test_the_share_is_bounded_by_clopper_and_pearson() -> None:
    plane, x = Plane(), images(6)
    y = (plane.distance(x) > 0).long()
    shares = set()
    for hits in range(201):
        low = binomtest(hits, 200, alternative="greater").proportion_ci(0.95, "exact").low
        shares.add(round(0.25 * float(norm.ppf(max(low, 0.5))), 9))
    radius = smoothed_radius(Smoothed(plane, 0.25, 1), x, y, n=200, alpha=0.05)
    assert {round(one, 9) for one in radius.tolist()} <= shares
    assert len(set(radius.tolist())) > 2


def test_draws_belong_to_the_sample() -> None:
    plane, x = Plane(), images(12)
    y = (plane.distance(x) > 0).long()
    ids = torch.arange(12) * 3 + 100
    model = Smoothed(plane, 0.25, 2)

    def radius(rows: Tensor, batch_size: int = 1000, seed: int = 0) -> Tensor:
        return smoothed_radius(
            model, x[rows], y[rows], ids=ids[rows], seed=seed, n=300, batch_size=batch_size
        )

    rows = torch.arange(12)
    expected = radius(rows)
    assert len(set(expected.tolist())) > 4
    for batch_size in (1, 7, 100_000):
        few = rows[:1] if batch_size == 1 else rows[:4]
        assert torch.equal(radius(few, batch_size), expected[few])
    assert torch.equal(radius(rows.flip(0)), expected.flip(0))
    assert torch.equal(radius(rows[5:6]), expected[5:6])
    assert not torch.equal(radius(rows, seed=1), expected)
    again = smoothed_radius(model, x, y, n=300)
    assert torch.equal(again, smoothed_radius(model, x, y, ids=torch.arange(12), n=300))
    assert not torch.equal(again, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_radius_on_a_gpu() -> None:
    plane, x = Plane(2), images(6)
    y = (plane.distance(x) > 0).long()
    expected = smoothed_radius(Smoothed(plane, 0.25, 1), x, y, n=200)
    found = smoothed_radius(Smoothed(plane.to("cuda"), 0.25, 1), x, y, n=200)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_nothing_else_changes() -> None:
    model = Smoothed(Plane().train(), 0.25, 2).train()
    modes = [module.training for module in model.modules()]
    x, state = images(3), torch.get_rng_state()
    given = x.clone()
    smoothed_radius(model, x, torch.ones(3, dtype=torch.int64), n=50)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, given)
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_no_samples_are_no_problem() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert smoothed_radius(Smoothed(Plane(), 0.25, 1), images(0), empty).shape == (0,)


def test_a_net_of_the_zoo() -> None:
    data = load("digits", samples=20)
    model = load_model(ModelSpec(name="zoo:digits/cnn_smoothed")).model
    assert isinstance(model, Smoothed)
    radius = smoothed_radius(model, data.x, data.y, ids=data.ids, n=300)
    assert ((radius > 0) & (radius <= 2.05 * model.sigma)).float().mean() >= 0.7


def test_sets_within_the_ball() -> None:
    radius = torch.tensor([0.0, 0.6], dtype=torch.float64)
    assert torch.equal(smoothed_eps(radius, L2(), (1, 6, 6)), radius)
    assert torch.equal(smoothed_eps(radius, L1(), (1, 6, 6)), radius)
    torch.testing.assert_close(smoothed_eps(radius, Linf(), (1, 6, 6)), radius / 6)
    with pytest.raises(NoBoundsError, match="L0"):
        smoothed_eps(radius, L0(), (1, 6, 6))


def test_arguments_are_checked() -> None:
    x, y = images(2), torch.tensor([0, 1])
    model = RandomizedSmoothing(sigma=0.25, samples=2).wrap(Plane())
    assert isinstance(model, Smoothed)
    with pytest.raises(TypeError, match="Plane"):
        smoothed_radius(Plane(), x, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n0"):
        smoothed_radius(model, x, y, n0=0)
    with pytest.raises(ValueError, match="alpha"):
        smoothed_radius(model, x, y, alpha=1.0)
    with pytest.raises(ValueError, match="ids"):
        smoothed_radius(model, x, y, ids=torch.arange(3))
    with pytest.raises(ValueError, match="lie in"):
        smoothed_radius(model, x + 1, y)
