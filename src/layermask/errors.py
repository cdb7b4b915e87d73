"""Every error class of the package. Messages say what happened, with which value, and what to do.

`__all__` has those that reach the user; the others are caught within the package.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

from layermask.extras import install

__all__ = ["ImageError", "InputError", "LostMask", "MissingPackage", "ModelError", "NoMaskRule", "WrongType"]
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\t\n\r"}


_LONGEST = 2000
"""Most characters of a message. What is longer repeats text that the user gave."""


def printable(text: object) -> str:
    """Return printable text: characters that are not UTF-8, or that control a terminal, are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)


class InputError(ValueError):
    """An image, mask, model, weight file or option that cannot be used; the message is one line."""

    def __init__(self, message: object = "") -> None:
        super().__init__(_short(printable(message)))  # it may name a file


def _short(text: str) -> str:
    """Return a text, without its middle if it is too long to read."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


class WrongType(InputError, TypeError):
    """An argument of a kind that cannot be used, whatever its value; the message names the argument."""


class ImageError(InputError):
    """An image, mask or label-map file that cannot be used."""


class ModelError(InputError):
    """A model name, weight file or model that cannot be used."""


class MissingPackage(InputError, ImportError):
    """An optional package that this call needs is not installed."""


def import_optional(module: str, extra: str) -> ModuleType:
    """Import `module`, or say how to install it and what else its extra of layermask lacks."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there and broken: its own message says more
        raise MissingPackage(
            f"this needs the package {package}, which is not installed: {install(extra, package)}"
        ) from error


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Return " (nearest: a, b)" for the known words closest to `word`, or nothing when none is close."""
    close = difflib.get_close_matches(word[:_LONGEST], list(known), count, cutoff=0.5)
    return f" (nearest: {', '.join(close)})" if close else ""


_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
"""What torch and the libraries below it write when memory runs out."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or a CPU, as reported by torch, Python or numpy."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)


class NoMaskRule(NotImplementedError):
    """A model called a torch function that has no rule for `Masked` arguments.

    `function` is its name as the user wrote it, `module` the path of the submodule that called it ("" when
    no submodule did), `advice` what to do where a rule cannot help.
    """

    def __init__(
        self, function: str, module: str = "", line: str = "", why: str = "", advice: str = ""
    ) -> None:
        self.function, self.module, self.line, self.why, self.advice = function, module, line, why, advice
        super().__init__(self.message())

    def place(self) -> str:
        parts = [self.module and f"in module {self.module!r}", self.line and f"at {self.line}"]
        return "".join(f" {part}" for part in parts if part)

    def message(self) -> str:
        advice = self.advice or (
            f"Add one: decorate a function that has the parameters of {self.function} and returns "
            f"Masked(value, visible) with @layermask.rule({self.function})."
        )
        reason = f"{self.why} {advice}" if self.why else advice
        return f"{self.function} has no rule for masked input{self.place()}. {reason}"


class LostMask(NoMaskRule):
    """A masked value was to be written into a plain tensor, in place or by `out=`, which has no mask.

    Not a TypeError: torch would take that for an operand it may try the other way round.
    """

    def message(self) -> str:
        return (
            f"{self.function}{self.place()} would write a masked value into a plain tensor, which has no "
            "mask; a masked index counts as one. Write out of place, or into a tensor made from the masked "
            "one, as by x.new_zeros(...)."
        )


class BuildError(Exception):
    """The kernels could not be built, and other code answers; the message says why."""


class Untrusted(Exception):
    """A file or folder in which kernels are kept is not to be used; the message says why."""


class NoRows(Exception):
    """An operand has no form as rows: the sparse engine takes the dense rule."""
