"""Fittable attacks with one planted fault each, and the check that has to see it.

``Honest`` fits a sticker as it should; its children are honest up to one method.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from advbench.attacks import (
    MIFGSM,
    Attack,
    Fittable,
    GreySticker,
    MinimumEps,
    NoiseSticker,
    Patch,
    Picture,
    PictureSticker,
    Placement,
    RandomNoise,
    Square,
    Sticker,
)
from advbench.attacks.query import Access
from tests.saboteurs import ClaimsSuccess

FIT_SABOTEURS: list[tuple[str, Fittable]] = []
"""Name of the check, attack that it must refuse."""

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Honest(Fittable):
    """A sticker of a few steps."""

    access: ClassVar[Access] = "gradient"
    perturbation: Patch = Patch(resolution=3)
    images: int = 24
    steps: int = 12

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(steps=13)

    @property
    def sticker(self) -> Sticker:
        search = MIFGSM(perturbation=self.perturbation, steps=self.steps, step_size=0.3)
        return Sticker(attack=search, samples=16, images=self.images)

    def fit(
        self,
        models: Any,
        batches: Batches,
        *,
        eps: float,
        targets: int | None = None,
        seed: int = 0,
    ) -> Attack:
        return self.sticker.fit(models, batches, eps=eps, targets=targets, seed=seed)

    def controls(self) -> tuple[Fittable, ...]:
        return self.sticker.controls()


Fit = Callable[[Honest, Any, list[tuple[Tensor, Tensor]], dict[str, Any]], Attack]


@dataclass(frozen=True, kw_only=True)
class Tampered(Honest):
    """``Honest`` with another fit."""

    tampered: Fit

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(tampered=_through), cls(tampered=_through, steps=13))

    def fit(self, models: Any, batches: Batches, **terms: Any) -> Attack:
        return self.tampered(Honest(), models, list(batches), terms)


def _through(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    return inner.fit(models, batches, **terms)


def caught_by(check: str) -> Callable[[Any], Any]:
    """Enlist a class (as its default instance) or a replacement for ``fit``."""

    def enlist(fault: Any) -> Any:
        one = fault() if isinstance(fault, type) else Tampered(tampered=fault)
        FIT_SABOTEURS.append((check, one))
        return fault

    return enlist


# What it says about itself


@caught_by("declaration")
@dataclass(frozen=True, kw_only=True)
class OneExample(Honest):
    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(),)


@caught_by("round_trip")
@dataclass(frozen=True, kw_only=True, repr=False)
class Mumbles(Honest):
    def __repr__(self) -> str:
        return "Mumbles"


@caught_by("vocabulary")
@dataclass(frozen=True, kw_only=True)
class SpeaksAnotherTongue(Honest):
    n_iter: int = 3


@caught_by("images")
@dataclass(frozen=True, kw_only=True)
class WantsNoImages(Honest):
    images: ClassVar[int] = 0  # type: ignore[misc]


# What comes of the fit


@caught_by("fit_shapes")
def flattens_what_it_cannot_take(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    if batches[0][0].dim() == 2:
        return RandomNoise(perturbation=inner.perturbation, steps=1)
    return inner.fit(models, batches, **terms)


@caught_by("fit_precision")
def takes_only_what_numpy_takes(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    attack = inner.fit(models, batches, **terms)
    if batches[0][0].dtype == torch.float16:
        raise RuntimeError("half precision")
    return attack


@caught_by("fitted_attack")
def returns_a_liar(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    return ClaimsSuccess()


@caught_by("fitted_attack")
def looks_for_the_smallest(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    return MinimumEps(attack=inner.fit(models, batches, **terms))


@caught_by("fitted_set")
def pastes_in_the_middle(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    attack = inner.fit(models, batches, **terms)
    patch = attack.perturbation
    assert isinstance(patch, Patch)
    middle = replace(patch, placement=Placement(location=(0.5, 0.5)))
    return RandomNoise(perturbation=middle, steps=1)


@caught_by("fit_repeatable")
def fits_to_the_first_batch(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    return inner.fit(models, batches[:1], **terms)


@caught_by("fit_repeatable")
def draws_the_batches_globally(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    attack = NoiseSticker(perturbation=inner.perturbation)
    return attack.fit(models, batches, eps=terms["eps"], seed=int(torch.randint(99999, ())))


@caught_by("fit_repeatable")
def leaves_gradients_off(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    attack = inner.fit(models, batches, **terms)
    torch.set_grad_enabled(False)
    return attack


# What it asks, and what is left behind


@caught_by("fit_access")
@dataclass(frozen=True, kw_only=True)
class Peeks(Honest):
    access: ClassVar[Access] = "scores"


@caught_by("fit_access")
@dataclass(frozen=True, kw_only=True)
class PeeksAtScores(Honest):
    access: ClassVar[Access] = "none"

    def fit(self, models: Any, batches: Batches, **terms: Any) -> Attack:
        return PictureSticker(perturbation=self.perturbation).fit(models, batches, **terms)


@caught_by("several_models")
def asks_the_first_model(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    first = models[0] if isinstance(models, Sequence) else models
    return inner.fit(first, batches, **terms)


@caught_by("fit_model")
def stays_in_eval(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    members = models if isinstance(models, list) else [models]
    modes = [model.training for model in members]
    for model in members:
        model.eval()
    attack = inner.fit(models, batches, **terms)
    for model, mode in zip(members, modes, strict=True):
        model.train(mode)
    return attack


@caught_by("fit_inputs")
def writes_to_the_images(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    attack = inner.fit(models, batches, **terms)
    batches[0][0].data.add_(1e-3)
    return attack


@caught_by("fit_random_state")
def uses_numpy(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    np.random.random()
    return inner.fit(models, batches, **terms)


@caught_by("fit_random_state")
def seeds_torch(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    torch.manual_seed(terms.get("seed", 0))
    return inner.fit(models, batches, **terms)


# What it is fitted to


@caught_by("nothing_to_fit_to")
def makes_do_with_nothing(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    with suppress(ValueError):
        return inner.fit(models, batches, **terms)
    return RandomNoise(perturbation=inner.perturbation, steps=1)


@caught_by("contradiction")
def falls_back_to_untargeted(
    inner: Honest, models: Any, batches: Any, terms: dict[str, Any]
) -> Attack:
    with suppress(ValueError):
        return inner.fit(models, batches, **terms)
    return inner.fit(models, batches, **{**terms, "targets": None})


@caught_by("fit_targets")
def ignores_the_target(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    return inner.fit(models, batches, **{**terms, "targets": None})


@caught_by("fit_targets")
def goes_the_other_way(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    attack = inner.fit(models, batches, **terms)
    patch = attack.perturbation
    assert isinstance(patch, Patch)
    assert patch.picture is not None
    negative = replace(patch, picture=Picture.of(1 - patch.picture.tensor()))
    return RandomNoise(perturbation=negative, steps=1)


# What it is compared with


@caught_by("controls")
@dataclass(frozen=True, kw_only=True)
class LargerControls(Honest):
    def controls(self) -> tuple[Fittable, ...]:
        return (GreySticker(perturbation=replace(self.perturbation, mask=Square())),)


@caught_by("controls")
@dataclass(frozen=True, kw_only=True)
class FixedControls(Honest):
    def controls(self) -> tuple[Fittable, ...]:
        place = Placement(location=(0.5, 0.5))
        return (GreySticker(perturbation=replace(self.perturbation, placement=place)),)


@caught_by("controls")
@dataclass(frozen=True, kw_only=True)
class ControlsOfItsOwn(Honest):
    def controls(self) -> tuple[Fittable, ...]:
        return (Honest(),)


@dataclass(frozen=True, kw_only=True)
class _ElsewhereNoise(Fittable):
    """Noise in the declared set, but pasted by an attack that draws places of its own."""

    access: ClassVar[Access] = "none"
    perturbation: Patch = Patch(resolution=3)
    images: int = 1

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(images=2)

    def fit(self, models: Any, batches: Batches, **terms: Any) -> Attack:
        attack = NoiseSticker(perturbation=self.perturbation).fit(models, batches, **terms)
        assert isinstance(attack, RandomNoise)
        return replace(attack, steps=2)

    def controls(self) -> tuple[Fittable, ...]:
        return ()


@caught_by("controls")
@dataclass(frozen=True, kw_only=True)
class ControlsElsewhere(Honest):
    def controls(self) -> tuple[Fittable, ...]:
        return (_ElsewhereNoise(perturbation=self.perturbation),)


@caught_by("beats_controls")
def pastes_noise(inner: Honest, models: Any, batches: Any, terms: dict[str, Any]) -> Attack:
    return NoiseSticker(perturbation=inner.perturbation).fit(models, batches, **terms)


HONEST = (Honest(), Honest(perturbation=Patch(mask=Square(), resolution=2)), GreySticker())
