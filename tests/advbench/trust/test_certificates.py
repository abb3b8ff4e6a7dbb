"""The public entry: what is certified, and that nothing else changes."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L1, L2, PGD, Attack, Linf, Robust
from advbench.attacks.perturbations.perturbation import Pixels
from advbench.data import Samples, load
from advbench.models import zoo
from advbench.models.loading import ModelSpec, load_model
from advbench.trust.certificates import bounds, certify, lower_margins, network
from advbench.trust.certificates.bounds import by_substitution, margins
from advbench.trust.certificates.reading import read
from advbench.trust.certificates.regions import Cube

SETS = {Linf(): 0.04, L2(): 0.2, L1(): 0.5}


@pytest.fixture(scope="module")
def digits() -> Samples:
    return load("digits", samples=60)


def net(name: str) -> nn.Module:
    return load_model(ModelSpec(name=f"zoo:digits/{name}")).model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "share", "most"), [(Robust(), 1 / 3, 0.01), (PGD(), 2 / 3, 0.15)], ids=repr
)
def test_near_the_best_attack_on_a_robust_net(attack: Attack, share: float, most: float) -> None:
    """At two shares of the eps of training; at that itself CROWN leaves a gap of 36 points."""
    eps = share * zoo.card("digits/ffn_adv")["recipe"]["defenses"][0]["eps"]
    data, model = load("digits", samples=120), net("ffn_adv")
    sure = certify(model, data.x, data.y, Linf(), Linf().limit(torch.tensor(eps)))
    found = attack.run(model, data.x, data.y, eps=eps)
    assert not (sure & found.success).any()
    gap = (~found.success).float().mean() - sure.float().mean()
    assert 0 <= gap <= most


@pytest.mark.slow
@pytest.mark.parametrize("change", SETS, ids=str)
@pytest.mark.parametrize("name", ["linear", "ffn_relu", "ffn_tanh", "ffn_softplus"])
def test_no_attack_breaks_what_is_certified(name: str, change: Pixels, digits: Samples) -> None:
    eps = SETS[change]
    sure = certify(net(name), digits.x, digits.y, change, eps)
    found = PGD(perturbation=change, steps=20).run(net(name), digits.x, digits.y, eps=eps)
    assert not (sure & found.success).any()
    assert sure.float().mean() >= 0.6
    assert found.success.any()


@pytest.mark.slow
def test_a_convolutional_net_with_maxima(digits: Samples) -> None:
    x, y, model = digits.x[:20], digits.y[:20], net("cnn_adv")
    sure = certify(model, x, y, Linf(), 0.05)
    found = PGD(steps=20).run(model, x, y, eps=0.05)
    assert not (sure & found.success).any()
    assert sure.float().mean() >= 0.5


@pytest.mark.parametrize("change", SETS, ids=str)
def test_eps_may_differ_per_sample(change: Pixels, digits: Samples) -> None:
    model, x, y = net("ffn_adv"), digits.x[:12], digits.y[:12]
    eps = torch.linspace(0, 2 * SETS[change], 12)
    together = lower_margins(model, x, y, change, eps)
    for row in range(12):
        alone = lower_margins(model, x[row : row + 1], y[row : row + 1], change, float(eps[row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    at_rest = model(x[:1]).detach()
    torch.testing.assert_close(together[:1], at_rest[:, y[0]].unsqueeze(1) - at_rest)


@pytest.mark.parametrize("change", SETS, ids=str)
@pytest.mark.parametrize("name", ["linear", "ffn_adv", "ffn_sigmoid"])
def test_a_larger_set_proves_less(name: str, change: Pixels, digits: Samples) -> None:
    model = net(name)
    smaller = torch.ones(len(digits), dtype=torch.bool)
    shares = []
    for scale in (0.0, 0.5, 1.0, 2.0, 4.0):
        sure = certify(model, digits.x, digits.y, change, scale * SETS[change])
        assert not (sure & ~smaller).any()
        smaller = sure
        shares.append(float(sure.float().mean()))
    assert shares[0] >= 0.95
    assert shares[-1] < shares[2] < shares[0]


@pytest.mark.parametrize("name", ["ffn_adv", "ffn_tanh", "cnn"])
def test_batches_do_not_matter(name: str, digits: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 4 if name == "cnn" else 15
    given = (net(name), digits.x[:count], digits.y[:count], Linf(), 0.05)
    bound, sure = lower_margins(*given), certify(*given)
    for size in (1, 7):
        torch.testing.assert_close(lower_margins(*given, size), bound, atol=1e-3, rtol=1e-4)
        assert torch.equal(certify(*given, size), sure)
    for module in (network, bounds):
        monkeypatch.setattr(module, "BUDGET", 1 << 15)
    monkeypatch.setattr(network, "_KEPT", 0)
    torch.testing.assert_close(lower_margins(*given), bound, atol=1e-3, rtol=1e-4)


def test_wrong_samples_are_never_certified(digits: Samples) -> None:
    for name in ("linear", "ffn_adv"):
        model = net(name)
        wrong = (digits.y + 1) % 10
        hit = model(digits.x).argmax(1) == wrong
        for change in SETS:
            assert not (certify(model, digits.x, wrong, change, 0.0) & ~hit).any()


def test_a_tie_is_not_certified() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    assert not certify(model, x, y, Linf(), 0.1).any()


def lead(least: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model whose least margin at x = 0.5 and eps = 0.1 is ``least``, of a scale of 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).to(dtype)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[1].bias.copy_(torch.tensor([least - 0.4, 0.0], dtype=torch.float64))
    return model


@pytest.mark.parametrize(
    ("least", "dtype", "certified"),
    [
        (1e-3, torch.float32, True),
        (3e-6, torch.float32, True),  # in 64 bits
        (3e-7, torch.float32, False),  # the model itself rounds as much
        (3e-7, torch.float64, True),
        (1e-11, torch.float64, False),
        (-1e-6, torch.float64, False),
    ],
)
def test_rounding_is_no_proof(least: float, dtype: torch.dtype, certified: bool) -> None:
    x = torch.full((1, 1), 0.5, dtype=dtype)
    assert certify(lead(least, dtype), x, torch.tensor([0]), Linf(), 0.1).item() == certified


@pytest.mark.parametrize("name", ["ffn_adv", "ffn_tanh", "ffn_softplus", "cnn_adv"])
def test_rounding_stays_far_below_what_is_asked(name: str, digits: Samples) -> None:
    model, x, y = net(name), digits.x[:8], digits.y[:8]
    found = []
    for dtype in (torch.float32, torch.float64):
        computed = read(model, (1, 8, 8), dtype)
        region = Cube(x.flatten(1).to(dtype), torch.full((8,), 0.05, dtype=dtype))
        found.append(margins(computed, region, y, by_substitution(computed, region)))
    apart = (found[0].low - found[1].low).abs() / found[1].scale.clamp_min(1e-30)
    assert apart.max() <= 2e-6  # a fifth of the share that a bound has to exceed


def test_autocast_does_not_reach_the_bounds(
    digits: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (net("ffn_adv"), digits.x[:10], digits.y[:10], Linf(), 0.05)
    expected = lower_margins(*given)
    before = [one.fp32_precision for one in _settings()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lower_margins(*given), expected)
    assert [one.fp32_precision for one in _settings()] == before
    for module in ("proof", "reading"):
        monkeypatch.setattr(f"advbench.trust.certificates.{module}.ieee", lambda _: nullcontext())
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises((AssertionError, ValueError)):
        torch.testing.assert_close(lower_margins(*given), expected)


def _settings() -> tuple[object, ...]:
    backends = torch.backends
    return backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["ffn_adv", "cnn_adv"])
def test_same_bounds_on_a_gpu(name: str, digits: Samples) -> None:
    """Though convolutions round to 10 bits there, unless they are asked not to."""
    model, x, y = net(name), digits.x[:8], digits.y[:8]
    for change in SETS:
        bound = lower_margins(model, x, y, change, 0.05)
        sure = certify(model, x, y, change, 0.05)
        there = copy.deepcopy(model).to("cuda")
        for place in ("cpu", "cuda"):
            found = lower_margins(there, x.to(place), y.to(place), change, 0.05)
            assert found.device.type == place
            torch.testing.assert_close(found.cpu(), bound, atol=1e-3, rtol=1e-4)
            assert torch.equal(certify(there, x, y, change, 0.05), sure)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(32, 3),
        nn.Tanh(),
        nn.Linear(3, 3),
    )
    model[1].eval()
    model[0].weight.requires_grad_(False)
    x = torch.rand(4, 1, 4, 4)
    model(x).sum().backward()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    given = x.clone()
    for change in SETS:
        certify(model, x, torch.zeros(4, dtype=torch.int64), change, 0.01)
        lower_margins(model, x, torch.zeros(4, dtype=torch.int64), change, 0.01)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(x, given)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)  # type: ignore[arg-type]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 7


def test_no_samples_are_no_problem() -> None:
    for name in ("linear", "ffn_adv"):
        x, y = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)
        assert certify(net(name), x, y, Linf(), 0.1).shape == (0,)
        assert lower_margins(net(name), x, y, Linf(), 0.1).shape == (0, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": -0.1}, "at least 0"),
        ({"eps": float("nan")}, "finite"),
        ({"eps": torch.zeros(3)}, "or \\(2,\\)"),
        ({"x": torch.full((2, 1, 8, 8), 2.0)}, "lie in"),
        ({"y": torch.tensor([0, 10])}, "10 classes"),
        ({"y": torch.tensor([0])}, "shape"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_arguments_are_checked(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {
        "x": torch.zeros(2, 1, 8, 8),
        "y": torch.tensor([0, 1]),
        "eps": 0.1,
        "batch_size": None,
        **change,
    }
    x, y, eps, batch_size = given["x"], given["y"], given["eps"], given["batch_size"]
    with pytest.raises(ValueError, match=words):
        certify(net("linear"), x, y, Linf(), eps, batch_size)  # type: ignore[arg-type]


def test_answers_are_for_the_images_that_can_be(digits: Samples) -> None:
    """Of two pixels at the edge of the box only one direction counts: the box makes it provable."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([0.1, 0.0]))
    x: Tensor = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    x = torch.cat([x, x.flip(1)])[:2]
    for change in SETS:
        # At x = (0, 1) the margin is -0.9: wrong. At (0.5, 0.5) it is 0.1 and can be lost.
        assert certify(model, x, torch.tensor([0, 0]), change, 0.3).tolist() == [False, False]
        # The other way round only the box keeps the margin of (0, 1) from growing to 0.
        assert certify(model, x, torch.tensor([1, 1]), change, 0.3).tolist() == [True, False]
