"""A faster stand-in finds what the model itself confirms, and nothing else."""

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import EOT, PGD
from advbench.attacks.criterion import Criterion
from advbench.attacks.speed import accelerated
from advbench.testing.victims import Watched, numbers, smooth


def network() -> nn.Module:
    """A convolution with batch normalisation that has seen something, and a linear layer."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )
    with torch.no_grad():
        for key, part in enumerate((*model.parameters(), model[1].running_mean)):
            part.copy_(numbers(30 + key, *part.shape, dtype=torch.float32) / 2)
        model[1].running_var.uniform_(0.5, 2)
    return model.eval()


IMAGES = torch.sigmoid(numbers(50, 12, 1, 6, 6, dtype=torch.float32))


def test_folding_changes_logits_by_rounding_and_leaves_the_model_alone() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = accelerated(model, IMAGES, ["fold", "channels_last"])
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    gap = (fast(IMAGES) - model.eval()(IMAGES)).abs().amax()
    assert 0 < gap < 1e-4


def test_bf16_answers_in_32_bits_and_roughly_the_same() -> None:
    model = network()
    logits = accelerated(model, IMAGES, ["bf16"])(IMAGES)
    assert logits.dtype == torch.float32
    gap = (logits - model(IMAGES)).abs().amax()
    assert 1e-6 < gap < 0.2


def test_what_cannot_be_traced_is_refused() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ValueError, match=r"cannot be folded.*traced"):
        accelerated(Fickle(), IMAGES, ["fold"])


def test_an_unknown_option_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"speed.*'fold'"):
        accelerated(network(), IMAGES, ["folt"])  # type: ignore[list-item]


@pytest.mark.parametrize("stop", ["success", "never"])
def test_successes_are_those_of_the_model(stop: str) -> None:
    """A stand-in that is always fooled is never believed."""
    model, x, y, _ = smooth(count=8)

    class Fooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x) - 100 * nn.functional.one_hot(y, 3)[: len(x)]

    found = PGD(steps=5).run(model, x, y, eps=0.05, stop=stop, stand_in=Fooled())  # type: ignore[arg-type]
    assert torch.equal(found.success, Criterion(y).success(model(found.x_adv)))
    assert not found.success.all()


def test_the_model_itself_as_stand_in_changes_nothing_but_the_price() -> None:
    model, x, y, _ = smooth(count=8)
    plain = PGD(steps=8).run(model, x, y, eps=0.1)
    watched, search = Watched(model), Watched(model)
    found = PGD(steps=8).run(watched, x, y, eps=0.1, stand_in=search)
    assert torch.equal(found.x_adv, plain.x_adv)
    assert found.success.any()
    assert torch.equal(found.forwards, plain.forwards + found.success)
    assert watched.forwards + search.forwards == found.forwards.sum()
    assert search.backwards == found.backwards.sum()


def test_a_budget_covers_the_confirmation() -> None:
    model, x, y, _ = smooth(count=8)
    for budget in (1, 2, 3, 7):
        found = PGD(steps=8).run(model, x, y, eps=0.1, stop="never", stand_in=model, budget=budget)
        assert (found.forwards <= budget).all()


def test_a_stand_in_and_expectation_exclude_each_other() -> None:
    model, x, y, _ = smooth()
    with pytest.raises(ValueError, match="stand_in"):
        PGD().run(model, x, y, eps=0.1, stand_in=model, eot=EOT(2))
