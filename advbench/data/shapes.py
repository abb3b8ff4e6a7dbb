"""The solids that objects are built from: closed, faces counter-clockwise seen from outside.

Axes are numbered 0, 1, 2 for x, y, z; y is up. Lengths are in the unit of the scenes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from advbench.attacks.rendering.mesh import Mesh

GREY = (0.7,)
"""The colour of a solid that is given none: one channel."""

Point = tuple[float, float, float]
_ORIGIN: Point = (0.0, 0.0, 0.0)


def box(extents: Point, centre: Point = _ORIGIN, colour: Sequence[float] = GREY) -> Mesh:
    """Return a box of 12 faces, ``extents`` long along the axes.

    Raises ValueError for an extent that is not above 0.
    """
    _check_lengths("extents", *extents)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    # Corner 4i + 2j + k lies at side i of x, j of y, k of z; the two quads face down and up x.
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5]])
    sides = torch.cat([_turned_corners(quads, axis) for axis in range(3)])
    faces = torch.cat([sides[:, [0, 1, 2]], sides[:, [0, 2, 3]]])
    return _solid(corners * torch.tensor(extents), faces, centre, colour)


def cylinder(
    radius: float,
    height: float,
    sections: int,
    axis: int = 1,
    centre: Point = _ORIGIN,
    colour: Sequence[float] = GREY,
) -> Mesh:
    """Return a prism of 4 x ``sections`` faces in the cylinder, ``height`` long along ``axis``.

    Its corners lie on the cylinder. Raises ValueError for lengths not above 0, fewer than 3
    sections, or an axis other than 0, 1 and 2.
    """
    _check_lengths("radius and height", radius, height)
    ring = _ring(radius, sections)
    low, high = ring.clone(), ring.clone()
    low[:, 1], high[:, 1] = -height / 2, height / 2
    ends = torch.tensor([[0, -height / 2, 0], [0, height / 2, 0]])
    one = torch.arange(sections)
    other = one.roll(-1)
    bottom, top = torch.full_like(one, 2 * sections), torch.full_like(one, 2 * sections + 1)
    faces = [
        torch.stack([one, one + sections, other + sections], 1),
        torch.stack([one, other + sections, other], 1),
        torch.stack([bottom, one, other], 1),
        torch.stack([top, other + sections, one + sections], 1),
    ]
    vertices = torch.cat([low, high, ends])
    return _solid(_along(vertices, axis), torch.cat(faces), centre, colour)


def cone(
    radius: float,
    height: float,
    sections: int,
    axis: int = 1,
    base: Point = _ORIGIN,
    colour: Sequence[float] = GREY,
) -> Mesh:
    """Return a pyramid of 2 x ``sections`` faces in the cone whose base has its centre in ``base``.

    The apex lies ``height`` further up ``axis``. Raises ValueError for lengths not above 0, fewer
    than 3 sections, or an axis other than 0, 1 and 2.
    """
    _check_lengths("radius and height", radius, height)
    vertices = torch.cat([_ring(radius, sections), torch.tensor([[0, 0, 0], [0, height, 0]])])
    one = torch.arange(sections)
    other = one.roll(-1)
    bottom, apex = torch.full_like(one, sections), torch.full_like(one, sections + 1)
    faces = torch.cat([torch.stack([bottom, one, other], 1), torch.stack([apex, other, one], 1)])
    return _solid(_along(vertices, axis), faces, base, colour)


def sphere(
    radius: float,
    centre: Point = _ORIGIN,
    subdivisions: int = 1,
    colour: Sequence[float] = GREY,
) -> Mesh:
    """Return an icosahedron in the sphere, each face cut in four ``subdivisions`` times.

    It has 20 x 4^subdivisions faces, 80 by default; its corners lie on the sphere. Raises
    ValueError for a radius not above 0 or subdivisions that are no whole number from 0 up.
    """
    _check_lengths("radius", radius)
    if type(subdivisions) is not int or subdivisions < 0:
        raise ValueError(f"subdivisions must be a whole number from 0 up; got {subdivisions!r}")
    vertices, faces = _icosahedron()
    for _ in range(subdivisions):
        vertices, faces = _subdivided(vertices, faces)
    return _solid(vertices * radius, faces, centre, colour)


def _solid(vertices: Tensor, faces: Tensor, centre: Point, colour: Sequence[float]) -> Mesh:
    colours = torch.tensor(tuple(colour), dtype=torch.float32).repeat(len(faces), 1)
    return Mesh(vertices.float() + torch.tensor(centre, dtype=torch.float32), faces, colours)


def _turned_corners(corners: Tensor, axis: int) -> Tensor:
    """Numbers of a box's corners after the turn that leads the x axis to ``axis``."""
    bits = torch.stack([corners >> 2, corners >> 1 & 1, corners & 1], -1).roll(axis, -1)
    turned: Tensor = (bits * torch.tensor([4, 2, 1])).sum(-1)
    return turned


def _ring(radius: float, sections: int) -> Tensor:
    """Corners (sections, 3) of a polygon around the y axis, in the sense that turns x to z."""
    if type(sections) is not int or sections < 3:
        raise ValueError(f"sections must be a whole number of at least 3; got {sections!r}")
    angle = torch.arange(sections, dtype=torch.float64) * (2 * math.pi / sections)
    corners = [radius * angle.cos(), torch.zeros_like(angle), radius * angle.sin()]
    return torch.stack(corners, 1)


def _along(vertices: Tensor, axis: int) -> Tensor:
    """What stands along y, turned to lie along ``axis``."""
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, for x, y or z; got {axis!r}")
    return vertices.roll(axis - 1, 1)


def _icosahedron() -> tuple[Tensor, Tensor]:
    """Unit vertices (12, 3) and faces (20, 3): all triples that are nearest neighbours."""
    golden = (1 + math.sqrt(5)) / 2
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)
    corners = torch.cat([torch.zeros_like(signs[:, :1]), signs * torch.tensor([1, golden])], 1)
    vertices = torch.cat([corners.roll(axis, 1) for axis in range(3)])
    triples = torch.combinations(torch.arange(12), 3)
    near = torch.cdist(vertices, vertices) < 2.1  # edges are 2 long
    edges = [near[triples[:, i], triples[:, i - 1]] for i in range(3)]
    faces = triples[edges[0] & edges[1] & edges[2]]
    inward = torch.linalg.det(vertices[faces]) < 0
    faces = torch.where(inward.unsqueeze(1), faces.flip(1), faces)
    return torch.nn.functional.normalize(vertices), faces


def _subdivided(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Each face of a unit sphere cut in four, with the middles of its edges on the sphere."""
    edges = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2).sort(1).values
    edges, middle = edges.unique(dim=0, return_inverse=True)
    middles = torch.nn.functional.normalize(vertices[edges].sum(1))
    a, b, c = faces.unbind(1)
    ab, bc, ca = (middle.view(-1, 3) + len(vertices)).unbind(1)
    corners = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return torch.cat([vertices, middles]), torch.cat([torch.stack(face, 1) for face in corners])


def _check_lengths(name: str, *lengths: float) -> None:
    if not all(0 < length < math.inf for length in lengths):
        raise ValueError(f"{name} must be finite and above 0; got {', '.join(map(str, lengths))}")
