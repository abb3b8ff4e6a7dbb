"""Adversarial attacks for PyTorch models.

``PGD(steps=40)(model, x, y, eps=8 / 255)`` returns adversarial inputs; ``run`` instead of the call
returns an ``Outcome`` with the facts per sample. Images lie in [0, 1]; normalisation belongs
inside the model.
"""

from advbench.attacks.attack import Attack, Fittable, Outcome
from advbench.attacks.blackbox.grid import Grid
from advbench.attacks.blackbox.random_noise import RandomNoise
from advbench.attacks.blackbox.random_search import RandomSearch
from advbench.attacks.expectation import EOT
from advbench.attacks.flags import Flag
from advbench.attacks.gradient.mi_fgsm import MIFGSM
from advbench.attacks.gradient.ni_fgsm import NIFGSM
from advbench.attacks.gradient.pgd import BIM, FGSM, PGD
from advbench.attacks.gradient.r_fgsm import RFGSM
from advbench.attacks.losses import DLR, CrossEntropy, Loss, Margin
from advbench.attacks.minimum_eps import MinimumEps
from advbench.attacks.perturbations import (
    L0,
    L1,
    L2,
    Circle,
    Cutout,
    Disguise,
    Linf,
    Mask,
    NonPrintability,
    Patch,
    Penalty,
    Perturbation,
    Picture,
    Placement,
    Square,
    TotalVariation,
)
from advbench.attacks.search import Rule
from advbench.attacks.universal.controls import GreySticker, NoiseSticker, PictureSticker
from advbench.attacks.universal.sticker import Sticker
from advbench.attacks.victim import BPDA

__all__ = [
    "BIM",
    "BPDA",
    "DLR",
    "EOT",
    "FGSM",
    "L0",
    "L1",
    "L2",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "RFGSM",
    "Attack",
    "Circle",
    "CrossEntropy",
    "Cutout",
    "Disguise",
    "Fittable",
    "Flag",
    "GreySticker",
    "Grid",
    "Linf",
    "Loss",
    "Margin",
    "Mask",
    "MinimumEps",
    "NoiseSticker",
    "NonPrintability",
    "Outcome",
    "Patch",
    "Penalty",
    "Perturbation",
    "Picture",
    "PictureSticker",
    "Placement",
    "RandomNoise",
    "RandomSearch",
    "Rule",
    "Square",
    "Sticker",
    "TotalVariation",
]
