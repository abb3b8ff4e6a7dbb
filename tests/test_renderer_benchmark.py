"""The benchmark of the rasterizer writes what it measures."""

import csv
import io
from pathlib import Path

from PIL import Image

from advbench.benchmarks.renderer import run, sheet
from advbench.data.objects import CLASSES


def test_the_tables_hold_what_was_measured(tmp_path: Path) -> None:
    lines = run(tmp_path, {"lamp": CLASSES["lamp"]()}, repetitions=1, compared=2)
    with (tmp_path / "renderer.csv").open() as file:
        stored = list(csv.DictReader(file))
    assert [(line["mesh"], int(line["size"])) for line in stored] == [
        ("torus", 32),
        ("torus", 64),
        ("torus", 128),
        ("lamp", 64),
    ]
    page = (tmp_path / "renderer.md").read_text()
    for line in lines:
        assert line.forward > 0
        assert line.gradient > 0
        assert f"| {line.mesh} ({line.faces}) | {line.size} | 32 | {line.forward:.0f} (" in page
        assert (line.cosine is None) == (line.size == 128)
    assert lines[-1].cosine is not None
    assert f"{lines[-1].cosine:.3f}" in page


def test_the_sheet_shows_every_object() -> None:
    objects = {name: build() for name, build in CLASSES.items()}
    picture = sheet(objects, size=32)
    image = Image.open(io.BytesIO(picture)).convert("L")
    width, height = image.width // 5, image.height // 2
    for number in range(10):
        left, top = number % 5 * width, number // 5 * height
        middle = image.crop((left + 30, top + 60, left + width - 30, top + height - 30))
        assert len(set(middle.tobytes())) > 10, number
    assert sheet(objects, size=32) == picture
