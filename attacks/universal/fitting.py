"""The search for one change that fits many images: a rule on a single row, under expectation."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from advbench.attacks import checks
from advbench.attacks.criterion import Criterion
from advbench.attacks.expectation import EOT, Crowd
from advbench.attacks.query import Problem, Query, Record, Rules
from advbench.attacks.randomness import Draws
from advbench.attacks.search import Rule
from advbench.attacks.victim import Model, Victim, device_of, frozen, full_precision

Models = Model | Sequence[Model]


@contextmanager
def held(models: Models, seed: int) -> Iterator[list[Any]]:
    """Hold one model or several as ``frozen`` does and yield them as a list.

    Raises ValueError where there is none.
    """
    members: list[Any] = list(models) if isinstance(models, Sequence) else [models]
    if not members:
        raise ValueError("there is no model to fit to")
    with ExitStack() as stack:
        for model in members:
            stack.enter_context(frozen(model, seed))
        yield members


class Committee:
    """Several models as one victim: each answers for an equal share of the rows of a batch.

    Only for rows in random order, as those of a crowd: the mean over them is then that over models.
    """

    def __init__(self, models: Sequence[Model], x: Tensor) -> None:
        self.victims = [Victim(model, x) for model in models]

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        parts = x.tensor_split(len(self.victims))
        return torch.cat([ask(part) for ask, part in zip(self.victims, parts, strict=True)])


def gather(batches: Iterable[tuple[Tensor, Tensor]], targets: int | None) -> tuple[Tensor, Tensor]:
    """Join the batches a change is fitted to, without the images of the class to reach.

    Raises ValueError, TypeError: no images, or none that is not of that class already.
    """
    pairs = list(batches)
    if not pairs:
        raise ValueError("there is nothing to fit to: batches is empty")
    for x, y in pairs:
        checks.inputs(x)
        checks.labels("y", y, x)
    x = torch.cat([x for x, _ in pairs])
    y = torch.cat([y for _, y in pairs]).to(torch.int64)
    if targets is None:
        return x, y
    if type(targets) is not int or targets < 0:
        raise ValueError(f"targets must be the number of a class; got {targets!r}")
    rest = y != targets
    if not rest.any():
        raise ValueError(
            f"targets must differ from the labels; all {len(y)} images are of class {targets}"
        )
    return x[rest], y[rest]


def fit_shared(
    rule: Rule[Any],
    models: Models,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    eps: float,
    targets: int | None,
    seed: int,
    samples: int,
) -> Tensor:
    """Run ``rule`` once on a change that all images share and return its parameters (1, ...).

    Each query takes the mean loss over ``samples`` images, drawn anew for gradients; a search that
    compares losses meets the same ones at each step. Several models share the images. The answer
    is where the rule ends: with a loss that is a random mean, the best one seen is the luckiest.
    All models and the global random state are left as they were.
    """
    checks.seed(seed)
    x, y = gather(batches, targets)
    checks.accepted(type(rule).__name__, rule.perturbation, x)
    radius = checks.radius(eps, x[:1], rule.perturbation, rule.finds)
    with held(models, seed) as members, full_precision(device_of(members[0], x)) as mode:
        if samples < len(members):
            raise ValueError(
                f"samples must be at least {len(members)}, an image for each model; got {samples}"
            )
        device = device_of(members[0], x)
        working = torch.float64 if x.dtype == torch.float64 else torch.float32
        x, y = checks.inside_box(x, rule.perturbation).to(device, working), y.to(device)
        aims = None if targets is None else torch.full_like(y, targets)
        criterion = Criterion(y, aims)
        model = members[0] if len(members) == 1 else Committee(members, x)
        victim = Victim(model, x, criterion, mode=mode)
        crowd = Crowd(x, criterion, fresh=rule.access == "gradient")
        rules = Rules(
            victim,
            rule.perturbation,
            rule.loss,
            rule.access,
            rule.finds,
            eot=EOT(samples, crowd=crowd),
        )
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        one = Criterion(y[:1], None if aims is None else aims[:1])
        draws = Draws(zero + seed, zero, zero, zero)
        problem = Problem(x[:1], radius.to(device, working), one, draws, zero)
        record = Record.blank(rule.perturbation.zero(x[:1]))
        state = rule.init(problem)
        for t in range(rule.steps):
            now = problem._replace(draws=draws._replace(number=zero + t + 1), t=zero + t)
            query = Query(rules, now, record)
            state = rule.step(state, query, now)
            record = query.record
        parameters: Tensor = state.p
        return parameters
