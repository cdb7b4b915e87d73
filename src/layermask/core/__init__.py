"""The mechanism: a value and its mask, and one rule for each torch function. It needs torch alone.

`layermask.core` has the rules of the package in `RULES`; `layermask.rules` fills the table.
"""

import layermask.core.tensor_interface  # noqa: F401  # completes Masked
from layermask.core.masked import Masked
from layermask.core.rule_table import RULES, overriding, rule
from layermask.core.settings import Settings
from layermask.errors import LostMask, NoMaskRule

__all__ = ["RULES", "LostMask", "Masked", "NoMaskRule", "Settings", "overriding", "rule"]
