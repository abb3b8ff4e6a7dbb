"""Meshes read from files: Wavefront OBJ by an own small reader, other formats through trimesh.

Source: Wavefront Technologies, Advanced Visualizer manual, appendix B1, "Object files (.obj)", and
the material library (.mtl) format that it refers to.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from advbench.attacks.rendering.mesh import Mesh

_log = logging.getLogger("advbench.data")

FORMATS = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
"""Suffixes of files that are known to be meshes; all but the first need trimesh."""

_GREY = (0.7, 0.7, 0.7)
_NO_COLOUR = (math.nan,) * 3
_LARGEST = torch.finfo(torch.float32).max
_CORNER = re.compile(r"([+-]?\d+)(/[+-]?\d*){0,2}")
_NAMING = ("mtllib", "usemtl", "newmtl")
_SEEN = ("map_Kd", "map_d", "surf")  # ignored statements that change how an object looks
_LISTED = 12  # kinds of ignored statements that are named

Colour = tuple[float, float, float]


def read_mesh(path: Path) -> Mesh:
    """Read a mesh from a file: OBJ as `read_obj` does, any other format through trimesh.

    The mesh is centred on its bounding box, whose diagonal is 2. It has 3 channels: colours of
    faces or corners where the file has some, else grey 0.7. Open edges are warned of in the log.

    Raises FileNotFoundError; ImportError where the format needs trimesh and it is not installed;
    ValueError, which begins with the path, for a file that cannot be read or holds no faces.
    """
    if path.suffix.lower() == ".obj":
        return read_obj(path)
    return _finished(path, _read_with_trimesh(path))


def read_obj(path: Path) -> Mesh:
    """Read a Wavefront OBJ file: vertices, faces, their colours.

    Understood are `v` (with or without a colour), `f` (polygons are cut into a fan around their
    first corner, which suits convex ones), `mtllib` and `usemtl` with the diffuse colour `Kd`. All
    else is ignored, with one note in the log. A vertex with a colour has it on all its faces; other
    corners have the colour of the face's material, else grey 0.7. There are always 3 channels.

    The mesh is centred on its bounding box, whose diagonal is 2. Open edges, a missing material
    file and an unknown material are warned of in the log.

    Raises FileNotFoundError, and ValueError "path:line: what was given, what was expected".
    """
    model = _Model(path)
    for statement in _statements(path):
        model.take(statement)
    mesh = model.mesh()
    _note_ignored(path, model.ignored)
    return _finished(path, mesh)


@dataclass(frozen=True)
class _Statement:
    """A keyword and its words, and where they are."""

    path: Path
    line: int
    keyword: str
    rest: str

    def words(self) -> list[str]:
        return self.rest.split()

    def numbers(self, expected: str) -> list[float]:
        """The words as finite numbers."""
        try:
            values = [float(word) for word in self.words()]
        except ValueError:
            self.refuse(expected)
        if not all(abs(value) <= _LARGEST for value in values):
            self.refuse(f"{expected}, all of them finite")
        return values

    def colour(self, values: list[float], expected: str) -> Colour:
        """Three of the numbers as a colour."""
        if not all(0 <= value <= 1 for value in values):
            hint = " (divide by 255)" if all(0 <= value <= 255 for value in values) else ""
            self.refuse(f"{expected} with colours in [0, 1]{hint}")
        red, green, blue = values
        return red, green, blue

    def refuse(self, expected: str) -> NoReturn:
        given = f"{self.keyword} {self.rest}".strip()
        shown = given if len(given) <= 60 else f"{given[:57]}..."
        raise ValueError(f"{self.path}:{self.line}: got '{shown}', expected {expected}")


def _statements(path: Path) -> Iterator[_Statement]:
    """The statements of a file, without comments, with continued lines joined."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    start, continued = 0, ""
    # A last empty line ends what a backslash on the last line continues.
    for number, line in enumerate([*text.split("\n"), ""], 1):
        code = _without_comment(line).rstrip()
        start = start if continued else number
        if code.endswith("\\"):
            continued += f"{code[:-1]} "
            continue
        keyword, *rest = (continued + code).split(maxsplit=1)[:2] or [""]
        continued = ""
        if keyword:
            yield _Statement(path, start, keyword, rest[0] if rest else "")


def _without_comment(line: str) -> str:
    """The line up to its comment; names may hold a '#'."""
    return line if line.lstrip().startswith(_NAMING) else line.partition("#")[0]


@dataclass
class _Model:
    """What has been read of an OBJ file so far."""

    path: Path
    points: list[list[float]] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    triangles: list[tuple[int, int, int]] = field(default_factory=list)
    materials: list[str | None] = field(default_factory=list)  # one of a triangle
    material: str | None = None
    library: dict[str, Colour] = field(default_factory=dict)
    last: _Statement | None = None  # the face that names the highest vertex
    highest: int = -1
    ignored: Counter[str] = field(default_factory=Counter)

    def take(self, statement: _Statement) -> None:
        """Add a statement."""
        match statement.keyword:
            case "v":
                self._take_vertex(statement)
            case "f":
                self._take_face(statement)
            case "usemtl":
                self.material = statement.rest.strip()
            case "mtllib":
                for library in _library_files(statement):
                    self.library |= _read_materials(library, self.ignored)
            case keyword:
                self.ignored[keyword] += 1

    def mesh(self) -> Mesh:
        """All that was read as a mesh, in double precision."""
        if not self.triangles:
            raise ValueError(
                f"{self.path}: got no faces and {len(self.points)} vertices, expected a Wavefront "
                "OBJ file with 'v' and 'f' lines"
            )
        if self.last is not None and self.highest >= len(self.points):
            self.last.refuse(f"vertices up to {len(self.points)}, as many as there are")
        faces = torch.tensor(self.triangles)
        points = torch.tensor(self.points, dtype=torch.float64)
        return Mesh(points, faces, self._face_colours(faces))

    def _take_vertex(self, statement: _Statement) -> None:
        expected = "'v x y z', 'v x y z w' or 'v x y z r g b'"
        values = statement.numbers(expected)
        if len(values) not in (3, 4, 6):
            statement.refuse(expected)
        self.points.append(values[:3])
        coloured = len(values) == 6
        self.colours.append(statement.colour(values[3:], expected) if coloured else _NO_COLOUR)

    def _take_face(self, statement: _Statement) -> None:
        corners = [self._corner(statement, word) for word in statement.words()]
        if len(corners) < 3:
            statement.refuse("at least three corners")
        if max(corners) > self.highest:
            self.last, self.highest = statement, max(corners)
        fan = [(corners[0], b, c) for b, c in pairwise(corners[1:])]
        self.triangles += fan
        self.materials += [self.material] * len(fan)

    def _corner(self, statement: _Statement, word: str) -> int:
        """The place of the vertex that a corner names; one ahead is looked at in the end."""
        found = _CORNER.fullmatch(word)
        if not found:
            statement.refuse("corners like 1, 1/2, 1//3 or 1/2/3")
        number = int(found[1])
        if number == 0 or number < -len(self.points):
            statement.refuse(
                f"numbers of vertices from 1, or from -1 back to -{len(self.points)}, "
                "the first one so far"
            )
        return number - 1 if number > 0 else len(self.points) + number

    def _face_colours(self, faces: Tensor) -> Tensor:
        """Colours (F, 3) of the materials, or (F, 3, 3) where vertices have their own."""
        unknown = set(filter(None, self.materials)) - set(self.library)
        if unknown:
            names = ", ".join(sorted(unknown)[:_LISTED])
            _log.warning("%s: no colour known of %s; grey instead", self.path, names)
        of_face = torch.tensor([self.library.get(name or "", _GREY) for name in self.materials])
        of_corner = torch.tensor(self.colours)[faces]
        missing = of_corner.isnan()
        if missing.all():
            return of_face
        return torch.where(missing, of_face.unsqueeze(1), of_corner)


def _library_files(statement: _Statement) -> list[Path]:
    """The material files that there are: several, or one with spaces in its name."""
    folder = statement.path.parent
    whole = statement.rest.strip().replace("\\", "/")
    names = [whole] if (folder / whole).is_file() else whole.split()
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            _log.warning(
                "%s:%d: no material file '%s'; its materials are grey",
                statement.path,
                statement.line,
                file,
            )
    return [file for file in files if file.is_file()]


def _read_materials(path: Path, ignored: Counter[str]) -> dict[str, Colour]:
    """The diffuse colours of a material file, by material; grey where there is none."""
    library: dict[str, Colour] = {}
    name = None
    for statement in _statements(path):
        if statement.keyword == "newmtl":
            name = statement.rest.strip()
            library[name] = _GREY
        elif statement.keyword != "Kd":
            ignored[statement.keyword] += 1
        elif name is None:
            statement.refuse("'newmtl' before it")
        else:
            library[name] = _diffuse(statement)
    return library


def _diffuse(statement: _Statement) -> Colour:
    expected = "'Kd r g b' or 'Kd r'"
    values = statement.numbers(expected)
    if len(values) not in (1, 3):
        statement.refuse(expected)
    return statement.colour(values * (3 // len(values)), expected)


def _note_ignored(path: Path, ignored: Counter[str]) -> None:
    """Say what was ignored; louder where the object looks otherwise without it."""
    if not ignored:
        return
    listed = ", ".join(f"{name} ({count})" for name, count in ignored.most_common(_LISTED))
    more = f" and {len(ignored) - _LISTED} more kinds" if len(ignored) > _LISTED else ""
    level = logging.INFO if ignored.keys().isdisjoint(_SEEN) else logging.WARNING
    _log.log(level, "%s: ignored %s%s", path, listed, more)


def _finished(path: Path, mesh: Mesh) -> Mesh:
    """The mesh fitted, in single precision; a warning where it is open."""
    try:
        fitted = mesh.fitted()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    made = replace(fitted, vertices=fitted.vertices.float())
    if made.open_edges:
        _log.warning(
            "%s: %d edges are open; back faces are not drawn, so parts of the object may be "
            "missing: two_sided=True draws them",
            path,
            made.open_edges,
        )
    return made


def _read_with_trimesh(path: Path) -> Mesh:
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            f"{path}: OBJ files are read without help, other formats need trimesh: "
            'pip install "advbench[meshes]"'
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        loaded = trimesh.load_mesh(path)
        faces = torch.tensor(loaded.faces, dtype=torch.int64).view(-1, 3)
        colours = _visible_colours(loaded.visual, faces)
        return Mesh(torch.tensor(loaded.vertices, dtype=torch.float64), faces, colours)
    # Its readers raise whatever they run into.
    except Exception as error:
        raise ValueError(f"{path}: trimesh makes no mesh of it: {error}") from error


def _visible_colours(visual: Any, faces: Tensor) -> Tensor:
    """Colours (F, 3) of the faces or (F, 3, 3) of the corners; grey where there are none."""
    if visual.kind == "texture":
        visual = visual.to_color()
    if visual.kind is None:
        return torch.tensor(_GREY).repeat(len(faces), 1)
    if visual.kind == "face":
        return torch.tensor(visual.face_colors)[:, :3] / 255
    colours = torch.tensor(visual.vertex_colors).view(-1, 4)[:, :3] / 255
    return colours[faces] if len(colours) > 1 else colours.repeat(len(faces), 1)
