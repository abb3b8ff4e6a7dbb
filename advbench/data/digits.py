"""The embedded digits: 1,797 handwritten digits of 8x8 pixels, so that nothing need be fetched.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0. digits.npz holds the test part
of it, unchanged, as distributed with scikit-learn: pixels 0..16, the count of inked pixels in 4x4
blocks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from advbench.data.dataset import Dataset, Samples, check_split, first, permutation

_BOUNDS = {"train": (0, 1097), "validation": (1097, 1397), "test": (1397, 1797)}


@final
@dataclass(frozen=True)
class Digits(Dataset):
    """Handwritten digits of 8x8 pixels (Alpaydin and Kaynak 1998): 1,097 / 300 / 400 samples."""

    def load(self, split: str, samples: int | None = None, root: Path | None = None) -> Samples:
        """Load samples of shape (1, 8, 8); `root` is not needed."""
        check_split(split)
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
        start, stop = _BOUNDS[split]
        ids = torch.tensor(first(permutation(len(labels))[start:stop], samples, "digits", split))
        return Samples(
            name="digits",
            split=split,
            x=torch.from_numpy(images)[ids].unsqueeze(1).float() / 16,
            y=torch.from_numpy(labels)[ids].long(),
            ids=ids,
            classes=tuple("0123456789"),
        )
