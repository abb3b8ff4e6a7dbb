"""The model under attack: held still while it is attacked, and handed back as it was."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from advbench.attacks import checks
from advbench.attacks.criterion import Criterion
from advbench.attacks.rendering.renderer import Renderer

Model = Callable[[Tensor], Tensor]
Mode = Callable[[], AbstractContextManager[object]]
"""Makes a context for a model to run in."""


@contextmanager
def frozen(model: Model, seed: int = 0) -> Iterator[None]:
    """Hold ``model`` in eval mode with frozen parameters; restore everything afterwards.

    Restored, also after an exception: every module's own mode, every parameter's
    ``requires_grad``, every buffer's content, and the global random state, which is seeded with
    ``seed`` meanwhile so that a randomised model repeats itself. Gradients are enabled inside,
    whatever mode the caller is in.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    buffers = [
        (module, name, buffer)
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [module.training for module in modules]
    required = [parameter.requires_grad for parameter in parameters]
    contents = [buffer.clone() for _, _, buffer in buffers]
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    with (
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
    ):
        torch.default_generator.manual_seed(seed)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(seed)
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                if not parameter.is_inference():  # could not be turned back on
                    parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, flag in zip(parameters, required, strict=True):
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
            for (module, name, buffer), content in zip(buffers, contents, strict=True):
                module._buffers[name] = buffer  # the model may have put another in its place
                if not torch.equal(buffer, content):
                    buffer.data.copy_(content)


@contextmanager
def full_precision(device: torch.device) -> Iterator[Mode]:
    """Keep the caller's autocast away from everything but the model.

    Inside, no operation on ``device`` is rounded to 16 bits behind the back of who wrote it. What
    is yielded makes the context that the caller is in, for a ``Victim`` to run its model in.
    """
    kind = device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        yield nullcontext
        return
    dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        yield lambda: torch.autocast(kind, dtype=dtype)


def device_of(model: Model, x: Tensor) -> torch.device:
    """Return where the parameters of ``model`` are, or ``x`` if it has none."""
    first = _first_parameter(model)
    return x.device if first is None else first.device


def _first_parameter(model: Model) -> Tensor | None:
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None


class Victim:
    """A model seen by an attack: images (B, *shape) in [0, 1], or scenes, to logits (B, K).

    Images go to the model in its own precision and on its own device, scenes to the renderer in
    theirs; logits come back in at least 32 bits. The first answer is inspected: its form, and
    whether the model has a class for every label and target of ``criterion``. Where it stands in
    for another model, ``exact`` is that one, and only what fools that one is a success. The model
    alone runs in ``mode``, such as the caller's autocast; see ``full_precision``.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        criterion: Criterion | None = None,
        exact: "Victim | None" = None,
        mode: Mode = nullcontext,
    ) -> None:
        self.exact = exact
        self._mode = mode
        self._model = model.model if isinstance(model, SceneModel) else model
        self._renderer = model.renderer if isinstance(model, SceneModel) else None
        self._criterion = criterion
        first = _first_parameter(self._model)
        self.device = device_of(model, x)
        self.precision = first.dtype if first is not None and first.is_floating_point() else x.dtype
        self.classes: int | None = None
        self.probabilities = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits; raises ``TypeError`` or ``ValueError`` when they are none."""
        images = x if self._renderer is None else self._renderer(x)
        with self._mode():
            logits = self._model(images.to(self.precision))
        if self.classes is None:
            self._inspect(logits, x.shape[0])
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def _inspect(self, logits: object, count: int) -> None:
        if not isinstance(logits, Tensor):
            parts = f" with {sorted(logits)}" if isinstance(logits, dict) else ""
            raise TypeError(
                f"the model must return a tensor of logits (B, K); got {type(logits).__name__}"
                f"{parts}. Wrap it so that it returns the logits alone."
            )
        if logits.dim() != 2 or logits.shape[0] != count or logits.shape[1] < 2:
            raise ValueError(
                f"the model must return logits (B, K) with K >= 2; got {tuple(logits.shape)} for "
                f"{count} images. Turn a single logit z into the two columns (0, z)."
            )
        self.classes = logits.shape[1]
        if self._criterion is not None:
            checks.classes(self._criterion, self.classes)
        total = logits.detach().sum(1)
        self.probabilities = bool(
            (logits.detach() >= 0).all() and (total - 1).abs().max() <= 1e-5 * math.sqrt(count)
        )


class SceneModel(nn.Module):
    """A model of images as a model of scenes: what an attack on poses has for a victim."""

    def __init__(self, renderer: Renderer, model: Model) -> None:
        super().__init__()
        self.renderer = renderer
        self.model = model

    def forward(self, scenes: Tensor) -> Tensor:
        """Return the logits (B, K) for what the scenes (B, 17) look like."""
        return self.model(self.renderer(scenes))


class BPDA(nn.Module):
    """Run ``transform`` forward and differentiate ``stand_in`` (the identity by default) instead.

    For a preprocessing without a useful gradient: ``nn.Sequential(BPDA(quantise), net)`` computes
    what ``nn.Sequential(quantise, net)`` computes, so attacking the one attacks the other.
    Source: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security",
    ICML 2018, arXiv:1802.00420, section 4.1.
    """

    def __init__(self, transform: Model, stand_in: Model | None = None) -> None:
        super().__init__()
        self.transform = transform
        self.stand_in = stand_in

    def forward(self, x: Tensor) -> Tensor:
        """Return ``transform(x)``."""
        smooth = x if self.stand_in is None else self.stand_in(x)
        return self.transform(x).detach() + (smooth - smooth.detach())
