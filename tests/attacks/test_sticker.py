"""Stickers: fitted to many images, the same for the same seed, better than their controls."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks import (
    EOT,
    MIFGSM,
    PGD,
    Attack,
    CrossEntropy,
    Fittable,
    GreySticker,
    Margin,
    NoiseSticker,
    Patch,
    Picture,
    PictureSticker,
    Placement,
    RandomNoise,
    RandomSearch,
    Square,
    Sticker,
    TotalVariation,
)
from advbench.attacks.criterion import Criterion
from advbench.attacks.expectation import Crowd
from advbench.attacks.perturbations.picture import resize
from advbench.attacks.query import Problem, Query, Record, Rules
from advbench.attacks.randomness import Draws
from advbench.attacks.victim import Victim
from advbench.data import load
from advbench.models.loading import ModelSpec, load_model
from advbench.testing.victims import Case, Watched, balanced, linear, smooth


def fitted(one: Fittable, case: Case, **terms: Any) -> Attack:
    return one.fit(case.model, [(case.x, case.y)], **{"eps": 0.3, **terms})


def picture(attack: Attack) -> Picture:
    patch = attack.perturbation
    assert isinstance(patch, Patch)
    assert patch.picture is not None
    return patch.picture


def test_a_sticker_has_three_controls_and_noise_depends_on_the_seed() -> None:
    case = smooth(count=4)
    controls = Sticker().controls()
    assert [type(one) for one in controls] == [NoiseSticker, GreySticker, PictureSticker]
    assert [one.perturbation for one in controls] == [Sticker().perturbation] * 3
    pictures = [picture(fitted(NoiseSticker(), case, seed=seed)) for seed in (0, 0, 1)]
    assert pictures[0] == pictures[1] != pictures[2]
    assert picture(fitted(GreySticker(), case)).pixels == "80" * 4


def test_a_real_picture_is_that_of_the_class_the_models_are_surest_of() -> None:
    model, x, y, _ = balanced(count=12, dtype=torch.float32)
    one = PictureSticker(perturbation=Patch(resolution=4))
    sure = model(x).softmax(1)[:, 1]
    sure[y != 1] = 0
    chosen = one.fit([model, model], [(x[:5], y[:5]), (x[5:], y[5:])], eps=0.3, targets=1)
    assert picture(chosen) == Picture.of(resize(x[int(sure.argmax())], 4))


def test_targets_that_contradict_the_labels_are_an_error() -> None:
    case = smooth(count=4)
    with pytest.raises(ValueError, match="targets must differ from the labels; all 4"):
        Sticker().fit(case.model, [(case.x, torch.ones_like(case.y))], eps=0.3, targets=1)
    with pytest.raises(ValueError, match="target 7 of sample 0 is out of range"):
        Sticker().fit(case.model, [(case.x, case.y)], eps=0.3, targets=7)
    with pytest.raises(ValueError, match="no training image is of class 7"):
        PictureSticker().fit(case.model, [(case.x, case.y)], eps=0.3, targets=7)
    with pytest.raises(ValueError, match="eps must be at most"):
        Sticker().fit(case.model, [(case.x, case.y)], eps=0.9)


def test_a_sticker_searches_a_patch_once() -> None:
    with pytest.raises(TypeError, match="without restarts"):
        Sticker(attack=PGD(perturbation=Patch(), restarts=2))
    with pytest.raises(TypeError, match="must search a Patch without a picture"):
        Sticker(attack=PGD())


def problem(case: Case) -> Problem:
    zero = torch.zeros(1, dtype=torch.int64)
    one = Criterion(case.y[:1])
    return Problem(case.x[:1], torch.full((1,), 0.3), one, Draws(zero, zero, zero, zero), zero)


def crowd_query(case: Case, patch: Patch, samples: int = 8) -> tuple[Query, Problem, Tensor]:
    now = problem(case)
    victim = Victim(case.model, case.x)
    eot = EOT(samples, crowd=Crowd(case.x, Criterion(case.y)))
    rules = Rules(victim, patch, CrossEntropy(), "gradient", "inside", eot=eot)
    p = patch.draw(now.x, now.eps, now.draws)
    return Query(rules, now, Record.blank(p)), now, p


def test_the_same_step_gives_the_same_gradient() -> None:
    """A gradient that is never zeroed would grow from step to step."""
    case = smooth(count=30, dtype=torch.float32)
    patch = Patch(resolution=3)
    gradients = []
    for _ in range(3):
        query, now, p = crowd_query(case, patch)
        gradients.append(query(p, grad=True).grad)
        moved = p + patch.steepest(now.x, p, gradients[-1], now.eps * 0)
        assert torch.equal(patch.project(now.x, moved, now.eps), p)
    assert gradients[0].any()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_a_query_of_a_crowd_sees_other_images_at_other_places() -> None:
    case = smooth(count=30, shape=(1, 12, 12), dtype=torch.float32)
    watched = Watched(case.model)
    query, _, p = crowd_query(case._replace(model=watched), Patch(), samples=12)
    probe = query(p)
    images, logits = watched.seen[0]
    assert len(images) == 12 == watched.forwards
    assert len({tuple(row.flatten().tolist()) for row in images}) == 12
    changed = (images.unsqueeze(1) != case.x.unsqueeze(0)).flatten(2)
    nearest = changed.sum(2).argmin(1)
    loss = CrossEntropy()(logits, Criterion(case.y[nearest])).mean()
    torch.testing.assert_close(probe.loss[0], loss)
    places = {tuple(changed[k, nearest[k]].tolist()) for k in range(12)}
    assert len(places) > 4


def test_under_expectation_a_patch_is_tried_elsewhere() -> None:
    case = smooth(count=3, shape=(1, 12, 12), dtype=torch.float32)
    attack = PGD(perturbation=Patch(resolution=2), steps=2)
    watched = Watched(case.model)
    found = attack.run(watched, case.x, case.y, eps=0.2, eot=EOT(4), stop="never")
    assert (found.forwards == 3 * 5).all()
    assert (found.backwards == 2 * 4).all()
    drawn, own = (images for images, _ in watched.seen[:2])
    assert (len(drawn), len(own)) == (3 * 4, 3)
    touched = (drawn != case.x.repeat_interleave(4, 0)).flatten(1)
    assert len({tuple(row.tolist()) for row in (*touched, *(own != case.x).flatten(1))}) > 3
    assert ((drawn - own.repeat_interleave(4, 0)).flatten(1).abs().amax(1) > 0).all()
    fixed = Patch(resolution=2, placement=Placement(location=(0.5, 0.5)))
    still = PGD(perturbation=fixed, steps=2).run(
        case.model, case.x, case.y, eps=0.2, eot=EOT(4), stop="never"
    )
    assert (still.forwards == 3 * 4).all()


def test_the_seed_draws_the_images_and_places() -> None:
    case = balanced(dtype=torch.float32)
    one = Sticker.examples()[1]
    first, again, other = (picture(fitted(one, case, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_images_of_the_class_to_reach_teach_nothing() -> None:
    model, x, y, _ = balanced(dtype=torch.float32)
    one, rest = Sticker.examples()[0], y != 1
    assert 0 < rest.sum() < len(y)
    whole = one.fit(model, [(x, y)], eps=0.3, targets=1)
    assert one.fit(model, [(x[rest], y[rest])], eps=0.3, targets=1) == whole


def test_equal_models_together_are_one() -> None:
    case = smooth(count=30, dtype=torch.float32)
    one = Sticker.examples()[0]
    alone = one.fit(case.model, [(case.x, case.y)], eps=0.3)
    assert one.fit([case.model, case.model], [(case.x, case.y)], eps=0.3) == alone


def test_it_finds_the_best_sticker_for_a_linear_model() -> None:
    """At one place the best pixels are black or white by the sign of the target's lead."""
    model, x, y, _ = linear(classes=2, count=60, shape=(1, 6, 6), dtype=torch.float32)
    place = Placement(location=(0.5, 0.5))
    patch = Patch(mask=Square(), placement=place, resolution=4)
    search = MIFGSM(perturbation=patch, loss=Margin(), steps=30, step_size=0.3, decay=0.5)
    aim = 1 - int(y[0])
    attack = Sticker(attack=search).fit(model, [(x, y)], eps=16 / 36, targets=aim)
    w = (model.weight[aim] - model.weight[1 - aim]).detach().view(6, 6)[1:5, 1:5]  # type: ignore[index]
    got = (picture(attack).tensor()[0] * w).sum()
    best, worst = w.clamp_min(0).sum(), w.clamp_max(0).sum()
    assert (got - worst) / (best - worst) > 0.95


def test_a_search_without_gradients_makes_a_sticker_too() -> None:
    case = smooth(count=60, dtype=torch.float32)
    patch = Patch(resolution=3)
    box = Sticker(attack=RandomSearch(perturbation=patch, steps=150, share=0.3), samples=60)

    def lead(attack: Attack) -> float:
        found = attack.run(case.model, case.x, case.y, eps=0.4, stop="never").x_adv
        return float(Margin()(case.model(found), Criterion(case.y)).detach().mean())

    noise = max(lead(fitted(NoiseSticker(perturbation=patch), case, seed=k)) for k in range(5))
    assert lead(fitted(box, case, eps=0.4)) > noise + 0.02


def test_penalties_change_the_sticker() -> None:
    case = smooth(count=40, dtype=torch.float32)
    rough = MIFGSM(perturbation=Patch(resolution=4), steps=30, step_size=0.2)
    smoothed = replace(rough, perturbation=Patch(resolution=4, penalties=(TotalVariation(3),)))
    variation = [
        float(TotalVariation(1)(picture(fitted(Sticker(attack=one), case)).tensor()[None]))
        for one in (rough, smoothed)
    ]
    assert variation[1] < 0.7 * variation[0]


def test_a_sticker_beats_its_controls_on_held_out_digits() -> None:
    model = load_model(ModelSpec(name="zoo:digits/cnn")).model
    train, test = load("digits", "train", 1000), load("digits", "test")

    def reached(one: Fittable) -> float:
        attack = one.fit(model, [(train.x, train.y)], eps=0.3, targets=3)
        assert isinstance(attack, RandomNoise)
        rest = test.y != 3
        found = attack(model, test.x[rest], test.y[rest], eps=0.3)
        return float((model(found).argmax(1) == 3).double().mean())

    sticker = Sticker()
    best = max(reached(control) for control in sticker.controls())
    assert reached(sticker) > 0.25 > 1.8 * best
