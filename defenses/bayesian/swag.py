"""A Gaussian over the weights that training passes through (SWAG)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit


@final
@dataclass(frozen=True, kw_only=True)
class SWAG(Defense):
    """Fit a Gaussian to the weights of the last epochs and average answers over draws from it.

    Source: Maddox et al., A Simple Baseline for Bayesian Uncertainty in Deep Learning, NeurIPS
    2019, arXiv:1902.02476, algorithm 1 and equation 1: a diagonal plus a low-rank covariance. Here
    the moments begin with the first snapshot, and not with the weights before it; the low-rank part
    is divided by the number of deviations that there are, less 1, where they are fewer than `rank`;
    and networks with batch normalisation are refused, whose statistics would have to be taken anew
    at each draw.

    Fields:
        after: the share of training after which a snapshot is taken at the end of every epoch.
        learning_rate: from there on, constant, as a fraction of the recipe's.
        rank: how many deviations from the running mean are kept, the last ones.
        scale: of the covariance; a half is the paper's, which halves both parts.
        samples: draws that an answer is averaged over.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"kept weights", "answer"})
    adaptive: ClassVar[str] = (
        "The model draws at random: attack the mean answer (EOT), judge with fresh draws, and "
        "transfer attacks on the network with the mean weights."
    )
    random: ClassVar[bool] = True

    after: float = 0.75
    learning_rate: float = 0.5
    rank: int = 20
    scale: float = 0.5
    samples: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1:
            raise ValueError(f"swag: after must lie in [0, 1); got {self.after}")
        if self.learning_rate <= 0 or self.scale < 0:
            raise ValueError(
                f"swag: learning_rate must be positive and scale not negative; "
                f"got {self.learning_rate} and {self.scale}"
            )
        if self.rank < 2 or self.samples < 1:
            raise ValueError(
                f"swag: rank must be at least 2 and samples at least 1; "
                f"got {self.rank} and {self.samples}"
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(after=0.0, samples=5), cls(after=0.3, rank=2, scale=1.0, samples=3)

    def start(self, fit: Fit) -> None:
        """Refuse what would fail only after training."""
        _refuse_batch_norm(fit.model)
        ends = [number / fit.epochs for number in range(1, fit.epochs + 1)]
        if sum(end > self.after for end in ends) < 2:
            raise ValueError(
                f"swag: needs at least 2 epochs that end after {self.after} of training; lower "
                f"'after', or train for more than {fit.epochs}"
            )

    def rate(self, rate: float, fit: Fit) -> float:
        """Return the constant rate of the last epochs."""
        return self.learning_rate if fit.done >= self.after else rate

    def after_epoch(self, fit: Fit) -> None:
        """Take a snapshot."""
        if fit.done > self.after:
            self._snapshot(fit)

    def finish(self, fit: Fit) -> None:
        """Give the network the mean; if training ended early, that of its last weights."""
        if not fit.kept(self):
            self._snapshot(fit)
        mean = fit.kept(self)["mean"]
        with torch.no_grad():
            for weight, part in _parts(fit.model, mean).items():
                weight.copy_(part)
        fit.kept_epoch = None

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model that draws; without spread, until it is given some."""
        _refuse_batch_norm(model)
        return WeightDraws(model, self.rank, self.samples)

    def deploy(self, model: nn.Module, fit: Fit) -> nn.Module:
        """Return the model that draws with the spread of the snapshots."""
        draws = WeightDraws(model, self.rank, self.samples)
        kept = fit.kept(self)
        variance = (kept["squares"] - kept["mean"].square()).clamp(min=0)
        deviations = torch.stack(kept["deviations"])
        count = len(deviations)
        draws.spread.copy_((self.scale * variance).sqrt())
        draws.deviations[:count] = deviations * math.sqrt(self.scale / max(1, count - 1))
        return draws

    def _snapshot(self, fit: Fit) -> None:
        weights = _flat(fit.model).double()
        kept = fit.kept(self)
        if not kept:
            zero = torch.zeros_like(weights)
            kept |= {"mean": zero, "squares": zero, "deviations": [], "count": 0}
        kept["count"] += 1
        # Twice the precision, because the variance is a small difference of large numbers.
        kept["mean"] = kept["mean"] + (weights - kept["mean"]) / kept["count"]
        kept["squares"] = kept["squares"] + (weights.square() - kept["squares"]) / kept["count"]
        deviation = (weights - kept["mean"]).float()
        kept["deviations"] = [*kept["deviations"], deviation][-self.rank :]


class WeightDraws(nn.Module):
    """A network whose weights are drawn from a Gaussian anew for every answer.

    Its weights are the mean. The covariance is ``diag(spread**2) + deviations.T @ deviations``,
    with buffers spread (P,) and deviations (rank, P) for P weights, both 0 at first. The answer is
    the logarithm of the mean probability over ``samples`` draws.
    """

    spread: Tensor
    deviations: Tensor

    def __init__(self, model: nn.Module, rank: int, samples: int) -> None:
        super().__init__()
        self.model = model
        self.samples = samples
        weights = _flat(model)
        self.register_buffer("spread", torch.zeros_like(weights))
        self.register_buffer("deviations", weights.new_zeros(rank, len(weights)))

    def draw(self) -> Tensor:
        """Return weights (P,) drawn from torch's global generator."""
        mean = _flat(self.model)
        own = torch.randn_like(self.spread)
        common = torch.randn_like(self.deviations[:, 0])
        return mean + self.spread * own + common @ self.deviations

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of probabilities (B, K) for images (B, C, H, W) in [0, 1]."""
        answers = []
        for _ in range(self.samples):
            weights = _named(self.model, _parts(self.model, self.draw()))
            # Not tied by torch, which would leave a layer used twice with the weights drawn.
            logits = functional_call(self.model, weights, (x,), tie_weights=False)
            answers.append(logits.log_softmax(1))
        return torch.stack(answers).logsumexp(0) - math.log(self.samples)


def _flat(model: nn.Module) -> Tensor:
    """All weights (P,) of a network, shared ones once."""
    return torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])


def _parts(model: nn.Module, flat: Tensor) -> dict[nn.Parameter, Tensor]:
    """Weights (P,) in the shapes of those of a network, by its own."""
    weights = list(model.parameters())
    pieces = flat.split([weight.numel() for weight in weights])
    return {w: piece.view(w.shape) for w, piece in zip(weights, pieces, strict=True)}


def _named(model: nn.Module, values: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
    """Values for the weights of a network by name: one of every layer, all of shared weights."""
    return {
        f"{layer}.{name}".removeprefix("."): values[weight]
        for layer, module in model.named_modules()
        for name, weight in module.named_parameters(recurse=False)
    }


def _refuse_batch_norm(model: nn.Module) -> None:
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            "swag: the network has batch normalisation, whose statistics fit no other weights than "
            "those they were taken with; use swa, ema or ensemble"
        )
