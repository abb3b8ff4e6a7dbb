"""Random numbers that belong to a sample: a counter-based generator in tensor operations.

The numbers depend on (seed, sample id, stream, draw number) alone: not on the device, the batch,
the order of the rows or any generator's state, and no generator's state is touched.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011
(Philox-4x32 with 10 rounds; the constants are the paper's).
"""

from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_SCRAMBLE = 0x85EBCA6B


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Encrypt four 32-bit counter words with two key words, held in broadcastable int64 tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64; masking after the shift recovers the unsigned high word.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32) & _WORD ^ c1 ^ k0
        c2 = (p0 >> 32) & _WORD ^ c3 ^ k1
        c1, c3 = p1 & _WORD, p0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


class Draws(NamedTuple):
    """The source of the random numbers of a batch of rows; every field is (B,) int64.

    ``number`` is advanced by the search at each step, so a rule that draws once per step never
    sees a number twice; a rule that needs several tensors at one step forks the source.
    """

    seed: Tensor
    ids: Tensor
    stream: Tensor
    number: Tensor

    def fork(self, purpose: int | Tensor) -> "Draws":
        """Return an independent source, another for each ``purpose``, one number or one per row.

        Forks can be forked again. The stream becomes a hash of itself and the purpose, far from
        the small numbers that count restarts.
        """
        mixed = ((self.stream ^ _SCRAMBLE) * _KEY_STEPS[0] + purpose) & _WORD
        return self._replace(stream=(mixed ^ (mixed >> 15)) * _MULTIPLIERS[1] & _WORD)

    def reseed(self, purpose: int) -> "Draws":
        """Return an independent source, another for each ``purpose``, whose streams count alike."""
        mixed = ((self.seed ^ _SCRAMBLE) * _KEY_STEPS[0] + purpose) & _WORD
        return self._replace(seed=(mixed ^ (mixed >> 15)) * _MULTIPLIERS[1] & _WORD)

    def bits(self, shape: tuple[int, ...]) -> Tensor:
        """Draw uniform 32-bit words as int64, shape (B, *shape)."""
        count = torch.Size(shape).numel()
        block = torch.arange((count + 3) // 4, device=self.ids.device).unsqueeze(0)
        ids = self.ids.unsqueeze(1)
        counter = (block, self.number.unsqueeze(1), ids & _WORD, (ids >> 32) & _WORD)
        key = (self.seed.unsqueeze(1) & _WORD, self.stream.unsqueeze(1) & _WORD)
        words = torch.stack(torch.broadcast_tensors(*philox(counter, key)), dim=-1)
        return words.flatten(1)[:, :count].reshape(len(words), *shape)

    def uniform(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw from the open interval (0, 1), shape (B, *shape): midpoints of 2^23 equal cells."""
        cells: Tensor = (self.bits(shape) >> 9).to(dtype)
        return (cells + 0.5) / (1 << 23)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw from the standard normal distribution, shape (B, *shape)."""
        normal: Tensor = torch.special.ndtri(self.uniform(shape, dtype))
        return normal

    def signs(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw -1 or +1 with equal chance, shape (B, *shape)."""
        return ((self.bits(shape) >> 31) * 2 - 1).to(dtype)
