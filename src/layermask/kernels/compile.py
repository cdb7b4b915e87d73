"""The kernels of one compiled library, as functions that check their arguments."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from layermask.kernels.signatures import PART, SIGNATURES, WHOLE, checked, fail

_check_part, _check_whole = checked(PART), checked(WHOLE)


class Kernels:
    """A library's kernels: `kernels.affine(...)` and so on, with the arguments that signatures.py lists.

    Raises:
        RuntimeError: an argument is wrong: its dtype, shape, layout or device, or an entry of a table.
        torch.OutOfMemoryError: a kernel found no memory.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.panel_width = int(library.panel_width())
        for name, signature in SIGNATURES.items():
            function = _typed(library, name, signature.c_types)
            setattr(self, name, checked(signature, function, self.panel_width))
        pointers, sizes = [ctypes.c_void_p], [ctypes.c_long]
        ends = [*sizes * 4, *[ctypes.c_double] * 2, *sizes]
        self._side_by_side = _typed(library, "side_by_side", pointers * 7 + ends)
        self._checksum = _typed(library, "checksum", [*pointers * 2, *sizes, *pointers, *sizes])

    def __getattr__(self, name: str) -> Callable[..., None]:
        raise AttributeError(f"there is no kernel {name}")

    def side_by_side(self, *args: Any) -> None:
        """Write end(scale * (the rows `ats` of all `sources`, side by side) + shift) into `out`.

        `args` as of `check_side_by_side`.
        """
        check_side_by_side(*args)
        sources, ats, scale, shift, out, how, a, b = args
        rows, channels = out.shape
        widths = array("l", [source.shape[1] for source in sources])
        held = array("l", [source.shape[0] for source in sources])
        lists = (_addresses(sources), _addresses(ats), held, widths)
        ends = (len(widths), rows, channels, how, a, b, torch.get_num_threads())
        given = [None if x is None else x.data_ptr() for x in (scale, shift, out)]
        if outcome := self._side_by_side(*[x.buffer_info()[0] for x in lists], *given, *ends):
            fail("side_by_side", outcome)

    def checksum(self, tensors: Sequence[Tensor]) -> int:
        """Return a hash of what lies in contiguous tensors on the CPU."""
        if not all([x.is_contiguous() and x.is_cpu for x in tensors]):
            raise RuntimeError("the kernel checksum needs contiguous tensors on the CPU")
        return self.checksum_at(*blocks_of(tensors))

    def checksum_at(self, addresses: array, sizes: array) -> int:
        """Return the same of blocks of memory, which the caller knows to be alive: see `blocks_of`."""
        out = array("Q", [0])
        given = (addresses.buffer_info()[0], sizes.buffer_info()[0], len(sizes), out.buffer_info()[0])
        self._checksum(*given, torch.get_num_threads())
        return out[0]


def blocks_of(tensors: Sequence[Tensor]) -> tuple[array, array]:
    """The addresses of contiguous tensors, and their sizes in bytes."""
    return _addresses(tensors), array("l", [x.nbytes for x in tensors])


def check_side_by_side(
    sources: Sequence[Tensor],
    ats: Sequence[Tensor | None],
    scale: Tensor | None,
    shift: Tensor | None,
    out: Tensor,
    how: int,
    a: float,
    b: float,
) -> None:
    """Raise a RuntimeError if `Kernels.side_by_side` cannot take these arguments."""
    _check_whole(scale, shift, out, how, a, b)
    if len(sources) != len(ats):
        raise RuntimeError(f"the kernel side_by_side needs as many ats as sources, not {len(ats)}")
    if not all(map(_is_part, sources, ats, [out.shape[0]] * len(sources))):
        for source, at in zip(sources, ats, strict=True):
            _check_part(source, at, out)  # says what is wrong
    if (width := sum([source.shape[1] for source in sources])) != out.shape[1]:
        raise RuntimeError(f"the kernel side_by_side needs out with {width} columns, not {out.shape[1]}")


def _is_part(source: Tensor, at: Tensor | None, rows: int) -> bool:
    """What `PART` says, in a third of the time: DenseNets put dozens of parts together."""
    if source.dtype is not torch.float32 or source.ndim != 2:
        return False
    if not source.is_contiguous() or not source.is_cpu:
        return False
    if at is None:
        return source.shape[0] >= rows
    return at.dtype is torch.int32 and at.shape == (rows,) and at.is_contiguous() and at.is_cpu


def _typed(library: ctypes.CDLL, name: str, types: list) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes, function.restype = types, ctypes.c_long
    return function


def _addresses(tensors: Sequence[Tensor | None]) -> array:
    return array("Q", [0 if x is None else x.data_ptr() for x in tensors])
