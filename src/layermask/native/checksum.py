"""A content hash of tensors, by checksum.c at memory speed, to see whether weights have changed."""

from __future__ import annotations

import ctypes
import hashlib
from array import array
from collections.abc import Sequence

from torch import Tensor

from .build import call, library


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
    found = _checksum([x.data_ptr() for x in plain], [x.nbytes for x in plain])
    kept = all([x is y for x, y in zip(plain, tensors, strict=True)])
    return found if kept else hash((found, *[x.stride() for x in tensors]))


def _checksum(pointers: list[int], sizes: list[int]) -> int:
    lib, count = library(), len(pointers)
    if lib is None:
        return _by_hashlib(pointers, sizes)
    arrays = array("Q", pointers), array("l", sizes), array("Q", [0])  # a third of the time of ctypes' own
    where, lengths, out = (ctypes.c_void_p(x.buffer_info()[0]) for x in arrays)
    call(lib.checksum, where, lengths, count, out)
    return arrays[2][0]


def _in_order(x: Tensor) -> Tensor:
    """The same entries in the order of memory, without a copy where they are dense there."""
    x = x.resolve_conj().resolve_neg()
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return x.permute(order).contiguous()


def _by_hashlib(pointers: list[int], sizes: list[int]) -> int:
    whole = hashlib.blake2b(repr(sizes).encode(), digest_size=8)
    for pointer, size in zip(pointers, sizes, strict=True):
        if size:
            whole.update((ctypes.c_char * size).from_address(pointer))
    return int.from_bytes(whole.digest(), "little")
