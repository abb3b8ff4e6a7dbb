"""A differentiable renderer of meshes in plain tensor operations."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from advbench.attacks.rendering.camera import Pixels, Points, place, project
from advbench.attacks.rendering.mesh import Mesh
from advbench.attacks.rendering.scene import WIDTH, Scene, unpack
from advbench.attacks.rendering.visibility import Faces, Halo, Surface, twice_area, visible

_RADIUS = 1.0  # pixels that a halo reaches; the gradient is best there, see the class
_LAYERS = 3  # halos before the opaque surface
_FLAT = 1e-9  # twice the area, in pixels, of a face seen from its edge
_ORTHONORMAL = 1e-2


class _Cast(NamedTuple):
    """All vertices of a batch of scenes, and the faces that can be seen.

    ``number`` (N,) are the numbers of the faces in the list of all meshes.
    """

    points: Points
    pixels: Pixels
    faces: Faces
    number: Tensor


@final
class Rasterizer(nn.Module):
    """Turns scenes (B, 17) into images (B, C, H, W) in [0, 1], differentiably.

    A face has one shade, ``(ambient + diffuse * max(0, normal . light)) * colour``; colours of
    corners are interpolated in perspective. Only faces turned towards the camera are drawn, which
    is all that can be seen of a closed mesh with consistent corners; a mesh with ``open_edges``
    needs ``two_sided=True``, or it has holes where its back shows. Faces with a corner nearer than
    ``near`` to the plane of the camera are not drawn.

    So that moving an edge changes the image smoothly, a face fades out within one pixel beyond its
    edges: its coverage at the distance d is (1 - d^2)^2, half of that where a face in view
    continues on the other side. Up to three such halos lie before the opaque face of a pixel. A
    small object therefore looks up to half a pixel larger on each side. The gradient reaches
    rotation, position and light of the scenes and, if they require one, the buffers ``vertices``,
    ``colours`` and ``backgrounds``. It is that of first order: nothing can be differentiated twice
    with respect to the pose.

    Each image depends on its own scene alone. With ``hard=True`` there are no halos: the image is
    sharp, cheaper, and has no useful gradient, so that asking for one is an error.

    After the approach of Liu, Li, Chen, Li, "Soft rasterizer", ICCV 2019, arXiv:1904.01786, with
    coverage outside of faces only and composited front to back instead of by a softmax.

    Args:
        meshes: what the mesh number of a scene refers to; all with the same channels C.
        size: of the images in pixels, (height, width) or the side of a square.
        backgrounds: what the background number of a scene refers to, in [0, 1]: colours (K, C) or
            pictures (K, C, H, W); None for black.
        fov: vertical field of view in degrees.
        ambient: share of the colour that is seen without light.
        diffuse: share of it that light straight on the face adds; the sum is at most 1.
        hard: without halos.
        two_sided: draw backs of faces as well, lit like fronts.
        near: distance from the plane of the camera, in the unit of the meshes.

    Raises:
        TypeError, ValueError: an argument is not what it has to be; in a call, scenes that are
            none, or a number in them that refers to nothing.

    """

    vertices: Tensor
    faces: Tensor
    neighbours: Tensor
    colours: Tensor
    backgrounds: Tensor
    vertex_starts: Tensor
    face_starts: Tensor

    def __init__(
        self,
        meshes: Sequence[Mesh],
        size: int | tuple[int, int],
        *,
        backgrounds: Tensor | None = None,
        fov: float = math.degrees(0.62),
        ambient: float = 0.35,
        diffuse: float = 0.65,
        hard: bool = False,
        two_sided: bool = False,
        near: float = 0.05,
    ) -> None:
        super().__init__()
        self.size = _checked_size(size)
        _check_numbers(fov, ambient, diffuse, near)
        self.fov, self.near = fov, near
        self.ambient, self.diffuse = ambient, diffuse
        self.hard, self.two_sided = hard, two_sided
        channels = _checked_channels(meshes)
        cornered = any(mesh.colours.dim() == 3 for mesh in meshes)
        colours = [mesh.corner_colours() if cornered else mesh.colours for mesh in meshes]
        vertices = [0, *accumulate(len(mesh.vertices) for mesh in meshes)]
        faces = [0, *accumulate(len(mesh.faces) for mesh in meshes)]
        self._hold("vertices", torch.cat([mesh.vertices for mesh in meshes]))
        self._hold("colours", torch.cat(colours).to(self.vertices))
        self._hold("backgrounds", _checked_backgrounds(backgrounds, channels, self.size))
        self.backgrounds = self.backgrounds.to(self.vertices)
        # Numbers of vertices and of neighbours count within their mesh.
        self._hold("faces", torch.cat([mesh.faces for mesh in meshes]))
        self._hold("neighbours", torch.cat([mesh.neighbours for mesh in meshes]))
        self._hold("vertex_starts", torch.tensor(vertices, device=self.vertices.device))
        self._hold("face_starts", torch.tensor(faces, device=self.vertices.device))

    def forward(self, scenes: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of scenes (B, 17), in their precision."""
        self._check(scenes)
        scene = unpack(scenes)
        self._check_numbers(scene)
        image = self._background(scene)
        cast = self._cast(scene)
        layers = 0 if self.hard else _LAYERS
        radius = 0 if self.hard else _RADIUS
        pixels = Pixels(*(values.detach() for values in cast.pixels))
        surface, halos = visible(pixels, cast.faces, len(scenes), self.size, radius, layers)
        light = self._light(cast, scene.light)
        colours = self.colours.to(scenes).movedim(0, -1)[..., cast.number]
        painter = _Painter(cast.pixels, cast.faces.corner, light * colours, self.size)
        image = image.scatter(1, *painter.opaque(surface, len(image)))
        for halo in reversed(halos):  # from the back: each is laid over what is there
            image = painter.over(image, halo)
        return image.view(len(image), len(scenes), *self.size).transpose(0, 1).contiguous()

    def extra_repr(self) -> str:
        """Name the settings."""
        return (
            f"meshes={len(self.face_starts) - 1}, faces={len(self.faces)}, "
            f"size={self.size}, backgrounds={len(self.backgrounds)}, fov={self.fov:g}, "
            f"ambient={self.ambient:g}, diffuse={self.diffuse:g}, hard={self.hard}, "
            f"two_sided={self.two_sided}, near={self.near:g}"
        )

    def _hold(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.detach().clone())

    def _check(self, scenes: Tensor) -> None:
        if scenes.dim() != 2 or scenes.shape[1] != WIDTH:
            raise ValueError(
                f"scenes must have the shape (B, {WIDTH}); got {tuple(scenes.shape)}. "
                "Scene(...).rows() makes them."
            )
        if scenes.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"scenes must be float32 or float64; got {scenes.dtype}")
        learnt = (scenes, self.vertices, self.colours, self.backgrounds)
        if self.hard and torch.is_grad_enabled() and any(one.requires_grad for one in learnt):
            raise ValueError(
                "a hard rasterizer has no useful gradient, and its input requires one. Use the "
                "soft one (hard=False), or torch.no_grad() where only the image is wanted."
            )

    def _check_numbers(self, scene: Scene) -> None:
        """Refuse rows that are no scenes of these meshes and backgrounds."""
        with torch.no_grad():
            turn = scene.rotation
            off = (turn @ turn.mT - torch.eye(3).to(turn)).abs().flatten(1)
            wrong = ~((off <= _ORTHONORMAL).all(1) & scene.position.isfinite().all(1))
            wrong |= ~scene.light.isfinite().all(1)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"row {row} is no scene: its rotation must be orthonormal, and all of it finite; "
                f"got rotation {turn[row].tolist()}, position {scene.position[row].tolist()}. "
                "Other perturbations treat the numbers as pixels: change scenes with Pose."
            )
        for name, values, count in (
            ("mesh", scene.mesh, len(self.face_starts) - 1),
            ("background", scene.background, len(self.backgrounds)),
        ):
            bad = (values < 0) | (values >= count)
            if bad.any():
                row = int(bad.nonzero()[0])
                raise ValueError(
                    f"scene {row} has the {name} {int(values[row])}, but the rasterizer has "
                    f"{count} (0 to {count - 1})"
                )

    def _background(self, scene: Scene) -> Tensor:
        """Return the backgrounds, (C, B * H * W)."""
        chosen = self.backgrounds.to(scene.position)[scene.background].transpose(0, 1)
        if chosen.dim() == 2:
            chosen = chosen[:, :, None, None].expand(-1, -1, *self.size)
        return chosen.reshape(len(chosen), -1)

    def _cast(self, scene: Scene) -> _Cast:
        """Place and project the meshes of the scenes, and list the faces that can be seen."""
        height, width = self.size
        focal = height / 2 / math.tan(math.radians(self.fov) / 2)
        vertex, owner, first_vertex = _members(self.vertex_starts, scene.mesh)
        vertices = self.vertices.to(scene.position)[vertex]
        points = place(vertices, owner, scene.rotation, scene.position)
        pixels = project(points, height, width, focal, self.near)
        face, owner, first_face = _members(self.face_starts, scene.mesh)
        corner = self.faces[face].T + first_vertex.index_select(0, owner)
        with torch.no_grad():
            area = twice_area(pixels, corner.contiguous())
            before = (-points.z >= self.near).index_select(0, corner.flatten()).view(3, -1).all(0)
            turned = area.abs() if self.two_sided else area
            seen = before & (turned > _FLAT)
        kept = seen.nonzero().squeeze(1)
        rank = seen.cumsum(0) - 1
        face, owner = face.index_select(0, kept), owner.index_select(0, kept)
        across = self.neighbours[face].T
        there = (across + first_face.index_select(0, owner)).clamp_min(0)
        across = torch.where((across >= 0) & seen[there], rank[there], -1).contiguous()
        return _Cast(points, pixels, Faces(corner[:, kept].contiguous(), owner, across), face)

    def _light(self, cast: _Cast, light: Tensor) -> Tensor:
        """Return the share of its colour that each face shows, (N,)."""
        corner, scene = cast.faces.corner, cast.faces.scene
        x, y, z = (values.index_select(0, corner.flatten()).view(3, -1) for values in cast.points)
        ax, ay, az = x[1] - x[0], y[1] - y[0], z[1] - z[0]
        bx, by, bz = x[2] - x[0], y[2] - y[0], z[2] - z[0]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        length = (nx * nx + ny * ny + nz * nz).clamp_min(1e-30).sqrt()
        lx, ly, lz = (values.index_select(0, scene) for values in light.unbind(1))
        facing = (nx * lx + ny * ly + nz * lz) / length
        if self.two_sided:
            facing = facing * twice_area(cast.pixels, corner).detach().sign()
        return self.ambient + self.diffuse * facing.clamp(0, 1)


class _Painter:
    """Lays faces on images (C, B * H * W), whose colours are (C, N), or (3, C, N) of corners."""

    def __init__(
        self, pixels: Pixels, corner: Tensor, colours: Tensor, size: tuple[int, int]
    ) -> None:
        self._pixels, self._corner, self._colours = pixels, corner, colours
        self._size = size

    def opaque(self, surface: Surface, channels: int) -> tuple[Tensor, Tensor]:
        """Return the pixels of the surface and its colours there, both (C, P)."""
        if self._colours.dim() == 2:
            colours = _columns(self._colours, surface.face)
        else:
            colours = self._mixed(surface.face, self._shares(surface))
        return surface.pixel.expand(channels, -1), colours

    def over(self, image: Tensor, halo: Halo) -> Tensor:
        """Return the image with a layer of halos laid over it."""
        ax, ay, aq = self._corner_values(halo.edge)
        bx, by, bq = self._corner_values(halo.edge, step=1)
        column, row = self._centre(halo.pixel)
        along = halo.along
        if self._colours.dim() == 2:
            # At the nearest point the distance does not change along the edge.
            colours = _columns(self._colours, halo.face)
        else:
            dx, dy = bx - ax, by - ay
            length = (dx * dx + dy * dy).clamp_min(1e-12)
            along = (((column - ax) * dx + (row - ay) * dy) / length).clamp(0, 1)
            colours = self._mixed_edge(halo, (1 - along) * aq, along * bq)
        dx, dy = column - ax - along * (bx - ax), row - ay - along * (by - ay)
        fade = (1 - (dx * dx + dy * dy) / _RADIUS**2).clamp_min(0)
        pixel = halo.pixel.expand(len(image), -1)
        under = image.gather(1, pixel)
        return image.scatter(1, pixel, under + halo.weight * fade * fade * (colours - under))

    def _corner_values(self, edge: Tensor, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return column, row and closeness where edges begin, or ``step`` corners on."""
        vertex = self._corner.roll(-step, 0).flatten().index_select(0, edge)
        column, row, closeness = (values.index_select(0, vertex) for values in self._pixels)
        return column, row, closeness

    def _centre(self, pixel: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self._size
        line = torch.div(pixel, width, rounding_mode="floor")
        column, row = pixel - line * width, line % height
        kind = self._pixels.column.dtype
        return column.to(kind) + 0.5, row.to(kind) + 0.5

    def _shares(self, surface: Surface) -> list[Tensor]:
        """Return how much each corner counts in the pixels' centres, in perspective."""
        x, y, near = zip(*(self._corner_values(surface.face, i) for i in range(3)), strict=True)
        column, row = self._centre(surface.pixel)
        areas = []
        for one, other in ((1, 2), (2, 0), (0, 1)):
            dx, dy = x[other] - x[one], y[other] - y[one]
            areas.append(dy * (column - x[one]) - dx * (row - y[one]))
        turn = (areas[0] + areas[1] + areas[2]).detach().sign()
        parts = [(a * turn).clamp_min(0) * q for a, q in zip(areas, near, strict=True)]
        total = (parts[0] + parts[1] + parts[2]).clamp_min(1e-30)
        return [part / total for part in parts]

    def _mixed(self, face: Tensor, shares: list[Tensor]) -> Tensor:
        first, second, third = (
            share * _columns(colours, face)
            for share, colours in zip(shares, self._colours, strict=True)
        )
        return first + second + third

    def _mixed_edge(self, halo: Halo, first: Tensor, second: Tensor) -> Tensor:
        """Return the colours of points on edges, from the shares of the edges' ends."""
        total = first + second
        channels = self._colours.shape[1]
        begin = self._colours.transpose(0, 1).reshape(channels, -1)
        end = self._colours.roll(-1, 0).transpose(0, 1).reshape(channels, -1)
        colours = first * _columns(begin, halo.edge) + second * _columns(end, halo.edge)
        return colours / total


def _columns(table: Tensor, number: Tensor) -> Tensor:
    """Return the columns of a table (C, N) with these numbers (P,)."""
    return table.gather(1, number.expand(len(table), -1))


def _members(starts: Tensor, mesh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List what belongs to the meshes (B,), one after the other.

    Returns its numbers, the row whose it is, and the place in the list where each row begins.
    """
    count = starts[mesh + 1] - starts[mesh]
    first = count.cumsum(0) - count
    row = torch.repeat_interleave(count)
    shift = starts[mesh] - first
    return torch.arange(len(row), device=row.device) + shift.index_select(0, row), row, first


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise ValueError(
            f"size must be (height, width) or one side, whole numbers of at least 1; got {size!r}"
        )
    return pair


def _check_numbers(fov: float, ambient: float, diffuse: float, near: float) -> None:
    if not 0 < fov < 180:
        raise ValueError(f"fov must lie between 0 and 180 degrees; got {fov}")
    if not (ambient >= 0 and diffuse >= 0 and ambient + diffuse <= 1 + 1e-9):
        raise ValueError(
            "ambient and diffuse must be at least 0 and together at most 1, or colours leave "
            f"[0, 1]; got {ambient} and {diffuse}"
        )
    if not 0 < near < math.inf:
        raise ValueError(f"near must be a distance above 0; got {near}")


def _checked_channels(meshes: Sequence[Mesh]) -> int:
    if not meshes:
        raise ValueError("a rasterizer needs at least one mesh; got none")
    channels = [mesh.colours.shape[-1] for mesh in meshes]
    for number, count in enumerate(channels):
        if count != channels[0]:
            raise ValueError(
                f"all meshes must have the same channels; mesh 0 has {channels[0]}, mesh {number} "
                f"has {count}"
            )
    return channels[0]


def _checked_backgrounds(given: Tensor | None, channels: int, size: tuple[int, int]) -> Tensor:
    if given is None:
        return torch.zeros(1, channels)
    if not len(given) or tuple(given.shape[1:]) not in ((channels,), (channels, *size)):
        raise ValueError(
            f"backgrounds must be colours (K, {channels}) or pictures "
            f"{('K', channels, *size)}; got {tuple(given.shape)}".replace("'", "")
        )
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(
            f"backgrounds must lie in [0, 1]; got min {float(given.min()):g}, max "
            f"{float(given.max()):g}"
        )
    return given
