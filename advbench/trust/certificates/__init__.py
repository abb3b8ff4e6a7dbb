"""Certificates: samples that nothing in a set of changes can fool, by proof."""

from advbench.trust.certificates.layers import NoBoundsError
from advbench.trust.certificates.proof import certify, lower_margins, price, reason
from advbench.trust.certificates.smoothing import smoothed_eps, smoothed_radius

__all__ = [
    "NoBoundsError",
    "certify",
    "lower_margins",
    "price",
    "reason",
    "smoothed_eps",
    "smoothed_radius",
]
