"""Bugs found in other toolboxes, numbered for good; ours must not have them.

Those that concern every attack run on an example of each one that is registered. B15 and B16, a
run that cannot go on after it was killed, are in tests/advbench/test_resume.py.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from advbench import registry
from advbench.attacks import (
    APGD,
    BIM,
    DLR,
    JSMA,
    NES,
    PGD,
    SPSA,
    Affine,
    Attack,
    CrossEntropy,
    Flag,
    Margin,
    Patch,
    RandomNoise,
    SquareAttack,
    Sticker,
)
from advbench.attacks.ensembles.autoattack import AutoAttack
from advbench.attacks.perturbations.perturbation import Pixels
from advbench.bench.evaluate import evaluate
from advbench.report.pictures import pixels
from advbench.testing.manners import photograph, random_states
from advbench.testing.requirement import require_same, stack
from advbench.testing.strength import half_space
from advbench.testing.victims import (
    After,
    Case,
    Stalled,
    Stateful,
    Watched,
    Wavy,
    case,
    inputs,
    linear,
    scale,
    shape_for,
    smooth,
)
from advbench.trust.answers import answers_at_random, draw_seeds, tally

KINDS = [registry.get("attacks", name) for name in registry.names("attacks")]
ATTACKS: list[Attack] = [kind.examples()[0] for kind in KINDS if issubclass(kind, Attack)]
GRADIENT = [one for one in ATTACKS if one.access == "gradient"]
PIXELS = [one for one in GRADIENT if isinstance(one.perturbation, Pixels)]
every = pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: type(one).__name__)
with_gradient = pytest.mark.parametrize("attack", GRADIENT, ids=lambda one: type(one).__name__)
on_pixels = pytest.mark.parametrize("attack", PIXELS, ids=lambda one: type(one).__name__)


def few(attack: Attack, count: int = 2, share: float = 0.1) -> tuple[Case, float]:
    """Return a smooth victim with a few inputs, and an eps."""
    given = smooth(count=count, shape=shape_for(attack))
    return given, scale(attack, given.x, share)


def dropped(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda _, logits: change(logits)


@every
def test_b01_negative_logits_are_logits(attack: Attack) -> None:
    (model, x, y, _), eps = few(attack)
    plain = attack.run(model, x, y, eps=eps)
    low = attack.run(After(model, dropped(lambda z: z - 100)), x, y, eps=eps)
    assert (plain.success == low.success).all()
    torch.testing.assert_close(low.x_adv, plain.x_adv, rtol=0, atol=1e-6)


@on_pixels
def test_b02_a_black_and_white_image_moves(attack: Attack) -> None:
    (model, x, _, _), _ = few(attack, count=3)
    x = (x > 0.5).to(x)
    y = model(x).argmax(1)
    moved = attack.run(model, x, y, eps=scale(attack, x, 0.5), stop="never").x_adv
    assert (moved != x).flatten(1).any(1).all()


@every
def test_b03_no_row_depends_on_its_batch(attack: Attack) -> None:
    """N10: Three rows together are three calls."""
    (model, x, y, _), eps = few(attack, count=3)
    together = attack.run(model, x, y, eps=eps, stop="never")
    alone = [
        attack.run(model, x[i, None], y[i, None], eps=eps, ids=torch.tensor([i]), stop="never")
        for i in range(3)
    ]
    require_same(attack, together, stack(alone), "differs in company")


class Pairs(nn.Module):
    """Class 1 leads with the two pixels that are left to move; the others are the largest."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.tensor([9.0, 2.0, 8.0, 1.5, 0.1], dtype=x.dtype)
        lead = x.flatten(1) @ weights - 18.9
        return torch.stack([-lead, lead], 1)


def test_b04_jsma_takes_no_pixel_that_cannot_move() -> None:
    x = torch.tensor([[1.0, 0.2, 1.0, 0.2, 0.2]], dtype=torch.float64)
    y = torch.tensor([0])
    assert Pairs()(x)[0, 1] < 0
    found = JSMA(share=1.0, direction="both").run(Pairs(), x, y)
    assert found.success.all()
    assert (found.x_adv[0, [0, 2]] == 1).all(), "white pixels cannot become whiter"
    assert (found.x_adv[0, [1, 3]] > 0.2).any()
    assert found.size <= 2


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_b05_jsma_has_no_class_of_its_own(classes: int) -> None:
    model, x, y, _ = linear(classes, count=3)
    found = JSMA(share=1.0, direction="both").run(model, x, y)
    assert (found.success == (model(found.x_adv).argmax(1) != y)).all()
    assert found.success.all()


@pytest.mark.parametrize(
    "attack",
    [*PIXELS, SPSA.examples()[0], NES.examples()[0]],
    ids=lambda one: type(one).__name__,
)
def test_b06_targeted_goes_to_the_target(attack: Attack) -> None:
    given, _, _ = half_space(shape_for(attack), count=3)
    targets = 1 - given.y
    eps = scale(attack, given.x, 0.5)
    found = attack.run(given.model, given.x, given.y, eps=eps, targets=targets)
    assert found.success.all()
    assert (given.model(found.x_adv).argmax(1) == targets).all()


@with_gradient
def test_b07_one_zero_gradient_is_no_end(attack: Attack) -> None:
    """N3: Whatever it is divided by, momentum too."""
    given, _, _ = half_space(shape_for(attack), count=3)
    eps = scale(attack, given.x, 0.3)
    found = attack.run(Stalled(given.model), given.x, given.y, eps=eps, stop="never")
    assert found.x_adv.isfinite().all()
    assert found.loss.isfinite().logical_or(found.success).all()
    assert ((found.flags & Flag.ZERO_GRADIENT) != 0).all()
    again = attack.run(Stalled(given.model), given.x, given.y, eps=eps, stop="never")
    require_same(attack, again, found, "differs in a second call")


@with_gradient
def test_b08_a_flat_model_gives_no_nan(attack: Attack) -> None:
    (model, x, y, _), eps = few(attack)
    flat = After(model, dropped(lambda z: z.detach() * 0 + torch.tensor([1.0, 0.0, -1.0]) + 0 * z))
    found = attack.run(flat, x, y * 0, eps=eps)
    assert found.x_adv.isfinite().all()
    assert not found.success.any()


def test_b09_large_logits_are_flagged_and_a_margin_bears_them() -> None:
    given, _, _ = half_space((1, 4, 5))
    model, x = given.model.float(), given.x.float()
    large = After(model, dropped(lambda z: z * 1e5))
    plain = PGD(loss=Margin(), steps=20).run(model, x, given.y, eps=0.2)
    margin = PGD(loss=Margin(), steps=20).run(large, x, given.y, eps=0.2)
    entropy = PGD(loss=CrossEntropy(), steps=20, random_start=False).run(
        large, x, given.y, eps=0.2, stop="never"
    )
    assert plain.success.all()
    assert (margin.success == plain.success).all()
    assert ((entropy.flags & Flag.ZERO_GRADIENT) != 0).any()
    assert not entropy.success[(entropy.flags & Flag.ZERO_GRADIENT) == 0].logical_not().any()


def test_b10_the_published_presets_are_what_they_are_called() -> None:
    standard = AutoAttack().attacks
    assert [type(one).__name__ for one in standard] == ["APGD", "APGD", "FAB", "SquareAttack"]
    first, single, fab, square = standard
    assert (first.steps, first.restarts, first.loss) == (100, 1, CrossEntropy())  # type: ignore[attr-defined]
    assert (single.steps, single.target_classes, single.loss) == (100, 9, DLR())  # type: ignore[attr-defined]
    assert (fab.steps, fab.target_classes) == (100, 9)  # type: ignore[attr-defined]
    assert square == SquareAttack(steps=5000)
    plus = AutoAttack(preset="plus").attacks
    assert [one.restarts for one in plus][:3] == [5, 5, 5]  # type: ignore[attr-defined]


@every
def test_b11_modes_come_back_after_an_exception(attack: Attack) -> None:
    model = Stateful(2, shape_for(attack))
    before = photograph(model)
    x = inputs(6, 2, shape_for(attack), torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    with suppress(InterruptedError):
        attack.run(model, x, y, eps=scale(attack, x, 0.1), stop="never")
    assert photograph(model) == before


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 2, 4), (7,)], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_b12_every_shape_and_every_number_of_classes(shape: tuple[int, ...], classes: int) -> None:
    model, x, y, targets = linear(classes, count=2, shape=shape)
    for attack in (PGD(loss=DLR(), steps=20), APGD(loss=DLR(), steps=20)):
        for aims in (None, targets):
            found = attack.run(model, x, y, eps=0.5, targets=aims, stop="never")
            assert found.loss.isfinite().all()
            assert found.success.all()


def test_b13_bytes_are_rounded() -> None:
    """N7: And not cut off, which would lose half a level on average."""
    values = torch.linspace(0, 1, 24).view(3, 2, 4)
    assert (pixels(values) == (values * 255).round().permute(1, 2, 0).numpy()).all()
    assert pixels(torch.full((1, 1, 1), 127.9 / 255)).tolist() == [[[128, 128, 128]]]


@every
def test_b14_no_global_random_state_is_touched(attack: Attack) -> None:
    """N9: Those of torch, NumPy and Python."""
    (model, x, y, _), eps = few(attack)
    before = random_states()
    attack.run(model, x, y, eps=eps)
    assert random_states() == before


@every
def test_b17_b30_a_second_call_is_as_good_as_the_first(attack: Attack) -> None:
    (model, x, y, _), eps = few(attack)
    described = repr(attack)
    first = attack.run(model, x, y, eps=eps, stop="never")
    second = attack.run(model, x, y, eps=eps, stop="never")
    require_same(attack, second, first, "differs in a second call", tolerance=0)
    assert repr(attack) == described


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 6, 2), (1, 1, 1)], ids=str)
def test_b18_squares_reach_every_pixel(shape: tuple[int, ...]) -> None:
    model = Watched(linear(2, count=1, shape=shape).model)
    x = inputs(2, 1, shape, torch.float64)
    y = model.model(x).argmax(1)
    SquareAttack(steps=150, share=0.05).run(model, x, y, eps=1e-9, stop="never")
    seen = torch.stack([images[0] for images, _ in model.seen if len(images)])
    flips = (seen != seen[:1]).any(0)
    assert flips.all(), "the last row and the last column as well"


@every
def test_b19_a_tie_is_no_success(attack: Attack) -> None:
    (model, x, y, _), eps = few(attack)
    tied = After(model, dropped(lambda z: torch.stack([z[:, 0], z[:, 0], z[:, 0] - 1], 1)))
    assert not attack.run(tied, x, y * 0, eps=eps).success.any()


class Nervous(nn.Module):
    """Right nine times of ten, whatever it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        wrong = torch.rand(len(x)) < 0.1
        right = x.flatten(1).sum(1) * 0 + 1
        return torch.stack([right, torch.where(wrong, 2.0, 0.0)], 1)


def test_b20_luck_is_no_success() -> None:
    x, y = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64)
    assert answers_at_random(Nervous(), x, 40)
    table = evaluate(Nervous(), (x, y), [RandomNoise(steps=20)], 0.1, draws=40).table
    assert (table["robust_accuracy"] - 0.9).abs().max() < 0.04, "twenty tries are no twenty chances"
    told = tally(Nervous(), x, y, 40, seeds=draw_seeds("test", 0, 40))
    assert 0.85 < told.right.mean() < 0.95


def test_b21_a_shift_is_a_roll_and_a_turn_keeps_lengths() -> None:
    x = torch.zeros(1, 1, 8, 33)
    x[0, 0, 4, 16] = 1
    moved = Affine(rotation=0, shift=3).apply(x, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(moved, x.roll((3, -3), (2, 3)))
    still = Affine().apply(x, torch.zeros(1, 3))
    assert (still == x).all()
    square = torch.rand(1, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    turned = Affine(rotation=90, shift=0).apply(square, torch.tensor([[1.0]]))
    torch.testing.assert_close(turned, square.rot90(1, (2, 3)))
    bar = torch.zeros(1, 1, 33, 65)
    bar[0, 0, 16, 27:38] = 1
    upright = Affine(rotation=90, shift=0).apply(bar, torch.tensor([[1.0]]))
    assert upright[0, 0, 11:22, 32].tolist() == pytest.approx([1] * 11), "eleven pixels stay eleven"
    assert float(upright.sum()) == pytest.approx(11)


@every
def test_b22_b32_a_failed_row_is_no_blank(attack: Attack) -> None:
    (model, x, y, _), _ = few(attack)
    sure = After(model, dropped(lambda z: z * 0 + torch.tensor([9.0, 0.0, 0.0]) + 0.001 * z))
    found = attack.run(sure, x, y * 0, eps=scale(attack, x, 0.05), stop="never")
    assert not found.success.any()
    assert (found.x_adv != 0).flatten(1).any(1).all()
    made = attack.perturbation.apply(x, found.p)
    torch.testing.assert_close(found.x_adv, made)


def test_b23_b32_the_best_iterate_not_the_last() -> None:
    model = Wavy()
    given = case(model, inputs(9, 4, (1, 4, 5), torch.float64))
    by_steps = [
        BIM(step_size=0.3, steps=steps).run(model, given.x, given.y, eps=0.2, stop="never").loss
        for steps in (1, 3, 9, 27)
    ]
    by_restarts = [
        PGD(steps=3, restarts=runs).run(model, given.x, given.y, eps=0.2, stop="never").loss
        for runs in (1, 2, 5)
    ]
    for losses in (by_steps, by_restarts):
        for before, after in pairwise(losses):
            assert (after >= before).all()
        assert (losses[-1] > losses[0]).any()


@every
def test_b24_labels_of_32_bits_are_labels(attack: Attack) -> None:
    (model, x, y, _), eps = few(attack)
    plain = attack.run(model, x, y, eps=eps)
    require_same(attack, attack.run(model, x, y.int(), eps=eps), plain, "differs with int32")


def test_b25_nothing_adds_up_over_evaluations() -> None:
    model, x, y, _ = linear(count=4, dtype=torch.float32)
    tables = [evaluate(model, (x, y), [BIM()], 0.05).table for _ in range(2)]
    columns = [name for name in tables[0].columns if name != "seconds"]
    assert tables[0][columns].equals(tables[1][columns])


@every
def test_b26_no_rows_no_crash_and_no_hook_is_left(attack: Attack) -> None:
    (model, x, y, _), eps = few(attack)
    before = photograph(model)
    found = attack.run(model, x[:0], y[:0], eps=eps)
    assert len(found.x_adv) == 0
    assert photograph(model) == before


def test_b27_a_patch_is_fitted_by_its_own_gradients_alone() -> None:
    given = smooth(count=4)
    one = Sticker.examples()[0]
    fits = [one.fit(given.model, [(given.x, given.y)], eps=0.3) for _ in range(2)]
    assert fits[0] == fits[1], "what an earlier fit left behind would change the second"
    assert all(parameter.grad is None for parameter in given.model.parameters())


def test_b28_one_step_does_not_saturate_a_patch() -> None:
    model, x, y, _ = linear(count=4)
    attack = PGD(perturbation=Patch(), steps=1, step_size=0.05, random_start=False)
    found = attack.run(model, x, y, eps=0.3, stop="never")
    changed = found.x_adv[found.x_adv != x]
    assert len(changed)
    assert ((changed <= 0) | (changed >= 1)).double().mean() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_b29_a_shift_is_along_height_and_width(channels: int) -> None:
    x = torch.rand(1, channels, 9, 11, generator=torch.Generator().manual_seed(0))
    shifts = Affine(rotation=0, shift=2)
    down = shifts.apply(x, torch.tensor([[1.0, 0.0]]))
    right = shifts.apply(x, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(down[:, :, 2:], x[:, :, :-2])
    torch.testing.assert_close(right[:, :, :, 2:], x[:, :, :, :-2])


def test_b30_every_row_has_a_transform_of_its_own() -> None:
    model, x, y, _ = linear(count=4)
    same = x[:1].expand(4, -1, -1, -1)
    attack = RandomNoise(perturbation=Affine(shift=1), steps=1)
    p = attack.run(model, same, y[:1].expand(4), eps=1.0, stop="never").p
    assert len(p.unique(dim=0)) == 4


@every
def test_b31_what_is_counted_is_what_the_model_saw(attack: Attack) -> None:
    (model, x, y, _), _ = few(attack)
    watched = Watched(model)
    found = attack.run(watched, x, y, eps=scale(attack, x, 0.02), stop="never")
    assert int(found.forwards.sum()) == watched.forwards
    assert int(found.backwards.sum()) == watched.backwards
