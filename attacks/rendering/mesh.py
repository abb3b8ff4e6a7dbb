"""A mesh: triangles with colours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

_SAME = 1e-6  # share of the diagonal within which two vertices lie at one place


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with colours, in the object's own frame; y is up.

    Fields:
        vertices: (V, 3), in the unit of the scenes.
        faces: (F, 3) int64, numbers of vertices, counter-clockwise when seen from outside.
        colours: in [0, 1], either (F, C), one of a face, or (F, 3, C), one of each corner.
        parts: (F,) int64, the part that a face belongs to; None for a single one. Faces of
            different parts are never neighbours, even where they touch.

    Raises:
        TypeError, ValueError: a shape, a number or a range is not what it has to be.

    """

    vertices: Tensor
    faces: Tensor
    colours: Tensor
    parts: Tensor | None = None

    def __post_init__(self) -> None:
        _check_vertices(self.vertices)
        _check_faces(self.faces, len(self.vertices))
        _check_colours(self.colours, len(self.faces))
        if self.parts is not None:
            _check_parts(self.parts, len(self.faces))

    @cached_property
    def neighbours(self) -> Tensor:
        """The face across each edge, (F, 3) int64; edge i leads from corner i to corner i + 1.

        It is -1 where no other face of the part has the edge, and where more than one has. Vertices
        at the same place, to a millionth of the diagonal, count as one.
        """
        count = len(self.faces)
        ends = self._places()
        first, second = ends.flatten(), ends.roll(-1, 1).flatten()
        edges = torch.minimum(first, second) * (3 * count) + torch.maximum(first, second)
        _, edge, sharers = edges.unique(return_inverse=True, return_counts=True)
        start = (sharers.cumsum(0) - sharers)[sharers == 2]
        order = edge.argsort(stable=True)
        one, other = order[start], order[start + 1]
        across = torch.full_like(edge, -1)
        across[one], across[other] = other // 3, one // 3
        across = across.view(count, 3)
        own = torch.arange(count, device=across.device).unsqueeze(1)
        return across.masked_fill(across == own, -1)

    @property
    def open_edges(self) -> int:
        """Sides of faces that have no single neighbour; a closed mesh has none."""
        return int((self.neighbours < 0).sum())

    def fitted(self) -> "Mesh":
        """Return the mesh centred on its bounding box, with a box diagonal of 2.

        Raises ValueError where all faces lie in one point.
        """
        low, high = self._box()
        diagonal = torch.linalg.vector_norm(high - low)
        if not diagonal > 0:
            raise ValueError(f"the mesh is a single point, {low.tolist()}: it has no size to fit")
        return self._moved((self.vertices - (low + high) / 2) * (2 / diagonal))

    def stretched(self, factors: Tensor) -> "Mesh":
        """Return the mesh with each axis multiplied by one of ``factors`` (3,), all above 0."""
        if factors.shape != (3,) or not (factors.isfinite() & (factors > 0)).all():
            raise ValueError(f"factors must be three numbers above 0; got {factors.tolist()}")
        return self._moved(self.vertices * factors)

    def painted(self, colours: Tensor) -> "Mesh":
        """Return the mesh with other ``colours``, (F, C) or (F, 3, C)."""
        return self._sharing(replace(self, colours=colours))

    def corner_colours(self) -> Tensor:
        """Return the colours of the corners, (F, 3, C), whichever way they are given."""
        if self.colours.dim() == 3:
            return self.colours
        return self.colours.unsqueeze(1).expand(-1, 3, -1)

    def _moved(self, vertices: Tensor) -> "Mesh":
        return self._sharing(replace(self, vertices=vertices))

    def _sharing(self, made: "Mesh") -> "Mesh":
        """Give the neighbours to a mesh of the same faces, so that they are found only once."""
        made.__dict__["neighbours"] = self.neighbours
        return made

    def _box(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest coordinates (3,) of what the faces use."""
        used = self.vertices[self.faces.flatten()]
        return used.amin(0), used.amax(0)

    def _places(self) -> Tensor:
        """Return numbers (F, 3) of the corners' places, the same where they are the same."""
        low, high = self._box()
        cell = _SAME * torch.linalg.vector_norm(high - low)
        ordered, order = self.vertices[self.faces.flatten()].sort(0)
        # Rounding to a grid would part two close values wherever a border lies between them.
        steps = torch.cat([torch.zeros_like(order[:1]), (ordered.diff(dim=0) > cell).long()])
        corners = torch.zeros_like(order).scatter_(0, order, steps.cumsum(0))
        part = self.faces.new_zeros(len(self.faces)) if self.parts is None else self.parts
        keys = torch.cat([corners, part.repeat_interleave(3).unsqueeze(1)], 1)
        places: Tensor = keys.unique(dim=0, return_inverse=True)[1]
        return places.view(-1, 3)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Return the meshes as the parts of one object; parts of theirs stay apart.

    Colours of faces become colours of corners where some mesh has those. Raises ValueError for no
    mesh and for meshes of different channels.
    """
    if not meshes:
        raise ValueError("join needs at least one mesh; got none")
    channels = {mesh.colours.shape[-1] for mesh in meshes}
    if len(channels) > 1:
        raise ValueError(f"meshes must have the same channels; got {sorted(channels)}")
    cornered = any(mesh.colours.dim() == 3 for mesh in meshes)
    faces, parts, vertices, known = [], [], 0, 0
    for mesh in meshes:
        own = mesh.faces.new_zeros(len(mesh.faces)) if mesh.parts is None else mesh.parts
        own = own.unique(return_inverse=True)[1] + known
        faces.append(mesh.faces + vertices)
        parts.append(own)
        vertices, known = vertices + len(mesh.vertices), int(own.max()) + 1
    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat(faces),
        torch.cat([mesh.corner_colours() if cornered else mesh.colours for mesh in meshes]),
        torch.cat(parts),
    )


def _check_vertices(vertices: Tensor) -> None:
    _check_tensor("vertices", vertices)
    if vertices.dim() != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices must have the shape (V, 3); got {tuple(vertices.shape)}")
    if not vertices.is_floating_point():
        raise TypeError(f"vertices must be floating point; got {vertices.dtype}")
    bad = (~vertices.isfinite().all(1)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(f"vertices must be finite; vertex {row} is {vertices[row].tolist()}")


def _check_faces(faces: Tensor, vertices: int) -> None:
    _check_tensor("faces", faces)
    if faces.dim() != 2 or faces.shape[1] != 3:
        raise ValueError(
            f"faces must be triangles, of shape (F, 3); got {tuple(faces.shape)}. Cut polygons "
            "into triangles first."
        )
    if faces.dtype != torch.int64:
        raise TypeError(f"faces must be int64; got {faces.dtype}. Convert: faces.long()")
    if not len(faces):
        raise ValueError("a mesh needs at least one face; got none")
    bad = ((faces < 0) | (faces >= vertices)).any(1).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"face {row} names the vertices {faces[row].tolist()}, but there are {vertices} "
            f"(0 to {vertices - 1})"
        )


def _check_colours(colours: Tensor, faces: int) -> None:
    _check_tensor("colours", colours)
    shape = tuple(colours.shape)
    per_face, per_corner = len(shape) == 2, len(shape) == 3 and shape[1] == 3
    if not (per_face or per_corner) or shape[0] != faces or not shape[-1]:
        raise ValueError(
            f"colours must have the shape ({faces}, C), one of a face, or ({faces}, 3, C), one of "
            f"each corner; got {shape}"
        )
    if not colours.is_floating_point():
        raise TypeError(
            f"colours must be floating point in [0, 1]; got {colours.dtype}. Convert bytes: "
            "colours.float() / 255"
        )
    flat = colours.flatten(1)
    bad = (~((flat >= 0) & (flat <= 1)).all(1)).nonzero()  # NaN is outside as well
    if len(bad):
        row = int(bad[0])
        raise ValueError(f"colours must lie in [0, 1]; face {row} has {colours[row].tolist()}")


def _check_parts(parts: Tensor, faces: int) -> None:
    _check_tensor("parts", parts)
    if parts.shape != (faces,) or parts.dtype != torch.int64:
        raise ValueError(
            f"parts must be {faces} int64 numbers, one of a face; got {tuple(parts.shape)} of "
            f"{parts.dtype}"
        )


def _check_tensor(name: str, values: object) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(values).__name__}")
