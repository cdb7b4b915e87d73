"""The table of metrics: the page lists it, and its directions are those of known cases."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

import layermask
from layermask.errors import InputError
from layermask.metrics.predictions import PREDICTION_METRICS
from layermask.metrics.table import METRICS, Metric, metric

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
    assert layermask.METRICS is METRICS and metric("srg") is METRICS["srg"]
    with pytest.raises(InputError, match=r"unknown metric 'sgr': choose from accuracy, .*\(nearest: srg"):
        metric("sgr")
