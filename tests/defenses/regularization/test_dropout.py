import pytest
import torch
from torch import nn

from advbench.defenses.regularization.dropout import Drop, Dropout, add_drops
from advbench.models.ffn import FFN, Linear
from advbench.models.lenet import LeNet
from advbench.models.normalized import Normalized
from tests.defenses.fitting import SAMPLES, SMALL_FFN, SMALL_LENET, answers, same_weights, trained

SHAPE = (1, 8, 8)


def drops(model: nn.Module) -> list[Drop]:
    return [module for module in model.modules() if isinstance(module, Drop)]


@pytest.mark.parametrize("activation", ["relu", "tanh", "step"])
def test_every_hidden_activation_is_followed_and_names_stay(activation: str) -> None:
    architecture = FFN(hidden=(6, 5, 4), activation=activation)
    plain, model = architecture.build(SHAPE, 10), Dropout().build(architecture.build, SHAPE, 10)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert len(drops(model)) == 3
    assert isinstance(model, nn.Sequential)
    assert [i for i, layer in enumerate(model) if isinstance(layer, nn.Sequential)] == [2, 4, 6]


def test_it_finds_the_network_inside_a_normalisation() -> None:
    model = Normalized(LeNet(channels=(4,), hidden=8).build(SHAPE, 10), (0.5,), (0.5,))
    assert len(drops(add_drops(model, "dropout", 0.5, 0.1))) == 2


def test_what_stands_before_all_weights_or_after_them_is_left_alone() -> None:
    layers = [nn.ReLU(), nn.Linear(4, 4), nn.Flatten(), nn.ReLU(), nn.Linear(4, 2), nn.Softmax(1)]
    model = add_drops(nn.Sequential(*layers), "dropout", 0.5, 0.1)
    assert isinstance(model, nn.Sequential)
    assert [isinstance(layer, nn.Sequential) for layer in model] == [False] * 3 + [True] + [
        False
    ] * 2


def test_units_are_dropped_one_by_one_and_maps_by_channel() -> None:
    torch.manual_seed(0)
    drop = Drop(0.5, 0.25).train()
    units = drop(torch.ones(400, 50))
    assert set(units.unique().tolist()) == {0.0, 2.0}
    assert (units == 0).double().mean().item() == pytest.approx(0.5, abs=0.015)
    maps = drop(torch.ones(400, 50, 2, 3)).flatten(2)
    torch.testing.assert_close(maps, maps[..., :1].expand_as(maps))
    assert (maps == 0).double().mean().item() == pytest.approx(0.25, abs=0.015)
    assert torch.equal(drop.eval()(units), units)


def test_nothing_is_dropped_after_training() -> None:
    model = trained(Dropout(), model=SMALL_LENET, epochs=1).model
    assert len(drops(model)) == 3
    assert torch.equal(answers(model, SAMPLES.x, 0), answers(model, SAMPLES.x, 1))
    assert not torch.equal(answers(model.train(), SAMPLES.x, 0), answers(model, SAMPLES.x, 1))


def test_to_drop_nothing_is_plain_training() -> None:
    nothing = Dropout(share=0, conv_share=0)
    assert same_weights(trained(nothing).model, trained().model)
    assert not same_weights(trained(Dropout()).model, trained().model)
    only_fully_connected = trained(Dropout(conv_share=0), model=SMALL_LENET).model
    assert not same_weights(only_fully_connected, trained(nothing, model=SMALL_LENET).model)


def test_the_mean_over_thinned_networks_of_one_layer_is_the_whole() -> None:
    torch.manual_seed(0)
    model = add_drops(SMALL_FFN.build(SHAPE, 10), "dropout", 0.5, 0.1)
    x = SAMPLES.x[:1]
    mean = model.train()(x.expand(20_000, *SHAPE)).mean(0)
    torch.testing.assert_close(mean, model.eval()(x)[0], atol=0.01, rtol=0)


def test_networks_and_shares_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match="dropout: found no hidden activation"):
        Dropout().build(Linear().build, SHAPE, 10)
    for wrong in ({"share": 1.0}, {"share": -0.1}, {"conv_share": 1.0}):
        with pytest.raises(ValueError, match=r"dropout: share and conv_share must lie in \[0, 1\)"):
            Dropout(**wrong)
