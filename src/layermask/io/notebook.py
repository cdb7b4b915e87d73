"""What notebooks show of a value: a title, facts and small pictures, all within one piece of HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layermask.io.pixels import checkered, png

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped, UInt8

WIDTH = 160  # of a picture, in pixels of the screen
Pictures = Sequence[tuple[str, Tensor]]  # captions and pixels (H, W, 3) uint8


def card(title: str, facts: Mapping[str, object], pictures: Pictures = ()) -> str:
    """Return HTML that needs no style sheet, no script and no other file; texts are escaped."""
    rows = "".join(_row(name, value) for name, value in facts.items())
    figures = "".join(_figure(caption, pixels) for caption, pixels in pictures)
    return (
        f"<div><strong>{escape(title)}</strong>"
        f'<table style="margin:.4em 0;text-align:left"><tbody>{rows}</tbody></table>'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div></div>'
    )


def _row(name: str, value: object) -> str:
    return (
        f'<tr><th scope="row" style="text-align:left;white-space:nowrap">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
    )


def _figure(caption: str, pixels: Tensor) -> str:
    address = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    return (
        f'<figure style="margin:0"><img src="{address}" alt="{escape(caption)}" '
        f'style="width:{WIDTH}px;image-rendering:pixelated;border:1px solid #888">'
        f'<figcaption style="max-width:{WIDTH}px;font-size:85%">{escape(caption)}</figcaption></figure>'
    )


def masked_map(values: Shaped[Tensor, "C H W"], visible: Bool[Tensor, "#C #H #W"]) -> UInt8[Tensor, "P Q 3"]:
    """Return one map (C, H, W) as pixels, from its lowest visible value, black, to its highest, white.

    Maps of other than three channels are shown as the mean over channels. visible (C or 1, H, W).
    """
    step = max(1, max(values.shape[1:]) // (2 * WIDTH))  # no need for more than screens show
    values, visible = (x.detach().cpu()[:, ::step, ::step] for x in (values, visible))
    shown = visible.any(0)
    colors = values if len(values) == 3 else values.float().mean(0, keepdim=True).expand(3, -1, -1)
    colors = torch.where(shown, colors.float(), 0).nan_to_num()
    low, high = _range(colors[:, shown])
    pixels = (255 * (colors - low) / ((high - low) or 1)).clamp(0, 255).to(torch.uint8)
    return checkered(pixels.permute(1, 2, 0), shown, cell=max(1, max(shown.shape) // 24))


def _range(values: Tensor) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.numel() else (0.0, 1.0)
