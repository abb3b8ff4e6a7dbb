import pytest
import torch
from torch import nn

from advbench.attacks import PGD
from advbench.defenses.adversarial.adversarial_training import AdversarialTraining
from advbench.defenses.defense import check_together
from advbench.defenses.fit import Batch
from advbench.defenses.regularization.mixup import Mixup

from ..fitting import first_batch, same_weights, trained, under_way

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def mixed(seed: int, concentration: float = 1.0) -> Batch:
    torch.manual_seed(seed)
    return Mixup(concentration=concentration).batch(first_batch(), under_way(MODEL))


def shares(batch: Batch) -> list[float]:
    """The share of the own class in what is wanted where the partner has another class."""
    own = batch.wanted.gather(1, batch.y.unsqueeze(1)).squeeze(1)
    return own[own < 1 - 1e-6].tolist()


def test_one_share_and_one_permutation_mix_images_and_classes_alike() -> None:
    clean = first_batch()
    for seed in range(5):
        batch = mixed(seed)
        share = shares(batch)[0]
        assert shares(batch) == pytest.approx([share] * len(shares(batch)), abs=1e-6)
        partners = (batch.x - share * clean.x) / (1 - share)
        gaps = (partners.flatten(1).unsqueeze(1) - clean.x.flatten(1)).abs().amax(2)
        assert gaps.amin(1).max() < 1e-3
        partner = gaps.argmin(1)
        assert sorted(partner.tolist()) == list(range(20))
        classes = nn.functional.one_hot(clean.y, 10).float()
        expected = share * classes + (1 - share) * classes[partner]
        torch.testing.assert_close(batch.wanted, expected)
        assert batch.y is clean.y or torch.equal(batch.y, clean.y)


def test_the_share_is_drawn_from_the_beta_distribution() -> None:
    # Mean 1/2 and variance 1 / (4 (2 c + 1)).
    torch.manual_seed(0)
    fit, batch = under_way(MODEL), first_batch()
    for concentration in (0.5, 1.0, 8.0):
        defense = Mixup(concentration=concentration)
        drawn = [shares(defense.batch(batch, fit)) for _ in range(300)]
        firsts = torch.tensor([one[0] if one else 1.0 for one in drawn])
        assert firsts.mean().item() == pytest.approx(0.5, abs=0.06)
        expected = 1 / (4 * (2 * concentration + 1))
        assert firsts.var().item() == pytest.approx(expected, rel=0.2)


def test_what_another_defence_wants_is_mixed_too() -> None:
    soft = torch.full((20, 10), 0.1)
    found = Mixup().batch(first_batch()._replace(soft=soft), under_way(MODEL))
    torch.testing.assert_close(found.wanted, soft)


def test_it_repeats_itself_and_is_not_plain_training() -> None:
    one = trained(Mixup())
    assert same_weights(one.model, trained(Mixup()).model)
    assert not same_weights(one.model, trained().model)


def test_it_cannot_go_with_what_makes_other_examples() -> None:
    with pytest.raises(ValueError, match="both decide examples"):
        check_together((Mixup(), AdversarialTraining(attack=PGD(), eps=0.1)))


def test_scenes_and_values_out_of_range_are_refused() -> None:
    scenes = Batch(torch.zeros(2, 17), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(ValueError, match=r"mixup: samples must be images .* \(2, 17\)"):
        Mixup().batch(scenes, under_way(MODEL))
    with pytest.raises(ValueError, match="concentration must be above 0; got 0"):
        Mixup(concentration=0.0)
