"""What a user may hand in wrongly: refused before anything runs, with the value and the way out."""

from typing import Any

import pytest
import torch

from advbench.attacks import EOT, FGSM, L0, L1, L2, MIFGSM, PGD, RFGSM, MinimumEps, RandomSearch
from advbench.testing.victims import Watched, smooth

MODEL, X, Y, TARGETS = smooth(count=3, dtype=torch.float32)
BAD_X = X.clone()
BAD_X[1, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"x": X * 3 - 1}, ValueError, r"min -\d.*max \d.*sample 0.*Normalized"),
        ({"x": BAD_X}, ValueError, "sample 1 holds NaN"),
        ({"x": (X * 255).to(torch.uint8)}, TypeError, r"x\.float\(\) / 255"),
        ({"x": X.tolist()}, TypeError, "list"),
        ({"x": X.flatten()}, ValueError, "shape"),
        ({"y": Y[:2]}, ValueError, r"\(3,\)"),
        ({"y": Y.float()}, TypeError, r"y\.long\(\)"),
        ({"y": torch.nn.functional.one_hot(Y, 3)}, ValueError, r"one-hot.*argmax"),
        ({"y": Y.unsqueeze(1)}, ValueError, r"\(3, 1\)"),
        ({"targets": Y}, ValueError, "differ from the labels; sample 0"),
        ({"targets": TARGETS[:1]}, ValueError, "targets"),
        ({"eps": None}, ValueError, "eps is missing"),
        ({"eps": -0.1}, ValueError, "at least 0; got -0.1"),
        ({"eps": float("nan")}, ValueError, "finite"),
        ({"eps": float("inf")}, ValueError, "finite"),
        ({"eps": 8}, ValueError, r"8/255"),
        ({"eps": "8/255"}, TypeError, "8/255"),
        ({"eps": True}, TypeError, "True"),
        ({"eps": torch.tensor([0.1, -0.1, 0.1])}, ValueError, "sample 1"),
        ({"eps": torch.tensor([0.1, 0.1])}, ValueError, "eps"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**32}, ValueError, "seed"),
        ({"seed": 1.0}, ValueError, "seed"),
        ({"ids": torch.arange(2)}, ValueError, "ids"),
        ({"ids": torch.rand(3)}, ValueError, "ids"),
        ({"stop": "sucess"}, ValueError, "Did you mean 'success'"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"budget": 0}, ValueError, "budget"),
        ({"correct": torch.ones(3)}, ValueError, "correct"),
        ({"correct": torch.ones(2, dtype=torch.bool)}, ValueError, "correct"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else None,
)
def test_calls(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    model = Watched(MODEL)
    arguments = {"x": X, "y": Y, "eps": 0.1, **changes}
    x, y = arguments.pop("x"), arguments.pop("y")
    with pytest.raises(error, match=words):
        PGD(steps=2).run(model, x, y, **arguments)
    assert model.forwards == 0


def test_rounding_past_the_box_is_no_error() -> None:
    x = X.clone()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = -3e-8, 1 + 1e-7
    x_adv = FGSM()(MODEL, x, Y, eps=0.1)
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1


@pytest.mark.parametrize("perturbation", [L2(), L1(), L0()], ids=repr)
def test_eps_may_be_as_large_as_the_box(perturbation: Any) -> None:
    largest = perturbation.largest(X)
    FGSM(perturbation=perturbation).run(MODEL, X, Y, eps=largest)
    with pytest.raises(ValueError, match="at most"):
        FGSM(perturbation=perturbation).run(MODEL, X, Y, eps=largest * 1.01)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: PGD(steps=0), "PGD: steps"),
        (lambda: PGD(steps=True), "PGD: steps"),
        (lambda: PGD(steps=2.0), "PGD: steps"),  # type: ignore[arg-type]
        (lambda: PGD(restarts=-1), "PGD: restarts"),
        (lambda: PGD(step_size=0), "PGD: step_size"),
        (lambda: PGD(step_size=float("nan")), "PGD: step_size"),
        (lambda: MIFGSM(decay=-0.1), "MIFGSM: decay"),
        (lambda: FGSM(perturbation="linf"), "FGSM: perturbation"),  # type: ignore[arg-type]
        (lambda: FGSM(loss="ce"), "FGSM: loss"),  # type: ignore[arg-type]
        (lambda: EOT(0), "samples"),
        (lambda: RFGSM(share=1.5), "share"),
        (lambda: RFGSM(share=-0.1), "share"),
        (lambda: RandomSearch(share=0.0), "share"),
        (lambda: PGD(random_start="no"), "random_start"),  # type: ignore[arg-type]
        (lambda: MinimumEps(attack="pgd"), "attack"),  # type: ignore[arg-type]
    ],
)
def test_hyper_parameters(build: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        build()
