"""Sets of a few named numbers, each within a range of its own: poses of pictures and of objects."""

from abc import abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor

from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.randomness import Draws

_HALVINGS = 40
_TINY = 1e-30  # keeps an empty side of a range from being divided by


class Axis(NamedTuple):
    """One of the numbers: it goes from ``-back`` to ``reach``, and comes round at ``turn``.

    ``back`` is as far as ``reach`` unless it is given. A ``turn`` of 180 says that -180 and 180 are
    the same; a number that does not come round has none.
    """

    name: str
    reach: float
    turn: float = torch.inf
    back: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value."""
        return -(self.reach if self.back is None else self.back), self.reach


class Ranges(Perturbation):
    """Sets whose parameters (B, k) are shares of ranges; all 0 changes nothing.

    ``eps`` in [0, 1] is the share of every range, to either side of 0, that may be used, and the
    size of a change is the largest share that it uses. A range that is a whole circle at this
    ``eps`` has no ends: what goes past 180 degrees comes in at -180.

    The first three axes may be a ``ball``: a rotation vector, whose length counts instead of its
    parts. Draws from it are uniform among the rotations by at most that angle.
    """

    @property
    @abstractmethod
    def axes(self) -> tuple[Axis, ...]:
        """The numbers that are free, in order."""

    @property
    @abstractmethod
    def ball(self) -> bool:
        """Whether the first three axes are one rotation vector."""

    @final
    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers that are free."""
        return tuple(axis.name for axis in self.axes)

    @final
    def zero(self, x: Tensor) -> Tensor:
        """Return zeros (B, k)."""
        return x.new_zeros(len(x), len(self.axes))

    @final
    def numbers(self, p: Tensor) -> Tensor:
        """Return the numbers themselves, (B, k), in the units of their ranges."""
        low, high = self._ends(p)
        # Where there is no way ahead, the slope at 0 is that of the way back.
        back = torch.where(p <= 0, -p * low, 0)
        return torch.where((p < 0) | (high == 0), back, p * high)

    @final
    def project(self, x: Tensor, p: Tensor, eps: Tensor) -> Tensor:
        """Come round where the range is a circle, stop at its end elsewhere."""
        limit = eps.unsqueeze(1)
        closed, turn = self.closed(eps, len(self.axes)), self._turns(p)
        low, high = self._ends(p)
        boxed = torch.maximum(torch.minimum(p, limit * (high > 0)), -limit * (low < 0))
        boxed = torch.where(closed, _around(p, turn), boxed)
        if not self.ball:
            return boxed
        vector = p[:, :3]
        length = vector.norm(dim=1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
        wanted = torch.where(closed[:, :1], _around(length, turn[0]), length.minimum(limit))
        return torch.cat([vector * (wanted / length), boxed[:, 3:]], 1)

    @final
    def size(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the largest share of a range that is used, (B,)."""
        shares = p.abs()
        if self.ball:
            shares = torch.cat([p[:, :3].norm(dim=1, keepdim=True), shares[:, 3:]], 1)
        return shares.amax(1)

    @final
    def steepest(self, x: Tensor, p: Tensor, g: Tensor, length: Tensor) -> Tensor:
        """Move every number by the same share of its range, along the sign of ``g``.

        A rotation vector moves along its own gradient. A number whose gradient is rounding next to
        the largest one stays: its sign would depend on the other rows of the batch.
        """
        noise = 16 * torch.finfo(g.dtype).eps * g.abs().amax(1, keepdim=True)
        step = torch.where(g.abs() > noise, g.sign(), 0)
        if self.ball:
            tiny = torch.finfo(g.dtype).tiny
            vector = g[:, :3] / g[:, :3].abs().amax(1, keepdim=True).clamp_min(tiny)
            unit = vector / vector.norm(dim=1, keepdim=True).clamp_min(tiny)
            step = torch.cat([unit, step[:, 3:]], 1)
        return step * length.unsqueeze(1)

    @final
    def draw(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw every number uniformly from its range, a rotation uniformly from its ball."""
        u = draws.uniform((len(self.axes),), x.dtype)
        low, high = self._ends(u)
        below = low / (low - high)  # the share of the range on this side of 0
        behind, ahead = u / below.clamp_min(_TINY) - 1, (u - below) / (1 - below).clamp_min(_TINY)
        p = torch.where(u < below, behind, ahead) * eps.unsqueeze(1)
        if not self.ball:
            return p
        reach = self.axes[0].reach
        angle = _rotation_angle(draws.fork(1).uniform((), x.dtype), (eps * reach).deg2rad())
        towards = draws.fork(2).normal((3,), x.dtype)
        unit = towards / towards.norm(dim=1, keepdim=True)
        return torch.cat([unit * (angle.rad2deg() / reach).unsqueeze(1), p[:, 3:]], 1)

    @final
    def extreme(self, x: Tensor, eps: Tensor, draws: Draws) -> Tensor:
        """Draw as ``draw`` does: the worst pose need not lie at the end of a range."""
        return self.draw(x, eps, draws)

    @final
    def lattice(self, x: Tensor, eps: Tensor, u: Tensor) -> Tensor:
        """Set the first numbers to ``u``, scaled to their ranges, and leave the others.

        The cube of the first three is drawn in to the ball where they are one.
        """
        p = self.zero(x)
        known = min(u.shape[1], p.shape[1])
        p[:, :known] = u[:, :known]
        if self.ball:
            cube = p[:, :3]
            length = cube.norm(dim=1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
            p = torch.cat([cube * cube.abs().amax(1, keepdim=True) / length, p[:, 3:]], 1)
        return self.project(x, p * eps.unsqueeze(1), eps)

    @final
    def closed(self, eps: Tensor, count: int) -> Tensor:
        """Tell which ranges are whole circles at ``eps``, (B, count)."""
        turn = self._turns(eps)[:count]
        return eps.unsqueeze(1) >= torch.cat([turn, turn.new_full((count - len(turn),), torch.inf)])

    @final
    def largest(self, x: Tensor) -> float:
        """Return 1, all of every range."""
        return 1.0

    @final
    def limit(self, eps: Tensor) -> Tensor:
        """Return ``eps`` with the rounding of 32 bits."""
        return eps * (1 + 1e-6)

    @final
    @property
    def varies(self) -> bool:
        """Nothing is left to chance."""
        return False

    @final
    def vary(self, x: Tensor, p: Tensor, draws: Draws) -> Tensor:
        """Return ``p``."""
        return p

    @final
    def price(self, x: Tensor, p: Tensor) -> None:
        """Charge nothing: the size is all that counts."""

    def _turns(self, like: Tensor) -> Tensor:
        """Return the shares at which the numbers come round, (k,)."""
        return like.new_tensor([axis.turn / max(axis.ends[1], _TINY) for axis in self.axes])

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the largest values, (k,) each."""
        low, high = like.new_tensor([axis.ends for axis in self.axes]).unbind(1)
        return low, high


def _around(values: Tensor, turn: Tensor) -> Tensor:
    """Bring in at the other end what lies past a turn; the rest stays bit for bit."""
    return torch.where(values.abs() <= turn, values, (values + turn).remainder(2 * turn) - turn)


def _rotation_angle(u: Tensor, most: Tensor) -> Tensor:
    """Return the angle, (B,), below which lies the share ``u`` of the rotations by up to ``most``.

    The angle of a uniform rotation has the density (1 - cos) / pi (Miles, "On random rotations in
    R^3", Biometrika 52, 1965); its integral is inverted by bisection.
    """
    wanted = u * _excess(most)
    low, high = torch.zeros_like(most), most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = _excess(middle) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (low + high) / 2


def _excess(angle: Tensor) -> Tensor:
    """Return ``angle - sin(angle)``, (B,), of which rounding leaves nothing at small angles."""
    square = angle.square()
    series = angle * square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    return torch.where(angle < 0.5, series, angle - angle.sin())
