"""Any pretrained vision model, answering from only the visible part of an image.

    removal = layermask.LayerMasking(model)
    logits = removal(images, visible)  # (N, C, *S) float, (N or 1, 1, *S) bool, True = visible

Names are imported when first used, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters.captum import as_captum, lime_similarity
    from .adapters.gradcam import CamModel, as_road
    from .adapters.nan import NaNHidden, mark_hidden
    from .adapters.quantus import as_perturb_func, write_nan
    from .adapters.shap import as_shap
    from .errors import ImageError, InputError, MissingPackage, ModelError
    from .explain.ablation import KeepOne, LeaveOneOut
    from .explain.attribution import Attribution
    from .explain.banzhaf import Banzhaf
    from .explain.curve import Curve, curve
    from .explain.greedy import GreedyDeletion, GreedyInsertion
    from .explain.kernel_shap import KernelShap
    from .explain.lime import Lime
    from .explain.occlusion import Occlusion
    from .explain.permutation import PermutationShapley
    from .explain.rise import Rise
    from .explain.table import EXPLAINERS
    from .images import load_image, load_labels, load_mask
    from .masked import RULES, LostMask, Masked, NoMaskRule, overriding, rule
    from .metrics.linearity import headless, measure_linearity
    from .metrics.predictions import Predictions
    from .metrics.removing import remove_segments
    from .metrics.shape import broken_mask, measure_shape_bias
    from .metrics.table import METRICS
    from .removal.calibrated import Calibrated
    from .removal.constant import Blackout, ConstantFill, Greyout
    from .removal.layers import LayerMasking
    from .removal.paint import (
        BlurFill,
        EdgeSmoothedFill,
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
    from .removal.table import REMOVALS, Removal
    from .removal.tokens import TokenDropping
    from .segment import PRESETS, SEGMENTERS, Boxes, Felzenszwalb, Grid, Quickshift, Slic, Watershed
    from .zoo import load
    from .zoo.loaded import Loaded
    from .zoo.preprocessing import Preprocessing

__version__ = "0.1.0"
__all__ = [
    "EXPLAINERS",
    "METRICS",
    "PRESETS",
    "REMOVALS",
    "RULES",
    "SEGMENTERS",
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
    "LeaveOneOut",
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
    "errors": ("ImageError", "InputError", "MissingPackage", "ModelError"),
    "explain.attribution": ("Attribution",),
    "explain.ablation": ("KeepOne", "LeaveOneOut"),
    "explain.banzhaf": ("Banzhaf",),
    "explain.curve": ("Curve", "curve"),
    "explain.greedy": ("GreedyDeletion", "GreedyInsertion"),
    "explain.kernel_shap": ("KernelShap",),
    "explain.lime": ("Lime",),
    "explain.occlusion": ("Occlusion",),
    "explain.permutation": ("PermutationShapley",),
    "explain.rise": ("Rise",),
    "explain.table": ("EXPLAINERS",),
    "metrics.linearity": ("headless", "measure_linearity"),
    "metrics.predictions": ("Predictions",),
    "metrics.removing": ("remove_segments",),
    "metrics.shape": ("broken_mask", "measure_shape_bias"),
    "metrics.table": ("METRICS",),
    "removal.calibrated": ("Calibrated",),
    "removal.constant": ("Blackout", "ConstantFill", "Greyout"),
    "removal.paint": (
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
    "images": ("load_image", "load_labels", "load_mask"),
    "zoo.loaded": ("Loaded",),
    "masked": ("RULES", "LostMask", "Masked", "NoMaskRule", "overriding", "rule"),
    "zoo.preprocessing": ("Preprocessing",),
    "removal.layers": ("LayerMasking",),
    "removal.table": ("REMOVALS", "Removal"),
    "removal.tokens": ("TokenDropping",),
    "segment": ("PRESETS", "SEGMENTERS", "Boxes", "Felzenszwalb", "Grid", "Quickshift", "Slic", "Watershed"),
    "zoo": ("load",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'layermask' has no attribute {name!r}")
    if _HOME[name] == "masked":
        import_module("layermask.rules")  # the table comes with its rules in it
    return getattr(import_module(f"layermask.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
