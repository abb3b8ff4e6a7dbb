"""Early stopping."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, final

from advbench.attacks.attack import Attack
from advbench.attacks.gradient.pgd import PGD
from advbench.attacks.losses import Margin
from advbench.defenses.defense import Claim, Defense
from advbench.defenses.fit import Fit, robust_accuracy, set_weights, weights_of


@final
@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Defense):
    """Keep the weights of the epoch that does best on the validation split, clean or under attack.

    Among equals the higher clean accuracy decides, then the lower cross-entropy, then the earlier
    epoch. Source: Prechelt, Early Stopping - But When?, Neural Networks: Tricks of the Trade, 1998;
    on robust accuracy Rice, Wong, Kolter, Overfitting in Adversarially Robust Deep Learning, ICML
    2020, arXiv:2002.11569.

    Fields:
        measure: accuracy on the validation split, "clean" or "robust".
        patience: epochs without a better one after which training ends; None to go on to the end.
        attack: for the robust measure.
        eps: the scale of its perturbation set; needed for the robust measure, and only there.
    """

    claims: ClassVar[frozenset[Claim]] = frozenset({"kept weights"})
    adaptive: ClassVar[str] = "Gradients are exact: the strongest attacks as they are."

    measure: Literal["clean", "robust"] = "clean"
    patience: int | None = None
    attack: Attack = PGD(steps=10, loss=Margin())
    eps: float = 0.0

    def __post_init__(self) -> None:
        if (self.measure == "robust") != (self.eps > 0):
            raise ValueError(
                f"early_stopping: the measure 'robust' needs an eps above 0, 'clean' takes none; "
                f"got '{self.measure}' and {self.eps}"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"early_stopping: patience must be at least 1; got {self.patience}")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return two instances that train in a moment."""
        return cls(patience=1), cls(measure="robust", attack=PGD(steps=2), eps=0.1)

    def after_epoch(self, fit: Fit) -> None:
        """Keep the weights if they are the best so far; end the training if patience is over."""
        kept, epoch = fit.kept(self), fit.log[-1]
        standing = [epoch.validation.accuracy, -epoch.validation.loss]
        if self.measure == "robust":
            robust = robust_accuracy(
                fit.model, fit.seen_validation, fit.validation, self.attack, self.eps, fit.seed
            )
            standing.insert(0, robust)
        if not kept or standing > kept["standing"]:
            kept |= {"standing": standing, "epoch": epoch.number, "weights": weights_of(fit.model)}
        elif self.patience is not None and epoch.number - kept["epoch"] >= self.patience:
            fit.stop = True

    def finish(self, fit: Fit) -> None:
        """Restore the best weights."""
        kept = fit.kept(self)
        set_weights(fit.model, kept["weights"])
        fit.kept_epoch = kept["epoch"]
