"""The table of metrics: the page lists it, and its directions are those of known cases."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from test_removal_table import SIZE, net, operator

import layermask
from layermask.check.samples import sample_images
from layermask.errors import InputError
from layermask.explain.ablation import KeepOne
from layermask.metrics.predictions import PREDICTION_METRICS
from layermask.metrics.registry import METRICS, Metric, metric
from layermask.removal.registry import REMOVALS
from layermask.segment.segmenters import Grid

PAGE = Path(__file__).parents[1].joinpath("docs/metrics.md").read_text()


def named(entry: Metric) -> str:
    """The function as the page writes it."""
    function, options = entry.function, ""
    if isinstance(function, partial):
        options = "".join(f' (`{key}="{value}"`)' for key, value in function.keywords.items())
        function = function.func
    part = f" `.{entry.part}`" if entry.part else ""
    return f"`{function.__module__.rpartition('.')[2]}.{function.__name__}`{options}{part}"


def test_the_page_is_the_table() -> None:
    listed = re.findall(
        r"^\| `(.*?)` \| (.*) \| (.*) \| (higher|lower) \| (.*) \| (.*) \| (.*) \|$", PAGE, re.M
    )
    want = [
        (
            name,
            named(each),
            each.summary,
            "higher" if each.higher_is_better else "lower",
            each.judges,
            each.needs,
            each.source,
        )
        for name, each in METRICS.items()
    ]
    assert listed == want


def test_every_metric_of_predictions_is_in_the_table() -> None:
    for name, entry in PREDICTION_METRICS.items():
        assert METRICS[name].function is entry.function
        assert METRICS[name].higher_is_better == entry.higher_is_better


@pytest.mark.parametrize("name", METRICS)
def test_the_parts_are_there(name: str) -> None:
    entry = METRICS[name]
    assert entry.judges in ("removal", "attribution") and callable(entry.function)
    if entry.part:
        kind = getattr(entry.function, "__annotations__", {})["return"]
        module = __import__(entry.function.__module__, fromlist=[kind])
        fields = getattr(module, kind)
        assert entry.part in fields.__dataclass_fields__ or hasattr(fields, entry.part)


def test_lower_is_better_for_these_alone() -> None:
    lower = {name for name, entry in METRICS.items() if not entry.higher_is_better}
    assert lower == {
        "object-hidden",
        "top-k-ablation",
        "linearity-l2",
        "deletion",
        "road-morf",
        "infidelity",
        "random-bias",
        "random-noise",
    }


def test_names() -> None:
    assert layermask.metrics.METRICS is METRICS and metric("srg") is METRICS["srg"]
    with pytest.raises(InputError, match=r"unknown metric 'sgr': choose from accuracy, .*\(nearest: srg"):
        metric("sgr")


def number(name: str, removal_name: str) -> float:
    """The metric `name` of two small images under a removal operator, as one number."""
    entry, removal = METRICS[name], operator(removal_name)
    images, cells = sample_images(2, (3, *SIZE), seed=3), Grid(4).labels(SIZE)
    labels = removal(images, torch.ones(2, 1, *SIZE, dtype=torch.bool)).argmax(1)
    attributions = KeepOne(removal).attribute_batch(images, labels.tolist(), [cells] * 2)
    mask = (cells == 1) | (cells == 2)
    given = {
        "predictions": [layermask.metrics.remove_segments(removal, images, [cells] * 2).predicted],
        "labels": [labels],
        "removal": [removal],
        "model": [net(REMOVALS[removal_name], 3, SIZE)],
        "images": [images],
        "segments": [[cells] * 2],
        "attributions": [attributions],
        "masks": [mask[None, None].expand(2, 1, *SIZE)],
        "scores of methods on images": [torch.rand(4, 9)],
    }
    if name in ("alignment", "top-k-jaccard"):
        return float(entry.function(attributions[0].scores[0], cells, mask))
    if name == "unchanged":
        return float(entry.function(given["predictions"][0], labels).mean())
    with torch.no_grad():
        found = entry.function(*(each for need in entry.needs.split(", ") for each in given[need]))
    found = getattr(found, entry.part) if entry.part else found
    return float(torch.as_tensor(found() if callable(found) else found).double().mean())


@pytest.mark.parametrize("removal_name", REMOVALS)
def test_every_metric_takes_every_removal(removal_name: str) -> None:
    values = {name: number(name, removal_name) for name in METRICS}
    assert all(torch.tensor(value).isfinite() for value in values.values()), values
    for name in ("accuracy", "unchanged", "deletion", "lerf", "r-oms", "top-k-jaccard", "object-hidden"):
        assert 0 <= values[name] <= 1, name
    assert values["shape-difference"] == pytest.approx(values["broken-mask"] - values["object-hidden"])
    assert values["srg"] == pytest.approx(values["lerf"] - values["deletion"], abs=1e-6)
