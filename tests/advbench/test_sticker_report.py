"""What is made of a run with stickers: the numbers from the rows, the prints, the files."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advbench.attacks import Patch, Picture, Placement
from advbench.bench.plan import plan
from advbench.bench.store import Store, opened
from advbench.bench.table import to_csv
from advbench.cli import main
from advbench.config import load
from advbench.report import curves, figures, sheet
from advbench.report.saved import attack_of, read_sticker
from advbench.report.stickers import rebuilt, write_stickers
from advbench.report.trial import CAUTION, Rate, Trial, controls_of

_TEXT = """\
[data]
name = "digits"
samples = 60
[[model]]
name = "zoo:digits/linear"
[[model]]
name = "zoo:digits/ffn_relu"
[[attack]]
name = "sticker"
targets = "3"
eps = [0.2, 0.4]
samples = 8
images = 64
surrogate = ["zoo:digits/linear", ["zoo:digits/linear", "zoo:digits/ffn_relu"]]
[attack.attack]
name = "mi_fgsm"
steps = 3
step_size = 0.3
perturbation = { name = "patch", placement = { rotation = 20 } }
[[attack]]
name = "fgsm"
eps = 0.1
"""


def _rows(hit, label=None, prediction=None, attacked=None, y=0.5, x=0.5, angle=0.0):
    """Rows of samples of class 0; those that are hit are taken for class 1."""
    hit = np.array(hit, bool)
    n = len(hit)
    return {
        "attacked": np.ones(n, bool) if attacked is None else np.array(attacked, bool),
        "label": np.zeros(n, int) if label is None else np.array(label),
        "prediction": hit.astype(int) if prediction is None else np.array(prediction),
        "success": hit,
        "size": np.full(n, 0.1),
        "patch_y": np.broadcast_to(y, n).astype(float),
        "patch_x": np.broadcast_to(x, n).astype(float),
        "patch_angle": np.broadcast_to(angle, n).astype(float),
    }


def _trial(rows, **fields):
    facts = {
        "key": "k",
        "model": "a",
        "made_on": "a",
        "dataset": "d",
        "attack": "sticker",
        "recipe": "",
        "control": False,
        "perturbation": "patch",
        "patch": Patch(picture=Picture((1, 1, 1), "80")),
        "area": 0.1,
        "limit": 0.1,
        "targets": None,
        "seed": 0,
        "classes": ("zero", "one"),
        "rows": rows,
    }
    return Trial(**{**facts, **fields})


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([(0.1, 0.2), (0.2, 0.4), (0.4, 0.8)], 0.25),
        ([(0.4, 0.8), (0.1, 0.2), (0.2, 0.4)], 0.25),
        ([(0.1, 0.2), (0.2, 0.49)], None),
        ([(0.1, 0.6), (0.2, 0.8)], None),
        ([(0.1, 0.5), (0.2, 0.8)], 0.1),
        ([(0.1, 0.2), (0.2, 0.5)], 0.2),
        ([(0.1, 0.3), (0.2, None), (0.3, 0.7)], 0.2),
        ([(0.1, 0.3), (0.2, 0.7), (0.3, 0.4), (0.4, 0.9)], 0.15),
        ([], None),
    ],
)
def test_area_for_half_success_lies_between_measured_areas(points, area):
    assert curves.half_area(points) == (area if area is None else pytest.approx(area))


def test_each_measure_has_its_own_denominator():
    rows = _rows(
        [True, True, True, False, False],
        label=[0, 0, 1, 1, 0],
        prediction=[1, 2, 0, 1, 0],
        attacked=[True, True, True, True, False],
    )
    trial = _trial(rows, targets=1)
    assert trial.targeted().rate() == Rate(2, 1)
    assert trial.untargeted().rate() == Rate(4, 3)
    assert list(trial.hits()) == ["targeted", "untargeted"]
    assert _trial(rows).targeted() is None
    assert _trial(rows, limit=0.09).untargeted().rate() == Rate(4, 0)


def test_lines_of_one_curve_share_its_area_for_half_success():
    trials = [
        _trial(_rows([True, False, False, False]), key="1", area=0.1),
        _trial(_rows([True, True, True, False]), key="2", area=0.3),
        _trial(_rows([False] * 4), key="3", area=0.1, attack="grey", control=True),
        _trial(_rows([True, False, False, False]), key="4", area=0.3, attack="grey", control=True),
    ]
    lines = curves.area_lines(trials)
    assert [line["key"] for line in lines] == ["1", "2", "3", "4"]
    assert [line["half_area"] for line in lines] == [0.2, 0.2, None, None]
    assert [line["rate"] for line in lines] == [0.25, 0.75, 0, 0.25]
    assert lines[0]["low"] == pytest.approx(0.045587, abs=1e-6)  # Wilson, one of four
    assert lines[0]["high"] == pytest.approx(0.699358, abs=1e-6)


def test_seeds_and_models_are_curves_of_their_own():
    half = [_rows([True, False, False, False]), _rows([True, True, True, False])]
    trials = [
        _trial(half[0], area=0.1, seed=0),
        _trial(half[1], area=0.3, seed=1),
        _trial(half[1], area=0.3, model="b"),
    ]
    assert {line["half_area"] for line in curves.area_lines(trials)} == {None}


def test_controls_are_those_on_the_same_terms():
    sticker = _trial(_rows([True]))
    same = _trial(_rows([True]), attack="grey", control=True)
    turned = Patch(placement=Placement(rotation=5), picture=Picture((1, 1, 1), "80"))
    others = [
        _trial(_rows([True]), attack="grey", control=True, **{name: value})
        for name, value in {
            "area": 0.2,
            "model": "b",
            "made_on": "b",
            "seed": 1,
            "targets": 1,
            "patch": turned,
            "asked": (None, 3),
        }.items()
    ]
    assert controls_of(sticker, [sticker, *others]) == []
    assert controls_of(sticker, [sticker, *others, same, same]) == [same]


def test_transfer_has_a_line_for_every_pair_and_its_best_control():
    rates = {("a", "a"): 4, ("a", "b"): 1, ("a + b", "a"): 3, ("a + b", "b"): 2}
    trials = []
    for (made_on, model), count in rates.items():
        rows = _rows(np.arange(4) < count)
        trials.append(_trial(rows, made_on=made_on, model=model))
        for name, hits in (("grey", 0), ("noise", count // 2)):
            rows = _rows(np.arange(4) < hits)
            trials.append(_trial(rows, made_on=made_on, model=model, attack=name, control=True))
    lines = curves.transfer_lines(trials)
    found = {(line["made_on"], line["judged_on"]): line for line in lines}
    assert len(lines) == 4
    assert {pair: line["rate"] * 4 for pair, line in found.items()} == rates
    assert {line["n"] for line in lines} == {4}
    assert found["a", "a"]["best_control"] == 0.5
    assert found["a", "b"]["best_control"] == 0


def test_locations_are_counted_where_the_centre_lies():
    y = [0.0, 0.24, 0.26, 0.99, 1.0, np.nan]
    x = [0.0, 0.26, 0.26, 0.51, 1.0, np.nan]
    rows = _rows([True, True, False, True, True, False], attacked=[True] * 5 + [False], y=y, x=x)
    lines = curves.location_lines([_trial(rows)])
    assert len(lines) == 16
    counts = {(line["top"], line["left"]): line["n"] for line in lines if line["n"]}
    assert counts == {(0, 0): 1, (0, 0.25): 1, (0.25, 0.25): 1, (0.75, 0.5): 1, (0.75, 0.75): 1}
    rates = {(line["top"], line["left"]): line["rate"] for line in lines}
    assert rates[0.25, 0.25] == 0
    assert rates[0.75, 0.5] == 1
    assert rates[0.5, 0.5] is None


def test_a_fixed_location_has_no_map_and_no_rotation_no_curve():
    fixed = Patch(placement=Placement(location=(0.5, 0.5)), picture=Picture((1, 1, 1), "80"))
    trial = _trial(_rows([True]), patch=fixed)
    assert curves.location_lines([trial]) == []
    assert curves.rotation_lines([trial]) == []


def test_angles_are_counted_in_bins_over_the_range():
    patch = Patch(placement=Placement(rotation=20), picture=Picture((1, 1, 1), "80"))
    rows = _rows([True, False, True], angle=[-20.0, -19.0, 20.0])
    lines = curves.rotation_lines([_trial(rows, patch=patch)])
    assert [line["n"] for line in lines] == [2, 0, 0, 0, 0, 0, 0, 1]
    assert (lines[0]["angle_from"], lines[-1]["angle_to"]) == (-20, 20)
    assert lines[0]["rate"] == 0.5


def test_csv_leaves_empty_what_is_not_known_and_quotes_formulas():
    line = {"a": "=1+1", "b": None, "c": 0.5}
    assert to_csv([line], list(line)) == "a,b,c\n'=1+1,,0.5\n"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_every_texel_at_its_size(channels):
    values = torch.rand(channels, 5, 5, generator=torch.Generator().manual_seed(0))
    patch = Patch(picture=Picture.of(values))
    place = sheet.layout(5, width_mm=10)
    image = Image.open(io.BytesIO(sheet.sheet(patch, place, [CAUTION], "name")))
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert place.width_mm == pytest.approx(10, abs=5 * 25.4 / 300 / 2)
    pixels = np.asarray(image)
    art = pixels[place.margin : place.margin + place.side, place.margin :][:, : place.side]
    texels = art.reshape(5, place.scale, 5, place.scale, 4)
    outline = (art[..., 3] == 255) & (art[..., :3] == 128).all(2)
    inside = (texels[..., 3] == 255) & ~outline.reshape(texels.shape[:4])
    whole = np.broadcast_to((values.numpy() * 255).round().transpose(1, 2, 0), (5, 5, 3))
    expected = np.broadcast_to(whole[:, None, :, None], (*inside.shape, 3))
    assert (texels[..., :3][inside] == expected[inside]).all()
    assert inside.any((1, 3)).all()
    assert inside.mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert art[0, 0, 3] == 0
    marks = pixels[: place.margin, :, 3]
    assert (marks[:, place.margin] == 255).any()
    assert (marks[:, place.margin + place.side] == 255).any()
    assert outline[place.side // 8, : place.side // 2].any()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a small run, its configuration, and what the command said."""
    folder = tmp_path_factory.mktemp("stickers")
    config = folder / "tiny.toml"
    config.write_text(_TEXT)
    assert main(["run", str(config), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run", config


def _cells(config: Path):
    return plan(load(config)[0])


@pytest.mark.slow
def test_a_run_writes_all_files_of_its_stickers(done):
    folder = done[0] / "stickers"
    names = {path.name for path in folder.iterdir()}
    both = "zoo_digits_linear_zoo_digits_ffn_relu"
    made = [
        f"sticker-to_3-{made_on}-area_{area}-seed_0"
        for made_on in ("zoo_digits_linear", both)
        for area in ("0.2", "0.4")
    ]
    expected = {f"{name}.{end}" for name in made for end in ("png", "json")}
    expected |= {f"overview-{name}.png" for name in made[:2]}
    expected |= {f"{name}.{e}" for name in ("area", "transfer", "location") for e in ("csv", "png")}
    assert names == expected | {"rotation.csv"}


@pytest.mark.slow
def test_the_same_run_writes_the_same_bytes(done):
    folder, config = done
    before = {path.name: path.read_bytes() for path in (folder / "stickers").iterdir()}
    with opened(folder) as store:
        assert write_stickers(_cells(config), store) == folder / "stickers"
    assert {path.name: path.read_bytes() for path in (folder / "stickers").iterdir()} == before


@pytest.mark.slow
def test_a_sticker_loaded_again_is_judged_the_same(done):
    folder, config = done
    name = "sticker-to_3-zoo_digits_linear-area_0.4-seed_0"
    attack = read_sticker(folder / "stickers" / f"{name}.json")
    (cell,) = (
        cell
        for cell in _cells(config)
        if cell.name == "sticker" and cell.scale == 0.4 and cell.victim.label == cell_label(cell)
    )
    _, rows = Store(folder).load(cell.key)
    samples = cell.selection.samples
    pasted = attack(cell.victim.model, samples.x, samples.y, eps=0.4, seed=0, ids=samples.ids)
    with torch.no_grad():
        prediction = cell.victim.model(pasted).argmax(1).numpy()
    assert (prediction[rows["attacked"]] == rows["prediction"][rows["attacked"]]).all()
    assert (prediction != rows["clean_prediction"]).sum() > 5
    at, images = rebuilt(cell, attack, rows, 12)
    assert len(at) == 12
    assert torch.equal(images, pasted[torch.from_numpy(at)])


def cell_label(cell):
    """The label of a victim that a sticker was made on alone, else nothing."""
    return cell.victim.label if not cell.surrogates else ""


@pytest.mark.slow
def test_print_and_file_hold_the_same_pixels(done):
    files = sorted((done[0] / "stickers").glob("sticker-*.json"))
    assert len(files) == 4
    for path in files:
        content = json.loads(path.read_text())
        place, n = content["print"], content["resolution"]
        pixels = np.asarray(Image.open(path.with_suffix(".png")))
        first = place["margin"] + place["scale"] // 2
        middles = pixels[first :: place["scale"], first :: place["scale"], 0][:n, :n]
        found = bytes(middles.flatten().tolist()).hex()
        assert found == content["fitted"]["perturbation"]["picture"]["pixels"]


@pytest.mark.slow
def test_a_file_says_how_its_sticker_and_the_controls_were_judged(done):
    folder, config = done
    path = folder / "stickers" / "sticker-to_3-zoo_digits_linear-area_0.4-seed_0.json"
    content = json.loads(path.read_text())
    assert content["caution"] == CAUTION
    assert content["targets"] == {"class": 3, "name": "3"}
    assert [one["model"] for one in content["made_on"]] == ["zoo:digits/linear"]
    assert [one["model"] for one in content["judged_on"]] == [
        "zoo:digits/linear",
        "zoo:digits/ffn_relu",
    ]
    assert content["measured_area"] == pytest.approx(0.4, rel=0.03)
    cells = {
        (cell.victim.label, cell.name): cell
        for cell in _cells(config)
        if cell.scale == 0.4 and [one.label for one in cell.made_on] == ["zoo:digits/linear"]
    }
    for judged in content["judged_on"]:
        controls = judged["controls"]
        assert set(controls) == {"noise_sticker", "grey_sticker", "picture_sticker"}
        for name, numbers in {"sticker": judged, **controls}.items():
            cell = cells[judged["model"], name]
            rows = Store(folder).load(cell.key)[1]
            n = int(rows["attacked"].sum())
            assert numbers["untargeted"]["n"] == n
            assert numbers["untargeted"]["rate"] == round(float(rows["success"].sum() / n), 6)


@pytest.mark.parametrize("name", ["os:system", "python:os:system", "builtins:exec", "os.system"])
def test_s2_code_that_a_results_file_names_is_not_run(tmp_path, name):
    path = tmp_path / "sticker.json"
    path.write_text(json.dumps({"format": 1, "fitted": {"name": name, "command": "exit 1"}}))
    with pytest.raises(ValueError, match=rf"there is no attack named '{name}'"):
        read_sticker(path)


@pytest.mark.slow
def test_what_is_no_sticker_is_refused(done, tmp_path):
    path = done[0] / "stickers" / "sticker-to_3-zoo_digits_linear-area_0.4-seed_0.json"
    content = json.loads(path.read_text())
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(ValueError, match=r"copy\.json: expected a sticker in format 1; got form"):
        read_sticker(copy)
    copy.write_text("{")
    with pytest.raises(ValueError, match=r"copy\.json: no JSON"):
        read_sticker(copy)
    for fitted in (None, {"name": "fgsm"}, {**content["fitted"], "stepz": 1}):
        with pytest.raises(ValueError, match="here"):
            attack_of(fitted, "here")


@pytest.mark.slow
def test_a_run_without_stickers_writes_none(done, tmp_path):
    cells = [cell for cell in _cells(done[1]) if cell.name == "fgsm"]
    assert cells
    with opened(tmp_path / "empty") as store:
        assert write_stickers(cells, store) is None
    assert not (tmp_path / "empty" / "stickers").exists()


_HOSTILE = """\
[data]
name = "digits"
samples = 20
[[model]]
name = "zoo:digits/linear"
label = 'a$b_$\\frac{ <b>%s'
[[model]]
name = "zoo:digits/linear"
label = '%s'
[[attack]]
name = "sticker"
eps = 0.2
samples = 2
images = 16
surrogate = ['a$b_$\\frac{ <b>%s', ['a$b_$\\frac{ <b>%s', '%s']]
[attack.attack]
name = "mi_fgsm"
steps = 1
perturbation = "patch"
"""


@pytest.mark.slow
def test_any_label_and_class_can_be_drawn_and_named(tmp_path):
    first, second = "x" * 120, "y" * 120
    config = tmp_path / "hostile.toml"
    config.write_text(_HOSTILE % (first, second, first, first, second))
    assert main(["run", str(config), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    folder = tmp_path / "run" / "stickers"
    names = {path.name for path in folder.iterdir()}
    assert {"area.png", "transfer.png", "location.png"} <= names
    assert len([name for name in names if name.startswith("sticker-")]) == 4
    (overview,) = folder.glob("overview-*.png")
    before = overview.read_bytes()
    with opened(folder.parent) as store:
        write_stickers([_knowing(cell, 2) for cell in _cells(config)], store)
    assert overview.read_bytes() != before


def _knowing(cell, count):
    """A cell whose data set has names for its first classes only, fewer than its labels need."""
    samples = cell.selection.samples
    fewer = dataclasses.replace(samples, classes=samples.classes[:count])
    return dataclasses.replace(cell, selection=dataclasses.replace(cell.selection, samples=fewer))


def test_a_title_is_no_formula():
    shown = figures.Shown(np.zeros((2, 2, 3), np.uint8), "$x_$")
    assert figures.overview("a$b_$\\frac{", [shown], [shown]).startswith(b"\x89PNG")
