"""Expectation over transformations: the loss of a query as a mean over random draws."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion
from advbench.attacks.losses import Objective
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.randomness import Draws
from advbench.attacks.rows import take
from advbench.attacks.transfer.view import View, Views
from advbench.attacks.victim import Victim

# Marks the draws of the query itself, apart from those by which rules fork theirs.
_VIEWS = 1 << 20


@dataclass(frozen=True, eq=False)
class Crowd:
    """The images that one change is made for, with their labels and targets; all (M, ...).

    With ``fresh`` each query draws others; without, a search that compares losses meets the same
    ones, at the same placements, at every step.
    """

    x: Tensor
    criterion: Criterion
    fresh: bool = True

    def pick(self, draws: Draws) -> tuple[Tensor, Criterion]:
        """Draw an image for each row of ``draws``."""
        index = draws.bits(()) % len(self.x)
        return self.x[index], take(self.criterion, index)


@dataclass(frozen=True)
class EOT:
    """Expectation over transformations: each query takes the mean loss over ``samples`` draws.

    What is drawn: with ``views``, all copies that they show of the images, one view through the
    other; where the perturbation set leaves something to ``chance``, such as the place of a patch,
    that; with a ``crowd``, the image itself, as a universal change wants it. Without any of them
    the draws are the victim's own randomness, and success is a majority of them. Otherwise the
    gradient is that of the mean loss, while success is still read from the victim and the
    parameters as they are; with a crowd, from the majority of its images.
    Source: Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018,
    arXiv:1707.07397.
    """

    samples: int
    views: tuple[View, ...] = ()
    crowd: Crowd | None = None
    chance: bool = True

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"EOT: samples must be at least 1; got {self.samples}")

    @property
    def looks(self) -> int:
        """How often a query asks for the loss: each draw in every copy of the views."""
        return self.samples * Views(self.views).copies


class Expectation(NamedTuple):
    """How ``eot`` is taken for changes of one perturbation set."""

    eot: EOT
    perturbation: Perturbation
    victim: Victim
    loss: Objective

    @property
    def own_randomness(self) -> bool:
        """Whether nothing but the victim's own randomness is averaged over."""
        return not self.eot.views and self.eot.crowd is None and not self._varies

    @property
    def _varies(self) -> bool:
        return self.eot.chance and self.perturbation.varies

    @property
    def _shows_all(self) -> bool:
        """Whether the first look is at the image and the parameters as they are."""
        return Views(self.eot.views).keeps_first and not self._varies

    @property
    def forwards(self) -> int:
        """Forward passes of one query."""
        alone = self.own_randomness or self.eot.crowd is not None or self._shows_all
        return self.eot.looks + (not alone)

    def score(
        self, x: Tensor, p: Tensor, criterion: Criterion, draws: Draws, call: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean loss (B, ...), logits (B, K) and success (B,) of ``p`` at one query."""
        if self.own_randomness:
            return self._repeated(self.perturbation.apply(x, p), criterion)
        views, samples = Views(self.eot.views), self.eot.looks
        rows = torch.arange(len(p), device=p.device).repeat_interleave(samples)
        draw = torch.arange(samples, device=p.device).repeat(len(p))
        chance = take(draws, rows)
        if self.eot.crowd is None or self.eot.crowd.fresh:
            chance = chance.fork(_VIEWS + call * samples + draw)
        else:
            chance = chance._replace(number=0 * chance.number).fork(_VIEWS + draw)
        seen, aim = x[rows], take(criterion, rows)
        if self.eot.crowd is not None:
            seen, aim = self.eot.crowd.pick(chance.fork(1))
        changes = p[rows]
        if self._varies:
            changes = self.perturbation.vary(seen, changes, chance.fork(2))
        images = self.perturbation.apply(seen, changes)
        logits = self.victim(views(images, draw % views.copies, chance.fork(3)))
        loss = self.loss(logits, aim.aimed(logits)).unflatten(0, (-1, samples)).mean(1)
        if self.eot.crowd is not None:
            share = aim.success(logits.detach()).view(-1, samples).to(loss.dtype).mean(1)
            return loss, logits.view(len(p), samples, -1).mean(1), share > 0.5
        if self._shows_all:
            logits = logits[::samples].detach()
        else:
            with torch.no_grad():
                logits = self.victim(self.perturbation.apply(x, p))
        return loss, logits, criterion.success(logits)

    def _repeated(self, images: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor, Tensor]:
        """Ask the victim again and again: its randomness may be one draw per call."""
        losses, all_logits, wins = [], [], []
        for _ in range(self.eot.samples):
            logits = self.victim(images)
            losses.append(self.loss(logits, criterion.aimed(logits)))
            all_logits.append(logits)
            wins.append(criterion.success(logits.detach()))
        share = torch.stack(wins).to(losses[0].dtype).mean(0)
        return torch.stack(losses).mean(0), torch.stack(all_logits).mean(0), share > 0.5
