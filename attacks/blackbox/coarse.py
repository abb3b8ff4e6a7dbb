"""Searches in the coarse coordinates of a set: what those of few numbers share."""

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.query import Problem


def dimensions(perturbation: Perturbation, blocks: int) -> int:
    """Return how many coordinates are searched: all that have names, or ``blocks``."""
    return len(perturbation.names) or blocks


def within(perturbation: Perturbation, u: Tensor, problem: Problem) -> Tensor:
    """Bring ``u`` (B, k) back to [-1, 1], but for circles, which have no ends."""
    closed = perturbation.closed(problem.eps, u.shape[1])
    return torch.where(closed, u, u.clamp(-1, 1))


def uniform(problem: Problem, count: int) -> Tensor:
    """Draw coarse coordinates (B, count) uniformly from [-1, 1]."""
    return problem.draws.uniform((count,), problem.eps.dtype) * 2 - 1
