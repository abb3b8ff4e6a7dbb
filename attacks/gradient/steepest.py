"""One step of steepest ascent inside a set: what all gradient-sign attacks share."""

from typing import NamedTuple

from torch import Tensor

from advbench.attacks.perturbations import Perturbation
from advbench.attacks.query import Problem, Query


class Iterate(NamedTuple):
    """The state of a rule that remembers nothing but where it is."""

    p: Tensor


def origin(perturbation: Perturbation, problem: Problem) -> Tensor:
    """Return the point of the set that is nearest to no change; inside a ball, no change itself."""
    zero = perturbation.zero(problem.x)
    return perturbation.project(problem.x, zero, problem.eps)


def move(
    perturbation: Perturbation, p: Tensor, g: Tensor, problem: Problem, step_size: float | Tensor
) -> Tensor:
    """Go ``step_size * eps`` along the steepest direction of ``g`` and project.

    ``step_size`` is one number, or one per row (B,).
    """
    step = perturbation.steepest(problem.x, p, g, problem.eps * step_size)
    return perturbation.project(problem.x, p + step, problem.eps)


def ascend(
    perturbation: Perturbation, state: Iterate, query: Query, problem: Problem, step_size: float
) -> Iterate:
    """Ask for the gradient at the iterate and move along it."""
    probe = query(state.p, grad=True)
    return Iterate(move(perturbation, state.p, probe.grad, problem, step_size))
