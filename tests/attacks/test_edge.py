"""What attacks on labels share: a first success, and the way from it to the boundary."""

import pytest
import torch
from torch import nn

from advbench.attacks import L1, L2, Boundary, GeoDA, HopSkipJump, Linf
from advbench.attacks.attack import Attack
from advbench.attacks.blackbox import edge
from advbench.attacks.criterion import Criterion
from advbench.attacks.query import Problem
from advbench.attacks.randomness import Draws
from advbench.testing.victims import After

LABELS_ONLY: tuple[Attack, ...] = (
    HopSkipJump(steps=40, probes=5, tries=7),
    GeoDA(steps=40, first=5, tries=7),
    Boundary(steps=40, tries=7),
)


def problem(x: torch.Tensor) -> Problem:
    zero = torch.zeros(len(x), dtype=torch.int64)
    draws = Draws(zero, zero + torch.arange(len(x)), zero, zero)
    return Problem(x, torch.ones(len(x)), Criterion(zero), draws, zero)


def test_three_kinds_of_guesses_take_turns() -> None:
    x = torch.full((3, 2, 8, 8), 0.25)
    images = x + edge.guess(problem(x), torch.tensor([0, 1, 2]))
    assert ((images >= 0) & (images <= 1)).all()
    noise, chequer, blend = images
    assert len(noise.unique()) > 100
    assert set(chequer.unique().tolist()) <= {0.0, 1.0}
    assert (chequer[:, ::2, ::2] == chequer[:, 1::2, 1::2]).all(), "cells of 2 by 2 pixels"
    assert len(chequer.unique()) == 2
    spread = (blend - 0.25).abs().amax()
    assert 0 < spread < (noise - 0.25).abs().amax(), "a part of the noise"


def test_halvings_follow_the_dimension() -> None:
    x = torch.zeros(1, 1, 28, 28)
    assert edge.halvings(L2(), x) == 15
    assert edge.halvings(Linf(), x) == 20
    assert edge.halvings(L2(), x, looseness=1024.0) == 5
    assert edge.halvings(Linf(), torch.zeros(1, 3, 224, 224)) == 23, "32 bits have no more"


def test_the_way_back() -> None:
    far = torch.tensor([[0.8, -0.2], [0.4, 0.1]])
    share = torch.tensor([0.5, 0.25])
    scaled = torch.tensor([[0.4, -0.1], [0.1, 0.025]])
    torch.testing.assert_close(edge.between(L2(), far, share), scaled)
    torch.testing.assert_close(edge.between(L1(), far, share), scaled)
    clipped = torch.tensor([[0.4, -0.2], [0.1, 0.1]])
    torch.testing.assert_close(edge.between(Linf(), far, share), clipped)


def test_halving_ends_at_the_smallest_share_that_fooled() -> None:
    x = torch.zeros(2, 1)
    state = edge.halve_from(
        edge.nowhere(x, problem(x)), torch.tensor([True, True]), torch.ones(2, 1)
    )
    limit = torch.tensor([0.3, 0.8])
    for _ in range(5):
        assert (state.phase == edge.HALVE).all()
        p = edge.ask(state, L2(), problem(x), {})
        state = edge.approach(state, L2(), p, p[:, 0] > limit, 5)
    assert (state.phase == edge.READY).all()
    torch.testing.assert_close(state.far[:, 0], torch.tensor([10 / 32, 26 / 32]))


class Lighter(nn.Module):
    """Class 1 where the last pixel is lighter than the first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        lead = flat[:, -1] - flat[:, 0]
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize("attack", LABELS_ONLY, ids=repr)
def test_a_row_without_a_start_is_a_failed_row(attack: Attack) -> None:
    x = torch.tensor([[0.4, 0.5, 0.3], [0.5, 0.5, 0.4]])
    y = torch.zeros(2, dtype=torch.int64)
    # The third class is out of reach, the second is not.
    model = After(Lighter(), lambda _, z: torch.cat([z, z[:, :1] - 9], 1))
    found = attack.run(model, x, y, targets=torch.tensor([1, 1]))
    lost = attack.run(model, x, y, targets=torch.tensor([1, 2]))
    assert found.success.all()
    assert lost.success.tolist() == [True, False]
    assert lost.size[1] == torch.inf
    assert lost.forwards[1] == 1 + 7, "the clean pass and seven tries"
    assert (lost.x_adv[0] == found.x_adv[0]).all(), "the other row does not notice"
