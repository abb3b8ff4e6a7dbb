"""Solids, the classes built of them and their individuals."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from advbench.attacks.randomness import Draws
from advbench.attacks.rendering.mesh import Mesh, join
from advbench.data.objects import CLASSES, VARIANTS, instances
from advbench.data.shapes import box, cone, cylinder, sphere

FACES = {
    "table": 60,
    "chair": 72,
    "car": 184,
    "plane": 68,
    "mug": 84,
    "hammer": 44,
    "dumbbell": 112,
    "rocket": 84,
    "snowman": 240,
    "lamp": 92,
}
# The bounds of each class along x, y and z; None where a polygon decides, whose corners do not
# reach its circle in all directions.
BOXES = {
    "table": ((-0.9, 0.9), (-0.575, 0.525), (-0.6, 0.6)),
    "chair": ((-0.45, 0.45), (-0.775, 0.975), (-0.47, 0.45)),
    "car": ((-1, 1), (None, 0.57), (-0.53, 0.53)),
    "plane": ((-0.97, 0.95), (-0.2, 0.475), (-1, 1)),
    "mug": ((-0.55, 0.97), (-0.6, 0.6), (-0.55, 0.55)),
    "hammer": ((-0.5, 0.6), (-1.05, 0.94), (-0.19, 0.19)),
    "dumbbell": ((-0.925, 0.925), (None, None), (-0.5, 0.5)),
    "rocket": ((-0.55, 0.55), (-0.8, 1.15), (-0.55, 0.55)),
    "snowman": ((None, None), (-1.05, 1.08), (None, None)),
    "lamp": ((-0.65, 0.65), (-0.91, 0.9), (None, None)),
}


def polygon(radius: float, sections: int) -> float:
    """The area of a regular polygon in a circle."""
    return sections / 2 * radius**2 * math.sin(2 * math.pi / sections)


# Builder, faces, volume, lengths along the axes (None as above) and middle of the bounding box.
SOLIDS = {
    "box": (lambda: box((1, 2, 3), (4, 5, 6)), 12, 6, (1, 2, 3), (4, 5, 6)),
    "cylinder along x": (
        lambda: cylinder(0.5, 3, 8, 0, (1, 2, 3)),
        32,
        3 * polygon(0.5, 8),
        (3, 1, 1),
        (1, 2, 3),
    ),
    "cylinder along y": (
        lambda: cylinder(0.5, 3, 12),
        48,
        3 * polygon(0.5, 12),
        (1, 3, 1),
        (0, 0, 0),
    ),
    "cylinder along z": (
        lambda: cylinder(0.5, 3, 4, 2, (1, 2, 3)),
        16,
        3 * polygon(0.5, 4),
        (1, 1, 3),
        (1, 2, 3),
    ),
    "cone along x": (
        lambda: cone(0.5, 3, 8, 0, (1, 2, 3)),
        16,
        polygon(0.5, 8),
        (3, 1, 1),
        (2.5, 2, 3),
    ),
    "cone along y": (lambda: cone(0.5, 3, 4), 8, polygon(0.5, 4), (1, 3, 1), (0, 1.5, 0)),
    "cone along z": (
        lambda: cone(0.5, 3, 16, 2, (1, 2, 3)),
        32,
        polygon(0.5, 16),
        (1, 1, 3),
        (1, 2, 4.5),
    ),
    "icosahedron": (
        lambda: sphere(2, subdivisions=0),
        20,
        5 * (3 + math.sqrt(5)) / 12 * (2 / math.sin(0.4 * math.pi)) ** 3,
        (None, None, None),
        (0, 0, 0),
    ),
    "fine sphere": (
        lambda: sphere(2, (1, 2, 3), subdivisions=5),
        20480,
        4 / 3 * math.pi * 8,
        (4, 4, 4),
        (1, 2, 3),
    ),
}


def volume(mesh: Mesh) -> float:
    """The signed volume: positive for a closed mesh whose faces are seen from outside."""
    corners = mesh.vertices.double() - mesh.vertices.double().mean(0)
    return float(torch.linalg.det(corners[mesh.faces]).sum() / 6)


def directed_edges(mesh: Mesh) -> set[tuple[int, int]]:
    one, other = mesh.faces.flatten().tolist(), mesh.faces.roll(-1, 1).flatten().tolist()
    return set(zip(one, other, strict=True))


def check_closed(mesh: Mesh) -> None:
    """Each edge is passed once in each direction, and `open_edges` agrees."""
    edges = directed_edges(mesh)
    assert len(edges) == mesh.faces.numel(), "an edge is passed twice in one direction"
    assert edges == {(other, one) for one, other in edges}, "a face has no neighbour"
    assert mesh.open_edges == 0


def check_outward(mesh: Mesh) -> None:
    """A convex solid: the middle lies behind each face."""
    corners = mesh.vertices[mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = mesh.vertices.mean(0)
    assert ((corners.mean(1) - middle) * normals).sum(1).min() > 0


def parts_of(mesh: Mesh) -> list[Mesh]:
    assert mesh.parts is not None
    return [
        Mesh(mesh.vertices, mesh.faces[mesh.parts == part], mesh.colours[mesh.parts == part])
        for part in mesh.parts.unique()
    ]


def used(mesh: Mesh) -> Mesh:
    """The mesh without the vertices that no face has."""
    numbers, faces = mesh.faces.unique(return_inverse=True)
    return Mesh(mesh.vertices[numbers], faces, mesh.colours)


def signature(mesh: Mesh) -> Tensor:
    """Numbers that tell shapes apart: extents and volume."""
    extents = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    return torch.cat([extents, torch.tensor([sum(volume(part) for part in parts_of(mesh))])])


def nearest(shapes: list[Mesh]) -> float:
    """How much the two shapes differ that differ least."""
    signatures = torch.stack([signature(mesh) for mesh in shapes])
    return float(torch.nn.functional.pdist(signatures).min())


def draws(count: int, seed: int = 0, first: int = 0) -> Draws:
    zeros = torch.zeros(count, dtype=torch.int64)
    return Draws(zeros + seed, torch.arange(first, first + count), zeros, zeros)


@pytest.mark.parametrize("name", SOLIDS)
def test_solids(name: str) -> None:
    build, faces, expected, lengths, middle = SOLIDS[name]
    mesh = build()
    assert len(mesh.faces) == faces
    check_closed(mesh)
    check_outward(mesh)
    assert volume(mesh) == pytest.approx(expected, rel=5e-3 if name == "fine sphere" else 1e-5)
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    assert ((low + high) / 2).tolist() == pytest.approx(middle, abs=1e-6)
    for length, given in zip((high - low).tolist(), lengths, strict=True):
        assert given is None or length == pytest.approx(given, abs=2e-3)


def test_a_sphere_is_round_and_finer_at_each_subdivision() -> None:
    volumes = [volume(sphere(1, subdivisions=count)) for count in range(4)]
    assert volumes == sorted(volumes)
    assert len(sphere(1).faces) == 80
    assert torch.allclose(sphere(3).vertices.norm(dim=1), torch.tensor(3.0))


def test_the_apex_of_a_cone_is_up_its_axis() -> None:
    for axis in range(3):
        mesh = cone(0.5, 2, 8, axis)
        assert mesh.vertices[mesh.vertices[:, axis].argmax()].tolist() == [
            2.0 * (i == axis) for i in range(3)
        ]


def test_solids_have_one_grey_channel_or_the_colour_given() -> None:
    grey, red = box((1, 1, 1)), cylinder(1, 1, 3, colour=(1, 0, 0))
    assert torch.equal(grey.colours, torch.full((12, 1), 0.7))
    assert torch.equal(red.colours, torch.tensor([[1.0, 0, 0]]).repeat(12, 1))
    assert grey.vertices.dtype == red.vertices.dtype == sphere(1).vertices.dtype == torch.float32


def test_planted_faults_of_solids_are_seen() -> None:
    good = cylinder(1, 1, 8)
    hole = Mesh(good.vertices, good.faces[1:], good.colours[1:])
    twisted = replace(good, faces=torch.cat([good.faces[:1].flip(1), good.faces[1:]]))
    inside_out = replace(good, faces=good.faces.flip(1))
    for check, faulty in (
        (check_closed, hole),
        (check_closed, twisted),
        (check_outward, twisted),
        (check_outward, inside_out),
    ):
        check(good)
        with pytest.raises(AssertionError):
            check(faulty)
    assert volume(inside_out) == pytest.approx(-volume(good))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: box((1, 0, 1)), "extents must be finite and above 0; got 1, 0, 1"),
        (lambda: cylinder(-1, 1, 8), "radius and height must be finite and above 0; got -1, 1"),
        (lambda: cone(1, math.nan, 8), "radius and height .* got 1, nan"),
        (lambda: sphere(math.inf), "radius must be finite and above 0; got inf"),
        (lambda: cylinder(1, 1, 2), "sections must be a whole number of at least 3; got 2"),
        (lambda: cone(1, 1, 3.5), "sections must be a whole number of at least 3; got 3.5"),
        (lambda: cone(1, 1, 3, 3), "axis must be 0, 1 or 2, for x, y or z; got 3"),
        (lambda: sphere(1, subdivisions=-1), "subdivisions must be a whole number from 0 up"),
    ],
)
def test_impossible_solids(build: Callable[[], Mesh], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_the_classes_are_those_of_the_table() -> None:
    assert {name: len(build().faces) for name, build in CLASSES.items()} == FACES
    assert list(CLASSES) == list(FACES) == list(VARIANTS)


@pytest.mark.parametrize("name", CLASSES)
def test_dimensions_of_the_classes(name: str) -> None:
    mesh = CLASSES[name]()
    for axis, bounds in enumerate(BOXES[name]):
        found = mesh.vertices[:, axis].amin(), mesh.vertices[:, axis].amax()
        for given, value in zip(bounds, found, strict=True):
            assert given is None or float(value) == pytest.approx(given, abs=1e-6)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("shapes", [CLASSES, VARIANTS], ids=["class", "variant"])
def test_every_part_is_a_closed_solid(name: str, shapes: dict[str, Callable[[], Mesh]]) -> None:
    mesh = shapes[name]()
    assert mesh.open_edges == 0
    for part in parts_of(mesh):
        check_closed(used(part))
        check_outward(used(part))
    assert mesh.colours.shape == (len(mesh.faces), 1)
    assert mesh.vertices.norm(dim=1).max() < 1.3


def test_parts_are_numbered_in_order() -> None:
    for build in [*CLASSES.values(), *VARIANTS.values()]:
        parts = build().parts
        assert parts is not None
        assert parts.unique_consecutive().tolist() == list(range(int(parts.max()) + 1))


def test_all_shapes_differ() -> None:
    shapes = [build() for build in [*CLASSES.values(), *VARIANTS.values()]]
    assert nearest(shapes) > 0.05
    assert nearest([*shapes, CLASSES["table"]()]) == 0


def test_an_individual_depends_on_its_kind_and_row_alone() -> None:
    kinds = [build() for build in CLASSES.values()]
    many = instances(kinds, draws(10))
    for kind in (3, 7):
        (alone,) = instances([CLASSES[list(CLASSES)[kind]]()], draws(1, first=kind))
        assert torch.equal(alone.vertices, many[kind].vertices)
        assert torch.equal(alone.colours, many[kind].colours)
    other_seed, other_id = instances(kinds, draws(10, seed=1)), instances(kinds, draws(10, first=1))
    for mesh, *others in zip(many, other_seed, other_id, strict=True):
        for other in others:
            assert not torch.equal(mesh.vertices, other.vertices)
            assert not torch.equal(mesh.colours, other.colours)


def test_individuals_are_stretched_by_a_fifth_at_most() -> None:
    kind = CLASSES["car"]()
    made = torch.stack([mesh.vertices for mesh in instances([kind] * 300, draws(300))])
    factors = made.amax(1) / kind.vertices.amax(0)
    assert torch.allclose(made, kind.vertices * factors.unsqueeze(1), atol=1e-6)
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2
    assert factors.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.03)
    assert factors.std(0).tolist() == pytest.approx([0.4 / math.sqrt(12)] * 3, abs=0.01)
    assert torch.corrcoef(factors.T).fill_diagonal_(0).abs().max() < 0.2


def test_individuals_have_a_grey_and_parts_that_deviate_from_it() -> None:
    kind = CLASSES["chair"]()
    assert kind.parts is not None
    meshes = instances([kind] * 400, draws(400))
    greys = torch.stack([mesh.colours.squeeze(1) for mesh in meshes])
    first = torch.stack([(kind.parts == part).nonzero()[0, 0] for part in range(6)])
    assert torch.equal(greys, greys[:, first][:, kind.parts]), "a part has one grey"
    parts = greys[:, first]
    assert (parts.min(), parts.max()) == (pytest.approx(0.3, abs=0.04), 1)
    assert float(parts.mean()) == pytest.approx(0.72, abs=0.02)
    assert float(parts.std(1).mean()) == pytest.approx(0.11, abs=0.015)
    assert float(parts.mean(1).std()) == pytest.approx(0.11, abs=0.02)


def test_individuals_keep_what_makes_them_a_closed_object() -> None:
    kind = CLASSES["plane"]()
    for mesh in instances([kind] * 3, draws(3)):
        assert mesh.neighbours is kind.neighbours
        assert mesh.faces is kind.faces
        assert mesh.parts is kind.parts
        for part in parts_of(mesh):
            check_outward(used(part))


def test_individuals_of_a_mesh_without_parts_have_one_grey() -> None:
    (mesh,) = instances([box((1, 1, 1))], draws(1))
    assert len(mesh.colours.unique()) == 1


def test_parts_need_not_be_numbered_from_nought() -> None:
    kind = join([box((1, 1, 1)), box((1, 1, 1), (3, 0, 0))])
    assert kind.parts is not None
    (mesh,), (other,) = (
        instances([kind], draws(1)),
        instances([replace(kind, parts=kind.parts * 7 + 5)], draws(1)),
    )
    assert torch.equal(mesh.colours, other.colours)


def test_individuals_never_change() -> None:
    (mesh,) = instances([CLASSES["mug"]()], draws(1, seed=3))
    corner, greys = mesh.vertices.amax(0).tolist(), mesh.colours[[0, 48, 60, 72], 0].tolist()
    assert corner == pytest.approx([1.0125535, 0.7047365, 0.5386375], abs=1e-6)
    assert greys == pytest.approx([0.6918628, 0.4832717, 0.5124077, 0.4426885], abs=1e-6)


def test_drawing_individuals_leaves_the_generators_alone() -> None:
    before, python = torch.get_rng_state(), random.getstate()
    instances([CLASSES["mug"]()], draws(1))
    assert torch.equal(before, torch.get_rng_state())
    assert python == random.getstate()


def test_one_kind_is_needed_for_each_row() -> None:
    assert instances([], draws(0)) == []
    with pytest.raises(ValueError, match="one per row of draws; got 1 kinds, 2 rows"):
        instances([box((1, 1, 1))], draws(2))
