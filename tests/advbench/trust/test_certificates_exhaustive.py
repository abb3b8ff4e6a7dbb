"""The search, against every pattern of a tiny net, and what it must leave alone."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from advbench.attacks import L2, PGD, Linf, RandomNoise, Robust
from advbench.bench.plan import Cell, Victim, select
from advbench.bench.proofs import proven
from advbench.config import CertifySection
from advbench.data import load
from advbench.models.loading import ModelSpec, load_model
from advbench.models.normalized import Normalized
from advbench.trust.certificates import certify, exhaustive
from advbench.trust.certificates.reading import read
from advbench.trust.certificates.regions import Cube
from advbench.trust.certificates.rows import Interval, Lines

ENOUGH = 2000
PIXELS, UNITS, CLASSES = 3, (4, 4), 3
Fault = Callable[[Interval, exhaustive.Nodes], Lines]
Cases = list[tuple[nn.Sequential, Tensor, Tensor, float, Tensor]]


def net(seed: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Random weights, with biases that let most units be on for some images and off for others."""
    generator = torch.Generator().manual_seed(seed)
    widths = (PIXELS, *UNITS, CLASSES)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after, dtype=torch.float64)
        with torch.no_grad():
            for one in linear.parameters():
                one.copy_(torch.randn(one.shape, generator=generator, dtype=torch.float64))
            middle = linear.weight.sum(1) / 2
            linear.bias.mul_(0.3).sub_(middle if before == PIXELS else 0.3 * middle)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def samples(model: nn.Module, seed: int, count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.rand(count, PIXELS, generator=generator, dtype=torch.float64)
    return x, model(x).argmax(1)


def least_margin(model: nn.Sequential, x: Tensor, y: int, eps: float) -> float:
    """The least margin to any class in the ball, by a linear program for each pattern."""
    weights = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in model
        if isinstance(layer, nn.Linear)
    ]
    box = np.stack([np.maximum(x.numpy() - eps, 0), np.minimum(x.numpy() + eps, 1)], 1)
    first, second, last = weights
    least = np.inf
    for on in itertools.product((0.0, 1.0), repeat=UNITS[0]):
        a = np.array(on)
        behind = second[0] @ (a[:, None] * first[0])
        offset = second[0] @ (a * first[1]) + second[1]
        above = [(1 - 2 * a)[:, None] * first[0]]
        limit = [-(1 - 2 * a) * first[1]]
        if linprog(np.zeros(PIXELS), above[0], limit[0], bounds=box).status == 2:
            continue
        for also in itertools.product((0.0, 1.0), repeat=UNITS[1]):
            b = np.array(also)
            rows = np.concatenate([*above, (1 - 2 * b)[:, None] * behind])
            sides = np.concatenate([*limit, -(1 - 2 * b) * offset])
            for rival in set(range(CLASSES)) - {y}:
                c = (last[0][y] - last[0][rival]) * b
                found = linprog(c @ behind, rows, sides, bounds=box)
                if found.status == 0:
                    constant = c @ offset + last[1][y] - last[1][rival]
                    least = min(least, found.fun + constant)
    return float(least)


@pytest.fixture(scope="module")
def known() -> Cases:
    """Tiny nets, images, classes, eps, and their least margins."""
    cases = []
    for seed, eps in ((2, 0.1), (13, 0.2), (18, 0.2)):
        model = net(seed)
        x, y = samples(model, seed)
        pairs = zip(x, y, strict=True)
        least = torch.tensor([least_margin(model, one, int(own), eps) for one, own in pairs])
        cases.append((model, x, y, eps, least))
    return cases


def test_proven_is_what_is_robust(known: Cases) -> None:
    gained = 0
    for model, x, y, eps, least in known:
        assert (least.abs() > 1e-4).all()  # no case is a matter of rounding
        bounds = certify(model, x, y, Linf(), eps)
        found = certify(model, x, y, Linf(), eps, nodes=ENOUGH)
        assert torch.equal(found, least > 0)
        assert not (bounds & ~found).any()
        gained += int((found & ~bounds).sum())
    assert gained >= 3


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_to_the_point(known: Cases, share: float) -> None:
    """An offset of the own logit moves the least margin to just above 0, or just below."""
    for model, x, y, eps, least in known:
        row = int(least.argmax())
        assert least[row] > 0
        moved, one = _lowered(model, int(y[row]), share * float(least[row])), slice(row, row + 1)
        network = read(moved, (PIXELS,))
        region = Cube(x[one], torch.full((1,), eps, dtype=torch.float64))
        assert exhaustive.prove(network, region, y[one], 200, 1e-9).item() == (share < 1)


def _lowered(model: nn.Sequential, own: int, by: float) -> nn.Sequential:
    layers = list(model)
    last = nn.Linear(UNITS[-1], CLASSES, dtype=torch.float64)
    last.load_state_dict(layers[-1].state_dict())
    with torch.no_grad():
        last.bias[own] -= by
    return nn.Sequential(*layers[:-1], last)


def _swapped(bounds: Interval, part: exhaustive.Nodes) -> Lines:
    return _LINES(bounds, part._replace(sign=-part.sign))


def _without_lift(bounds: Interval, part: exhaustive.Nodes) -> Lines:
    lines = _LINES(bounds, part)
    return lines._replace(high_constant=lines.high_constant / 2)


def _steep(bounds: Interval, part: exhaustive.Nodes) -> Lines:
    lines = _LINES(bounds, part)
    return lines._replace(low_slope=lines.low_slope + (lines.high_constant > 0) * 0.5)


_LINES = exhaustive._lines


@pytest.mark.parametrize("fault", [_swapped, _without_lift, _steep])
def test_a_fault_is_caught(fault: Fault, known: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "_lines", fault)
    with pytest.raises(AssertionError):
        test_to_the_point(known, 1.1)


def test_no_nodes_no_search(known: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "prove", None)
    model, x, y, eps, _ = known[0]
    assert torch.equal(
        certify(model, x, y, Linf(), eps, nodes=0), certify(model, x, y, Linf(), eps)
    )


def test_more_nodes_prove_no_less(known: Cases) -> None:
    counts = [
        [int(certify(*case[:3], Linf(), case[3], nodes=nodes).sum()) for case in known]
        for nodes in (1, 20)
    ]
    assert counts == sorted(counts)
    assert sum(counts[0]) < sum(counts[-1])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.LeakyReLU])
def test_other_activations_are_left_to_bounds(
    activation: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustive, "prove", None)
    model = net(0, activation)
    x, y = samples(model, 0)
    bounds = certify(model, x, y, Linf(), 0.3)
    assert not bounds.all()
    assert torch.equal(certify(model, x, y, Linf(), 0.3, nodes=ENOUGH), bounds)


def test_other_sets_are_left_to_bounds(known: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "prove", None)
    model, x, y, _, _ = known[2]
    bounds = certify(model, x, y, L2(), 0.5)
    assert not bounds.all()
    assert torch.equal(certify(model, x, y, L2(), 0.5, nodes=ENOUGH), bounds)


def test_convolutions_and_normalisation() -> None:
    generator = torch.Generator().manual_seed(4)
    body = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    with torch.no_grad():
        for one in body.parameters():
            one.copy_(torch.randn(one.shape, generator=generator))
    model = Normalized(body, (0.5,), (0.3,))
    x = torch.rand(15, 1, 3, 3, generator=generator)
    y = model(x).argmax(1)
    bounds = certify(model, x, y, Linf(), 0.1)
    found = certify(model, x, y, Linf(), 0.1, nodes=ENOUGH)
    broken = Robust(black_box_steps=10).run(model, x, y, eps=0.1).success
    assert not (bounds & ~found).any()
    assert (found & ~bounds).any()
    assert torch.equal(found, ~broken)


def test_a_trained_net() -> None:
    data = load("digits", samples=12)
    model = load_model(ModelSpec(name="zoo:digits/ffn_adv")).model
    bounds = certify(model, data.x, data.y, Linf(), 0.1)
    found = certify(model, data.x, data.y, Linf(), 0.1, nodes=300)
    broken = PGD(steps=20).run(model, data.x, data.y, eps=0.1).success
    assert not (found & broken).any()
    assert (found & ~bounds).sum() >= 3


def test_a_run_searches_as_its_configuration_says() -> None:
    loaded = load_model(ModelSpec(name="zoo:digits/ffn_adv"))
    victim = Victim("net", loaded.model, loaded.sha256)
    samples, found = select("digits", "test", 6, None), []
    for nodes in (0, 100):
        section = CertifySection(nodes=nodes)
        cell = Cell(victim, samples, "a", RandomNoise(), (0.1,), 0, certify=section)
        proofs = proven(cell, torch.ones(6, dtype=torch.bool), 6)
        assert proofs is not None
        found.append(proofs.eps == 0.1)
    assert (found[0] <= found[1]).all()
    assert found[0].sum() < found[1].sum()


def test_what_a_search_cannot_be_asked() -> None:
    model = net(0)
    with pytest.raises(ValueError, match="nodes must be at least 0; got -1"):
        certify(model, *samples(model, 0), Linf(), 0.1, nodes=-1)
    with pytest.raises(ValueError, match="nodes must be at least 0; got -1"):
        CertifySection(nodes=-1)
