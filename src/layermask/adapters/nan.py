"""NaN = hidden: a removal behind the one-tensor interface that most tools have, and for real missing data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layermask.adapters.arguments import Removal
from layermask.arguments import kinds
from layermask.errors import InputError
from layermask.zoo.outputs import scores


class NaNHidden(nn.Module):
    """A model of images alone, which answers from the pixels that hold no NaN in any channel.

    Serves tools whose models take no mask, once they write NaN where they hide: Quantus by `write_nan`,
    pytorch-grad-cam by `as_road`. Also for data with real gaps.

    Raises:
        InputError: a removal that paints from what hidden pixels held, as `BlurFill`.
    """

    def __init__(self, removal: Removal) -> None:
        super().__init__()
        self.removal = removal
        for module in self.modules():
            if type(module).__name__ in _reading_hidden():
                raise InputError(
                    f"{type(module).__name__} paints from what hidden pixels held, which NaN does not tell: "
                    "let the tool paint, by as_perturb_func or as_road(metric, removal)"
                )
        kinds.removal("removal", removal)
        # Quantus refuses a model in training mode, which a wrapper of a model in eval mode seems to be.
        layers = [m for m in self.modules() if not list(m.children())]
        self.training = any(m.training for m in layers if m is not self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (N, K) scores of images (N, C, *S) float; Hugging Face outputs give their logits."""
        images = kinds.images("images", images)
        visible = ~images.isnan().any(1, keepdim=True)
        # Not every removal of the user's own picks by `where`; what is hidden must not reach it.
        return scores(self.removal(torch.where(visible, images, 0.0), visible))


def _reading_hidden() -> set[str]:
    from layermask.removal.registry import REMOVALS  # here: it imports every removal

    return {removal.operator for removal in REMOVALS.values() if removal.reads_hidden}


def mark_hidden(images: Tensor, visible: Tensor) -> Tensor:
    """Return the images (N, C, *S) with NaN where visible (N or 1, 1, *S) is False; see `NaNHidden`."""
    images, visible = kinds.images("images", images), kinds.mask("visible", visible)
    _check_shape(images, visible)
    return torch.where(visible, images, torch.nan)


def _check_shape(images: Tensor, visible: Tensor) -> None:
    wanted = (images.shape[0], 1, *images.shape[2:])
    fits = visible.ndim == images.ndim and visible.shape[1:] == wanted[1:]
    if not fits or visible.shape[0] not in (1, wanted[0]):
        raise InputError(
            f"visible is True or False of shape {wanted} or {(1, *wanted[1:])} for images "
            f"{tuple(images.shape)}, got {visible.dtype} of {tuple(visible.shape)}"
        )
