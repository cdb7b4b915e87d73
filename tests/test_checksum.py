"""The content hash of weights sees every change of a word, and nothing but contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from layermask.kernels import checksum, library
from layermask.kernels.checksum import checksums

WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(library() is None, reason="no C compiler"), id="compiled"),
    pytest.param(False, id="without a compiler"),
]
PIECE = 256 * 1024 // 4  # words
SIZES = [1, 2, 63, 64, 65, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77]


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(checksum, "library", lambda: None)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def words(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("size", SIZES)
def test_every_single_bit_is_seen(size: int) -> None:
    bits, known = words(size).view(torch.int32), set()
    places = {0, 1, size // 2, size - 2, size - 1} & set(range(size))
    for place in places:
        for bit in range(32):
            changed = bits.clone()
            changed[place] ^= 1 << bit if bit < 31 else -(1 << 31)
            known.add(checksums([changed]))
    assert len(known | {checksums([bits])}) == 32 * len(places) + 1


def flip_signs(x: Tensor) -> Tensor:
    return -x


def flip_two_signs_of_a_lane(x: Tensor) -> Tensor:
    return torch.cat([-x[:1], x[1:64], -x[64:65], x[65:]])


def swap_two_of_a_lane(x: Tensor) -> Tensor:
    return torch.cat([x[64:65], x[1:64], x[:1], x[65:]])


def swap_neighbours(x: Tensor) -> Tensor:
    return torch.cat([x[1:2], x[:1], x[2:]])


def move_by_a_round(x: Tensor) -> Tensor:
    return x.roll(64)


CHANGES = [
    flip_signs,
    flip_two_signs_of_a_lane,
    swap_two_of_a_lane,
    swap_neighbours,
    move_by_a_round,
    torch.zeros_like,
    lambda x: x * 3,
    lambda x: x.flip(0),
    lambda x: torch.cat([x, x.new_zeros(1)]),
    lambda x: x[:-1],
    lambda x: torch.cat([x[PIECE : 2 * PIECE], x[:PIECE], x[2 * PIECE :]]),
]


@pytest.mark.parametrize("size", [128, 1000, 3 * PIECE + 77])
def test_changes_of_many_words_are_seen(size: int) -> None:
    x = words(size)
    changed = [x, *(change(x) for change in CHANGES)]
    kinds = {bytes(y.numpy().data) for y in changed}
    assert len({checksums([y]) for y in changed}) == len(kinds) >= len(CHANGES)


@pytest.mark.parametrize("size", SIZES)
def test_it_depends_on_contents_alone(size: int) -> None:
    """Not on the number of threads, on where the words lie, or on what lies behind them."""
    x, found = words(size), set()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        for offset in (0, 1, 3):
            held = torch.full((size + offset + 4,), float(count))
            held[offset : offset + size] = x
            found.add(checksums([held[offset : offset + size], x]))
    assert len(found) == 1


def test_odd_lengths() -> None:
    """Each byte of a tail counts, and zeros at the end do too."""
    x = torch.arange(1, 1 << 10, dtype=torch.int32).to(torch.uint8)
    found = {checksums([x[:n]]) for n in range(1000)} | {checksums([x.new_zeros(n)]) for n in range(1, 300)}
    assert len(found) == 1000 + 299


def test_order_and_borders_of_tensors_count() -> None:
    a, b = words(100), words(70)
    given = [
        [a, b],
        [b, a],
        [torch.cat([a, b])],
        [a[:50], a[50:], b],
        [a],
        [b],
        [a, b, b[:0]],
        [b[:0], a, b],
        [],
    ]
    assert len({checksums(each) for each in given}) == len(given)


def test_many_tensors() -> None:
    """More pieces than are hashed at once."""
    many = list(words(2000)[:, None])
    found = {checksums([*many[:n], many[n] + 1, *many[n + 1 :]]) for n in (0, 511, 512, 1023, 1024, 1999)}
    assert len(found | {checksums(many)}) == 7 and checksums(many) == checksums([x.clone() for x in many])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "conjugated": lambda x: torch.complex(x, x).conj(),
    "negative": lambda x: torch.complex(x, x).conj().imag,
    "half": Tensor.half,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    """What lies in other orders, or not dense, is read as torch reads it."""
    x, lay = words(4 * 3 * 5 * 7).view(4, 3, 5, 7), LAYOUTS[layout]
    changed = x.clone()
    changed[0, 2, 3, 4] += 1
    assert checksums([lay(x)]) == checksums([lay(x.clone())]) != checksums([lay(changed)])


def test_a_transposed_square_is_another_matrix() -> None:
    x = words(64).view(8, 8)
    assert checksums([x]) != checksums([x.t()]) != checksums([x.t().contiguous()])
    z = torch.complex(x, x)
    assert checksums([z]) != checksums([z.conj()])
    one = torch.complex(x[:1, :1], x[:1, :1])
    assert checksums([one.imag]) != checksums([one.conj().imag])


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"on the CPU, not on.*meta"):
        checksums([words(3), torch.empty(3, device="meta")])
