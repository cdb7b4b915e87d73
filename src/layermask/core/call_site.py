"""Where in the user's model the current call comes from, read off the stack when an error is raised."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def _frames() -> Iterator[FrameType]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def module_path() -> str:
    """The path, within the outermost module on the stack, of the innermost one ("" if there is none)."""
    return _path(_running(_frames()))


def _path(modules: list[nn.Module]) -> str:
    return next((name for name, m in modules[-1].named_modules() if m is modules[0]), "") if modules else ""


def _running(frames: Iterable[FrameType]) -> list[nn.Module]:
    """The modules on the stack, the innermost first."""
    modules = [m for frame in frames if isinstance(m := frame.f_locals.get("self"), nn.Module)]
    return [m for m in modules if not type(m).__module__.startswith("layermask.removal")]


def owner_path(weights: Sequence[Tensor | None]) -> str:
    """The path of the submodule whose own parameters or buffers are among `weights` ("" if there is none)."""
    running = _running(_frames())
    for name, module in running[-1].named_modules() if running else ():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(x is weight for x in own for weight in weights):
            return name
    return ""


def user_line() -> str:
    """`file:line` of the innermost frame that is neither torch's nor this library's."""
    return _line((frame, frame.f_lineno) for frame in _frames())


def _line(places: Iterable[tuple[FrameType, int]]) -> str:
    for frame, number in places:
        if not frame.f_code.co_filename.startswith((*_LIBRARIES, "<")):
            return f"{Path(frame.f_code.co_filename).name}:{number}"
    return ""


def raised_at(error: BaseException) -> tuple[str, str]:
    """`module_path()` and `user_line()` of where an error came from, which has left there."""
    places = [*traceback.walk_tb(error.__traceback__)][::-1]
    return _path(_running(frame for frame, _ in places)), _line(places)


def argument_in_call(function: Callable, name: str) -> Any:
    """What the call of `function` on the stack was given for an argument that torch does not hand on."""
    return next((frame.f_locals.get(name) for frame in _frames() if frame.f_code is code_of(function)), None)


def autograd_function() -> str:
    """The name of the `torch.autograd.Function` whose `forward` is on the stack ("" if none is)."""
    forwards = {
        code: f.__name__ for f in _subclasses(torch.autograd.Function) if (code := code_of(f.forward))
    }
    return next((forwards[frame.f_code] for frame in _frames() if frame.f_code in forwards), "")


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def code_of(function: Callable) -> CodeType | None:
    """The code a decorated function runs in the end."""
    return getattr(inspect.unwrap(function), "__code__", None)
