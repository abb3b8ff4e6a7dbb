"""Reading a model: every layer against the module itself, and why some have no bounds."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from advbench.attacks import L0, L1, L2, Linf, Patch
from advbench.defenses.randomized_smoothing import Smoothed
from advbench.models.loading import ModelSpec, load_model
from advbench.models.normalized import Normalized
from advbench.trust.certificates import NoBoundsError, certify, lower_margins, price, reason
from advbench.trust.certificates.affine import AffineMap, Convolution
from advbench.trust.certificates.layers import Own, layer
from advbench.trust.certificates.reading import read
from advbench.trust.certificates.rows import Interval, Rows

OWN = Own(torch.float64, torch.device("cpu"))


def drawn(module: nn.Module) -> nn.Module:
    """The module in 64 bits and eval mode, with drawn weights and statistics."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.double().state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5, generator=generator)
    return module.eval().requires_grad_(False)


AFFINE = {
    "linear": (nn.Linear(5, 3), (5,)),
    "linear of rows": (nn.Linear(5, 3, bias=False), (2, 4, 5)),
    "conv": (nn.Conv2d(2, 3, 3), (2, 6, 5)),
    "conv of one channel": (nn.Conv2d(1, 8, 3, padding=1), (1, 6, 5)),
    "conv of one channel with stride": (nn.Conv2d(1, 16, 4, stride=3, padding=1), (1, 9, 7)),
    "conv with stride": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 6, 5)),
    "conv with a rest": (nn.Conv2d(4, 1, (2, 3), stride=(3, 2), bias=False), (4, 7, 8)),
    "conv with dilation": (nn.Conv2d(3, 2, 2, dilation=(2, 3), padding=(1, 2)), (3, 6, 7)),
    "conv with groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise conv": (nn.Conv2d(3, 3, 3, groups=3, stride=2), (3, 7, 7)),
    "conv to the same size": (nn.Conv2d(2, 2, 3, padding="same", dilation=2), (2, 6, 6)),
    "conv of valid places": (nn.Conv2d(2, 2, 3, padding="valid"), (2, 6, 6)),
    "mean": (nn.AvgPool2d(2), (2, 6, 6)),
    "mean that overlaps": (nn.AvgPool2d(3, stride=2, padding=1), (2, 6, 7)),
    "mean without padding": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 6, 7)),
    "mean with a rest": (nn.AvgPool2d(2, ceil_mode=True), (2, 5, 7)),
    "mean by a divisor": (nn.AvgPool2d((2, 3), divisor_override=5), (2, 6, 7)),
    "mean of all": (nn.AdaptiveAvgPool2d(1), (3, 4, 6)),
    "mean to a size": (nn.AdaptiveAvgPool2d((2, None)), (3, 4, 6)),
    "batch norm": (nn.BatchNorm1d(5), (5,)),
    "batch norm of images": (nn.BatchNorm2d(3), (3, 4, 2)),
    "batch norm without weights": (nn.BatchNorm2d(3, affine=False), (3, 4, 2)),
    "normalisation": (Normalized(nn.Identity(), (0.4, 0.6), (0.2, 0.5)), (2, 3, 3)),
}


def affine(name: str) -> tuple[nn.Module, AffineMap, Tensor]:
    """A module, what is read of it, and its matrix, unrolled."""
    module, shape = AFFINE[name]
    drawn(module)
    step, after = layer(module, shape, OWN)
    assert isinstance(step, AffineMap)
    count = torch.Size(shape).numel()
    unit = torch.eye(count, dtype=torch.float64).view(count, *shape)
    constant = module(torch.zeros_like(unit[:1]))
    assert tuple(constant.shape[1:]) == after
    return module, step, (module(unit) - constant).flatten(1).T


@pytest.mark.parametrize("name", AFFINE)
def test_affine_layers_equal_their_matrix(name: str) -> None:
    module, step, matrix = affine(name)
    shape = AFFINE[name][1]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(step(x.flatten(1)), module(x).flatten(1))
    torch.testing.assert_close(step.absolute(x.flatten(1)), x.flatten(1) @ matrix.abs().T)
    rows = torch.randn(4, len(matrix), generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(step.adjoint(rows), rows @ matrix)
    offset = module(torch.zeros_like(x[:1])).flatten()
    back = step.back(Rows.of(rows.unsqueeze(0), measured=True))
    torch.testing.assert_close(back.constant[0], rows @ offset)
    torch.testing.assert_close(back.size, (rows.abs() @ offset.abs()).unsqueeze(0))
    low, high = x.flatten(1), x.flatten(1) + 0.5
    found = step.interval(Interval(low, high))
    positive, negative = matrix.clamp(min=0).T, matrix.clamp(max=0).T
    torch.testing.assert_close(found.low, low @ positive + high @ negative + offset)
    torch.testing.assert_close(found.high, high @ positive + low @ negative + offset)
    alone = step.mixes or bool(((matrix != 0).sum(1) <= 1).all())
    assert alone


def test_convolutional_model_is_bounded_as_its_unrolling() -> None:
    conv = drawn(nn.Conv2d(1, 3, 3, stride=2, padding=1))
    mean, last = nn.AvgPool2d(2), drawn(nn.Linear(3, 4))
    model = nn.Sequential(conv, nn.ReLU(), mean, nn.Flatten(), last)
    unit = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    constant = conv(torch.zeros_like(unit[:1])).flatten()
    first, second = nn.Linear(16, 12).double(), nn.Linear(12, 3, bias=False).double()
    with torch.no_grad():
        first.weight.copy_((conv(unit).flatten(1) - constant).T)
        first.bias.copy_(constant)
        second.weight.copy_(mean(torch.eye(12).double().view(12, 3, 2, 2)).flatten(1).T)
    unrolled = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, last)
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    for change in (Linf(), L2(), L1()):
        found = lower_margins(model, x, y, change, 0.2)
        torch.testing.assert_close(found, lower_margins(unrolled, x, y, change, 0.2))


def test_planted_padding_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3))
    assert reason(model, Linf(), (1, 4, 4)) is None
    forward = Convolution.linear

    def unpadded(self: Convolution, values: Tensor) -> Tensor:
        return forward(self, values.view(-1, 1, 4, 4).roll(1, 3).flatten(1))

    monkeypatch.setattr(Convolution, "linear", unpadded)
    assert "otherwise than the model" in str(reason(model, Linf(), (1, 4, 4)))


def test_nested_models_are_chains() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 6), nn.ReLU(inplace=True))
    model = Normalized(nn.Sequential(inner, nn.Identity(), nn.Linear(6, 3)), (0.5,), (0.2,))
    x = torch.rand(5, 2, 2, 2)
    network = read(model, (2, 2, 2))
    torch.testing.assert_close(network(x.flatten(1)), model.eval()(x))
    assert [len(stage.maps) for stage in network.stages] == [2, 1]
    fine = read(model, (2, 2, 2), torch.float64)
    torch.testing.assert_close(fine(x.flatten(1).double()), model.double()(x.double()))


def test_every_pooling_is_read() -> None:
    for pool in (
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d((2, 3), stride=(1, 2), ceil_mode=True),
    ):
        head = nn.Linear(pool(torch.zeros(1, 3, 5, 6)).numel(), 2)
        model = nn.Sequential(pool, nn.Flatten(), head)
        x = torch.rand(4, 3, 5, 6)
        torch.testing.assert_close(read(model, (3, 5, 6))(x.flatten(1)), model(x))


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Shuffled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(1))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].register_forward_hook(lambda module, given, output: -output)
    return model


def patched() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].forward = lambda x: x[:, :2]  # type: ignore[method-assign]
    return model


def around(layer: nn.Module, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Sequential(layer), nn.Flatten(), nn.Linear(width, 2))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (around(nn.GELU()), ("'0.0', a GELU,", "Softplus")),
        (nn.Sequential(nn.Flatten(), Doubled(4, 2)), ("'1', a Doubled,",)),
        (Shuffled(nn.Flatten(), nn.Linear(4, 2)), ("the model itself, a Shuffled,",)),
        (Normalized(around(nn.Softsign()), (0.5,), (0.5,)), ("'model.0.0', a Softsign,",)),
        (Smoothed(nn.Identity(), 0.1, 2), ("the model itself, a Smoothed,",)),
        (around(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), ("'0.0'", "'reflect'")),
        pytest.param(
            around(nn.Conv2d(1, 1, 2, padding="same")),
            ("'0.0'", "one side"),
            marks=pytest.mark.filterwarnings("ignore:Using padding='same'"),
        ),
        (around(nn.BatchNorm2d(1, track_running_stats=False)), ("'0.0'", "by the batch")),
        (around(nn.AdaptiveAvgPool2d((1, 3)), 3), ("'0.0'", "unequal")),
        (around(nn.LeakyReLU(1.5)), ("'0.0'", "slope 1.5")),
        (around(nn.Softplus(threshold=1)), ("'0.0'", "threshold")),
        (around(parametrizations.weight_norm(nn.Linear(2, 2))), ("'0.0'", "ParametrizedLinear")),
        (hooked(), ("'1', a Linear,", "hook")),
        (patched(), ("'1', a Linear,", "forward")),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), ("no images of shape (1, 2, 2)", "5")),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), ("K >= 2",)),
        (nn.Linear(2, 2), ("K >= 2",)),
        (around(nn.Identity()).half(), ("float32",)),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 2).double()), ("float32",)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else "",
)
def test_reason_names_layer_and_place(model: nn.Module, words: tuple[str, ...]) -> None:
    found = reason(model, Linf(), (1, 2, 2))
    assert found is not None
    for word in words:
        assert word in found, found
    with pytest.raises(NoBoundsError, match=r"."):
        certify(model, torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64), Linf(), 0.1)
    with pytest.raises(NoBoundsError):
        price(model, (1, 2, 2))


def test_reason_for_sets_and_callables() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    for change in (Linf(), L2(), L1()):
        assert reason(model, change, (1, 2, 2)) is None
    assert "L0" in str(reason(model, L0(), (1, 2, 2)))
    assert "Patch" in str(reason(model, Patch(), (1, 2, 2)))
    assert "no torch.nn.Module" in str(reason(torch.relu, Linf(), (1, 2, 2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape", "rows"),
    [
        ("digits/linear", (1, 8, 8), 10),
        ("digits/ffn_relu", (1, 8, 8), 64 + 10),
        ("digits/ffn_tanh", (1, 8, 8), 64 + 10),
        ("digits/ffn_adv", (1, 8, 8), 128 + 10),
        ("digits/cnn", (1, 8, 8), 32 * 4 * 4 + 64 + 10),
        ("mnist/cnn", (1, 28, 28), 64 * 7 * 7 + 128 + 10),
    ],
)
def test_price_of_the_zoo(name: str, shape: tuple[int, ...], rows: int) -> None:
    model = load_model(ModelSpec(name=f"zoo:{name}")).model
    assert reason(model, Linf(), shape) is None
    assert price(model, shape) == rows


def test_reason_of_the_zoo() -> None:
    model = load_model(ModelSpec(name="zoo:digits/ffn_step")).model
    assert "'2', a Step," in str(reason(model, Linf(), (1, 8, 8)))
