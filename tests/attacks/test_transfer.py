"""Views: what they show, what they cost, and that success is never read from them."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench import registry
from advbench.attacks import (
    EOT,
    L2,
    MIFGSM,
    PGD,
    Attack,
    CrossEntropy,
    DiverseInputs,
    Patch,
    Pose,
    RandomNoise,
    ScaledCopies,
    Transfer,
    Translation,
    View,
)
from advbench.attacks.criterion import Criterion
from advbench.attacks.randomness import Draws
from advbench.attacks.transfer.view import Views
from advbench.config import load
from advbench.testing.victims import Watched, smooth

SHAPE = (3, 6, 5)
IDLE: list[tuple[View, ...]] = [
    (),
    (DiverseInputs(share=0.0),),
    (DiverseInputs(share=1.0, rate=1.0),),
    (Translation(kernel=1),),
    (ScaledCopies(copies=1),),
    (Translation(kernel=1), DiverseInputs(share=0.0), ScaledCopies(copies=1)),
]


def draws(count: int) -> Draws:
    zero = torch.zeros(count, dtype=torch.int64)
    return Draws(zero + 5, torch.arange(count), zero, zero)


def shown(view: View, images: Tensor, copy: int = 0) -> Tensor:
    number = torch.full((len(images),), copy)
    return view(images, number, draws(len(images)))


@pytest.mark.parametrize("views", IDLE, ids=repr)
@pytest.mark.parametrize("stop", ["never", "success"])
@pytest.mark.parametrize("attack", [MIFGSM(), PGD(perturbation=L2(), steps=5)], ids=repr)
def test_views_of_nothing_are_the_attack_itself(attack: Attack, stop: Any, views) -> None:
    model, x, y, targets = smooth(count=6, shape=SHAPE)
    for aims in (None, targets):
        terms: dict[str, Any] = {"eps": 0.03, "targets": aims, "stop": stop}
        got = Transfer(attack=attack, views=views).run(model, x, y, **terms)
        want = attack.run(model, x, y, **terms)
        assert torch.equal(got.x_adv, want.x_adv)
        assert torch.equal(got.success, want.success)
        assert torch.equal(got.loss, want.loss)
        assert torch.equal(got.backwards, want.backwards)


@pytest.mark.parametrize(
    "views",
    [(DiverseInputs(share=1.0, rate=1.4),), (Translation(kernel=3),), (ScaledCopies(copies=2),)],
    ids=repr,
)
def test_a_view_changes_the_answer(views) -> None:
    model, x, y, _ = smooth(count=6, shape=SHAPE)
    plain = MIFGSM()(model, x, y, eps=0.03)
    assert not torch.equal(Transfer(views=views)(model, x, y, eps=0.03), plain)


@pytest.mark.parametrize(
    ("views", "forwards", "backwards"),
    [
        ((Translation(),), 1, 1),
        ((ScaledCopies(copies=4),), 4, 4),
        ((DiverseInputs(),), 2, 1),
        ((DiverseInputs(copies=3),), 4, 3),
        ((Translation(), DiverseInputs(copies=2), ScaledCopies(copies=3)), 7, 6),
    ],
    ids=repr,
)
def test_a_query_costs_a_pass_for_each_copy(views, forwards: int, backwards: int) -> None:
    model, x, y, _ = smooth(count=3, shape=SHAPE)
    watched = Watched(model)
    attack = Transfer(attack=MIFGSM(steps=4), views=views)
    found = attack.run(watched, x, y, eps=0.03, stop="never")
    assert (found.forwards == 5 * forwards).all()
    assert (found.backwards == 4 * backwards).all()
    assert watched.forwards == int(found.forwards.sum())
    assert attack.queries == 5 * forwards


def expected(images: Tensor, frame: int, size: int, top: int, left: int) -> Tensor:
    """Enlarge to ``size``, put into a frame, shrink again."""
    side = images.shape[-1]
    large = functional.interpolate(images, (size, size), mode="bilinear")
    rest = frame - size
    framed = functional.pad(large, (left, rest - left, top, rest - top))
    return functional.interpolate(framed, (side, side), mode="bilinear")


def test_diverse_inputs_are_all_places_in_the_frame_and_differ_per_row() -> None:
    image = torch.rand(1, 2, 10, 10, generator=torch.Generator().manual_seed(1)).double()
    rows = 400
    seen = shown(DiverseInputs(share=1.0, rate=1.2), image.expand(rows, -1, -1, -1))
    places = [
        (size, top, left)
        for size in (10, 11, 12)
        for top, left in product(range(13 - size), repeat=2)
    ]
    wanted = torch.stack([expected(image, 12, *place)[0] for place in places])
    gaps = torch.cdist(seen.flatten(1), wanted.flatten(1), p=torch.inf)
    assert (gaps.amin(1) < 1e-9).all()
    assert set(gaps.argmin(1).tolist()) == set(range(len(places)))


def test_a_share_of_the_images_is_left_as_it_is() -> None:
    images = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    same = (shown(DiverseInputs(share=0.3), images) == images).flatten(1).all(1)
    assert 0.66 <= same.float().mean() <= 0.74
    assert not (shown(DiverseInputs(share=1.0), images) == images).flatten(1).all(1).any()


def test_oblong_images_keep_their_shape_and_proportions() -> None:
    images = torch.ones(300, 1, 10, 20)
    seen = shown(DiverseInputs(share=1.0, rate=1.2), images)
    assert seen.shape == images.shape
    full = (seen > 0.999).flatten(1).all(1)
    assert 0 < full.float().mean() < 0.5  # both sides are enlarged by the same draw


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_translation_smooths_the_gradient_of_every_channel(channels: int) -> None:
    x = torch.rand(2, channels, 9, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    seen = shown(Translation(kernel=5), x)
    assert torch.equal(seen, x)
    (gradient,) = torch.autograd.grad((seen * weight).sum(), x)
    at = torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0], dtype=x.dtype)
    line = torch.exp(-at.square() / 2)
    plane = torch.outer(line, line)
    kernel = (plane / plane.sum()).expand(channels, 1, 5, 5)
    want = functional.conv2d(weight, kernel, padding=2, groups=channels)
    torch.testing.assert_close(gradient, want)


def test_copies_are_halved_again_and_again() -> None:
    x = torch.rand(2, 1, 3, 3)
    for number in range(5):
        assert torch.equal(shown(ScaledCopies(), x, number), x / 2**number)


@pytest.mark.parametrize("view", [DiverseInputs(share=1.0), Translation()], ids=repr)
def test_flat_inputs_are_seen_as_they_are(view: View) -> None:
    x = torch.rand(4, 12, requires_grad=True)
    seen = shown(view, x)
    assert torch.equal(seen, x)
    (gradient,) = torch.autograd.grad((seen * x.detach()).sum(), x)
    assert torch.equal(gradient, x)


def test_loss_is_the_mean_over_every_combination_of_copies() -> None:
    views = Views((ScaledCopies(copies=2), ScaledCopies(copies=3)))
    x = torch.rand(6, 1, 2, 2)
    seen = views(x, torch.arange(6), draws(6))
    found = (x / seen)[:, 0, 0, 0].log2().round().int().tolist()
    assert sorted(found) == [0, 1, 1, 2, 2, 3]
    model, x, y, _ = smooth(count=3, shape=SHAPE)
    attack = Transfer(attack=MIFGSM(steps=1), views=(ScaledCopies(copies=3),))
    watched = Watched(model)
    attack(watched, x, y, eps=0.03)
    first = watched.seen[0][0].view(3, 3, *SHAPE)
    for number in range(3):
        torch.testing.assert_close(first[:, number], x / 2**number)
    losses = [CrossEntropy()(model(x / 2**i), Criterion(y)) for i in range(3)]
    found_loss = attack.run(model, x, y, eps=1e-9, stop="never").loss
    torch.testing.assert_close(found_loss, torch.stack(losses).mean(0), rtol=1e-6, atol=1e-6)


class _Dark(nn.Module):
    """Sees class 1 in whatever is darker than any image of the set."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 0.2 - x.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize("stop", ["never", "success"])
def test_success_is_read_from_the_image_alone(stop: Any) -> None:
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    attack = Transfer(views=(ScaledCopies(),))
    assert not attack.run(_Dark(), x, y, eps=0.2, stop=stop).success.any()
    assert attack.run(_Dark(), x, y, eps=0.4, stop=stop).success.all()


def test_draws_of_a_random_model_are_seen_through_the_views_too() -> None:
    model, x, y, _ = smooth(count=3, shape=SHAPE)
    attack = Transfer(attack=MIFGSM(steps=2), views=(ScaledCopies(copies=2),))
    found = attack.run(model, x, y, eps=0.03, eot=EOT(3), stop="never")
    assert (found.backwards == 2 * 6).all()
    plain = attack.run(model, x, y, eps=0.03, stop="never")
    torch.testing.assert_close(found.x_adv, plain.x_adv, rtol=0, atol=1e-9)


def test_the_place_of_a_patch_is_not_left_to_chance() -> None:
    model, x, y, _ = smooth(count=3, shape=SHAPE)
    attack = PGD(perturbation=Patch(), steps=4)
    got = Transfer(attack=attack, views=(Translation(kernel=1),)).run(model, x, y, eps=0.2)
    want = attack.run(model, x, y, eps=0.2)
    assert torch.equal(got.x_adv, want.x_adv)
    assert torch.equal(got.forwards, want.forwards)


def test_defaults_are_those_of_the_papers() -> None:
    assert (DiverseInputs().share, DiverseInputs().rate, DiverseInputs().copies) == (0.5, 1.1, 1)
    assert Translation().kernel == 15
    assert ScaledCopies().copies == 5
    assert Transfer() == Transfer(attack=MIFGSM(), views=(DiverseInputs(),))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Transfer(attack=RandomNoise()), "must follow gradients of images"),
        (lambda: Transfer(attack=PGD(perturbation=Pose())), "must follow gradients of images"),
        (lambda: Transfer(views=(3,)), r"values such as DiverseInputs\(\)"),  # type: ignore[arg-type]
        (lambda: DiverseInputs(share=1.5), r"share must lie in \[0, 1\]"),
        (lambda: DiverseInputs(rate=0.9), "rate must be a number of at least 1"),
        (lambda: DiverseInputs(copies=0), "copies must be a whole number"),
        (lambda: Translation(kernel=4), "odd number"),
        (lambda: ScaledCopies(copies=0), "copies must be a whole number"),
    ],
)
def test_wrong_fields_are_refused(make, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_views_can_be_named_in_a_file(tmp_path) -> None:
    assert registry.names("views") == ["diverse_inputs", "scaled_copies", "translation"]
    path = tmp_path / "run.toml"
    path.write_text(
        '[[model]]\nname = "zoo:digits/cnn"\n[[attack]]\nname = "transfer"\neps = 0.1\n'
        'views = [["diverse_inputs", { name = "scaled_copies", copies = 3 }], ["translation"]]\n'
    )
    settings, _ = load(path)
    assert [entry.attack for entry in settings.attack] == [
        Transfer(views=(DiverseInputs(), ScaledCopies(copies=3))),
        Transfer(views=(Translation(),)),
    ]
