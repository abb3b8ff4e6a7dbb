import pytest
import torch
from torch import Tensor, nn

from advbench.defenses.fit import Batch
from advbench.defenses.regularization.cutout import Cutout

from ..fitting import SMALL_LENET, same_weights, trained, under_way

FIT = under_way(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def cut(side: int, count: int = 2000, height: int = 8, width: int = 6) -> Tensor:
    """Which pixels of white images are cut, (count, channels, height, width)."""
    x = torch.ones(count, 2, height, width)
    numbers = torch.zeros(count, dtype=torch.int64)
    torch.manual_seed(0)
    batch = Batch(x, numbers, numbers)
    found = Cutout(side=side).batch(batch, FIT)
    assert found == batch._replace(x=found.x)
    assert torch.equal(x, torch.ones_like(x))
    assert set(found.x.unique().tolist()) <= {0.0, 1.0}
    return found.x == 0


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_a_square_is_cut_that_may_hang_over_the_rim(side: int) -> None:
    holes = cut(side)
    assert torch.equal(holes[:, 0], holes[:, 1])
    hole = holes[:, 0]
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows.unsqueeze(2) & columns.unsqueeze(1))
    for line in (rows, columns):
        lengths = line.sum(1)
        assert lengths.max() == side
        assert lengths.min() == max(1, (side + 1) // 2)
        # One stretch: it begins once.
        starts = line & ~torch.cat([torch.zeros_like(line[:, :1]), line[:, :-1]], 1)
        assert (starts.sum(1) == 1).all()


def test_every_middle_is_as_likely() -> None:
    share = cut(1)[:, 0].float().mean(0)
    torch.testing.assert_close(share, torch.full((8, 6), 1 / 48), atol=0.012, rtol=0)
    wide = cut(3)[:, 0].float().mean(0)
    inner = wide[1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full((6, 4), 9 / 48), atol=0.04, rtol=0)
    assert wide[0, 0].item() == pytest.approx(4 / 48, abs=0.025)


def test_places_differ_from_image_to_image_and_from_time_to_time() -> None:
    holes = cut(2, count=40)
    assert len(torch.unique(holes.flatten(1), dim=0)) > 10
    x, numbers = torch.ones(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    one, two = (Cutout().batch(Batch(x, numbers, numbers), FIT).x for _ in range(2))
    assert not torch.equal(one, two)


def test_it_trains_and_repeats_itself() -> None:
    one = trained(Cutout(), model=SMALL_LENET)
    assert same_weights(one.model, trained(Cutout(), model=SMALL_LENET).model)
    assert not same_weights(one.model, trained(model=SMALL_LENET).model)


def test_scenes_and_values_out_of_range_are_refused() -> None:
    scenes = Batch(torch.zeros(2, 17), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(ValueError, match=r"cutout: samples must be images .* \(2, 17\)"):
        Cutout().batch(scenes, FIT)
    with pytest.raises(ValueError, match="side must be at least 1 pixel; got 0"):
        Cutout(side=0)
