"""The comparison of stickers: what it makes, judges, counts and writes; no other library needed."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks import Sticker
from advbench.benchmarks.sticker_contestants import (
    MAKERS,
    Fit,
    StickerMaker,
    StickerTask,
    paste,
    sticker_of,
)
from advbench.benchmarks.sticker_report import StickerLine, markdown, write_stickers
from advbench.benchmarks.stickers import answers, judged_on, main, measure, success, training

TASK = StickerTask(eps=0.2, targets=1, images=8, steps=4, samples=4)
OURS = MAKERS[0]
Pair = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def pair(net: nn.Module) -> Pair:
    """Images with the classes that the net gives them, of which each has some."""
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = answers(net, x)
    assert len(y.unique()) == 3
    return x, y


class Seer(nn.Module):
    """Sees class 1 where a pixel is white, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        white = (x.flatten(1).amax(1) > 0.99).to(x)
        return torch.stack([1 - white, white], 1)


def by_hand(extra: int = 0) -> Fit:
    """Sign steps on a picture in the corner, with `extra` forwards at the end."""

    def fit(model: nn.Module, x: Tensor, y: Tensor, task: StickerTask, seed: int) -> Tensor:
        side = task.patch.side(x)
        picture = torch.full((x.shape[1], side, side), 0.5)
        target = torch.full((task.samples,), task.targets)
        for step in range(task.steps):
            start = step * task.samples % len(x)
            images = x[start : start + task.samples].clone()
            picture.requires_grad_(True)
            images[..., :side, :side] = picture
            loss = functional.cross_entropy(model(images), target)
            (gradient,) = torch.autograd.grad(loss, picture)
            picture = (picture.detach() - 0.2 * gradient.sign()).clamp(0, 1)
        for _ in range(extra):
            model(x[: task.samples])
        return picture

    return fit


def corner(model: nn.Module, picture: Tensor, x: Tensor, task: StickerTask) -> Tensor:
    """Paste at one place, as the second way of pasting."""
    images = x.clone()
    images[..., : picture.shape[1], : picture.shape[2]] = picture
    return images


HONEST = StickerMaker("by hand", "torch", by_hand(), growth=lambda model, x, task: 5.0)
WASTEFUL = StickerMaker("wasteful", "torch", by_hand(extra=2))
ABSENT = StickerMaker("absent", "no-such-distribution", by_hand())


@pytest.fixture(scope="module")
def lines(net: nn.Module, pair: Pair) -> dict[str, StickerLine]:
    """One measurement, of a model in training mode."""
    net.train()
    makers = (OURS, HONEST, WASTEFUL, ABSENT)
    found = measure(
        "tiny", net, pair, pair, TASK, makers=makers, art=corner, stickers=2, repetitions=5, short=2
    )
    assert net.training
    net.eval()
    return {line.library: line for line in found}


def test_measures_makers_bare_passes_and_controls(lines: dict[str, StickerLine]) -> None:
    assert list(lines) == [
        "advbench",
        "by hand",
        "wasteful",
        "bare passes",
        *(f"control: {kind}_sticker" for kind in ("noise", "grey", "picture")),
        "absent",
    ]
    for name in ("advbench", "by hand"):
        line = lines[name]
        assert (line.status, line.forwards, line.backwards, line.stickers) == ("ok", 4, 4, 2)
        assert line.weakest <= line.success <= line.strongest
        assert line.low <= line.success <= line.high
        assert line.fit_seconds > 0
    assert lines["advbench"].ratio == 1
    rival = lines["by hand"]
    assert rival.ratio_low <= rival.ratio <= rival.ratio_high
    assert lines["bare passes"].ratio is not None
    assert lines["bare passes"].success is None
    control = lines["control: grey_sticker"]
    assert (control.stickers, control.ratio, control.forwards) == (1, None, None)
    assert lines["advbench"].success > control.success


def test_sees_a_wasteful_maker(lines: dict[str, StickerLine]) -> None:
    assert lines["wasteful"].forwards == 4 + 2 * 4 / TASK.steps


def test_missing_library_is_said_not_measured(lines: dict[str, StickerLine]) -> None:
    line = lines["absent"]
    assert (line.status, line.success, line.ratio) == ("not installed", None, None)


@pytest.mark.usefixtures("lines")
def test_measuring_leaves_the_model_alone(net: nn.Module) -> None:
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not net._forward_hooks


def test_growth_and_the_second_way_of_pasting_are_kept(lines: dict[str, StickerLine]) -> None:
    assert (lines["by hand"].growth, lines["wasteful"].growth) == (5, None)
    assert lines["by hand"].art_area == pytest.approx(1 / 4)
    assert lines["by hand"].art_success is not None
    assert lines["control: noise_sticker"].art_success is not None


def test_refuses_a_maker_that_avoids_the_counter(net: nn.Module, pair: Pair) -> None:
    fit = by_hand()
    past = StickerMaker("past", "torch", lambda model, *rest: fit(model.model, *rest))
    with pytest.raises(RuntimeError, match="past: ran the model past the counting hook"):
        measure("tiny", net, pair, pair, TASK, makers=[past], short=2)


def test_short_fits_need_their_images(net: nn.Module, pair: Pair) -> None:
    with pytest.raises(ValueError, match="a short fit wants 12 images; got 8"):
        measure("tiny", net, pair, pair, TASK, makers=[HONEST], short=3)


def test_training_leaves_the_target_out(pair: Pair) -> None:
    x, y = training(pair, TASK)
    assert len(x) == len(y) == 8
    assert not (y == TASK.targets).any()
    with pytest.raises(ValueError, match="wants 401 training images"):
        training(pair, replace(TASK, images=401))


def test_judges_on_what_was_right_and_not_the_target(net: nn.Module, pair: Pair) -> None:
    x, y = pair
    wrong = torch.where(torch.arange(len(y)) % 2 == 0, y, 0)
    held = judged_on(net, (x, wrong), TASK, 1000)
    right = answers(net, held)
    assert 0 < len(held) < len(x)
    assert not (right == TASK.targets).any()
    assert len(judged_on(net, pair, TASK, 5)) == 5


def test_all_are_pasted_at_the_same_places_in_8_bits() -> None:
    black = torch.zeros(30, 1, 8, 8)
    white, light = torch.ones(1, 4, 4), torch.full((1, 4, 4), 0.6)
    changed = [paste(Seer(), picture, black, TASK) for picture in (white, light, light + 1e-4)]
    torch.testing.assert_close(changed[1], changed[0] * 0.6)
    assert torch.equal(changed[1], changed[2])
    assert float(changed[0].mean()) == pytest.approx(TASK.eps, rel=0.02)
    assert len(changed[0].unique(dim=0)) == 30


def test_success_is_the_share_that_is_taken_for_the_target() -> None:
    black = torch.zeros(10, 1, 16, 16)
    white = torch.ones(1, 8, 8)
    assert success(Seer(), paste(Seer(), white, black, TASK), TASK) == 1
    assert success(Seer(), paste(Seer(), white / 2, black, TASK), TASK) == 0
    half = torch.cat([paste(Seer(), white, black, TASK), black])
    assert success(Seer(), half, TASK) == 0.5


def test_our_sticker_is_the_default_one_but_for_the_task() -> None:
    own, default = sticker_of(StickerTask(eps=0.2, targets=1, images=1000)), Sticker()
    assert own.perturbation == TASK.patch
    assert replace(own, attack=default.attack) == default
    assert own.attack.steps == default.attack.steps


@pytest.mark.parametrize(("images", "steps"), [(10, 5), (8, 3)])
def test_rounds_have_to_come_out_even(images: int, steps: int) -> None:
    assert TASK.rounds == 2
    with pytest.raises(ValueError, match="no whole number of rounds"):
        _ = replace(TASK, images=images, steps=steps).rounds


def test_writes_both_tables(tmp_path: Path, lines: dict[str, StickerLine]) -> None:
    rows = [*lines.values(), StickerLine("gone", "all", "", "no data")]
    write_stickers(tmp_path / "out", rows, {"processor": "test"})
    with (tmp_path / "out/stickers.csv").open(encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    assert [row["victim"] for row in stored] == [row.victim for row in rows]
    assert stored[-1]["success"] == ""
    text = (tmp_path / "out/stickers.md").read_text(encoding="utf-8")
    assert "- processor: test" in text
    assert "| 4.00 / 4.00 | 1.00 (1.00 to 1.00) |" in text
    assert "is 5.00 times that after the first: it is never reset" in text
    assert "Not measured: absent (not installed)." in text
    assert "Not measured: all (no data)." in text


def test_each_area_has_a_table_of_its_own(lines: dict[str, StickerLine]) -> None:
    rows = [replace(line, eps=eps) for eps in (0.2, 0.1) for line in lines.values()]
    text = markdown(rows, {})
    assert text.count("## tiny") == 1
    assert text.count("| sticker | targeted success |") == 2
    assert "Target 1, 20% of the image" in text
    assert "Target 1, 10% of the image" in text


def test_names_its_victims_when_asked_for_another(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--victim", "nobody", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "Victims: zoo:digits/cnn, zoo:cifar10/cnn." in done.output
