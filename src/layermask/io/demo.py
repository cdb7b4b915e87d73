"""How a fill, a growth rule or a segmenter draws itself: `python -m layermask.removal.fills.blur [OUT.png]`.

It stands below the rooms that draw themselves, and so knows none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.errors import import_optional

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

SIDE, CAPTION, COLUMNS = 224, 16, 4  # of a picture and the line below it, in pixels; pictures side by side
PHOTOGRAPH = Path(__file__).parents[1] / "assets" / "chelsea.jpg"


def photograph() -> Float[Tensor, "1 3 H W"]:
    """Return the bundled photograph, its middle, as (1, 3, SIDE, SIDE) from 0 to 1."""
    numpy, image = import_optional("numpy", "cli"), import_optional("PIL.Image", "cli")
    picture = image.open(PHOTOGRAPH).convert("RGB")
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    pixels = numpy.array(picture.crop((left, top, left + SIDE, top + SIDE)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def holes() -> Bool[Tensor, "1 1 H W"]:
    """Return a mask (1, 1, SIDE, SIDE): a large hole, and random cells of 16 pixels in its right half."""
    cells = torch.rand(14, 14, generator=torch.Generator().manual_seed(0)) < 0.5
    cells[:, :7] = True
    cells[4:10, 1:6] = False
    return cells.repeat_interleave(16, 0).repeat_interleave(16, 1)[None, None]


def pixels(x: Float[Tensor, "1 3 H W"]) -> UInt8[Tensor, "H W 3"]:
    """Return (1, 3, H, W) from 0 to 1 as pixels (H, W, 3) uint8."""
    return (255 * x[0].clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0)


def draw(name: str, pictures: Mapping[str, Tensor]) -> None:
    """Write a sheet of pixels (H, W, 3) uint8 with their names, and print where it is.

    It goes to the file that the command names, else to out/pictures/ in the current folder.
    """
    image, drawing = import_optional("PIL.Image", "cli"), import_optional("PIL.ImageDraw", "cli")
    wide, tall = SIDE + 4, SIDE + CAPTION
    rows = -(-len(pictures) // COLUMNS)
    sheet = image.new("RGB", (wide * min(len(pictures), COLUMNS), tall * rows), "white")
    pen = drawing.Draw(sheet)
    for number, (caption, each) in enumerate(pictures.items()):
        corner = number % COLUMNS * wide, number // COLUMNS * tall
        sheet.paste(image.fromarray(each.numpy()).resize((SIDE, SIDE), image.Resampling.NEAREST), corner)
        pen.text((corner[0] + 2, corner[1] + SIDE + 2), caption, fill="black")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("out/pictures") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(path)
