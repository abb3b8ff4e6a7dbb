"""What a sticker has to beat: stickers that were not optimised, pasted in the same way."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.blackbox.random_noise import RandomNoise
from advbench.attacks.perturbations.patch import Patch
from advbench.attacks.perturbations.picture import Picture, resize
from advbench.attacks.perturbations.placement import Placement
from advbench.attacks.query import Access
from advbench.attacks.randomness import Draws
from advbench.attacks.universal.fitting import Models, held
from advbench.attacks.victim import Victim

_TURNED = Patch(placement=Placement(rotation=20.0))


def pasted(patch: Patch, values: Tensor) -> Attack:
    """Return the attack that pastes a picture (C, n, n) in [0, 1] at random, once per image."""
    return RandomNoise(
        perturbation=replace(patch, picture=Picture.of(values), penalties=()), steps=1
    )


@final
@dataclass(frozen=True, kw_only=True)
class NoiseSticker(Fittable):
    """Control: a sticker of random pixels, the same on all images.

    What it achieves, a sticker achieves without any adversary. Nothing is learnt but the number of
    channels.
    """

    access: ClassVar[Access] = "none"

    perturbation: Patch = Patch()
    images: int = 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=_TURNED)

    def fit(
        self,
        models: Models,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that pastes the noise of this seed."""
        checks.seed(seed)
        x = _first(batches, self)
        zero = torch.zeros(1, dtype=torch.int64)
        side = self.perturbation.side(x)
        noise = Draws(zero + seed, zero, zero, zero).uniform((x.shape[1], side, side))[0]
        return pasted(self.perturbation, noise)

    def controls(self) -> tuple[Fittable, ...]:
        """Return nothing: this is one."""
        return ()


@final
@dataclass(frozen=True, kw_only=True)
class GreySticker(Fittable):
    """Control: a plain grey sticker, which does nothing but hide what is under it."""

    access: ClassVar[Access] = "none"

    perturbation: Patch = Patch()
    images: int = 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(), cls(perturbation=_TURNED)

    def fit(
        self,
        models: Models,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that pastes grey."""
        x = _first(batches, self)
        side = self.perturbation.side(x)
        return pasted(self.perturbation, torch.full((x.shape[1], side, side), 0.5))

    def controls(self) -> tuple[Fittable, ...]:
        """Return nothing: this is one."""
        return ()


@final
@dataclass(frozen=True, kw_only=True)
class PictureSticker(Fittable):
    """Control: a real picture of the class to reach as the sticker.

    Of ``images`` training images it takes the one whose class the models are surest of, the
    strongest honest picture; without a class to reach, that of any class. The "real toaster" of
    Brown et al. 2017, arXiv:1712.09665, section 3.
    """

    access: ClassVar[Access] = "scores"

    perturbation: Patch = Patch()
    images: int = 1000

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(images=32), cls(perturbation=_TURNED, images=32)

    def fit(
        self,
        models: Models,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that pastes the picture.

        Raises ValueError: no image is of the class to reach.
        """
        best, surest = None, -1.0
        with held(models, seed) as members, torch.no_grad():
            for x, y in batches:
                checks.accepted(type(self).__name__, self.perturbation, x)
                shown = torch.ones_like(y, dtype=torch.bool) if targets is None else y == targets
                if not shown.any():
                    continue
                x, y = x[shown], y[shown].to(torch.int64)
                sure = torch.stack([_confidence(model, x, y) for model in members]).mean(0)
                if float(sure.max()) > surest:
                    best, surest = x[int(sure.argmax())], float(sure.max())
        if best is None:
            raise ValueError(f"PictureSticker: no training image is of class {targets}")
        side = self.perturbation.side(best.unsqueeze(0))
        return pasted(self.perturbation, resize(best.float(), side))

    def controls(self) -> tuple[Fittable, ...]:
        """Return nothing: this is one."""
        return ()


def _first(batches: Iterable[tuple[Tensor, Tensor]], one: Fittable) -> Tensor:
    for x, _ in batches:
        checks.accepted(type(one).__name__, one.perturbation, x)
        return x
    raise ValueError("there is nothing to fit to: batches is empty")


def _confidence(model: Any, x: Tensor, y: Tensor) -> Tensor:
    victim = Victim(model, x)
    probability = victim(x.to(victim.device)).softmax(1).to(x.device)
    return probability.gather(1, y.unsqueeze(1)).squeeze(1)
