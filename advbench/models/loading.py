"""From a name in a configuration to a model: the zoo, a user's own code, or a weights file."""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advbench import registry
from advbench.data.dataset import data_root
from advbench.defenses.defense import Defense, check_together, wrapped
from advbench.models import zoo
from advbench.models.architecture import Architecture, make_model
from advbench.models.normalized import Normalized
from advbench.models.weights import fill, read_weights
from advbench.registry import did_you_mean
from advbench.schema import plain, remade


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Where a model comes from.

    Fields:
        name: "zoo:<dataset>/<network>", "python:module:function", a function without arguments
            that returns the model, or "file:PATH", looked for as given and under the data root.
        architecture: of the network in a file that has no card beside it.
        shape: of one image, (C, H, W), for such a file.
        classes: the number of classes, for such a file.
        defenses: what is put around the model, the first innermost; in such a file also what its
            network was built with.
        mean: per channel, in pixel units: the model gets (x - mean) / std.
        std: per channel, with mean.
        sha256: what the weights file of a zoo or file model must have.
        label: what tables call the model; the name, with its defences, if None.
        root: the data root; None for the environment variable ADVBENCH_DATA, then ./data.
    """

    name: str
    architecture: Architecture | None = None
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    defenses: tuple[Defense, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sha256: str | None = None
    label: str | None = None
    root: Path | None = None


_UNUSED = {
    "zoo": ("architecture", "shape", "classes", "mean", "std"),
    "python": ("architecture", "shape", "classes", "sha256"),
    "file": (),
}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in eval mode, from images (N, *shape) in [0, 1] to logits (N, K).

    `sha256` is that of its structure, weights and buffers, whatever it came from; `data` and
    `split` name what a zoo network is judged on by default.
    """

    label: str
    model: nn.Module
    sha256: str
    data: str | None = None
    split: str = "test"
    card: dict[str, Any] | None = None


def load_model(spec: ModelSpec) -> LoadedModel:
    """Load a model.

    Raises ValueError for what cannot be right (an unknown name, weights that are damaged or do not
    fit), FileNotFoundError for a missing file and TypeError for code that returns no module.
    """
    source, _, address = spec.name.partition(":")
    sources = {"zoo": _from_zoo, "python": _from_python, "file": _from_file}
    if source not in sources or not address:
        near = did_you_mean(f"zoo:{spec.name}", [f"zoo:{name}" for name in zoo.names()])
        raise ValueError(
            f"model.name: got '{spec.name}', expected 'zoo:NAME', 'python:module:function' or "
            f"'file:PATH'.{near}"
        )
    unused = [key for key in _UNUSED[source] if getattr(spec, key) is not None]
    if unused:
        raise ValueError(
            f"model '{spec.name}': a {source}: model already has its {', '.join(unused)}; leave "
            f"{'it' if len(unused) == 1 else 'them'} out"
        )
    if (spec.mean is None) != (spec.std is None):
        raise ValueError("model: mean and std go together; only one of them is given")
    check_together(spec.defenses)
    model, card = sources[source](spec, address)
    label = " + ".join([spec.name, *(registry.name_of(type(one)) for one in spec.defenses)])
    model = model.cpu().eval()
    made_with = _defenses(card) if card else ()
    return LoadedModel(
        label=spec.label or label,
        model=model,
        sha256=content_address(model, (*made_with, *spec.defenses)),
        data=card["data"]["name"] if card else None,
        card=card,
    )


def content_address(model: nn.Module, defenses: Sequence[Defense] = ()) -> str:
    """The sha256 of a model's structure, weights and buffers, and of the defences within it."""
    digest = hashlib.sha256(repr(model).encode())
    for defense in defenses:
        if type(defense).wrap is not Defense.wrap or type(defense).build is not Defense.build:
            digest.update(json.dumps(plain(defense), sort_keys=True).encode())
    for kind in (model.named_parameters(), model.named_buffers()):
        for name, tensor in sorted(kind):
            held = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
            digest.update(held.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_zoo(spec: ModelSpec, name: str) -> tuple[nn.Module, dict[str, Any] | None]:
    card = zoo.card(name)
    return _around(spec, _from_card(card, zoo.path(name), spec.sha256)), card


def _from_file(spec: ModelSpec, address: str) -> tuple[nn.Module, dict[str, Any] | None]:
    given = Path(address).expanduser()
    places = [given] if given.is_absolute() else [given, data_root(spec.root) / given]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = ", ".join(f"'{place}'" for place in places)
        raise FileNotFoundError(f"model '{spec.name}': no such file; looked for {looked}")
    card = zoo.card_beside(path) if spec.architecture is None else None
    if card is not None:
        known = [key for key in ("shape", "classes", "mean") if getattr(spec, key) is not None]
        if known:
            raise ValueError(
                f"model '{spec.name}': the card beside the file says {', '.join(known)} already; "
                "leave out what it says, or give architecture too to go without the card"
            )
        return _around(spec, _from_card(card, path, spec.sha256)), card
    if spec.architecture is None or spec.shape is None or spec.classes is None:
        raise ValueError(
            f"model '{spec.name}': a file without a card beside it holds only weights; give "
            f"architecture (one of {', '.join(registry.names('models'))}), shape and classes too"
        )
    normalize = None if spec.mean is None or spec.std is None else (spec.mean, spec.std)
    model = structure(spec.architecture, normalize, spec.defenses, spec.shape, spec.classes)
    _fill(model, path, spec.sha256)
    return model, None


def _from_card(card: dict[str, Any], path: Path, sha256: str | None) -> nn.Module:
    architecture = remade("models", card["architecture"], f"the card of {path}", "architecture")
    normalize = card["normalize"] and (card["normalize"]["mean"], card["normalize"]["std"])
    model = structure(
        architecture, normalize, _defenses(card), tuple(card["shape"]), len(card["classes"])
    )
    _fill(model, path, sha256 or card["sha256"])
    return model


def _defenses(card: dict[str, Any]) -> list[Defense]:
    source = f"the card of {card['name']}"
    return [remade("defenses", one, source, "defenses") for one in card["defenses"]]


def structure(
    architecture: Architecture,
    normalize: tuple[Sequence[float], Sequence[float]] | None,
    defenses: Sequence[Defense],
    shape: tuple[int, ...],
    classes: int,
) -> nn.Module:
    """A deployed model whose weights are about to be filled in; random states stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return wrapped(defenses, make_model(architecture, normalize, defenses, shape, classes))


def _fill(model: nn.Module, path: Path, sha256: str | None) -> None:
    state, _ = read_weights(path, sha256)
    fill(model.model if isinstance(model, Normalized) else model, state, path)


def _around(spec: ModelSpec, model: nn.Module) -> nn.Module:
    """Put normalisation and defences around a finished model."""
    if spec.mean is not None and spec.std is not None:
        model = Normalized(model, spec.mean, spec.std)
    for defense in spec.defenses:
        around = defense.wrap(model)
        if around is model:
            raise ValueError(
                f"model '{spec.name}': {registry.name_of(type(defense))} acts while a network is "
                "trained and puts nothing around a finished one; name it in a recipe instead"
            )
        model = around
    return model


def _from_python(spec: ModelSpec, address: str) -> tuple[nn.Module, None]:
    module_name, _, function = address.partition(":")
    with _working_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"model '{spec.name}': cannot import it: {error}") from error
    known = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
    if function not in known:
        raise ValueError(
            f"model '{spec.name}': module '{module_name}' has no function '{function}'."
            f"{did_you_mean(function, known)} It has: {', '.join(sorted(known)) or 'none'}."
        )
    if isinstance(vars(module)[function], nn.Module):
        raise TypeError(
            f"model '{spec.name}': '{function}' is a model itself; name a function without "
            "arguments that makes it, so that every process can make its own"
        )
    model = vars(module)[function]()
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model '{spec.name}': expected a torch.nn.Module, got {type(model).__name__}"
        )
    return _around(spec, model), None


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """A user's own module is often a file beside the configuration they run."""
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path.pop()
