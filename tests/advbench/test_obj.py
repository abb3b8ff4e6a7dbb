"""Reading meshes from files."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from advbench.attacks.rendering.mesh import Mesh
from advbench.data.obj import FORMATS, read_mesh, read_obj

CORNERS = """
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
"""
QUADS = ["4 3 2 1", "5 6 7 8", "1 2 6 5", "3 4 8 7", "2 3 7 6", "4 1 5 8"]
CUBE = CORNERS + "".join(f"f {quad}\n" for quad in QUADS)
HALF = 1 / 3**0.5  # half the side of a cube whose diagonal is 2
GREY = (0.7, 0.7, 0.7)
RED = (1.0, 0.0, 0.0)
BLUE = (0.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "advbench")


def written(folder: Path, text: str, name: str = "a.obj") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> Mesh:
    return read_obj(written(folder, text))


def check_cube(mesh: Mesh, colour: tuple[float, ...] = GREY) -> None:
    """A closed cube of one colour, with a diagonal of 2 and its faces outward."""
    assert mesh.faces.shape == (12, 3)
    assert mesh.open_edges == 0
    assert mesh.vertices.dtype == mesh.colours.dtype == torch.float32
    corners = mesh.vertices[mesh.faces]
    assert torch.allclose(corners.abs(), torch.tensor(HALF), atol=1e-6)
    assert torch.linalg.det(corners).sum() / 6 == pytest.approx((2 * HALF) ** 3)
    assert torch.allclose(mesh.corner_colours(), torch.tensor(colour).expand(12, 3, 3))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_cube_of_quads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mesh = read(tmp_path, CUBE)
    check_cube(mesh)
    assert mesh.faces[:2].tolist() == [[3, 2, 1], [3, 1, 0]]
    assert mesh.colours.shape == (12, 3)
    assert not caplog.records


def test_planted_faults_of_a_cube_are_seen(tmp_path: Path) -> None:
    for changes in (
        {"f 4 3 2 1": "f 4 3 2"},
        {"f 4 3 2 1": "f 1 2 3 4"},
        {"v 1 1 1\n": "v 1 1 2\n"},
        {f"f {quad}": f"f {' '.join(quad.split()[::-1])}" for quad in QUADS},
    ):
        with pytest.raises(AssertionError):
            check_cube(read(tmp_path, replaced(CUBE, changes)))
    with pytest.raises(AssertionError):
        check_cube(read(tmp_path, CUBE), RED)


@pytest.mark.parametrize(
    "changes",
    [
        {"f 4 3 2 1": "f -5 -6 -7 -8"},
        {"f 4 3 2 1": "f 4/1 3/2 2/3 1/4"},
        {"f 4 3 2 1": "f 4//1 3//1 2//1 1//1"},
        {"f 4 3 2 1": "f 4/1/1 3/-2/1 2/3/-1 -8/1/1"},
        {"f 4 3 2 1": "f 4/ 3/ 2/ 1/"},
        {"f 4 3 2 1": "f 4 3 2\nf 4 2 1"},
        {"f 4 3 2 1": "f 4 3 \\\n 2 \\\n\t1"},
        {"f 4 3 2 1": "\t f  4 3\t2 1   # the back, \\"},
        {"\n": "\r\n"},
        {"\n": "\r"},
        {"v 1 1 1\n": "v 1 1 1 1.0\n"},
        {"v 1 1 1\n": "v +1.0 1e0 .1E+1\n"},
        {"\nv -1 -1 -1\n": "\n# v 5 5 5\n\n   \nv -1 -1 -1\n"},
        {CORNERS: "\ufeff" + CORNERS},
        {CORNERS: CORNERS + "v 70 80 90\n"},
        {CORNERS: CORNERS.replace("1", "1000")},
        {CUBE: CUBE.replace(CORNERS, "") + CORNERS},
        {CUBE: CUBE[:-1] + "\\"},
    ],
    ids=lambda changes: repr(next(iter(changes.values())))[:30],
)
def test_other_ways_to_write_a_cube(tmp_path: Path, changes: dict[str, str]) -> None:
    check_cube(read(tmp_path, replaced(CUBE, changes)))


def test_polygons_become_fans(tmp_path: Path) -> None:
    mesh = read(tmp_path, "v 0 0 0\nv 2 0 0\nv 3 1 0\nv 1 2 0\nv 0 1 0\nf 1 2 3 4 5\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_negative_numbers_count_from_where_they_stand(tmp_path: Path) -> None:
    triangle = "v {0} 0 0\nv {0} 1 0\nv {0} 0 1\nf -3 -2 -1\n"
    mesh = read(tmp_path, triangle.format(0) + triangle.format(1))
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_small_objects_far_away_keep_their_shape(tmp_path: Path) -> None:
    far = CORNERS.replace("v ", "v 500000").replace("v 500000-1", "v 499999").replace("01 ", "1 ")
    check_cube(read(tmp_path, CUBE.replace(CORNERS, far)))


def test_colours_of_vertices(tmp_path: Path) -> None:
    coloured = replaced(CUBE, {"v 1 1 1\n": "v 1 1 1 1 0.5 0\n"})
    mesh = read(tmp_path, coloured)
    assert mesh.colours.shape == (12, 3, 3)
    at_corner = mesh.faces == 6
    assert at_corner.sum() > 3
    assert torch.equal(mesh.colours[at_corner].unique(dim=0), torch.tensor([[1, 0.5, 0]]))
    assert torch.equal(mesh.colours[~at_corner].unique(dim=0), torch.tensor([GREY]))


def test_colours_of_materials(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(
        tmp_path,
        "newmtl dark red #1\nKd 0.5 0 0\n\nnewmtl plain\n\nnewmtl bright # 2\nKd 0.9\n",
        "the colours.mtl",
    )
    text = "mtllib the colours.mtl\n" + replaced(
        CUBE,
        {
            "f 5": "usemtl dark red #1\nf 5",
            "f 1": "usemtl plain\nf 1",
            "f 3": "usemtl bright # 2\nf 3",
        },
    )
    mesh = read(tmp_path, text)
    assert mesh.colours.shape == (12, 3)
    expected = [GREY, (0.5, 0, 0), GREY, *[(0.9,) * 3] * 3]
    assert torch.equal(mesh.colours[::2], torch.tensor(expected))
    assert torch.equal(mesh.colours[1::2], torch.tensor(expected))
    assert not caplog.records


def test_vertices_without_a_colour_have_that_of_the_material(tmp_path: Path) -> None:
    written(tmp_path, "newmtl red\nKd 1 0 0\n", "a.mtl")
    text = "mtllib a.mtl\nusemtl red\n" + replaced(CUBE, {"v 1 1 1\n": "v 1 1 1 0 1 0\n"})
    mesh = read(tmp_path, text)
    at_corner = mesh.faces == 6
    assert torch.equal(mesh.colours[at_corner].unique(dim=0), torch.tensor([[0.0, 1, 0]]))
    assert torch.equal(mesh.colours[~at_corner].unique(dim=0), torch.tensor([[1.0, 0, 0]]))


@pytest.mark.parametrize("place", ["mtllib b.mtl a.mtl\n", "mtllib b.mtl\nmtllib sub\\a.mtl\n"])
def test_several_material_files_wherever_they_are_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        written(folder, "newmtl red\nKd 1 0 0\n", "a.mtl")
    written(tmp_path, "newmtl blue\nKd 0 0 1\n", "b.mtl")
    check_cube(read(tmp_path, place + "usemtl red\n" + CUBE), RED)
    check_cube(read(tmp_path, "usemtl blue\n" + CUBE + place), BLUE)


def test_a_missing_material_file_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_cube(read(tmp_path, "\nmtllib gone.mtl\nusemtl red\n" + CUBE))
    missing, unknown = warnings(caplog)
    assert missing == (
        f"{tmp_path / 'a.obj'}:2: no material file '{tmp_path / 'gone.mtl'}'; "
        "its materials are grey"
    )
    assert unknown == f"{tmp_path / 'a.obj'}: no colour known of red; grey instead"


def test_what_is_ignored_is_noted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "newmtl red\nKd 1 0 0\nKs 1 1 1\nNs 10\n", "a.mtl")
    noise = "mtllib a.mtl\nusemtl red\no cube\nvt 0 0\nvt 1 1\nvn 0 0 1\ns off\ng\n"
    check_cube(read(tmp_path, noise + CUBE), RED)
    (note,) = caplog.records
    assert note.levelno == logging.INFO
    assert note.getMessage() == (
        f"{tmp_path / 'a.obj'}: ignored vt (2), Ks (1), Ns (1), o (1), vn (1), s (1), g (1)"
    )


def test_ignored_textures_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "newmtl red\nKd 1 1 1\nmap_Kd wood.png\n", "a.mtl")
    read(tmp_path, "mtllib a.mtl\nusemtl red\n" + CUBE)
    assert warnings(caplog) == [f"{tmp_path / 'a.obj'}: ignored map_Kd (1)"]


def test_a_long_note_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, "".join(f"x{number} 1\n" for number in range(20)) + CUBE)
    (note,) = caplog.records
    assert note.getMessage().endswith("x11 (1) and 8 more kinds")


def test_open_edges_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, replaced(CUBE, {"f 4 3 2 1\n": ""})).open_edges == 4
    (warning,) = warnings(caplog)
    assert "a.obj: 4 edges are open; back faces are not drawn" in warning
    assert "two_sided=True" in warning


@pytest.mark.parametrize(
    ("line", "given", "expected"),
    [
        ("v 1 2", "v 1 2", "'v x y z', 'v x y z w' or 'v x y z r g b'"),
        ("v 1 2 3 4 5", "v 1 2 3 4 5", "'v x y z', 'v x y z w' or"),
        ("v", "v", "'v x y z'"),
        ("v 1 2 three", "v 1 2 three", "'v x y z'"),
        ("v nan 0 0", "v nan 0 0", "all of them finite"),
        ("v 0 -inf 0", "v 0 -inf 0", "all of them finite"),
        ("v 0 0 1e300", "v 0 0 1e300", "all of them finite"),
        ("v 0 0 0 1 1 2", "v 0 0 0 1 1 2", "colours in [0, 1] (divide by 255)"),
        ("v 0 0 0 1 1 -1", "v 0 0 0 1 1 -1", "with colours in [0, 1]"),
        ("f", "f", "at least three corners"),
        ("f 1 2", "f 1 2", "at least three corners"),
        ("f 1 2 \\\n 9", "f 1 2   9", "vertices up to 8, as many as there are"),
        ("f 1 2 0", "f 1 2 0", "numbers of vertices from 1, or from -1 back to -8"),
        ("f 1 2 -9", "f 1 2 -9", "numbers of vertices from 1, or from -1 back to -8"),
        ("f 1 2 x", "f 1 2 x", "corners like 1, 1/2, 1//3 or 1/2/3"),
        ("f 1 2 3.0", "f 1 2 3.0", "corners like"),
        ("f 1 2 1/2/3/4", "f 1 2 1/2/3/4", "corners like"),
        ("f 1 2 /3", "f 1 2 /3", "corners like"),
        (f"v {'1 ' * 50}", f"v {'1 ' * 27}1...", "'v x y z'"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: str, given: str, expected: str) -> None:
    text = f"{CORNERS}# next\n{line}\nf 1 2 3\n"
    with pytest.raises(ValueError, match="expected") as raised:
        read(tmp_path, text)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'a.obj'}:11: got '{given}', expected "), message
    assert expected in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Kd 1 0 0", ":1: got 'Kd 1 0 0', expected 'newmtl' before it"),
        ("newmtl a\nKd 1 0", ":2: got 'Kd 1 0', expected 'Kd r g b' or 'Kd r'"),
        ("newmtl a\nKd x", ":2: got 'Kd x', expected 'Kd r g b' or 'Kd r'"),
        ("newmtl a\nKd nan 0 0", ":2: got 'Kd nan 0 0', expected .* finite"),
        ("newmtl a\nKd 1 0 200", r":2: got 'Kd 1 0 200', .* colours in \[0, 1\] \(divide by 255\)"),
    ],
)
def test_errors_of_material_files_name_theirs(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, text, "a.mtl")
    with pytest.raises(ValueError, match=r"a\.mtl" + message):
        read(tmp_path, "mtllib a.mtl\n" + CUBE)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no faces and 0 vertices"),
        (b"# nothing\n", "no faces and 0 vertices"),
        (CORNERS.encode(), "no faces and 8 vertices"),
        (b"<!DOCTYPE html>\n<html></html>", "no faces and 0 vertices"),
        (bytes(range(256)) * 40, "no faces and 0 vertices"),
        (b"v 1 1 1\nf 1 1 1\n", "single point"),
    ],
    ids=["empty", "comment", "points", "page", "binary", "point"],
)
def test_files_that_hold_no_object(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.obj"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=found) as raised:
        read_obj(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["gone.obj", "gone.ply"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    if name.endswith("ply"):
        pytest.importorskip("trimesh", reason="needs the extra 'meshes'")
    with pytest.raises(FileNotFoundError, match=name):
        read_mesh(tmp_path / name)


def test_obj_files_need_no_trimesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    check_cube(read_mesh(written(tmp_path, CUBE, "a.OBJ")))
    with pytest.raises(ImportError, match=r'pip install "advbench\[meshes\]"'):
        read_mesh(tmp_path / "a.stl")


@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_other_formats_through_trimesh(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'meshes'")
    box = trimesh.creation.box((3, 3, 3)).apply_translation((5, 5, 5))
    content = box.export(file_type=suffix[1:])
    files = content if isinstance(content, dict) else {f"model{suffix}": content}
    for name, part in files.items():
        (tmp_path / name).write_bytes(part.encode() if isinstance(part, str) else part)
    check_cube(read_mesh(tmp_path / f"model{suffix}"))
    assert not warnings(caplog)


@pytest.mark.parametrize("kind", ["face", "vertex"])
def test_colours_through_trimesh(tmp_path: Path, kind: str) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'meshes'")
    box = trimesh.creation.box((1, 1, 1))
    count = len(box.faces) if kind == "face" else len(box.vertices)
    colours = [[0, 51 * (number % 6), 255, 255] for number in range(count)]
    setattr(box.visual, f"{kind}_colors", colours)
    box.export(tmp_path / "a.ply")
    mesh = read_mesh(tmp_path / "a.ply")
    assert mesh.colours.shape == ((12, 3) if kind == "face" else (12, 3, 3))
    assert torch.equal(mesh.colours[..., 0].unique(), torch.tensor([0.0]))
    assert torch.allclose(mesh.colours[..., 1].unique(), torch.linspace(0, 1, 6))
    assert torch.equal(mesh.colours[..., 2].unique(), torch.tensor([1.0]))


def test_textures_through_trimesh(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'meshes'")
    box = trimesh.creation.box((1, 1, 1))
    red = trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 0, 255])
    box.visual = trimesh.visual.TextureVisuals(material=red)
    box.export(tmp_path / "a.glb")
    check_cube(read_mesh(tmp_path / "a.glb"), RED)


def test_open_edges_through_trimesh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'meshes'")
    box = trimesh.creation.box((1, 1, 1))
    trimesh.Trimesh(box.vertices, box.faces[1:]).export(tmp_path / "a.ply")
    assert read_mesh(tmp_path / "a.ply").open_edges == 3
    assert "a.ply: 3 edges are open" in warnings(caplog)[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.ply", b""), ("a.stl", b"no mesh"), ("a.xyz", b"1 2 3\n4 5 6\n"), ("a.what", b"?")],
)
def test_what_trimesh_cannot_read(tmp_path: Path, name: str, content: bytes) -> None:
    pytest.importorskip("trimesh", reason="needs the extra 'meshes'")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="trimesh makes no mesh of it") as raised:
        read_mesh(path)
    assert str(raised.value).startswith(f"{path}: ")
