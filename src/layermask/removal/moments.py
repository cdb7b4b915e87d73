"""Statistics of a network's channels under masks, and what brings them back to those of whole pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask.core.aten import call_of
from layermask.core.masked import Masked, has_positions
from layermask.rules.reduce import moments as visible_moments

NORMS: dict[Callable, int] = {
    **dict.fromkeys((F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm), 7),
    **dict.fromkeys((F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm), 4),
    **dict.fromkeys((F.rms_norm, torch.rms_norm), 3),
}
"""Norms, and the place of `eps` among their arguments."""
_LAST = {F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm}
"""Norms of the last axes; channels are one axis, the last."""
CONVOLUTIONS = frozenset(getattr(F, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3))
PLACES = ("norms", "convolutions")
"""Where a network is matched: at the inputs of its norms or, where it has none, at the outputs of its
convolutions."""
EPS = 1e-5
"""Of places that have none of their own."""


class Site(NamedTuple):
    """A map in a pass that is matched: the value, the axis of its channels, and the norm's `eps`."""

    value: Masked
    axis: int
    eps: float

    def along(self, channels: Tensor) -> Tensor:
        """Numbers per image and channel (M, C), shaped to meet the map."""
        shape = [channels.shape[0]] + [1] * (self.value.ndim - 1)
        shape[self.axis] = channels.shape[1]
        return channels.to(self.value.dtype).reshape(shape)

    def moved(self, scale: Tensor, shift: Tensor) -> Masked:
        """The map times `scale` plus `shift`, (M, C) or (C,) each."""
        scale, shift = (self.along(each if each.ndim == 2 else each[None]) for each in (scale, shift))
        return self.value * scale + shift  # type: ignore[return-value]  # a rule's

    def moments(self) -> Moments:
        """Mean and variance of each channel over the visible cells of all images."""
        dims = [d for d in range(self.value.ndim) if d != self.axis]
        mean, variance, number = (each.flatten() for each in visible_moments(self.value, dims))
        return Moments(mean.float(), variance.float(), number.expand(mean.shape) > 0)


class Moments(NamedTuple):
    """Of the channels of one map or of many: (..., C) each; `seen`: whether anything was visible."""

    mean: Tensor
    variance: Tensor
    seen: Tensor


class Watch:
    """Sees the operators of one pass, and has `change(number, site) -> map` for each map that is matched.

    `batch`: how many images and masks there are. Maps whose first axis is another one, as the windows of an
    image, are left as they are; so are values without positions.
    """

    def __init__(self, place: str, batch: int, change: Callable[[int, Site], Any]) -> None:
        self.place, self.batch, self.change = place, batch, change
        self.count = 0

    def __call__(self, function: Callable, args: tuple, kwargs: dict, call: Callable[[], Any]) -> Any:
        if function not in NORMS and function not in CONVOLUTIONS:
            known = call_of(function, args, kwargs)  # an operator of aten
            if known is None:
                return call()
            function, args, kwargs = known
        if self.place == "convolutions":
            out = call()
            return self._changed(Site(out, 1, EPS)) if function in CONVOLUTIONS else out
        if function not in NORMS or (site := _norm_site(function, args, kwargs)) is None:
            return call()
        changed = self._changed(site)
        if args:
            return function(changed, *args[1:], **kwargs)
        return function(**{**kwargs, "input": changed})

    def _changed(self, site: Site) -> Any:
        x = site.value
        if not isinstance(x, Masked) or x.ndim < 3 or x.shape[0] != self.batch or not has_positions(x):
            return x
        self.count += 1
        return self.change(self.count - 1, site)


def _norm_site(function: Callable, args: tuple, kwargs: dict) -> Site | None:
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Masked):
        return None
    place = NORMS[function]
    eps = args[place] if len(args) > place else kwargs.get("eps")
    if function not in _LAST:
        return Site(x, 1, EPS if eps is None else eps)
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    return Site(x, x.ndim - 1, EPS if eps is None else eps) if len(shape) == 1 else None


TENSORS = ("levels", "mean", "variance", "eps")


class Statistics(nn.Module):
    """Moments of all channels that are matched, side by side: of whole images, and for each hidden share.

    `levels` (L,): the shares, ascending, above 0. `mean`, `variance` (L + 1, T): of whole images first. `eps`
    (T,). `channels`: how many each map has, in the order of a pass; they add up to T. `place`: of `PLACES`.
    `shape`: of the images, (C, *S). `images`: how many they were.
    """

    levels: Tensor
    mean: Tensor
    variance: Tensor
    eps: Tensor

    def __init__(
        self,
        tensors: dict[str, Tensor],
        channels: Sequence[int],
        place: str,
        shape: Sequence[int],
        images: int,
    ) -> None:
        super().__init__()
        self.training = False
        for name in TENSORS:
            self.register_buffer(name, tensors[name])
        self.channels, self.place, self.shape, self.images = tuple(channels), place, tuple(shape), images

    def scale_and_shift(self, hidden: Tensor, strength: float) -> list[tuple[Tensor, Tensor]]:
        """(M, C) each, for each map in order, of masks of which the shares `hidden` (M,) are hidden.

        The masked moments are interpolated linearly between the levels, and stay as they are behind the last.
        `strength` is how much of their drift is undone, see `brought_back`. With nothing hidden the scale is
        1 and the shift 0, exactly.
        """
        mean, variance, eps = (x.to(hidden.dtype) for x in (self.mean, self.variance, self.eps))
        ends = self.levels.to(hidden.dtype)
        begins = torch.cat([ends.new_zeros(1), ends[:-1]])
        steps = ((hidden[:, None] - begins) / (ends - begins)).clamp(0, 1)  # (M, L)

        def drift(of: Tensor) -> Tensor:  # summed one by one: no image depends on the others of its batch
            return strength * (steps[:, :, None] * of.diff(dim=0)).sum(1)

        scale, shift = brought_back(mean[0], variance[0], drift(mean), drift(variance), eps)
        return list(zip(scale.split(self.channels, 1), shift.split(self.channels, 1), strict=True))


def brought_back(
    mean: Tensor, variance: Tensor, mean_drift: Tensor, variance_drift: Tensor, eps: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The scale and shift that undo a drift of the moments (..., C): x * scale + shift is
    (x - m) sqrt((v0 + eps) / (v + eps)) + m0 for moments m0, v0 that have become m, v."""
    scale = ((variance + eps) / (variance + variance_drift + eps)).sqrt()
    return scale, mean - (mean + mean_drift) * scale


def hidden_share(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """(M,): how much of each mask (M, ...) is hidden; exactly 0 where nothing is."""
    hidden = ~visible.flatten(1)
    return hidden.sum(1).to(torch.promote_types(dtype, torch.float32)) / hidden.shape[1]
