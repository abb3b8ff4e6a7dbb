"""Golden numbers: what each attack does to one small CNN whose weights never change.

``python -m tests.golden`` writes them again; the difference is to be reviewed like any other.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advbench import registry
from advbench.attacks import L0, L1, L2, PGD, Affine, Flow, Patch, Placement, RandomSearch
from advbench.attacks.attack import Attack
from advbench.attacks.randomness import Draws

PATH = Path(__file__).parent / "attacks" / "golden.json"
COUNT, SHAPE, CLASSES = 64, (1, 8, 8), 5


def normal(key: int, *shape: int) -> Tensor:
    """Standard normal numbers that depend on no generator of torch."""
    zero = torch.zeros(1, dtype=torch.int64)
    return Draws(zero + 4711, zero + key, zero, zero).normal(shape, torch.float64)[0]


def build() -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network, 64 inputs and the classes that it gives them."""
    model = nn.Sequential(
        nn.utils.skip_init(nn.Conv2d, 1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.utils.skip_init(nn.Conv2d, 6, 8, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.utils.skip_init(nn.Linear, 8 * 16, CLASSES),
    ).double()
    with torch.no_grad():
        for key, parameter in enumerate(model.parameters()):
            width = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.copy_(normal(key, *parameter.shape) * math.sqrt(2 / width))
    x = torch.sigmoid(normal(100, COUNT, *SHAPE))
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)  # type: ignore[operator]
        y = model(x).argmax(1)
    return model.eval(), x, y


def attacks() -> list[Attack]:
    """Two examples of every registered attack, and the sets that these leave out."""
    kinds = [registry.get("attacks", name) for name in registry.names("attacks")]
    examples: list[Attack] = [
        one for kind in kinds if issubclass(kind, Attack) for one in kind.examples()
    ]
    return [
        *(one for one in examples if type(one).__module__.startswith("advbench.")),
        PGD(perturbation=L1(), steps=10),
        PGD(perturbation=L0(), steps=5),
        RandomSearch(perturbation=L1(), steps=10),
        RandomSearch(perturbation=L0(), steps=10),
        PGD(perturbation=Patch(placement=Placement(rotation=20)), steps=10),
        RandomSearch(perturbation=Patch(), steps=10),
        PGD(perturbation=Affine(shift=1), steps=10),
        PGD(perturbation=Flow(), steps=10),
    ]


def numbers(attack: Attack) -> dict[str, Any]:
    """Run one attack at a small eps and untargeted, then targeted."""
    model, x, y = build()
    share = 0.03 if isinstance(attack.perturbation, L2) else 0.05
    eps = None if attack.finds == "smallest" else share * attack.perturbation.largest(x)
    entry: dict[str, Any] = {}
    for name, targets in (("untargeted", None), ("targeted", (y + 1) % CLASSES)):
        found = attack.run(model, x, y, eps=eps, targets=targets, stop="never")
        hits = found.success
        entry[name] = {
            "successes": int(hits.sum()),
            "loss": round(float(found.loss.mean()), 5),
            "size": round(float(found.size[hits].mean()), 5) if hits.any() else None,
            "rows": [round(float(value), 4) for value in found.loss[:4]],
        }
    return entry


def main() -> None:
    """Write the file again."""
    table = {repr(attack): numbers(attack) for attack in attacks()}
    PATH.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
