"""Meshes: refused where they are none, and who is whose neighbour."""

from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks.rendering.mesh import Mesh, join
from advbench.benchmarks.renderer import torus
from tests.attacks.meshes import box, icosphere, square

NAN = float("nan")
FIELDS: dict[str, Any] = {
    "vertices": torch.eye(3),
    "faces": torch.tensor([[0, 1, 2]]),
    "colours": torch.ones(1, 3),
}


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("vertices", [[0.0]], TypeError, "vertices must be a tensor; got list"),
        ("vertices", torch.eye(4), ValueError, r"shape \(V, 3\); got \(4, 4\)"),
        ("vertices", torch.eye(3).long(), TypeError, "floating point; got torch.int64"),
        ("vertices", torch.full((3, 3), NAN), ValueError, "finite; vertex 0 is"),
        ("faces", torch.tensor([[0, 1, 2, 2]]), ValueError, "Cut polygons into triangles"),
        ("faces", torch.tensor([[0, 1, 2]]).int(), TypeError, r"faces.long\(\)"),
        ("faces", torch.zeros(0, 3, dtype=torch.int64), ValueError, "at least one face"),
        ("faces", torch.tensor([[0, 1, 3]]), ValueError, r"face 0 .* \[0, 1, 3\].* 3 \(0 to 2\)"),
        ("faces", torch.tensor([[0, 1, -1]]), ValueError, r"face 0 names .* \[0, 1, -1\]"),
        ("colours", torch.ones(2, 3), ValueError, r"shape \(1, C\).*got \(2, 3\)"),
        ("colours", torch.ones(1, 4, 3), ValueError, r"or \(1, 3, C\).*got \(1, 4, 3\)"),
        ("colours", torch.full((1, 3), 255), TypeError, r"colours.float\(\) / 255"),
        ("colours", torch.full((1, 3), 1.5), ValueError, r"in \[0, 1\]; face 0 has \[1.5"),
        ("colours", torch.full((1, 3), NAN), ValueError, r"in \[0, 1\]; face 0 has \[nan"),
        ("parts", torch.zeros(2, dtype=torch.int64), ValueError, r"parts must be 1 int64.*\(2,\)"),
    ],
)
def test_what_is_no_mesh_is_refused(
    field: str, value: object, error: type[Exception], message: str
) -> None:
    Mesh(**FIELDS)
    with pytest.raises(error, match=message):
        Mesh(**{**FIELDS, field: value})


def loose(mesh: Mesh) -> Mesh:
    """The same triangles with vertices of their own, as files with normals have them."""
    vertices = mesh.vertices[mesh.faces.flatten()]
    return Mesh(vertices, torch.arange(len(vertices)).view(-1, 3), mesh.colours)


@pytest.mark.parametrize("mesh", [torus(), box(1, 2, 3), icosphere(1)], ids=["torus", "box", "ico"])
def test_across_every_edge_lies_the_face_that_has_it_too(mesh: Mesh) -> None:
    assert mesh.open_edges == 0
    ends = torch.stack([mesh.faces, mesh.faces.roll(-1, 1)], 2)
    for face, row in enumerate(mesh.neighbours.tolist()):
        for edge, other in enumerate(row):
            assert sorted(ends[face, edge].tolist()) in ends[other].sort(1).values.tolist()
            assert other != face
    assert torch.equal(loose(mesh).neighbours, mesh.neighbours)


def test_open_edges_are_counted() -> None:
    assert square().open_edges == 4
    assert square().neighbours.tolist() == [[-1, -1, 1], [0, -1, -1]]


def test_an_edge_of_three_faces_has_no_neighbours() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]])
    fan = Mesh(vertices, torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]]), torch.ones(3, 1))
    assert fan.open_edges == 9


def test_vertices_a_rounding_apart_are_one() -> None:
    mesh = loose(torus())
    noise = 1e-7 * torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0))
    shaken = Mesh(mesh.vertices + noise, mesh.faces, mesh.colours)
    assert torch.equal(shaken.neighbours, mesh.neighbours)
    torn = Mesh(mesh.vertices + 1e3 * noise, mesh.faces, mesh.colours)
    assert torn.open_edges > 1000


def test_parts_stay_apart() -> None:
    left, right = box(1, 1, 1), box(1, 1, 1, centre=(1, 0, 0))
    both = join([left, right])
    assert both.open_edges == 0
    assert torch.equal(both.neighbours, torch.cat([left.neighbours, right.neighbours + 12]))
    merged = Mesh(both.vertices, both.faces, both.colours)
    assert merged.open_edges > 0, "without parts the touching edges have more than two faces"
    again = join([both, right])
    assert again.parts is not None
    assert again.parts.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_join_mixes_kinds_of_colours_and_refuses_channels_that_differ() -> None:
    flat = square()
    shaded = flat.painted(torch.rand(2, 3, 1, generator=torch.Generator().manual_seed(0)))
    both = join([flat, shaded])
    assert torch.equal(both.colours[:2], flat.corner_colours())
    assert torch.equal(both.colours[2:], shaded.colours)
    with pytest.raises(ValueError, match=r"same channels; got \[1, 3\]"):
        join([flat, flat.painted(torch.ones(2, 3))])
    with pytest.raises(ValueError, match="at least one mesh"):
        join([])


def box_of(vertices: Tensor) -> tuple[Tensor, Tensor]:
    return vertices.amin(0), vertices.amax(0)


def test_fitted_is_centred_with_a_diagonal_of_two() -> None:
    mesh = box(1, 4, 8, centre=(5, 6, 7)).fitted()
    low, high = box_of(mesh.vertices)
    torch.testing.assert_close(low, -high)
    torch.testing.assert_close(high, torch.tensor([1.0, 4, 8]) / 9)
    point = Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]]), torch.ones(1, 1))
    with pytest.raises(ValueError, match="single point"):
        point.fitted()


def test_unused_vertices_do_not_count_when_fitting() -> None:
    mesh = box(2, 2, 2)
    far = Mesh(torch.cat([mesh.vertices, torch.full((1, 3), 9.0)]), mesh.faces, mesh.colours)
    torch.testing.assert_close(far.fitted().vertices[:8], mesh.fitted().vertices)


def test_changed_meshes_share_their_neighbours() -> None:
    mesh = torus()
    wide = mesh.stretched(torch.tensor([2.0, 1.0, 0.5]))
    red = wide.painted(torch.rand(504, 3, generator=torch.Generator().manual_seed(0)))
    assert red.neighbours is mesh.neighbours
    assert red.fitted().neighbours is mesh.neighbours
    torch.testing.assert_close(wide.vertices, mesh.vertices * torch.tensor([2.0, 1.0, 0.5]))
    assert red.colours.shape == (504, 3)
    for factors in (torch.tensor([1.0, -1.0, 1.0]), torch.ones(2)):
        with pytest.raises(ValueError, match="three numbers above 0"):
            mesh.stretched(factors)
    with pytest.raises(ValueError, match="colours must lie in"):
        mesh.painted(torch.full((504, 1), 2.0))
