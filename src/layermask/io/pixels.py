"""Pictures as pixels, with torch alone: the tint of scores, the sign for what is hidden, PNG files."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped, UInt8

SUPPORTS, DETRACTS = (0.0, 0.396, 0.616), (0.835, 0.369, 0.0)  # blue, orange: told apart by the colour-blind
TINT = 0.8  # how much of the colour there is at the end of the scale
PALE = 0.25  # as much of its tint has a score that may be noise


def tinted(
    base: Shaped[Tensor, "H W"], heatmap: Shaped[Tensor, "H W"], limit: float
) -> UInt8[Tensor, "H W 3"]:
    """Tint grey pixels (H, W), 0 to 255: blue where scores (H, W) support, orange where not.

    Returns (H, W, 3) uint8. The tint is full at a score of `limit`, in the units of the scores, none at 0.
    """
    strength = (heatmap.double() / (limit or 1)).clamp(-1, 1)[..., None]
    color = torch.where(
        strength > 0, *(255 * torch.tensor(c, dtype=torch.double) for c in (SUPPORTS, DETRACTS))
    )
    alpha = TINT * strength.abs()
    return (base[..., None] * (1 - alpha) + color * alpha).round().to(torch.uint8)


def checkered(
    pixels: UInt8[Tensor, "H W 3"], visible: Bool[Tensor, "H W"], cell: int = 8
) -> UInt8[Tensor, "H W 3"]:
    """Return pixels (H, W, 3) uint8 with a checkerboard, the sign for "not there", where (H, W) is False."""
    height, width = visible.shape
    board = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
    board = (215 + 30 * board).to(torch.uint8)[..., None].expand(-1, -1, 3)
    return torch.where(visible.cpu()[..., None], pixels, board)


def bordered(pixels: UInt8[Tensor, "H W 3"], segments: Int[Tensor, "H W"]) -> UInt8[Tensor, "H W 3"]:
    """Return pixels (H, W, 3) uint8 with the borders of segments (H, W) drawn into them."""
    border = torch.zeros_like(segments, dtype=torch.bool)
    border[1:] |= segments[1:] != segments[:-1]
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    return torch.where(border[..., None], torch.tensor([255, 230, 0], dtype=torch.uint8), pixels)


def png(pixels: UInt8[Tensor, "H W 3"]) -> bytes:
    """Return pixels (H, W, 3) uint8 as a PNG file."""
    height, width, _ = pixels.shape
    rows = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), pixels.reshape(height, -1)], 1)
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(rows.numpy().tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
