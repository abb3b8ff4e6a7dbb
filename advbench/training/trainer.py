"""One small trainer, with the moments at which defences act."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.data import Samples
from advbench.defenses.fit import Batch, Epoch, Fit, Score, Split, robust_accuracy, score
from advbench.models.architecture import make_model
from advbench.schema import plain
from advbench.training.checkpoint import Checkpoint
from advbench.training.recipe import Log, Optimizer, Recipe

Progress = Callable[[Epoch, Fit], None]

_PATIENCE = 10.0  # seconds between checkpoints


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Fields:
        model: as it is deployed, in eval mode.
        log: how training stood after each epoch.
        kept: the number of the epoch whose weights the model has; None where no single one's are.
        alarm: what a defence found wrong with the training; empty for nothing.
    """

    model: nn.Module
    log: tuple[Epoch, ...]
    kept: int | None
    alarm: str = ""


def train(
    recipe: Recipe,
    *,
    data: Samples,
    validation: Samples,
    test: Samples | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    patience: float = _PATIENCE,
) -> Trained:
    """Train a network; the same recipe and data give the same bits on the same machine.

    The global random state and the number of threads are left as they were.

    Args:
        recipe: all that decides the result.
        data: the samples trained on.
        validation: those that defences may look at.
        test: looked at only for the log, where the recipe asks for one.
        progress: called after each epoch with its standing and the training.
        checkpoint: a file to continue from if it is one of this training, written after an epoch
            when `patience` seconds have passed since the last time, and removed at the end.
        patience: see there.

    Raises:
        FloatingPointError: the loss ceases to be finite.
        ValueError: a defence does not suit the network or the data.
        WriteError: the checkpoint cannot be written.

    """
    with torch.random.fork_rng(devices=[]), _threads(recipe.train.threads):
        torch.default_generator.manual_seed(recipe.train.seed)
        fit = _fit(recipe, data, validation)
        for defense in recipe.defenses:
            defense.optimizer(fit)
        saved = Checkpoint(checkpoint, _address(recipe, data, validation), patience)
        if not saved.resume(fit):
            for defense in recipe.defenses:
                defense.start(fit)
        while len(fit.log) < fit.epochs and not fit.stop:
            number = len(fit.log)
            loss = _epoch(recipe, fit, number)
            fit.epoch = number + 1
            fit.log.append(_standing(recipe, fit, data, validation, test, loss))
            for defense in recipe.defenses:
                defense.after_epoch(fit)
            saved.write(fit)
            if progress is not None:
                progress(fit.log[-1], fit)
        fit.kept_epoch = fit.log[-1].number
        for defense in recipe.defenses:
            defense.finish(fit)
        model = fit.model.to(memory_format=torch.contiguous_format).eval()
        for defense in recipe.defenses:
            model = defense.deploy(model, fit).eval()
        saved.remove()
    return Trained(model, tuple(fit.log), fit.kept_epoch, fit.alarm)


def _fit(recipe: Recipe, data: Samples, validation: Samples) -> Fit:
    normalize = None if recipe.normalize is None else (recipe.normalize.mean, recipe.normalize.std)
    model = make_model(
        recipe.model, normalize, recipe.defenses, data.image_shape, len(data.classes)
    )
    # The same sums in another order; pooling and convolution are up to twice as fast.
    model = model.to(memory_format=torch.channels_last)
    replays = _replays(recipe)
    return Fit(
        model=model,
        seen=data.seen_by(model),
        seen_validation=validation.seen_by(model),
        optimizer=_optimizer(recipe.optimizer, model),
        loss=_LOSSES[recipe.train.loss],
        train=_split(data),
        validation=_split(validation),
        classes=len(data.classes),
        epochs=math.ceil(recipe.train.epochs / replays),
        seed=recipe.train.seed,
    )


def _replays(recipe: Recipe) -> int:
    """How often each minibatch is trained on in a row."""
    return math.prod(defense.replays for defense in recipe.defenses)


def _split(samples: Samples) -> Split:
    return Split(samples.x, samples.y, samples.ids)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _epoch(recipe: Recipe, fit: Fit, number: int) -> float:
    """Train for an epoch; returns the mean loss of its minibatches."""
    settings = recipe.train
    fit.epoch = float(number)
    order = torch.randperm(
        len(fit.train.y), generator=torch.Generator().manual_seed(fit.epoch_seed)
    )
    batches = order.split(settings.batch_size)
    replays = _replays(recipe)
    total = 0.0
    fit.model.train()
    for index, rows in enumerate(batches):
        fit.epoch = number + index / len(batches)
        for _ in range(replays):
            total += _step(recipe, fit, rows) * len(rows) / replays
    if not math.isfinite(total):
        raise FloatingPointError(
            f"training: the loss is {total} in epoch {number}; lower optimizer.lr, which is "
            f"{recipe.optimizer.lr}"
        )
    return total / len(order)


def _step(recipe: Recipe, fit: Fit, rows: Tensor) -> float:
    rate = _rate(recipe.train.schedule, fit.done)
    for defense in recipe.defenses:
        rate = defense.rate(rate, fit)
    for group in fit.optimizer.param_groups:
        group["lr"] = recipe.optimizer.lr * rate
    batch = Batch(*fit.train.rows(rows))
    for defense in recipe.defenses:
        batch = defense.batch(batch, fit)

    def objective() -> Tensor:
        return fit.loss(fit.seen(batch.x), batch.wanted)

    for defense in recipe.defenses:
        objective = partial(defense.objective, objective, batch, fit)
    with ExitStack() as moved:
        for defense in recipe.defenses:
            moved.enter_context(defense.moved(objective, fit))
        loss = objective()
        fit.optimizer.zero_grad()
        loss.backward()
    fit.optimizer.step()
    for defense in recipe.defenses:
        defense.after_step(batch, fit)
    return loss.item()


def _standing(
    recipe: Recipe, fit: Fit, data: Samples, validation: Samples, test: Samples | None, loss: float
) -> Epoch:
    """How training stands; what only the log wants is measured as often as it asks for it."""
    number, rate = len(fit.log), fit.optimizer.param_groups[0]["lr"]
    log = recipe.log
    last = number == fit.epochs - 1
    if log is None or not (last or number % log.every == log.every - 1):
        return Epoch(number, rate, loss, score(fit.model, fit.seen_validation, fit.validation))
    return Epoch(
        number,
        rate,
        loss,
        measured(log, fit.model, validation, fit.seed),
        measured(log, fit.model, data, fit.seed),
        None if test is None else measured(log, fit.model, test, fit.seed),
    )


def measured(log: Log | None, model: nn.Module, samples: Samples, seed: int) -> Score:
    """How a network does on samples: on all as they are, on the log's first ones under attack."""
    seen, split = samples.seen_by(model), _split(samples)
    found = score(model, seen, split)
    if log is None or log.attack is None:
        return found
    part = split.first(log.samples)
    return found._replace(robust=robust_accuracy(model, seen, part, log.attack, log.eps, seed))


def _optimizer(recipe: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    if recipe.name == "adam":
        return torch.optim.Adam(model.parameters(), recipe.lr)
    return torch.optim.SGD(model.parameters(), recipe.lr, momentum=recipe.momentum)


def _rate(schedule: str, done: float) -> float:
    """The learning rate as a fraction of the recipe's, when `done` of the training is done."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if done < 0.3:
        return 0.04 + 0.96 * done / 0.3
    return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


def _squared_error(logits: Tensor, wanted: Tensor) -> Tensor:
    if wanted.dim() == 1:
        wanted = functional.one_hot(wanted, logits.shape[1]).to(logits)
    return (logits - wanted).square().sum(1).mean()


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "squared_error": _squared_error,
}


def _address(recipe: Recipe, data: Samples, validation: Samples) -> str:
    """What a checkpoint must be of to be continued."""
    made_of = [plain(recipe), data.digest(), validation.digest(), torch.__version__]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
