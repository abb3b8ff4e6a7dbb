"""From the object's frame to the pixels."""

from typing import NamedTuple

from torch import Tensor


class Points(NamedTuple):
    """Points before the camera, coordinate by coordinate, each (N,); the camera looks along -z."""

    x: Tensor
    y: Tensor
    z: Tensor


class Pixels(NamedTuple):
    """Points on the image, each (N,): pixel (i, j) has its centre at row i + .5, column j + .5.

    ``closeness`` is one over the depth; unlike the depth it is linear along a line on the image.
    """

    column: Tensor
    row: Tensor
    closeness: Tensor


def place(vertices: Tensor, scene: Tensor, rotation: Tensor, position: Tensor) -> Points:
    """Turn and move vertices (N, 3), each by the ``rotation`` and ``position`` of its ``scene``.

    ``scene`` is (N,) int64, ``rotation`` (B, 3, 3), ``position`` (B, 3).
    """
    x, y, z = vertices.unbind(1)

    def coordinate(axis: int) -> Tensor:
        turn = [rotation[:, axis, i].index_select(0, scene) for i in range(3)]
        turned = turn[0] * x + turn[1] * y + turn[2] * z
        return turned + position[:, axis].index_select(0, scene)

    return Points(coordinate(0), coordinate(1), coordinate(2))


def project(points: Points, height: int, width: int, focal: float, near: float) -> Pixels:
    """Project points; ``focal`` is in pixels, and none counts as nearer than ``near``."""
    closeness = (-points.z).clamp_min(near).reciprocal()
    scale = focal * closeness
    return Pixels(width / 2 + points.x * scale, height / 2 - points.y * scale, closeness)
