"""A sticker on the image."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.perturbations.masks import Circle, Mask, opacity
from advbench.attacks.perturbations.penalties import Penalty
from advbench.attacks.perturbations.perturbation import Perturbation, clip
from advbench.attacks.perturbations.picture import Picture
from advbench.attacks.perturbations.placement import Placement, Where
from advbench.attacks.randomness import Draws

_FINER = 2  # samples per pixel and axis, spread over what a pixel covers beyond one texel
_TINY = 1e-12  # share of an image that counts as none


@final
@dataclass(frozen=True)
class Patch(Perturbation):
    """A patch pasted over part of the image; ``eps`` is the share of the image that it covers.

    The parameters of a sample are one row: a coordinate in [0, 1] for each range of the placement
    (``placement.names``), the share covered, and, unless a ``picture`` is given, the patch's own
    pixels in [0, 1], channel by channel. The adversary chooses all of them; under ``EOT`` and in a
    universal fit the placement is drawn at random instead, anew for each image.

    The share covered is the mean opacity as pasted, at most ``eps``, and within 3 % of it unless
    the patch is so small that its pixels are finer than half of the image's. Pixels that the patch
    does not touch stay bit for bit.
    After Brown, Mané, Roy, Abadi, Gilmer, "Adversarial patch", 2017, arXiv:1712.09665.

    Fields:
        mask: the shape.
        placement: where and how the patch may lie.
        resolution: pixels along the patch's side, whatever size it is pasted at; None for half of
            the image's shorter side, or for that of the picture.
        picture: what is on the patch, (C, n, n); None for anything.
        penalties: what the loss pays for the picture.
    """

    mask: Mask = Circle()
    placement: Placement = Placement()
    resolution: int | None = None
    picture: Picture | None = None
    penalties: tuple[Penalty, ...] = field(default=(), metadata={"label": False})

    def __post_init__(self) -> None:
        given = self.resolution
        if given is not None and (type(given) is not int or given < 1):
            raise ValueError(f"Patch: resolution must be a whole number of at least 1; got {given}")
        if self.picture is not None:
            _, height, width = self.picture.shape
            if height != width or given not in (None, width):
                wanted = width if given is None else given
                raise ValueError(
                    f"Patch: picture must be a square of the patch's resolution; got {height} x "
                    f"{width} pixels. Use picture.resized({wanted})."
                )

    def zero(self, x: Tensor) -> Tensor:
        """Return a grey patch in the middle of all ranges that covers nothing."""
        p = x.new_full((len(x), self._placed + 1 + self._texels(x)), 0.5)
        p[:, self._placed] = 0
        return p

    def apply(self, x: Tensor, p: Tensor) -> Tensor:
        """Paste: ``x * (1 - alpha) + alpha * patch``, warped together; differentiable."""
        layer, alpha = self._pasted(x, p)
        return x * (1 - alpha) + layer

    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Clip every parameter to its range; the patch always covers all of ``eps``."""
        p = p.clamp(0, 1)
        p[:, self._placed] = eps
        return p

    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the mean opacity of what is pasted, (B,)."""
        with torch.no_grad():
            return self._pasted(x, p)[1].flatten(1).mean(1)

    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Move every parameter by the same share of half its range, along the sign of ``g``.

        The share is ``length`` over the share covered, so that a step of eps goes from the middle
        of a range to its end, as it does in a ball. A coordinate whose gradient is rounding next
        to the largest one stays: its sign would depend on the other rows of the batch.
        """
        noise = 16 * torch.finfo(g.dtype).eps * g.abs().amax(1, keepdim=True)
        covered = p[:, self._placed]
        share = torch.where(covered > 0, length / covered, 0).unsqueeze(1)
        step = torch.where(g.abs() > noise, g.sign(), 0) * share / 2
        step[:, self._placed] = 0
        return step

    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw every parameter uniformly from its range."""
        p = draws.uniform(self.zero(x[:1]).shape[1:], x.dtype)
        return self.project(x, p, eps)

    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw a placement, and patch pixels that are 0 or 1."""
        p = self.draw(x, eps, draws)
        start = self._placed + 1
        return torch.cat([p[:, :start], p[:, start:].round()], 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The ranges of the placement."""
        return self.placement.names

    def closed(self, eps: Tensor, count: int) -> Tensor:
        """Nothing is a circle."""
        return eps.new_zeros(len(eps), count, dtype=torch.bool)

    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Set the first parameters to ``u``, scaled to their ranges, the others to the middle."""
        p = self.zero(x)
        known = min(u.shape[1], self._placed)
        p[:, :known] = (u[:, :known] + 1) / 2
        return self.project(x, p, eps)

    def largest(self, x: Tensor) -> float:
        """Return the share covered by the largest patch that fits however it is turned."""
        height, width = x.shape[-2:]
        side = self.placement.room(self.mask, height, width)
        return side**2 * float(self._alpha(x).mean()) / (height * width)

    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps`` with the relative rounding of a long 32-bit sum."""
        return eps * (1 + 1e-5)

    @property
    def varies(self) -> bool:
        """Whether the placement has a range."""
        return self._placed > 0

    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        """Return ``p`` at another placement."""
        return torch.cat([draws.uniform((self._placed,), p.dtype), p[:, self._placed :]], 1)

    def price(self, x: Tensor, p: Tensor) -> Tensor | None:
        """Return the sum of the penalties, (B,); a given picture is free."""
        if not self.penalties or self.picture is not None:
            return None
        pictures = self.pictures(x, p)
        return torch.stack([penalty(pictures) for penalty in self.penalties]).sum(0)

    def facts(self, x: Tensor, p: Tensor) -> dict[str, Tensor]:
        """Return where the patch lies: its centre as shares of the image, and its angle."""
        where = self._where(x, p)
        height, width = x.shape[-2:]
        return {
            "patch_y": where.y / height,
            "patch_x": where.x / width,
            "patch_angle": where.angle.rad2deg(),
        }

    def refusal(self, shape: torch.Size) -> str | None:
        """Refuse what is no image, and images whose channels are not those of the picture."""
        if len(shape) != 3:
            return f"a patch needs images (C, H, W); got {tuple(shape)}"
        if self.picture is not None and self.picture.shape[0] != shape[0]:
            return f"the patch has {self.picture.shape[0]} channels, the images have {shape[0]}"
        return None

    def pictures(self, x: Tensor, p: Tensor) -> Tensor:
        """Return what is on the patches, (B, C, resolution, resolution)."""
        if self.picture is not None:
            return self.picture.tensor().to(x).expand(len(x), -1, -1, -1)
        pixels = p[:, self._placed + 1 :]
        return pixels.view(len(x), x.shape[1], self.side(x), self.side(x))

    def side(self, x: Tensor) -> int:
        """Return the pixels along the patch's side, for images like ``x`` (B, C, H, W)."""
        if self.picture is not None:
            return self.picture.shape[2]
        return self.resolution or max(2, min(x.shape[-2:]) // 2)

    @property
    def _placed(self) -> int:
        return len(self.placement.names)

    def _texels(self, x: Tensor) -> int:
        return 0 if self.picture is not None else x.shape[1] * self.side(x) ** 2

    def _alpha(self, x: Tensor) -> Tensor:
        return opacity(self.mask, self.side(x)).to(x)

    def _covered(self, p: Tensor) -> Tensor:
        """Return the share covered, (B,), by which nobody steers: no gradient reaches it."""
        return p[:, self._placed].detach()

    def _where(self, x: Tensor, p: Tensor) -> Where:
        """Return the placements, with the side for which the opacity adds up to what is covered."""
        height, width = x.shape[-2:]
        u, covered = p[:, : self._placed], self._covered(p).clamp_min(0)
        alpha = self._alpha(x)
        mask = alpha.expand(len(x), 1, -1, -1)
        side = (covered * (height * width) / alpha.mean()).sqrt()
        for _ in range(5 if self.placement.perspective else 1):
            # The pixel grid takes or adds a few per cent, a tilt more.
            where = self.placement.where(u, side, self.mask, height, width)
            mean = self._warped(mask, where, x).flatten(1).mean(1)
            side = side * (covered / mean.clamp_min(_TINY)).clamp(0.8, 1.25).sqrt()
        return self.placement.where(u, side, self.mask, height, width)

    def _pasted(self, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patch on black, times its opacity (B, C, H, W), and the opacity."""
        where, covered = self._where(x, p), self._covered(p)
        alpha = self._alpha(x)
        mask = alpha.expand(len(x), 1, -1, -1)
        looks = clip(
            (self.pictures(x, p) - 0.5) * _lift(where.contrast) + 0.5 + _lift(where.brightness)
        )
        both = torch.cat([looks * alpha, mask], 1)
        both = self._warped(both, where, x)
        mean = both[:, -1].flatten(1).mean(1)
        both = both * _lift((covered / mean.clamp_min(_TINY)).clamp(0, 1))
        return both[:, :-1], both[:, -1:]

    def _warped(self, texture: Tensor, where: Where, x: Tensor) -> Tensor:
        """Lay a texture (B, C, n, n) on the pixels of ``x``; nothing where it is not."""
        height, width = x.shape[-2:]
        texels = where.side / texture.shape[-1]  # pixels that one of them spans
        gaps = (1 - texels).clamp(0, 1).unsqueeze(1) / (_FINER - 1)
        offset = (torch.arange(_FINER, device=x.device) - (_FINER - 1) / 2) * gaps
        y = _centres(height, x).unsqueeze(1) + offset.unsqueeze(1) - _lift(where.y, 3)
        x_ = _centres(width, x).unsqueeze(1) + offset.unsqueeze(1) - _lift(where.x, 3)
        y, x_ = y.flatten(1).unsqueeze(2), x_.flatten(1).unsqueeze(1)
        half = _lift(where.side, 3).clamp_min(1e-6) / 2
        cos, sin = _lift(where.angle.cos(), 3), _lift(where.angle.sin(), 3)
        across, down = (cos * x_ + sin * y) / half, (cos * y - sin * x_) / half
        if self.placement.perspective:
            tilt = where.tilt.unbind(1)
            depth = (1 - _lift(tilt[0], 3) * across - _lift(tilt[1], 3) * down).clamp_min(1e-3)
            across, down = across / depth, down / depth
        grid = torch.stack([across, down], 3)
        laid = functional.grid_sample(texture, grid, align_corners=False)
        laid = functional.avg_pool2d(laid, _FINER)
        laid = self._blurred(laid, where.blur) if self.placement.blur else laid
        permitted = self.placement.permitted(height, width)
        return laid if permitted is None else laid * permitted.to(laid)

    def _blurred(self, images: Tensor, deviation: Tensor) -> Tensor:
        """Blur by a Gaussian of its own per row; nothing comes in from outside the image."""
        if not len(images):
            return images
        rim = self.placement.rim
        away = torch.arange(-rim, rim + 1, device=images.device, dtype=images.dtype)
        weight = (-(away / deviation.clamp_min(1e-3).unsqueeze(1)).square() / 2).exp()
        weight = weight / weight.sum(1, keepdim=True)
        rows, channels, height, width = images.shape
        weight = weight.repeat_interleave(channels, 0)
        flat = images.reshape(1, rows * channels, height, width)
        down, across = weight[:, None, :, None], weight[:, None, None, :]
        flat = functional.conv2d(flat, down, padding=(rim, 0), groups=len(weight))
        flat = functional.conv2d(flat, across, padding=(0, rim), groups=len(weight))
        return flat.view(images.shape)


def _centres(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device, dtype=like.dtype) + 0.5


def _lift(values: Tensor, rank: int = 4) -> Tensor:
    return values.view(-1, *([1] * (rank - 1)))
