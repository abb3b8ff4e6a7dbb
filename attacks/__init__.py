"""Adversarial attacks for PyTorch models.

``PGD(steps=40)(model, x, y, eps=8 / 255)`` returns adversarial inputs; ``run`` instead of the call
returns an ``Outcome`` with the facts per sample. Images lie in [0, 1]; normalisation belongs
inside the model.
"""

from advbench.attacks.attack import Attack, Fittable, Outcome
from advbench.attacks.blackbox.additive_noise import AdditiveNoise
from advbench.attacks.blackbox.blur import Blur
from advbench.attacks.blackbox.boundary import Boundary
from advbench.attacks.blackbox.contrast import Contrast
from advbench.attacks.blackbox.evolution import Evolution
from advbench.attacks.blackbox.finite_differences import FiniteDifferences
from advbench.attacks.blackbox.geoda import GeoDA
from advbench.attacks.blackbox.grid import Grid
from advbench.attacks.blackbox.hop_skip_jump import HopSkipJump
from advbench.attacks.blackbox.nes import NES
from advbench.attacks.blackbox.random_noise import RandomNoise
from advbench.attacks.blackbox.random_search import RandomSearch
from advbench.attacks.blackbox.salt_and_pepper import SaltAndPepper
from advbench.attacks.blackbox.simba import SimBA
from advbench.attacks.blackbox.spsa import SPSA
from advbench.attacks.blackbox.square import SquareAttack
from advbench.attacks.blackbox.stratified_search import StratifiedSearch
from advbench.attacks.blackbox.sweep import Sweep
from advbench.attacks.ensembles.autoattack import AutoAttack
from advbench.attacks.ensembles.robust import Robust
from advbench.attacks.ensembles.rounds import Rounds
from advbench.attacks.ensembles.worst import Worst
from advbench.attacks.expectation import EOT
from advbench.attacks.flags import Flag
from advbench.attacks.gradient.acg import ACG
from advbench.attacks.gradient.apgd import APGD
from advbench.attacks.gradient.apgd_l1 import APGDL1
from advbench.attacks.gradient.mi_fgsm import MIFGSM
from advbench.attacks.gradient.ni_fgsm import NIFGSM
from advbench.attacks.gradient.pgd import BIM, FGSM, PGD
from advbench.attacks.gradient.r_fgsm import RFGSM
from advbench.attacks.gradient.sparse_l1_descent import SparseL1Descent
from advbench.attacks.gradient.stadv import StAdv
from advbench.attacks.gradient.vmi_fgsm import VMIFGSM, VNIFGSM
from advbench.attacks.losses import (
    DLR,
    CrossEntropy,
    Difference,
    Divergence,
    Loss,
    Margin,
    ProbabilityMargin,
    RelativeMargin,
    TemperedMargin,
)
from advbench.attacks.masking import Masking, unmasked
from advbench.attacks.minimal.alma import ALMA
from advbench.attacks.minimal.carlini_wagner import CWL2
from advbench.attacks.minimal.carlini_wagner_linf import CWLinf
from advbench.attacks.minimal.ddn import DDN
from advbench.attacks.minimal.deepfool import DeepFool
from advbench.attacks.minimal.ead import EAD
from advbench.attacks.minimal.fab import FAB
from advbench.attacks.minimal.fmn import FMN
from advbench.attacks.minimal.jsma import JSMA
from advbench.attacks.minimal.pdgd import PDGD
from advbench.attacks.minimal.pdpgd import PDPGD
from advbench.attacks.minimal.sigma_zero import SigmaZero
from advbench.attacks.minimal.superdeepfool import SuperDeepFool
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
from advbench.attacks.speed import accelerated
from advbench.attacks.transfer.diverse_inputs import DiverseInputs
from advbench.attacks.transfer.scaled_copies import ScaledCopies
from advbench.attacks.transfer.transfer import Transfer
from advbench.attacks.transfer.translation import Translation
from advbench.attacks.transfer.view import View
from advbench.attacks.universal.controls import GreySticker, NoiseSticker, PictureSticker
from advbench.attacks.universal.delta import AddedDelta, Delta, SignNoise
from advbench.attacks.universal.sticker import Sticker
from advbench.attacks.universal.uap import UAP
from advbench.attacks.victim import BPDA, SceneModel

__all__ = [
    "ACG",
    "ALMA",
    "APGD",
    "APGDL1",
    "BIM",
    "BPDA",
    "CWL2",
    "DDN",
    "DLR",
    "EAD",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "L0",
    "L1",
    "L2",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
    "RFGSM",
    "SPSA",
    "UAP",
    "VMIFGSM",
    "VNIFGSM",
    "AddedDelta",
    "AdditiveNoise",
    "Affine",
    "Attack",
    "AutoAttack",
    "Ball",
    "Blur",
    "Boundary",
    "CWLinf",
    "Circle",
    "Combined",
    "Contrast",
    "CrossEntropy",
    "Cutout",
    "DeepFool",
    "Delta",
    "Difference",
    "Disguise",
    "Divergence",
    "DiverseInputs",
    "Euler",
    "Evolution",
    "FiniteDifferences",
    "Fittable",
    "Flag",
    "Flow",
    "GeoDA",
    "GreySticker",
    "Grid",
    "HopSkipJump",
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
    "RelativeMargin",
    "Renderer",
    "Robust",
    "Rotation",
    "Rounds",
    "Rule",
    "SaltAndPepper",
    "ScaledCopies",
    "Scene",
    "SceneModel",
    "SigmaZero",
    "SignNoise",
    "SimBA",
    "SparseL1Descent",
    "Square",
    "SquareAttack",
    "StAdv",
    "Sticker",
    "StratifiedSearch",
    "SuperDeepFool",
    "Sweep",
    "TemperedMargin",
    "TotalVariation",
    "Transfer",
    "Translation",
    "View",
    "Worst",
    "accelerated",
    "unmasked",
]
