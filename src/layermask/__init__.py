"""Any pretrained vision model, answering from only the visible part of an image.

    removal = layermask.LayerMasking(model)
    logits = removal(images, visible)  # (N, C, *S) float, (N or 1, 1, *S) bool, True = visible

Names are imported when first used, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layermask.adapters.captum import as_captum, lime_similarity
    from layermask.adapters.gradcam import CamModel, as_road
    from layermask.adapters.nan import NaNHidden, mark_hidden
    from layermask.adapters.quantus import as_perturb_func, write_nan
    from layermask.adapters.shap import as_shap
    from layermask.core.masked import Masked
    from layermask.core.rule_table import RULES, overriding, rule
    from layermask.data.images import load_image, load_labels, load_mask
    from layermask.errors import ImageError, InputError, LostMask, MissingPackage, ModelError, NoMaskRule
    from layermask.explain.ablation import FeatureAblation, KeepOne
    from layermask.explain.attribution import Attribution
    from layermask.explain.banzhaf import Banzhaf
    from layermask.explain.greedy import GreedyDeletion, GreedyInsertion
    from layermask.explain.kernel_shap import KernelShap
    from layermask.explain.lime import Lime
    from layermask.explain.occlusion import Occlusion
    from layermask.explain.permutation import PermutationShapley
    from layermask.explain.registry import EXPLAINERS
    from layermask.explain.rise import Rise
    from layermask.metrics.flipping import Curve, curve
    from layermask.metrics.linearity import headless, measure_linearity
    from layermask.metrics.predictions import Predictions
    from layermask.metrics.registry import METRICS
    from layermask.metrics.segment_removal import remove_segments
    from layermask.metrics.shape_bias import broken_mask, measure_shape_bias
    from layermask.removal.calibrated import Calibrated
    from layermask.removal.layer_masking import LayerMasking
    from layermask.removal.painting import (
        Blackout,
        BlurFill,
        ConstantFill,
        EdgeSmoothedFill,
        Greyout,
        InpaintFill,
        MeanFill,
        NeighborFill,
        NoiseFill,
        NoisyLinearFill,
        PixelFill,
        PushPullFill,
        RandomPixelFill,
        SegmentMeanFill,
    )
    from layermask.removal.registry import REMOVALS, Removal
    from layermask.removal.token_dropping import TokenDropping
    from layermask.segment.presets import SEGMENTER_PRESETS, SEGMENTERS
    from layermask.segment.segmenters import Boxes, Felzenszwalb, Grid, Quickshift, Slic, Watershed
    from layermask.zoo import load
    from layermask.zoo.loaded import Loaded
    from layermask.zoo.preprocessing import Preprocessing

__version__ = "0.1.0"
__all__ = [
    "EXPLAINERS",
    "METRICS",
    "REMOVALS",
    "RULES",
    "SEGMENTERS",
    "SEGMENTER_PRESETS",
    "Attribution",
    "Banzhaf",
    "Blackout",
    "BlurFill",
    "Boxes",
    "Calibrated",
    "CamModel",
    "ConstantFill",
    "Curve",
    "EdgeSmoothedFill",
    "FeatureAblation",
    "Felzenszwalb",
    "GreedyDeletion",
    "GreedyInsertion",
    "Greyout",
    "Grid",
    "ImageError",
    "InpaintFill",
    "InputError",
    "KeepOne",
    "KernelShap",
    "LayerMasking",
    "Lime",
    "Loaded",
    "LostMask",
    "Masked",
    "MeanFill",
    "MissingPackage",
    "ModelError",
    "NaNHidden",
    "NeighborFill",
    "NoMaskRule",
    "NoiseFill",
    "NoisyLinearFill",
    "Occlusion",
    "PermutationShapley",
    "PixelFill",
    "Predictions",
    "Preprocessing",
    "PushPullFill",
    "Quickshift",
    "RandomPixelFill",
    "Removal",
    "Rise",
    "SegmentMeanFill",
    "Slic",
    "TokenDropping",
    "Watershed",
    "as_captum",
    "as_perturb_func",
    "as_road",
    "as_shap",
    "broken_mask",
    "curve",
    "headless",
    "lime_similarity",
    "load",
    "load_image",
    "load_labels",
    "load_mask",
    "mark_hidden",
    "measure_linearity",
    "measure_shape_bias",
    "overriding",
    "remove_segments",
    "rule",
    "write_nan",
]

_HOMES = {
    "adapters.captum": ("as_captum", "lime_similarity"),
    "adapters.gradcam": ("CamModel", "as_road"),
    "adapters.nan": ("NaNHidden", "mark_hidden"),
    "adapters.quantus": ("as_perturb_func", "write_nan"),
    "adapters.shap": ("as_shap",),
    "errors": ("ImageError", "InputError", "LostMask", "MissingPackage", "ModelError", "NoMaskRule"),
    "explain.attribution": ("Attribution",),
    "explain.ablation": ("KeepOne", "FeatureAblation"),
    "explain.banzhaf": ("Banzhaf",),
    "metrics.flipping": ("Curve", "curve"),
    "explain.greedy": ("GreedyDeletion", "GreedyInsertion"),
    "explain.kernel_shap": ("KernelShap",),
    "explain.lime": ("Lime",),
    "explain.occlusion": ("Occlusion",),
    "explain.permutation": ("PermutationShapley",),
    "explain.rise": ("Rise",),
    "explain.registry": ("EXPLAINERS",),
    "metrics.linearity": ("headless", "measure_linearity"),
    "metrics.predictions": ("Predictions",),
    "metrics.segment_removal": ("remove_segments",),
    "metrics.shape_bias": ("broken_mask", "measure_shape_bias"),
    "metrics.registry": ("METRICS",),
    "removal.calibrated": ("Calibrated",),
    "removal.painting": (
        "Blackout",
        "ConstantFill",
        "Greyout",
        "BlurFill",
        "EdgeSmoothedFill",
        "InpaintFill",
        "MeanFill",
        "NeighborFill",
        "NoiseFill",
        "NoisyLinearFill",
        "PixelFill",
        "PushPullFill",
        "RandomPixelFill",
        "SegmentMeanFill",
    ),
    "data.images": ("load_image", "load_labels", "load_mask"),
    "zoo.loaded": ("Loaded",),
    "core.masked": ("Masked",),
    "core.rule_table": ("RULES", "overriding", "rule"),
    "zoo.preprocessing": ("Preprocessing",),
    "removal.layer_masking": ("LayerMasking",),
    "removal.registry": ("REMOVALS", "Removal"),
    "removal.token_dropping": ("TokenDropping",),
    "segment.presets": ("SEGMENTER_PRESETS", "SEGMENTERS"),
    "segment.segmenters": ("Boxes", "Felzenszwalb", "Grid", "Quickshift", "Slic", "Watershed"),
    "zoo": ("load",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layermask' has no attribute {name!r}")
    if _HOME[name].startswith("core."):
        import_module("layermask.rules")  # the table comes with its rules in it
    return getattr(import_module(f"layermask.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
