"""What a recipe makes: weights, a card and a log of the training."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from advbench import registry
from advbench.data import Samples, load
from advbench.defenses.fit import Epoch, Score
from advbench.document import parse_toml
from advbench.files import check_writable, write_atomic
from advbench.models.normalized import Normalized
from advbench.report.learning import learning_curve
from advbench.schema import build, plain
from advbench.training.recipe import Recipe
from advbench.training.trainer import Progress, Trained, measured, train


def run_recipe(config: Path, out: Path, progress: Progress | None = None) -> Path:
    """Train what a recipe file says and write it to the folder `out`; see `produce`.

    Raises ConfigError with every problem found in the file.
    """
    document = parse_toml(config)
    recipe = build(Recipe, document)
    name = f"{config.resolve().parent.name}/{config.stem}"
    return produce(recipe, document.data, name, out / config.stem, progress)


def produce(
    recipe: Recipe,
    given: Mapping[str, Any],
    name: str,
    target: Path,
    progress: Progress | None = None,
) -> Path:
    """Train; writes TARGET.csv, the log, TARGET.safetensors, the weights, last TARGET.json, a card.

    Where the recipe has a log, TARGET.png shows the learning curves.

    A training that was killed goes on from TARGET.checkpoint. `given` is the recipe as its file has
    it, which the card keeps, and `name` what the card calls the network. Returns the path of the
    weights.

    Raises:
        OSError, WriteError: the folder cannot be made or written to.
        FileNotFoundError, ValueError, FloatingPointError: as `load` and `train` do.

    """
    target.parent.mkdir(parents=True, exist_ok=True)
    check_writable(target.parent)
    data = load(recipe.data.name, "train", recipe.data.samples)
    validation, test = load(recipe.data.name, "validation"), load(recipe.data.name, "test")
    trained = train(
        recipe,
        data=data,
        validation=validation,
        test=test,
        progress=progress,
        checkpoint=beside(target, ".checkpoint"),
    )
    weights = pack(trained.model)
    card = {"name": name, "recipe": given} | _facts(recipe, trained, (data, validation, test))
    card |= {"sha256": hashlib.sha256(weights).hexdigest(), "torch": torch.__version__}
    write_atomic(beside(target, ".csv"), log_csv(trained.log).encode())
    if recipe.log is not None:
        write_atomic(beside(target, ".png"), learning_curve(name, trained.log))
    write_atomic(beside(target, ".safetensors"), weights)
    write_atomic(beside(target, ".json"), (json.dumps(card, indent=2) + "\n").encode())
    return beside(target, ".safetensors")


def pack(model: nn.Module) -> bytes:
    """The weights in the safetensors format, without the normalisation that may wrap them all."""
    bare = model.model if isinstance(model, Normalized) else model
    # Copies, because safetensors refuses weights that share their memory.
    return save({key: value.contiguous().clone() for key, value in bare.state_dict().items()})


def log_csv(log: Sequence[Epoch]) -> str:
    """The log of a training as CSV: a line per epoch, blank where nothing was measured.

    Columns: epoch, rate (of learning, at its end), loss (mean over minibatches), and accuracy, loss
    and robust (accuracy under the log's attack) of each split.
    """
    splits = ("train", "validation", "test")
    columns = [f"{split}_{field}" for split in splits for field in Score._fields]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["epoch", "rate", "loss", *columns])
    for epoch in log:
        scores = [getattr(epoch, split) or (None,) * len(Score._fields) for split in splits]
        values = [epoch.rate, epoch.loss, *(value for score in scores for value in score)]
        writer.writerow([epoch.number, *("" if v is None else f"{v:.6g}" for v in values)])
    return buffer.getvalue()


def _facts(recipe: Recipe, trained: Trained, splits: Sequence[Samples]) -> dict[str, Any]:
    """What a card says of a network: how it was made, and what it is worth on every split."""
    data = splits[0]
    scores = {
        samples.split: measured(recipe.log, trained.model, samples, recipe.train.seed)
        for samples in splits
    }
    last = trained.log[-1]
    facts: dict[str, Any] = {
        "architecture": plain(recipe.model),
        "normalize": None if recipe.normalize is None else asdict(recipe.normalize),
        "defenses": [plain(defense) for defense in recipe.defenses],
        "broken": {
            registry.name_of(type(one)): one.broken for one in recipe.defenses if one.broken
        },
        "shape": list(data.image_shape),
        "classes": list(data.classes),
        "data": {"name": data.name, "digest": data.digest()},
        "seed": recipe.train.seed,
        "epochs": len(trained.log),
        "epoch": trained.kept,
        "alarm": trained.alarm,
        "clean_accuracy": {split: _short(score.accuracy) for split, score in scores.items()},
        "loss": {split: _short(score.loss) for split, score in scores.items()},
        "parameters": sum(weight.numel() for weight in trained.model.parameters()),
        "threads": recipe.train.threads,
    }
    if recipe.log is not None and recipe.log.attack is not None:
        end = {"train": last.train, "validation": last.validation, "test": last.test}
        facts["robust_accuracy"] = {
            "attack": plain(recipe.log.attack),
            "eps": recipe.log.eps,
            "samples": recipe.log.samples,
            "result": {split: _short(score.robust) for split, score in scores.items()},
            "last_epoch": {
                split: None if score is None else _short(score.robust)
                for split, score in end.items()
            },
        }
    return facts


def beside(target: Path, suffix: str) -> Path:
    """The file of a training that ends in a suffix; its own name may hold dots."""
    return target.with_name(target.name + suffix)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
