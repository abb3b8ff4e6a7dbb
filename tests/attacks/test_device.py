"""The same answers on an accelerator, wherever model and images lie."""

import copy

import pytest
import torch

from advbench.attacks import FGSM, L2, PGD, MinimumEps, RandomSearch
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
