"""The last linear layer of a network, and the features that it is given."""

from torch import Tensor, nn

from advbench.attacks.victim import Model


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the ``nn.Linear`` that was registered last; ValueError where there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear; its last layer must be one, from features "
            "(B, D) to logits (B, K)"
        )
    return layers[-1]


def with_features(seen: Model, layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features (B, D) that ``layer`` is given for x (B, *shape), and the logits (B, K).

    ``layer`` is part of the model ``seen``. Raises ValueError where its answer is not what the
    model answers, so that it is not the last one in use.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        calls.append((given[0], answer))

    handle = layer.register_forward_hook(note)
    try:
        logits = seen(x)
    finally:
        handle.remove()
    if len(calls) != 1 or calls[0][1] is not logits or logits.dim() != 2:
        raise ValueError(
            f"the answer of the nn.Linear that was registered last, {layer}, must be the logits "
            f"(B, K) of the network and it must be used once; it was used {len(calls)} times"
        )
    return calls[0]
