"""What is made of a run with poses: the numbers from the rows, the landscape, the files."""

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from advbench.attacks import RandomNoise
from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.pose import Ball, Euler, Pose
from advbench.bench.plan import plan
from advbench.bench.store import Store, opened
from advbench.cli import main
from advbench.config import load
from advbench.report import pose_tables
from advbench.report.landscape import ANGLES, euler_angles, survey
from advbench.report.output import file_name
from advbench.report.pictures import pixels, remade
from advbench.report.pose_tables import PoseTrial
from advbench.report.poses import write_poses

_STRANGE = "b$x_$ / <b>"
_TEXT = f"""\
[data]
name = "scenes"
samples = 20
[[model]]
name = "zoo:scenes/cnn"
[[model]]
name = "zoo:scenes/cnn_5x5"
label = '{_STRANGE}'
[[attack]]
name = "random_noise"
label = "census"
steps = 1
eps = 1
perturbation = {{ name = "pose", rotation = {{ name = "ball", angle = 180 }} }}
[[attack]]
name = "pgd"
steps = 3
step_size = 0.5
restarts = 2
loss = "margin"
eps = 1
perturbation = {{ name = "pose", x = 0.1 }}
surrogate = ["", "zoo:scenes/cnn"]
[[attack]]
name = "random_noise"
steps = 6
eps = 1
perturbation = {{ name = "pose", x = 0.1 }}
[[attack]]
name = "sweep"
points = 5
eps = 1
perturbation = {{ name = "pose", rotation = {{ name = "euler", yaw = 0, pitch = 0, roll = 100 }} }}
"""

_FLAT = """\
[data]
name = "digits"
samples = 30
[[model]]
name = "zoo:digits/linear"
[[model]]
name = "zoo:digits/ffn_relu"
[[attack]]
name = "random_noise"
label = "census"
steps = 1
eps = 1
perturbation = { name = "affine", rotation = 30, shift = 1 }
[[attack]]
name = "pgd"
steps = 3
eps = 1
perturbation = { name = "affine", rotation = 30, shift = 1 }
[[attack]]
name = "fgsm"
eps = 0.1
"""


def _rows(prediction, label=0, attacked=True, confidence=0.9, **more):
    """Rows of samples; those that are attacked and not taken for their class have fallen."""
    prediction = np.array(prediction)
    n = len(prediction)
    columns = {"label": label, "attacked": attacked, "confidence": confidence, "size": 0.5}
    columns |= {"forwards": 1, "backwards": 0, "claimed": False, **more}
    rows = {name: np.broadcast_to(value, n).copy() for name, value in columns.items()}
    success = rows["attacked"] & (prediction != rows["label"])
    return {"prediction": prediction, "success": success} | rows


def _trial(rows, **fields):
    facts = {
        "key": "k",
        "model": "a",
        "dataset": "d",
        "attack": "census",
        "perturbation": "pose",
        "ranges": Pose(rotation=Ball(180)),
        "eps": 1.0,
        "limit": 1.0,
        "seed": 0,
        "classes": ("zero", "one", "two", "three"),
        "rows": rows,
        "terms": "",
        "census": True,
    }
    return PoseTrial(**{**facts, **fields})


def _search(rows, **fields):
    return _trial(rows, census=False, attack="pgd", **fields)


def test_the_share_is_one_of_what_was_recognised():
    rows = _rows(
        [1, 2, 0, 0, 3, 3],
        attacked=[True, True, True, True, False, False],
        confidence=[0.7, 0.69, 0.99, 0.99, 0.99, 0.99],
    )
    (line,) = pose_tables.share_lines([_trial(rows), _search(rows), _trial(rows, surrogate="b")])
    assert (line["n"], line["right"], line["share"]) == (4, 2, 0.5)
    assert line["low"] == pytest.approx(0.150039, abs=1e-6)  # Wilson, two of four
    assert line["high"] == pytest.approx(0.849961, abs=1e-6)
    assert (line["confident"], line["confident_share"]) == (1, 0.25)
    assert line["confident_low"] == pytest.approx(0.045587, abs=1e-6)
    assert (line["wrong"], line["entropy"]) == (2, 1.0)
    assert (line["common"], line["common_share"]) == ("one", 0.5)


def test_what_is_too_large_counts_as_right():
    (line,) = pose_tables.share_lines([_trial(_rows([1, 1, 0], size=[1.0, 1.1, 0.1]))])
    assert (line["right"], line["wrong"]) == (2, 1)


def test_nothing_recognised_is_no_share():
    (line,) = pose_tables.share_lines([_trial(_rows([1, 1], attacked=False))])
    assert line["n"] == 0
    names = ("share", "low", "confident_share", "entropy", "common", "common_share")
    assert [line[name] for name in names] == [None] * 6


def test_models_and_seeds_are_counted_apart():
    trials = [
        _trial(_rows([1, 1])),
        _trial(_rows([0, 0]), model="b"),
        _trial(_rows([0, 1]), seed=1),
    ]
    lines = pose_tables.share_lines(trials)
    assert [(line["model"], line["seed"], line["right"]) for line in lines] == [
        ("a", 0, 0),
        ("b", 0, 2),
        ("a", 1, 1),
    ]


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([], None), ([5], 0), ([1, 1], 1), ([2, 1, 1], 1.5), ([3] * 8, 3), ([0, 4, 0], 0)],
)
def test_entropy_is_in_bits(counts, bits):
    assert pose_tables.entropy(np.array(counts, int)) == bits


def test_each_class_has_errors_of_its_own():
    rows = _rows(
        [1, 2, 2, 0, 1, 3, 2],
        label=[0, 0, 0, 0, 1, 1, 2],
        attacked=[True, True, True, True, True, True, False],
    )
    lines = pose_tables.label_lines([_trial(rows)])
    assert [line["label"] for line in lines] == ["zero", "one", "two"]
    assert [(line["n"], line["wrong"]) for line in lines] == [(4, 3), (2, 1), (0, 0)]
    assert [line["common"] for line in lines] == ["two", "three", None]
    assert lines[0]["entropy"] == pytest.approx(0.918296, abs=1e-6)
    assert lines[0]["common_share"] == pytest.approx(2 / 3, abs=1e-6)


def test_angles_are_counted_in_bins_over_what_the_set_can_reach():
    rows = _rows(
        [0, 1, 0, 1, 0, 1],
        attacked=[True, True, True, True, True, False],
        turned=[0.0, 14.9, 15.0, 179.9, 180.0001, np.nan],
    )
    lines = pose_tables.distance_lines([_trial(rows)])
    assert len(lines) == 12
    assert [line["n"] for line in lines] == [2, 1, *[0] * 9, 2]
    assert [line["right"] for line in lines] == [1, 1, *[0] * 9, 1]
    assert (lines[1]["angle_from"], lines[-1]["angle_to"]) == (15, 180)
    assert lines[2]["share"] is None


@pytest.mark.parametrize(
    ("ranges", "eps", "farthest"),
    [
        (Pose(rotation=Ball(30)), 0.5, 15),
        (Pose(rotation=Euler(10, 20, 0)), 1.0, 30),
        (Pose(rotation=Euler(180, 180, 0)), 1.0, 180),
        (Pose(rotation=Euler(0, 0, 0), azimuth=30), 1.0, None),
        (Affine(), 1.0, None),
    ],
)
def test_the_last_angle_is_the_farthest_of_the_set(ranges, eps, farthest):
    rows = _rows([0, 1], turned=[1.0, 2.0])
    lines = pose_tables.distance_lines([_trial(rows, ranges=ranges, eps=eps)])
    assert [line["angle_to"] for line in lines[-1:]] == ([] if farthest is None else [farthest])


def _sweep(turns, ranges=None, **fields):
    """A sweep that found these turns, NaN for none."""
    turns = np.array(turns, float)
    ranges = ranges or Pose(rotation=Euler(180, 0, 0))
    name = ranges.axes[0].name
    rows = _rows(np.where(np.isnan(turns), 0, 1), **{name: np.nan_to_num(turns), **fields})
    return _search(rows, ranges=ranges, points=45, inside=False)


def test_what_never_flips_counts_as_an_infinite_turn():
    turns = [8, -4, 12, np.nan, np.nan, 16, -20, 24]
    (line,) = pose_tables.flip_lines([_sweep(turns)])
    assert (line["axis"], line["n"], line["step"], line["never"]) == ("yaw", 8, 4, 0.25)
    assert (line["lower_quartile"], line["median"], line["upper_quartile"]) == (8, 16, 24)
    (line,) = pose_tables.flip_lines([_sweep([4, np.nan, np.nan])])
    assert (line["lower_quartile"], line["median"], line["never"]) == (4, None, 0.666667)


def test_flips_are_of_what_was_recognised():
    (line,) = pose_tables.flip_lines([_sweep([8, 4, 1], attacked=[True, True, False])])
    assert (line["n"], line["lower_quartile"], line["upper_quartile"]) == (2, 4, 8)


def test_flips_are_those_of_a_single_angle():
    several = Pose(rotation=Euler(10, 10, 0))
    length = Pose(rotation=Euler(0, 0, 0), x=0.1)
    assert pose_tables.flip_lines([_sweep([1], several), _sweep([1], length)]) == []
    assert pose_tables.flip_lines([_sweep([1], Affine(shift=0))])[0]["axis"] == "angle"
    assert pose_tables.flip_lines([_search(_rows([1], yaw=1.0))]) == []


def test_renders_count_backward_passes_as_well():
    rows = _rows(
        [1, 1, 0, 1, 1],
        attacked=[True, True, True, True, False],
        forwards=[1, 2, 5, 3, 1],
        backwards=[0, 1, 4, 2, 0],
    )
    lines = pose_tables.render_lines([_search(rows)])
    assert [line["renders"] for line in lines] == [1, 2, 3, 4, 6, 8, 9]
    assert [4 * line["rate"] for line in lines] == [1, 1, 2, 2, 3, 3, 3]
    assert {line["n"] for line in lines} == {4}


def test_only_searches_on_the_model_itself_have_renders():
    rows = _rows([1])
    others = [_trial(rows), _search(rows, surrogate="b"), _search(rows, until=False)]
    assert pose_tables.render_lines(others) == []


def test_a_search_for_a_class_has_to_reach_it():
    rows = _rows([2, 1, 0, 2], label=[0, 0, 0, 2])
    (line,) = pose_tables.render_lines([_search(rows, targets=2)])
    assert (line["n"], line["rate"]) == (3, 0.333333)


def test_transfer_compares_what_both_models_recognise():
    first = _rows([1, 1, 1, 0, 0, 1], attacked=[True, True, True, True, True, False])
    second = _rows([2, 0, 1, 1, 0, 1], attacked=[True, True, False, True, True, True])
    trials = [_trial(first), _trial(second, model="b", key="l")]
    lines = pose_tables.transfer_lines([*trials, _trial(second, model="c", terms="other")])
    there, back = lines
    assert (there["made_on"], there["judged_on"], there["kind"]) == ("a", "b", "same poses")
    assert (there["n"], there["rate"], there["anyway"]) == (2, 0.5, 0.5)
    assert (back["made_on"], back["judged_on"]) == ("b", "a")
    assert (back["n"], back["rate"], back["anyway"]) == (2, 0.5, 0.5)


def test_three_models_make_six_pairs():
    trials = [_trial(_rows([0, 1]), model=model) for model in "abc"]
    pairs = {(line["made_on"], line["judged_on"]) for line in pose_tables.transfer_lines(trials)}
    assert len(pairs) == 6


def test_what_a_surrogate_did_not_fall_for_is_not_transferred():
    rows = _rows(
        [1, 0, 1, 1],
        claimed=[True, True, False, True],
        attacked=[True, True, True, False],
    )
    (line,) = pose_tables.transfer_lines([_search(rows, surrogate="b")])
    assert (line["kind"], line["made_on"], line["judged_on"]) == ("surrogate", "b", "a")
    assert (line["n"], line["rate"], line["anyway"]) == (2, 0.5, None)


@pytest.mark.parametrize(
    ("ranges", "eps", "text"),
    [
        (Pose(rotation=Ball(180), z=0.5), 0.5, "rotation up to 90 deg, z +-0.25"),
        (Pose(rotation=Euler(15, 0, 7.5)), 1.0, "yaw +-15 deg, roll +-7.5 deg"),
        (Pose(rotation=Euler(0, 0, 0), z=(-20.0, 1.0)), 0.5, "z -10 to 0.5"),
        (Affine(), 1.0, "angle +-30 deg, shift_y +-3, shift_x +-3"),
    ],
)
def test_ranges_are_told_at_their_scale(ranges, eps, text):
    assert pose_tables.reach(ranges, eps) == text


@pytest.mark.parametrize("limits", [(15, 15, 15), (180, 89, 180), (180, 180, 0), (30, 0, 100)])
def test_angles_are_found_again_in_a_rotation(limits):
    ranges = Euler(*limits)
    shares = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    numbers = (2 * shares - 1) * torch.tensor(limits)
    matrices = Euler(180, 180, 180).matrix(numbers)
    assert torch.allclose(euler_angles(matrices, ranges, 1.0), numbers, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_grey_or_coloured(channels):
    image = torch.rand(channels, 4, 5, generator=torch.Generator().manual_seed(0))
    found = pixels(image)
    assert found.shape == (4, 5, 3)
    assert (found.transpose(2, 0, 1)[:channels] == (image * 255).round().numpy()).all()


def test_names_of_files_are_plain_short_and_not_taken():
    assert file_name(["worst", "zoo:Scenes/CNN"]) == "worst-zoo_scenes_cnn"
    assert file_name(["$", "a"], {"unnamed-a", "unnamed-a--2"}) == "unnamed-a--3"
    long = file_name(["x" * 300, "y"])
    assert len(long) == 200
    assert long != file_name(["x" * 300, "z"])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The results folder of a small run, and its cells."""
    return _run(tmp_path_factory.mktemp("poses"), _TEXT)


def _run(folder, text):
    config = folder / "tiny.toml"
    config.write_text(text)
    assert main(["run", str(config), "--out", str(folder / "run"), "--quiet"]) == 0
    return SimpleNamespace(folder=folder / "run", cells=plan(load(config)[0]))


def _table(done, name):
    with (done.folder / "poses" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _cell(done, name, model="zoo:scenes/cnn"):
    return next(one for one in done.cells if (one.name, one.victim.label) == (name, model))


def _rows_of(done, cell):
    return Store(done.folder).load(cell.key)[1]


@pytest.mark.slow
def test_a_run_writes_all_files_of_its_poses(done):
    names = {path.name for path in (done.folder / "poses").iterdir()}
    expected = {f"{name}.csv" for name in ("share", "labels", "flips", "transfer")}
    expected |= {f"{name}.{end}" for name in ("distance", "renders") for end in ("csv", "png")}
    for model in ("zoo_scenes_cnn", "b_x_b"):
        expected |= {f"landscape-{model}.{end}" for end in ("csv", "png")} | {f"worst-{model}.png"}
    assert names == expected


@pytest.mark.slow
def test_the_same_run_writes_the_same_bytes(done):
    folder = done.folder / "poses"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with opened(done.folder) as store:
        assert write_poses(done.cells, store) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_tables_are_those_of_the_stored_rows(done):
    for line in _table(done, "share"):
        rows = _rows_of(done, _cell(done, "census", line["model"]))
        assert int(line["n"]) == rows["clean_correct"].sum()
        right = rows["clean_correct"] & (rows["prediction"] == rows["label"])
        assert int(line["right"]) == right.sum() < rows["clean_correct"].sum() / 2
    pooled = _table(done, "distance")
    assert sum(int(line["n"]) for line in pooled) == sum(
        int(line["n"]) for line in _table(done, "share")
    )
    last = [one for one in _table(done, "renders") if one["attack"] == "pgd"][-1]
    rows = _rows_of(done, _cell(done, "pgd", _STRANGE))
    assert float(last["rate"]) == pytest.approx(rows["success"][rows["attacked"]].mean(), abs=1e-6)
    kinds = [line["kind"] for line in _table(done, "transfer")]
    assert kinds == ["same poses", "same poses", "surrogate"]
    assert {line["axis"] for line in _table(done, "flips")} == {"roll"}


@pytest.mark.slow
def test_two_models_are_asked_about_the_same_poses(done):
    one, other = (_rows_of(done, _cell(done, "census", m)) for m in ("zoo:scenes/cnn", _STRANGE))
    both = one["attacked"] & other["attacked"]
    assert both.sum() > 12
    assert (one["turned"][both] == other["turned"][both]).all()


@pytest.fixture(scope="module")
def surveyed(done):
    """The cell of a search, the first row that fell in it, and what was seen around it."""
    cell = _cell(done, "pgd")
    row = int(np.flatnonzero(_rows_of(done, cell)["success"])[0])
    return cell, row, survey(cell, row)


@pytest.mark.slow
def test_the_middle_of_the_landscape_is_the_canonical_pose(done, surveyed):
    cell, row, seen = surveyed
    samples, rows = cell.selection.samples, _rows_of(done, cell)
    middle = int(np.flatnonzero(ANGLES == 0)[0])
    with torch.no_grad():
        logits = cell.victim.model(samples.images(samples.x[row : row + 1]))[0]
    label = int(samples.y[row])
    others = torch.cat([logits[:label], logits[label + 1 :]]).max()
    assert seen.canonical.prediction[middle, middle] == rows["clean_prediction"][row] == label
    assert seen.canonical.margin[middle, middle] == pytest.approx(
        float(logits[label] - others), abs=1e-4
    )
    lines = [
        line
        for line in _table(done, "landscape-zoo_scenes_cnn")
        if line["view"] == "canonical" and float(line["yaw"]) == float(line["pitch"]) == 0
    ]
    assert [line["prediction"] for line in lines] == [samples.classes[label]]


@pytest.mark.slow
def test_the_path_ends_where_the_search_did(done, surveyed):
    cell, row, seen = surveyed
    rows = _rows_of(done, cell)
    assert seen.path[-1] == pytest.approx([rows["yaw"][row], rows["pitch"][row]], abs=1e-3)
    assert (np.abs(seen.path) <= 15.001).all()
    assert len(seen.path) == (rows["forwards"][row] - 1) % 4 + 1
    label, samples = int(rows["label"][row]), cell.selection.samples
    with torch.no_grad():
        found = cell.victim.model(samples.images(seen.found)).argmax(1)
    assert int(found) == rows["prediction"][row] != label
    near = [np.abs(seen.near.angles - angle).argmin() for angle in seen.path[-1]]
    assert seen.near.margin.shape == (21, 21)
    assert seen.near.margin[near[1], near[0]] < seen.near.margin.max()


@pytest.mark.slow
def test_the_landscape_has_the_share_of_a_census_of_its_angles(surveyed):
    cell, row, seen = surveyed
    samples = cell.selection.samples
    count = 400
    census = RandomNoise(steps=1, perturbation=Pose(rotation=Euler(180, 180, 0)))
    outcome = census.run(
        samples.seen_by(cell.victim.model),
        samples.x[row].expand(count, -1),
        samples.y[row].expand(count),
        eps=1.0,
    )
    share = 1 - outcome.success.double().mean().item()
    view = seen.canonical
    assert (view.margin > 0).mean() == pytest.approx(share, abs=4 * 0.5 / count**0.5)
    assert 0.02 < share < 0.9
    assert ((view.margin > 0) == (view.prediction == int(samples.y[row]))).all()


@pytest.mark.slow
def test_failures_are_made_again_as_they_were_judged(done):
    for name in ("pgd", "random_noise"):
        cell = _cell(done, name)
        rows = _rows_of(done, cell)
        at = np.flatnonzero(rows["success"])[-5:]
        images = cell.selection.samples.images(remade(cell, cell.attack, at))
        with torch.no_grad():
            logits = cell.victim.model(images)
        assert (logits.argmax(1).numpy() == rows["prediction"][at]).all()
        assert logits.double().softmax(1).amax(1).numpy() == pytest.approx(rows["confidence"][at])


@pytest.mark.slow
def test_cells_that_failed_are_left_out(done, tmp_path):
    with opened(tmp_path / "empty") as store:
        assert write_poses(done.cells, store) is None
    assert not (tmp_path / "empty" / "poses").exists()


@pytest.mark.slow
def test_any_class_can_be_drawn(done, tmp_path):
    cells = [cell for cell in done.cells if cell.name == "census"]
    samples = cells[0].selection.samples
    fewer = dataclasses.replace(samples, classes=("$a_$", "=b"))
    selection = dataclasses.replace(cells[0].selection, samples=fewer)
    with opened(tmp_path / "run") as store:
        for cell in cells:
            record, rows = Store(done.folder).load(cell.key)
            store.save(record, rows)
        write_poses([dataclasses.replace(cell, selection=selection) for cell in cells], store)
    written = {path.name for path in (tmp_path / "run" / "poses").iterdir()}
    assert written == {
        "share.csv",
        "labels.csv",
        "distance.csv",
        "distance.png",
        "transfer.csv",
    }


@pytest.mark.slow
def test_moved_pictures_have_what_needs_no_object(tmp_path):
    done = _run(tmp_path, _FLAT)
    names = {path.name for path in (done.folder / "poses").iterdir()}
    assert names == {
        "share.csv",
        "labels.csv",
        "renders.csv",
        "renders.png",
        "transfer.csv",
        "worst-zoo_digits_linear.png",
        "worst-zoo_digits_ffn_relu.png",
    }
    assert {line["attack"] for line in _table(done, "renders")} == {"pgd"}
