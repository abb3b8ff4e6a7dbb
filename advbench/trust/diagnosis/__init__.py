"""Whether what attacks by gradients say of a model can be trusted: a panel of checks."""

from advbench.trust.diagnosis.finding import Finding
from advbench.trust.diagnosis.panel import Diagnosis, diagnose

__all__ = ["Diagnosis", "Finding", "diagnose"]
