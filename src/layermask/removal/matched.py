"""Moment matching: layer masking that brings statistics of masked pictures back to those of whole ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.core.inputs import check_inputs
from layermask.core.masked import Masked
from layermask.core.settings import Settings
from layermask.errors import InputError
from layermask.removal import fitted
from layermask.removal.layer_masking import LayerMasking, enter
from layermask.removal.moments import PLACES, Moments, Site, Statistics, Watch, brought_back, hidden_share
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

LEVELS = (0.2, 0.4, 0.6, 0.8)
LEAST_IMAGES = 10
CELLS = 14  # of random masks, per axis: 16 pixels of 224


class Matched(LayerMasking):
    """Layer masking with the drift of each channel's statistics undone.

    Under masks the mean and variance of a channel move away from those that the network was trained on.
    `fit` measures how far, on a few pictures. In answers, each channel of each norm's input (without norms:
    of each convolution's output) is then moved back by one affine map, which depends on the share of the
    image that is hidden and on nothing else. With nothing hidden it is the identity, so that all laws hold.

    The model is neither copied nor changed.

    Args:
        model: as of `LayerMasking`.
        strength: how far statistics are brought back, from 0, not at all, to 1.
        settings: how the model is masked, by default `Settings.steady()`.
        options: further arguments of `LayerMasking`.
    """

    def __init__(
        self, model: nn.Module, *, strength: float = 0.5, settings: Settings | None = None, **options: Any
    ) -> None:
        settings = Settings.steady() if settings is None else settings
        super().__init__(model, settings=settings, **options)
        self.strength = kinds.number("strength", strength, low=0, high=1)
        self.register_module("statistics", None)

    def _answer_each(self, images: Any, visible: Any, *args: Any, **kwargs: Any) -> Any:
        raise InputError("Matched takes a batch of images of one size (N, C, *S), not a list of images")

    def answer(self, images: Tensor, visible: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As `LayerMasking.answer`.

        Raises:
            InputError: nothing was fitted, or that was for images of another size.
        """
        statistics = self._statistics_for(images)
        maps = statistics.scale_and_shift(hidden_share(visible, images.dtype), self.strength)
        return self._watched(images, visible, statistics.place, partial(_moved, maps), args, kwargs)

    def _statistics_for(self, images: Tensor) -> Statistics:
        if self.statistics is None:
            raise InputError(
                "Matched has no statistics of this model yet: call fit(images) with 30 to 100 pictures, or "
                "read some by Matched.load"
            )
        if tuple(images.shape[1:]) != self.statistics.shape:
            raise InputError(
                f"the statistics are of images {self.statistics.shape}, and these are "
                f"{tuple(images.shape[1:])}: call fit with images of this size"
            )
        return self.statistics

    def _watched(
        self,
        images: Tensor,
        visible: Tensor,
        place: str,
        change: Callable[[int, Site], Any],
        args: tuple = (),
        kwargs: dict | None = None,
        engine: bool = True,
    ) -> Any:
        """The answer of a pass in which `change` is asked about every map that is matched."""
        forward_pass = self._forward_pass()
        x = enter(images, visible, forward_pass)
        forward_pass.watch = Watch(place, x.shape[0], change)
        if not engine:
            forward_pass.sparse_engine = None
        return self._run_on(x, images, forward_pass, args, kwargs or {})

    @checked(
        images=kinds.images,
        levels=partial(kinds.numbers, above=0, below=1),
        seed=kinds.seed,
        show_progress=kinds.optional(partial(kinds.function, inputs=1)),
    )
    @torch.no_grad()
    def fit(
        self,
        images: Tensor,
        *,
        levels: tuple[float, ...] = LEVELS,
        seed: int = 0,
        show_progress: Callable[[int], None] | None = None,
    ) -> Matched:
        """Collect the statistics of whole and of masked pictures; return self.

        Layer after layer, with what is brought back already in the layers before. All pictures go through the
        model together, once for each level and once whole.

        Args:
            images: (N, C, *S) float, preprocessed as the model expects; 30 to 100, of any kind that the model
                is asked about, without labels.
            levels: shares of square patches, a 14th of the image wide, that are hidden; ascending.
            seed: of the masks.
            show_progress: called with the number of passes after each.

        Raises:
            InputError: there are fewer than 10 images, or nothing in the model can be matched.
        """
        _check_fit(images, levels)
        done = show_progress or (lambda passes: None)
        place, whole = self._whole(images)
        done(1)
        masked = []
        for number, level in enumerate(levels):
            masked.append(self._masked(images, _patches(images, level, seed + number), place, whole))
            done(1)
        self.statistics = _joined(levels, whole, masked, place, images)
        return self

    def save(self, path: str | Path, loaded: Loaded | None = None) -> None:
        """Write the statistics as safetensors, with the names of the model and, if `loaded`, of its
        preprocessing.

        Raises:
            InputError: nothing was fitted, or the file cannot be written.
        """
        if self.statistics is None:
            raise InputError("there are no statistics to save: call fit(images) first")
        fitted.write(path, self.statistics, self.strength, self.settings, self.model, loaded)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: nn.Module,
        preprocessing: Preprocessing | None = None,
        **options: Any,
    ) -> Matched:
        """Return the operator with the statistics that `save` wrote; `options` as of the class.

        Raises:
            InputError: the file is missing or holds no statistics, or those of other weights, of another
                preprocessing than the one given, or collected with other settings.
        """
        statistics, facts = fitted.read(path, kinds.model("model", model), preprocessing)
        made = cls(model, **{"strength": facts["strength"], **options})
        if repr(made.settings) != facts["settings"]:
            raise InputError(
                f"{path} holds statistics collected with {facts['settings']}, not {made.settings}: fit again"
            )
        like = next(model.parameters(), torch.zeros(()))
        made.statistics = statistics.to(like.device)
        return made

    def _whole(self, images: Tensor) -> tuple[str, list[Found]]:
        """Where the model is matched, and the moments of whole images there."""
        visible = check_inputs(images, torch.ones_like(images[:, :1], dtype=torch.bool))
        for place in PLACES:
            found: list[Found] = []

            def note(number: int, site: Site, found: list[Found] = found) -> Masked:
                found.append((site.moments(), site.eps))
                return site.value

            self._watched(images, visible, place, note, engine=False)
            if found:
                return place, found
        raise InputError(
            "the model has neither norms nor convolutions of maps that it keeps apart by image: there is "
            "nothing to match, use LayerMasking"
        )

    def _masked(self, images: Tensor, visible: Tensor, place: str, whole: list[Found]) -> list[Moments]:
        """The moments under masks, with the layers before brought back by what is found there."""
        found: list[Moments] = []

        def bring_back(number: int, site: Site) -> Masked:
            base, eps = _at(whole, number, site)
            mean, variance, seen = site.moments()
            here = Moments(
                torch.where(seen, mean, base.mean), torch.where(seen, variance, base.variance), seen
            )
            found.append(here)
            drift = self.strength * (here.mean - base.mean), self.strength * (here.variance - base.variance)
            return site.moved(*brought_back(base.mean, base.variance, *drift, eps))

        self._watched(images, visible, place, bring_back, engine=False)
        if len(found) != len(whole):
            raise _other_order()
        return found


Found = tuple[Moments, float]
"""Moments of whole images at a place, and its `eps`."""


def _moved(maps: Sequence[tuple[Tensor, Tensor]], number: int, site: Site) -> Masked:
    """The map brought back by the scale and shift of its number."""
    if number >= len(maps) or maps[number][0].shape[1] != site.value.shape[site.axis]:
        raise _other_order()
    return site.moved(*maps[number])


def _at(whole: Sequence[Found], number: int, site: Site) -> Found:
    if number >= len(whole) or len(whole[number][0].mean) != site.value.shape[site.axis]:
        raise _other_order()
    return whole[number]


def _other_order() -> InputError:
    return InputError(
        "the model calls other layers than those that the statistics were collected of: fit again, or use "
        "LayerMasking if what it calls depends on the images"
    )


def _check_fit(images: Tensor, levels: Sequence[float]) -> None:
    if len(images) < LEAST_IMAGES:
        raise InputError(
            f"images are {len(images)}: give {LEAST_IMAGES} or more to fit on, 30 to 100 are best"
        )
    if not levels or any(a >= b for a, b in pairwise(levels)):
        raise InputError(f"levels are {levels}: give shares in ascending order, as {LEVELS}")


def _patches(images: Tensor, hidden: float, seed: int) -> Tensor:
    """A mask (N, 1, *S) per image, of which this share of the square cells is hidden at random."""
    cells = [min(CELLS, length) for length in images.shape[2:]]
    total, generator = math.prod(cells), torch.Generator().manual_seed(seed)
    ranks = torch.stack([torch.randperm(total, generator=generator) for _ in images])
    masks = (ranks >= round(hidden * total)).float().view(-1, 1, *cells)
    return F.interpolate(masks, size=tuple(images.shape[2:])).bool().to(images.device)


def _joined(
    levels: Sequence[float], whole: list[Found], masked: list[list[Moments]], place: str, images: Tensor
) -> Statistics:
    rows = [[moments for moments, _ in whole], *masked]
    tensors = {
        "levels": torch.tensor(levels, device=images.device),
        "mean": torch.stack([torch.cat([each.mean for each in row]) for row in rows]),
        "variance": torch.stack([torch.cat([each.variance for each in row]) for row in rows]),
        "eps": torch.cat([torch.full_like(each.mean, eps) for each, eps in whole]),
    }
    channels = [len(each.mean) for each, _ in whole]
    return Statistics(tensors, channels, place, images.shape[1:], len(images))
