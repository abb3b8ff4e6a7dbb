import pytest
import torch
from torch import Tensor, nn

from advbench.defenses.regularization.label_smoothing import LabelSmoothing
from advbench.defenses.regularization.mixup import Mixup

from ..fitting import first_batch, same_weights, trained, under_way

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def smoothed(share: float) -> Tensor:
    batch = first_batch()
    found = LabelSmoothing(share=share).batch(batch, under_way(MODEL))
    assert found.x is batch.x
    assert found.y is batch.y
    return found.wanted


def test_a_share_is_spread_evenly() -> None:
    wanted, y = smoothed(0.3), first_batch().y
    torch.testing.assert_close(wanted.sum(1), torch.ones(20))
    torch.testing.assert_close(wanted.gather(1, y.unsqueeze(1)), torch.full((20, 1), 0.73))
    assert wanted.argmax(1).tolist() == y.tolist()
    others = wanted.scatter(1, y.unsqueeze(1), 0.03)
    torch.testing.assert_close(others, torch.full((20, 10), 0.03))
    torch.testing.assert_close(smoothed(1.0), torch.full((20, 10), 0.1))


def test_the_loss_is_that_of_torch() -> None:
    batch = first_batch()
    logits = MODEL(batch.x)
    expected = nn.functional.cross_entropy(logits, batch.y, label_smoothing=0.2)
    torch.testing.assert_close(nn.functional.cross_entropy(logits, smoothed(0.2)), expected)


def test_without_a_share_only_the_classes_are_wanted() -> None:
    classes = nn.functional.one_hot(first_batch().y, 10).float()
    assert torch.equal(smoothed(0.0), classes)
    losses = [[e.loss for e in t.log] for t in (trained(LabelSmoothing(share=0.0)), trained())]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not same_weights(trained(LabelSmoothing()).model, trained().model)


def test_what_another_defence_wants_is_smoothed_too() -> None:
    soft = torch.rand(20, 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    batch = first_batch()._replace(soft=soft)
    found = LabelSmoothing(share=0.5).batch(batch, under_way(MODEL)).wanted
    torch.testing.assert_close(found, soft / 2 + 0.05)


def test_with_mixup_the_order_does_not_matter() -> None:
    pair = (LabelSmoothing(share=0.2), Mixup())
    found = []
    for defenses in (pair, pair[::-1]):
        torch.manual_seed(3)
        batch, fit = first_batch(), under_way(MODEL)
        for defense in defenses:
            batch = defense.batch(batch, fit)
        found.append(batch)
    assert torch.equal(found[0].x, found[1].x)
    torch.testing.assert_close(found[0].wanted, found[1].wanted)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]; got"):
        LabelSmoothing(share=share)
