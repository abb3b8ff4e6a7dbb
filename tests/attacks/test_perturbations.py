"""The perturbation sets against solvers that share no code with them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advbench import registry
from advbench.attacks import L0, L1, L2, Linf, Perturbation
from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.randomness import Draws
from advbench.testing.halfspace import gain
from advbench.testing.victims import SCENE, inputs, numbers
from tests.attacks.test_randomness import distance_from_uniform

NAMES = registry.names("perturbations")
SETS: list[Perturbation] = [registry.get("perturbations", name)() for name in NAMES]
BALLS = [one for one in SETS if isinstance(one, Pixels)]
SHAPES = [(3, 4, 5), (1, 7, 2), (12,)]
PIXELS = (Linf(), L2(), L1(), L0())


def draws(count: int) -> Draws:
    zero = torch.zeros(count, dtype=torch.int64)
    return Draws(zero + 1, torch.arange(count), zero, zero)


def points(shape: tuple[int, ...], count: int = 40) -> tuple[Tensor, Tensor]:
    """Inputs in the box, many on its sides, and changes from tiny to huge."""
    x = (0.5 + 0.5 * numbers(1, count, *shape)).clamp(0, 1)
    sizes = torch.logspace(-3, 2, count, dtype=torch.float64)
    return x, numbers(2, count, *shape) * sizes.view(-1, *([1] * len(shape)))


def changeable(perturbation: Perturbation, count: int = 40) -> Tensor:
    """Images in the box and on its sides, or the scenes that the set takes in their place."""
    x, _ = points((3, 14, 16), count)
    if perturbation.refusal(x.shape[1:]) is not None:
        x = inputs(1, count, SCENE, torch.float64)
    assert perturbation.refusal(x.shape[1:]) is None
    return x


def sizes(perturbation: Perturbation, x: Tensor) -> Tensor:
    """A different eps per row, from nothing to more than half of the box."""
    shares = torch.linspace(0, 0.6, len(x), dtype=torch.float64)
    return shares[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))] * (
        perturbation.largest(x)
    )


def nearest(perturbation: Perturbation, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
    """The true projection on ball and box, by bisection on the multiplier of the ball."""
    x, p, eps = x.flatten(1), p.flatten(1), eps.unsqueeze(1)
    low, high = torch.zeros_like(eps), torch.full_like(eps, 1e6)

    def candidate(multiplier: Tensor) -> Tensor:
        if isinstance(perturbation, L2):
            inner = p / (1 + multiplier)
        else:
            inner = p.sign() * (p.abs() - multiplier).clamp_min(0)
        return inner.clamp(-x, 1 - x)

    def length(q: Tensor) -> Tensor:
        return q.norm(p=2 if isinstance(perturbation, L2) else 1, dim=1, keepdim=True)

    if isinstance(perturbation, Linf):
        return p.minimum(eps).maximum(-eps).minimum(1 - x).maximum(-x)
    inside = length(candidate(low)) <= eps
    for _ in range(200):
        middle = (low + high) / 2
        fits = length(candidate(middle)) <= eps
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return torch.where(inside, candidate(torch.zeros_like(eps)), candidate(high))


def test_all_are_tested() -> None:
    assert {type(one) for one in SETS} >= {type(one) for one in PIXELS}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()], ids=repr)
def test_projection_is_the_nearest_point(
    perturbation: Perturbation, shape: tuple[int, ...]
) -> None:
    x, p = points(shape)
    eps = sizes(perturbation, x)
    got = perturbation.project(x, p, eps).flatten(1)
    best = nearest(perturbation, x, p, eps)
    moved, least = (got - p.flatten(1)).norm(dim=1), (best - p.flatten(1)).norm(dim=1)
    tolerance = 1e-3 if isinstance(perturbation, L2) else 1e-9
    assert (moved <= least * (1 + tolerance) + 1e-12).all()
    if not isinstance(perturbation, L2):
        torch.testing.assert_close(got, best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("perturbation", BALLS, ids=repr)
def test_projection_is_legal_and_idempotent(
    perturbation: Perturbation, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """N5: Measured in 64 bits, whatever it was projected in."""
    x, p = (value.to(dtype) for value in points(shape))
    eps = sizes(perturbation, x).to(dtype)
    once = perturbation.project(x, p, eps)
    assert once.dtype == dtype
    assert (perturbation.size(x.double(), once.double()) <= perturbation.limit(eps.double())).all()
    slack = 1e-6 if dtype == torch.float32 else 1e-12
    assert (x + once >= -slack).all()
    assert (x + once <= 1 + slack).all()
    torch.testing.assert_close(perturbation.project(x, once, eps), once, rtol=slack, atol=slack)


@given(
    st.sampled_from(PIXELS),
    st.sampled_from([(3, 32, 32), (1, 5, 3), (700,)]),
    st.integers(1, 1000),
    st.floats(1e-4, 1),
)
def test_n5_what_is_projected_in_32_bits_is_legal_in_64(
    perturbation: Perturbation, shape: tuple[int, ...], key: int, share: float
) -> None:
    x = (0.5 + 0.3 * numbers(key, 2, *shape, dtype=torch.float32)).clamp(0, 1)
    p = numbers(key + 1, 2, *shape, dtype=torch.float32) * share
    eps = torch.tensor([1.0, 0.25]) * share * perturbation.largest(x)
    kept = perturbation.project(x, p, eps)
    size = perturbation.size(x.double(), kept.double())
    assert (size <= perturbation.limit(eps.double())).all()
    x_adv = perturbation.apply(x, kept)
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()], ids=repr)
def test_n5_the_tolerance_is_as_large_as_rounding_needs_and_little_larger(
    perturbation: Perturbation,
) -> None:
    """On photographs of 224 x 224: all that rounding adds passes, and hardly more would."""
    x = torch.full((4, 3, 224, 224), 0.5)
    p = numbers(3, 4, 3, 224, 224, dtype=torch.float32)
    eps = torch.tensor([0.01, 0.03, 0.05, 0.1]) * perturbation.largest(x) / 4
    size = perturbation.size(x.double(), perturbation.project(x, p, eps).double())
    limit = perturbation.limit(eps.double())
    assert (size <= limit).all()
    assert (limit - eps.double() < 1.1e-5 * eps.double().clamp_min(0.1)).all()
    assert (size > 0.999 * eps).all()


@pytest.mark.parametrize("perturbation", BALLS, ids=repr)
def test_interior_points_stay(perturbation: Perturbation) -> None:
    x, p = points((3, 4, 5))
    x, p = 0.3 + 0.4 * x, 0.2 * p / p.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    eps = perturbation.size(x, p) * 1.001
    assert torch.equal(perturbation.project(x, p, eps), p)
    assert (perturbation.project(x, p, 0 * eps) == 0).all()


@pytest.mark.parametrize("perturbation", PIXELS, ids=repr)
def test_size_is_the_norm(perturbation: Perturbation) -> None:
    v = torch.tensor([[3.0, -4.0, 0.0]])
    expected = {Linf: 4.0, L2: 5.0, L1: 7.0, L0: 2.0}[type(perturbation)]  # type: ignore[index]
    assert float(perturbation.size(torch.zeros_like(v), v)) == expected


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1(), L0()], ids=repr)
def test_steepest_attains_the_dual_norm(perturbation: Perturbation) -> None:
    """No step of its size gains more: the gain is that of the exact solution on a half-space."""
    g = numbers(5, 20, 30)
    x = torch.full_like(g, 0.5)
    # Steps so short that the box does not matter; under L0 a coordinate may go all its way.
    length = torch.full((20,), 3.0 if isinstance(perturbation, L0) else 0.01, dtype=torch.float64)
    step = perturbation.steepest(x, torch.zeros_like(x), g, length)
    torch.testing.assert_close(perturbation.size(x, step), length)
    exact = torch.cat([gain(perturbation, -row, x[:1], length[:1]) for row in g])
    torch.testing.assert_close((g * step).sum(1), exact)


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_no_gradient_no_step(perturbation: Perturbation) -> None:
    x = changeable(perturbation)
    p = perturbation.project(x, perturbation.zero(x), sizes(perturbation, x))
    step = perturbation.steepest(x, p, torch.zeros_like(p), sizes(perturbation, x))
    assert (step == 0).all()


@pytest.mark.parametrize("perturbation", [L1(), L0()], ids=repr)
def test_steepest_passes_over_pixels_without_room(perturbation: Perturbation) -> None:
    x = torch.tensor([[1.0, 0.5, 0.0, 0.5]])
    g = torch.tensor([[9.0, 1.0, -8.0, 2.0]])
    step = perturbation.steepest(x, torch.zeros_like(x), g, torch.tensor([1.0]))
    assert (step[0, [0, 2]] == 0).all()
    assert step[0, 3] > 0


def test_l1_steepest_fills_coordinates_in_the_order_of_their_gain() -> None:
    g = torch.tensor([[1.0, -3.0, 2.0, 0.0]])
    x = torch.tensor([[0.5, 0.25, 0.9, 0.5]])
    step = L1().steepest(x, 0 * x, g, torch.tensor([0.5]))
    torch.testing.assert_close(step, torch.tensor([[0.15, -0.25, 0.1, 0.0]]))
    step = L1().steepest(x, 0 * x, g, torch.tensor([9.0]))
    torch.testing.assert_close(step, torch.tensor([[0.5, -0.25, 0.1, 0.0]]))


@pytest.mark.parametrize("tiny", [1e-30, 1e-12, 1e12])
@pytest.mark.parametrize("perturbation", PIXELS, ids=repr)
def test_steepest_ignores_the_scale_of_the_gradient(
    perturbation: Perturbation, tiny: float
) -> None:
    g = numbers(5, 3, 30, dtype=torch.float32)
    x = torch.full_like(g, 0.5)
    length = torch.full((3,), 2.0)
    plain = perturbation.steepest(x, 0 * x, g, length)
    torch.testing.assert_close(perturbation.steepest(x, 0 * x, g * tiny, length), plain)


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()], ids=repr)
def test_draws_are_uniform_in_the_ball(perturbation: Perturbation) -> None:
    """In a ball the share ``(r / eps)^d`` of the volume inside a draw is uniform."""
    x = torch.full((2000, 6), 0.5)
    eps = torch.linspace(0.1, 0.4, len(x))
    p = perturbation.draw(x, eps, draws(len(x)))
    share = (perturbation.size(x, p) / eps).double() ** 6
    assert distance_from_uniform(share) < 1.6
    assert distance_from_uniform(share ** (1 / 6)) > 1.6
    assert (p.mean(0).abs() < 0.02).all()
    spread = p.square().mean(0)
    assert spread.amax() < 1.25 * spread.amin()


def test_l0_draws() -> None:
    x = torch.full((500, 8), 0.5)
    p = L0().draw(x, torch.full((500,), 3.9), draws(500))
    assert (L0().size(x, p) == 3).all()
    chosen = (p != 0).float().mean(0)
    assert (abs(chosen - 3 / 8) < 0.08).all()
    assert distance_from_uniform((x + p)[p != 0]) < 1.6


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_zero_changes_nothing_and_no_set_leaves_its_size(perturbation: Perturbation) -> None:
    x = changeable(perturbation)
    eps = sizes(perturbation, x)
    assert torch.equal(perturbation.apply(x, perturbation.zero(x)), x)
    u = torch.linspace(-1, 1, 3 * len(x), dtype=x.dtype).view(-1, 3)
    for p in (
        perturbation.project(x, perturbation.zero(x), eps),
        perturbation.draw(x, eps, draws(len(x))),
        perturbation.extreme(x, eps, draws(len(x))),
        perturbation.lattice(x, eps, u),
    ):
        p = perturbation.project(x, p, eps)
        assert (perturbation.size(x, p) <= perturbation.limit(eps)).all()
        torch.testing.assert_close(perturbation.project(x, p, eps), p)


@pytest.mark.parametrize("perturbation", SETS, ids=repr)
def test_draws_belong_to_the_row(perturbation: Perturbation) -> None:
    x = changeable(perturbation)
    eps = sizes(perturbation, x)
    whole = perturbation.draw(x, eps, draws(len(x)))
    index = torch.tensor([7, 2])
    part = Draws(*(field[index] for field in draws(len(x))))
    assert torch.equal(perturbation.draw(x[index], eps[index], part), whole[index])


@pytest.mark.parametrize("perturbation", BALLS, ids=repr)
def test_zero_changes_nothing_and_the_clip_passes_gradients(perturbation: Perturbation) -> None:
    x = torch.tensor([[0.0, 1.0, 0.25, 0.75]])
    assert torch.equal(perturbation.apply(x, perturbation.zero(x)), x)
    # On the bounds, and where rounding has carried a pixel past them: it has to be able to return.
    p = torch.tensor([[0.0, 0.0, 0.75 + 1e-7, -0.75 - 1e-7]], requires_grad=True)
    images = perturbation.apply(x, p)
    assert images.detach().amin() >= 0
    assert images.detach().amax() <= 1
    (gradient,) = torch.autograd.grad((images * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), p)
    assert gradient.tolist() == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("perturbation", PIXELS, ids=repr)
def test_largest_covers_the_box(perturbation: Perturbation) -> None:
    x = torch.zeros(1, 2, 3)
    assert float(perturbation.size(x, torch.ones_like(x))) == pytest.approx(perturbation.largest(x))
