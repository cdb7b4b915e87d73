"""Any pretrained vision model, answering from only the visible part of an image.

removal = layermask.LayerMasking(model)
logits = removal(images, visible)  # (N, C, *S) float, (N or 1, 1, *S) bool, True = visible
"""

from .masked import RULES, Masked, NoMaskRule, overriding, rule
from .removal import LayerMasking

__version__ = "0.1.0"
__all__ = ["RULES", "LayerMasking", "Masked", "NoMaskRule", "overriding", "rule"]
