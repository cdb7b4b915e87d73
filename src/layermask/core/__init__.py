"""The mechanism: a value and its mask, and one rule for each torch function. It needs torch alone."""

import layermask.core.tensor_interface  # noqa: F401  # completes Masked
