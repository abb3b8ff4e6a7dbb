"""Meshes and scenes to test renderers on."""

import torch
from torch import Tensor

from advbench.attacks.rendering.mesh import Mesh, join
from advbench.attacks.rendering.scene import Scene
from advbench.benchmarks.renderer import poses


def grey(count: int, seed: int = 0) -> Tensor:
    """Shades (count, 1) between .4 and .95."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 0.55 * torch.rand(count, 1, generator=generator)


def box(*extents: float, centre: tuple[float, float, float] = (0, 0, 0), seed: int = 0) -> Mesh:
    """A box of 12 faces, each side of its own shade."""
    signs = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    vertices = signs * torch.tensor(extents) / 2 + torch.tensor(centre)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    return Mesh(vertices, torch.tensor(faces), grey(6, seed).repeat_interleave(2, 0))


def icosphere(rounds: int, radius: float = 1.0) -> Mesh:
    """A sphere of 20 * 4 ** rounds faces."""
    g = (1 + 5**0.5) / 2
    corners = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g)]
    corners += [(0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    vertices = torch.tensor(corners, dtype=torch.float64)
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4)]
    faces += [(11, 10, 2), (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8)]
    faces += [(3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]
    triangles = vertices[torch.tensor(faces)]
    for _ in range(rounds):
        a, b, c = triangles.unbind(1)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = torch.cat([torch.stack(part, 1) for part in parts])
    corner = torch.nn.functional.normalize(triangles.flatten(0, 1), dim=1)
    number = (corner * 1e6).round().long().unique(dim=0, return_inverse=True)[1]
    kept = torch.zeros(int(number.max()) + 1, 3, dtype=torch.float64)
    kept[number] = corner
    return Mesh((radius * kept).float(), number.view(-1, 3), torch.ones(len(triangles), 1))


def square(side: float = 2.0, shade: float = 0.8) -> Mesh:
    """A square of two faces in the plane z = 0 that faces +z."""
    half = side / 2
    corners = [[-half, -half, 0.0], [half, -half, 0.0], [half, half, 0.0], [-half, half, 0.0]]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Mesh(torch.tensor(corners), faces, torch.full((2, 1), shade))


def scenes(count: int, meshes: int = 1, backgrounds: int = 1, seed: int = 0) -> Scene:
    """Scenes with the objects anyhow turned, well in view."""
    generator = torch.Generator().manual_seed(seed)
    return poses(count, seed)._replace(
        mesh=torch.randint(meshes, (count,), generator=generator),
        background=torch.randint(backgrounds, (count,), generator=generator),
    )


def facing(
    position: tuple[float, float, float], light: tuple[float, float, float] = (0, 0, 1)
) -> Scene:
    """One scene whose object is not turned."""
    zero = torch.zeros(1, dtype=torch.int64)
    turn = torch.eye(3, dtype=torch.float64)[None]
    place, towards = torch.tensor([position]).double(), torch.tensor([light]).double()
    return Scene(zero, zero, turn, place, towards)


def table() -> Mesh:
    """A slab on four thin legs."""
    legs = [(x, -0.1, z) for x in (-0.78, 0.78) for z in (-0.48, 0.48)]
    return join(
        [
            box(1.8, 0.15, 1.2, centre=(0, 0.45, 0)),
            *(box(0.14, 0.95, 0.14, centre=leg, seed=1) for leg in legs),
        ]
    )


def car() -> Mesh:
    """Boxes that stand in one another."""
    wheels = [(x, -0.22, z) for x in (-0.6, 0.6) for z in (-0.45, 0.45)]
    return join(
        [
            box(2, 0.4, 0.9, seed=1),
            box(1.05, 0.38, 0.8, centre=(-0.1, 0.38, 0), seed=2),
            *(box(0.4, 0.4, 0.16, centre=wheel, seed=3) for wheel in wheels),
        ]
    )
