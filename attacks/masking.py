"""Layers whose gradient hides what an attack needs, and a model without them."""

import copy
from abc import ABC, abstractmethod

from torch import nn

from advbench.attacks.victim import Model


class Masking(nn.Module, ABC):
    """A layer whose true gradient misleads an attack."""

    @abstractmethod
    def stand_in(self) -> nn.Module:
        """Return a layer that leads to the same classes and whose gradient is of use.

        It holds no Masking layer, and shares the parameters and buffers of this one. Where it
        answers exactly as this one does it is mostly a ``BPDA`` of ``self.forward``: Athalye,
        Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018,
        arXiv:1802.00420.
        """


def unmasked(model: Model) -> Model:
    """Return the model as an attacker differentiates it who knows its defence.

    It is a copy that shares every parameter and buffer, in which the stand-in of each ``Masking``
    layer takes that layer's place, at any depth; the very same object where there is none, or where
    ``model`` is no ``nn.Module``. Layers are found among the registered submodules. Examples that
    are made on it must be judged on ``model`` itself.
    """
    return _unmasked(model, {}) if isinstance(model, nn.Module) else model


def _unmasked(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Without masks; ``done`` keeps a module that has several places a single one."""
    if module in done:
        return done[module]
    inner = {
        name: None if child is None else _unmasked(child, done)
        for name, child in module._modules.items()
    }
    found = module
    if any(inner[name] is not child for name, child in module._modules.items()):
        found = copy.copy(module)
        found._modules = inner
    if isinstance(found, Masking):
        found = found.stand_in()
        found.training = module.training
    done[module] = found
    return found
