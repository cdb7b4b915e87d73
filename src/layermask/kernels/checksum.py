"""A content hash of tensors, by checksum.c at memory speed, to see whether weights have changed."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence

from torch import Tensor

from layermask.kernels.compile import blocks_of
from layermask.kernels.loader import library


def checksums(tensors: Sequence[Tensor]) -> int:
    """Return one 64-bit hash of the contents of strided tensors on the CPU, in this order.

    Shapes and dtypes are not part of it, the strides of what is not contiguous are. One changed word always
    changes the hash; any other change goes unseen with a chance of about 2^-32. The number of threads does
    not matter. Machines with and without compiled kernels give different hashes: do not store them.

    Raises:
        ValueError: a tensor is not on the CPU.
    """
    plain = [x if x.is_contiguous() and not x.is_neg() and not x.is_conj() else _in_order(x) for x in tensors]
    if not all([x.is_cpu for x in plain]):
        raise ValueError(f"checksums reads tensors on the CPU, not on {[str(x.device) for x in plain]}")
    kernels = library()
    found = kernels.checksum(plain) if kernels else _by_hashlib(plain)
    kept = all([x is y for x, y in zip(plain, tensors, strict=True)])
    return found if kept else hash((found, *[x.stride() for x in tensors]))


def _in_order(x: Tensor) -> Tensor:
    """The same entries in the order of memory, without a copy where they are dense there."""
    x = x.resolve_conj().resolve_neg()
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return x.permute(order).contiguous()


def _by_hashlib(tensors: Sequence[Tensor]) -> int:
    whole = hashlib.blake2b(repr([x.nbytes for x in tensors]).encode(), digest_size=8)
    for x in tensors:
        if x.nbytes:
            whole.update((ctypes.c_char * x.nbytes).from_address(x.data_ptr()))
    return int.from_bytes(whole.digest(), "little")


class Place:
    """Where tensors lie, noted once, so that little is left to do when their contents are hashed again."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """No reference to the tensors is kept."""
        self.readable = all([x.is_cpu for x in tensors])
        self._layout = _layout(tensors)
        plain = all([x.is_contiguous() and not x.is_neg() and not x.is_conj() for x in tensors])
        self._blocks = blocks_of(tensors) if plain and self.readable else None

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors lie exactly where those lay, with the same shapes and strides."""
        return self._layout == _layout(tensors)

    def checksum(self, tensors: Sequence[Tensor]) -> int:
        """`checksums` of tensors that this place holds."""
        kernels = library()
        if kernels is None or self._blocks is None:
            return checksums(tensors)
        return kernels.checksum_at(*self._blocks)


def _layout(tensors: Sequence[Tensor]) -> list[tuple]:
    return [(x.data_ptr(), x.shape, x.stride(), x.dtype, x.is_neg()) for x in tensors]
