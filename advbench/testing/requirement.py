"""How a check says no."""

import torch
from torch import Tensor

from advbench.attacks.attack import Adversary, Attack, Outcome
from advbench.defenses.defense import Defense


class ContractError(AssertionError):
    """An attack, or a defence, does not do what every one promises."""


def require(holds: bool | Tensor, one: Adversary | Defense, complaint: str) -> None:
    """Raise ``ContractError`` naming ``one`` unless ``holds`` (in every row)."""
    if isinstance(holds, Tensor):
        bad = (~holds.reshape(-1)).nonzero().squeeze(1)
        if not len(bad):
            return
        complaint = f"{complaint} (rows {bad.tolist()[:5]})"
    elif holds:
        return
    raise ContractError(f"{one!r}: {complaint}")


def require_same(
    attack: Attack, got: Outcome, expected: Outcome, when: str, tolerance: float = 1e-9
) -> None:
    """Raise ``ContractError`` unless two outcomes agree, row by row and field by field."""
    for name, one, two in zip(Outcome._fields, got, expected, strict=True):
        if one.shape != two.shape:
            require(False, attack, f"{name} changes its shape {when}")
        close = torch.isclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=True)
        require(close.flatten(1).all(1) if close.dim() > 1 else close, attack, f"{name} {when}")


def rows(outcome: Outcome, index: Tensor) -> Outcome:
    """Return some rows of an outcome."""
    return Outcome(*(field[index] for field in outcome))


def stack(outcomes: list[Outcome]) -> Outcome:
    """Put outcomes below each other."""
    return Outcome(*(torch.cat(field) for field in zip(*outcomes, strict=True)))
