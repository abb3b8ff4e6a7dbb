"""The benchmark's own instruments: what it counts, times, judges and writes."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advbench.benchmarks.contestants import Contestant, Task
from advbench.benchmarks.measuring import counted, floor, race
from advbench.benchmarks.peers import measure, outside, robust_accuracy
from advbench.benchmarks.report import Line, write

TASK = Task(steps=5, norm="linf", eps=0.2)


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(0, 1, 6 * 12).reshape(6, 1, 3, 4)


@pytest.fixture
def y(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).argmax(1)


def by_hand(
    extra: int = 0, reach: float = 1.0
) -> Callable[[nn.Module, Tensor, Tensor, Task], Callable[[], Tensor]]:
    """PGD in a few lines, with `extra` forwards at the end and a ball of `reach` times eps."""

    def prepare(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Callable[[], Tensor]:
        def call() -> Tensor:
            images = x
            for _ in range(task.steps):
                gradient = floor(model, images, y, 1)
                moved = images + task.step * task.eps * reach * gradient.sign()
                delta = (moved - x).clamp(-task.eps * reach, task.eps * reach)
                images = (x + delta).clamp(0, 1)
            for _ in range(extra):
                model(images)
            return images

        return call

    return prepare


def contestant(**settings: float) -> Contestant:
    return Contestant("by hand", "torch", by_hand(**settings))


def test_counts_rows_both_ways(net: nn.Module, x: Tensor, y: Tensor) -> None:
    with counted(net) as passes:
        floor(net, x, y, 3)
        with torch.no_grad():
            net(x[:2])
    net(x)
    assert (passes.forwards, passes.backwards) == (3 * 6 + 2, 3 * 6)


def test_counts_each_backward_through_one_forward(net: nn.Module, x: Tensor) -> None:
    with counted(net) as passes:
        images = x.clone().requires_grad_(True)
        logits = net(images)
        for k in range(3):
            torch.autograd.grad(logits[:, k].sum(), images, retain_graph=True)
    assert (passes.forwards, passes.backwards) == (6, 18)


def test_hooks_are_gone_after_an_error(net: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="stop"), counted(net):
        raise RuntimeError("stop")
    assert not net._forward_hooks


def test_measures_a_hand_written_attack(net: nn.Module, x: Tensor, y: Tensor) -> None:
    (line,) = measure("tiny", net, x, y, TASK, contestants=[contestant()])
    assert (line.status, line.n, line.forwards, line.backwards) == ("ok", 6, 5, 5)
    assert line.outside == 0
    assert line.robust_accuracy is not None
    assert line.robust_accuracy < 1
    assert line.ratio_low <= line.ratio <= line.ratio_high
    assert line.noise >= 1


@pytest.mark.parametrize(
    ("settings", "field", "expected"),
    [({"extra": 2}, "forwards", 7), ({"reach": 1.5}, "outside", 6)],
)
def test_sees_wasteful_and_cheating_attacks(
    net: nn.Module, x: Tensor, y: Tensor, settings: dict[str, float], field: str, expected: int
) -> None:
    (line,) = measure("tiny", net, x, y, TASK, contestants=[contestant(**settings)])
    assert getattr(line, field) == expected


def test_refuses_an_attack_that_avoids_the_counter(net: nn.Module, x: Tensor, y: Tensor) -> None:
    past = Contestant("past", "torch", lambda model, x, y, task: lambda: model.model(x))
    with pytest.raises(RuntimeError, match="past: ran the model past the counting hook"):
        measure("tiny", net, x, y, TASK, contestants=[past])


def test_missing_library_is_said_not_measured(net: nn.Module, x: Tensor, y: Tensor) -> None:
    absent = Contestant("absent", "no-such-distribution", by_hand())
    (line,) = measure("tiny", net, x, y, TASK, contestants=[absent])
    assert (line.status, line.ratio, line.robust_accuracy) == ("not installed", None, None)


def test_measuring_leaves_the_model_alone(net: nn.Module, x: Tensor, y: Tensor) -> None:
    net.train()
    measure("tiny", net, x, y, TASK, contestants=[contestant()])
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not net._forward_hooks


def test_outside_sees_ball_box_and_nan(x: Tensor) -> None:
    images = x.clone()
    images[0] = images[0] + 0.21
    images[5, 0, -1, -1] = 1.01
    images[3, 0, 0, 0] = float("nan")
    assert outside(x, images, TASK) == 3
    assert outside(x, images, Task(5, "l2", 0.2)) == 3


def test_robust_accuracy_is_over_all_rows_and_needs_both() -> None:
    first, second = [1.0, 0.0], [0.0, 1.0]
    clean = torch.tensor([first, first, second])
    attacked = torch.tensor([first, second, first])  # kept, broken, wrong before and right by luck
    zeros = torch.zeros(3, dtype=torch.int64)
    assert robust_accuracy(nn.Identity(), clean, attacked, zeros) == pytest.approx(1 / 3)


def test_race_refuses_too_few_repetitions() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        race(lambda: None, {}, repetitions=4)


def test_writes_both_tables(tmp_path: Path, net: nn.Module, x: Tensor, y: Tensor) -> None:
    absent = Contestant("absent", "no-such-distribution", by_hand())
    lines = measure("tiny", net, x, y, TASK, contestants=[contestant(), absent])
    lines.append(Line("gone", "", "", None, "all", "", "no data"))
    write(tmp_path / "out", lines, {"processor": "test"})
    with (tmp_path / "out/peers.csv").open(encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    assert [row["status"] for row in stored] == ["ok", "not installed", "no data"]
    assert stored[1]["ratio"] == ""
    text = (tmp_path / "out/peers.md").read_text(encoding="utf-8")
    assert "| by hand | 5.00 / 5.00 |" in text
    assert "Not measured: absent (not installed)." in text
    assert "Not measured: all (no data)." in text
