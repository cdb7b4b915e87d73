"""Operators of aten, which exported programs call, and the torch functions that they stand for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.nn.functional as F

from layermask._private_torch import argument_names, functions_of_name, overload_of
from layermask.core.rule_table import RULES

Call = tuple[Callable, tuple, dict]


def call_of(operator: Any, args: tuple, kwargs: dict) -> Call | None:
    """The same call of the torch function that has the operator's name and a rule, or None.

    What torch makes of the operator itself takes the same arguments in order. What is written in Python names
    them alike, and orders them in its own way.
    """
    if (overload := overload_of(operator)) is None:
        return None
    name = overload.overloadpacket.__name__
    function = next((each for each in functions_of_name(name) if each in RULES), None)
    if function is not None and not isinstance(function, FunctionType):
        return function, args, kwargs
    in_place = function is None and name.endswith("_")
    function = getattr(F, name[:-1], None) if in_place else function
    named = dict(zip(argument_names(overload), args, strict=False)) | kwargs
    named = {_RENAMED.get(n, n): each for n, each in named.items() if not n.startswith("cudnn")}
    named |= {"inplace": True} if in_place else {}
    if function is None or function not in RULES or not set(named) <= _parameters(function):
        return None
    return function, (), named


def _parameters(function: Callable) -> set[str]:
    """Those of a function in Python; of one that chooses between two, those of its rule."""
    own = set(inspect.signature(function).parameters)
    return set(inspect.signature(RULES[function]).parameters) if "args" in own else own


_RENAMED = {"self": "input", "indices": "input"}
"""Of operators, as the functions in Python name them. The second one is of an embedding."""
