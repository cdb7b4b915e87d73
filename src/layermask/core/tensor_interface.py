"""The methods, operators and plain properties of torch.Tensor, given to `Masked`, each dispatched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layermask.core.dispatch import BINARY, dispatch
from layermask.core.masked import Masked


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
    for name, body in _PROPERTIES.items():
        setattr(Masked, name, property(body))
    Masked.__torch_function__ = classmethod(_torch_function)  # type: ignore[attr-defined]


def _torch_function(cls: type, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
    return dispatch(func, args, kwargs or {})


def _method(function: Callable) -> Callable:
    def method(self: Masked, *args: Any, **kwargs: Any) -> Any:
        return dispatch(function, (self, *args), kwargs)

    return method


_OWN = {"__bool__", "__iter__", "__array__", "__len__", "__repr__", "__hash__"}
_METADATA = frozenset(
    """
    shape dtype device ndim layout is_cuda is_cpu is_meta is_mps is_xpu is_nested is_sparse is_quantized
    requires_grad is_leaf grad_fn itemsize nbytes
    """.split()
)
_OPERATORS = frozenset(
    [f"__{op}__" for op in "eq ne lt le gt ge neg pos abs invert getitem setitem".split()]
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
