"""Ten classes of objects built from solids, other shapes of each, and individuals of them.

The objects are grey and stand upright (y is up), about two units across, centred where a camera
4.2 away sees all of them. Each solid is a part of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from advbench.attacks.randomness import Draws
from advbench.attacks.rendering.mesh import Mesh, join
from advbench.data.shapes import box, cone, cylinder, sphere

STRETCH = 0.2
"""The largest share by which an individual is longer or shorter along an axis than its kind."""
ALBEDO = (0.55, 0.90)
"""The range of an individual's mean grey."""
PART_ALBEDO = (0.3, 1.0)
"""The range of a part's grey."""
PART_SPREAD = 0.12
"""The standard deviation of a part's grey around the individual's."""

_BOTH = (-1, 1)
_CORNERS = [(x, z) for x in _BOTH for z in _BOTH]


def instances(kinds: Sequence[Mesh], draws: Draws) -> list[Mesh]:
    """Return an individual of each of ``kinds``, drawn from the row of the same place.

    Each axis is stretched by 1 ± 0.2. The individual's grey is uniform in 0.55 to 0.90; each part
    deviates from it by N(0, 0.12), within 0.3 to 1. An individual depends on its kind and its row
    alone. Individuals of one kind share what is known of its edges, so pass the same mesh for
    them rather than building it anew.

    Raises ValueError where the numbers of kinds and rows differ.
    """
    if len(kinds) != len(draws.ids):
        raise ValueError(
            f"kinds must be one per row of draws; got {len(kinds)} kinds, {len(draws.ids)} rows"
        )
    if not kinds:
        return []
    parts = {id(kind): _numbered_parts(kind) for kind in kinds}
    most = max(int(numbers.max()) + 1 for numbers in parts.values())
    stretch = 1 + STRETCH * (2 * draws.fork(0).uniform((3,)) - 1)
    darkest, brightest = ALBEDO
    albedo = darkest + (brightest - darkest) * draws.fork(1).uniform((1,))
    greys = (albedo + PART_SPREAD * draws.fork(2).normal((most,))).clamp(*PART_ALBEDO)
    return [
        kind.stretched(factors).painted(grey[parts[id(kind)]].unsqueeze(1))
        for kind, factors, grey in zip(kinds, stretch, greys, strict=True)
    ]


def _numbered_parts(kind: Mesh) -> Tensor:
    """The part of each face, (F,), counted from 0."""
    if kind.parts is None:
        return torch.zeros(len(kind.faces), dtype=torch.int64)
    numbers: Tensor = kind.parts.unique(return_inverse=True)[1]
    return numbers


def _table() -> Mesh:
    top = box((1.8, 0.15, 1.2), (0, 0.45, 0))
    legs = [box((0.14, 0.95, 0.14), (0.78 * x, -0.1, 0.48 * z)) for x, z in _CORNERS]
    return join([top, *legs])


def _chair() -> Mesh:
    seat = box((0.9, 0.14, 0.9))
    back = box((0.9, 0.95, 0.14), (0, 0.5, -0.4))
    legs = [box((0.14, 0.75, 0.14), (0.38 * x, -0.4, 0.38 * z)) for x, z in _CORNERS]
    return join([seat, back, *legs])


def _car() -> Mesh:
    body = box((2, 0.4, 0.9))
    cabin = box((1.05, 0.38, 0.8), (-0.1, 0.38, 0))
    return join([body, cabin, *_wheels(0.25, 0.6, -0.22)])


def _wheels(radius: float, x: float, y: float) -> list[Mesh]:
    return [cylinder(radius, 0.16, 10, 2, (x * i, y, 0.45 * j)) for i, j in _CORNERS]


def _plane() -> Mesh:
    fuselage = cylinder(0.2, 1.9, 8, 0)
    wing = box((0.45, 0.06, 2), (0.1, 0, 0))
    tail = box((0.28, 0.06, 0.75), (-0.82, 0.05, 0))
    fin = box((0.3, 0.45, 0.06), (-0.82, 0.25, 0))
    return join([fuselage, wing, tail, fin])


def _mug() -> Mesh:
    body = cylinder(0.55, 1.2, 12)
    grips = [box((0.35, 0.12, 0.14), (0.675, 0.3 * y, 0)) for y in _BOTH]
    upright = box((0.12, 0.72, 0.14), (0.91, 0, 0))
    return join([body, *grips, upright])


def _hammer() -> Mesh:
    handle = cylinder(0.12, 1.7, 8, 1, (0, -0.2, 0))
    head = box((1.1, 0.38, 0.38), (0.05, 0.75, 0))
    return join([handle, head])


def _dumbbell() -> Mesh:
    bar = cylinder(0.12, 1.4, 8, 0)
    discs = [cylinder(0.5, 0.35, 10, 0, (0.75 * x, 0, 0)) for x in _BOTH]
    return join([bar, *discs])


def _rocket() -> Mesh:
    hull = cylinder(0.32, 1.3, 10, 1, (0, -0.1, 0))
    nose = cone(0.32, 0.6, 10, 1, (0, 0.55, 0))
    fins = [box((1.1, 0.4, 0.06), (0, -0.6, 0)), box((0.06, 0.4, 1.1), (0, -0.6, 0))]
    return join([hull, nose, *fins])


def _snowman() -> Mesh:
    return join([sphere(0.55, (0, -0.5, 0)), sphere(0.4, (0, 0.25, 0)), sphere(0.28, (0, 0.8, 0))])


def _lamp() -> Mesh:
    base = cylinder(0.5, 0.12, 10, 1, (0, -0.85, 0))
    pole = cylinder(0.08, 1.2, 8, 1, (0, -0.25, 0))
    shade = cone(0.65, 0.7, 10, 1, (0, 0.2, 0))
    return join([base, pole, shade])


def _round_table() -> Mesh:
    top = cylinder(0.85, 0.12, 16, 1, (0, 0.4, 0))
    legs = [cylinder(0.07, 0.95, 6, 1, (0.5 * x, -0.1, 0.5 * z)) for x, z in _CORNERS]
    return join([top, *legs])


def _railed_chair() -> Mesh:
    seat = cylinder(0.5, 0.1, 12)
    legs = [cylinder(0.06, 0.8, 6, 1, (0.32 * x, -0.42, 0.32 * z)) for x, z in _CORNERS]
    posts = [box((0.1, 1, 0.1), (0.36 * x, 0.5, -0.36)) for x in _BOTH]
    rails = [box((0.64, 0.14, 0.06), (0, y, -0.36)) for y in (0.35, 0.62, 0.89)]
    return join([seat, *legs, *posts, *rails])


def _van() -> Mesh:
    body = box((2, 0.36, 0.9))
    cabin = box((1.4, 0.56, 0.84), (-0.28, 0.46, 0))
    return join([body, cabin, *_wheels(0.22, 0.68, -0.2)])


def _swept_plane() -> Mesh:
    fuselage = cylinder(0.17, 1.5, 10, 0, (-0.15, 0, 0))
    nose = cone(0.17, 0.4, 10, 0, (0.6, 0, 0))
    wings = [_swept(box((0.4, 0.05, 1), (0.25, 0.12, 0.5 * z)), 0.4 * z) for z in _BOTH]
    tails = [_swept(box((0.24, 0.05, 0.42), (-0.74, 0.08, 0.21 * z)), 0.5 * z) for z in _BOTH]
    fin = box((0.24, 0.42, 0.05), (-0.78, 0.3, 0))
    return join([fuselage, nose, *wings, *tails, fin])


def _swept(solid: Mesh, slope: float) -> Mesh:
    """The solid sheared: the farther up z, the farther down x."""
    shear = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-slope, 0.0, 1.0]])
    return Mesh(solid.vertices @ shear, solid.faces, solid.colours)


def _wide_mug() -> Mesh:
    body = cylinder(0.66, 0.85, 10)
    grips = [box((0.36, 0.1, 0.16), (0.75, 0.24 * y, 0)) for y in _BOTH]
    upright = cylinder(0.1, 0.6, 8, 1, (0.95, 0, 0))
    return join([body, *grips, upright])


def _peen_hammer() -> Mesh:
    handle = box((0.18, 1.7, 0.22), (0, -0.2, 0))
    head = cylinder(0.25, 0.65, 10, 0, (-0.15, 0.72, 0))
    peen = cone(0.25, 0.55, 10, 0, (0.175, 0.72, 0))
    return join([handle, head, peen])


def _ball_dumbbell() -> Mesh:
    bar = cylinder(0.1, 1, 8, 0)
    return join([bar, *(sphere(0.42, (0.75 * x, 0, 0)) for x in _BOTH)])


def _boosted_rocket() -> Mesh:
    hull = cylinder(0.26, 1.3, 8, 1, (0, -0.15, 0))
    nose = cone(0.26, 0.55, 8, 1, (0, 0.5, 0))
    boosters = [cylinder(0.15, 0.8, 8, 1, (0.4 * x, -0.5, 0)) for x in _BOTH]
    caps = [cone(0.15, 0.3, 8, 1, (0.4 * x, -0.1, 0)) for x in _BOTH]
    fin = box((0.06, 0.35, 1), (0, -0.65, 0))
    return join([hull, nose, *boosters, *caps, fin])


def _hatted_snowman() -> Mesh:
    body, head = sphere(0.62, (0, -0.4, 0)), sphere(0.38, (0, 0.42, 0))
    brim = cylinder(0.42, 0.06, 10, 1, (0, 0.7, 0))
    hat = cylinder(0.26, 0.34, 10, 1, (0, 0.88, 0))
    carrot = cone(0.09, 0.35, 6, 2, (0, 0.42, 0.33))
    return join([body, head, brim, hat, carrot])


def _drum_lamp() -> Mesh:
    base = box((0.75, 0.1, 0.75), (0, -0.85, 0))
    pole = cylinder(0.06, 1.2, 6, 1, (0, -0.25, 0))
    shade = cylinder(0.5, 0.55, 12, 1, (0, 0.55, 0))
    return join([base, pole, shade])


CLASSES: Mapping[str, Callable[[], Mesh]] = MappingProxyType(
    {
        "table": _table,
        "chair": _chair,
        "car": _car,
        "plane": _plane,
        "mug": _mug,
        "hammer": _hammer,
        "dumbbell": _dumbbell,
        "rocket": _rocket,
        "snowman": _snowman,
        "lamp": _lamp,
    }
)
"""What builds an object of each class; labels are the places in this order."""

VARIANTS: Mapping[str, Callable[[], Mesh]] = MappingProxyType(
    {
        "table": _round_table,
        "chair": _railed_chair,
        "car": _van,
        "plane": _swept_plane,
        "mug": _wide_mug,
        "hammer": _peen_hammer,
        "dumbbell": _ball_dumbbell,
        "rocket": _boosted_rocket,
        "snowman": _hatted_snowman,
        "lamp": _drum_lamp,
    }
)
"""What builds another shape of each class, for tests on shapes never trained on."""
