"""The metrics by name: the one list that the command line, the tests and the docs read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from layermask.arguments import kinds
from layermask.metrics.flipping import (
    deletion,
    insertion,
    least_relevant_first,
    road,
    symmetric_relevance_gain,
)
from layermask.metrics.linearity import measure_linearity
from layermask.metrics.localisation import alignment, top_k_ablation, top_k_jaccard
from layermask.metrics.operators import r_oms, random_attribution_bias, rank_stability
from layermask.metrics.predictions import PREDICTION_METRICS
from layermask.metrics.shape_bias import measure_shape_bias
from layermask.metrics.subsets import infidelity, sensitivity_n


@dataclass(frozen=True)
class Metric:
    """A metric: what computes it, which way is better, what it needs, and where it is from.

    `part` names the number meant, a field or method, where the function returns several.
    """

    function: Callable[..., Any]
    higher_is_better: bool
    needs: str
    """"predictions", "removal", "attribution", "model", "scores", with "labels" or "masks" where needed."""
    summary: str
    source: str
    judges: str
    """"removal" or "attribution"."""
    part: str = ""


PAPER = "Balasubramanian and Feizi 2023, arXiv 2211.14646"
_BLUECHER = "Bluecher et al. 2024, arXiv 2401.06654"
_AIM = "after Hsieh et al. 2026, arXiv 2605.16905"
_ROAD = "Rong et al. 2022, arXiv 2202.00449"


def _predicted(name: str, needs: str, summary: str, source: str = PAPER) -> Metric:
    entry = PREDICTION_METRICS[name]
    return Metric(entry.function, entry.higher_is_better, needs, summary, source, "removal")


def _of_shape(part: str, higher: bool, summary: str) -> Metric:
    needs = "removal, images, masks, labels"
    return Metric(measure_shape_bias, higher, needs, summary, PAPER + ", section 4.2", "removal", part)


def _of_sums(part: str, higher: bool, summary: str) -> Metric:
    source = PAPER + ", supplement"
    return Metric(measure_linearity, higher, "removal, images", summary, source, "removal", part)


def _of_scores(function: Callable[..., Any], higher: bool, summary: str, source: str) -> Metric:
    needs = "removal, images, attributions"
    return Metric(function, higher, needs, summary, source, "attribution")


METRICS: dict[str, Metric] = {
    "accuracy": _predicted(
        "accuracy", "predictions, labels", "share of images predicted as labelled, while segments are removed"
    ),
    "class-entropy": _predicted(
        "class-entropy", "predictions", "entropy (nats) of the classes predicted: low if all become one class"
    ),
    "wordnet-similarity": _predicted(
        "wordnet-similarity",
        "predictions, labels",
        "mean Wu-Palmer similarity of predicted and true class",
        "Wu and Palmer 1994, as nltk computes it; Jain et al. 2022, arXiv 2204.08945",
    ),
    "unchanged": _predicted(
        "unchanged",
        "predictions",
        "share of images predicted as with nothing removed",
        "Jain et al. 2022, arXiv 2204.08945",
    ),
    "object-hidden": _of_shape("hidden", False, "accuracy with the object hidden: what its shape gives away"),
    "broken-mask": _of_shape("broken", True, "accuracy with the object mask's quadrants swapped"),
    "shape-difference": _of_shape(
        "difference", True, "accuracy with the broken mask less that with the object hidden"
    ),
    "top-k-ablation": Metric(
        top_k_ablation,
        False,
        "removal, images, attributions, labels",
        "accuracy without the k highest segments",
        PAPER + ", Table 2",
        "attribution",
    ),
    "alignment": Metric(
        alignment,
        True,
        "attributions, masks",
        "cosine of the scores and the object's excess in each segment",
        PAPER + ", Table 2",
        "attribution",
    ),
    "top-k-jaccard": Metric(
        top_k_jaccard,
        True,
        "attributions, masks",
        "intersection over union of the k highest segments and the object",
        PAPER + ", Table 2",
        "attribution",
    ),
    "linearity-l2": _of_sums("l2", False, "relative distance of the patches' summed answers to the whole's"),
    "linearity-cosine": _of_sums("cosine", True, "cosine of the patches' summed answers and the whole's"),
    "insertion": _of_scores(
        insertion,
        True,
        "area under the curve that shows the highest scores first",
        "Petsiuk et al. 2018, arXiv 1806.07421",
    ),
    "deletion": _of_scores(
        deletion,
        False,
        "area under the curve that hides the highest scores first (MoRF)",
        "Samek et al. 2017, arXiv 1509.06321; Petsiuk et al. 2018",
    ),
    "lerf": _of_scores(
        least_relevant_first,
        True,
        "area under the curve that hides the lowest scores first (LeRF, LIF)",
        "Samek et al. 2017, arXiv 1509.06321",
    ),
    "srg": _of_scores(symmetric_relevance_gain, True, "LIF area less MIF area", _BLUECHER),
    "road-morf": Metric(
        partial(road, order="morf"),
        False,
        "model, images, attributions",
        "deletion with noisy linear imputation",
        _ROAD,
        "attribution",
    ),
    "road-lerf": Metric(
        partial(road, order="lerf"),
        True,
        "model, images, attributions",
        "LeRF with noisy linear imputation",
        _ROAD,
        "attribution",
    ),
    "infidelity": _of_scores(
        infidelity,
        False,
        "mean squared error of summed scores as the loss when a random subset is hidden",
        "Yeh et al. 2019, arXiv 1901.09392",
    ),
    "sensitivity-n": _of_scores(
        sensitivity_n,
        True,
        "correlation of summed scores and loss over subsets of n segments, mean over n",
        "Ancona et al. 2018, arXiv 1711.06104",
    ),
    "r-oms": Metric(
        r_oms,
        True,
        "removal, images, segments",
        "area under the predicted class's probability while random segments are hidden",
        _BLUECHER,
        "removal",
    ),
    "random-bias": Metric(
        random_attribution_bias,
        False,
        "removal, images, segments",
        "share of the answer lost to orders without meaning",
        _AIM,
        "removal",
        "bias",
    ),
    "random-noise": Metric(
        random_attribution_bias,
        False,
        "removal, images, segments",
        "root mean square SRG of orders without meaning",
        _AIM,
        "removal",
        "noise",
    ),
    "rank-stability": Metric(
        rank_stability,
        True,
        "scores of methods on images",
        "Kendall's tau of the methods' rankings on two halves of the images",
        _AIM,
        "removal",
    ),
}


def metric(name: str) -> Metric:
    """Return the entry of the metric `name`."""
    return METRICS[kinds.known("metric", name, METRICS)]
