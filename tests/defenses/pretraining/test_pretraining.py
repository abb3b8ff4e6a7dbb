import pytest
import torch
from torch import Tensor, nn

from advbench import data
from advbench.attacks.victim import SceneModel
from advbench.defenses.last_layer import last_linear, with_features
from advbench.defenses.pretraining.autoencoder import pretrain
from advbench.defenses.pretraining.denoising_autoencoder import DenoisingAutoencoder
from advbench.defenses.pretraining.masked_autoencoder import MaskedAutoencoder
from advbench.models.cifar_resnet import CifarResNet
from advbench.models.ffn import FFN
from advbench.training.recipe import Data, Optimizer, Recipe, Train
from advbench.training.trainer import train
from tests.defenses.fitting import fit_of

SAMPLES = data.load("digits", "train", 300)
BOTH = (DenoisingAutoencoder(epochs=2), MaskedAutoencoder(epochs=2))
Autoencoder = DenoisingAutoencoder | MaskedAutoencoder


@pytest.fixture(autouse=True)
def seeded() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def ffn() -> nn.Module:
    return FFN(hidden=(32,)).build((1, 8, 8), 10)


@pytest.mark.parametrize("defense", BOTH, ids=lambda one: type(one).__name__)
def test_images_are_restored_better_than_by_the_mean_image(defense: Autoencoder) -> None:
    fit = fit_of(ffn(), SAMPLES.x, SAMPLES.y)
    decoder = pretrain(fit, defense.spoilt, epochs=60, learning_rate=5e-3, batch_size=50)
    held_out = data.load("digits", "validation").x
    spoilt, weights = defense.spoilt(held_out)
    with torch.no_grad():
        features, _ = with_features(fit.model, last_linear(fit.model), spoilt)
        restored = decoder(features).view_as(held_out)

    def error(guess: Tensor) -> float:
        return (weights * (guess - held_out).square()).sum().item() / weights.sum().item()

    assert error(restored) < 0.7 * error(SAMPLES.x.mean(0, keepdim=True))
    assert error(restored) < 0.7 * error(spoilt)


@pytest.mark.parametrize("defense", BOTH, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("architecture", [FFN(hidden=(8, 6)), CifarResNet(depth=8)], ids=str)
def test_all_but_the_last_layer_learns(
    defense: Autoencoder, architecture: FFN | CifarResNet
) -> None:
    model = architecture.build((1, 8, 8), 10).eval()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    defense.start(fit_of(model, SAMPLES.x[:60], SAMPLES.y[:60]))
    head = set(last_linear(model).parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (weight in head), name
        assert weight.grad is None
    assert not last_linear(model)._forward_hooks


@pytest.mark.parametrize("defense", BOTH, ids=lambda one: type(one).__name__)
def test_scenes_are_rendered(defense: Autoencoder) -> None:
    scenes, y = torch.rand(130, 16), torch.arange(130) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 2))
    found = []
    for rendered in (False, True):
        torch.manual_seed(1)
        images = scenes.view(-1, 1, 4, 4)
        fit = fit_of(model, scenes if rendered else images, y)
        if rendered:
            fit.seen = SceneModel(lambda x: x.view(-1, 1, 4, 4), model)  # type: ignore[arg-type]
        for weight in model.parameters():
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
        defense.start(fit)
        found.append([weight.detach().clone() for weight in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_noise_has_the_size_asked_for() -> None:
    images = torch.full((50, 1, 8, 8), 0.5)
    noisy, weights = DenoisingAutoencoder(sigma=0.1).spoilt(images)
    assert (noisy - images).std().item() == pytest.approx(0.1, rel=0.05)
    assert weights.eq(1).all()
    noisy, _ = DenoisingAutoencoder(sigma=5).spoilt(images)
    assert (noisy.min(), noisy.max()) == (0, 1)
    assert torch.equal(DenoisingAutoencoder(sigma=0).spoilt(images)[0], images)


@pytest.mark.parametrize(
    ("side", "ratio", "share"), [(2, 0.5, 0.5), (4, 0.8, 0.75), (4, 0.1, 0.25)]
)
def test_squares_are_hidden_in_all_channels(side: int, ratio: float, share: float) -> None:
    images = torch.rand(20, 3, 8, 8) + 0.1
    spoilt, hidden = MaskedAutoencoder(side=side, ratio=ratio).spoilt(images)
    assert torch.equal(spoilt, torch.where(hidden == 1, 0, images))
    assert hidden.mean((1, 2, 3)).eq(share).all()
    squares = hidden.unfold(2, side, side).unfold(3, side, side).flatten(4)
    assert torch.equal(squares.amax(4), squares.amin(4))
    assert torch.equal(hidden.amax(1), hidden.amin(1))
    assert len(hidden.unique(dim=0)) > 2


def test_squares_may_be_cut_at_the_edges() -> None:
    _, hidden = MaskedAutoencoder(side=3, ratio=0.5).spoilt(torch.rand(20, 1, 8, 7))
    assert hidden.shape == (20, 1, 8, 7)
    assert torch.equal(hidden[:, :, 6], hidden[:, :, 7])
    with pytest.raises(ValueError, match="covers images of 8 x 7"):
        MaskedAutoencoder(side=8).spoilt(torch.rand(2, 1, 8, 7))


@pytest.mark.parametrize("defense", BOTH, ids=lambda one: type(one).__name__)
def test_ordinary_training_follows(defense: Autoencoder) -> None:
    def trained(*defenses: Autoencoder) -> nn.Module:
        recipe = Recipe(
            train=Train(epochs=20, batch_size=50),
            data=Data(name="digits"),
            model=FFN(hidden=(16,)),
            optimizer=Optimizer(lr=0.01),
            defenses=defenses,
        )
        return train(recipe, data=SAMPLES, validation=SAMPLES).model

    plain, model = trained(), trained(defense)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not torch.equal(model(SAMPLES.x), plain(SAMPLES.x))
    assert (model(SAMPLES.x).argmax(1) == SAMPLES.y).double().mean() > 0.8


def test_networks_that_do_not_suit_are_refused() -> None:
    for model, message in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no weights before its last layer"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), r"has no nn\.Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10), nn.ReLU()), "the logits"),
    ):
        for defense in BOTH:
            fit = fit_of(nn.Linear(1, 1), SAMPLES.x[:10], SAMPLES.y[:10])
            fit.model = fit.seen = model
            with pytest.raises(ValueError, match=message):
                defense.start(fit)


@pytest.mark.parametrize("kind", [DenoisingAutoencoder, MaskedAutoencoder])
@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_senseless_values_are_refused(kind: type[Autoencoder], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 1 and learning_rate positive"):
        kind(**wrong)  # type: ignore[arg-type]


def test_senseless_corruptions_are_refused() -> None:
    with pytest.raises(ValueError, match="sigma must not be negative"):
        DenoisingAutoencoder(sigma=-0.1)
    with pytest.raises(ValueError, match="side must be at least 1"):
        MaskedAutoencoder(side=0)
    with pytest.raises(ValueError, match="ratio must lie in"):
        MaskedAutoencoder(ratio=1.0)
