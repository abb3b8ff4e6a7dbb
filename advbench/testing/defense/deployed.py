"""Checks of what is deployed: it can be loaded again, and answers as it is declared to."""

from dataclasses import replace

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion
from advbench.attacks.losses import Margin
from advbench.attacks.masking import unmasked
from advbench.attacks.victim import Model, frozen
from advbench.defenses.defense import Defense, wrapped
from advbench.models.architecture import make_model
from advbench.testing.defense.trials import answers, samples, state, suited, trained
from advbench.testing.requirement import require
from advbench.training.recipe import Optimizer, Recipe

_ROUNDING = 1e-4  # sums of float32 come out in another order


def check_rebuilt(defense: Defense) -> None:
    """Built and wrapped from nothing, the model takes the saved weights and answers alike."""
    data = samples()
    for recipe in suited(defense):
        model = trained(recipe).model
        given = recipe.normalize
        scale = None if given is None else (given.mean, given.std)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(99)
            inner = make_model(recipe.model, scale, (defense,), data.image_shape, len(data.classes))
            again = wrapped((defense,), inner).eval()
        try:
            again.load_state_dict(state(model))
        except RuntimeError as error:
            require(False, defense, f"rebuilt, it does not take its weights: {error}")
        same = torch.equal(answers(again), answers(model))
        require(same, defense, "rebuilt and loaded, it answers otherwise")


def check_random(defense: Defense) -> None:
    """The deployed model answers at random if it is declared to, and only then."""
    for recipe in suited(defense):
        model = trained(recipe).model
        first, again, other = answers(model), answers(model), answers(model, seed=1)
        require(torch.equal(first, again), defense, "the global seed does not decide its answers")
        varies = not torch.equal(first, other)
        require(varies == defense.random, defense, f"random is {defense.random}, varies: {varies}")


def check_rows(defense: Defense) -> None:
    """Unless it answers at random, what it says of an image does not depend on the others."""
    if defense.random:
        return
    x = samples("test").x
    for recipe in suited(defense):
        model = trained(recipe).model
        whole = answers(model)
        alone = torch.cat([answers(model, row) for row in x.split(1)])
        turned = answers(model, x.flip(0)).flip(0)
        for other, company in ((alone, "alone"), (turned, "in another order")):
            close = torch.isclose(other, whole, rtol=_ROUNDING, atol=_ROUNDING).all(1)
            require(close, defense, f"an image is answered otherwise {company}")


def check_unmasked(defense: Defense) -> None:
    """A control has a mask to take away, and nothing else has; then there is a gradient to follow.

    Without its mask a control finds the same classes.
    """
    for recipe in suited(defense):
        model = trained(_longer(recipe) if defense.broken else recipe).model
        bare = unmasked(model)
        masked = bare is not model
        told = "has nothing to unmask" if defense.broken else "masks its gradient; is it a control?"
        require(masked == bool(defense.broken), defense, told)
        with frozen(model):
            found = bare(samples().x).argmax(1)
        same = found == answers(model, samples().x).argmax(1)
        require(same, defense, "unmasked, it finds other classes")
        gradient = _gradient(bare).flatten(1)
        finite = gradient.isfinite().all(1)
        require(finite, defense, "unmasked, it has a gradient that is not finite")
        require(bool(gradient.any()), defense, "unmasked, it has no gradient")


def _longer(recipe: Recipe) -> Recipe:
    """Return a training after which a network tells some classes apart."""
    return replace(
        recipe,
        train=replace(recipe.train, epochs=12, batch_size=8),
        optimizer=Optimizer(lr=3e-2),
    )


def _gradient(model: Model) -> Tensor:
    x, y = samples().x.clone().requires_grad_(), samples().y
    with frozen(model):
        loss = Margin()(model(x), Criterion(y)).sum()
    if not loss.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(loss, x, materialize_grads=True)[0]
