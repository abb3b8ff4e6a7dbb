"""Checks of the moments at which the model is only borrowed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch
from torch import Tensor

from advbench.defenses.defense import Defense
from advbench.defenses.fit import Batch, Fit
from advbench.testing.defense.trials import suited, under_way
from advbench.testing.manners import photograph
from advbench.testing.requirement import require


@contextmanager
def _borrowed(defense: Defense) -> Iterator[list[Fit]]:
    """Trainings under way; the global random state comes back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield [under_way(recipe) for recipe in suited(defense)]


def check_batch(defense: Defense) -> None:
    """A minibatch of any size becomes one that can be trained on, and the model is as before.

    Images stay images: finite, and in [0, 1] unless the network is to answer for noisy ones.
    """
    with _borrowed(defense) as fits:
        for fit in fits:
            for count in (16, 5, 1):
                given = Batch(*fit.train.rows(torch.arange(count)))
                copies = [part.clone() for part in given[:3]]
                before = photograph(fit.model)
                got = defense.batch(given, fit)
                require(photograph(fit.model) == before, defense, "the model was changed")
                same = all(map(torch.equal, copies, given[:3]))
                require(same, defense, "the minibatch was written to")
                _check_form(defense, given, got, fit.classes)


def _check_form(defense: Defense, given: Batch, got: Batch, classes: int) -> None:
    rows = len(got.y)
    require(rows > 0, defense, "a minibatch becomes empty")
    images = (got.x,) if got.clean is None else (got.x, got.clean)
    for x in images:
        right = x.shape == (rows, *given.x.shape[1:]) and x.dtype == given.x.dtype
        require(right, defense, f"images {tuple(given.x.shape)} become {tuple(x.shape)} {x.dtype}")
        require(x.isfinite().flatten(1).all(1), defense, "images are not finite")
        require(x.is_leaf, defense, "images hang on a graph")
        inside = (x >= 0) & (x <= 1)
        boxed = defense.random or inside.flatten(1).all(1)
        require(boxed, defense, "images leave [0, 1]")
    for name, tensor in (("classes", got.y), ("ids", got.ids)):
        right = tensor.shape == (rows,) and tensor.dtype == torch.int64
        require(right, defense, f"{name} become {tuple(tensor.shape)} {tensor.dtype}")
    require((got.y >= 0) & (got.y < classes), defense, "there is no such class")
    if got.soft is not None:
        right = got.soft.shape == (rows, classes) and got.soft.is_floating_point()
        require(right, defense, f"probabilities are {tuple(got.soft.shape)} {got.soft.dtype}")
        whole = (got.soft.sum(1) - 1).abs() < 1e-5
        require(whole & (got.soft >= 0).all(1), defense, "what is wanted is no probability")


def check_moved(defense: Defense) -> None:
    """Inside, the weights get a gradient; afterwards they are what they were, bit for bit.

    So they are after an exception inside.
    """
    with _borrowed(defense) as fits:
        for fit in fits:
            weights = list(fit.model.parameters())
            before = [weight.detach().clone() for weight in weights]
            objective = _objective(defense, fit)
            for fails in (False, True):
                when = " after an exception" if fails else ""
                with suppress(InterruptedError), defense.moved(objective, fit):
                    loss = objective()
                    fit.optimizer.zero_grad()
                    loss.backward()
                    if fails:
                        raise InterruptedError
                now = list(fit.model.parameters())
                held = len(now) == len(weights) and all(
                    one is two and one.requires_grad for one, two in zip(now, weights, strict=True)
                )
                require(held, defense, f"the weights are not the ones that are trained{when}")
                same = all(map(torch.equal, now, before))
                require(same, defense, f"the weights are not exactly as they were{when}")
                learns = any(_tells(weight.grad) for weight in now)
                require(learns, defense, "no gradient reaches the weights")


def _objective(defense: Defense, fit: Fit) -> partial[Tensor]:
    batch = defense.batch(Batch(*fit.train.rows(torch.arange(16))), fit)

    def inner() -> Tensor:
        return fit.loss(fit.seen(batch.x), batch.wanted)

    return partial(defense.objective, inner, batch, fit)


def _tells(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all() and gradient.any())
