"""A problem of one row and an answer to its query, both written by hand."""

import torch
from torch import Tensor

from advbench.attacks.criterion import Criterion
from advbench.attacks.query import Probe, Problem, Query
from advbench.attacks.randomness import Draws


def problem(x: Tensor, t: int = 0) -> Problem:
    """Return a problem of the rows ``x`` (B, d), with all of the box to go."""
    zero = torch.zeros(len(x), dtype=torch.int64)
    eps = torch.full((len(x),), 1e3, dtype=x.dtype)
    draws = Draws(zero, torch.arange(len(x)), zero, zero + t + 1)
    return Problem(x, eps, Criterion(zero), draws, zero + t)


class Answer(Query):
    """Answers with the same lead and gradient, whatever it is asked."""

    def __init__(self, lead: Tensor, gradient: Tensor) -> None:
        self.lead, self.gradient = lead, gradient
        self.asked: list[Tensor] = []

    def __call__(self, p: Tensor, *, grad: bool = False, aim: Tensor | None = None) -> Probe:
        """Return the lead (B,) of class 1 over class 0, and its gradient."""
        self.asked.append(p)
        logits = torch.stack([torch.zeros_like(self.lead), self.lead], 1)
        gradient = self.gradient if grad else p.new_empty(0)
        return Probe(self.lead, gradient, self.lead > 0, logits)
