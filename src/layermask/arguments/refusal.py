"""Errors and warnings about arguments."""

from __future__ import annotations

import contextlib
import reprlib
import sys
import warnings
from pathlib import Path
from typing import Any

from layermask.errors import InputError, WrongType

_PACKAGE = str(Path(__file__).parents[1])
_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 80, 80, 40


def refused(name: str, value: Any, wanted: str) -> InputError:
    """Return the error for a value that is out of range; `wanted` says what to give."""
    return InputError(f"{name} is {shown(value)}: {wanted}")


def wrong_type(name: str, value: Any, wanted: str) -> WrongType:
    """Return the error for a value of another type."""
    return WrongType(f"{name} is {shown(value)}: {wanted}")


def warn(message: str) -> None:
    """Warn at the line outside of this package, and of torch, that called it."""
    import torch  # here, as the command line does without it where it can

    ours = _PACKAGE, str(Path(torch.__file__).parent)  # torch's decorators run functions of ours
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def shown(value: Any) -> str:
    """Return a short text for any value, even one whose own `repr` fails."""
    with contextlib.suppress(Exception):
        return _described(value)
    return f"a {type(value).__name__}"


def has(value: Any, *names: str) -> bool:
    """Whether a value has these attributes. False if looking them up raises."""
    with contextlib.suppress(Exception):
        return all(hasattr(value, name) for name in names)
    return False


def _described(value: Any) -> str:
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        return f"{value.dtype} of {tuple(value.shape)}"
    if hasattr(value, "parameters"):  # a module prints itself over many lines
        return f"a {type(value).__name__}"
    return " ".join(_SHORT.repr(value).split())
