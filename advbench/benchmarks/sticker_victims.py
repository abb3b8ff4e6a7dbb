"""The models that stickers are compared on, with training and held-out images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from advbench import data
from advbench.benchmarks.sticker_contestants import StickerTask
from advbench.models.loading import ModelSpec, load_model

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StickerVictim:
    """A net of the zoo, its data and the sticker to be made for it.

    Images are the first `train` and `test` of their splits (None: all); of the latter at most
    `judged` are judged on.
    """

    label: str
    dataset: str
    task: StickerTask
    train: int | None
    test: int | None
    judged: int

    def load(self) -> tuple[nn.Module, Pair, Pair]:
        """Return the model in eval mode, training images and test images with their labels.

        Raises FileNotFoundError where weights or data are not on this machine.
        """
        train = data.load(self.dataset, "train", self.train)
        test = data.load(self.dataset, "test", self.test)
        model = load_model(ModelSpec(name=self.label)).model
        return model, (train.x, train.y), (test.x, test.y)


VICTIMS = (
    StickerVictim(
        "zoo:digits/cnn",
        "digits",
        StickerTask(eps=0.3, targets=3, images=640),
        train=None,
        test=None,
        judged=400,
    ),
    StickerVictim(
        "zoo:cifar10/cnn",
        "folder:cifar10-jpeg",
        StickerTask(eps=0.2, targets=8, images=1600),
        train=2000,
        test=2000,
        judged=1000,
    ),
    StickerVictim(
        "zoo:cifar10/cnn",
        "folder:cifar10-jpeg",
        StickerTask(eps=0.1, targets=8, images=1600),
        train=2000,
        test=2000,
        judged=1000,
    ),
)
