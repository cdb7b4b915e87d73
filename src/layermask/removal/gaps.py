"""Pixels that are never visible: no-data, the edge of a swath, what lies outside the body. NaN marks them.

The one owner of `valid=`: explainers, metrics and adapters mark what is not valid, and ask `NaNHidden`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.refusal import has
from layermask.errors import InputError
from layermask.zoo.outputs import scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

Valid = Tensor | Literal["nan"] | None
"""Which pixels may be visible: bool (*S) or (N or 1, 1, *S); "nan" for those without NaN; None for all."""


class NaNHidden(nn.Module):
    """A removal that never shows pixels with NaN in any channel; and a model of images alone, for most tools.

    Serves data with real gaps, and tools whose models take no mask, once they write NaN where they hide:
    Quantus by `write_nan`, pytorch-grad-cam by `as_road`. A custom removal gets 0 at these pixels.
    `channel_axis`: 1, or 2 for a model of videos (N, T, C, H, W).

    Raises:
        InputError: a removal that paints from what hidden pixels held, as `BlurFill`.
    """

    def __init__(self, removal: Callable[..., Any], channel_axis: int = 1) -> None:
        super().__init__()
        self.removal = removal
        self.channel_axis = kinds.count("channel_axis", channel_axis, high=2)
        for name in _kinds_within(removal):
            if name in _reading_hidden():
                raise InputError(
                    f"{name} paints from what hidden pixels held, which NaN does not tell: "
                    "take another removal; or let the tool paint, by as_perturb_func or "
                    "as_road(metric, removal)"
                )
        kinds.removal("removal", removal)
        # Quantus refuses a model in training mode, which a wrapper of a model in eval mode seems to be.
        layers = [m for m in self.modules() if not list(m.children())]
        self.training = any(m.training for m in layers if m is not self)

    def forward(
        self,
        images: Float[Tensor, "N C *S"],
        visible: Shaped[Tensor, "M 1 *S"] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return the removal's output for images (N, C, *S) float, without their pixels that hold NaN.

        With `visible` (N or 1, 1, *S), as of any removal, it is what the removal gives. With images alone it
        is the (N, K) scores; Hugging Face outputs give their logits.
        """
        images = kinds.images("images", images)
        valid = _without_nan(images, self.channel_axis)
        shown = valid if visible is None else kinds.mask("visible", visible) & valid
        # Not every removal of the user's own picks by `where`; what is hidden must not reach it.
        found = self.removal(torch.where(valid, images, 0.0), shown, *args, **kwargs)
        return scores(found) if visible is None else found


def never_visible(
    removal: Callable[..., Any], images: Float[Tensor, "N C *S"], valid: Valid
) -> tuple[Callable[..., Any], Float[Tensor, "N C *S"]]:
    """Return what to ask, and about which images, so that only `valid` pixels are ever shown.

    Raises:
        InputError: as `valid_pixels`; or the removal paints from what hidden pixels held.
    """
    if valid is None:
        return removal, images
    return NaNHidden(removal), mark_hidden(images, valid_pixels(images, valid))


def valid_pixels(images: Float[Tensor, "#N C *S"], valid: Tensor | Literal["nan"]) -> Bool[Tensor, "#N 1 *S"]:
    """Return `valid` as the mask of a batch, of one image or of as many as `images` has.

    Raises:
        InputError: it is of another shape, shows pixels that hold NaN, or nothing of an image.
    """
    if isinstance(kinds.valid("valid", valid), str):
        mask = _without_nan(images)
    else:
        mask = kinds.mask("valid", valid).to(images.device)
        mask = mask[None, None] if mask.shape == images.shape[2:] else mask
        _check_shape("valid", images, mask)
    if not bool(mask.flatten(1).any(1).all()):
        raise InputError(
            f"valid of shape {tuple(mask.shape)} leaves nothing of an image: leave that image out"
        )
    if bad := int((images.isnan().any(1, keepdim=True) & mask).sum()):
        raise InputError(
            f'valid of shape {tuple(mask.shape)} is True at {bad} pixels that hold NaN: give valid="nan", or '
            "False there too"
        )
    return mask


def mark_hidden(
    images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "#N 1 *S"]
) -> Float[Tensor, "N C *S"]:
    """Return the images with NaN where `visible` is False; see `NaNHidden`."""
    images, visible = kinds.images("images", images), kinds.mask("visible", visible)
    _check_shape("visible", images, visible)
    return torch.where(visible, images, torch.nan)


def _without_nan(images: Tensor, channel_axis: int = 1) -> Tensor:
    return ~images.isnan().any(channel_axis, keepdim=True)


def _kinds_within(removal: Any) -> Iterator[str]:
    """Yield the names of the classes that a removal is made of; a wrapper may hold one as `.removal`."""
    if isinstance(removal, nn.Module):
        yield from (type(module).__name__ for module in removal.modules())
    elif has(removal, "removal"):
        yield from _kinds_within(removal.removal)


def _reading_hidden() -> set[str]:
    from layermask.removal.registry import REMOVALS  # here: it imports every removal

    return {removal.operator for removal in REMOVALS.values() if removal.reads_hidden}


def _check_shape(name: str, images: Tensor, mask: Tensor) -> None:
    wanted = (images.shape[0], 1, *images.shape[2:])
    fits = mask.ndim == images.ndim and mask.shape[1:] == wanted[1:]
    if not fits or mask.shape[0] not in (1, wanted[0]):
        raise InputError(
            f"{name} is True or False of shape {wanted} or {(1, *wanted[1:])} for images "
            f"{tuple(images.shape)}, got {mask.dtype} of {tuple(mask.shape)}"
        )
