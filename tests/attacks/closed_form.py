"""Attacks against the exact answer on linear models, where it is known in closed form."""

import torch
from torch import Tensor

from advbench.attacks import Attack
from advbench.testing.halfspace import distance
from advbench.testing.strength import half_space
from advbench.testing.victims import Case, balanced

SHAPE = (1, 6, 7)


def linear_cases(attack: Attack, classes: int) -> tuple[Case, Tensor]:
    """Return a linear victim and, per row, the exact distance to the nearest other class."""
    if classes == 2:
        given, w, lead = half_space(SHAPE, count=12)
        x, sides = given.x.flatten(1), torch.where(given.y == 1, 1.0, -1.0)
        rows = [
            distance(attack.perturbation, side * w, x[i : i + 1], lead[i : i + 1])
            for i, side in enumerate(sides)
        ]
        return given, torch.cat(rows)
    given = balanced(classes, count=12, shape=SHAPE)
    return given, torch.stack([_nearest(attack, given, row) for row in range(12)])


def _nearest(attack: Attack, given: Case, row: int) -> Tensor:
    x, y = given.x[row : row + 1].flatten(1), int(given.y[row])
    weight = given.model.weight.detach()
    logits = given.model(given.x[row : row + 1])[0].detach()
    assert isinstance(weight, Tensor)
    found = [
        distance(attack.perturbation, weight[y] - weight[k], x, (logits[y] - logits[k])[None])
        for k in range(len(logits))
        if k != y
    ]
    return torch.stack(found).amin()


def assert_smallest(attack: Attack, classes: int = 2, within: float = 1.05) -> None:
    """A minimum-norm attack ends within a factor of the exact distance on every row."""
    given, exact = linear_cases(attack, classes)
    for targets in (None, given.targets) if classes == 2 else (None,):
        found = attack.run(given.model, given.x, given.y, targets=targets)
        assert found.success.all()
        assert (found.size >= exact * (1 - 1e-6)).all(), "smaller than what is possible"
        assert (found.size <= exact * within).all(), (found.size / exact).tolist()


def assert_sharp(attack: Attack, classes: int = 2, beyond: float = 1.02) -> None:
    """A fixed-budget attack succeeds just beyond the exact distance, and never short of it."""
    given, exact = linear_cases(attack, classes)
    for targets in (None, given.targets) if classes == 2 else (None,):
        for factor, succeeds in ((beyond, True), (0.98, False)):
            eps = exact * factor
            for stop in ("success", "never"):
                found = attack.run(
                    given.model, given.x, given.y, eps=eps, targets=targets, stop=stop
                )
                assert (found.success == succeeds).all(), (factor, stop, found.success.tolist())
