"""Adversarial attacks for PyTorch models.

``PGD(steps=40)(model, x, y, eps=8 / 255)`` returns adversarial inputs; ``run`` instead of the call
returns an ``Outcome`` with the facts per sample. Images lie in [0, 1]; normalisation belongs
inside the model.
"""

from advbench.attacks.attack import Attack, Fittable, Outcome
from advbench.attacks.blackbox.evolution import Evolution
from advbench.attacks.blackbox.finite_differences import FiniteDifferences
from advbench.attacks.blackbox.grid import Grid
from advbench.attacks.blackbox.random_noise import RandomNoise
from advbench.attacks.blackbox.random_search import RandomSearch
from advbench.attacks.blackbox.stratified_search import StratifiedSearch
from advbench.attacks.blackbox.sweep import Sweep
from advbench.attacks.ensembles.worst import Worst
from advbench.attacks.expectation import EOT
from advbench.attacks.flags import Flag
from advbench.attacks.gradient.mi_fgsm import MIFGSM
from advbench.attacks.gradient.ni_fgsm import NIFGSM
from advbench.attacks.gradient.pgd import BIM, FGSM, PGD
from advbench.attacks.gradient.r_fgsm import RFGSM
from advbench.attacks.gradient.stadv import StAdv
from advbench.attacks.losses import (
    DLR,
    CrossEntropy,
    Difference,
    Divergence,
    Loss,
    Margin,
    ProbabilityMargin,
    TemperedMargin,
)
from advbench.attacks.masking import Masking, unmasked
from advbench.attacks.minimum_eps import MinimumEps
from advbench.attacks.perturbations import (
    L0,
    L1,
    L2,
    Affine,
    Ball,
    Circle,
    Combined,
    Cutout,
    Disguise,
    Euler,
    Flow,
    Linf,
    Mask,
    NonPrintability,
    Patch,
    Penalty,
    Perspective,
    Perturbation,
    Picture,
    Placement,
    Pose,
    Ranges,
    Rotation,
    Square,
    TotalVariation,
)
from advbench.attacks.rendering.mesh import Mesh
from advbench.attacks.rendering.rasterizer import Rasterizer
from advbench.attacks.rendering.renderer import Renderer
from advbench.attacks.rendering.scene import Scene
from advbench.attacks.search import Rule
from advbench.attacks.universal.controls import GreySticker, NoiseSticker, PictureSticker
from advbench.attacks.universal.sticker import Sticker
from advbench.attacks.victim import BPDA, SceneModel

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
    "Affine",
    "Attack",
    "Ball",
    "Circle",
    "Combined",
    "CrossEntropy",
    "Cutout",
    "Difference",
    "Disguise",
    "Divergence",
    "Euler",
    "Evolution",
    "FiniteDifferences",
    "Fittable",
    "Flag",
    "Flow",
    "GreySticker",
    "Grid",
    "Linf",
    "Loss",
    "Margin",
    "Mask",
    "Masking",
    "Mesh",
    "MinimumEps",
    "NoiseSticker",
    "NonPrintability",
    "Outcome",
    "Patch",
    "Penalty",
    "Perspective",
    "Perturbation",
    "Picture",
    "PictureSticker",
    "Placement",
    "Pose",
    "ProbabilityMargin",
    "RandomNoise",
    "RandomSearch",
    "Ranges",
    "Rasterizer",
    "Renderer",
    "Rotation",
    "Rule",
    "Scene",
    "SceneModel",
    "Square",
    "StAdv",
    "Sticker",
    "StratifiedSearch",
    "Sweep",
    "TemperedMargin",
    "TotalVariation",
    "Worst",
    "unmasked",
]
