"""S3: Names that would break out of a folder, a table, a page or a picture, and none that does."""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from advbench.cli import main
from advbench.report.output import file_name

NAMES = (
    "../../outside",
    "/absolute",
    "~/home",
    "..",
    "a\\b:c*d?",
    "CON",
    "two\nlines\r\tand tabs",
    "<script>alert(1)</script>",
    "a|b`c`[d](javascript:e)",
    "=1+1",
    "+1",
    "-1",
    "@x",
    "ünïcödé 日本 😀",
    "\u202eright to left",
    "\x1b[31mred\x07",
    "$\\frac{$",
    "%s {0} {name}",
    "'\"",
    " ",
    "x" * 300,
)
RESERVED = {"con", "prn", "aux", "nul", *(f"{a}{n}" for a in ("com", "lpt") for n in range(10))}


def is_plain(name: str) -> bool:
    """Whether every file system takes a name, with room for what writers add to it."""
    return (
        re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*", name) is not None
        and name.partition(".")[0] not in RESERVED
        and len(name) <= 220
    )


def quoted(text: str) -> str:
    """A text as TOML has it."""
    return json.dumps(text, ensure_ascii=False)


@given(st.lists(st.one_of(st.text(), st.sampled_from(NAMES)), min_size=1, max_size=3))
def test_s3_files_have_plain_names(parts: list[str]) -> None:
    name = file_name(parts)
    assert is_plain(name), name
    again = file_name(parts, {name})
    assert is_plain(again)
    assert again != name


def test_s3_long_names_stay_apart() -> None:
    long = "x" * 300
    assert file_name([f"{long}a"]) != file_name([f"{long}b"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run in, outside of whose ``run`` nothing may appear."""
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(inside)
    yield inside
    strays = [path for path in tmp_path.rglob("*") if path.is_file()]
    strays = [path for path in strays if inside / "run" not in path.parents]
    strays = [path for path in strays if ".cache" not in path.parts]  # matplotlib's, of fonts
    allowed = (".toml", ".py", ".pyc", ".jpg")
    assert [path for path in strays if path.suffix not in allowed] == []


def check_files(folder: Path) -> None:
    """Every file has a plain name; every table is one, without a formula."""
    for path in folder.rglob("*"):
        assert path.name == ".lock" or is_plain(path.name), path.name
    tables = list(folder.rglob("*.csv"))
    assert tables
    for path in tables:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        assert len({len(line) for line in lines}) <= 1, path
        texts = [cell for line in lines for cell in line if not _is_number(cell)]
        assert not [text for text in texts if text[:1] in tuple("=+-@\t\r\n")], path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_markdown(text: str) -> None:
    """Tables keep their columns, and nothing in them is a tag, a link or code."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines
    for line in lines:
        columns = len(re.findall(r"(?<!\\)\|", lines[0]))
        assert len(re.findall(r"(?<!\\)\|", line)) == columns, line
    for line in text.splitlines():
        assert "<" not in line
        assert not re.search(r"(?<!\\)`|(?<!\\)\[[^\]]*\]\(", line), line


def test_s3_labels_of_models_and_attacks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '[data]\nname = "digits"\nsamples = 6\n'
    for name in NAMES:
        text += f'[[model]]\nname = "zoo:digits/linear"\nlabel = {quoted(name)}\n'
    text += '[[attack]]\nname = "fgsm"\neps = 0.1\n'
    for name in NAMES[::4]:
        text += (
            f'[[attack]]\nname = "random_search"\nsteps = 2\neps = 0.1\nlabel = {quoted(name)}\n'
        )
    (place / "bench.toml").write_text(text, encoding="utf-8")
    command = ["run", "bench.toml", "--out", "run", "--quiet"]
    for style in ("md", "table", "csv", "json"):
        assert main([*command, "--format", style]) == 0
        out = capsys.readouterr().out
        if style == "md":
            check_markdown(out)
        elif style == "table":
            assert len(out.splitlines()) == 1 + len(NAMES) * (2 + len(NAMES[::4]))
        elif style == "json":
            assert {row["model"] for row in json.loads(out)["rows"]} == set(NAMES)
    check_files(place / "run")


_POSES = """\
[data]
name = "folder:pictures"
[[model]]
name = "python:named_by_classes:make"
[[attack]]
name = "random_noise"
perturbation = { name = "affine", shift = 1 }
steps = 1
eps = 1
[[attack]]
name = "pgd"
perturbation = { name = "affine", shift = 1 }
steps = 2
eps = 1
[[attack]]
name = "sticker"
samples = 2
images = 8
eps = 0.3
targets = 1
attack = { name = "mi_fgsm", steps = 1, perturbation = "patch" }
"""
_MODEL = """\
from torch import nn
def make():
    model = nn.Linear(3 * 8 * 8, CLASSES)
    nn.init.constant_(model.weight, 0.01)
    nn.init.zeros_(model.bias)
    return nn.Sequential(nn.Flatten(), model)
"""


@pytest.mark.slow
def test_s3_folders_of_classes(place: Path) -> None:
    classes = [name for name in NAMES if "/" not in name and name != ".." and len(name) < 200]
    chance = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in [*classes, os.fsdecode(b"not utf-8: \xff")]:
            folder = place / "pictures" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "0.jpg")
    (place / "named_by_classes.py").write_text(_MODEL.replace("CLASSES", str(len(classes) + 1)))
    (place / "bench.toml").write_text(_POSES)
    assert main(["run", "bench.toml", "--out", "run", "--quiet"]) == 0
    assert (place / "run" / "poses" / "labels.csv").exists()
    assert list((place / "run" / "stickers").glob("*.json"))
    check_files(place / "run")


_STUDY = """\
[study]
seeds = 0
baseline = "plain"
test_samples = 10
[train]
epochs = 4
batch_size = 32
[data]
name = "digits"
samples = 200
[[attack]]
name = "fgsm"
eps = 0.1
[[remedy]]
label = "plain"
defenses = []
"""


@pytest.mark.slow
def test_s3_networks_and_remedies(place: Path) -> None:
    names = [name for name in NAMES if "/" not in name]
    text = _STUDY
    for name in names:
        text += f'[[network]]\nlabel = {quoted(name)}\narchitecture = "linear"\n'
    text += f"[[remedy]]\nlabel = {quoted(NAMES[7].replace('/', ''))}\n"
    text += f'networks = [{quoted(names[0])}]\ndefenses = ["weight_decay"]\n'
    (place / "study.toml").write_text(text, encoding="utf-8")
    assert main(["study", "study.toml", "--out", "run", "--jobs", "1", "--quiet"]) == 0
    check_files(place / "run")
    check_markdown((place / "run" / "study.md").read_text(encoding="utf-8"))
    assert len(list((place / "run" / "nets").glob("*.safetensors"))) == len(names) + 1
