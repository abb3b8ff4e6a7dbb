"""Several attacks as one: the worst of each sample, AutoAttack's published sets, the cascade."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from advbench.attacks import (
    APGD,
    BIM,
    DLR,
    FGSM,
    L0,
    L1,
    L2,
    PGD,
    AutoAttack,
    CrossEntropy,
    Linf,
    Loss,
    Margin,
    RandomNoise,
    RelativeMargin,
    Robust,
    Rounds,
    TemperedMargin,
    Worst,
)
from advbench.attacks.criterion import margin
from advbench.testing.victims import After, Watched, Wavy, case, inputs, smooth
from tests.attacks.closed_form import assert_sharp

BIMS = BIM(steps=3), BIM(steps=6, loss=Margin())


def test_worst_breaks_what_any_of_its_attacks_breaks() -> None:
    model, x, y, _ = smooth(count=40)
    attacks = FGSM(), BIM(steps=4), BIM(steps=20, loss=Margin())
    alone = [attack.run(model, x, y, eps=0.1).success for attack in attacks]
    found = Worst(attacks=attacks).run(model, x, y, eps=0.1)
    assert torch.equal(found.success, torch.stack(alone).any(0))
    assert 0 < found.success.sum() < 40


def test_only_survivors_meet_the_next_attack() -> None:
    model, x, y, _ = smooth(count=40)
    first = BIMS[0].run(model, x, y, eps=0.1)
    both = Worst(attacks=BIMS).run(model, x, y, eps=0.1)
    assert torch.equal(both.forwards[first.success], first.forwards[first.success])
    assert (both.forwards[~first.success] > first.forwards[~first.success]).all()


def test_an_answer_knows_which_attack_it_is_from() -> None:
    model, x, y, _ = smooth(count=40)
    first = FGSM().run(model, x, y, eps=0.1).success
    found = Worst(attacks=(FGSM(), PGD(steps=20, loss=Margin()))).run(model, x, y, eps=0.1)
    assert (found.stage[first] == 1).all()
    assert (found.stage[found.success & ~first] == 2).all()
    assert (found.success & ~first).any()
    assert (FGSM().run(model, x, y, eps=0.1).stage == 0).all()


def test_without_stopping_the_answer_of_largest_margin_is_kept() -> None:
    model, x, y, _ = smooth(count=12)
    attacks = FGSM(), BIM(steps=20, loss=Margin())
    found = Worst(attacks=attacks)(model, x, y, eps=0.1)
    leads = [-margin(model(attack(model, x, y, eps=0.1)), y) for attack in attacks]
    assert torch.allclose(-margin(model(found), y), torch.stack(leads).amax(0), atol=1e-6)


def test_attacks_on_different_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"share one perturbation set.*Linf.*L2"):
        Worst(attacks=(PGD(), PGD(perturbation=L2())))
    with pytest.raises(ValueError, match="empty"):
        Worst(attacks=())


def test_members_draw_apart() -> None:
    """Twice the same attack with a random start is two starts."""
    model, x, y, _ = smooth(count=4)
    twice = Watched(model)
    noise = RandomNoise(steps=1)
    Worst(attacks=(noise, noise)).run(twice, x, y, eps=0.01, stop="never")
    seen = [images for images, _ in twice.seen]
    assert len({tuple(images.flatten().tolist()) for images in seen}) >= 2


# Iterations, restarts, classes headed for, in the published order (arXiv:2003.01690, 2103.01208).
PUBLISHED: dict[tuple[Any, str], list[tuple[str, dict[str, Any]]]] = {
    (Linf(), "standard"): [
        ("APGD", {"steps": 100, "restarts": 1, "loss": CrossEntropy(), "target_classes": 0}),
        ("APGD", {"steps": 100, "restarts": 1, "loss": DLR(), "target_classes": 9}),
        ("FAB", {"steps": 100, "restarts": 1, "target_classes": 9}),
        ("SquareAttack", {"steps": 5000, "restarts": 1, "share": 0.8}),
    ],
    (L1(), "standard"): [
        ("APGDL1", {"steps": 100, "restarts": 5, "loss": CrossEntropy(), "large_eps": True}),
        ("APGDL1", {"steps": 100, "restarts": 1, "target_classes": 5, "large_eps": True}),
        ("FAB", {"steps": 100, "restarts": 1, "target_classes": 9}),
        ("SquareAttack", {"steps": 5000}),
    ],
    (L2(), "plus"): [
        ("APGD", {"steps": 100, "restarts": 5, "loss": CrossEntropy(), "target_classes": 0}),
        ("APGD", {"steps": 100, "restarts": 5, "loss": DLR(), "target_classes": 0}),
        ("FAB", {"steps": 100, "restarts": 5, "target_classes": 0}),
        ("SquareAttack", {"steps": 5000}),
        ("APGD", {"steps": 100, "restarts": 1, "loss": DLR(), "target_classes": 9}),
        ("FAB", {"steps": 100, "restarts": 1, "target_classes": 9}),
    ],
    (Linf(), "rand"): [
        ("APGD", {"steps": 100, "restarts": 1, "loss": CrossEntropy(), "target_classes": 0}),
        ("APGD", {"steps": 100, "restarts": 1, "loss": DLR(), "target_classes": 0}),
    ],
}


@pytest.mark.parametrize(("key", "published"), PUBLISHED.items(), ids=str)
def test_autoattack_is_what_was_published(
    key: tuple[Any, Any], published: list[tuple[str, dict[str, Any]]]
) -> None:
    perturbation, preset = key
    members = AutoAttack(perturbation=perturbation, preset=preset).attacks
    assert [type(one).__name__ for one in members] == [name for name, _ in published]
    for member, (_, fields) in zip(members, published, strict=True):
        assert {name: getattr(member, name) for name in fields} == fields
        assert member.perturbation == perturbation


def autoattack_forwards(steps: int, square_steps: int) -> int:
    """APGD scores its last iterate, FAB asks twice a step, both heed the clean logits once."""
    return (steps + 1) + (1 + 9 * (steps + 1)) + (1 + 9 * 2 * steps) + square_steps


def test_a_robust_sample_of_ten_classes_costs_what_autoattack_costs() -> None:
    """7,770 forward passes within 2 %; of the backward passes the published program wastes some."""
    model, x, y, _ = smooth(classes=10, count=1)
    sure = After(model, lambda _, z: z + 1e4 * torch.nn.functional.one_hot(y, 10)[: len(z)])
    found = AutoAttack(steps=5, square_steps=7).run(sure, x, y, eps=0.01)
    assert not found.success
    assert int(found.forwards) == autoattack_forwards(5, 7) + 1
    assert int(found.backwards) == 5 + 9 * 5 + 9 * 5
    assert abs(autoattack_forwards(100, 5000) / 7770 - 1) < 0.02


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_autoattack_and_the_cascade_work_with_few_classes(classes: int) -> None:
    model, x, y, _ = smooth(classes=classes, count=6)
    for attack in (AutoAttack(steps=10, square_steps=5), Robust(rounds=2, black_box_steps=5)):
        assert attack.run(model, x, y, eps=0.6).success.all()
        assert not attack.run(model, x, y, eps=1e-4).success.any()


def test_autoattack_refuses_other_sets_and_presets() -> None:
    with pytest.raises(ValueError, match=r"Linf.*L0"):
        AutoAttack(perturbation=L0())
    with pytest.raises(ValueError, match="'standard', 'plus' or 'rand'"):
        AutoAttack(preset="fast")  # type: ignore[arg-type]


def test_rand_averages_over_twenty_draws() -> None:
    model, x, y, _ = smooth(count=1)
    found = AutoAttack(preset="rand", steps=2).run(model, x, y, eps=1e-6)
    assert int(found.backwards) == 2 * 2 * 20


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()], ids=repr)
def test_the_cascade_is_sharp_on_a_half_space(perturbation: Any) -> None:
    few = {"rounds": 2, "long_rounds": 1, "long_steps": 20, "black_box_steps": 5}
    assert_sharp(Robust(perturbation=perturbation, **few))


def test_far_samples_leave_after_the_short_rounds() -> None:
    """On a model that is sure everywhere no sample comes near: no long round, no black box."""
    model, x, y, _ = smooth(count=3)
    attack = Robust(black_box_steps=50)
    found = attack.run(model, x, y, eps=1e-4)
    assert (found.forwards < 1 + 1 + attack.round_steps * (attack.rounds + 1) + 1).all()
    assert (found.flags == 0).all()


def test_samples_without_a_gradient_meet_the_black_box() -> None:
    """Steps in the logits leave no gradient; what the black box finds is told as its own."""
    model, x, y, _ = smooth(count=24)
    steps = After(model, lambda _, z: z + (z.mul(4).round() / 4 - z).detach() - z + z.detach())
    found = Robust(black_box_steps=400).run(steps, x, y, eps=0.3)
    assert found.success.any()
    assert (found.stage[found.success] == 2).any()
    assert (found.flags != 0).all()


def test_near_samples_get_long_rounds_until_two_agree() -> None:
    attack = Rounds(near=1.0, rounds=2, round_steps=10, long_rounds=5, long_steps=20)
    short = 30
    rugged = case(Wavy(), inputs(9, 40, (1, 4, 5), torch.float64))
    found = attack.run(rugged.model, rugged.x, rugged.y, eps=0.02)
    assert (found.steps[~found.success] > short + 2 * attack.long_steps).any()
    none = replace(attack, near=0.0).run(rugged.model, rugged.x, rugged.y, eps=0.001)
    assert (none.steps[~none.success] == short).all()
    smooth_one = smooth(count=40)
    calm = attack.run(smooth_one.model, smooth_one.x, smooth_one.y, eps=0.05)
    assert (calm.steps[~calm.success] == short + 2 * attack.long_steps).float().mean() > 0.8


class DeadZone(torch.nn.Module):
    """A pixel counts from 0.5 on, and much if it is one of a few; below, gradients point away."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", 10 * torch.linspace(0, 1, 20) ** 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)
        lead = ((pixels - 0.5).relu() * self.weight - 0.2 * pixels).sum(1)
        return torch.stack([torch.zeros_like(lead), lead, torch.full_like(lead, -3)], 1)


def test_wide_balls_find_what_gradients_within_eps_hide() -> None:
    model, x, y = DeadZone(), inputs(3, 24, (1, 4, 5), torch.float32) / 5, torch.zeros(24).long()
    for narrow in (PGD(perturbation=L2(), steps=100, loss=Margin()), APGD(perturbation=L2())):
        assert not narrow.run(model, x, y, eps=0.6).success.any()
    found = Rounds(perturbation=L2()).run(model, x, y, eps=0.6)
    assert found.success.float().mean() > 0.8
    assert (found.size <= 0.6 * (1 + 1e-5)).all()


def test_rows_that_are_masked_are_not_let_go() -> None:
    """One that is far for all its rounds, but came much nearer from a wide ball, meets them all."""
    x, y = inputs(3, 24, (1, 4, 5), torch.float32) / 5, torch.zeros(24).long()
    attack = Rounds(perturbation=L2(), near=0.0)
    masked = attack.run(DeadZone(), x, y, eps=0.45)
    assert (masked.steps[~masked.success] == attack.steps).any()
    honest = smooth(count=24)
    found = attack.run(honest.model, honest.x, honest.y, eps=0.02)
    assert not found.success.all()
    assert (found.steps <= 100).all()


@pytest.mark.parametrize("loss", [TemperedMargin(), RelativeMargin()], ids=repr)
def test_margins_of_one_scale_see_neither_scale_nor_shift(loss: Loss) -> None:
    model, x, y, _ = smooth(count=12)
    attack = PGD(steps=20, loss=loss)
    plain = attack.run(model, x, y, eps=0.1, stop="never")
    for factor in (1e-4, 1e4):
        scaled = After(model, lambda _, z, factor=factor: factor * z + 7)
        found = attack.run(scaled, x, y, eps=0.1, stop="never")
        assert torch.allclose(found.loss, plain.loss, rtol=1e-6)
        assert torch.allclose(found.x_adv, plain.x_adv, atol=1e-6)


def test_rounds_see_neither_scale_nor_shift() -> None:
    model, x, y, _ = smooth(count=12)
    attack = Rounds(rounds=2, long_rounds=1, long_steps=20)
    plain = attack.run(model, x, y, eps=0.1)
    for factor in (1e-4, 1e4):
        scaled = After(model, lambda _, z, factor=factor: factor * z + 7)
        found = attack.run(scaled, x, y, eps=0.1)
        assert torch.equal(found.success, plain.success)
        assert torch.allclose(found.x_adv, plain.x_adv, atol=1e-6)
    assert Rounds.loss == RelativeMargin()


def test_proven_samples_are_not_searched() -> None:
    model, x, y, _ = smooth(count=12)
    proven = torch.tensor([True, False] * 6)
    found = Robust(black_box_steps=10).run(model, x, y, eps=0.3, proven=proven)
    assert not found.success[proven].any()
    assert (found.forwards[proven] == 1).all()
    assert (found.x_adv[proven] == x[proven]).all()
    assert found.success[~proven].all()


def test_earlier_answers_are_tried_first() -> None:
    model, x, y, _ = smooth(count=12)
    old = PGD(steps=20, loss=Margin()).run(model, x, y, eps=0.1)
    wrong = torch.zeros_like(old.p)
    found = Robust(black_box_steps=10).run(
        model, x, y, eps=0.1, replay=torch.stack([wrong, old.p], 1)
    )
    assert (found.success >= old.success).all()
    assert (found.forwards[old.success] == 3).all()
    assert (found.backwards[old.success] == 0).all()
    assert (found.forwards[~found.success] > 100).all()
    smaller = torch.full((12,), 0.01)
    again = Robust(black_box_steps=1).run(model, x, y, eps=smaller, replay=old.p.unsqueeze(1))
    assert (again.size <= 0.01 + 1e-6).all()


def test_a_replay_of_another_form_is_refused() -> None:
    model, x, y, _ = smooth(count=2)
    with pytest.raises(ValueError, match=r"replay must be \(2, M, 1, 4, 5\); got \(2, 1, 4, 5\)"):
        FGSM().run(model, x, y, eps=0.1, replay=x)
    with pytest.raises(ValueError, match=r"replay.*never"):
        FGSM().run(model, x, y, eps=0.1, replay=x.unsqueeze(1), stop="never")


def test_answers_of_the_cascade_do_not_depend_on_company() -> None:
    given = smooth(count=30)
    few = case(given.model, inputs(6, 30, given.x.shape[1:], torch.float64)[:7])
    attack = Robust(rounds=2, long_rounds=1, long_steps=20, black_box_steps=30)
    whole = attack.run(given.model, given.x, given.y, eps=0.08)
    part = attack.run(few.model, few.x, few.y, eps=0.08)
    assert torch.equal(whole.success[:7], part.success)
    assert torch.equal(whole.forwards[:7], part.forwards)
