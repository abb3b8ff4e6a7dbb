"""The counter-based generator: known answers, keys, and the shape of its distributions."""

import pytest
import torch
from torch import Tensor

from advbench.attacks.randomness import Draws, philox

ONES = 0xFFFFFFFF


def draws(count: int = 4, seed: int = 3, stream: int = 0, number: int = 0) -> Draws:
    zero = torch.zeros(count, dtype=torch.int64)
    return Draws(zero + seed, torch.arange(count), zero + stream, zero + number)


def distance_from_uniform(u: Tensor) -> float:
    """The Kolmogorov-Smirnov statistic, in units of its standard scale 1 / sqrt(n)."""
    u = u.double().flatten().sort().values
    n = len(u)
    above = torch.arange(1, n + 1) / n - u
    below = u - torch.arange(n) / n
    return float(torch.maximum(above.amax(), below.amax()) * n**0.5)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    """The vectors published with the generator (Random123, philox4x32 with 10 rounds)."""
    words = philox(
        tuple(torch.tensor([word]) for word in counter),
        (torch.tensor([key[0]]), torch.tensor([key[1]])),
    )
    assert tuple(int(word) for word in words) == answer


def test_counter_and_key_are_where_they_should_be() -> None:
    given = Draws(*(torch.tensor([value]) for value in (5, 2**32 * 7 + 9, 11, 13)))
    four = philox(
        tuple(torch.tensor([word]) for word in (1, 13, 9, 7)),
        (torch.tensor([5]), torch.tensor([11])),
    )
    assert given.bits((8,))[0, 4:].tolist() == [int(word) for word in four]


def test_a_row_draws_the_same_in_any_company() -> None:
    whole = draws(6)
    index = torch.tensor([4, 0, 5])
    part = Draws(*(field[index] for field in whole))
    assert torch.equal(part.uniform((2, 3)), whole.uniform((2, 3))[index])
    assert torch.equal(whole.uniform((5,)), whole.uniform((7,))[:, :5])


@pytest.mark.parametrize("changed", ["seed", "ids", "stream", "number"])
def test_every_key_matters(changed: str) -> None:
    given = draws()
    other = given._replace(**{changed: getattr(given, changed) + 1})
    assert (given.bits((64,)) != other.bits((64,))).all(1).all()
    if changed == "ids":
        far = given._replace(ids=given.ids + 2**32)
        assert (given.bits((64,)) != far.bits((64,))).all(1).all()


def test_forks_differ_from_each_other_and_from_streams() -> None:
    given = draws(1)
    words = [given.bits((16,))]
    words += [given.fork(k).bits((16,)) for k in (1, 2, 65535, 65536, 1 << 20)]
    words += [given.fork(j).fork(k).bits((16,)) for j in (1, 2, 3) for k in (1, 2, 3)]
    words += [draws(1, stream=s).bits((16,)) for s in (1, 2, 3)]
    assert len({tuple(w[0].tolist()) for w in words}) == len(words)


def test_no_global_state_is_read_or_changed() -> None:
    before = torch.get_rng_state()
    first = draws().normal((3,))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert torch.equal(draws().normal((3,)), first)


def test_uniform_numbers() -> None:
    u = draws(64).uniform((64,))
    assert u.dtype == torch.float32
    assert u.amin() > 0
    assert u.amax() < 1
    assert distance_from_uniform(u) < 1.6  # exceeded by chance once in a hundred
    assert distance_from_uniform(u**1.1) > 1.6
    precise = draws(64).uniform((64,), torch.float64)
    assert torch.equal(precise.float(), u)


def test_the_ends_of_the_interval_are_never_reached() -> None:
    for word, expected in ((0, 2.0**-24), (ONES, 1 - 2.0**-24)):
        cell = (torch.tensor([word]) >> 9).float()
        assert float((cell + 0.5) * 2.0**-23) == expected
        assert torch.special.ndtri((cell + 0.5) * 2.0**-23).isfinite().all()


def test_normal_numbers() -> None:
    z = draws(64).normal((64,), torch.float64)
    assert distance_from_uniform(torch.special.ndtr(z)) < 1.6
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1) < 0.05


def test_signs() -> None:
    s = draws(64).signs((64,))
    assert set(s.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(s.mean())) < 0.05


def test_nothing_per_row() -> None:
    assert draws(3).uniform((0,)).shape == (3, 0)
    assert draws(0).uniform((2,)).shape == (0, 2)


def test_scalar_per_row() -> None:
    assert draws(5).uniform(()).shape == (5,)
