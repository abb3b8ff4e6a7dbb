"""What a JPEG file loses is computed without writing one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advbench.attacks import unmasked
from advbench.defenses.controls.jpeg import JPEG


def images(channels: int, height: int = 28, width: int = 20) -> Tensor:
    """Smooth pictures with some noise, (2, C, H, W)."""
    torch.manual_seed(channels)
    coarse = torch.rand(2, channels, 4, 4)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth + 0.1 * torch.randn_like(smooth)).clamp(0, 1)


def codec(image: Tensor, quality: int) -> Tensor:
    """What a file written and read by libjpeg makes of an image (C, H, W)."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling=0)
    again = torch.tensor(np.array(Image.open(file)) / 255)
    return again.unsqueeze(0) if again.dim() == 2 else again.permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 30, 75, 100])
def test_it_loses_what_a_file_loses(channels: int, quality: int) -> None:
    x = images(channels)
    ours = JPEG(quality=quality).wrap(nn.Identity())(x)
    theirs = torch.stack([codec(image, quality) for image in x])
    # Codecs round in their own order, and now and then a coefficient falls to the other side.
    assert (ours - theirs).abs().mean() < 0.6 / 255
    if quality < 100:
        assert (ours - theirs).abs().mean() < 0.1 * (ours - x).abs().mean()


def test_it_keeps_what_a_file_can_hold() -> None:
    flat = torch.full((1, 1, 9, 13), 128 / 255)
    assert torch.equal(JPEG(quality=1).wrap(nn.Identity())(flat), flat)
    x = 0.35 + 0.3 * images(1, 24, 16)  # whole blocks, and no pixel is cut off at 0 or 1
    compressed = JPEG(quality=30).wrap(nn.Identity())
    assert not torch.equal(compressed(x), x)
    assert torch.equal(compressed(compressed(x)), compressed(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_gradient_is_zero_and_its_stand_ins_that_of_the_identity(dtype: torch.dtype) -> None:
    model = JPEG().wrap(nn.Flatten())
    x = images(3).to(dtype).requires_grad_()
    answer, known = model(x), unmasked(model)(x)
    assert answer.dtype == dtype
    torch.testing.assert_close(known, answer, rtol=0, atol=1e-6)
    weight = torch.linspace(-1, 1, answer.numel(), dtype=dtype).view_as(answer)
    assert not torch.autograd.grad((answer * weight).sum(), x)[0].any()
    (found,) = torch.autograd.grad((known * weight).sum(), x)
    torch.testing.assert_close(found, weight.view_as(x))


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(ValueError, match="quality must be 1 to 100"):
        JPEG(quality=0)
    with pytest.raises(ValueError, match=r"grey or coloured.*got \(2, 2, 8, 8\)"):
        JPEG().wrap(nn.Identity())(torch.zeros(2, 2, 8, 8))
