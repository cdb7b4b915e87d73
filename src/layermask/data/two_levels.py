"""What is visible in the masks that tools make: two levels, soft edges, alpha, palettes, JPEG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layermask.arguments.refusal import warn
from layermask.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

WHITES = (1, 255, 65535)
DARK, BRIGHT = 0.1, 0.9  # of white: what lies in between is an edge
EDGES = 0.25  # of the pixels at most are edges: a mask is no photograph


def visible_in(values: np.ndarray, path: str | Path) -> np.ndarray:
    """Return where a mask (H, W) of any numbers is visible, bool; say what was decided if that is not plain.

    Raises:
        ImageError: it is not two levels, and not two levels with soft edges either.
    """
    import numpy as np

    levels = np.unique(values)
    white = next((top for top in WHITES if np.isin(levels, (0, top)).all()), None)
    if white is not None:
        return values > 0
    if len(levels) == 2 and levels[0] == 0:
        warn(f"mask {path} has the two values 0 and {levels[1]:g}: {levels[1]:g} is visible")
        return values > 0
    scaled = values / next((top for top in WHITES if levels[-1] <= top), levels[-1])
    between = float(((scaled > DARK) & (scaled < BRIGHT)).mean())
    if levels[0] < 0 or scaled.min() > DARK or scaled.max() < BRIGHT or between > EDGES:
        raise ImageError(
            f"mask {path} has {len(levels)} grey values from {levels[0]:g} to {levels[-1]:g}, and "
            f"{between:.0%} of it is neither black nor white: expected only 0 (hidden) and 255 (visible), or "
            "soft edges between the two"
        )
    jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    warn(
        f"mask {path} has {len(levels)} grey values: half of white and brighter is visible ({between:.1%} of "
        f"it is neither black nor white{'; JPEG blurs edges, save masks as PNG' if jpeg else ''})"
    )
    return scaled >= 0.5


def grey_of(mask: Image.Image, path: str | Path) -> np.ndarray:
    """Return the numbers (H, W) that say what is visible in a decoded mask: its greys, or its alpha.

    Transparent parts are hidden. Where the opaque parts are not black and white, as in a photograph whose
    background was erased or in strokes of one colour, the opaque parts are what is visible.

    Raises:
        ImageError: all that is opaque is black, so that everything would be hidden.
    """
    import numpy as np
    from PIL import Image

    if mask.mode.startswith("I") or mask.mode == "F":
        return np.asarray(mask)
    if not mask.has_transparency_data:
        return np.asarray(mask.convert("RGB").convert("L"))
    image = mask.convert("RGBA")
    alpha, black = np.asarray(image)[..., 3], Image.new("RGBA", image.size, "black")
    grey = np.asarray(Image.alpha_composite(black, image).convert("RGB").convert("L"))
    if alpha.min() == alpha.max() or _black_and_white(grey[alpha > 127]):
        return grey
    if grey.max() == 0:
        raise ImageError(
            f"mask {path} is black on transparent, and black and transparent parts are both hidden: paint "
            "what is visible in white"
        )
    if not _white(grey[alpha > 127]):
        warn(f"mask {path} is neither black nor white where it is opaque: its opaque part is visible")
    return alpha


def _black_and_white(opaque: np.ndarray) -> bool:
    dark, bright = opaque < 255 * DARK, opaque > 255 * BRIGHT
    return bool(dark.any() and bright.any()) and float((dark | bright).mean()) >= 1 - EDGES


def _white(opaque: np.ndarray) -> bool:
    return bool((opaque > 127).all())
