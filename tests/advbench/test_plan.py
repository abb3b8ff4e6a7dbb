"""The plan: which cells there are, what they are called, and what their keys depend on."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from advbench import config
from advbench.attacks import L1, PGD, MinimumEps, NoiseSticker, Patch, Placement, TotalVariation
from advbench.bench import plan as planning
from advbench.bench.plan import Selection, Victim, names, plan, short
from advbench.config import AttackEntry, ConfigError, Eps
from tests.advbench.fakes import Plane, Push, cell, samples

_TEXT = """\
[run]
seed = [0, 1]
[data]
samples = 20
[[model]]
name = "zoo:digits/linear"
[[model]]
name = "zoo:digits/ffn_relu"
label = "relu"
[[attack]]
name = "pgd"
steps = [1, 2]
eps = [0.1, 0.2]
[[attack]]
name = "minimum_eps"
eps = [0.1, 0.2]
"""


def _plan(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "bench.toml"
    path.write_text(text)
    return plan(config.load(path, overrides)[0])


def test_every_combination_is_a_cell(tmp_path):
    cells = _plan(tmp_path, _TEXT)
    assert len(cells) == 2 * (2 * 2 * 2 + 2)
    assert len({one.key for one in cells}) == len(cells)
    facts = cells[0].facts()
    assert facts["model"] == "zoo:digits/linear"
    assert facts["attack"] == "pgd(steps=1)"
    assert (facts["dataset"], facts["perturbation"], facts["n"]) == ("digits", "linf", 20)
    assert {one.victim.label for one in cells} == {"zoo:digits/linear", "relu"}


def test_an_attack_that_finds_the_smallest_runs_once_for_all_eps(tmp_path):
    cells = [one for one in _plan(tmp_path, _TEXT) if one.name == "minimum_eps"]
    assert len(cells) == 4
    assert {one.eps for one in cells} == {(0.1, 0.2)}
    assert cells[0].scale == 0.2


@pytest.mark.parametrize(
    "override", ["run.batch_size=7", "run.device=cpu", 'model.label="x"'], ids=str
)
def test_what_changes_no_number_changes_no_key(tmp_path, override):
    text = _TEXT.partition('[[model]]\nname = "zoo:digits/ffn_relu"')[0]
    text += _TEXT[_TEXT.index("[[attack]]") :]
    before = [one.key for one in _plan(tmp_path, text)]
    assert [one.key for one in _plan(tmp_path, text, override)] == before


def test_every_part_of_the_content_changes_the_key(monkeypatch):
    base = cell(Push())
    victim, selection = base.victim, base.selection
    other = Selection("fake", samples([0.1], [0]), selection.train)
    variants = [
        dataclasses.replace(base, victim=dataclasses.replace(victim, sha256="1" * 64)),
        dataclasses.replace(base, victim=dataclasses.replace(victim, code="1" * 64)),
        dataclasses.replace(base, selection=other),
        dataclasses.replace(base, selection=dataclasses.replace(selection, label="b")),
        dataclasses.replace(base, attack=Push(gain=0.5)),
        dataclasses.replace(base, attack=Push(perturbation=L1())),
        dataclasses.replace(base, attack=PGD()),
        dataclasses.replace(base, eps=(0.2,)),
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, budget=10),
        dataclasses.replace(base, eot=10),
        dataclasses.replace(base, targets=1),
        dataclasses.replace(base, surrogates=(victim,)),
        dataclasses.replace(base, adaptive=True),
        dataclasses.replace(base, draws=30),
    ]
    keys = [base.key, *(one.key for one in variants)]
    monkeypatch.setattr(Push, "version", 2)
    keys.append(cell(Push()).key)
    monkeypatch.undo()
    monkeypatch.setattr(planning, "FORMAT", planning.FORMAT + 1)
    keys.append(cell(Push()).key)
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)
    assert dataclasses.replace(base, name="renamed").key == base.key


def test_what_is_left_at_its_default_keeps_the_keys_of_published_tables():
    root = Path(__file__).parents[2]
    cells = plan(config.load(root / "configs/quickstart.toml")[0])
    with (root / "results/published/quickstart.csv").open(encoding="utf-8") as file:
        published = {row["key"] for row in csv.DictReader(file)} - {""}
    assert {one.key for one in cells} == published


def test_an_adaptive_attack_says_so_in_its_name(tmp_path):
    text = _TEXT.replace('[0.1, 0.2]\n[[attack]]\nname = "min', '0.1\n[[attack]]\nname = "min')
    text = text.replace("steps = [1, 2]", "adaptive = [false, true]")
    both = [one for one in _plan(tmp_path, text) if one.name != "minimum_eps"]
    told = {(one.name, one.adaptive) for one in both}
    assert told == {("pgd", False), ("adaptive pgd", True)}
    assert len({one.key for one in both}) == len(both)


def test_the_draws_of_a_run_are_those_of_its_cells(tmp_path):
    assert {one.draws for one in _plan(tmp_path, _TEXT)} == {20}
    assert {one.draws for one in _plan(tmp_path, _TEXT, "run.draws=50")} == {50}


def test_namesakes_are_told_apart_by_what_differs():
    entries = [
        AttackEntry("pgd", PGD(steps=1), (Eps(1, "1"),)),
        AttackEntry("pgd", PGD(steps=2, perturbation=L1()), (Eps(1, "1"),)),
        AttackEntry("pgd", PGD(), (Eps(1, "1"),), label="long"),
        AttackEntry("minimum_eps", MinimumEps(), (Eps(1, "1"),)),
    ]
    assert names(entries) == ["pgd(steps=1)", "pgd(steps=2)", "long", "minimum_eps"]


def test_short_shows_what_is_not_the_default():
    assert short(PGD()) == "pgd"
    assert short(PGD(steps=3, perturbation=L1())) == "pgd(perturbation=l1, steps=3)"


def test_two_models_of_one_name_are_refused(tmp_path):
    text = _TEXT.replace('label = "relu"', 'label = "zoo:digits/linear"')
    with pytest.raises(ConfigError, match="two models are called 'zoo:digits/linear'"):
        _plan(tmp_path, text)


def test_all_problems_of_loading_come_at_once(tmp_path):
    text = _TEXT.replace("samples = 20", "samples = 2000").replace(
        'label = "relu"', 'sha256 = "00"'
    )
    with pytest.raises(ConfigError) as caught:
        _plan(tmp_path, text)
    assert "zoo:digits/linear" in str(caught.value)
    assert "zoo:digits/ffn_relu" in str(caught.value)


def test_a_model_of_ones_own_needs_data_and_is_keyed_by_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "mine_for_plan.py"
    source.write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "def again():\n"
        "    return make()\n"
    )
    text = '[[model]]\nname = "python:mine_for_plan:make"\n[[attack]]\nname = "fgsm"\neps = 0.1\n'
    with pytest.raises(ConfigError, match=r"brings no data set; name one under \[data\]"):
        _plan(tmp_path, text)
    text = '[data]\nname = "digits"\nsamples = 5\n' + text
    text += '[[model]]\nname = "python:mine_for_plan:again"\n'
    cells = _plan(tmp_path, text)
    assert cells[0].victim.sha256 == cells[1].victim.sha256
    assert cells[0].key != cells[1].key
    source.write_text(source.read_text() + "# changed\n")
    assert _plan(tmp_path, text)[0].key != cells[0].key


def test_the_split_is_named_where_it_is_not_the_test_split(tmp_path):
    cells = _plan(tmp_path, _TEXT, 'data.split="validation"')
    assert cells[0].facts()["dataset"] == "digits/validation"


def test_limits_hold_the_tolerance_of_the_set():
    facts = cell(Push(), (0.1,)).facts()
    assert facts["limits"] == pytest.approx([0.1 + 1e-6])
    assert Victim("a", Plane(), "0").code == ""
    assert torch.tensor(facts["limits"]).shape == (1,)


def test_short_lists_the_fields_of_what_has_no_name():
    assert short(Patch()) == "patch"
    turned = Placement(rotation=20, location=(0.5, 0.5))
    patch = Patch(placement=turned, penalties=(TotalVariation(1),))
    assert short(patch) == "patch(location=[0.5, 0.5], rotation=20)"


_STICKER = """\
[data]
name = "digits"
samples = 50
[[model]]
name = "zoo:digits/cnn"
label = "cnn"
[[model]]
name = "zoo:digits/ffn_relu"
label = "ffn"
[[attack]]
name = "sticker"
label = "mine"
targets = "3"
eps = 0.2
"""


def test_a_fitted_attack_brings_its_controls(tmp_path):
    cells = _plan(tmp_path, _STICKER)
    controls = ["noise_sticker", "grey_sticker", "picture_sticker"]
    assert [one.name for one in cells] == ["mine", *controls] * 2
    assert {one.targets for one in cells} == {3}
    assert {one.facts()["perturbation"] for one in cells} == {"patch(rotation=20)"}


def test_surrogates_are_single_or_together_and_not_the_victim(tmp_path):
    text = _STICKER + 'surrogate = ["cnn", ["cnn", "ffn"]]\n'
    made_on = [(c.victim.label, c.facts()["surrogate"]) for c in _plan(tmp_path, text)]
    assert set(made_on) == {("cnn", ""), ("ffn", "cnn"), ("cnn", "cnn + ffn"), ("ffn", "cnn + ffn")}


def test_one_class_alone_is_attacked_and_learnt_from(tmp_path):
    one = _plan(tmp_path, _STICKER + 'from_class = ["4", 7]\n')[0]
    assert one.facts()["dataset"] == "digits (4)"
    assert (one.selection.samples.y == 4).all()
    train = one.selection.train(30)
    assert len(train) == 30
    assert (train.y == 4).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('surrogate = "cmn"', "surrogate 'cmn' is none of the models. Did you mean 'cnn'"),
        ("from_class = 3", "targets and from_class are the same class"),
        ("from_class = 10", "digits has no class 10. Classes: 0 to 9"),
        ('from_class = "three"', "digits has no class 'three'"),
        ("surrogate = [[]]", "expected labels of models"),
        ("targets = 4", "Cannot overwrite a value"),
    ],
)
def test_terms_that_cannot_be_are_refused(tmp_path, line, message):
    with pytest.raises(ConfigError, match=message):
        _plan(tmp_path, f"{_STICKER}{line}\n")


def test_nothing_is_fitted_to_what_it_is_judged_on(tmp_path):
    with pytest.raises(ConfigError, match="judged on another"):
        _plan(tmp_path, _STICKER, 'data.split="train"')


def test_other_training_samples_give_another_key():
    attack = NoiseSticker()
    base = cell(attack)
    other = dataclasses.replace(base.selection, train=lambda count: samples([0.2], [1]))
    assert dataclasses.replace(base, selection=other).key != base.key
    same = dataclasses.replace(base.selection, train=base.selection.train)
    assert dataclasses.replace(base, selection=same).key == base.key


def test_a_fit_that_wants_too_many_images_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"a fit wants 5000 training images.*expected 1 to 1097"):
        _plan(tmp_path, _STICKER + "images = 5000\n")
