import pytest
import torch
from torch import nn

from advbench.defenses.locally_connected import LocallyConnected2d
from advbench.models.lenet import LeNet


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((8, 8), 3, 1, 1), ((9, 6), 4, 2, 1), ((5, 7), 5, 2, 2), ((4, 4), 4, 1, 0)],
)
def test_with_equal_kernels_it_is_the_convolution(
    size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, kernel, stride, padding)
    layer = LocallyConnected2d(size, 3, 5, kernel, stride, padding)
    assert convolution.bias is not None
    with torch.no_grad():
        layer.weight.copy_(convolution.weight.flatten(1).expand_as(layer.weight))
        layer.bias.copy_(convolution.bias.expand_as(layer.bias))
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(layer(x), convolution(x))
    torch.testing.assert_close(layer.shared()(x), convolution(x))


def test_each_place_has_its_own_kernel_and_bias() -> None:
    layer = LocallyConnected2d((4, 6), 2, 3, 3, padding=1)
    x = torch.rand(1, 2, 4, 6)
    before = layer(x)
    with torch.no_grad():
        layer.weight[7] += 1  # the second row's second place
        layer.bias[14] += 1  # the third row's third place
    changed = (layer(x) != before).all(1).squeeze(0)
    assert changed.nonzero().tolist() == [[1, 1], [2, 2]]
    assert layer.weight.dim() == 3  # five dimensions could not be channels_last


def test_kernels_start_as_those_of_a_convolution() -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d((10, 10), 3, 8, 3)
    convolution = nn.Conv2d(3, 800, 3)  # as many kernels as the other has
    for mine, theirs in ((layer.weight, convolution.weight), (layer.bias, convolution.bias)):
        assert theirs is not None
        bound = 27**-0.5
        assert mine.abs().max() <= bound
        assert mine.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.07)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="side 5 does not fit in images of 3x8"):
        LocallyConnected2d((3, 8), 1, 1, 5)
    with pytest.raises(ValueError, match=r"built for images of 4x4; got \(1, 1, 8, 2\)"):
        LocallyConnected2d((4, 4), 1, 1, 3)(torch.zeros(1, 1, 8, 2))


@pytest.mark.parametrize("pool", [True, False])
def test_unshared_network_has_the_shape_of_the_shared_one(pool: bool) -> None:
    x = torch.rand(2, 3, 9, 12)
    shared = LeNet(channels=(4, 6), kernel=3, hidden=8, pool=pool).build((3, 9, 12), 7)
    free = LeNet(channels=(4, 6), kernel=3, hidden=8, pool=pool, shared=False).build((3, 9, 12), 7)
    assert isinstance(shared, nn.Sequential)
    assert isinstance(free, nn.Sequential)
    assert sum(isinstance(layer, LocallyConnected2d) for layer in free) == 2
    assert not any(isinstance(layer, nn.Conv2d) for layer in free)
    for one, other in zip(shared, free, strict=True):
        assert one(x).shape == other(x).shape
        x = one(x)


def test_sharing_is_what_the_network_was_before_it_could_be_left() -> None:
    torch.manual_seed(3)
    found = LeNet(channels=(4, 6), kernel=3, hidden=8).build((1, 8, 8), 5).state_dict()
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 1, 1), nn.Linear(24, 8), nn.Linear(8, 5)]
    expected = [value for layer in layers for value in layer.state_dict().values()]
    assert list(found) == [f"{i}.{part}" for i in (0, 3, 7, 9) for part in ("weight", "bias")]
    for value, other in zip(found.values(), expected, strict=True):
        assert torch.equal(value, other)
