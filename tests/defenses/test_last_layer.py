import pytest
import torch
from torch import nn

from advbench.defenses.last_layer import last_linear, with_features
from advbench.models.cifar_resnet import CifarResNet
from advbench.models.ffn import FFN
from advbench.models.lenet import LeNet
from advbench.models.normalized import Normalized


@pytest.mark.parametrize(
    "architecture", [FFN(hidden=(7, 5)), LeNet(hidden=5), CifarResNet(depth=8)], ids=str
)
def test_the_last_layer_on_its_features_is_the_network(
    architecture: FFN | LeNet | CifarResNet,
) -> None:
    model = Normalized(architecture.build((3, 8, 8), 4), (0.5,) * 3, (0.2,) * 3).eval()
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layer = last_linear(model)
    assert layer.out_features == 4
    features, logits = with_features(model, layer, x)
    assert features.shape == (6, layer.in_features)
    assert torch.equal(logits, model(x))
    assert torch.equal(layer(features), logits)
    assert not layer._forward_hooks


@pytest.mark.parametrize(
    "layers",
    [[nn.Linear(3, 2), nn.ReLU()], [layer := nn.Linear(3, 3), layer]],
    ids=["not last", "used twice"],
)
def test_a_layer_whose_answer_is_not_the_network_s_is_refused(layers: list[nn.Module]) -> None:
    model = nn.Sequential(*layers)
    with pytest.raises(ValueError, match="must be the logits"):
        with_features(model, last_linear(model), torch.rand(4, 3))


def test_the_hook_is_gone_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        with_features(model, last_linear(model), torch.rand(4, 5))
    assert not last_linear(model)._forward_hooks


def test_networks_without_a_linear_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Flatten has no nn\.Linear"):
        last_linear(nn.Flatten())
