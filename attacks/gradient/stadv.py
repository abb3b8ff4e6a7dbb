"""stAdv: a smooth flow field, optimised for each sample."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, final

from torch import Tensor

from advbench.attacks.adam import Moments, adam
from advbench.attacks.gradient.steepest import origin
from advbench.attacks.losses import Loss, Margin
from advbench.attacks.perturbations.flow import Flow
from advbench.attacks.query import Access, Problem, Query
from advbench.attacks.search import Rule


class Ascent(NamedTuple):
    """The flow field and the moments of its gradients."""

    p: Tensor
    moments: Moments


@final
@dataclass(frozen=True, kw_only=True)
class StAdv(Rule[Ascent]):
    """Spatially transformed adversarial examples: flow fields by Adam, from no flow at all.

    The loss is the margin less the price of a rough flow, which the set takes (``Flow``).
    Source: Xiao, Zhu, Li, He, Liu, Song, "Spatially transformed adversarial examples", ICLR 2018,
    arXiv:1801.02612. Deviations: Adam (Kingma, Ba, "Adam: a method for stochastic
    optimization", ICLR 2015, arXiv:1412.6980, algorithm 1) with a state per sample instead of
    L-BFGS; the margin has no cap; displacements are bounded by eps, for which ``largest`` of the
    set stands for no bound. ``step_size`` is in pixels. Cost: steps + 1 forward and steps backward
    passes.
    """

    access: ClassVar[Access] = "gradient"
    restarts: ClassVar[int] = 1

    perturbation: Flow = Flow()
    loss: Loss = Margin()
    steps: int = 100
    step_size: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.perturbation, Flow):
            raise TypeError(f"StAdv: perturbation must be a Flow; got {self.perturbation!r}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return quick instances."""
        rough = Flow(smoothness=0.0, padding="zeros")
        return cls(steps=10), cls(perturbation=rough, steps=8, step_size=0.2)

    def init(self, problem: Problem) -> Ascent:
        """Start at no flow."""
        start = origin(self.perturbation, problem)
        return Ascent(start, Moments.zero(start))

    def step(self, state: Ascent, query: Query, problem: Problem) -> Ascent:
        """Take one step of Adam and clip."""
        g = query(state.p, grad=True).grad
        step, moments = adam(state.moments, g, problem.t + 1, self.step_size)
        p = self.perturbation.project(problem.x, state.p + step, problem.eps)
        return Ascent(p, moments)
