import math

import pytest
import torch
from torch import nn

from advbench import data, registry
from advbench.models import zoo
from advbench.models.architecture import Architecture
from advbench.models.cifar_resnet import CifarResNet
from advbench.models.ffn import ACTIVATIONS, FFN, Linear, Step
from advbench.models.lenet import LeNet
from advbench.models.loading import ModelSpec, load_model
from advbench.models.normalized import Normalized
from advbench.training.trainer import measured

ARCHITECTURES = [
    (Linear(), (5,)),
    (Linear(), (2, 3, 4)),
    (FFN(hidden=()), (1, 8, 8)),
    (FFN(hidden=(7, 6, 5, 4), activation="tanh"), (1, 8, 8)),
    (LeNet(), (1, 28, 28)),
    (LeNet(kernel=3), (3, 17, 12)),
    (LeNet(channels=(4,), kernel=4, hidden=8, pool=False), (1, 8, 8)),
    (CifarResNet(depth=8), (3, 32, 32)),
    (CifarResNet(depth=8), (1, 10, 14)),
]
ZOO = {
    "cifar10/cnn": 0.70,
    "cifar10/cnn_adv": 0.55,
    "digits/cnn": 0.97,
    "digits/cnn_adv": 0.97,
    "digits/cnn_distilled": 0.93,
    "digits/cnn_patch_adv": 0.97,
    "digits/cnn_patch_noise": 0.98,
    "digits/cnn_pose": 0.97,
    "digits/cnn_smoothed": 0.93,
    "digits/cnn_thermometer": 0.98,
    "digits/ffn_adv": 0.97,
    "digits/ffn_relu": 0.95,
    "digits/ffn_sigmoid": 0.95,
    "digits/ffn_softplus": 0.95,
    "digits/ffn_squared_error": 0.95,
    "digits/ffn_step": 0.94,
    "digits/ffn_tanh": 0.95,
    "digits/linear": 0.94,
    "fashion_mnist/cnn": 0.90,
    "mnist/cnn": 0.988,
    "mnist/cnn_adv": 0.97,
    "mnist/cnn_trades": 0.97,
    "mnist/cnn_k_wta": 0.97,
    "mnist/cnn_pose": 0.985,
    "mnist/ffn": 0.975,
    "scenes/cnn": 0.95,
    "scenes/cnn_30": 0.95,
    "scenes/cnn_5x5": 0.95,
    "scenes/cnn_all": 0.95,
    "scenes/cnn_pose_adv": 0.95,
}


@pytest.mark.parametrize(("architecture", "shape"), ARCHITECTURES, ids=repr)
def test_architectures_build_networks(architecture: Architecture, shape: tuple[int, ...]) -> None:
    logits = architecture.build(shape, 7)(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    assert logits.requires_grad


def test_every_registered_architecture_is_tried() -> None:
    tried = {type(architecture) for architecture, _ in ARCHITECTURES}
    assert {registry.get("models", name) for name in registry.names("models")} <= tried


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_applied(activation: str) -> None:
    model = FFN(hidden=(3,), activation=activation).build((2,), 2)
    assert isinstance(model, nn.Sequential)
    x = torch.tensor([[-2.0, 0.5]])
    hidden = model[1](x)
    expected = {
        "step": (hidden > 0).float(),
        "sigmoid": 1 / (1 + (-hidden).exp()),
        "tanh": hidden.tanh(),
        "relu": hidden.clamp_min(0),
        "softplus": (1 + hidden.exp()).log(),
    }[activation]
    torch.testing.assert_close(model[2](hidden), expected)


def test_step_has_no_gradient_in_eval_mode() -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-30, 2.0], requires_grad=True)
    out = Step().eval()(x)
    assert out.tolist() == [0, 0, 0, 1, 1]
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.tolist() == [0] * 5


def test_step_trains_on_the_derivative_of_the_sigmoid() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    out = Step().train()(x)
    assert out.tolist() == [0, 0, 1]
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, x.detach().sigmoid() * (1 - x.detach().sigmoid()))


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        FFN(activation="rellu")
    with pytest.raises(ValueError, match="must be positive"):
        FFN(hidden=(64, 0))
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(depth=18)
    with pytest.raises(
        ValueError, match=r"LeNet: expected images of shape \(C, H, W\), got \(5,\)"
    ):
        LeNet().build((5,), 2)


def test_cifar_resnet_20_has_the_published_size() -> None:
    model = CifarResNet().build((3, 32, 32), 10)
    # 0.27 M in table 6 of the paper
    assert sum(weight.numel() for weight in model.parameters()) == 269_722


def test_normalized_is_an_affine_map_before_the_model() -> None:
    model = Normalized(nn.Identity(), (0.5, 0.25), (0.5, 0.125))
    x = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert model(x).flatten().tolist() == [-1, 6]
    assert not model.state_dict()


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((), ())])
def test_wrong_normalisation_is_refused(mean: tuple[float], std: tuple[float]) -> None:
    with pytest.raises(ValueError, match="Normalized"):
        Normalized(nn.Identity(), mean, std)


def test_the_zoo_is_complete() -> None:
    assert zoo.names() == sorted(ZOO)


def test_unknown_networks_get_a_suggestion() -> None:
    with pytest.raises(ValueError, match="Did you mean 'mnist/cnn'"):
        zoo.card("mnist/cn")
    with pytest.raises(ValueError, match="Did you mean 'zoo:digits/cnn'"):
        load_model(ModelSpec(name="digits/cnn"))


@pytest.mark.parametrize("name", ZOO)
def test_cards_are_complete(name: str) -> None:
    card = zoo.card(name)
    assert card["name"] == name
    assert card["clean_accuracy"]["test"] >= ZOO[name]
    assert card["recipe"]["data"]["name"] == card["data"]["name"]
    model = load_model(ModelSpec(name=f"zoo:{name}"))
    assert sum(weight.numel() for weight in model.model.parameters()) == card["parameters"]
    assert model.card == card
    assert not model.model.training
    assert model.model(torch.zeros(1, *card["shape"])).shape == (1, len(card["classes"]))


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("digits/")])
def test_cards_tell_the_accuracy_that_is_measured(name: str) -> None:
    check_card(name, None)


@pytest.mark.parametrize("name", [name for name in ZOO if name.startswith("scenes/")])
def test_cards_tell_the_accuracy_that_is_measured_on_scenes(name: str) -> None:
    check_card(name, 1000)  # a pose rounded otherwise may fall on the other side


@pytest.mark.parametrize(
    "name", [name for name in ZOO if not name.startswith(("digits/", "scenes/"))]
)
def test_cards_tell_the_accuracy_that_is_measured_on_disk(name: str, data_root: object) -> None:
    # A part of the split is enough to see wrong weights: 4 standard errors around the card's share.
    check_card(name, 1000)


def check_card(name: str, part: int | None) -> None:
    loaded = load_model(ModelSpec(name=f"zoo:{name}"))
    assert loaded.data is not None
    assert loaded.card is not None
    samples = data.load(loaded.data, loaded.split, part)
    found = measured(None, loaded.model, samples, 0).accuracy
    told = loaded.card["clean_accuracy"]["test"]
    margin = 1e-6 if part is None else 4 * math.sqrt(told * (1 - told) / part)
    assert abs(found - told) <= margin


def test_the_step_network_of_the_zoo_masks_its_gradient() -> None:
    model = load_model(ModelSpec(name="zoo:digits/ffn_step")).model
    x = data.load("digits", samples=50).x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert not gradient.any()
