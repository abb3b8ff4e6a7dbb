"""Configurations: all errors at once, each with its line; grids; overrides."""

import math
import tomllib
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advbench import config
from advbench.attacks import L1, PGD, Linf
from advbench.config import ConfigError
from advbench.document import Document, key_lines, parse_toml
from advbench.schema import Plugin, build, number, plain

_GOOD = """\
[run]
seed = [1, 2]

[data]
samples = 20

[[model]]
name = "zoo:digits/linear"

[[attack]]
name = "pgd"
perturbation = { name = "l1" }
steps = [5, 10]
eps = ["8/255", 0.1]

[[attack]]
name = "fgsm"
eps = 0.1
"""


def _load(tmp_path, text, overrides=()):
    path = tmp_path / "bench.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path, overrides)[0]


def _errors(tmp_path, text, overrides=()):
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, overrides)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_lists_unfold_into_a_grid(tmp_path):
    read = _load(tmp_path, _GOOD)
    assert read.run.seed == (1, 2)
    assert [entry.attack for entry in read.attack[:2]] == [
        PGD(perturbation=L1(), steps=5),
        PGD(perturbation=L1(), steps=10),
    ]
    assert [(e.value, e.text) for e in read.attack[0].eps] == [(8 / 255, "8/255"), (0.1, "0.1")]
    assert read.attack[2].attack.perturbation == Linf()


@pytest.mark.parametrize(
    "text", [b"\xef\xbb\xbf" + _GOOD.encode(), _GOOD.replace("\n", "\r\n").encode()]
)
def test_byte_order_mark_and_carriage_returns_change_nothing(tmp_path, text):
    assert _load(tmp_path, text) == _load(tmp_path, _GOOD)


def test_all_errors_come_at_once_in_the_order_of_the_lines(tmp_path):
    text = """\
[run]
batchsize = 3
device = 4
[modle]
[[model]]
name = "zoo:digits/cn"
[[model]]
label = "x"
[[attack]]
name = "pdg"
eps = 0.1
[[attack]]
name = "pgd"
stepsize = 0.1
steps = "many"
restarts = true
eps = [8, -1, nan, "x"]
perturbation = "linff"
[[attack]]
name = "fgsm"
"""
    lines = _errors(tmp_path, text)
    places = [line.split(" ")[0] for line in lines]
    assert places == [
        f"bench.toml:{n}:" for n in (2, 3, 4, 6, 7, 10, 14, 15, 16, 17, 17, 17, 18, 19)
    ]
    fields = "batch_size, deterministic, device, draws, keep_changes, seed, speed"
    assert f"Did you mean 'batch_size'? Fields: {fields}." in lines[0]
    assert "expected text in quotes; got 4" in lines[1]
    assert "there is no table 'modle'. Did you mean 'model'?" in lines[2]
    assert "Did you mean 'zoo:digits/cnn'?" in lines[3]
    assert "attack.stepsize: PGD has no field 'stepsize'. Did you mean 'step_size'?" in lines[6]
    assert "expected a whole number; got 'many' (text)" in lines[7]
    assert "got true (true or false)" in lines[8]
    assert "Did you mean 'linf'" in lines[12]
    assert "'eps' is missing" in lines[13]


def test_a_radius_in_0_to_255_is_refused(tmp_path):
    text = _GOOD.replace("eps = 0.1", "eps = 8")
    assert _errors(tmp_path, text) == [
        "bench.toml:18: attack.eps: 8 under linf exceeds the whole range of a pixel, 0 to 1; "
        "did you mean 8/255?"
    ]
    assert _load(tmp_path, _GOOD.replace('["8/255", 0.1]', "8")).attack[0].eps[0].value == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "bench.toml:1: the file is empty"),
        (b"\n  \n", "bench.toml:1: the file is empty"),
        (b"a = 1\nb = 8/255\n", "bench.toml:2: "),
        (b"[run]\nseed = 1\nseed = 2\n", "bench.toml:3: the key is given twice"),
        (b"[run]\n[run]\n", "bench.toml:2: the table is given twice"),
        (b"a = 1\nb = '\xff'\n", "bench.toml:2: the text is not UTF-8"),
        (b"#" * 10_000_000, "bench.toml: 10.0 MB is no configuration"),
        (b"a = " + b"[" * 100_000, "bench.toml"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line(tmp_path, text, message):
    assert _errors(tmp_path, text)[0].startswith(message)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read: No such file"):
        config.load(tmp_path / "nowhere.toml")


def test_what_the_attack_itself_refuses_is_reported_with_its_place(tmp_path):
    errors = _errors(tmp_path, _GOOD.replace("steps = [5, 10]", "steps = [5, 0]"))
    assert errors == [
        "bench.toml:10: attack: PGD: steps must be a whole number of at least 1; got 0"
    ]


def test_nested_plugins_by_name_or_table(tmp_path):
    text = (
        _GOOD + '[[attack]]\nname="minimum_eps"\neps=1\nattack={name="pgd", steps=3, loss="dlr"}\n'
    )
    attack = _load(tmp_path, text).attack[-1].attack
    assert plain(attack.attack)["loss"] == {"name": "dlr"}
    errors = _errors(tmp_path, text.replace("steps=3", "step=3"))
    assert len(errors) == 1
    assert "bench.toml:22: attack.attack.step: PGD has no field 'step'" in errors[0]


@pytest.mark.parametrize("value", ["[]", "{}", "3", "[[]]"])
def test_attack_must_be_an_array_of_tables(tmp_path, value):
    text = f'attack = {value}\n[[model]]\nname = "zoo:digits/linear"\n'
    if value == "[]":
        assert _load(tmp_path, text).attack == ()
    else:
        assert "expected tables headed [[attack]]" in _errors(tmp_path, text)[0]


def test_overrides_reach_every_attack_that_has_the_field(tmp_path):
    read = _load(
        tmp_path, _GOOD, ["attack.steps=7", "run.seed=9", "attack.eps=1/4", 'data.name="digits"']
    )
    assert [entry.attack.steps for entry in read.attack] == [7, 1]
    assert read.run.seed == (9,)
    assert {entry.eps[0].value for entry in read.attack} == {0.25}
    assert read.data.name == "digits"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attack.stepz=7", "--set attack.stepz=7: no [[attack]] has a field 'stepz'"),
        ("attack.steps", "--set attack.steps: expected table.key=value"),
        ("run.seed.x=1", "--set run.seed.x=1: 'seed' is not a table"),
        ("run.seed=text", "--set run.seed=text: run.seed: expected whole numbers"),
        ("runn.seed=1", "--set runn.seed=1: runn: there is no table 'runn'. Did you mean 'run'?"),
    ],
)
def test_a_bad_override_names_itself(tmp_path, override, message):
    assert _errors(tmp_path, _GOOD, [override])[0].startswith(message)


@dataclass(frozen=True)
class _Inner:
    size: float
    word: Literal["one", "two"] = "one"


@dataclass(frozen=True)
class _Schema:
    pair: tuple[int, str]
    inner: _Inner
    many: tuple[_Inner, ...] = ()
    either: int | str | None = None
    widths: tuple[float, ...] = ()
    model: Annotated[object, Plugin("models")] = None


def _document(text):
    return Document("x.toml", text, tomllib.loads(text), key_lines(text))


def test_the_reader_serves_any_dataclass():
    text = """
pair = [1, "a"]
widths = ["1/4", 2]
either = "b"
model = { name = "ffn", hidden = [3, 4] }
[inner]
size = 1
[[many]]
size = 2.5
word = "two"
"""
    built = build(_Schema, _document(text))
    assert built.pair == (1, "a")
    assert built.widths == (0.25, 2.0)
    assert built.inner == _Inner(1.0)
    assert built.many == (_Inner(2.5, "two"),)
    assert built.model.hidden == (3, 4)


def test_the_reader_reports_what_does_not_fit():
    text = 'pair = [1]\neither = 1.5\nmodel = 3\nwidths = [inf]\n[inner]\nword = "tow"\n'
    with pytest.raises(ConfigError) as caught:
        build(_Schema, _document(text))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "pair",
        "either",
        "model",
        "widths",
        "inner",
        "inner.word",
    ]
    assert "expected a list of 2 values; got 1" in lines[0]
    assert "expected a whole number or text in quotes; got 1.5" in lines[1]
    assert "Did you mean 'two'?" in lines[5]


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_fractions_are_numbers(above, below):
    assert number(f"{above}/{below}") == above / below
    assert number(f" {above} / {below} ") == above / below


@pytest.mark.parametrize("given", ["1/0", "a/b", "1/2/3", "", None, True, [1]])
def test_other_text_is_no_number(given):
    assert number(given) is None


_KEY = st.text("abcdefg-_", min_size=1, max_size=4)
_VALUE = st.sampled_from(
    [
        "1",
        '"a # = [x]"',
        "'''two\nlines = 3\n[no]'''",
        '"""q \\""" = 1\n"""',
        "[1, # comment ]\n 2, [3]]",
        "{ a = 1, b = [2] }",
        "'[x]'",
        "1979-05-27T07:32:00Z",
        '""""quoted""""',
    ]
)


@given(
    st.dictionaries(
        st.one_of(_KEY, st.just('"quoted key"')),
        st.tuples(st.booleans(), st.dictionaries(_KEY, _VALUE, max_size=4)),
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_every_key_is_found_on_its_line(tables, blank):
    """Random documents, built line by line so that the line of each key is known."""
    text = "\n" * blank
    expected = {}
    for header, (array, body) in tables.items():
        name = header.strip('"')
        for index in range(2 if array else 1):
            keys = (name, index) if array else (name,)
            expected[keys] = text.count("\n") + 1
            text += f"[[ {header} ]] # x = 1\n" if array else f"[{header}]\n"
            for key, value in body.items():
                expected[(*keys, key)] = text.count("\n") + 1
                text += f"{key} = {value} # end\n"
    tomllib.loads(text)
    found = key_lines(text)
    assert {keys: found[keys] for keys in expected} == expected


def test_dotted_keys_and_tables_inside_arrays_have_lines():
    lines = key_lines('[[a]]\nb.c = 1\n[a.d]\ne = 2\n[[a]]\n[[a.f]]\n"g.h" = 3\n')
    assert lines[("a", 0, "b", "c")] == 2
    assert lines[("a", 0, "d", "e")] == 4
    assert lines[("a", 1, "f", 0, "g.h")] == 7


def test_a_value_inside_an_inline_table_falls_back_to_the_key_around_it(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[a]\nb = { c = 1 }\n")
    assert parse_toml(path).place(("a", "b", "c")) == (2, f"{path}:2")


def test_plain_is_json_of_all_fields():
    described = plain(PGD(perturbation=L1(), steps=3))
    assert described["name"] == "pgd"
    assert described["version"] == PGD.version
    assert described["perturbation"]["name"] == "l1"
    assert described["steps"] == 3
    assert math.isclose(plain((0.5,))[0], 0.5)
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        plain({1, 2})


@pytest.mark.parametrize("fields", ["not a dataclass", "unknown annotation"])
def test_a_plugin_that_is_no_schema_is_named(monkeypatch, fields):
    class Theirs:
        pass

    if fields == "unknown annotation":
        Theirs.__annotations__ = {"x": "Unknown"}
        Theirs = dataclass(Theirs)
    monkeypatch.setattr("advbench.registry.get", lambda kind, name: Theirs)
    document = _document('model = "linear"\npair = [1, "a"]\n[inner]\nsize = 1\n')
    with pytest.raises(ConfigError, match=r"'linear' \(.*\) of advbench .* is no dataclass"):
        build(_Schema, document)


def test_adaptive_is_one_value_or_a_grid(tmp_path):
    assert not any(entry.adaptive for entry in _load(tmp_path, _GOOD).attack)
    read = _load(tmp_path, _GOOD + "adaptive = [false, true]\n")
    assert [entry.adaptive for entry in read.attack] == [False, False, False, True]
    read = _load(tmp_path, _GOOD, ["attack.adaptive=true"])
    assert all(entry.adaptive for entry in read.attack)
    assert "attack.adaptive: expected" in _errors(tmp_path, _GOOD + "adaptive = 1\n")[0]


def test_one_draw_of_a_random_model_is_no_score(tmp_path):
    assert _load(tmp_path, _GOOD).run.draws == 20
    errors = _errors(tmp_path, _GOOD, ["run.draws=1"])
    assert "draws must be at least 2; got 1" in errors[0]
