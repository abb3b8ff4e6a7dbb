from advbench.attacks.perturbations.l0 import L0
from advbench.attacks.perturbations.l1 import L1
from advbench.attacks.perturbations.l2 import L2
from advbench.attacks.perturbations.linf import Linf
from advbench.attacks.perturbations.perturbation import Perturbation

__all__ = ["L0", "L1", "L2", "Linf", "Perturbation"]
