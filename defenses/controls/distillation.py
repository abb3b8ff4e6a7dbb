"""Defensive distillation."""

from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks.masking import Masking
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Batch, Fit, Objective, logits, set_weights, weights_of

_BATCH = 64  # samples in a minibatch of the teacher


@final
@dataclass(frozen=True, kw_only=True)
class Distillation(Defense):
    """A known-broken control: learn a teacher's probabilities, with the logits divided in training.

    Deployed, the logits are not divided: they are so large that the cross-entropy and its gradient
    are zero in 32 bits, which stops an attack that follows it and no other. Source: Papernot,
    McDaniel, Wu, Jha, Swami, Distillation as a Defense to Adversarial Perturbations against Deep
    Neural Networks, IEEE S&P 2016, arXiv:1511.04508, section IV. Teacher and student are the same
    network from the same initial weights. The teacher is trained by Adam at the rate of the recipe
    on the samples as they are; only the student meets what other defences do.

    Fields:
        temperature: what the logits are divided by while teacher and student are trained.
        epochs: that the teacher is trained for.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"objective"})
    adaptive: ClassVar[str] = (
        "Divide the logits by the temperature, or attack the margin between them."
    )
    broken: ClassVar[str] = (
        "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017, "
        "arXiv:1608.04644"
    )

    temperature: float = 100.0
    epochs: int = 40

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"distillation: temperature must be above 0; got {self.temperature}")
        if self.epochs < 1:
            raise ValueError(f"distillation: epochs must be at least 1; got {self.epochs}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(epochs=20), cls(temperature=2.0, epochs=30)

    def start(self, fit: Fit) -> None:
        """Train the teacher and keep its probabilities; the network comes back as it was."""
        before = weights_of(fit.model)
        optimizer = torch.optim.Adam(fit.model.parameters(), fit.optimizer.param_groups[0]["lr"])
        fit.model.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(fit.train.y)).split(_BATCH):
                x, y, _ = fit.train.rows(rows)
                optimizer.zero_grad()
                functional.cross_entropy(fit.seen(x) / self.temperature, y).backward()
                optimizer.step()
        optimizer.zero_grad()
        ids, order = fit.train.ids.sort()
        soft = (logits(fit.model, fit.seen, fit.train.x) / self.temperature).softmax(1)
        fit.kept(self).update(ids=ids, soft=soft[order].clone())
        set_weights(fit.model, before)

    def batch(self, batch: Batch, fit: Fit) -> Batch:
        """Return the minibatch with the teacher's probabilities.

        Raises ValueError where a defence listed before already asks for probabilities.
        """
        if batch.soft is not None:
            raise ValueError(
                "distillation: a defence before it already changes the labels; list distillation "
                "first"
            )
        kept = fit.kept(self)
        return batch._replace(soft=kept["soft"][torch.searchsorted(kept["ids"], batch.ids)])

    def objective(self, inner: Objective, batch: Batch, fit: Fit) -> Tensor:
        """Return the cross-entropy of the divided logits."""
        return functional.cross_entropy(fit.seen(batch.x) / self.temperature, batch.wanted)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the network, marked as one whose logits must be divided to be attacked."""
        return Distilled(model, self.temperature)


class Distilled(Masking):
    """A network whose logits are so large that the cross-entropy has no gradient."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the network as they are."""
        answer: Tensor = self.model(x)
        return answer

    def stand_in(self) -> nn.Module:
        """Return the network with the logits divided, as it was trained."""
        return Tempered(self.model, self.temperature)

    def extra_repr(self) -> str:
        """Return the temperature."""
        return f"temperature={self.temperature}"


class Tempered(nn.Module):
    """A network with its logits divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the divided logits."""
        answer: Tensor = self.model(x) / self.temperature
        return answer
