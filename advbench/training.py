"""One small trainer, with the hooks that defences use."""

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks.victim import Model
from advbench.data import Samples, load
from advbench.document import parse_toml
from advbench.files import write_atomic
from advbench.models.architecture import Architecture
from advbench.models.normalized import Normalized
from advbench.recipe import Normalize, Optimizer, Recipe
from advbench.schema import build, plain


class Epoch(NamedTuple):
    """How training stood after an epoch: mean loss, and accuracies on the validation split."""

    number: int
    loss: float
    clean: float
    robust: float | None


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, in eval mode, from the epoch that did best on validation."""

    model: nn.Module
    epoch: Epoch
    history: tuple[Epoch, ...]


Progress = Callable[[Epoch], None]


def train(
    recipe: Recipe, *, data: Samples, validation: Samples, progress: Progress | None = None
) -> Trained:
    """Train a network; the same recipe and data give the same bits on the same machine.

    The global random state and the number of threads are left as they were. Raises
    FloatingPointError where the loss ceases to be finite.
    """
    with torch.random.fork_rng(devices=[]), _threads(recipe.train.threads):
        torch.default_generator.manual_seed(recipe.train.seed)
        model = make_model(recipe.model, recipe.normalize, data)
        # The same sums in another order; pooling and convolution are up to twice as fast.
        model = model.to(memory_format=torch.channels_last)
        history, best, state = [], None, {}
        optimizer = _optimizer(recipe.optimizer, model)
        for number in range(recipe.train.epochs):
            loss = _epoch(recipe, model, optimizer, data, number)
            clean, negative_loss = _score(model, validation)
            robust = robust_accuracy(recipe, model, validation) if recipe.defense else None
            history.append(Epoch(number, loss, clean, robust))
            if progress is not None:
                progress(history[-1])
            chosen = robust if recipe.train.select == "robust" else clean
            if best is None or (chosen, clean, negative_loss) > best[0]:
                best = ((chosen, clean, negative_loss), history[-1])
                state = copy.deepcopy(model.state_dict())
    assert best is not None
    model.load_state_dict(state)
    model = model.to(memory_format=torch.contiguous_format).eval()
    return Trained(model, best[1], tuple(history))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_model(
    architecture: Architecture, normalize: Normalize | None, samples: Samples
) -> nn.Module:
    """A freshly initialised network for samples like these, normalisation inside."""
    model = architecture.build(samples.image_shape, len(samples.classes))
    return model if normalize is None else Normalized(model, normalize.mean, normalize.std)


def accuracy(model: nn.Module, samples: Samples) -> float:
    """The share of samples that the model classifies as what they are."""
    return _score(model, samples)[0]


def robust_accuracy(recipe: Recipe, model: nn.Module, samples: Samples) -> float:
    """The share of samples that stay correct under every defence's own examples, at full eps."""
    seen = samples.seen_by(model)
    correct = torch.ones(len(samples), dtype=torch.bool)
    for defense in recipe.defense:
        for rows in torch.arange(len(samples)).split(500):
            x, y = defense.batch(
                seen,
                samples.x[rows],
                samples.y[rows],
                samples.ids[rows],
                epoch=math.inf,
                seed=recipe.train.seed,
            )
            correct[rows] &= _logits(model, seen, x).argmax(1) == y
    correct &= _logits(model, seen, samples.x).argmax(1) == samples.y
    return correct.double().mean().item()


def _epoch(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Samples,
    number: int,
) -> float:
    settings = recipe.train
    seed = (settings.seed * 1_000_003 + number) % 2**32
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    batches = order.split(settings.batch_size)
    total = 0.0
    seen = data.seen_by(model)
    model.train()
    for index, rows in enumerate(batches):
        epoch = number + index / len(batches)
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * _rate(settings.schedule, epoch / settings.epochs)
        x, y = data.x[rows], data.y[rows]
        for defense in recipe.defense:
            x, y = defense.batch(seen, x, y, data.ids[rows], epoch, seed)
        loss = _LOSSES[settings.loss](seen(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    if not math.isfinite(total):
        raise FloatingPointError(
            f"training: the loss is {total} in epoch {number}; lower optimizer.lr, which is "
            f"{recipe.optimizer.lr}"
        )
    return total / len(data)


def _optimizer(recipe: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    weights = model.parameters()
    if recipe.name == "adam":
        return torch.optim.Adam(weights, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        weights, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def _rate(schedule: str, done: float) -> float:
    """The learning rate as a fraction of the recipe's, when `done` of the training is done."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if done < 0.3:
        return 0.04 + 0.96 * done / 0.3
    return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


def _squared_error(logits: Tensor, y: Tensor) -> Tensor:
    wanted = functional.one_hot(y, logits.shape[1]).to(logits)
    return (logits - wanted).square().sum(1).mean()


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "squared_error": _squared_error,
}


def _logits(model: nn.Module, seen: Model, x: Tensor) -> Tensor:
    """The logits for samples x, `seen` by the model in eval mode."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([seen(part) for part in x.split(500)])
    model.train(training)
    return logits


def _score(model: nn.Module, samples: Samples) -> tuple[float, float]:
    """Accuracy and minus the mean cross-entropy, for which more is better too."""
    logits = _logits(model, samples.seen_by(model), samples.x)
    share = (logits.argmax(1) == samples.y).double().mean().item()
    return share, -functional.cross_entropy(logits, samples.y).item()


def run_recipe(config: Path, out: Path, progress: Progress | None = None) -> Path:
    """Train what a recipe file says; writes OUT/<stem>.safetensors, then OUT/<stem>.json.

    Returns the path of the weights. Raises ConfigError with every problem found in the file.
    """
    document = parse_toml(config)
    recipe = build(Recipe, document)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"{out}: the folder cannot be written to")
    data = load(recipe.data.name, "train", recipe.data.samples)
    validation = load(recipe.data.name, "validation")
    trained = train(recipe, data=data, validation=validation, progress=progress)
    test = load(recipe.data.name, "test")
    weights = pack(trained.model)
    card = {
        "name": f"{config.resolve().parent.name}/{config.stem}",
        "recipe": document.data,
        "architecture": plain(recipe.model),
        "normalize": None if recipe.normalize is None else asdict(recipe.normalize),
        "shape": list(data.image_shape),
        "classes": list(data.classes),
        "data": {"name": data.name, "digest": data.digest()},
        "seed": recipe.train.seed,
        "epoch": trained.epoch.number,
        "clean_accuracy": {
            samples.split: _share(accuracy(trained.model, samples))
            for samples in (data, validation, test)
        },
        "robust_accuracy": {
            samples.split: _share(robust_accuracy(recipe, trained.model, samples))
            for samples in (validation, test)
            if recipe.defense
        },
        "parameters": sum(weight.numel() for weight in trained.model.parameters()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "torch": torch.__version__,
        "threads": recipe.train.threads,
    }
    target = out / f"{config.stem}.safetensors"
    write_atomic(target, weights)
    write_atomic(target.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return target


def pack(model: nn.Module) -> bytes:
    """The weights in the safetensors format, without the normalisation that may wrap them."""
    bare = model.model if isinstance(model, Normalized) else model
    return save({key: value.contiguous() for key, value in bare.state_dict().items()})


def _share(value: float) -> float:
    return round(value, 6)
