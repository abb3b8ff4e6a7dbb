"""The boundary attack: where a candidate lies, and how the lengths of its steps adapt."""

import pytest
import torch

from advbench.attacks import L2, Boundary, Linf
from advbench.attacks.blackbox.boundary import _adapt
from advbench.testing.strength import distances, half_space
from advbench.testing.victims import Watched, linear


def test_defaults_are_those_of_the_paper() -> None:
    one = Boundary()
    assert (one.steps, one.sideways, one.inwards, one.adaptation) == (25_000, 0.01, 0.01, 1.5)
    assert one.queries == 25_000


def test_a_point_on_the_sphere_and_a_candidate_inwards_of_it() -> None:
    (model, x, y, _), _, lead = half_space((1, 4, 5))
    nearest = lead.argmin()
    x, y, watched = x[nearest, None], y[nearest, None], Watched(model)
    Boundary(steps=20, sideways=0.05, inwards=0.02).run(watched, x, y)
    changes = torch.cat([image for image, _ in watched.seen]) - x
    won = torch.cat([logits.argmax(1) for _, logits in watched.seen]) != y
    first = int(won.nonzero()[0, 0])
    tried = changes[first : first + 11].flatten(1)
    far = tried[won[first : first + 11]].norm(dim=1).amin()
    test, candidate = changes[first + 11].flatten(), changes[first + 12].flatten()
    assert float(test.norm() / far) == pytest.approx(1), "on the sphere"
    assert float(candidate.norm() / far) == pytest.approx(0.98), "a step inwards"
    cosine = test @ candidate / (test.norm() * candidate.norm())
    assert float(cosine) == pytest.approx(1), "of the very point that was tested"
    near = tried[tried.norm(dim=1).sub(far).abs().argmin()]
    turn = torch.arccos(near @ test / (near.norm() * test.norm()))
    assert float(turn) == pytest.approx(torch.tensor(0.05).atan().item(), rel=1e-3)


def test_lengths_adapt_to_a_full_series_only() -> None:
    row = torch.tensor([[torch.nan, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    tested = torch.tensor([True, True, True, False])
    success = torch.tensor([True, False, False, True])
    series, grow, shrink = _adapt(row, tested, success, low=0.35, high=0.5)
    assert grow.tolist() == [True, False, False, False]
    assert shrink.tolist() == [False, True, True, False]
    assert series[:3].isnan().all(), "a new series"
    assert series[3].tolist() == [1.0, 1.0, 1.0]
    blank = torch.full((1, 3), torch.nan)
    series, grow, shrink = _adapt(blank, tested[:1], success[:1], low=0.35, high=0.5)
    assert not grow.any()
    assert not shrink.any()
    assert series[0, -1] == 1
    assert series[0, :2].isnan().all()


def test_close_to_the_optimum() -> None:
    attack = Boundary(steps=1500, sideways=0.1, inwards=0.1)
    given, w, lead = half_space((1, 3, 4))
    exact = distances(attack, given, w, lead)
    found = attack.run(given.model, given.x, given.y)
    assert found.success.all()
    assert (found.size >= exact * (1 - 1e-6)).all()
    assert (found.size <= exact * 1.25).all(), (found.size / exact).tolist()


def test_a_walk_whose_steps_have_shrunk_ends() -> None:
    model, x, y, _ = linear(classes=2, count=2)
    found = Boundary(steps=200, inwards=1e-8).run(model, x, y)
    assert found.success.all()
    assert (found.forwards < 100).all()


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Boundary: perturbation must be one of L2\(\)"):
        Boundary(perturbation=Linf())
    with pytest.raises(ValueError, match="adaptation must be a number above 1"):
        Boundary(adaptation=1.0)
    with pytest.raises(ValueError, match="sideways must be a number above 0"):
        Boundary(perturbation=L2(), sideways=0.0)
