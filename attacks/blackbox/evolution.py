"""An evolution strategy: a cloud of tries that moves and stretches towards the best of them."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

import torch
from torch import Tensor

from advbench.attacks.blackbox.coarse import dimensions, uniform, within
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations import L2, Linf, Perturbation
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


class Cloud(NamedTuple):
    """Where the last query was, and the normal distribution from which the next ones come.

    ``mean``, ``variance`` (of each coordinate) and the two paths are (B, k), ``sigma`` is (B,);
    the tries of the current generation are (B, population, k), their losses (B, population).
    """

    p: Tensor
    mean: Tensor
    variance: Tensor
    sigma: Tensor
    path_c: Tensor
    path_s: Tensor
    tries: Tensor
    losses: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Evolution(Rule[Cloud]):
    """Separable CMA-ES: a normal distribution with a variance of its own for each coordinate.

    Source: Ros, Hansen, "A simple modification in CMA-ES achieving linear time and space
    complexity", PPSN X, 2008; its constants are those of Hansen, "The CMA evolution strategy: a
    tutorial", 2016, arXiv:1604.00772, table 1, with the learning rates of the variances times
    (k + 2) / 3. A try outside a range is moved to its end before it is asked about. Needs scores.
    Cost of a run: rounds * population forward passes.

    Fields:
        rounds: generations.
        population: tries in each, at least 2.
        spread: standard deviation at the start, a share of the range.
        restarts: runs from other points.
        blocks: contiguous groups that share a value, of a set whose parameters have no names.
    """

    access: ClassVar[Access] = "scores"
    scores_last: ClassVar[bool] = False

    perturbation: Perturbation = Linf()
    loss: Loss = Margin()
    rounds: int = 20
    population: int = 18
    spread: float = 0.5
    restarts: int = 1
    blocks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.population < 2:
            raise ValueError("Evolution: population must be at least 2, of which one is the better")

    @property
    def steps(self) -> int:
        """All tries of a run."""
        return self.rounds * self.population

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        return cls(rounds=4, population=6), cls(perturbation=L2(), rounds=3, population=5, blocks=3)

    def init(self, problem: Problem) -> Cloud:
        """Start in the middle of the set, then at random."""
        count = dimensions(self.perturbation, self.blocks)
        mean = uniform(problem, count) * (problem.draws.stream > 0).unsqueeze(1)
        nothing = torch.zeros_like(mean)
        return Cloud(
            self.perturbation.zero(problem.x),
            mean,
            torch.ones_like(mean),
            torch.full_like(problem.eps, self.spread),
            nothing,
            nothing,
            nothing.unsqueeze(1).repeat(1, self.population, 1),
            nothing[:, :1].repeat(1, self.population),
        )

    def step(self, state: Cloud, query: Query, problem: Problem) -> Cloud:
        """Ask about one try; after the last of a generation, move the distribution."""
        number = problem.t % self.population
        normal = problem.draws.normal(state.mean.shape[1:], state.mean.dtype)
        deviation = state.sigma.unsqueeze(1) * state.variance.sqrt()
        u = within(self.perturbation, state.mean + deviation * normal, problem)
        p = self.perturbation.lattice(problem.x, problem.eps, u)
        loss = query(p).loss
        own = torch.arange(self.population, device=u.device) == number.unsqueeze(1)
        asked = state._replace(
            p=p,
            tries=torch.where(own.unsqueeze(2), u.unsqueeze(1), state.tries),
            losses=torch.where(own, loss.unsqueeze(1), state.losses),
        )
        over = number == self.population - 1
        if not over.any():
            return asked
        moved = self._next(asked, problem.t // self.population + 1)
        return Cloud(
            *(
                torch.where(over.view(-1, *[1] * (new.dim() - 1)), new, old)
                for new, old in zip(moved, asked, strict=True)
            )
        )

    def _next(self, state: Cloud, generation: Tensor) -> Cloud:
        """Return the distribution of the next generation."""
        k = state.mean.shape[1]
        weights = _weights(self.population).to(state.mean)
        mass = 1 / float(weights.square().sum())
        c_s = (mass + 2) / (k + mass + 5)
        damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (k + 1)) - 1) + c_s
        c_c = (4 + mass / k) / (k + 4 + 2 * mass / k)
        faster = (k + 2) / 3
        c_1 = min(1.0, faster * 2 / ((k + 1.3) ** 2 + mass))
        c_mu = min(1 - c_1, faster * 2 * (mass - 2 + 1 / mass) / ((k + 2) ** 2 + mass))
        expected = math.sqrt(k) * (1 - 1 / (4 * k) + 1 / (21 * k**2))

        order = state.losses.argsort(dim=1, descending=True, stable=True)[:, : len(weights)]
        best = state.tries.gather(1, order.unsqueeze(2).expand(-1, -1, k))
        sigma = state.sigma.unsqueeze(1)
        steps = (best - state.mean.unsqueeze(1)) / sigma.unsqueeze(2)
        step = (weights.view(1, -1, 1) * steps).sum(1)
        path_s = (1 - c_s) * state.path_s + math.sqrt(c_s * (2 - c_s) * mass) * (
            step / state.variance.sqrt()
        )
        length = path_s.norm(dim=1)
        settled = (1 - (1 - c_s) ** (2 * generation.to(sigma))).sqrt()
        steady = (length / settled < (1.4 + 2 / (k + 1)) * expected).unsqueeze(1)
        path_c = (1 - c_c) * state.path_c + steady * math.sqrt(c_c * (2 - c_c) * mass) * step
        kept = 1 - c_1 - c_mu + c_1 * c_c * (2 - c_c) * ~steady
        variance = (
            kept * state.variance
            + c_1 * path_c.square()
            + c_mu * (weights.view(1, -1, 1) * steps.square()).sum(1)
        )
        growth = (c_s / damping * (length / expected - 1)).clamp(-1, 1).exp()
        return state._replace(
            mean=state.mean + sigma * step,
            variance=variance.clamp(1e-8, 1e8),
            sigma=(state.sigma * growth).clamp(1e-6, 2),
            path_c=path_c,
            path_s=path_s,
        )


def _weights(population: int) -> Tensor:
    """Return the weights of the better half, falling with the logarithm of the rank."""
    half = max(1, population // 2)
    ranks = torch.arange(1, half + 1, dtype=torch.float64)
    weights = math.log(population / 2 + 0.5) - ranks.log()
    return weights / weights.sum()
