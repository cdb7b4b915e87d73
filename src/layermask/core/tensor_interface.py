"""The methods, operators and plain properties of torch.Tensor, given to `Masked`, each dispatched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.core.dispatch import BINARY, dispatch
from layermask.core.masked import Masked, MaskedTensor
from layermask.core.refuse import below, no_rule


def _give_tensor_interface() -> None:
    """Give Masked every method and operator of torch.Tensor, each dispatched, and its plain properties."""
    for name in dir(Tensor):
        if name in _OWN or (hasattr(Masked, name) and name not in _OPERATORS):
            continue
        attribute = getattr(Tensor, name)
        if name in _METADATA:
            setattr(Masked, name, property(lambda self, name=name: getattr(self.value, name)))
        elif name in _OPERATORS or (callable(attribute) and not name.startswith("__")):
            setattr(Masked, name, _method(attribute))
        elif not name.startswith("__"):
            setattr(Masked, name, property(_has_not))
    for name, body in _PROPERTIES.items():
        setattr(Masked, name, property(body))
    for name in BINARY:
        setattr(Masked, f"__r{name}__", _reflected(f"__{name}__", f"__r{name}__"))
    Masked.__len__ = _length  # type: ignore[method-assign]
    Masked.__torch_function__ = classmethod(_torch_function)  # type: ignore[attr-defined]
    MaskedTensor.__torch_dispatch__ = classmethod(below)  # type: ignore[assignment]


def _length(x: Masked) -> int:
    return x.shape[0] if x.ndim else no_rule(Tensor.__len__)


def _has_not(x: Masked) -> Any:
    raise AttributeError("a Masked has no such attribute of torch.Tensor; its .value has")


def _torch_function(cls: type, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
    return dispatch(func, args, kwargs or {})


def _reflected(name: str, reflected: str) -> Callable:
    """Python asks the class of the right operand first, as that of the left one is a base class of it."""
    in_order, swapped = getattr(Tensor, name), getattr(Tensor, reflected, None)

    def method(self: Masked, other: Any) -> Any:
        if isinstance(other, Tensor) or swapped is None:
            return in_order(other, self)
        return dispatch(swapped, (self, other), {})

    return method


def _method(function: Callable) -> Callable:
    def method(self: Masked, *args: Any, **kwargs: Any) -> Any:
        return dispatch(function, (self, *args), kwargs)

    return method


_OWN = {"__iter__", "__len__", "__repr__", "__hash__"}
_METADATA = frozenset(
    "shape dtype device ndim layout requires_grad grad_fn itemsize nbytes".split()
    + [name for name in dir(Tensor) if name.startswith("is_") and not callable(getattr(Tensor, name))]
)
_OPERATORS = frozenset(
    [f"__{op}__" for op in "eq ne lt le gt ge neg pos abs invert getitem setitem".split()]
    + [f"__{op}__" for op in "bool int float complex index contains format array reversed".split()]
    + [f"__{side}{op}__" for op in BINARY for side in ("", "r", "i")]
)
_PROPERTIES = {
    "T": lambda x: x.permute(*range(x.ndim - 1, -1, -1)),
    "mT": lambda x: x.transpose(-2, -1),
    "H": lambda x: x.transpose(-2, -1).conj(),
    "mH": lambda x: x.transpose(-2, -1).conj(),
    "data": lambda x: x.detach(),
    "real": torch.real,
    "imag": torch.imag,
}


_give_tensor_interface()
