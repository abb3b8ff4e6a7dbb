"""The contract of a view: what a model is shown in place of an image."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

from torch import Tensor

from advbench.attacks.randomness import Draws


class View(ABC):
    """A changed look at an image, in one copy or several; subclasses are frozen dataclasses.

    A loss is taken as its mean over the copies. ``keeps_first`` says that copy 0 is the image as
    it is. Every answer is per row: no row may depend on another.
    """

    keeps_first: ClassVar[bool] = False

    @property
    @abstractmethod
    def copies(self) -> int:
        """How many copies there are of an image."""

    @abstractmethod
    def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
        """Return what is seen of ``images`` (B, *shape), differentiable; random by ``draws`` alone.

        ``copy`` (B,) says which copy each row is to be, from 0 to ``copies`` - 1.
        """


@final
class Views:
    """Several views, one through the other: the second changes what the first returns."""

    def __init__(self, views: tuple[View, ...]) -> None:
        self.views = views

    @property
    def copies(self) -> int:
        """How many copies there are of an image: every combination."""
        count = 1
        for view in self.views:
            count *= view.copies
        return count

    @property
    def keeps_first(self) -> bool:
        """Whether copy 0 is the image as it is."""
        return all(view.keeps_first for view in self.views)

    def __call__(self, images: Tensor, copy: Tensor, draws: Draws) -> Tensor:
        """Return what is seen of ``images`` (B, *shape), of copy number ``copy`` (B,) of each."""
        for place, view in enumerate(self.views):
            images = view(images, copy % view.copies, draws.fork(place))
            copy = copy // view.copies
        return images
