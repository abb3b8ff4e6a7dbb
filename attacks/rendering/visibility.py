"""Which faces are seen in which pixels; nothing here is differentiated.

Pairs of a face and a pixel are listed, never a table of all faces and all pixels. Edge i of a face
leads from its corner i to corner i + 1; what belongs to corners or edges is (3, N), an edge of a
face is addressed by its place in the flattened table.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.attacks.rendering.camera import Pixels

SLACK = 1e-3
"""Pixels by which a face reaches over its edge, so that no rounding opens a gap between two."""

_BITS = 31
_LAST = (1 << _BITS) - 1
_LEVEL = 1e-6  # steepness below which an edge does not bound a row of pixels


class Faces(NamedTuple):
    """The faces that can be seen, in all scenes of a batch.

    ``corner`` (3, N) numbers the projected vertices, ``scene`` (N,) the scenes; ``across`` (3, N)
    is the seen face on the other side of an edge, -1 where there is none.
    """

    corner: Tensor
    scene: Tensor
    across: Tensor


class Surface(NamedTuple):
    """Where the frontmost face covers a pixel's centre: ``face`` and ``pixel``, both (P,)."""

    face: Tensor
    pixel: Tensor


class Halo(NamedTuple):
    """Pixels that a face nearly reaches; all are (P,).

    ``edge`` is the nearest edge of ``face``, ``along`` the share of it that lies before the point
    nearest to the pixel's centre, ``weight`` the coverage where that point is at no distance.
    """

    face: Tensor
    pixel: Tensor
    edge: Tensor
    along: Tensor
    weight: Tensor


class Visible(NamedTuple):
    """What is seen: the opaque surface, and the halos before it, layer by layer from the front.

    A pixel occurs once in the surface and once at most in each layer.
    """

    surface: Surface
    halos: list[Halo]


class _Outline(NamedTuple):
    """Edges as lines: ``across * column + down * row + offset`` is the distance, inside positive.

    The sides are straight and the distances in pixels; all are (3, N).
    """

    across: Tensor
    down: Tensor
    offset: Tensor


class _Pairs(NamedTuple):
    """Faces and the pixels near or on them: (P,), with the distances from the three edges."""

    face: Tensor
    pixel: Tensor
    column: Tensor
    row: Tensor
    distances: tuple[Tensor, Tensor, Tensor]


def twice_area(pixels: Pixels, corner: Tensor) -> Tensor:
    """Return twice the signed area (N,) on the image; positive for faces turned to the camera."""
    x, y = _at(pixels.column, corner), _at(pixels.row, corner)
    return (x[2] - x[0]) * (y[1] - y[0]) - (x[1] - x[0]) * (y[2] - y[0])


@torch.no_grad()
def visible(
    pixels: Pixels, faces: Faces, scenes: int, size: tuple[int, int], spread: float, layers: int
) -> Visible:
    """Find what is seen of ``faces`` in images of ``size``, (height, width).

    Halos spread ``spread`` pixels beyond a face and are kept in at most ``layers`` layers. Pixels
    are numbered through all images, row by row.
    """
    outline = _outline(pixels, faces.corner)
    pairs = _pairs(pixels, faces, outline, size, spread)
    total = scenes * size[0] * size[1]
    inside = torch.minimum(torch.minimum(*pairs.distances[:2]), pairs.distances[2]) >= -SLACK
    front = _frontmost(pixels, faces.corner, _chosen(pairs, inside), total)
    covered = front.nonzero().squeeze(1)
    surface = Surface(_LAST - (front.index_select(0, covered) & _LAST), covered)
    if not layers:
        return Visible(surface, [])
    halo, key = _halos(pixels, faces, _chosen(pairs, ~inside), front, spread)
    return Visible(surface, _peeled(halo, key, total, layers))


def _outline(pixels: Pixels, corner: Tensor) -> _Outline:
    x, y = _at(pixels.column, corner), _at(pixels.row, corner)
    dx, dy = x.roll(-1, 0) - x, y.roll(-1, 0) - y
    turn = twice_area(pixels, corner).sign()
    scale = turn / (dx.square() + dy.square()).sqrt().clamp_min(1e-12)
    across, down = dy * scale, -dx * scale
    return _Outline(across, down, -(across * x + down * y))


def _pairs(
    pixels: Pixels, faces: Faces, outline: _Outline, size: tuple[int, int], spread: float
) -> _Pairs:
    """List the pixels less than ``spread`` outside of all three edges, row by row."""
    height, width = size
    x, y = _at(pixels.column, faces.corner), _at(pixels.row, faces.corner)
    reach = spread + SLACK
    first, count = _centres(y.amin(0) - reach, y.amax(0) + reach, height)
    face, line = _runs(first, count)
    row = line.to(x.dtype) + 0.5
    slope = [values.index_select(0, face) for values in outline.across]
    start = [
        down.index_select(0, face) * row + offset.index_select(0, face)
        for down, offset in zip(outline.down, outline.offset, strict=True)
    ]
    left, right = (
        (x.amin(0) - reach).index_select(0, face),
        (x.amax(0) + reach).index_select(0, face),
    )
    for a, b in zip(slope, start, strict=True):
        bound = -(b + reach) / a
        left = torch.where(a > _LEVEL, torch.maximum(left, bound), left)
        right = torch.where(a < -_LEVEL, torch.minimum(right, bound), right)
    first, count = _centres(left, right, width)
    run, place = _runs(first, count)
    column = place.to(x.dtype) + 0.5
    above = (faces.scene.index_select(0, face) * height + line) * width
    distances = [
        a.index_select(0, run) * column + b.index_select(0, run)
        for a, b in zip(slope, start, strict=True)
    ]
    return _Pairs(
        face.index_select(0, run),
        above.index_select(0, run) + place,
        column,
        row.index_select(0, run),
        (distances[0], distances[1], distances[2]),
    )


def _centres(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the first of ``size`` pixels with a centre in [low, high], and how many have one."""
    first = (low - 0.5).ceil().clamp(0, size)
    last = (high - 0.5).floor().clamp(-1, size - 1)
    return first.long(), (last - first + 1).clamp_min(0).long()


def _runs(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Count up from each ``first``, ``count`` times; return whose turn it is, and the numbers."""
    owner = torch.repeat_interleave(count)
    shift = first - (count.cumsum(0) - count)
    return owner, torch.arange(len(owner), device=owner.device) + shift.index_select(0, owner)


def _chosen(pairs: _Pairs, mask: Tensor) -> _Pairs:
    chosen = mask.nonzero().squeeze(1)
    face, pixel, column, row = (values.index_select(0, chosen) for values in pairs[:4])
    one, two, three = (values.index_select(0, chosen) for values in pairs.distances)
    return _Pairs(face, pixel, column, row, (one, two, three))


def _frontmost(pixels: Pixels, corner: Tensor, inside: _Pairs, total: int) -> Tensor:
    """Return the key of the frontmost face of each pixel, 0 where there is none."""
    x, y, near = (_at(values, corner) for values in pixels)
    dx, dy, dn = (values[1:] - values[0] for values in (x, y, near))
    area = dx[0] * dy[1] - dx[1] * dy[0]
    across = (dn[0] * dy[1] - dn[1] * dy[0]) / area
    down = (dx[0] * dn[1] - dx[1] * dn[0]) / area
    face = inside.face
    closeness = (
        near[0].index_select(0, face)
        + across.index_select(0, face) * (inside.column - x[0].index_select(0, face))
        + down.index_select(0, face) * (inside.row - y[0].index_select(0, face))
    )
    # A sliver's plane is steep: rounding could carry it beyond its own corners.
    closeness = torch.maximum(closeness, near.amin(0).index_select(0, face))
    closeness = torch.minimum(closeness, near.amax(0).index_select(0, face))
    return _top(_key(closeness, face), inside.pixel, total)


def _halos(
    pixels: Pixels, faces: Faces, outside: _Pairs, front: Tensor, spread: float
) -> tuple[Halo, Tensor]:
    """Return the halos that are not hidden, and their keys."""
    count = faces.corner.shape[1]
    first, second, third = outside.distances
    # The nearest point lies on the edge whose line is farthest away.
    edge = torch.where(second < first, 1, 0)
    edge = torch.where(third < torch.minimum(first, second), 2, edge)
    edge = edge * count + outside.face
    x, y, near = (_at(values, faces.corner) for values in pixels)
    dx, dy, dn = (values.roll(-1, 0) - values for values in (x, y, near))
    dx, dy = dx.flatten().index_select(0, edge), dy.flatten().index_select(0, edge)
    x, y = x.flatten().index_select(0, edge), y.flatten().index_select(0, edge)
    away_x, away_y = outside.column - x, outside.row - y
    length = (dx.square() + dy.square()).clamp_min(1e-12)
    along = ((away_x * dx + away_y * dy) / length).clamp(0, 1)
    distance = (away_x - along * dx).square() + (away_y - along * dy).square()
    closeness = near.flatten().index_select(0, edge) + along * dn.flatten().index_select(0, edge)
    key = _key(closeness, outside.face)
    behind = front.index_select(0, outside.pixel)
    across = faces.across.flatten().index_select(0, edge)
    # Two faces share an edge, and each has half of its halo on the other, whichever is nearer.
    shown = (key > behind) | ((across >= 0) & (across == _LAST - (behind & _LAST)))
    kept = (shown & (distance < spread**2)).nonzero().squeeze(1)
    weight = torch.where(across >= 0, 0.5, 1.0).to(along)
    halo = Halo(outside.face, outside.pixel, edge, along, weight)
    return _halo_at(halo, kept), key.index_select(0, kept)


def _peeled(halo: Halo, key: Tensor, total: int, layers: int) -> list[Halo]:
    """Take the frontmost halos off, layer by layer."""
    found = []
    for _ in range(layers):
        first = _top(key, halo.pixel, total).index_select(0, halo.pixel) == key
        found.append(_halo_at(halo, first.nonzero().squeeze(1)))
        rest = (~first).nonzero().squeeze(1)
        halo, key = _halo_at(halo, rest), key.index_select(0, rest)
    return found


def _halo_at(halo: Halo, chosen: Tensor) -> Halo:
    return Halo(*(values.index_select(0, chosen) for values in halo))


def _key(closeness: Tensor, face: Tensor) -> Tensor:
    """Return numbers that are larger the nearer, and among equals the earlier a face is.

    The bits of positive numbers are ordered like the numbers.
    """
    return (closeness.float().view(torch.int32).long() << _BITS) | (_LAST - face)


def _top(key: Tensor, pixel: Tensor, total: int) -> Tensor:
    return key.new_zeros(total).scatter_reduce_(0, pixel, key, "amax")


def _at(values: Tensor, corner: Tensor) -> Tensor:
    """Return the values of the corners, (3, N)."""
    return values.index_select(0, corner.flatten()).view(3, -1)
