"""Search for a better training-free operator than the paper's: variants of layer masking, compared.

Chosen on one half of the images, confirmed on the other. Without an argument, both.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import torch
from setting import RESULTS, ROOT, WEIGHTS, images, load
from torch import Tensor
from variants import VARIANTS, Varied

from layermask import Calibrated, Loaded
from layermask.data.source import Source
from layermask.evaluate import SegmentRemoval, read_results, run
from layermask.metrics.bootstrap import mean_interval
from layermask.removal.table import removal

FRACTIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8)
MCAL = "paper, MCal"
REFERENCES = ("greyout", "neighbor", "push-pull", MCAL)
FITTED = 110  # images that MCal is fitted on, one random mask each
HALVES = {"choosing": (60, 30), "confirming": (200, 80)}
"""Images for small models and for ResNet-50."""
SUMMARY = RESULTS / "operator_search.parquet"
PAPER = "paper"


def half(name: str, limit: int | None) -> Source:
    """Return so many images of a half: every other image, as they are listed, belongs to the same one."""
    source = images()
    return replace(source, samples=source.samples[list(HALVES).index(name) :: 2]).pick(limit)


def calibrated(loaded: Loaded) -> Calibrated:
    """Return the paper's operator with a diagonal MCal head, fitted on choosing images that judge nothing."""
    judges = {sample.name for sample in half("choosing", max(HALVES["choosing"]))}
    rest = [sample for sample in half("choosing", None) if sample.name not in judges][:: 440 // FITTED]
    x = torch.cat([loaded.preprocessing(sample.load_image()) for sample in rest])
    classes = len(loaded.labels)
    return Calibrated(Varied(loaded.model, VARIANTS[PAPER]), classes, diagonal=True).fit(x, batch_size=8)


def operator(name: str, loaded: Loaded, segments: Tensor | None) -> Any:
    if name == MCAL:
        return calibrated(loaded)
    if name in VARIANTS:
        return Varied(loaded.model, VARIANTS[name])
    return removal(name, loaded.model, loaded.preprocessing, segments)


def measure(rows: Path, name: str, loaded: Loaded, which: str, limits: tuple[int, int]) -> None:
    """Ask one operator about so many images of a half; what was asked before is left."""
    folder = rows / which / loaded.name / name.replace(" ", "-").replace("*", "x")
    experiment = SegmentRemoval((name,), ("grid",), ("random",), FRACTIONS, operator=operator)
    limit = limits["resnet" in loaded.name]
    store = run(experiment, loaded, half(which, limit), folder, batch_size=len(FRACTIONS))
    print(which, loaded.name, name, f"{right(store.folder).mean():.4f}", flush=True)


def right(folder: Path) -> Tensor:
    """Return whether each answer was right, (images, fractions)."""
    columns, _ = read_results(folder)
    found = torch.from_numpy(columns["prediction"] == columns["label"])
    return found.view(-1, len(FRACTIONS)).double()


def summarise(rows: Path) -> list[dict[str, Any]]:
    """Return a row per half, model and operator: accuracies, and how their mean differs from the paper's."""
    found = []
    for which in HALVES:
        for model in WEIGHTS:
            results = {_name(path): right(path.parent) for path in (rows / which / model).glob("*/*.parquet")}
            found += [_row(which, model, name, results) for name in _in_order(results)]
    return found


def _name(path: Path) -> str:
    return read_results(path)[1]["settings"]["removals"][0]


def _in_order(results: dict[str, Tensor]) -> list[str]:
    return [name for name in (*REFERENCES, *VARIANTS) if name in results]


def _row(which: str, model: str, name: str, results: dict[str, Tensor]) -> dict[str, Any]:
    """Intervals are of 95 %, by the bootstrap over images, paired for the difference."""
    mine, papers = results[name].mean(1), results[PAPER].mean(1)
    of_mean, of_difference = mean_interval(mine), mean_interval(mine - papers)
    return {
        "half": which,
        "model": model,
        "operator": name,
        "images": len(mine),
        **{
            f"at {fraction:g}": float(a) for fraction, a in zip(FRACTIONS, results[name].mean(0), strict=True)
        },
        "mean": float(mine.mean()),
        "low": float(of_mean.low),
        "high": float(of_mean.high),
        "difference": float((mine - papers).mean()),
        "difference low": float(of_difference.low),
        "difference high": float(of_difference.high),
    }


def average_difference(rows: list[dict[str, Any]], which: str) -> dict[str, float]:
    """Return the mean over models of what an operator gains over the paper's; 0 where it cannot act."""
    gains: dict[str, float] = {}
    for row in rows:
        if row["half"] == which:
            gains[row["operator"]] = gains.get(row["operator"], 0.0) + row["difference"] / len(WEIGHTS)
    return gains


def finalists(rows: list[dict[str, Any]], overall: int = 5, each: int = 1) -> list[str]:
    """Return what goes to the confirming half: the best overall and for each model, paper's, references."""
    gains = average_difference(rows, "choosing")
    best = sorted(gains, key=lambda name: -gains[name])[:overall]
    for model in WEIGHTS:
        mine = [row for row in rows if row["half"] == "choosing" and row["model"] == model]
        best += [row["operator"] for row in sorted(mine, key=lambda row: -row["mean"])[:each]]
    return list(dict.fromkeys([PAPER, *best, *REFERENCES]))


def write(rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), SUMMARY, compression="zstd")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("halves", nargs="*", default=list(HALVES), help=" or ".join(HALVES))
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "operator_search", help="of all rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = [load(name) for name in WEIGHTS]
    for which in given.halves:
        chosen = finalists(summarise(given.out)) if which == "confirming" else [*REFERENCES, *VARIANTS]
        for name in chosen:
            for model in models:
                if name not in VARIANTS or VARIANTS[name].acts_on(model.model):
                    measure(given.out, name, model, which, HALVES[which])
    write(summarise(given.out))
