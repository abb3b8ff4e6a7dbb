"""Every check of the diagnosis fires on a fault that is planted for it, and is silent without."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from advbench import data
from advbench.attacks import PGD, Attack, Linf
from advbench.models.loading import ModelSpec, load_model
from advbench.trust.diagnosis import evidence, finish, gradients, nature, rivals
from advbench.trust.diagnosis.evidence import Evidence, gather
from advbench.trust.diagnosis.finding import Finding
from advbench.trust.diagnosis.scale import chosen, half_way
from advbench.trust.diagnosis.subject import Logs, Subject
from advbench.trust.diagnosis.substitutes import substitute
from tests.advbench.trust import faults

_X = torch.full((40, 1, 8, 8), 0.5)
_FIRST = torch.zeros(40, dtype=torch.int64)


@pytest.fixture(scope="module")
def digits() -> data.Samples:
    return data.load("digits", samples=60)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return load_model(ModelSpec(name="zoo:digits/ffn_relu")).model


@pytest.fixture(scope="module", autouse=True)
def few_queries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "QUERIES", 150)
        patch.setattr(evidence, "NOISES", 100)
        yield


def subject(model: nn.Module, x: Tensor, y: Tensor, eps: float = 0.1) -> Subject:
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().squeeze(1)
    places = x[right], y[right], right
    return Subject(model, model, *places, Linf(), eps, 0, False, True, batch_size=64)


@pytest.fixture(scope="module")
def honest(net: nn.Module, digits: data.Samples, few_queries: None) -> Evidence:
    """The searches on a net without a fault, with a substitute of it."""
    one = subject(net, digits.x, digits.y)
    return gather(one, None, [substitute(net, digits.x, 0, 64)])


@pytest.mark.parametrize("fault", [faults.Broken, faults.Raising])
def test_g0_a_graph_that_is_broken_is_seen(fault, net, digits) -> None:
    found = nature.reach(fault(net), digits.x[:8])
    assert found.fired
    assert found.stop
    assert not nature.reach(net, digits.x[:8]).fired


@pytest.mark.parametrize("fault", [faults.Noisy, faults.NoisyOutside])
def test_r1_answers_at_random_are_seen(fault, net, digits) -> None:
    found = nature.randomness(fault(net), digits.x[:8])
    assert found.fired
    assert found.masked
    assert not found.stop
    assert not nature.randomness(net, digits.x[:8]).fired


def test_p1_probabilities_are_seen(net, digits) -> None:
    assert nature.form(faults.Probable(net), digits.x[:8]).fired
    assert not nature.form(net, digits.x[:8]).fired
    assert not nature.form(Logs(faults.Probable(net)), digits.x[:8]).fired


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (faults.Counting, "buffers change"),
        (faults.Drifting, "parameters"),
        (faults.Switching, "training mode"),
        (faults.Optimising, "differentiates"),
        (faults.Sociable, "alf of a batch"),
    ],
)
def test_d1_a_model_that_changes_is_seen(fault, word, net, digits) -> None:
    model = fault(net).eval()
    found = nature.changes(model, digits.x[:8], False)
    assert found.fired
    assert word in found.sentence
    assert not nature.changes(net, digits.x[:8], False).fired


Ask = Callable[[Evidence], Finding]
_PLANTED: list[tuple[type[faults.Around], float, Ask]] = [
    (faults.Rounding, 0.1, gradients.zero_gradient),
    (faults.Infinite, 0.1, gradients.non_finite),
    (faults.Loud, 0.1, gradients.saturated_loss),
    (faults.OnGrid, 0.1, gradients.one_step),
    (faults.Steep, 0.1, gradients.linearity),
    (faults.Rugged, 0.1, gradients.ruggedness),
    (faults.Backwards, 0.15, rivals.black_box),
    (faults.Lucky, 0.05, rivals.noise),
    (faults.Backwards, 0.1, rivals.unbounded),
]


@pytest.mark.parametrize(
    ("fault", "eps", "ask"), _PLANTED, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_a_planted_fault_is_seen(fault, eps, ask, net, digits, honest) -> None:
    found = ask(gather(subject(fault(net), digits.x, digits.y, eps), None, []))
    assert found.fired, found.sentence
    assert found.measured
    silent = ask(honest)
    assert silent.asked
    assert not silent.fired, silent.sentence


def test_bb2_a_substitute_sees_what_a_black_box_cannot(net, digits, honest) -> None:
    model = faults.Labels(net)
    seen = gather(subject(model, digits.x, digits.y), None, [substitute(model, digits.x, 0, 64)])
    found = rivals.transfer(seen)
    assert found.fired
    assert found.measured["rows"] > rivals.black_box(seen).measured["rows"]
    assert not rivals.transfer(honest).fired


def test_c1_a_search_that_misses_from_further_away_is_seen(honest) -> None:
    found = rivals.monotone(gather(subject(faults.Ridge(), _X, _FIRST, 0.06), None, []))
    assert found.fired, found.sentence
    assert not rivals.monotone(honest).fired


def test_w1_what_only_a_wide_ball_finds_is_seen(honest) -> None:
    seen = gather(subject(faults.Moat(), _X, _FIRST, 0.1), None, [])
    found = rivals.wide(seen)
    assert found.fired, found.sentence
    assert found.measured["rows"] == 40
    assert not rivals.wide(honest).fired


_POOR: list[tuple[Attack, Ask, bool]] = [
    (PGD(steps=40, step_size=0.002), finish.unfinished, False),
    (PGD(steps=2, step_size=0.1), finish.more_steps, False),
    (faults.Forgetful(), finish.silent, True),
    (faults.Overreaching(), finish.valid, True),
    (faults.Boastful(), finish.valid, True),
]


@pytest.mark.parametrize(
    ("attack", "ask", "stops"), _POOR, ids=["short", "few", "forgetful", "large", "boastful"]
)
def test_a_poor_attack_is_seen(attack, ask, stops, net, digits, honest) -> None:
    found = ask(gather(subject(net, digits.x, digits.y), attack, []))
    assert found.fired, found.sentence
    assert found.stop is stops
    assert not ask(honest).fired


def test_the_size_is_one_at_which_about_half_are_left(net, digits) -> None:
    one = subject(net, digits.x, digits.y)
    size = half_way(one)
    assert size is not None
    left = 1 - one.at(size).attacked(PGD(steps=20)).broken.double().mean()
    assert 0.25 < left < 0.6
    other = substitute(net, digits.x, 0, 64)
    assert chosen(one, other) == size


def test_where_nothing_falls_the_size_is_that_of_a_substitute(net, digits) -> None:
    model = faults.Rounding(net)
    one = subject(model, digits.x, digits.y)
    assert half_way(one) is None
    other = substitute(model, digits.x, 0, 64)
    assert chosen(one, other) == half_way(one, other)


def test_a_substitute_answers_as_the_model_does(net, digits) -> None:
    before = torch.get_rng_state()
    first, second = (substitute(net, digits.x, 3, 64) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    robust = substitute(net, digits.x, 3, 64, Linf(), 0.1)
    with torch.no_grad():
        assert torch.equal(first(digits.x), second(digits.x))
        wanted = net(digits.x).argmax(1)
        for other in (first, robust):
            assert (other(digits.x).argmax(1) == wanted).double().mean() > 0.8
    pushed = PGD(steps=10)(first, digits.x, wanted, eps=0.1)
    hurt = [(other(pushed).argmax(1) != wanted).double().mean() for other in (first, robust)]
    assert hurt[0] > hurt[1]
