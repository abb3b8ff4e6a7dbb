"""The same answers on an accelerator, wherever model and images lie."""

import copy

import pytest
import torch
from torch import Tensor

from advbench.attacks import APGD, FGSM, L2, PGD, MinimumEps, RandomSearch
from advbench.attacks.attack import Attack
from advbench.testing.victims import smooth

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("images_too", [False, True], ids=["images-on-cpu", "images-on-gpu"])
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(),
        PGD(perturbation=L2(), steps=5, restarts=2),
        RandomSearch(steps=10),
        MinimumEps(rounds=4),
    ],
    ids=repr,
)
def test_same_answers(attack: Attack, images_too: bool) -> None:
    model, x, y, _ = smooth(count=6)
    expected = attack.run(model, x, y, eps=0.1, stop="never")
    place = "cuda" if images_too else "cpu"
    there = copy.deepcopy(model).to("cuda")
    before = torch.cuda.get_rng_state()
    found = attack.run(there, x.to(place), y.to(place), eps=0.1, stop="never")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert {value.device.type for value in found} == {place}
    torch.testing.assert_close(found.x_adv.cpu(), expected.x_adv, rtol=0, atol=1e-9)
    assert torch.equal(found.success.cpu(), expected.success)
    assert torch.equal(found.forwards.cpu(), expected.forwards)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "attack", [PGD(perturbation=L2(), steps=5), APGD(perturbation=L2(), steps=8)], ids=repr
)
def test_n1_autocast_rounds_nothing_of_the_attack(attack: Attack, dtype: torch.dtype) -> None:
    model, x, y, _ = smooth(count=6, dtype=torch.float32)
    model, x, y = model.to("cuda"), x.to("cuda"), y.to("cuda")

    def exact(images: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            logits: Tensor = model(images)
        return logits

    plain = attack.run(exact, x, y, eps=0.3, stop="never")
    with torch.autocast("cuda", dtype):
        found = attack.run(exact, x, y, eps=0.3, stop="never")
        mixed = attack.run(model, x, y, eps=0.3, stop="never")
        assert torch.is_autocast_enabled("cuda")
    assert torch.equal(found.x_adv, plain.x_adv)
    assert mixed.x_adv.dtype == torch.float32
    size = attack.perturbation.size(x.double(), mixed.p.double())
    assert (size <= 0.3 * (1 + 1e-5)).all()
    assert (mixed.p.to(dtype).float() != mixed.p).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_n1_a_model_in_16_bits_is_attacked_in_32(dtype: torch.dtype) -> None:
    model, x, y, _ = smooth(count=6, dtype=torch.float32)
    half = model.to("cuda", dtype)
    found = PGD(perturbation=L2(), steps=5).run(half, x, y, eps=0.3, stop="never")
    size = L2().size(x.double(), found.p.double())
    assert ((size > 0.29) & (size <= 0.3 * (1 + 1e-5))).all()
    assert (found.p.to(dtype).float() != found.p).any()
