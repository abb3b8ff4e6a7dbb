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
from advbench.attacks.perturbations.perturbation import Perturbation
from advbench.attacks.perturbations.picture import Picture
from advbench.attacks.perturbations.placement import Placement

__all__ = [
    "L0",
    "L1",
    "L2",
    "Circle",
    "Cutout",
    "Disguise",
    "Linf",
    "Mask",
    "NonPrintability",
    "Patch",
    "Penalty",
    "Perturbation",
    "Picture",
    "Placement",
    "Square",
    "TotalVariation",
]
