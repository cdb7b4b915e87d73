"""How far a removal operator itself can be trusted, told from orders without meaning and from rankings.

Three measures: R-OMS of Bluecher et al. 2024 (arXiv 2401.06654), and the two criteria that Hsieh et al. 2026
(AIM, arXiv 2605.16905) name, the bias towards random attributions and the stability of rankings. Of the
latter paper only the abstract was at hand: the definitions are ours, and stated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.explain.sampling import generator
from layermask.metrics.flipping import Curve, flipping_curves
from layermask.metrics.measure import classes_of, maps_of, stacked
from layermask.removal.gaps import Valid, never_visible, valid_pixels

if TYPE_CHECKING:
    from jaxtyping import Float

Removing = Callable[..., Any]


@checked(
    removal=kinds.removal,
    images=kinds.images,
    n_orders=partial(kinds.count, high=100_000),
    seed=kinds.seed,
    perturbations_per_eval=kinds.count,
    valid=kinds.valid,
)
def random_attributions(
    removal: Removing,
    images: Tensor,
    feature_masks: Sequence[Any],
    n_orders: int = 10,
    seed: int = 0,
    perturbations_per_eval: int = 32,
    valid: Valid = None,
) -> list[Attribution]:
    """Return attributions without meaning of images (N, C, *S): `n_orders` rows of random scores each.

    The target of every row is the class predicted for the whole image. `valid`: the pixels that may be
    visible, as of explainers; the others are in no segment.
    """
    inside = None if valid is None else valid_pixels(images, valid)
    removal, images = never_visible(removal, images, inside)
    maps, shown = maps_of(images, feature_masks, inside), torch.ones_like(images[:, :1], dtype=torch.bool)
    classes = classes_of(removal, images, shown, perturbations_per_eval, compared=False)  # of one, its score
    return [
        Attribution(
            random_scores(n_orders, int(labels.max()) + 1, seed, index),
            labels,
            (target,) * n_orders,
            torch.full((n_orders,), torch.nan),  # nobody asked
            "random",
        )
        for index, (labels, target) in enumerate(zip(maps, classes.tolist(), strict=True))
    ]


def random_scores(rows: int, segments: int, seed: int, index: int = 0) -> Tensor:
    """Return scores (rows, segments) without meaning, a stream of their own for each index."""
    return torch.rand(rows, segments, generator=generator(seed, index), dtype=torch.float64)


@checked(images=kinds.images, steps=kinds.count)
def r_oms(
    removal: Removing,
    images: Tensor,
    feature_masks: Sequence[Any],
    *,
    steps: int = 10,
    n_orders: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """Return the reference-out-of-model-scope scores (N,): how much of an answer survives random holes.

    The probability of the class predicted for the whole image while segments are hidden in random order: the
    area under its curve (Bluecher et al. 2024, arXiv 2401.06654). Higher: the occluded images stay in the
    model's scope. Settings are those of `flipping`.
    """
    drawn = _draw(removal, images, feature_masks, n_orders, seed, settings)
    return stacked(_areas(flipping_curves(removal, images, drawn, "deletion", steps, **settings))).mean(1)


def _draw(removal, images, feature_masks, n_orders: int, seed: int, settings: dict[str, Any]):
    known = {key: settings[key] for key in ("perturbations_per_eval", "valid") if key in settings}
    return random_attributions(removal, images, feature_masks, n_orders, seed, **known)


def _areas(curves: list[Curve]) -> list[Tensor]:
    return [each.area() for each in curves]


@dataclass(frozen=True)
class RandomBias:
    """What random attributions (R for each of N images) are credited with, all (N, R).

    `drop`: the mean share of the answer lost on the way, 1 − area / f(all): what deletion would praise in
    them, although their order means nothing. `gain`: their SRG, LeRF less MoRF area as a share of f(all),
    whose expectation is 0 and whose spread is the noise under any real attribution's.
    """

    drop: Tensor
    gain: Tensor

    @classmethod
    def of(cls, whole: Tensor, morf: Tensor, lerf: Tensor) -> RandomBias:
        """Return what follows from the answers to whole images and from both areas."""
        return cls(1 - morf / whole, (lerf - morf) / whole)

    def bias(self) -> float:
        """Return the mean drop: lower, the operator takes less by the mere act of hiding."""
        return float(self.drop.mean())

    def noise(self) -> float:
        """Return the root mean square of the gains: lower, less of an SRG is chance."""
        return float(self.gain.square().mean().sqrt())


@checked(images=kinds.images, steps=kinds.count)
def random_attribution_bias(
    removal: Removing,
    images: Tensor,
    feature_masks: Sequence[Any],
    *,
    steps: int = 10,
    n_orders: int = 10,
    seed: int = 0,
    **settings: Any,
) -> RandomBias:
    """Hide segments in random orders and in their reverses, and see what that costs the answer.

    After the criterion of Hsieh et al. 2026 (arXiv 2605.16905): see `RandomBias`. Settings are those of
    `flipping`.
    """
    drawn = _draw(removal, images, feature_masks, n_orders, seed, settings)
    first = flipping_curves(removal, images, drawn, "deletion", steps, **settings)
    last = flipping_curves(removal, images, drawn, "lerf", steps, **settings)
    whole = torch.stack([each.values[:, 0] for each in first])
    if bool((whole <= 0).any()):
        raise InputError(
            f"the answer to {int((whole[:, 0] <= 0).sum())} of {len(images)} whole images is 0 or less, and "
            "losses are shares of it: use output='probability'"
        )
    morf, lerf = torch.stack(_areas(first)), torch.stack(_areas(last))
    return RandomBias.of(whole, morf, lerf)


@checked(a=kinds.values, b=kinds.values)
def kendall(a: Float[Tensor, "*#B M"], b: Float[Tensor, "*#B M"]) -> Float[Tensor, "*B"]:
    """Return Kendall's tau-b (...) of a, b (..., M): 1 the same order, −1 reversed, 0 if one is flat."""
    up, low = torch.triu_indices(a.shape[-1], a.shape[-1], 1)
    signs = [(each[..., up] - each[..., low]).sign().double() for each in (a, b)]
    first, second = torch.broadcast_tensors(*signs)
    norms = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return torch.where(norms > 0, (first * second).sum(-1) / norms.clamp_min(1e-300), 0.0)


@checked(scores=partial(kinds.values, ndim=2, finite=True), n_splits=kinds.count, seed=kinds.seed)
def rank_stability(scores: Float[Tensor, "M N"], *, n_splits: int = 200, seed: int = 0) -> float:
    """Return how well two halves of the images agree on the ranking of methods: mean Kendall's tau, −1 to 1.

    `scores` (M, N): the faithfulness of M explanation methods on N images, by one removal operator. The
    images are halved at random `n_splits` times, and the methods ranked by their means. After the criterion
    of Hsieh et al. 2026 (arXiv 2605.16905). `kendall` of the means by two operators says how far those agree.
    """
    if min(scores.shape) < 2:
        raise InputError(
            f"scores are of {tuple(scores.shape)}: give those of 2 methods or more on 2 or more images"
        )
    methods = scores.double().cpu()
    half = scores.shape[1] // 2
    taus = []
    for index in range(n_splits):  # one at a time: N may be tens of thousands
        order = torch.randperm(scores.shape[1], generator=generator(seed, index))
        taus.append(kendall(methods[:, order[:half]].mean(1), methods[:, order[half:]].mean(1)))
    return float(torch.stack(taus).mean())
