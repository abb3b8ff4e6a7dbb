import pytest
import torch
from torch import nn

from advbench.defenses.defense import built
from advbench.defenses.regularization.weight_sharing import WeightSharing
from advbench.models.ffn import FFN
from advbench.models.lenet import LeNet
from tests.defenses.fitting import SMALL_LENET, trained

SHAPE = (1, 8, 8)
DEEP = FFN(hidden=(12, 12, 12, 12))


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_places_share_the_kernel_of_the_first() -> None:
    free = LeNet(channels=(4, 8), kernel=3, hidden=16, shared=False)
    torch.manual_seed(0)
    start = free.build(SHAPE, 10).state_dict()
    torch.manual_seed(0)
    model = WeightSharing().build(free.build, SHAPE, 10)
    plain = SMALL_LENET.build(SHAPE, 10)
    assert repr(model) == repr(plain)
    found = model.state_dict()
    for layer in ("0", "3"):
        assert torch.equal(found[f"{layer}.weight"].flatten(1), start[f"{layer}.weight"][0])
        assert torch.equal(found[f"{layer}.bias"], start[f"{layer}.bias"][0])
    assert torch.equal(found["7.weight"], start["7.weight"])
    assert count(model) == count(plain) < sum(value.numel() for value in start.values())


def test_layers_in_a_row_are_tied_and_counted_once() -> None:
    model = WeightSharing().build(DEEP.build, SHAPE, 10)
    plain = DEEP.build(SHAPE, 10)
    assert count(plain) - count(model) == 2 * (12 * 12 + 12)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert isinstance(model, nn.Sequential)
    assert model[3].weight is model[5].weight is model[7].weight
    assert model[3].bias is model[5].bias is model[7].bias
    assert model[1].weight is not model[3].weight


def test_tied_layers_stay_tied_in_training_and_are_stepped_once() -> None:
    model = trained(WeightSharing(), model=DEEP).model
    assert isinstance(model, nn.Sequential)
    assert model[3].weight is model[5].weight is model[7].weight
    start = built((WeightSharing(),), DEEP.build, SHAPE, 10)
    start.load_state_dict(model.state_dict())
    assert torch.equal(start(torch.ones(1, *SHAPE)), model(torch.ones(1, *SHAPE)))


def test_other_weights_or_shapes_between_them_keep_layers_apart() -> None:
    layers = [
        nn.Linear(4, 4),
        nn.ReLU(),
        nn.LayerNorm(4),
        nn.Linear(4, 4),
        nn.Linear(4, 4, bias=False),
    ]
    with pytest.raises(ValueError, match="Sequential has nothing to share"):
        WeightSharing().build(lambda shape, classes: nn.Sequential(*layers), SHAPE, 10)


def test_each_kind_of_sharing_can_be_left_out() -> None:
    free = LeNet(channels=(4,), kernel=3, hidden=10, shared=False)  # ends in 160-10-10
    with pytest.raises(ValueError, match="expected a network with two linear layers"):
        WeightSharing(places=False).build(free.build, SHAPE, 10)
    with pytest.raises(ValueError, match="expected a network with locally connected layers;"):
        WeightSharing(layers=False).build(DEEP.build, SHAPE, 10)
    with pytest.raises(ValueError, match="both false"):
        WeightSharing(places=False, layers=False)
