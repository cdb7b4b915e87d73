"""Every public parameter refuses ten wrong values, at once and by its name.

The public callables are enumerated, and their parameters read off their signatures: a new parameter has to be
given a kind in `KINDS`, or its test fails.
"""

from __future__ import annotations

import inspect
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import layermask as lm
from layermask import check, deploy
from layermask import studies as evaluate
from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.arguments.refusal import shown
from layermask.data.registry import open_source
from layermask.data.source import ImageSource, Sample
from layermask.errors import InputError
from layermask.explain import feature_maps as activations
from layermask.explain.query_plan import Segments
from layermask.explain.registry import explainer
from layermask.metrics import (
    bootstrap,
    flipping,
    linearity,
    localisation,
    operators,
    predictions,
    subsets,
)
from layermask.metrics import (
    shape_bias as shape,
)
from layermask.metrics.registry import metric as metric_entry
from layermask.removal.fills.protocol import Fill
from layermask.removal.registry import removal as make_removal
from layermask.segment.labels import relabel
from layermask.segment.presets import segmenter
from layermask.studies import audit

FAMILIES = {
    *(kind.__name__ for kind in lm.explain.EXPLAINERS.values()),
    *(entry.operator for entry in lm.removal.REMOVALS.values()),
    *(kind.__name__ for kind in lm.segment.SEGMENTERS.values()),
    "NaNHidden",
    "PixelFill",
}

ROOMS = (lm.explain, lm.removal, lm.segment, lm.adapters)

SIDE = 16
torch.manual_seed(0)
NET = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
).eval()
NET[-1].bias.data = torch.arange(5.0)
VIT = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
IMAGES = torch.randn(1, 3, SIDE, SIDE)
VISIBLE = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
CELLS = lm.Grid(8).labels((SIDE, SIDE))
OPERATOR = lm.removal.Greyout(NET)
LOADED = lm.zoo.Loaded(NET, lm.zoo.Preprocessing(resize=(16, 16), crop=(16, 16)), tuple("abcde"), "net")
PICTURE = Image.new("RGB", (SIDE, SIDE))
FOUND = lm.Attribution(torch.rand(1, 4).double(), CELLS, (1,), torch.rand(1), stderr=torch.rand(1, 4))
CLASSES = torch.zeros(1, dtype=torch.int64)
MAP = activations.FeatureMap(torch.rand(2, 4, 4), torch.ones(4, 4, dtype=torch.bool))


class Raises:
    """Whatever Python asks of it raises."""

    def _raise(self, *args: Any) -> Any:
        raise RuntimeError("asked")

    __eq__ = __bool__ = __index__ = __float__ = __int__ = __len__ = __iter__ = __repr__ = _raise
    __hash__ = None  # type: ignore[assignment]


class Word(str):
    """Text that says it equals everything."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


class Everything:
    """Equal to all, as an array, true and an index."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        return np.ones(3, dtype=bool)

    def __index__(self) -> Any:
        return np.ones(3)


class Attributes:
    """Asked for an attribute that it has not, it raises another error than Python's own."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("asked")


HUGE = 10**400
FAR = [2**63, -(2**63), 10**30, 1e308, -1e308, 1e38]
"""Python has these numbers, and what is computed with them is infinite, or an error of another library."""
LONG = "x" * 100_000
OBJECTS = np.array([None, "x"], dtype=object)
ODD = [
    None,
    Raises(),
    Everything(),
    Attributes(),
    object(),
    "no such",
    b"x",
    [],
    {},
    OBJECTS,
    1j,
    torch.rand(2, 2),
]
"""Wrong for nearly every kind; each takes out of it what it does accept."""
SPARSE, META = IMAGES.to_sparse(), IMAGES.to("meta")
NARROW = IMAGES.to(torch.float8_e4m3fn)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, about the types of storage
    QUANTISED = torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.quint8)


def without(*kinds_: type) -> list[Any]:
    return [each for each in ODD if type(each) not in kinds_]


def less(values: list[Any], *dropped: Any) -> list[Any]:
    """Return the values without those that some parameter does accept."""
    return [each for each in values if type(each) not in (bool, int, list, tuple) or each not in dropped]


NO_NUMBER = [*ODD, True, math.nan, math.inf, -math.inf, HUGE, [1.0], torch.tensor(math.nan), META[0, 0, 0, 0]]
NO_NUMBER += [*FAR, torch.tensor(1e308).double(), np.float64(1e308)]
NO_COUNT = [*NO_NUMBER, -1, 1.5, "2", 2**63, 10**30, torch.tensor(1.5), np.array([1, 2]), np.bool_(True)]
NO_IMAGES = [*ODD, IMAGES.numpy(), [IMAGES], PICTURE, IMAGES.long(), IMAGES[0, 0], IMAGES[:0], SPARSE, META]
NO_IMAGES += [IMAGES.to(torch.complex64), QUANTISED, True, "x.png", NARROW]
NO_MASK = [
    *ODD,
    VISIBLE.numpy(),
    VISIBLE * 0.5,
    VISIBLE * 255,
    VISIBLE * math.nan,
    VISIBLE.to(torch.complex64),
]
NO_MASK += [-VISIBLE.to(torch.int8), VISIBLE.float().to_sparse(), True, [True]]
NO_MASK += [VISIBLE.to("meta"), VISIBLE.float().to("meta"), VISIBLE.byte().to("meta"), META]
NO_MASK += [VISIBLE.to(torch.float8_e4m3fn)]
NO_LABELS = [
    *ODD,
    5,
    CELLS.float(),
    CELLS.to(torch.complex64),
    CELLS[:0],
    CELLS.to("meta"),
    PICTURE,
    math.nan,
]
NO_LABELS += [
    [[0, 1], [2]],
    np.array(["a"]),
    CELLS.float() * math.nan,
    np.array([[2**64 - 1]], dtype=np.uint64),
]
NO_CLASSES = [
    *ODD,
    0,
    [0],
    np.array([0]),
    torch.tensor([0.0]),
    torch.tensor([-1]),
    torch.tensor([], dtype=torch.int64),
]
NO_CLASSES += [torch.tensor(0), torch.tensor([True]), torch.tensor([0]).to("meta"), True]
NO_TENSOR = [
    *without(torch.Tensor),
    1.0,
    [1.0],
    np.ones(3),
    torch.rand(0),
    META,
    SPARSE,
    IMAGES.to(torch.complex64),
    True,
]
NO_TARGET = [*without(type(None)), "12", [1.9], 1.9, True, [True], math.nan, [None], [[1]], 99, -1, 2**70]
NO_TARGET += [torch.tensor([True]), torch.tensor(1.5), np.array([0.5]), [0, 99], torch.tensor(0).to("meta")]
NO_NUMBERS = [*ODD, True, math.nan, [math.nan], [math.inf], ["a"], [True], [[1.0]], [None], "1,2", 1j, [HUGE]]
NO_NUMBERS += [[number] for number in FAR] + [torch.full((3,), 1e38), META[0, :, 0, 0], SPARSE]
NO_WORD = [*without(str), "", "no such", Word("no such"), 0, 5, True, math.nan, ["no such"], LONG]
NO_TEXT = [*without(str), 0, 5, True, math.nan, ["x"], 2**63]
NO_PATH = [*without(str), "", "a\0b", 5, True, math.nan, ["x"], 1.5]
NO_FUNCTION = [*ODD, 5, True, math.nan, "print", [print], 1.5]
NO_MODEL = [*ODD, "resnet50", 5, True, [NET], lambda x: x, LOADED, nn.Sequential, math.nan]
NO_REMOVAL = [*ODD, "layermask", 5, True, [OPERATOR], NET, LOADED, lm.LayerMasking, lambda x: x, math.nan]
NO_OBJECT = [*ODD, 5, True, math.nan, "x", [5], 1.5, NET]
NO_FLAG = [*ODD, 0, 1, "yes", "", 1.0, math.nan, torch.tensor([True, True]), np.array([True, False])]
NO_SIZES = [*ODD, 0, -1, 1.5, "16", True, (0, 4), [1.5], math.nan, 10**30, (2, 10**30), HUGE]
NO_TENSOR += [QUANTISED, NARROW]
NO_REMOVAL += [lm.removal.ConstantFill]
NO_SHARE = [*NO_NUMBER, -0.5, 1.5, 2]

WRONG: dict[str, list[Any]] = {
    "share": NO_SHARE,
    "tolerance": [*NO_SHARE, 1],
    "open share": [*NO_SHARE, 0, 1],
    "positive": [*NO_NUMBER, -1, 0, 1e-308, 1e-39],
    "from 1": [*NO_NUMBER, 0, 0.5, -1],
    "from 0": [*NO_NUMBER, -1],
    "number": NO_NUMBER,
    "count": [*NO_COUNT, 0],
    "index": NO_COUNT,
    "row": [*less(NO_COUNT, -1), 5, -7],
    "seed": [*NO_COUNT, 2**32],
    "seed of 31 bits": [*NO_COUNT, 2**31, 2**32 - 1],
    "seed or None": [*NO_COUNT[1:], 2**32],
    "flag": NO_FLAG,
    "word": NO_WORD,
    "text": NO_TEXT,
    "path": NO_PATH,
    "function": NO_FUNCTION,
    "called": [*NO_FUNCTION, int, dict, lambda *, key: None],
    "progress": [*less(NO_FUNCTION, True), int, lambda: None],
    "model": NO_MODEL,
    "removal": NO_REMOVAL,
    "images": NO_IMAGES,
    "image": [*NO_IMAGES, IMAGES.repeat(2, 1, 1, 1), IMAGES[0]],
    "mask": NO_MASK,
    "valid": NO_MASK,
    "any mask": [
        OBJECTS,
        Raises(),
        object(),
        "x",
        VISIBLE * 0.5,
        VISIBLE * 255,
        VISIBLE * math.nan,
        META,
        {},
        1j,
        [],
    ],
    "anything": [OBJECTS, 5, 1.5, None, Raises(), object(), "x", b"x", META, {}, 1j, [], SPARSE, [["x"]]],
    "labels": NO_LABELS,
    "label maps": [
        *ODD,
        5,
        CELLS.expand(5, -1, -1),
        [CELLS.float()],
        [CELLS[:8]],
        [CELLS, CELLS],
        "x",
        True,
        [5],
        [{}],
        [None, 5],
    ],
    "classes": NO_CLASSES,
    "tensor": NO_TENSOR,
    "target": NO_TARGET,
    "targets": [*less(NO_TARGET, [None], [[1]]), [0, 0], [[]], [[0, "1"]]],
    "numbers": NO_NUMBERS,
    "shares": [*NO_NUMBERS, [-0.5], [1.5], 0.5],
    "color": [*NO_NUMBERS, math.inf],
    "any color": [
        *(each for each in NO_NUMBERS if not isinstance(each, torch.Tensor)),
        math.inf,
        SPARSE,
        META,
    ],
    "above 0": [*NO_NUMBERS, [0.0, 1, 1], [-1.0, 1, 1], [1e-39] * 3],
    "sizes": NO_SIZES,
    "pair": [*NO_SIZES, 16, (4,), (4, 4, 4)],
    "pair or None": [*NO_SIZES[1:], 16, (4,), (4, 4, 4)],
    "pixel": [*NO_COUNT, 9],
    "points": [*NO_NUMBERS, [(0, 0), (1, 1)], [0, 0, 1, 1], [0, 0, 1, 1, 2], 16],
    "embedding": [*NO_TENSOR, torch.zeros(4), torch.full((4,), math.nan)],
    "counts": [*NO_SIZES, 16],
    "indices": [*less(NO_SIZES, (0, 4)), 16],
    "words": [*ODD, "grid", 5, ["no such"], [5], [None], True, ["grid", "grid"], math.nan],
    "object": NO_OBJECT,
    "program": NO_OBJECT[:-1],
    "texts": [*without(list), "x", 5, [5], [None], True, math.nan, [b"x"], [["x"]]],
    "some words": [*without(list), "grid", 5, ["no such"], [5], [None], True, math.nan],
    "objects": [*without(list), 5, "x", [5], [None], True, math.nan, ["x"]],
    "mapping": [*without(dict), 5, "x", [5], True, math.nan],
    "rules": [*without(dict), 5, [5], {1, 2}, True, {5: len}, {len: 5}, {None: None}, {"relu": len}, ""],
    "segments": [*NO_LABELS, CELLS + 1, CELLS - 2, CELLS * 2**40],
    "row of scores": [*NO_TENSOR, torch.rand(2)],
    "table of scores": [*NO_TENSOR, torch.rand(1), torch.rand(1, 5), torch.rand(4, 1)],
    "indices of scores": [*less(NO_SIZES, (0, 4)), 16, (1, 2)],
    "value": without(torch.Tensor),
    "extra inputs": [*without(type(None)), 5, "x", True, (torch.rand(2, 2),), (1, 2)],
    "box": [*NO_NUMBERS, (0, 0, 4), (4, 0, 0, 4), (0, 0, 4, 4, 4), 16],
    "a class": [*(each for each in NO_COUNT if type(each) is not str), "", [0], (0, 1)],
    "region": [*NO_MASK, VISIBLE & False],
    "bools": [*NO_MASK, VISIBLE.float(), VISIBLE[0], VISIBLE[..., :3], META > 0],
    "masks (N, 1, *S)": [*NO_MASK, VISIBLE[0].repeat(2, 1, 1), VISIBLE.repeat(1, 3, 1, 1), VISIBLE[:0]],
    "picture": [*ODD, 5, "x.png", np.zeros((4, 4)), True, math.nan, IMAGES],
    "array": [
        *without(torch.Tensor),
        "x.png",
        5,
        True,
        math.nan,
        np.zeros((2, 0)),
        np.zeros(5),
        np.full((4, 4), math.nan),
        META,
    ],
    "extent": [*without(torch.Tensor), "x.png", 5, True, math.nan, np.zeros((2, 0)), np.zeros(5)],
    "shares of masks": [
        *without(type(None), torch.Tensor),
        "0.5",
        True,
        math.nan,
        -0.5,
        1.5,
        HUGE,
        VISIBLE * 0.5,
    ],
    "any class": less(NO_TARGET, 99, -1, [0, 99]),
    "tensors": [*without(list), 5, "x", [5], [None], True, math.nan, [torch.rand(2)], torch.rand(4)],
    "several": [None, 5, 1.5, True, math.nan, 1j, object(), len, NET, "no such", "", "a\0b"],
    "device": [*ODD, "gpu", 5.5, "meta", "", True, math.nan, "cuda:x"],
}
assert all(len(wrong) >= 10 for wrong in WRONG.values())

NAMES = {
    "share": "precision probability ratio strength",
    "tolerance": "converge",
    "positive": "alpha kernel_width compactness sigma radius",
    "function": "join operator planned progress say",
    "called": "answer fill run statistic",
    "object": "attribution loaded preprocessing program source",
    "objects": "attributions target_layers places",
    "count": "batch_size cells k markers n_images n_orders n_resamples n_samples n_segments n_splits opset "
    "perturbations_per_eval repeats step steps samples max_iter classes kernel_size among",
    "index": "first linearity_images min_size shown",
    "flag": "center diagonal dynamic_batch fold force normalize partition skip_unreadable",
    "color": "color mean",
    "above 0": "reaches std",
    "device": "device",
    "word": "compat engine explain finish fit growth interpolation keep kind metric method of order output "
    "pool rule name",
    "text": "head until pattern text format ablation",
    "extra inputs": "additional_forward_args",
    "labels": "feature_mask segments indices",
    "label maps": "feature_masks",
    "path": "folder path weights",
    "shares": "between fractions shares",
    "words": "laws removals segmentations methods orders names",
    "mask": "mask masks visible objects where",
    "valid": "valid",
    "from 0": "max_dist noise penalty scale",
    "sizes": "patch size sliding_window_shapes strides",
    "classes": "predicted labels whole hidden broken",
    "tensor": "a arr b prediction scores intercept r2 region stderr total values kept x",
    "pair": "resize crop",
    "mapping": "settings",
    "rules": "rules",
    "counts": "shape boxes patches",
    "progress": "show_progress",
    "target": "target",
    "targets": "targets",
    "image": "image",
    "images": "images",
    "model": "model",
    "removal": "cutouts holes removal",
    "row": "row",
    "seed": "seed",
}
KIND_OF = {name: kind for kind, names in NAMES.items() for name in names.split()}
"""The kind of a parameter by its name; `Call.kinds` has what a name means in one place only."""

VALUES: dict[str, Any] = {
    "model": NET,
    "removal": OPERATOR,
    "image": IMAGES,
    "images": IMAGES,
    "visible": VISIBLE,
    "mask": VISIBLE,
    "masks": VISIBLE,
    "objects": VISIBLE,
    "feature_mask": CELLS,
    "feature_masks": [CELLS],
    "segments": CELLS,
    "attribution": FOUND,
    "attributions": [FOUND],
    "labels": CLASSES,
    "fill": lambda images, visible: images,
    "classes": 5,
    "loaded": LOADED,
    "preprocessing": LOADED.preprocessing,
    "source": ImageSource("folder", Path(), (Sample("a.png", Path("a.png")),)),
    "folder": "no-such-folder",
    "path": "no-such-file",
    "shape": (3, SIDE, SIDE),
    "shares": (0.5,),
    "scores": torch.rand(4),
}
"""What the other parameters get, where they have no default."""


def replacing(rules: Any) -> None:
    """Enter the block of `overriding`."""
    with lm.overriding(rules):
        pass


@dataclass
class Call:
    """A public callable, and what its parameters are where their names do not say so."""

    function: Callable[..., Any]
    kinds: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    """What errors call a parameter, where that is another word."""


SETTINGS = {"perturbations_per_eval": 32, "output": "probability", "show_progress": False, "valid": None}
"""What the metrics of attributions pass on."""


def metric(function: Callable[..., Any], **kinds_: str) -> Call:
    def call(**given: Any) -> Any:
        return function(**given)

    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    known = {parameter.name for parameter in parameters}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
        for name, value in SETTINGS.items()
        if name not in known
    ]
    call.__signature__ = inspect.Signature([*parameters, *more])  # type: ignore[attr-defined]
    return Call(call, kinds_)


def changed(**given: Any) -> Any:
    return lm.LayerMasking(NET, **given)


changed.__signature__ = inspect.signature(lm.Settings)  # type: ignore[attr-defined]


def each(**given: Any) -> Any:
    return list(lm.explain.attribute_each(**given))


each.__signature__ = inspect.signature(lm.explain.attribute_each)  # type: ignore[attr-defined]
PREDICTIONS = lm.metrics.Predictions(CLASSES[:, None], torch.tensor([0.0]), CLASSES, classes=5)
EXPLAINER = lm.FeatureAblation(OPERATOR)
CALIBRATED = lm.Calibrated(OPERATOR, 5)
STATISTIC = {"statistic": lambda weights: weights.sum(1)}
OF_CLASSES = {"predicted": torch.zeros(1, 1, dtype=torch.int64), "whole": CLASSES}
WEIGHTS = {"weights": "tensor"}
OPERATORS = {"removals": ("greyout", "blackout")}

FIELDS = {
    "ConstantFill": {"color": "any color"},
    "Felzenszwalb": {"sigma": "from 0"},
    "NaNHidden": {"channel_axis": "count"},
    "Slic": {"sigma": "from 0"},
    "Watershed": {"compactness": "from 0"},
    "Quickshift": {"kernel_size": "from 1", "seed": "seed of 31 bits"},
    **{name: {"seed": "seed or None"} for name in ("NoiseFill", "NoisyLinearFill", "RandomPixelFill")},
}
CALLS: dict[str, Call] = {
    **{
        name: Call(getattr(room, name), dict(FIELDS.get(name, {})))
        for room in ROOMS
        for name in room.__all__
        if name in FAMILIES
    },
    "Attribution": Call(
        lm.Attribution,
        {
            "targets": "indices of scores",
            "n_samples": "index",
            "method": "text",
            "segments": "segments",
            **dict.fromkeys(("prediction", "intercept", "r2"), "row of scores"),
            **dict.fromkeys(("stderr", "region"), "table of scores"),
        },
        {"scores": FOUND.scores, "targets": (1,), "prediction": torch.rand(1)},
    ),
    "Attribution.load": Call(lm.Attribution.load),
    "Attribution.noise": Call(FOUND.noise, {"level": "open share"}),
    "Attribution.save": Call(FOUND.save),
    "attribute_each": Call(
        each,
        {
            "explainer": "object",
            "pictures": "several",
            "segmenter": "function",
            "preprocessing": "function",
            "labels": "flag",
        },
        {"explainer": lm.explain.FeatureAblation(lm.LayerMasking(NET)), "pictures": [], "folder": None},
    ),
    "Attribution.heatmap": Call(FOUND.heatmap),
    "Attribution.interval": Call(FOUND.interval, {"level": "open share"}),
    "Attribution.visible": Call(FOUND.visible, values={"shown": 1}),
    "Boxes": Call(lm.segment.Boxes),
    "Calibrated": Call(lm.Calibrated),
    "Calibrated.fit": Call(
        CALIBRATED.fit, {"visible": "shares of masks", "targets": "word", "show_progress": "called"}
    ),
    "Calibrated.load": Call(lm.Calibrated.load),
    "Calibrated.save": Call(CALIBRATED.save),
    "CamModel": Call(lm.adapters.CamModel, values={"target_layers": [NET[0]]}),
    "Curve": Call(
        lm.metrics.Curve,
        {"shares": "tensor", "targets": "indices", "order": "text"},
        {"shares": torch.rand(2), "values": torch.rand(1, 2), "order": "morf", "targets": (1,)},
    ),
    "Masked": Call(
        lm.Masked,
        {"value": "value", "visible": "bools", "is_padding": "bools", "softmax_axis": "bools"},
        {"value": IMAGES},
    ),
    "overriding": Call(replacing),
    "Loaded": Call(lm.zoo.Loaded, {"labels": "texts", "name": "text"}, {"labels": ("a",), "name": "net"}),
    "PixelFill.painted": Call(OPERATOR.painted),
    "Predictions": Call(
        lm.metrics.Predictions,
        {"fractions": "tensor"},
        {"predicted": OF_CLASSES["predicted"], "fractions": torch.tensor([0.0])},
    ),
    "Predictions.curve": Call(PREDICTIONS.curve, WEIGHTS, {"metric": "accuracy"}),
    "Predictions.area": Call(PREDICTIONS.area, WEIGHTS, {"metric": "accuracy"}),
    "Predictions.interval": Call(PREDICTIONS.interval, {"level": "open share"}, {"metric": "accuracy"}),
    "Preprocessing": Call(lm.zoo.Preprocessing, {"mean": "numbers"}),
    "Preprocessing()": Call(LOADED.preprocessing, {"image": "picture"}),
    "Preprocessing.mask": Call(LOADED.preprocessing.mask, {"mask": "picture"}),
    "Preprocessing.labels": Call(LOADED.preprocessing.labels, {"labels": "labels"}),
    "Preprocessing.picture": Call(LOADED.preprocessing.picture),
    "Settings": Call(lm.Settings),
    "TokenDropping": Call(lm.TokenDropping, values={"model": VIT}),
    "Explainer.attribute": Call(EXPLAINER.attribute, values={"feature_mask": CELLS}),
    "Explainer.attribute_batch": Call(EXPLAINER.attribute_batch, values={"feature_masks": [CELLS]}),
    "NaNHidden()": Call(lm.adapters.NaNHidden(OPERATOR).forward),
    "LayerMasking(changes)": Call(changed),
    "LayerMasking()": Call(lm.LayerMasking(NET).forward),
    "Calibrated()": Call(CALIBRATED.forward),
    "TokenDropping()": Call(lm.TokenDropping(VIT).forward),
    "PixelFill()": Call(OPERATOR.forward),
    "Grid.labels": Call(lm.Grid(4).labels),
    **{
        f"{name}()": Call(kind(), {"image": "extent" if kind is lm.Grid else "array"})
        for name, kind in ((kind.__name__, kind) for kind in lm.segment.SEGMENTERS.values())
    },
    "Boxes()": Call(lm.segment.Boxes(((0, 0, 4, 4),)), {"image": "extent"}),
    "as_captum": Call(lm.adapters.as_captum, {"target": "any class"}),
    "as_perturb_func": Call(lm.adapters.as_perturb_func),
    "as_road": Call(lm.adapters.as_road, {"metric": "object"}, {"metric": object()}),
    "as_shap": Call(lm.adapters.as_shap, {"target": "any class"}),
    "broken_mask": Call(lm.metrics.broken_mask, {"masks": "masks (N, 1, *S)"}),
    "curve": Call(lm.metrics.curve),
    "headless": Call(lm.metrics.headless),
    "lime_similarity": Call(lm.adapters.lime_similarity),
    "load": Call(lm.load, {"name": "text"}, {"name": "builtin"}),
    "load_image": Call(lm.load_image, {"gaps": "flag"}),
    "load_pixels": Call(lm.data.load_pixels),
    "load_polygons": Call(lm.data.load_polygons, {"image": "text", "label": "text"}),
    "load_raster": Call(lm.data.load_raster, {"bands": "counts"}),
    "load_valid": Call(lm.data.load_valid, {"nodata": "path"}, {"nodata": "0"}),
    "load_volume": Call(lm.data.load_volume),
    "names": Call(lm.zoo.names, {"pattern": "text"}),
    "load_labels": Call(lm.data.load_labels, {"size": "pair"}),
    "load_mask": Call(lm.load_mask, {"size": "pair"}),
    "mark_hidden": Call(lm.adapters.mark_hidden),
    "measure_linearity": Call(lm.metrics.measure_linearity),
    "measure_shape_bias": Call(lm.metrics.measure_shape_bias),
    "remove_segments": Call(lm.metrics.remove_segments, {"order": "tensors"}),
    "Box": Call(
        lm.explain.Box,
        {"box": "box", "target": "a class", "size": "pair or None"},
        {"box": (0, 0, 4, 4), "target": 0},
    ),
    "Region": Call(
        lm.explain.Region, {"target": "a class", "region": "region"}, {"target": 0, "region": VISIBLE[0, 0]}
    ),
    "Region.pixel": Call(
        lm.explain.Region.pixel,
        {"target": "a class", "x": "pixel", "y": "pixel", "size": "pair"},
        {"target": 0, "x": 1, "y": 2, "size": (4, 5)},
    ),
    "Region.polygon": Call(
        lm.explain.Region.polygon,
        {"target": "a class", "points": "points", "size": "pair"},
        {"target": 0, "points": [(0, 0), (3, 0), (3, 3)], "size": (4, 5)},
    ),
    "Similarity": Call(
        lm.explain.Similarity, {"embedding": "embedding", "name": "text"}, {"embedding": torch.rand(4)}
    ),
    "write_nan": Call(
        lm.adapters.write_nan,
        {"arr": "anything", "mask": "any mask"},
        values={"arr": np.ones((1, 3, 4, 4)), "indices": [[0]]},
    ),
    **{
        f"fills.{kind.__name__}": Call(kind, {"origin": "text", "seed": "seed or None"})
        for kind in (*Fill.__subclasses__(), lm.removal.fills.EdgeSmoothed)
    },
    "fills()": Call(lm.removal.Greyout(NET).fill),
    "find_places": Call(activations.find_places),
    "activations": Call(activations.activations, values={"answer": lambda: None, "places": []}),
    "telling_channel": Call(activations.most_varying_channel, {"whole": "object"}),
    "distance": Call(
        activations.distance,
        {"one": "object", "whole": "object"},
        {"one": MAP, "whole": MAP, "where": MAP.visible},
    ),
    "check.check": Call(check.check, {"laws": "some words"}),
    "check.check_laws": Call(check.check_laws, {"laws": "some words"}),
    "deploy.difference": Call(deploy.difference, values={"run": lambda images, visible: []}),
    "deploy.export": Call(deploy.export),
    "deploy.fold": Call(deploy.fold),
    "deploy.fold_model_norms": Call(deploy.fold_model_norms),
    "deploy.load": Call(deploy.load),
    "deploy.to_onnx": Call(deploy.to_onnx, {"program": "program"}, values={"program": NET}),
    "deploy.to_pt2": Call(deploy.to_pt2, {"program": "program"}, values={"program": NET}),
    "audit.audit": Call(audit.audit),
    "audit.recommend": Call(
        audit.recommend,
        {"level": "open share", "names": "texts"},
        {"names": ("a", "b"), "kept": torch.rand(9, 2)},
    ),
    "evaluate.run": Call(evaluate.run, {"experiment": "object"}, {"experiment": evaluate.SegmentStudy()}),
    "evaluate.read_results": Call(evaluate.read_results),
    "evaluate.LimeStudy": Call(
        evaluate.LimeStudy, {"ablation": "word"}, words={"ablation": "removal|ablation"}
    ),
    "evaluate.ShapeBiasStudy": Call(evaluate.ShapeBiasStudy),
    "evaluate.OperatorStudy": Call(evaluate.OperatorStudy),
    "evaluate.LinearityStudy": Call(evaluate.LinearityStudy),
    "evaluate.SegmentStudy": Call(evaluate.SegmentStudy),
    "relabel": Call(relabel, {"labels": "labels"}),
    "segmenter": Call(segmenter, {"text": "word"}, words={"text": "segment|text"}),
    "explainer": Call(explainer, words={"name": "method"}, values={"name": "lime"}),
    "metric": Call(metric_entry, values={"name": "srg"}, words={"name": "metric"}),
    "removal": Call(make_removal, values={"name": "greyout"}, words={"name": "removal"}),
    "open_source": Call(open_source, {"images": "path", "kind": "text"}),
    **{
        f"metrics.{function.__name__}": metric(function)
        for function in (
            flipping.flipping_curves,
            flipping.insertion,
            flipping.deletion,
            flipping.least_relevant_first,
            flipping.symmetric_relevance_gain,
            flipping.road,
            operators.r_oms,
            operators.random_attribution_bias,
            operators.random_attributions,
            subsets.infidelity,
            subsets.sensitivity_n,
            subsets.sensitivity_curve,
        )
    },
    "metrics.bootstrap": Call(
        bootstrap.bootstrap, {"level": "open share"}, {"statistic": lambda weights: weights, "n_images": 3}
    ),
    "metrics.mean_interval": Call(
        bootstrap.mean_interval, {"level": "open share"}, {"values": torch.rand(3)}
    ),
    "metrics.average": Call(bootstrap.average, WEIGHTS, {"values": torch.rand(3)}),
    "metrics.linearity": Call(
        linearity.linearity, {"whole": "tensor"}, {"total": torch.rand(2, 3), "whole": torch.rand(2, 3)}
    ),
    "metrics.alignment": Call(localisation.alignment, {"mask": "tensor"}, {"mask": VISIBLE[0, 0].float()}),
    "metrics.top_k_jaccard": Call(
        localisation.top_k_jaccard, {"mask": "tensor"}, {"mask": VISIBLE[0, 0].float()}
    ),
    "metrics.top_k": Call(localisation.top_k, values={"k": 2}),
    "metrics.top_k_ablation": Call(localisation.top_k_ablation),
    "metrics.accuracy": Call(predictions.accuracy, WEIGHTS, OF_CLASSES),
    "metrics.unchanged": Call(predictions.unchanged, WEIGHTS, OF_CLASSES),
    "metrics.wordnet_similarity": Call(predictions.wordnet_similarity, WEIGHTS, OF_CLASSES),
    "metrics.class_entropy": Call(predictions.class_entropy, WEIGHTS, OF_CLASSES),
    "metrics.area": Call(
        predictions.area,
        {"fractions": "tensor"},
        {"values": torch.rand(2), "fractions": torch.tensor([0.0, 1])},
    ),
    "metrics.kendall": Call(operators.kendall, values={"a": torch.rand(3), "b": torch.rand(3)}),
    "metrics.rank_stability": Call(operators.rank_stability, values={"scores": torch.rand(3, 4)}),
    "metrics.broken_mask": Call(shape.broken_mask, {"masks": "masks (N, 1, *S)"}),
    "metrics.measure_shape_bias": Call(shape.measure_shape_bias),
    "metrics.measure_linearity": Call(linearity.measure_linearity),
    "metrics.shape_bias": Call(
        shape.shape_bias, values=dict.fromkeys(("whole", "hidden", "broken"), CLASSES)
    ),
}

NOT_CALLED = {
    "errors": "ImageError InputError LostMask MissingPackage ModelError NoMaskRule",
    "rows of tables, and what is returned": "RemovalEntry LawResult LawReport Audit Verdict Sample",
    "a decorator, which checks its own": "rule",
    "files of experiments, and types": "Store StudyProgress ImageSource Fill",
}


def test_every_public_callable_is_here() -> None:
    known = {
        name.removeprefix(f"{room}.")
        for name in CALLS
        for room in ("check", "deploy", "audit", "evaluate", "metrics", "fills")
    }
    known |= {name for names in NOT_CALLED.values() for name in names.split()}
    found = {
        name
        for room in (
            lm,
            check,
            deploy,
            audit,
            evaluate,
            lm.data,
            lm.metrics,
            lm.removal.fills,
            lm.zoo,
            *ROOMS,
        )
        for name in room.__all__
        if callable(getattr(room, name))
    }
    assert found <= known, f"give each an entry in CALLS: {found - known}"
    metrics = {
        getattr(entry.function, "func", entry.function).__name__ for entry in lm.metrics.METRICS.values()
    }
    assert metrics <= known, f"give each an entry in CALLS: {metrics - known}"


def parameters() -> Iterator[tuple[str, str]]:
    for label, call in CALLS.items():
        for name, parameter in inspect.signature(call.function).parameters.items():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                yield label, name


@pytest.mark.parametrize(("label", "name"), list(parameters()))
@pytest.mark.filterwarnings("ignore")
def test_wrong_values_are_refused_by_name(label: str, name: str) -> None:
    call = CALLS[label]
    given = inspect.signature(call.function).parameters
    kind = call.kinds.get(name) or KIND_OF.get(name)
    assert kind, f"{label}({name}) is new: say which kind it is"
    required = {
        n
        for n, p in given.items()
        if p.default is p.empty and p.kind < p.VAR_KEYWORD and p.kind != p.VAR_POSITIONAL
    }
    others = {
        n: (VALUES | call.values)[n] for n in given if n != name and (n in required or n in call.values)
    }
    word = call.words.get(name, "segment|" * (name == "segmentations") + name.removesuffix("s"))
    faults = []
    for value in WRONG[kind]:
        if value is None and given[name].default is None:
            continue
        start = time.monotonic()
        try:
            call.function(**others, **{name: value})
            faults.append(f"{shown(value)} was taken")
        except (ValueError, TypeError) as error:
            if not re.search(rf"\b({word})s?\b", str(error)) or len(str(error)) > 3000:
                faults.append(f"{shown(value)}: {type(error).__name__}: {error}")
        except Exception as error:
            faults.append(f"{shown(value)}: {type(error).__name__}: {error}")
        if time.monotonic() - start > 2:
            faults.append(f"{shown(value)} took {time.monotonic() - start:.1f} s")
    assert not faults, f"{label}({name}), a {kind}:\n" + "\n".join(faults)


# --- what is taken -----------------------------------------------------------------------------------------


SAME = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int16)]


@pytest.mark.parametrize("value", SAME, ids=repr)
def test_whole_numbers_of_any_library_are_one(value: Any) -> None:
    for kind in (kinds.count, kinds.seed, kinds.index, kinds.number, kinds.sizes):
        found = kind("n", value)
        assert found == 3 and type(found) is int
    assert kinds.target("target", value, 5) == [3]
    assert EXPLAINER.attribute(IMAGES, value, CELLS).targets == (3,)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor(0.5).double()]
)
def test_numbers_of_any_library_are_one(value: Any) -> None:
    found = kinds.number("x", value, above=0, below=1)
    assert found == 0.5 and type(found) is float


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array(True), torch.tensor(True)], ids=repr)
def test_flags_are_no_numbers_and_numbers_no_flags(value: Any) -> None:
    assert kinds.flag("f", value) is True
    for kind in (kinds.count, kinds.seed, kinds.number):
        with pytest.raises(TypeError, match="n is"):
            kind("n", value)


ZERO = [0, [0], (0,), np.array([0]), np.array(0), torch.tensor(0), torch.tensor([0]), np.int64(0)]


@pytest.mark.parametrize("target", ZERO, ids=repr)
def test_class_0_is_a_target(target: Any) -> None:
    """The net likes the classes 4 and 3 best: what is explained by default is not class 0."""
    assert EXPLAINER.attribute(IMAGES, None, CELLS).targets != (0,)
    assert EXPLAINER.attribute(IMAGES, target, CELLS).targets == (0,)
    assert EXPLAINER.attribute_batch(IMAGES, target, [CELLS])[0].targets == (0,)


def test_targets_of_a_batch() -> None:
    pair = IMAGES.repeat(2, 1, 1, 1)

    def targets(given: Any) -> list[tuple[int, ...]]:
        return [each.targets for each in EXPLAINER.attribute_batch(pair, given, [CELLS, CELLS])]

    assert targets(0) == targets(torch.tensor(0)) == [(0,), (0,)]
    assert targets([1, 2]) == targets(torch.tensor([1, 2])) == targets(np.array([1, 2])) == [(1,), (2,)]
    assert targets(torch.tensor([[1, 2], [3, 4]])) == targets([[1, 2], (3, 4)]) == [(1, 2), (3, 4)]
    assert targets([0, None])[0] == (0,) and len(targets([0, None])[1]) == 2
    with pytest.raises(InputError, match="1 targets for 2 images: give one, or a list, for each"):
        targets([0])
    with pytest.raises(InputError, match=r"target is \[5\]: the model has the classes 0 to 4"):
        targets([0, 5])


MAPS = [CELLS, CELLS.numpy(), CELLS.to(torch.int16), CELLS.numpy().astype(np.uint16), CELLS.tolist()]
MAPS += [CELLS.numpy()[::-1][::-1], CELLS.numpy().astype(">i4"), CELLS.numpy().astype(np.uint64)]


@pytest.mark.parametrize("cells", MAPS, ids=range(len(MAPS)))
def test_label_maps_of_any_library_are_one(cells: Any) -> None:
    assert torch.equal(kinds.label_map("feature_mask", cells), CELLS)


def test_masks_are_one_for_all() -> None:
    left = VISIBLE.clone()
    left[..., :5] = False
    for mask in (left.byte(), left.float(), left.half(), left.long()):
        assert torch.equal(lm.metrics.broken_mask(mask), lm.metrics.broken_mask(left))
        marked = lm.adapters.mark_hidden(IMAGES, mask)
        assert torch.equal(marked.isnan(), (~left).expand_as(IMAGES))
        assert torch.equal(OPERATOR(IMAGES, mask), OPERATOR(IMAGES, left))


# --- what is said ------------------------------------------------------------------------------------------

SAID = {
    "removal is a Sequential: it is called as removal.images, visible.: wrap a model": lambda: lm.Lime(NET),
    "model is Loaded.*: give its .model, a torch.nn.Module": lambda: lm.LayerMasking(LOADED),  # type: ignore[arg-type]
    "image must be a torch.Tensor, not ndarray. Use torch.from_numpy": lambda: EXPLAINER.attribute(
        IMAGES.numpy(),
        0,
        CELLS,  # type: ignore[arg-type]
    ),
    "image must be a torch.Tensor, not Image. Use the model's preprocessing": lambda: EXPLAINER.attribute(
        PICTURE,
        0,
        CELLS,  # type: ignore[arg-type]
    ),
    r"got \(3, 16, 16\): give image\[None\]": lambda: EXPLAINER.attribute(IMAGES[0], 0, CELLS),
    r"images of shape \(1, 1, 16, 16\) have 1 channels, .* takes 3": lambda: lm.LayerMasking(NET)(
        IMAGES[:, :1], VISIBLE
    ),
    "have 4 channels, and the first convolution of the model takes 3": lambda: lm.removal.MeanFill(NET)(
        IMAGES[:, [0, 1, 2, 2]], VISIBLE
    ),
    "give mean and std with 1 values": lambda: lm.removal.Greyout(NET)(IMAGES[:, :1], VISIBLE),
    "mean has 3, std has 1 values": lambda: lm.removal.Blackout(NET, std=[99]),
    r"mean\[1\] is nan: give a finite number": lambda: lm.zoo.Preprocessing(mean=(0, math.nan, 0)),
    "fit is 'crop': choose cover, contain or squash": lambda: lm.zoo.Preprocessing(fit="crop"),  # type: ignore[arg-type]
    "n_samples is 9223372036854775808: give 10000000 at most": lambda: lm.Rise(OPERATOR, n_samples=2**63),
    r"seed is 4294967296: give a whole number from 0 to 2\*\*32 - 1": lambda: lm.Lime(OPERATOR, seed=2**32),
    "the model has the classes 0 to 4": lambda: EXPLAINER.attribute(IMAGES, 5, CELLS),
    "6000 segments, and the fit takes 5000 at most, as its matrices would need about 2.9 GB": lambda: lm.Lime(
        lambda images, visible: torch.zeros(len(visible), 2), output="softmax"
    ).attribute(torch.zeros(1, 1, 60, 100), 0, torch.arange(6000).view(60, 100)),
}


@pytest.mark.parametrize("message", SAID)
@pytest.mark.filterwarnings("error")
def test_errors_say_what_to_do(message: str) -> None:
    with pytest.raises(InputError, match=message):
        SAID[message]()


def test_models_that_take_more_are_no_removals() -> None:
    """A second input that need not be given is a model's own, as an attention mask; it is not `visible`."""

    class Attends(nn.Module):
        def forward(self, x: Any, attn_mask: Any = None) -> Any:
            return NET(x)

    class Removes(nn.Module):
        def forward(self, images: Any, visible: Any = None) -> Any:
            return NET(images)

    with pytest.raises(TypeError, match="removal is a Attends"):
        lm.Lime(Attends())
    assert lm.Lime(Removes()) and lm.Lime(lambda *inputs: inputs[0])


def test_a_declared_parameter_exists() -> None:
    with pytest.raises(TypeError, match="has no parameters wrong to check"):
        checked(wrong=kinds.count)(lambda right: right)


# --- what only the call shows ------------------------------------------------------------------------------

ONE_SCORE = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)).eval()
ONE = lm.LayerMasking(ONE_SCORE)
MARKED = np.ones((2, 4))


class Endless(nn.Module):
    """Answers with a list that holds itself."""

    def forward(self, images: Any) -> Any:
        answer = [images]
        answer.append(answer)
        return answer


CALLED: dict[str, list[Callable[[], Any]]] = {
    "images is on meta": [
        lambda: lm.LayerMasking(NET)(META, VISIBLE.to("meta")),
        lambda: lm.removal.Greyout(NET)(META, VISIBLE.float().to("meta")),
    ],
    "the model's output, a list, contains itself": [lambda: lm.LayerMasking(Endless())(IMAGES, VISIBLE)],
    "one score for each picture, and classes are compared": [
        lambda: lm.GreedyInsertion(ONE, output="logit").attribute(IMAGES, 0, CELLS),
        lambda: lm.GreedyDeletion(ONE, output="logit").attribute(IMAGES, 0, CELLS),
        lambda: lm.GreedyDeletion(ONE).attribute(IMAGES, 0, CELLS),
        lambda: lm.metrics.remove_segments(ONE, IMAGES, [CELLS]),
        lambda: lm.metrics.measure_shape_bias(ONE, IMAGES, VISIBLE),
        lambda: localisation.top_k_ablation(ONE, IMAGES, [FOUND], CLASSES, 1),
    ],
    "mean: a colour of 2 channels": [lambda: lm.removal.NoiseFill(NET, mean=(1, 2))(IMAGES, ~VISIBLE)],
    "color: a colour .* of torch.float16, whose numbers end at 65504": [
        lambda: lm.removal.ConstantFill(NET, 1e6).painted(IMAGES.half(), VISIBLE)
    ],
    "mean is .* divided by std, .* colours are beyond 1e": [
        lambda: lm.removal.Blackout(NET, std=[1e-12] * 3),
        lambda: lm.removal.Greyout(NET, mean=[1e9] * 3),
        lambda: lm.removal.EdgeSmoothedFill(NET, mean=[1e9] * 3),
    ],
    r"indices of shape \(\d, 1\) go from": [
        lambda: lm.adapters.write_nan(MARKED, indices=[[0], [4]]),
        lambda: lm.adapters.write_nan(MARKED, indices=[[0], [-1]]),
        lambda: lm.adapters.write_nan(MARKED, indices=[[0], [1], [2]]),
    ],
    r"xxx \.\.\. xxx|x\.\.\.x": [
        lambda: lm.LayerMasking(NET, until=LONG),
        lambda: lm.metrics.headless(NET, head=LONG),
        lambda: lm.load(LONG),
        lambda: lm.load(weights=LONG),
        lambda: segmenter(LONG),
    ],
}


@pytest.mark.parametrize("message", CALLED)
def test_calls_are_refused(message: str) -> None:
    for call in CALLED[message]:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert len(str(error.value)) < 3000


def test_one_score_can_be_explained() -> None:
    """Where no classes are compared, a model may have one."""
    for method in (lm.Lime(ONE, n_samples=20, output="logit"), lm.FeatureAblation(ONE, output="logit")):
        assert method.attribute(IMAGES, 0, CELLS).targets == (0,)
    assert operators.random_attributions(ONE, IMAGES, [CELLS])[0].targets == (0,) * 10


def test_numbers_at_the_ends_are_taken() -> None:
    """What is let through gives finite answers."""
    hidden = VISIBLE.clone()
    hidden[..., :5] = False
    for number in (1e-12, 1e9):
        for settings in ({"alpha": number}, {"kernel_width": number}):
            found = lm.Lime(OPERATOR, n_samples=50, **settings).attribute(IMAGES, 0, CELLS)
            assert found.scores.isfinite().all()
        fills = [lm.removal.ConstantFill(NET, number), lm.removal.BlurFill(NET, sigma=number)]
        fills += [
            lm.removal.EdgeSmoothedFill(NET, sigma=number),
            lm.removal.NoiseFill(NET, kind="uniform", std=[number] * 3),
        ]
        for fill in fills:
            assert fill(IMAGES, hidden).isfinite().all()
        assert lm.Calibrated(OPERATOR, 5).fit(IMAGES, penalty=number).weight.isfinite().all()
        assert lm.zoo.Preprocessing(std=[number] * 3)(PICTURE).isfinite().all()
    assert lm.removal.NoisyLinearFill(NET, noise=1000)(IMAGES, hidden).isfinite().all()


# --- what helps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, 16, 28, 32])
def test_occlusion_compares_windows_on_small_images(side: int) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 3))
    found = lm.Occlusion(lm.removal.ConstantFill(net)).attribute(torch.randn(1, 1, side, side), 0)
    assert found.n_samples >= 9 and found.scores.unique().numel() >= 9


def test_a_window_that_hides_all_is_said() -> None:
    with pytest.warns(UserWarning, match="hides all of it") as said:
        lm.Occlusion(OPERATOR, sliding_window_shapes=16).attribute(IMAGES, 0)
    assert said[0].filename == __file__


def test_many_segments_are_said() -> None:
    many = torch.arange(2400).view(40, 60)
    lime = lm.Lime(lambda images, visible: torch.zeros(len(visible), 2), n_samples=4800, converge=0.5)
    with pytest.warns(UserWarning, match="the fit of 2400 segments takes up to a minute"):
        next(lime.plan(Segments(many, torch.device("cpu")), torch.zeros(1), [0]))


def test_all_seeds_are_different() -> None:
    """The largest seed is not another one by wrapping round."""
    rows = [lm.Lime(OPERATOR, n_samples=64, seed=seed).rows(16) for seed in (0, 1, 2**31, 2**32 - 1)]
    assert len({row.numpy().tobytes() for row in rows}) == 4
