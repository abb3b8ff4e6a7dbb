"""Variance tuning: what the correction is made of, where it enters, and what it falls back to."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks import (
    L1,
    L2,
    MIFGSM,
    NIFGSM,
    VMIFGSM,
    VNIFGSM,
    CrossEntropy,
    Linf,
    Patch,
    Perturbation,
)
from advbench.attacks.criterion import Criterion
from advbench.testing.victims import Watched, smooth
from tests.attacks.closed_form import assert_sharp

KINDS = [(VMIFGSM, MIFGSM), (VNIFGSM, NIFGSM)]
EPS = 0.1


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()], ids=repr)
def test_neighbours_at_no_distance_change_nothing(perturbation: Perturbation) -> None:
    model, x, y, _ = smooth(count=5)
    got = VMIFGSM(perturbation=perturbation, neighbours=2, reach=0.0)(model, x, y, eps=EPS)
    want = MIFGSM(perturbation=perturbation)(model, x, y, eps=EPS)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    if perturbation != L1():  # whose best pixel is the same for all neighbours
        far = VMIFGSM(perturbation=perturbation, neighbours=2)(model, x, y, eps=EPS)
        assert not torch.allclose(far, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("tuned", "plain"), KINDS)
def test_without_memory_of_the_gradient_the_look_ahead_is_the_iterate(tuned, plain) -> None:
    model, x, y, _ = smooth(count=5)
    terms: dict[str, Any] = {"decay": 0.0, "neighbours": 2}
    got = tuned(**terms)(model, x, y, eps=EPS)
    torch.testing.assert_close(got, VMIFGSM(**terms)(model, x, y, eps=EPS))
    still = tuned(**terms, reach=0.0)(model, x, y, eps=EPS)
    torch.testing.assert_close(still, plain(decay=0.0)(model, x, y, eps=EPS))


@pytest.mark.parametrize(("tuned", "plain"), KINDS)
def test_first_step_is_not_corrected(tuned, plain) -> None:
    """Step 2 asks where the plain attack does, step 3 no longer."""
    model, x, y, _ = smooth(count=5)
    ours, theirs = Watched(model), Watched(model)
    tuned(perturbation=L2(), steps=3, neighbours=2)(ours, x, y, eps=EPS)
    plain(perturbation=L2(), steps=3)(theirs, x, y, eps=EPS)
    at = [images for images, _ in ours.seen[::3]]
    for step, same in ((0, True), (1, True), (2, False)):
        assert torch.allclose(at[step], theirs.seen[step][0]) == same


def test_steps_are_those_of_the_paper() -> None:
    """The iterates follow from the images that the model was asked about, by algorithm 1."""
    model, x, y, _ = smooth(count=3)
    watched = Watched(model)
    VMIFGSM(steps=3, neighbours=4, decay=0.9, reach=0.3)(watched, x, y, eps=EPS)
    seen = [images for images, _ in watched.seen]
    assert len(seen) == 3 * 5 + 1

    def gradient(images: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        loss = CrossEntropy()(model(images), Criterion(y)).sum()
        return torch.autograd.grad(loss, images)[0]

    g, v = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(3):
        at, *near = seen[5 * t : 5 * t + 5]
        own = gradient(at)
        whole = own + v
        g = 0.9 * g + whole / whole.abs().mean((1, 2, 3), keepdim=True)
        v = torch.stack([gradient(one) for one in near]).mean(0) - own
        moved = (at + EPS / 3 * g.sign() - x).clamp(-EPS, EPS) + x
        torch.testing.assert_close(seen[5 * t + 5], moved)


def test_neighbours_differ_from_each_other_between_rows_and_steps() -> None:
    model, x, y, _ = smooth(count=1)
    x, y = x.repeat(2, 1, 1, 1), y.repeat(2)
    watched = Watched(model)
    VMIFGSM(steps=2, neighbours=3)(watched, x, y, eps=EPS)
    near = torch.cat([watched.seen[k][0] for k in (1, 2, 3, 5, 6, 7)])
    assert len({tuple(image.flatten().tolist()) for image in near}) == 12


@pytest.mark.parametrize("perturbation", [Linf(), L2(), L1()], ids=repr)
def test_every_query_is_a_legal_answer(perturbation) -> None:
    model, x, y, _ = smooth(count=3)
    for kind in (VMIFGSM, VNIFGSM):
        watched = Watched(model)
        kind(perturbation=perturbation, steps=3, neighbours=3)(watched, x, y, eps=EPS)
        for images, _ in watched.seen:
            assert (perturbation.size(x, images - x) <= EPS * (1 + 1e-9)).all()


@pytest.mark.parametrize("kind", [VMIFGSM, VNIFGSM])
def test_reaches_the_exact_distance_on_a_half_space(kind) -> None:
    assert_sharp(kind(neighbours=2))


def test_defaults_and_cost_are_those_of_the_paper() -> None:
    for attack in (VMIFGSM(), VNIFGSM()):
        assert (attack.steps, attack.step_size, attack.decay) == (10, None, 1.0)
        assert (attack.neighbours, attack.reach) == (20, 1.5)
        assert attack.queries == 10 * 21 + 1


def test_wrong_fields_are_refused() -> None:
    for kind in (VMIFGSM, VNIFGSM):
        with pytest.raises(ValueError, match="neighbours must be a whole number of at least 1"):
            kind(neighbours=0)
        with pytest.raises(ValueError, match="reach must be a number of at least 0"):
            replace(kind(), reach=-1.0)
        with pytest.raises(ValueError, match=r"perturbation must be Linf\(\), L2\(\) or L1\(\)"):
            kind(perturbation=Patch())
