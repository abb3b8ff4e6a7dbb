"""The rasterizer: what is seen, where, how bright, and whether its gradient can be trusted."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from advbench.attacks.rendering.mesh import Mesh, join
from advbench.attacks.rendering.rasterizer import Rasterizer
from advbench.attacks.rendering.scene import Scene
from advbench.benchmarks.renderer import Agreement, agreement, moved, poses, torus
from tests.attacks.meshes import box, car, facing, icosphere, scenes, square, table

GREY = torch.tensor([[0.3]])
LIT = {"ambient": 1.0, "diffuse": 0.0}


def joined(*parts: Scene) -> Tensor:
    return torch.cat([part.rows() for part in parts])


def trusted(found: Agreement, least: float) -> bool:
    """Whether most gradients point where the differences do, and are about as long."""
    norms = float(found.norms.median())
    return bool(found.cosine.median() >= least) and 0.8 <= norms <= 1.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "least", "tenth"),
    [
        (torus(), 0.95, 0.75),
        (box(1, 1.4, 0.8), 0.95, 0.85),
        (icosphere(2, 0.8), 0.95, 0.8),
        (car(), 0.9, 0.5),
        (table(), 0.9, 0.5),
    ],
    ids=["torus", "box", "sphere", "car", "table"],
)
def test_the_gradient_points_where_differences_do(mesh: Mesh, least: float, tenth: float) -> None:
    size = 64 if len(mesh.faces) == 504 else 48
    soft = Rasterizer([mesh], size, backgrounds=GREY)
    fine = Rasterizer([mesh], 4 * size, backgrounds=GREY, hard=True)
    found = agreement(soft, fine, poses(50, seed=4))
    assert trusted(found, least), (found.cosine.median(), found.norms.median())
    assert found.cosine.quantile(0.1) >= tenth


@pytest.mark.parametrize("fault", ["unrelated", "mirrored", "half"])
def test_a_gradient_that_is_wrong_is_not_trusted(fault: str) -> None:
    soft = Rasterizer([torus()], 32, backgrounds=GREY)
    fine = Rasterizer([torus()], 128, backgrounds=GREY, hard=True)
    assert trusted(agreement(soft, fine, poses(20, seed=4)), 0.9)

    def unrelated(rows: Tensor) -> Tensor:
        """Of something else than the pose of the object."""
        return rows[:, 2:11].sum(1).view(-1, 1, 1, 1) + soft(rows.detach())

    def mirrored(rows: Tensor) -> Tensor:
        images = soft(rows)
        return 2 * images.detach() - images

    def half(rows: Tensor) -> Tensor:
        images = soft(rows)
        return (images + images.detach()) / 2

    faults: dict[str, Callable[[Tensor], Tensor]] = {
        "unrelated": unrelated,
        "mirrored": mirrored,
        "half": half,
    }
    assert not trusted(agreement(faults[fault], fine, poses(20, seed=4)), 0.9)


@pytest.mark.parametrize("distance", [4.0, 7.0])
def test_a_hard_sphere_has_its_area(distance: float) -> None:
    size, fov = 64, math.degrees(0.62)
    render = Rasterizer([icosphere(3)], size, hard=True, **LIT)
    scene = scenes(8)._replace(position=torch.tensor([[0.0, 0.0, -distance]]).repeat(8, 1))
    radius = size / 2 / math.tan(math.radians(fov) / 2) / math.sqrt(distance**2 - 1)
    area = render(scene.rows()).sum((1, 2, 3)) / (math.pi * radius**2)
    assert (area - 1).abs().max() < 0.03, area


@pytest.mark.parametrize("distance", [9.0, 24.0, 60.0])
def test_small_soft_spheres_have_no_holes(distance: float) -> None:
    mesh = icosphere(3)
    scene = scenes(8)._replace(position=torch.tensor([[0.0, 0.0, -distance]]).repeat(8, 1)).rows()
    soft, hard = (Rasterizer([mesh], 64, hard=hard, **LIT)(scene) for hard in (False, True))
    assert len(mesh.faces) == 1280
    assert hard.sum() > 0
    torch.testing.assert_close(soft[hard > 0], hard[hard > 0])
    assert (soft >= hard - 1e-6).all()


def test_faces_leave_no_cracks_between_them() -> None:
    """Edges and corners on the very centres of pixels included."""
    wall = Rasterizer([square(4)], 32, hard=True, **LIT)
    for shift in (0.0, 0.01, 0.3):
        assert (wall(facing((shift, 0, -3)).rows()) > 0.7).all()
    render = Rasterizer([icosphere(2)], 64, hard=True, **LIT)
    scene = scenes(50)._replace(position=torch.tensor([[0.0, 0.0, -1.6]]).repeat(50, 1))
    middle = render(scene.rows())[:, :, 8:-8, 8:-8]
    assert (middle == 1).all()


def test_the_nearer_face_hides_the_other() -> None:
    near, far = square(1, 0.9), square(2, 0.4)
    both = Mesh(
        torch.cat([near.vertices + torch.tensor([0.0, 0.0, 1.0]), far.vertices]),
        torch.cat([near.faces, far.faces + 4]),
        torch.cat([near.colours, far.colours]),
    )
    order = torch.tensor([2, 0, 3, 1])
    other = Mesh(both.vertices, both.faces[order], both.colours[order])
    for mesh in (both, other):
        for hard in (True, False):
            image = Rasterizer([mesh], 65, hard=hard, **LIT)(facing((0, 0, -5)).rows())[0, 0]
            assert float(image[32, 32]) == pytest.approx(0.9)
            assert float(image[32, 47]) == pytest.approx(0.4)
            assert float(image[32, 2]) == 0
            behind = Rasterizer([mesh], 65, hard=hard, **LIT)
            turned = facing((0, 0, -5))._replace(
                rotation=torch.diag(torch.tensor([-1.0, 1.0, -1.0])).double()[None]
            )
            assert (behind(turned.rows()) == 0).all(), "backs are not drawn"


def test_two_sided_faces_are_lit_on_the_side_that_is_seen() -> None:
    render = Rasterizer([square(2, 0.8)], 33, two_sided=True, hard=True)
    front = facing((0, 0, -5))
    back = front._replace(rotation=torch.diag(torch.tensor([-1.0, 1.0, -1.0])).double()[None])
    torch.testing.assert_close(render(front.rows()), render(back.rows()))
    assert float(render(front.rows())[0, 0, 16, 16]) == pytest.approx(0.8)
    closed = scenes(10).rows()
    one, two = (Rasterizer([torus()], 48, two_sided=both, hard=True) for both in (False, True))
    assert (one(closed) - two(closed)).abs().gt(1e-6).float().mean() < 1e-3


def test_the_shade_of_a_square_is_lamberts() -> None:
    """Light 60 degrees off the normal: .8 * (.2 + .6 * .5)."""
    render = Rasterizer([square(2, 0.8)], 16, ambient=0.2, diffuse=0.6).double()
    side = math.sin(math.pi / 3)
    image = render(facing((0, 0, -5), (side, 0, 0.5)).rows())
    assert float(image[0, 0, 8, 8]) == pytest.approx(0.4, abs=1e-7)
    away = render(facing((0, 0, -5), (side, 0, -0.5)).rows())
    assert float(away[0, 0, 8, 8]) == pytest.approx(0.16, abs=1e-7)


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize(
    ("point", "row", "column"),
    [((0, 0, -4), 20, 30), ((1, 0, -4), 20, 35), ((0, 1, -4), 15, 30), ((1, -2, -8), 25, 32.5)],
)
def test_points_land_where_they_are_seen(
    point: tuple[float, float, float], row: float, column: float, hard: bool
) -> None:
    """A quarter turn of view, 40 rows: a unit at the distance d spans 20 / d pixels."""
    dot = icosphere(1, 0.4)
    render = Rasterizer([dot], (40, 60), fov=90, hard=hard, **LIT)
    scene = facing(point)
    image = render(scene.rows())[0, 0]
    rows, columns = torch.arange(40) + 0.5, torch.arange(60) + 0.5
    total = image.sum()
    assert float((image.sum(1) * rows).sum() / total) == pytest.approx(row, abs=0.3)
    assert float((image.sum(0) * columns).sum() / total) == pytest.approx(column, abs=0.3)


def test_colours_of_corners_are_interpolated_in_perspective() -> None:
    """On a floor, the colour tells how deep it lies, at every pixel."""
    near, far = 1.0, 9.0
    floor = torch.tensor(
        [[-5.0, -1, -near], [5, -1, -near], [5, -1, -far], [-5, -1, -far]], dtype=torch.float64
    )
    shade = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(floor, faces, shade[faces].unsqueeze(2))
    for hard in (False, True):
        image = Rasterizer([mesh], 40, fov=90, hard=hard, **LIT)(facing((0, 0, 0)).rows())[0, 0]
        rows = torch.arange(24, 40).double() + 0.5
        depth = 20 / (rows - 20)
        expected = (depth - near) / (far - near)
        gap = (image[24:, 20] - expected).abs().amax()
        assert gap < (1e-9 if hard else 0.03), "halos lie over the diagonal"


def test_flat_colours_and_equal_corners_are_the_same() -> None:
    mesh = torus()
    rows = scenes(6).rows()
    for hard in (False, True):
        flat = Rasterizer([mesh], 48, hard=hard)(rows)
        cornered = Rasterizer([mesh.painted(mesh.corner_colours())], 48, hard=hard)(rows)
        torch.testing.assert_close(flat, cornered, rtol=0, atol=1e-5)


MIXED = [torus(), box(1, 1.4, 0.8), icosphere(2, 0.8), table(), car(), square()]


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_batch_equals_its_singles(hard: bool, dtype: torch.dtype) -> None:
    """Thin and touching parts, equally deep ones and pictures behind them included."""
    pictures = torch.rand(3, 1, 40, 56, generator=torch.Generator().manual_seed(0))
    render = Rasterizer(MIXED, (40, 56), backgrounds=pictures, hard=hard).to(dtype)
    rows = scenes(24, len(MIXED), 3).rows().to(dtype)
    images = render(rows)
    assert images.shape == (24, 1, 40, 56)
    assert images.dtype == dtype
    singles = torch.cat([render(row[None]) for row in rows])
    torch.testing.assert_close(images, singles, rtol=0, atol=1e-6)
    assert torch.equal(images, render(rows))
    backwards = render(rows.flip(0)).flip(0)
    torch.testing.assert_close(images, backwards, rtol=0, atol=1e-6)
    assert render(rows[:0]).shape == (0, 1, 40, 56)


def test_gradients_of_a_batch_are_those_of_its_singles() -> None:
    render = Rasterizer(MIXED, 32, backgrounds=GREY).double()
    rows = scenes(12, len(MIXED)).rows().double().requires_grad_()
    (together,) = torch.autograd.grad(render(rows).square().sum(), rows)
    alone = [torch.autograd.grad(render(row[None]).square().sum(), rows)[0] for row in rows]
    torch.testing.assert_close(together, torch.stack(alone).sum(0), rtol=0, atol=1e-9)
    assert together[:, 2:].ne(0).any(0).all()


def hard_cases() -> Tensor:
    """A thousand scenes: in view, edge-on, off the screen, at, around and behind the camera."""
    generator = torch.Generator().manual_seed(0)
    rows = scenes(1000, len(MIXED)).rows()
    position = torch.randn(1000, 3, generator=generator)
    rows[200:400, 11:14] = position[200:400]
    rows[400:500, 11:14] = 0
    rows[500:600, 11:14] = 30 * position[500:600]
    turns = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), torch.eye(3)
    for start, turn in zip((600, 700), turns, strict=True):
        rows[start : start + 100, 2:11] = turn.flatten()
        rows[start : start + 100, 11:13] = 0
    rows[800:900, 11:14] = torch.tensor([0.0, 0, -1e6])
    return rows


@pytest.mark.parametrize("two_sided", [False, True])
def test_nothing_is_ever_nan(two_sided: bool) -> None:
    meshes = [*MIXED[:-1], MIXED[-1].painted(torch.ones(2, 3, 1) / 2)]
    for chosen in (MIXED, meshes):
        render = Rasterizer(chosen, 16, backgrounds=GREY, two_sided=two_sided)
        render.vertices.requires_grad_()
        rows = hard_cases().requires_grad_()
        images = render(rows)
        assert images.isfinite().all()
        assert images.amin() >= 0
        assert images.amax() <= 1 + 1e-6
        for gradient in torch.autograd.grad(images.square().sum(), (rows, render.vertices)):
            assert gradient.isfinite().all()


def test_degenerate_faces_are_not_seen() -> None:
    mesh = box(1, 1, 1)
    flat = torch.tensor([[0, 0, 1], [2, 2, 2]])
    odd = Mesh(mesh.vertices, torch.cat([mesh.faces, flat]), torch.ones(14, 1))
    plain = Mesh(mesh.vertices, mesh.faces, torch.ones(12, 1))
    rows = scenes(10).rows().requires_grad_()
    image = Rasterizer([odd], 32)(rows)
    torch.testing.assert_close(image[:, :, ::1], Rasterizer([plain], 32)(rows), atol=0.3, rtol=0)
    assert torch.autograd.grad(image.sum(), rows)[0].isfinite().all()


def test_an_object_out_of_sight_leaves_the_background() -> None:
    colours = torch.tensor([[0.2, 0.4, 0.6], [0.9, 0.8, 0.7]])
    mesh = torus().painted(torch.ones(504, 3))
    render = Rasterizer([mesh], 8, backgrounds=colours).double()
    for place in ((0, 0, 5), (100, 0, -5), (0, 0, 0.9)):
        scene = facing(place)._replace(background=torch.tensor([1]))
        image = render(scene.rows())
        assert torch.equal(image[0], render.backgrounds[1].view(3, 1, 1).expand(-1, 8, 8))


def test_faces_nearer_than_near_are_dropped() -> None:
    rows = facing((0, 0, -0.1)).rows()
    for near, seen in ((0.05, True), (0.2, False)):
        image = Rasterizer([square()], 8, near=near)(rows)
        assert bool((image > 0.7).all()) is seen
        assert bool((image == 0).all()) is not seen


@pytest.mark.parametrize("cornered", [False, True], ids=["faces", "corners"])
def test_light_colours_and_backgrounds_pass_gradcheck(cornered: bool) -> None:
    colours = torch.rand(2, 3, 1, generator=torch.Generator().manual_seed(0))
    mesh = join([box(1, 1.4, 0.8), square(1.5).painted(colours)]) if cornered else box(1, 1.4, 0.8)
    render = Rasterizer([mesh], 6, backgrounds=torch.tensor([[0.2], [0.5]])).double()
    rows = scenes(2, 1, 2).rows().double()
    rows[:, 14:] *= 0.9

    def of_light(light: Tensor) -> Tensor:
        return render(torch.cat([rows[:, :14], light], 1))

    assert torch.autograd.gradcheck(of_light, rows[:, 14:].clone().requires_grad_())
    for name in ("colours", "backgrounds"):
        given = getattr(render, name)

        def of_buffer(values: Tensor, name: str = name) -> Tensor:
            setattr(render, name, values)
            return render(rows)

        assert torch.autograd.gradcheck(of_buffer, given.clone().requires_grad_())
        setattr(render, name, given)


def test_vertices_have_the_gradient_of_moving_the_object() -> None:
    render = Rasterizer([torus()], 32, backgrounds=GREY).double()
    render.vertices.requires_grad_()
    rows = poses(1).rows().double()
    rows[:, 2:11] = torch.eye(3).flatten()
    rows.requires_grad_()
    shift, vertices = torch.autograd.grad(render(rows).square().sum(), (rows, render.vertices))
    torch.testing.assert_close(vertices.sum(0), shift[0, 11:14])


def test_the_nearest_edge_is_the_one_whose_line_is_farthest() -> None:
    """On which the distance of a halo rests: measured for any triangle, slivers included."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(20000, 3, 2, generator=generator, dtype=torch.float64)
    corners[:, :, 1] *= torch.logspace(-4, 0, 20000, dtype=torch.float64).unsqueeze(1)
    point = torch.randn(20000, 1, 2, generator=generator, dtype=torch.float64)
    ends = corners.roll(-1, 1) - corners
    along = ((point - corners) * ends).sum(2) / ends.square().sum(2)
    gap = point - corners - along.clamp(0, 1).unsqueeze(2) * ends
    distances = gap.square().sum(2).sqrt()
    line = (ends[..., 0] * (point - corners)[..., 1]) - ends[..., 1] * (point - corners)[..., 0]
    turn = (ends[:, 0, 0] * ends[:, 1, 1] - ends[:, 0, 1] * ends[:, 1, 0]).sign().unsqueeze(1)
    line = line * turn / ends.square().sum(2).sqrt()
    outside = (line < 0).any(1)
    chosen = distances.gather(1, line.argmin(1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(chosen[outside], distances.amin(1)[outside])
    assert outside.sum() > 5000


def test_what_is_no_scene_is_refused() -> None:
    render = Rasterizer([torus()], 8, backgrounds=GREY)
    rows = scenes(3).rows()

    def changed(column: int, value: float) -> Tensor:
        other = rows.clone()
        other[1, column] = value
        return other

    for bad, message in (
        (rows[:, :16], r"shape \(B, 17\); got \(3, 16\)"),
        (changed(0, 1), r"scene 1 has the mesh 1, but the rasterizer has 1 \(0 to 0\)"),
        (changed(1, -1), "scene 1 has the background -1"),
        (changed(2, 2), "row 1 is no scene.*change scenes with Pose"),
        (changed(2, math.nan), "row 1 is no scene"),
        (changed(12, math.inf), "row 1 is no scene"),
        (changed(15, math.nan), "row 1 is no scene"),
    ):
        with pytest.raises(ValueError, match=message):
            render(bad)
    with pytest.raises(TypeError, match=r"float32 or float64; got torch\.float16"):
        render(rows.half())


def test_a_hard_rasterizer_refuses_to_be_differentiated() -> None:
    render = Rasterizer([torus()], 8, hard=True)
    rows = scenes(2).rows().requires_grad_()
    with pytest.raises(ValueError, match=r"no useful gradient.*soft one"):
        render(rows)
    with torch.no_grad():
        assert render(rows).shape == (2, 1, 8, 8)
    render.colours.requires_grad_()
    with pytest.raises(ValueError, match="no useful gradient"):
        render(rows.detach())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meshes": []}, "at least one mesh"),
        ({"meshes": [torus(), torus().painted(torch.ones(504, 3))]}, "mesh 1 has 3"),
        ({"size": 0}, "size must be"),
        ({"size": (8, 8, 3)}, "size must be"),
        ({"fov": 180.0}, "fov must lie"),
        ({"ambient": 0.6, "diffuse": 0.6}, "together at most 1"),
        ({"near": 0.0}, "near must be"),
        ({"backgrounds": torch.zeros(1, 3)}, r"colours \(K, 1\) or pictures \(K, 1, 8, 8\)"),
        ({"backgrounds": torch.full((1, 1), 2.0)}, r"in \[0, 1\]; got min 2"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rasterizer(**{"meshes": [torus()], "size": 8, **settings})


def test_state_moves_and_is_restored() -> None:
    one = Rasterizer([torus()], 16, backgrounds=GREY).double()
    other = Rasterizer([torus().stretched(torch.tensor([1.0, 2.0, 1.0]))], 16)
    other.double().load_state_dict(one.state_dict())
    rows = scenes(2).rows().double()
    assert torch.equal(one(rows), other(rows))
    assert "size=(16, 16)" in repr(one)
    assert "faces=504" in repr(one)


def test_inputs_stay_as_they_are() -> None:
    render = Rasterizer([torus()], 16, backgrounds=GREY)
    before = {name: values.clone() for name, values in render.state_dict().items()}
    rows = scenes(4).rows()
    kept = rows.clone()
    render(rows).add_(1)
    assert torch.equal(rows, kept)
    for name, values in render.state_dict().items():
        assert torch.equal(values, before[name])


def test_moving_a_scene_turns_about_its_own_place() -> None:
    scene = poses(3)
    p = torch.zeros(3, 6)
    torch.testing.assert_close(moved(scene, p), scene.rows())
    p[:, 4] = 0.5
    assert torch.equal(moved(scene, p)[:, 12], scene.position[:, 1] + 0.5)
