"""The choice between two removals by the mask: one for holes between visible parts, one for cut-outs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask._private_torch import is_readable, tree_leaves, tree_map
from layermask.arguments import kinds
from layermask.core.inputs import check_inputs
from layermask.core.settings import Settings
from layermask.errors import InputError
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.painting import ConstantFill

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

REACHES = (16.0, 20.0, 24.0, 28.0, 32.0)
"""Pixels, of an image of 224: hidden pixels that visible ones enclose within such a reach are holes."""
SIDE = 224
BETWEEN = (0.15, 0.6)


class Adaptive(nn.Module):
    """Answers by one removal where hidden areas are holes between visible parts, by another where only some
    object is left of the image, and mixes both in between.

    The mask alone decides: the share of its hidden area that is open (`open_share`). Up to the first number
    of `between` the answer is that of `holes`, from the second on that of `cutouts`. Between them both are
    asked, and their answers are mixed in proportion, so that an explainer that hides segment after segment
    meets several steps in place of one jump.

    Args:
        model: any module whose first argument is the images; its answers are tensors (N, ...).
        holes: the removal operator of the model for holes, by default `LayerMasking` as `Settings.steady()`.
        cutouts: the one for cut-outs, by default `ConstantFill`: 0, the mean colour after normalisation.
        reaches: of `open_share`.
        between: two shares, from 0 to 1, ascending.

    Raises:
        ValueError, TypeError: an argument has no such value, or an operator is of another model.
    """

    def __init__(
        self,
        model: nn.Module,
        holes: nn.Module | None = None,
        cutouts: nn.Module | None = None,
        *,
        reaches: Sequence[float] = REACHES,
        between: tuple[float, float] = BETWEEN,
    ) -> None:
        super().__init__()
        self.model = kinds.model("model", model)
        holes = LayerMasking(model, settings=Settings.steady()) if holes is None else holes
        cutouts = ConstantFill(model) if cutouts is None else cutouts
        self.holes, self.cutouts = _of(model, "holes", holes), _of(model, "cutouts", cutouts)
        self.reaches = kinds.numbers("reaches", reaches, above=0)
        self.between = kinds.numbers("between", between, low=0, high=1)
        if len(self.between) != 2 or self.between[0] >= self.between[1]:
            raise InputError(f"between is {between}: give two shares in ascending order, as {BETWEEN}")
        self.training = model.training
        _share_notice(self.holes, self.cutouts)

    @property
    def engine_used(self) -> str | None:
        return getattr(self.holes, "engine_used", None)

    def forward(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the model's output for images (N, C, *S) and visible (N, 1, *S); either batch may be 1.

        Raises:
            TypeError, ValueError: as the two operators, or the answers to be mixed are not tensors (N, ...).
        """
        visible = check_inputs(images, visible)
        weight = self.weight(visible)
        rows = weight > 0
        if is_readable(visible):
            if not rows.any():
                return self.holes(images, visible, *args, **kwargs)
            if (weight == 1).all():
                return self.cutouts(images, visible, *args, **kwargs)
        needed = visible & (weight < 1).view(-1, *[1] * (visible.ndim - 1))  # others cost no rows
        holes = self.holes(images, needed, *args, **kwargs)
        if not is_readable(visible) or len(weight) == 1:
            return _mixed(holes, self.cutouts(images, visible, *args, **kwargs), weight, None)
        own = [_rows(each, rows) for each in (images, visible, *args)]
        named = {name: _rows(each, rows) for name, each in kwargs.items()}
        return _mixed(holes, self.cutouts(*own, **named), weight, rows)

    def weight(self, visible: Bool[Tensor, "M 1 *S"]) -> Float[Tensor, " M"]:
        """How much of the answer to each mask (M, 1, *S) is that of `cutouts`, from 0 to 1."""
        low, high = self.between
        return ((open_share(visible, self.reaches) - low) / (high - low)).clamp(0, 1)

    def extra_repr(self) -> str:
        return f"reaches={self.reaches}, between={self.between}"


def open_share(visible: Bool[Tensor, "M 1 *S"], reaches: Sequence[float] = REACHES) -> Float[Tensor, " M"]:
    """How much of the hidden area of each mask (M, 1, *S) lies outside the closing of the visible part.

    The closing is by a square that reaches so many pixels to each side, for images whose shorter side is 224;
    on others it is scaled with that. Beyond the image everything counts as visible. The mean over `reaches`:
    by one of them, a hole that grows would turn from closed to open all at once. 0 where nothing is hidden.
    """
    scale, hidden = min(visible.shape[2:]) / SIDE, ~visible
    total = torch.zeros(visible.shape[0], dtype=torch.int64, device=visible.device)
    for reach in reaches:
        pixels = max(1, round(reach * scale))
        outside = _dilated(~_dilated(visible, pixels), pixels)
        total = total + outside.flatten(1).sum(1)
    return total / (hidden.flatten(1).sum(1).clamp(min=1) * len(reaches))


def _dilated(mask: Tensor, pixels: int) -> Tensor:
    """Where anything of the mask is within so many pixels, along all axes; windows double at each step."""
    width = 2 * pixels + 1
    for axis in range(2, mask.ndim):
        mask, done = F.pad(mask, [0, 0] * (mask.ndim - 1 - axis) + [pixels, pixels]), 1
        while done < width:
            step = min(done, width - done)
            length = mask.shape[axis] - step
            mask = mask.narrow(axis, 0, length) | mask.narrow(axis, step, length)
            done += step
    return mask


def _of(model: nn.Module, name: str, removal: Any) -> nn.Module:
    found = kinds.model(name, kinds.removal(name, removal))
    if getattr(found, "model", model) is not model:
        raise InputError(f"{name} is a {type(found).__name__} of another model: make it of the same one")
    return found


def _share_notice(*removals: Any) -> None:
    """One warning about training mode is enough for two operators of one model."""
    notices = [removal for removal in removals if hasattr(removal, "notice")]
    for other in notices[1:]:
        other.notice = notices[0].notice


def _rows(x: Any, rows: Tensor) -> Any:
    """Those rows of what has one for each image."""
    return x[rows] if isinstance(x, Tensor) and x.ndim and len(x) == len(rows) else x


def _mixed(holes: Any, cutouts: Any, weight: Tensor, rows: Tensor | None) -> Any:
    """The answers to holes, mixed with those to cut-outs, which are for some `rows` or for all."""
    others = iter(tree_leaves(cutouts))

    def mixed(x: Any) -> Tensor:
        other = next(others)
        if (
            not isinstance(x, Tensor)
            or not x.is_floating_point()
            or (rows is not None and len(x) != len(rows))
        ):
            raise InputError(
                f"Adaptive mixes answers that are float tensors of one row per image, and the model's is a "
                f"{type(holes).__name__}: use one of the two operators"
            )
        if rows is None:
            return _between(x, other, weight)
        return x.index_put((rows,), _between(x[rows], other, weight[rows]))

    return tree_map(mixed, holes, is_leaf=lambda x: False)


def _between(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    share = weight.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return torch.where(share < 1, torch.where(share > 0, x + share * (other - x), x), other)
