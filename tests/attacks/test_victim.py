"""The model is held still while it is attacked and handed back as it was."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advbench.attacks import BPDA, FGSM, PGD
from advbench.attacks.victim import Victim, frozen
from advbench.testing.victims import SHAPE, Stateful, inputs, smooth

X = inputs(6, 3, SHAPE, torch.float64)
Y = torch.zeros(3, dtype=torch.int64)


def test_inside_it_is_still_and_afterwards_as_before() -> None:
    model = Stateful(None)
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model(X)
    assert model.training
    assert not model.norm.training
    assert not model.first.bias.requires_grad
    assert model.first.weight.requires_grad
    assert float(model.passes) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_restored_after_any_exception(error: type[BaseException]) -> None:
    model = Stateful(None)

    def fail() -> None:
        with frozen(model):
            model(X)
            raise error

    with pytest.raises(error):
        fail()
    assert model.training
    assert float(model.passes) == 0
    assert model.first.weight.requires_grad


def test_buffers_that_the_model_replaces_are_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))
            self.inner = smooth().model

        def forward(self, x: Tensor) -> Tensor:
            self.passes = self.passes + 1
            return self.inner(x)

    model = Counting()
    FGSM().run(model, X, Y, eps=0.1)
    assert float(model.passes) == 0


def test_randomised_model_repeats_itself_and_the_state_is_kept() -> None:
    def noisy(x: Tensor) -> Tensor:
        return smooth().model(x) + torch.randn(len(x), 3, dtype=x.dtype)

    before = torch.get_rng_state()
    one, two = (PGD(steps=3).run(noisy, X, Y, eps=0.1, stop="never") for _ in range(2))
    assert torch.equal(one.loss, two.loss)
    other = PGD(steps=3).run(noisy, X, Y, eps=0.1, stop="never", seed=1)
    assert not torch.equal(one.loss, other.loss)
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_under_inference_mode_enables_gradients() -> None:
    model = smooth().model
    with torch.inference_mode(), frozen(model):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        (lambda x: (x, x), TypeError, "tuple"),
        (lambda x: OrderedDict(logits=x), TypeError, "logits"),
        (lambda x: x.flatten(1)[:, 0], ValueError, "columns"),
        (lambda x: x.flatten(1)[:, :1], ValueError, "columns"),
        (lambda x: x.flatten(1)[:1], ValueError, "3 images"),
        (lambda x: x, ValueError, r"\(B, K\)"),
    ],
)
def test_what_is_no_logits_is_refused(output: Any, error: type[Exception], words: str) -> None:
    for stop in ("success", "never"):
        with pytest.raises(error, match=words):
            PGD(steps=2).run(output, X, Y, eps=0.1, stop=stop)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_come_in_the_precision_of_the_model(weights: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 20, dtype=weights))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return nn.functional.linear(x.flatten(1), self.weight)

    victim = Victim(Spy(), X.float())
    logits = victim(X.float())
    assert seen == [weights]
    assert logits.dtype == (weights if weights == torch.float64 else torch.float32)


def test_a_model_without_parameters_gets_the_images_as_they_are() -> None:
    found = PGD(steps=2).run(lambda x: x.flatten(1)[:, :3] * 5, X.float(), Y, eps=0.1)
    assert found.x_adv.dtype == torch.float32


def test_bpda_is_exact() -> None:
    """Not nearly the transform: a step behind it would see the difference."""
    x = inputs(50, 100, SHAPE, torch.float32)
    assert torch.equal(BPDA(lambda z: (z * 255).round() / 255)(x), (x * 255).round() / 255)


def test_a_model_built_for_inference_alone_is_handed_back_too() -> None:
    with torch.inference_mode():
        part = nn.Linear(X[0].numel(), 4, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), part, nn.Linear(4, 2, dtype=torch.float64)).train()
    with frozen(model):
        assert not model.training
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
