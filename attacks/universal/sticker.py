"""Adversarial patch: one sticker for all images."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

from torch import Tensor

from advbench.attacks.attack import Attack, Fittable
from advbench.attacks.blackbox.random_search import RandomSearch
from advbench.attacks.gradient.mi_fgsm import MIFGSM
from advbench.attacks.perturbations.patch import Patch
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.perturbations.placement import Placement
from advbench.attacks.query import Access
from advbench.attacks.search import Rule
from advbench.attacks.universal.controls import GreySticker, NoiseSticker, PictureSticker, pasted
from advbench.attacks.universal.fitting import Models, fit_shared

_TURNED = Patch(placement=Placement(rotation=20.0))
_DEFAULT = MIFGSM(perturbation=_TURNED, steps=250, step_size=0.1, decay=0.9, anneal=True)


@final
@dataclass(frozen=True, kw_only=True)
class Sticker(Fittable):
    """Adversarial patch: one sticker that makes a model see its target wherever it is placed.

    Source: Brown, Mané, Roy, Abadi, Gilmer, "Adversarial patch", 2017, arXiv:1712.09665: the mean
    over images and placements of the log-probability of the target is maximised. Without a target
    the sticker hides what is there. Deviations: momentum signs with shrinking steps instead of
    plain gradient descent, and the sticker is rounded to 8 bits, as it will be printed.

    Fields:
        attack: the search, over a ``Patch``, by default anywhere on the image and turned by up to
            20 degrees; one that needs no gradient makes a black-box sticker.
        samples: images, each with a placement of its own, that a step takes its mean over.
        images: training images to fit to.
    """

    access: ClassVar[Access] = "gradient"

    attack: Attack = _DEFAULT
    samples: int = 64
    images: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        patch = self.attack.perturbation
        if not isinstance(self.attack, Rule) or self.attack.restarts != 1:
            raise TypeError(f"Sticker: attack must be one search without restarts: {self.attack!r}")
        if not isinstance(patch, Patch) or patch.picture is not None:
            raise TypeError(
                "Sticker: attack must search a Patch without a picture, as in "
                f"MIFGSM(perturbation=Patch()); got {patch!r:.200}"
            )

    @property
    def perturbation(self) -> Perturbation:
        """The set of the attack inside."""
        return self.attack.perturbation

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        patch = Patch(resolution=3)
        return (
            cls(attack=MIFGSM(perturbation=patch, steps=20, step_size=0.3), samples=16, images=32),
            cls(attack=RandomSearch(perturbation=patch, steps=40), samples=16, images=32),
        )

    def fit(
        self,
        models: Models,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        """Return the attack that pastes the fitted sticker at a random place, one per image."""
        rule, patch = self.attack, self._patch
        assert isinstance(rule, Rule)
        pairs = list(batches)
        p = fit_shared(
            rule, models, pairs, eps=eps, targets=targets, seed=seed, samples=self.samples
        )
        return pasted(patch, patch.pictures(pairs[0][0][:1].to(p), p)[0])

    @property
    def _patch(self) -> Patch:
        assert isinstance(self.attack.perturbation, Patch)
        return self.attack.perturbation

    def controls(self) -> tuple[Fittable, ...]:
        """Return stickers of noise, grey and a real picture, pasted in the same way."""
        patch = replace(self._patch, penalties=())
        return (
            NoiseSticker(perturbation=patch),
            GreySticker(perturbation=patch),
            PictureSticker(perturbation=patch, images=self.images),
        )
