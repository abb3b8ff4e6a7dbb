"""Contrast, blur and noise that grow until they fool."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import L0, L1, L2, AdditiveNoise, Affine, Blur, Contrast, Linf, SaltAndPepper
from advbench.attacks.blackbox.blur import blurred
from advbench.testing.victims import Watched

KINDS = (Contrast, Blur, SaltAndPepper, AdditiveNoise)


class Brighter(nn.Module):
    """Class 1 where the mean is above a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        lead = x.flatten(1).mean(1) - self.limit
        return torch.stack([torch.zeros_like(lead), lead], 1)


def test_contrast_finds_the_share() -> None:
    x = torch.tensor([[0.1, 0.3], [0.0, 0.3]], dtype=torch.float64).view(2, 1, 1, 2)
    found = Contrast().run(Brighter(0.4), x, torch.tensor([0, 0]))
    share = torch.tensor([2 / 3, 5 / 7], dtype=torch.float64)
    exact = share * torch.tensor([0.4, 0.5])
    assert found.success.all()
    assert ((found.size >= exact) & (found.size <= exact + 1e-5)).all()
    assert found.forwards.tolist() == [1 + 67 + 10, 1 + 72 + 10]
    flat = (x - 0.5).flatten(1)
    ratio = (found.x_adv - 0.5).flatten(1) / flat
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])


def test_contrast_stops_past_eps() -> None:
    x = torch.full((1, 1, 2, 2), 0.1)
    found = Contrast().run(Brighter(0.4), x, torch.tensor([0]), eps=0.05)
    assert not found.success.any()
    assert found.forwards.tolist() == [1 + 13]


def test_blur_is_a_gaussian_mean_per_channel() -> None:
    x = torch.rand(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    deviation = torch.tensor([0.7, 1.5], dtype=torch.float64)
    made = blurred(x, deviation)
    for row in range(2):
        for place in ((0, 0), (2, 3), (4, 5)):
            weights = torch.tensor(
                [
                    [
                        math.exp(
                            -((i - place[0]) ** 2 + (j - place[1]) ** 2) / 2 / deviation[row] ** 2
                        )
                        for j in range(6)
                    ]
                    for i in range(5)
                ],
                dtype=torch.float64,
            )
            wanted = (x[row] * weights / weights.sum()).sum((1, 2))
            torch.testing.assert_close(made[row, :, place[0], place[1]], wanted)
    torch.testing.assert_close(blurred(x, deviation * 1e-3), x)
    plain = blurred(x, deviation * 1e5)
    torch.testing.assert_close(plain, x.mean((2, 3), keepdim=True).expand_as(x))


def test_blur_of_flat_inputs_goes_along_the_axis() -> None:
    x = torch.zeros(1, 9, dtype=torch.float64)
    x[0, 4] = 1
    made = blurred(x, torch.ones(1, dtype=torch.float64))[0]
    assert made.argmax() == 4
    torch.testing.assert_close(made, made.flip(0))
    assert 0.3 < made[4] < 0.45


def test_salt_and_pepper_grows_by_whole_pixels() -> None:
    watched, x = Watched(Brighter(2.0)), torch.full((1, 3, 4, 5), 0.4)
    SaltAndPepper(points=10, restarts=1).run(watched, x, torch.tensor([0]))
    images = torch.cat([image for image, _ in watched.seen])[1:]
    assert len(images) == 10
    changed = images != x
    assert (changed.all(1) == changed.any(1)).all(), "all channels of a pixel together"
    assert (changed[1:] >= changed[:-1]).all(), "changed pixels stay changed"
    assert (images[1:] == images[:-1])[changed[:-1]].all()
    assert set(images[changed].unique().tolist()) == {0.0, 1.0}
    assert changed[-1].all()
    share = changed[:, 0].flatten(1).float().mean(1)
    assert (share - torch.arange(1, 11) / 10).abs().amax() < 0.3


def test_runs_of_noise_differ_and_the_smallest_is_kept() -> None:
    x = torch.full((4, 1, 4, 5), 0.4)
    y = torch.zeros(4, dtype=torch.int64)
    one, many = (SaltAndPepper(restarts=count).run(Brighter(0.6), x, y).size for count in (1, 8))
    assert (many <= one).all()
    assert (many < one).any()
    assert (many >= 7).all(), "seven white pixels raise the mean by 0.21, six by 0.18"


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_noise_has_the_deviation_of_its_strength(kind: Any) -> None:
    watched, x = Watched(Brighter(2.0)), torch.full((1, 1, 40, 40), 0.5)
    AdditiveNoise(kind=kind, points=4, largest=0.2, restarts=1).run(watched, x, torch.tensor([0]))
    images = torch.cat([image for image, _ in watched.seen])[1:]
    assert len(images) == 4
    deviations = (images - x).flatten(1).std(1)
    torch.testing.assert_close(deviations, torch.tensor([0.05, 0.1, 0.15, 0.2]), rtol=0.06, atol=0)
    largest = (images - x).flatten(1).abs().amax(1) / deviations
    assert (largest < 1.8).all() if kind == "uniform" else (largest > 2.2).all()


def test_what_they_cannot_do_is_refused() -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=f"{kind.__name__}: perturbation must be one of Linf"):
            kind(perturbation=Affine())
        for perturbation in (Linf(), L2(), L1(), L0()):
            assert kind(perturbation=perturbation).perturbation == perturbation
    with pytest.raises(ValueError, match="level must lie in"):
        Contrast(level=1.5)
    with pytest.raises(ValueError, match="width must be a number above 0"):
        Blur(width=0.0)
    with pytest.raises(ValueError, match="largest must be a number above 0"):
        AdditiveNoise(largest=0.0)
    with pytest.raises(ValueError, match="kind must be 'gaussian' or 'uniform'"):
        AdditiveNoise(kind="pink")  # type: ignore[arg-type]
