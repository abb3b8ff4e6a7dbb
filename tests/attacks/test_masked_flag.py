"""`Rounds` marks the rows whose gradients mislead within eps, and few others; a table says so."""

import torch

from advbench.attacks import Linf
from advbench.attacks.ensembles.robust import Robust
from advbench.attacks.ensembles.rounds import Rounds
from advbench.attacks.flags import Flag
from advbench.bench.render import advice
from tests.advbench.trust.faults import Moat

X = torch.full((12, 1, 4, 4), 0.5)
Y = torch.zeros(12, dtype=torch.int64)


class Plain(torch.nn.Module):
    """The same two classes as those of ``Moat``, with their true gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = x.flatten(1).mean(1) - 0.59
        return torch.stack([-lead, lead], 1)


def masked(attack: Rounds | Robust, model: torch.nn.Module, eps: float) -> torch.Tensor:
    return (attack.run(model, X, Y, eps=eps).flags & int(Flag.MASKED_GRADIENT)) != 0


def test_rows_that_only_a_wide_ball_breaks_are_marked() -> None:
    for attack in (Rounds(), Robust(rounds=3, long_rounds=1, black_box_steps=5)):
        assert masked(attack, Moat(), 0.1).all()


def test_rows_with_an_honest_gradient_are_not() -> None:
    for eps in (0.05, 0.1):  # all withstand the one, none the other
        assert not masked(Rounds(), Plain(), eps).any()
    assert not masked(Rounds(perturbation=Linf(), rounds=1), Moat(), 0.1).any()  # none is wide


def test_a_few_marked_rows_are_not_worth_a_sentence() -> None:
    row = {"model": "m", "attack": "robust", "status": "ok"}
    assert not list(advice([row | {"flags": "masked_gradient:0.04"}]))
    (told,) = advice([row | {"flags": "masked_gradient:0.40"}])
    assert "40 %" in told
    assert "larger balls" in told
