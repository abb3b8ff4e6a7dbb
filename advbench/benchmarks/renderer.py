"""How fast the rasterizer is and how good its gradient: `python -m advbench.benchmarks.renderer`.

What is measured, and against what, is written above the tables (`METHOD`). How the embedded objects
look is drawn beside them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional

from advbench.attacks.randomness import Draws
from advbench.attacks.rendering.mesh import Mesh
from advbench.attacks.rendering.rasterizer import Rasterizer
from advbench.attacks.rendering.scene import Scene
from advbench.benchmarks.machine import facts
from advbench.benchmarks.measuring import Spread, cpu_seconds, spin
from advbench.benchmarks.report import bullets, out_option, store
from advbench.data.objects import CLASSES
from advbench.data.scenes import VIEW
from advbench.files import write_atomic

SIZES = (32, 64, 128)
_STEP = 0.03  # of the differences, in radians and in the unit of the meshes

METHOD = """\
Speed: pictures per second of CPU time of one process, soft (`forward`), soft with the gradient of
the sum of the pictures to the scenes (`with gradient`), and with `hard=True`; the median over the
repetitions, the range in brackets. The three are timed in turn. Noise is the slowest over the
fastest run of a fixed loop meanwhile: smaller differences than that are not established.

Gradient: each picture is weighed by smooth noise of its own and summed. The gradient of that number
to the six numbers of the pose, a turn in radians and a shift in the unit of the meshes, is compared
with central differences of hard pictures of a multiple of the size, averaged down. Poses are
uniform rotations, well in view. Given are the median and the 10th percentile of the cosine, and the
median of the ratio of the norms, the gradient's over that of the differences.
"""


@dataclass(frozen=True)
class RendererLine:
    """What was measured on one mesh at one size; None where it was not."""

    mesh: str
    faces: int
    size: int
    batch: int
    forward: float  # pictures per CPU second: median, lowest, highest
    forward_low: float
    forward_high: float
    gradient: float
    gradient_low: float
    gradient_high: float
    hard: float
    hard_low: float
    hard_high: float
    noise: float  # slowest over fastest run of a fixed spin loop
    poses: int | None = None
    step: float | None = None  # of the differences, in radians and in the unit of the meshes
    finer: int | None = None  # times the size at which the differences are taken
    cosine: float | None = None  # median
    cosine_low: float | None = None  # 10th percentile
    norms: float | None = None  # median ratio, the gradient's over that of the differences


@dataclass(frozen=True)
class Agreement:
    """Two gradients of the same number by the pose, (B, 6): by autograd and by differences."""

    gradient: Tensor
    differences: Tensor

    @property
    def cosine(self) -> Tensor:
        """The cosine of the angle between the two, (B,)."""
        return functional.cosine_similarity(self.gradient, self.differences)

    @property
    def norms(self) -> Tensor:
        """The norm of the gradient over that of the differences, (B,)."""
        one, other = (g.square().sum(1) for g in (self.gradient, self.differences))
        return (one / other).sqrt()


def torus(around: int = 21, across: int = 12, radius: float = 0.7, tube: float = 0.3) -> Mesh:
    """Return a torus of 2 * around * across faces, each with a grey of its own."""
    i, j = torch.arange(around).repeat_interleave(across), torch.arange(across).repeat(around)
    u, v = i * (2 * math.pi / around), j * (2 * math.pi / across)
    reach = radius + tube * v.cos()
    vertices = torch.stack([reach * u.cos(), reach * u.sin(), tube * v.sin()], 1)

    def corner(di: int, dj: int) -> Tensor:
        return (i + di) % around * across + (j + dj) % across

    a, b, c, d = corner(0, 0), corner(1, 0), corner(1, 1), corner(0, 1)
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    generator = torch.Generator().manual_seed(0)
    return Mesh(vertices, faces, 0.4 + 0.55 * torch.rand(len(faces), 1, generator=generator))


def poses(count: int, seed: int = 0) -> Scene:
    """Draw scenes with the first mesh and background, anyhow turned and well in view."""
    generator = torch.Generator().manual_seed(seed)
    q = functional.normalize(torch.randn(count, 4, generator=generator), dim=1)
    shift = torch.rand(count, 3, generator=generator) * 2 - 1
    position = torch.tensor([0.0, 0.0, -4.2]) + shift * torch.tensor([0.12, 0.12, 0.5])
    light = torch.tensor([0.3, 0.8, 0.6]) + 0.2 * torch.randn(count, 3, generator=generator)
    zero = torch.zeros(count, dtype=torch.int64)
    return Scene(zero, zero, _turned(q), position, functional.normalize(light, dim=1))


def moved(scene: Scene, p: Tensor) -> Tensor:
    """Return rows (B, 17) of scenes turned by the first three of ``p`` (B, 6), shifted by three."""
    turn = torch.linalg.matrix_exp(_skew(p[:, :3]))
    return scene._replace(rotation=turn @ scene.rotation, position=scene.position + p[:, 3:]).rows()


def agreement(
    soft: Callable[[Tensor], Tensor],
    fine: Callable[[Tensor], Tensor],
    scene: Scene,
    *,
    step: float = _STEP,
    seed: int = 0,
) -> Agreement:
    """Compare the gradient of ``soft`` by the pose with central differences of ``fine``.

    Both render rows of scenes; the pictures of ``fine`` may be a multiple of the size of the
    others and are averaged down.
    """
    p = torch.zeros(len(scene.mesh), 6, requires_grad=True)
    images = soft(moved(scene, p))
    height, width = images.shape[-2:]
    weights = _smooth(images.shape, seed)
    (gradient,) = torch.autograd.grad((images * weights).sum(), p)
    differences = torch.zeros_like(gradient)
    with torch.no_grad():
        for i, shift in enumerate(step * torch.eye(6)):
            ahead, back = (fine(moved(scene, sign * shift + 0 * p)) for sign in (1, -1))
            change = functional.adaptive_avg_pool2d(ahead - back, (height, width))
            differences[:, i] = (change * weights).flatten(1).sum(1) / (2 * step)
    return Agreement(gradient, differences)


def measure(
    name: str,
    mesh: Mesh,
    size: int,
    *,
    batch: int = 32,
    repetitions: int = 7,
    compared: int = 100,
    finer: int = 4,
) -> RendererLine:
    """Measure one mesh at one size; without poses ``compared`` its gradient is left out."""
    grey = torch.full((1, mesh.colours.shape[-1]), 0.3)
    soft = Rasterizer([mesh], size, backgrounds=grey)
    hard = Rasterizer([mesh], size, backgrounds=grey, hard=True)
    scenes = poses(batch).rows()

    def gradient() -> None:
        rows = scenes.clone().requires_grad_()
        torch.autograd.grad(soft(rows).sum(), rows)

    forward, slope, sharp, noise = _rates(
        [lambda: soft(scenes), gradient, lambda: hard(scenes)], batch, repetitions
    )
    line = RendererLine(
        mesh=name,
        faces=len(mesh.faces),
        size=size,
        batch=batch,
        forward=forward.median,
        forward_low=forward.low,
        forward_high=forward.high,
        gradient=slope.median,
        gradient_low=slope.low,
        gradient_high=slope.high,
        hard=sharp.median,
        hard_low=sharp.low,
        hard_high=sharp.high,
        noise=noise.high / noise.low,
    )
    if not compared:
        return line
    fine = Rasterizer([mesh], finer * size, backgrounds=grey, hard=True)
    both = agreement(soft, fine, poses(compared, seed=1), step=_STEP)
    return replace(
        line,
        poses=compared,
        step=_STEP,
        finer=finer,
        cosine=float(both.cosine.median()),
        cosine_low=float(both.cosine.quantile(0.1)),
        norms=float(both.norms.median()),
    )


def sheet(meshes: Mapping[str, Mesh], size: int = 128) -> bytes:
    """Draw the meshes in their canonical pose, five in a row, as a PNG."""
    from matplotlib.figure import Figure

    numbers = torch.arange(len(meshes))
    zero = torch.zeros_like(numbers)
    scenes = VIEW.scenes(numbers, zero, Draws(zero, zero, zero, zero), numbers >= 0)
    look = Rasterizer(list(meshes.values()), size, backgrounds=torch.tensor([[0.1]]))
    rows = math.ceil(len(meshes) / 5)
    figure = Figure(figsize=(7.5, 1.75 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 5, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, name, image in zip(axes, meshes, look(scenes), strict=False):
        axis.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    return stream.getvalue()


def _rates(calls: Sequence[Callable[[], object]], batch: int, repetitions: int) -> list[Spread]:
    """Time the calls in turn: pictures per second of each, and the seconds of the spin loop."""
    rates: list[list[float]] = [[] for _ in calls]
    spins = []
    for call in calls:
        call()  # warms up
    for _ in range(repetitions):
        spins.append(cpu_seconds(spin))
        for own, call in zip(rates, calls, strict=True):
            own.append(batch / cpu_seconds(call, 3))
    return [Spread.of(values) for values in (*rates, spins)]


def run(
    folder: Path,
    meshes: Mapping[str, Mesh],
    *,
    repetitions: int = 7,
    compared: int = 100,
) -> list[RendererLine]:
    """Measure and write renderer.csv and renderer.md into ``folder``.

    The torus is measured at all ``SIZES``, its gradient at the first two; the ``meshes`` at the
    second.
    """
    settings = [("torus", torus(), size) for size in SIZES]
    settings += [(name, mesh, SIZES[1]) for name, mesh in meshes.items()]
    lines = [
        measure(
            name, mesh, size, repetitions=repetitions, compared=compared if size <= SIZES[1] else 0
        )
        for name, mesh, size in settings
    ]
    page = markdown(lines, facts(repetitions, ["advbench"]))
    store(folder, "renderer", [asdict(line) for line in lines], page)
    return lines


def markdown(lines: list[RendererLine], facts: Mapping[str, str]) -> str:
    """Lay the lines out as two tables, the facts of the machine above them."""
    return "\n".join(
        [
            "# The rasterizer: speed and gradient\n",
            METHOD,
            bullets(facts),
            "| mesh (faces) | size | batch | forward | with gradient | hard | noise |",
            "|---|---|---|---|---|---|---|",
            *map(_speed, lines),
            "",
            "| mesh | size | poses | differences | cosine, median | 10th percentile | norms |",
            "|---|---|---|---|---|---|---|",
            *(_quality(line) for line in lines if line.poses),
            "",
        ]
    )


def _speed(line: RendererLine) -> str:
    cells = [
        f"{middle:.0f} ({low:.0f} to {high:.0f})"
        for middle, low, high in (
            (line.forward, line.forward_low, line.forward_high),
            (line.gradient, line.gradient_low, line.gradient_high),
            (line.hard, line.hard_low, line.hard_high),
        )
    ]
    return (
        f"| {line.mesh} ({line.faces}) | {line.size} | {line.batch} | {' | '.join(cells)} "
        f"| {line.noise:.2f} |"
    )


def _quality(line: RendererLine) -> str:
    return (
        f"| {line.mesh} | {line.size} | {line.poses} | ±{line.step}, {line.finer}x "
        f"| {line.cosine:.3f} | {line.cosine_low:.3f} | {line.norms:.2f} |"
    )


def _smooth(shape: torch.Size, seed: int) -> Tensor:
    """Return noise like images (B, C, H, W) that is smooth over an eighth of their size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], 8, 8, generator=generator)
    return functional.interpolate(coarse, size=shape[2:], mode="bicubic")


def _turned(quaternions: Tensor) -> Tensor:
    """Return the rotations (B, 3, 3) of unit quaternions (B, 4)."""
    real, axis = quaternions[:, :1, None], quaternions[:, 1:]
    outer = axis.unsqueeze(2) * axis.unsqueeze(1)
    own = (real.square() - axis.square().sum(1)[:, None, None]) * torch.eye(3)
    return own + 2 * outer + 2 * real * _skew(axis)


def _skew(axis: Tensor) -> Tensor:
    """Return the matrices (B, 3, 3) of the cross product with ``axis`` (B, 3)."""
    x, y, z = axis.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)


@click.command()
@out_option("renderer")
@click.option("--repetitions", type=click.IntRange(min=5), default=7, show_default=True)
@click.option("--poses", "compared", type=click.IntRange(min=50), default=100, show_default=True)
def main(out: Path, repetitions: int, compared: int) -> None:
    """Measure the speed of the rasterizer and how good its gradient is."""
    torch.set_num_threads(1)
    objects = {name: build() for name, build in CLASSES.items()}
    run(out, objects, repetitions=repetitions, compared=compared)
    write_atomic(out / "objects.png", sheet(objects))
    click.echo(out / "renderer.md")


if __name__ == "__main__":
    main()
