"""Number formats by name."""

from __future__ import annotations

from minseek.lowbit.fixed_format import Fixed
from minseek.lowbit.float_format import NAMES, Float, Specials
from minseek.lowbit.format import Format

__all__ = [
    "FORMATS", "Fixed", "Float", "Format", "Specials", "bf16", "e2m1", "e2m3", "e3m2", "e4m3fn", "e5m2", "fp16", "fp32",
]  # fmt: skip

fp32 = Float(8, 23)
"""IEEE 754 binary32."""
fp16 = Float(5, 10)
"""IEEE 754 binary16."""
bf16 = Float(8, 7)
"""bfloat16: the upper half of binary32."""
e4m3fn = Float(4, 3, specials="nan")
"""OCP 8-bit floating point for weights and activations; no infinity, largest value 448."""
e5m2 = Float(5, 2)
"""OCP 8-bit floating point for gradients; IEEE conventions, largest value 57344."""
e3m2 = Float(3, 2, specials="none")
"""OCP MX 6-bit floating point."""
e2m3 = Float(2, 3, specials="none")
"""OCP MX 6-bit floating point."""
e2m1 = Float(2, 1, specials="none")
"""OCP MX 4-bit floating point."""

FORMATS: dict[str, Format] = {
    "fp32": fp32,
    "fp16": fp16,
    "bf16": bf16,
    "e4m3fn": e4m3fn,
    "e5m2": e5m2,
    "e3m2": e3m2,
    "e2m3": e2m3,
    "e2m1": e2m1,
}
"""The named formats."""
NAMES.update({fmt: name for name, fmt in FORMATS.items() if isinstance(fmt, Float)})
