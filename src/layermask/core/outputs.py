"""What leaves a masked model: its output, whatever structure holds it, with plain tensors."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from layermask._private_torch import identities, tree_map
from layermask.core.masked import Masked, has_positions, masked_in, zero_hidden
from layermask.errors import ModelError


def to_plain(output: Any) -> Any:
    """A model's output with plain tensors: maps are 0 where hidden.

    A result that has no positions left keeps its value even where nothing at all was visible, if that is
    finite: the model's answer to no evidence (its last bias, for a linear head). A single cell cut out of a
    map, and what is computed from it alone, is 0 where that cell is hidden. Objects that hold masked values,
    in attributes or as containers, are copied with plain tensors in their place; the model's own objects stay
    as they are.

    Raises:
        ModelError: an object holds masked values and cannot be copied, or a container holds itself.
    """
    if torch.compiler.is_compiling():
        return _without_masks(output)
    try:
        return _without_masks(output)
    except RecursionError:
        raise ModelError(
            f"the model's output, a {type(output).__name__}, contains itself, or is nested too deep to read: "
            "return a tensor, or tensors in tuples, lists or dicts"
        ) from None


def _without_masks(output: Any) -> Any:
    done: dict[tuple[int, ...], tuple[Any, Any]] = {}  # an object and its copy
    return tree_map(lambda x: _plain(x, done), output, is_leaf=lambda x: isinstance(x, Masked))


def masked_within(output: Any) -> list[Masked]:
    """Every `Masked` in an output, in containers and in the attributes of objects."""
    if torch.compiler.is_compiling():  # where objects have no ids yet
        return masked_in(output)
    found, seen, waiting = [], {}, [output]
    while waiting:
        x = waiting.pop()
        if isinstance(x, Masked):
            found.append(x)
        elif not isinstance(x, _CLOSED) and identities(x) not in seen:
            seen[identities(x)] = x  # kept, so that no other object gets its id
            waiting.extend(part for _, part in _items(x))
            waiting.extend(_attributes(x).values())
    return found


_CLOSED = (Tensor, nn.Module, str, bytes, int, float, complex, type, type(None), FunctionType, ModuleType,
           torch.dtype, torch.device)  # hold nothing that a rule has made  # fmt: skip


def _finite(x: Masked) -> Tensor:
    """The value of vectors; of images of which nothing was visible, 0 for what is not finite (0 / 0)."""
    if not (x.value.is_floating_point() or x.value.is_complex()):
        return x.value
    return torch.where(x.visible | x.value.isfinite(), x.value, 0.0)


def _plain(x: Any, done: dict) -> Any:
    if isinstance(x, Masked):
        return zero_hidden(x) if x.cut or has_positions(x) else _finite(x)
    if isinstance(x, Iterator | KeysView | ValuesView | ItemsView):  # which may yield masked values later
        raise ModelError(f"the model returned a {type(x).__name__}: return a list, tuple or dict of tensors")
    if isinstance(x, _CLOSED) or not masked_within(x):
        return x
    if identities(x) not in done:
        try:
            _rebuild(x, done)
        except (TypeError, AttributeError, ValueError, copy.Error) as error:
            kind = type(x).__name__
            raise ModelError(
                f"the model's output holds masked values in a {kind}, which cannot be copied with plain "
                f"tensors ({error}): return tensors, tuples, dicts or dataclasses"
            ) from error
    return done[identities(x)][1]


def _rebuild(x: Any, done: dict) -> None:
    """Put a copy of `x` with plain tensors into `done`, before its parts where it may hold itself."""
    if isinstance(x, (tuple, set, frozenset)):
        items = [_plain(item, done) for item in x]
        new: Any = type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    else:
        new = copy.copy(x)
    done[identities(x)] = x, new
    if not isinstance(x, (tuple, set, frozenset)):
        for key, item in _items(x):
            new[key] = _plain(item, done)
    for name, value in _attributes(x).items():
        if (plain := _plain(value, done)) is not value:
            object.__setattr__(new, name, plain)


def _items(x: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a container, by what they are set by."""
    if isinstance(x, Mapping):
        return iter(list(x.items()))
    return enumerate(x) if isinstance(x, (tuple, list, set, frozenset, deque)) else iter(())


def _attributes(x: Any) -> dict[str, Any]:
    slots = [name for cls in type(x).__mro__ for name in _slots(cls)]
    return {name: getattr(x, name) for name in slots if hasattr(x, name)} | getattr(x, "__dict__", {})


def _slots(cls: type) -> list[str]:
    names = vars(cls).get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    return [name for name in names if name not in ("__dict__", "__weakref__")]
