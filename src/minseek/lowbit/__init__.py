"""Number formats, rounding, and SGD in finite precision.

Sources: Metel & Takeda, "Perturbed Iterate SGD for Lipschitz Continuous Loss Functions" (arXiv 2003.07606); Metel,
"Perturbed Iterate SGD for Lipschitz Continuous Loss Functions with Numerical Error and Adaptive Step Sizes" (arXiv
2211.04655).
"""

from minseek.lowbit.formats import FORMATS, Fixed, Float, Format, bf16, e2m1, e2m3, e3m2, e4m3fn, e5m2, fp16, fp32
from minseek.lowbit.rounding import ROUNDINGS, Rounding, RoundingSpec, round_to
from minseek.lowbit.simulate import simulate

__all__ = [
    "FORMATS",
    "ROUNDINGS",
    "Fixed",
    "Float",
    "Format",
    "Rounding",
    "RoundingSpec",
    "bf16",
    "e2m1",
    "e2m3",
    "e3m2",
    "e4m3fn",
    "e5m2",
    "fp16",
    "fp32",
    "round_to",
    "simulate",
]
