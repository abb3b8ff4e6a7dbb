from advbench.attacks.perturbations.affine import Affine
from advbench.attacks.perturbations.combined import Combined
from advbench.attacks.perturbations.flow import Flow
from advbench.attacks.perturbations.l0 import L0
from advbench.attacks.perturbations.l1 import L1
from advbench.attacks.perturbations.l2 import L2
from advbench.attacks.perturbations.linf import Linf
from advbench.attacks.perturbations.masks import Circle, Cutout, Mask, Square
from advbench.attacks.perturbations.patch import Patch
from advbench.attacks.perturbations.penalties import (
    Disguise,
    NonPrintability,
    Penalty,
    TotalVariation,
)
from advbench.attacks.perturbations.perspective import Perspective
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.perturbations.picture import Picture
from advbench.attacks.perturbations.placement import Placement
from advbench.attacks.perturbations.pose import Ball, Euler, Pose, Rotation
from advbench.attacks.perturbations.ranges import Ranges

__all__ = [
    "L0",
    "L1",
    "L2",
    "Affine",
    "Ball",
    "Circle",
    "Combined",
    "Cutout",
    "Disguise",
    "Euler",
    "Flow",
    "Linf",
    "Mask",
    "NonPrintability",
    "Patch",
    "Penalty",
    "Perspective",
    "Perturbation",
    "Picture",
    "Placement",
    "Pose",
    "Ranges",
    "Rotation",
    "Square",
    "TotalVariation",
]
