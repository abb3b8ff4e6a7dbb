"""Bounds against naive copies, exact minima, and points of the set."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from advbench.attacks import L1, L2, PGD, Linf, Margin
from advbench.attacks.perturbations.perturbation import Pixels
from advbench.attacks.randomness import Draws
from advbench.models.normalized import Normalized
from advbench.trust.certificates import certify, lower_margins
from advbench.trust.certificates.affine import Convolution
from advbench.trust.certificates.bounds import (
    by_intervals,
    by_substitution,
    interval_margins,
    margins,
)
from advbench.trust.certificates.curves import Rectifier, Softplus
from advbench.trust.certificates.reading import read
from advbench.trust.certificates.regions import Cube
from advbench.trust.certificates.rows import Elementwise, Interval, Step
from tests.advbench.trust import certificate_references as naive

SETS = (Linf(), L2(), L1())


def feed_forward(*widths: int, seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A network with weights three times as large as usual, so that activations bend."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
    model = nn.Sequential(*layers[:-1]).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(3)
    return model


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Images some pixels of which are black or white, so that the box matters."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return (noise * 1.4 - 0.2).clamp(0, 1)


def box(x: Tensor, eps: float) -> tuple[naive.Array, naive.Array]:
    return (x - eps).clamp(0, 1).numpy(), (x + eps).clamp(0, 1).numpy()


def of_model(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The margins z_y - z_t, (B, K); infinite where t is y."""
    with torch.no_grad():
        logits: Tensor = model(x)
    return (logits.gather(1, y.unsqueeze(1)) - logits).scatter(1, y.unsqueeze(1), torch.inf)


def shortfall(model: nn.Module, x: Tensor, y: Tensor, change: Pixels, eps: float) -> float:
    """How far margins in the set get below the bounds, at most: the check of soundness.

    For each sample 10^4 random points, half of them from where the set is largest, and the best
    that PGD finds for each class.
    """
    bounds = lower_margins(model, x, y, change, eps)
    worst = -torch.inf
    for row in range(len(x)):
        same = x[row : row + 1].expand(5000, *x.shape[1:])
        zero = torch.zeros(5000, dtype=torch.int64)
        draws = Draws(zero, torch.arange(5000), zero, zero)
        radius = torch.full((5000,), eps, dtype=x.dtype)
        labels = y[row : row + 1].expand(5000)
        for p in (change.draw(same, radius, draws), change.extreme(same, radius, draws)):
            points = change.apply(same, change.project(same, p, radius))
            gap = bounds[row] - of_model(model, points, labels)
            worst = max(worst, float(gap.max()))
    attack = PGD(perturbation=change, loss=Margin(), steps=30)
    classes = bounds.shape[1]
    for target in range(classes):
        rows = (y != target).nonzero().squeeze(1)
        goals = torch.full((len(rows),), target)
        points = attack(model, x[rows], y[rows], eps=eps, targets=goals)
        gap = bounds[rows] - of_model(model, points, y[rows])
        worst = max(worst, float(gap.max()))
    return worst


@pytest.mark.parametrize("widths", [(4, 6, 3), (5, 7, 6, 4), (4, 8, 8, 8, 3)], ids=str)
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.4])
def test_agree_with_dense_reference(widths: tuple[int, ...], eps: float) -> None:
    model = feed_forward(*widths)
    x, y = images(3, widths[0]), torch.tensor([0, 1, 2])
    network = read(model, (widths[0],))
    region = Cube(x, torch.full((3,), eps, dtype=torch.float64))
    crown = margins(network, region, y, by_substitution(network, region)).low
    interval = interval_margins(network, y, by_intervals(network, region)).low
    layers = naive.dense_layers(model)
    for row, label in enumerate(y.tolist()):
        ends = box(x[row], eps)
        expected = naive.crown_margins(layers, *ends, label)
        np.testing.assert_allclose(crown[row].numpy(), expected, atol=1e-9)
        expected = naive.interval_margins(layers, *ends, label)
        np.testing.assert_allclose(interval[row].numpy(), expected, atol=1e-9)


def test_agree_with_dense_reference_in_32_bits() -> None:
    model = feed_forward(5, 7, 6, 4)
    x, y = images(3, 5), torch.tensor([0, 1, 2])
    found = lower_margins(model.float(), x.float(), y, Linf(), 0.1)
    layers = naive.dense_layers(model)
    for row, label in enumerate(y.tolist()):
        expected = naive.crown_margins(layers, *box(x[row], 0.1), label)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_never_above_the_exact_minimum(seed: int) -> None:
    model = feed_forward(3, 4, 3, 3, seed=seed)
    layers = naive.dense_layers(model)
    x, eps = images(1, 3, seed=seed), 0.25
    label = int(model(x).argmax())
    found = lower_margins(model, x, torch.tensor([label]), Linf(), eps)[0]
    exact = torch.from_numpy(naive.exact_margins(layers, *box(x[0], eps), label))
    assert exact.isfinite().all()
    exact[label] = torch.inf
    assert (found <= exact + 1e-9).all()
    # The exact minimum is one: nothing in the set is below it, and something comes near.
    points = images(20000, 3, seed=1) * 2 * eps - eps + x
    nearest = of_model(model, points.clamp(0, 1), torch.full((20000,), label)).amin(0)
    assert (nearest >= exact - 1e-9).all()
    assert (nearest <= exact + 0.1).all()


def linear_minimum(row: naive.Array, x: naive.Array, change: Pixels, eps: float) -> float:
    """The least of row @ image over ball and box, by a general-purpose solver."""
    n = len(x)
    if isinstance(change, Linf):
        box_ends = np.stack([np.maximum(x - eps, 0), np.minimum(x + eps, 1)], 1)
        return float(linprog(row, bounds=box_ends).fun)
    if isinstance(change, L1):  # up and down movements of each pixel
        rooms = [(0, room) for room in (*(1 - x), *x)]
        costs = np.concatenate([row, -row])
        solved = linprog(costs, A_ub=np.ones((1, 2 * n)), b_ub=[eps], bounds=rooms)
        return float(row @ x + solved.fun)
    ball = {"type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d}
    start = -row * min(eps, 0.01) / np.linalg.norm(row)
    solved = minimize(
        lambda d: row @ d,
        np.clip(start, -x, 1 - x),
        jac=lambda d: row,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints=[ball],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return float(row @ x + solved.fun)


@pytest.mark.parametrize("change", SETS, ids=str)
@pytest.mark.parametrize("eps", [0.001, 0.3, 0.9])
def test_linear_models_are_exact(change: Pixels, eps: float) -> None:
    model = feed_forward(6, 3, seed=4)
    x, y = images(4, 6, seed=2), torch.tensor([0, 1, 2, 0])
    x[0] = x[0] * 0.5 + 0.25  # far from the box, when eps is small
    found = lower_margins(model, x, y, change, eps)
    (layer,) = naive.dense_layers(model)
    for row, label in enumerate(y.tolist()):
        last = naive.margin_layer(layer, label)
        for target in set(range(3)) - {label}:
            least = linear_minimum(last.weight[target], x[row].numpy(), change, eps)
            assert found[row, target].item() == pytest.approx(least + last.bias[target], abs=2e-6)


@pytest.mark.parametrize("change", SETS, ids=str)
def test_linear_certificates_end_where_the_model_breaks(change: Pixels) -> None:
    model = feed_forward(6, 2, seed=4)
    x = images(8, 6, seed=3)
    y = model(x).argmax(1)
    low, high = torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    for _ in range(40):  # the largest eps with a margin above 0
        middle = (low + high) / 2
        robust = (
            lower_margins(model, x, y, change, middle).scatter(1, y.unsqueeze(1), 1).amin(1) > 0
        )
        low, high = torch.where(robust, middle, low), torch.where(robust, high, middle)
    rows = high < 0.99  # the others hold anywhere in the box
    assert rows.sum() >= 4
    x, y, eps = x[rows], y[rows], low[rows]
    assert certify(model, x, y, change, eps * 0.999).all()
    assert not certify(model, x, y, change, eps * 1.001).any()


LENET = nn.Sequential(
    nn.Conv2d(1, 3, 3, padding=1),
    nn.BatchNorm2d(3),
    nn.MaxPool2d(2),
    nn.ReLU(),
    nn.Conv2d(3, 4, 2),
    nn.Softplus(),
    nn.Dropout(),
    nn.AvgPool2d(2, ceil_mode=True),
    nn.Flatten(),
    nn.Linear(4, 6),
    nn.Tanh(),
    nn.Linear(6, 3),
)
POOLED = nn.Sequential(
    nn.Conv2d(1, 4, 3),
    nn.ReLU(),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.Conv2d(4, 4, 2, bias=False),
    nn.BatchNorm2d(4),
    nn.Sigmoid(),
    nn.Flatten(),
    nn.Linear(4, 3),
    nn.LeakyReLU(0.1),
)


def convolutional(model: nn.Sequential, seed: int = 0) -> nn.Module:
    """A model with drawn weights and statistics, larger than they come, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.4, generator=generator)
    return Normalized(model, (0.4,), (0.5,)).double()


MODELS = {
    "relu": feed_forward(4, 8, 6, 3),
    "tanh": feed_forward(4, 8, 6, 3, activation=nn.Tanh),
    "sigmoid": feed_forward(4, 8, 6, 3, activation=nn.Sigmoid),
    "softplus": feed_forward(4, 8, 6, 3, activation=nn.Softplus),
    "lenet": convolutional(LENET),
    "pooled": convolutional(POOLED),
}


def samples(name: str) -> tuple[Tensor, Tensor]:
    x = images(2, 4) if name not in ("lenet", "pooled") else images(2, 1, 6, 6)
    return x, torch.tensor([0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("change", SETS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_no_point_of_the_set_is_below(name: str, change: Pixels) -> None:
    eps = {"Linf": 0.1, "L2": 0.3, "L1": 0.4}[type(change).__name__]
    assert shortfall(MODELS[name], *samples(name), change, eps) <= 1e-9


def steeper(self: Rectifier, given: Interval) -> Step:
    """A chord that is a little too flat."""
    relaxed = RELAX(self, given)
    assert isinstance(relaxed, Elementwise)
    lines = relaxed.lines
    return Elementwise(lines._replace(high_slope=lines.high_slope * 0.95))


def cut(self: Softplus, low: Tensor, high: Tensor) -> object:
    """A tangent that is a little too high."""
    lines = LINES(self, low, high)
    return lines._replace(low_constant=lines.low_constant + 0.02)


def unpadded(self: Convolution, rows: Tensor) -> Tensor:
    """An adjoint that takes the padding for image."""
    return ADJOINT(self, rows).roll(1, 1)


RELAX, LINES, ADJOINT = Rectifier.relax, Softplus.lines, Convolution.adjoint


@pytest.mark.parametrize(
    ("kind", "method", "fault", "name"),
    [
        (Rectifier, "relax", steeper, "relu"),
        (Softplus, "lines", cut, "softplus"),
        (Convolution, "adjoint", unpadded, "lenet"),
    ],
    ids=["slope", "tangent", "padding"],
)
def test_planted_fault_is_seen(
    kind: type,
    method: str,
    fault: Callable[..., object],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kind, method, fault)
    assert shortfall(MODELS[name], *samples(name), Linf(), 0.02) > 1e-4
