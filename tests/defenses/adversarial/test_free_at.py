import pytest
import torch
from torch import nn

from advbench.defenses.adversarial.awp import AWP
from advbench.defenses.adversarial.free_at import FreeAT
from advbench.defenses.fit import Batch
from advbench.defenses.regularization.cutout import Cutout
from advbench.defenses.regularization.label_smoothing import LabelSmoothing

from ..fitting import SMALL_LENET, first_batch, same_weights, trained, under_way


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_without_replays_and_eps_it_is_plain_training() -> None:
    defense = FreeAT(eps=0.0, replays=1)
    assert same_weights(trained(defense).model, trained().model)
    mine, plain = trained(defense, model=SMALL_LENET), trained(model=SMALL_LENET)
    assert same_weights(mine.model, plain.model)


def test_the_perturbation_follows_the_gradient_and_stays() -> None:
    defense, batch = FreeAT(eps=0.1), first_batch()
    fit = under_way(linear())
    expected = torch.zeros_like(batch.x)
    for _ in range(3):
        given = defense.batch(batch, fit)
        torch.testing.assert_close(given.x.detach(), (batch.x + expected).clamp(0, 1))
        fit.loss(fit.seen(given.x), given.wanted).backward()
        assert given.x.grad is not None
        expected = (expected + 0.1 * given.x.grad.sign()).clamp(-0.1, 0.1)
        fit.optimizer.step()
        defense.after_step(given, fit)
        torch.testing.assert_close(fit.kept(defense)["delta"], expected)
    assert expected.abs().max() > 0


def test_a_smaller_batch_takes_the_first_rows_and_leaves_the_others() -> None:
    defense, fit = FreeAT(eps=0.1), under_way(linear())
    for count in (20, 5):
        before = fit.kept(defense).get("delta")
        given = defense.batch(first_batch(count), fit)
        fit.loss(fit.seen(given.x), given.wanted).backward()
        defense.after_step(given, fit)
    after = fit.kept(defense)["delta"]
    assert after.shape == before.shape
    assert torch.equal(after[5:], before[5:])
    assert not torch.equal(after[:5], before[:5])


def test_epochs_become_fewer_by_the_replays() -> None:
    assert len(trained(FreeAT(eps=0.05, replays=2), epochs=6).log) == 3
    assert len(trained(FreeAT(eps=0.05, replays=4), epochs=6).log) == 2


def test_it_goes_with_others_that_leave_the_samples_alone() -> None:
    trained(Cutout(), LabelSmoothing(), AWP(), FreeAT(eps=0.05, replays=2), epochs=2)


def test_it_has_to_be_listed_last() -> None:
    with pytest.raises(ValueError, match="list free_at last"):
        trained(FreeAT(eps=0.05), Cutout())


def test_scenes_are_refused() -> None:
    scenes = Batch(torch.zeros(2, 17), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(ValueError, match=r"free_at: samples must be images .* \(2, 17\)"):
        FreeAT(eps=0.1).batch(scenes, under_way(nn.Sequential(nn.Linear(17, 10))))


@pytest.mark.parametrize("wrong", [{"eps": -0.1}, {"eps": 0.1, "replays": 0}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        FreeAT(**wrong)  # type: ignore[arg-type]
