"""Whether what attacks by gradients say of a model can be trusted: a panel of checks."""

from advbench.trust.diagnosis.panel import Diagnosis, diagnose
from advbench.trust.diagnosis.finding import Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
