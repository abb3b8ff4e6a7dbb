"""Flow fields, what they cost, and the attack that optimises them."""

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks import PGD, Grid, Linf, Margin, RandomSearch
from advbench.attacks.criterion import Criterion
from advbench.attacks.gradient.stadv import StAdv
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.flow import Flow
from advbench.attacks.perturbations.resampling import Padding
from advbench.testing.victims import balanced, numbers
from tests.attacks.test_randomness import draws

PADDINGS: tuple[Padding, ...] = ("zeros", "border", "reflection")
SHAPES = [(1, 9, 9), (3, 8, 13), (2, 1, 6), (1, 1, 1)]


def images(count: int, *shape: int) -> Tensor:
    return torch.sigmoid(numbers(3, count, *shape))


def price_of(flow: Flow, x: Tensor, p: Tensor) -> Tensor:
    price = flow.price(x, p)
    assert price is not None
    return price


def fields(count: int, height: int, width: int, size: float) -> Tensor:
    return size * numbers(4, count, 2, height, width).tanh()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_flow_is_the_identity_bit_for_bit(
    shape: tuple[int, ...], padding: Padding, dtype: torch.dtype
) -> None:
    x = images(2, *shape).to(dtype)
    flow = Flow(padding=padding)
    assert torch.equal(flow.apply(x, flow.zero(x)), x)


def test_every_pixel_shows_what_lies_where_its_vector_points() -> None:
    x = images(2, 3, 5, 7).float()
    p = torch.zeros(2, 2, 5, 7)
    p[0, :, 4, 6] = torch.tensor([-3.0, -5.0])
    p[1, :, 0, 0] = torch.tensor([2.0, 0.5])
    expected = x.clone()
    expected[0, :, 4, 6] = x[0, :, 1, 1]
    expected[1, :, 0, 0] = (x[1, :, 2, 0] + x[1, :, 2, 1]) / 2
    torch.testing.assert_close(Flow().apply(x, p), expected)
    whole = torch.ones(2, 2, 5, 7) * torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    padded = functional.pad(x, (2, 0, 0, 1), mode="replicate")[:, :, 1:, :-2]
    assert torch.equal(Flow().apply(x, whole), padded)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_flow_of_a_turn_turns(padding: Padding) -> None:
    x = images(2, 2, 8, 11)
    flow, turn = Flow(padding=padding), Affine(rotation=30, shift=0, padding=padding)
    y, x_ = torch.meshgrid(torch.arange(8) - 3.5, torch.arange(11) - 5.0, indexing="ij")
    angle = torch.tensor([20.0, -30.0], dtype=torch.float64)
    cos, sin = (part.view(2, 1, 1) for part in (angle.deg2rad().cos(), angle.deg2rad().sin()))
    p = torch.stack([cos * y + sin * x_ - y, cos * x_ - sin * y - x_], 1)
    turned = turn.apply(x, angle.unsqueeze(1) / 30)
    torch.testing.assert_close(flow.apply(x, p), turned, rtol=0, atol=1e-9)


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_are_those_of_differences(padding: Padding) -> None:
    flow = Flow(padding=padding)
    x = images(2, 2, 4, 5)
    p = fields(2, 4, 5, 1.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: flow.apply(x, p), p, eps=1e-7)
    assert torch.autograd.gradcheck(lambda p: price_of(flow, x, p), p, eps=1e-7)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_is_ever_not_a_number(shape: tuple[int, ...], padding: Padding) -> None:
    x = images(4, *shape).float()
    flow = Flow(padding=padding)
    for size in (0.0, 1e-25, 1.0, 1e9):
        p = fields(4, shape[1], shape[2], size).float().requires_grad_()
        price = price_of(flow, x, p)
        got = flow.apply(x, p)
        assert got.amin() >= 0
        assert got.amax() <= 1
        (g,) = torch.autograd.grad(got.sum() + price.sum(), p)
        assert g.isfinite().all()


def test_a_batch_is_its_rows() -> None:
    x, p = images(5, 3, 9, 12).float(), fields(5, 9, 12, 2.0).float()
    flow = Flow(0.1)
    for one in (flow.apply, partial(price_of, flow), flow.size):
        alone = [one(x[i : i + 1], p[i : i + 1]) for i in range(5)]
        assert torch.equal(one(x, p), torch.cat(alone))


def test_the_price_is_the_sum_over_neighbours() -> None:
    """The paper's flow loss, term by term: every pixel, each of its neighbours."""
    p = fields(2, 3, 4, 2.0)
    total = torch.zeros(2, dtype=torch.float64)
    for row, column in itertools.product(range(3), range(4)):
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= row + down < 3 and 0 <= column + right < 4:
                apart = p[:, :, row, column] - p[:, :, row + down, column + right]
                total += apart.norm(dim=1)
    price = price_of(Flow(0.3), images(2, 1, 3, 4), p)
    torch.testing.assert_close(price, 0.3 * total)


def test_a_common_move_is_free() -> None:
    x = images(2, 1, 4, 5)
    common = torch.full((2, 2, 4, 5), 1.7, dtype=torch.float64, requires_grad=True)
    price = price_of(Flow(), x, common)
    assert (price == 0).all()
    (g,) = torch.autograd.grad(price.sum(), common)
    assert (g == 0).all()
    assert Flow(smoothness=0.0).price(x, common) is None


def test_size_project_and_steepest_are_those_of_a_cube() -> None:
    x, p = images(4, 1, 4, 5), fields(4, 4, 5, 5.0)
    eps = torch.tensor([0.0, 0.5, 2.0, 9.0], dtype=torch.float64)
    flow = Flow()
    inside = flow.project(x, p, eps)
    assert torch.equal(flow.size(x, inside), eps.minimum(flow.size(x, p)))
    assert torch.equal(flow.project(x, inside, eps), inside)
    assert torch.equal(inside[3], p[3])
    assert torch.equal(flow.steepest(x, p, p, eps), p.sign() * eps.view(-1, 1, 1, 1))


def test_draws_fill_the_cube_and_extremes_are_its_corners() -> None:
    x = torch.zeros(50, 1, 6, 7)
    eps = torch.linspace(0.5, 3, 50)
    share = Flow().draw(x, eps, draws(50)) / eps.view(-1, 1, 1, 1)
    assert share.shape == (50, 2, 6, 7)
    assert share.abs().amax() < 1
    assert share.amin() < -0.99
    assert abs(float(share.square().mean()) - 1 / 3) < 0.02
    ends = Flow().extreme(x, eps, draws(50)) / eps.view(-1, 1, 1, 1)
    assert ends.unique().tolist() == [-1, 1]


def test_coarse_coordinates_are_blocks() -> None:
    x, eps = torch.zeros(1, 1, 2, 3), torch.full((1,), 2.0)
    p = Flow().lattice(x, eps, torch.tensor([[-1.0, 0.5, 0.0, 1.0]]))
    assert p.flatten().tolist() == [-2, -2, -2, 1, 1, 1, 0, 0, 0, 2, 2, 2]
    assert Flow().names == ()
    assert not Flow().closed(eps, 4).any()


def test_the_largest_flow_reaches_across_the_picture() -> None:
    x = images(1, 1, 3, 8)
    most = Flow().largest(x)
    assert most == 7
    p = torch.zeros(1, 2, 3, 8, dtype=torch.float64)
    p[0, 1, 0, 0] = most
    assert Flow().apply(x, p)[0, 0, 0, 0] == x[0, 0, 0, 7]


def test_facts_are_distances_in_pixels() -> None:
    p = torch.zeros(1, 2, 2, 5)
    p[0, :, 1, 2] = torch.tensor([3.0, -4.0])
    facts = Flow().facts(torch.zeros(1, 1, 2, 5), p)
    assert {name: float(value) for name, value in facts.items()} == pytest.approx(
        {"flow_mean": 0.5, "flow_largest": 5.0}
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"smoothness": -0.1}, "flow: smoothness must be a number of at least 0; got -0.1"),
        ({"smoothness": "0.05"}, "smoothness"),
        ({"padding": "zero"}, "Did you mean 'zeros'"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Flow(**given)
    assert "(12,)" in str(Flow().refusal(torch.Size((12,))))
    assert Flow().refusal(torch.Size((1, 2, 2))) is None


def test_other_searches_take_it() -> None:
    model, x, y, _ = balanced(shape=(1, 7, 7), count=40)
    for attack in (
        PGD(perturbation=Flow(), steps=5),
        RandomSearch(perturbation=Flow(), steps=20),
        Grid(perturbation=Flow(), points=3, blocks=3),
    ):
        assert torch.equal(attack(model, x, y, eps=0.0), x)
        found = attack.run(model, x, y, eps=1.0)
        assert found.success.any()
        assert (found.size <= 1 + 1e-6).all()


# --- stAdv ---


def test_it_bends_nearly_every_sample() -> None:
    model, x, y, targets = balanced(shape=(1, 12, 12), count=30)
    for aims in (None, targets):
        found = StAdv().run(model, x, y, eps=11.0, targets=aims)
        assert found.success.float().mean() >= 0.95
        assert Flow().facts(x, found.p)["flow_largest"].mean() < 1.5
        assert (found.forwards <= StAdv().queries + 1).all()


def test_eps_bounds_the_flow() -> None:
    model, x, y, _ = balanced(shape=(1, 12, 12), count=10)
    eps = torch.linspace(0.01, 0.2, 10)
    found = StAdv(step_size=0.1, steps=20).run(model, x, y, eps=eps, stop="never")
    assert (found.size <= eps * (1 + 1e-6)).all()
    assert (found.size > eps * 0.99).all()


def test_a_price_buys_a_smooth_flow() -> None:
    model, x, y, _ = balanced(shape=(1, 12, 12), count=20)
    rough, smooth = (
        StAdv(perturbation=Flow(tau), steps=30).run(model, x, y, eps=2.0, stop="never")
        for tau in (0.0, 0.05)
    )
    roughness = [price_of(Flow(1.0), x, found.p) for found in (rough, smooth)]
    assert (roughness[1] < 0.8 * roughness[0]).float().mean() > 0.9


def test_the_loss_is_the_margin_less_the_price() -> None:
    model, x, y, _ = balanced(shape=(1, 8, 8), count=6)
    found = StAdv(steps=5).run(model, x, y, eps=1.0, stop="never")
    price = price_of(Flow(), x, found.p)
    expected = Margin()(model(found.x_adv), Criterion(y)) - price
    torch.testing.assert_close(found.loss, expected)


def test_it_is_adam_for_each_sample_alone() -> None:
    """Ten steps of torch.optim.Adam on one sample, with a gradient of its own."""
    model, x, y, _ = balanced(shape=(1, 6, 7), count=4)
    seen: list[Tensor] = []
    flow, eps = Flow(0.02), 0.3

    class Spy(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            logits: Tensor = model(images)
            return logits

    StAdv(perturbation=flow, steps=10, step_size=0.07).run(Spy(), x, y, eps=eps, stop="never")
    for row in range(4):
        p = flow.zero(x[:1]).requires_grad_()
        adam = torch.optim.Adam([p], lr=0.07, maximize=True)
        for step in range(10):
            mine = x[row : row + 1]
            torch.testing.assert_close(seen[-11 + step][row], flow.apply(mine, p)[0])
            price = price_of(flow, mine, p)
            loss = Margin()(model(flow.apply(mine, p)), Criterion(y[row : row + 1])) - price
            (p.grad,) = torch.autograd.grad(loss.sum(), p)
            adam.step()
            p.data.clamp_(-eps, eps)


def test_it_needs_a_flow() -> None:
    with pytest.raises(TypeError, match="StAdv: perturbation must be a Flow; got Linf"):
        StAdv(perturbation=Linf())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step_size"):
        StAdv(step_size=0.0)
