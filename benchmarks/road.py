"""ROAD's linear imputation: our batched solver against scipy's `spsolve`, picture by picture.

The two sides alternate in one process, and medians are quoted. Both solve the same systems, and their answers
are compared. A section of docs/benchmarks.md is written anew.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import scipy
import torch
from page import write_section
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from layermask.removal.fills.linear_imputation import linear_imputation

STEPS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]


def patches(batch: int, hidden: float, side: int = 16, size: int = 224) -> Tensor:
    """Random masks (batch, 1, size, size) of side x side patches, `hidden` of them hidden."""
    cells = (size // side) ** 2
    order = torch.stack([torch.randperm(cells) for _ in range(batch)])
    grid = (order >= hidden * cells).reshape(batch, 1, size // side, size // side)
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)


def system(image: np.ndarray, visible: np.ndarray) -> tuple[csc_matrix, np.ndarray]:
    """The matrix and the right-hand sides (unknowns, C) for an image (C, H, W), assembled at once."""
    height, width = visible.shape
    known, shown = image.reshape(len(image), -1), visible.ravel()
    places = np.flatnonzero(~shown)
    number = np.full(shown.size, -1)
    number[places] = np.arange(len(places))
    row, column = places // width, places % width
    diagonal, rhs, entries = np.zeros(len(places)), np.zeros((len(places), len(image))), []
    for down, right in STEPS:
        weight = 1 / 12 if down and right else 1 / 6
        inside = np.flatnonzero(
            (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        )
        near = places[inside] + down * width + right
        diagonal[inside] += weight
        rhs[inside[shown[near]]] += weight * known[:, near[shown[near]]].T
        unknown = ~shown[near]
        entries.append((inside[unknown], number[near[unknown]], np.full(unknown.sum(), -weight)))
    entries.append((np.arange(len(places)), np.arange(len(places)), diagonal))
    rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    return csc_matrix((values, (rows, columns)), shape=(len(places),) * 2), rhs


def direct(image: Tensor, visible: Tensor) -> tuple[Tensor, float]:
    """The filled image (C, H, W) by `spsolve`, and the seconds within it."""
    shown = visible[0].numpy()
    matrix, rhs = system(image.double().numpy(), shown)
    start = time.perf_counter()
    found = spsolve(matrix, rhs)
    seconds = time.perf_counter() - start
    out = image.double().clone()
    out[:, ~visible[0]] = torch.from_numpy(found.reshape(rhs.shape).T)
    return out, seconds


def row(hidden: float, batch: int, rounds: int) -> str:
    """Milliseconds per picture of both sides, their ratios, and how far the answers are apart."""
    visible = patches(batch, hidden)
    known = torch.where(visible, torch.randn(batch, 3, 224, 224), 0.0)
    ours, whole, alone, error = [], [], [], 0.0
    filled = linear_imputation(known, visible)
    for turn in range(rounds):
        start = time.perf_counter()
        filled = linear_imputation(known, visible)
        ours.append((time.perf_counter() - start) / batch)
        start = time.perf_counter()
        want, within = direct(known[turn % batch], visible[turn % batch])
        whole.append(time.perf_counter() - start)
        alone.append(within)
        error = max(error, float((filled[turn % batch] - want).abs().max() / want.abs().max()))
    ratios = [statistics.median(a / b for a, b in zip(side, ours, strict=True)) for side in (whole, alone)]
    times = [1e3 * statistics.median(side) for side in (ours, whole, alone)]
    line = f"| {hidden:.0%} | {times[0]:.1f} | {times[1]:.0f} | {times[2]:.0f} | "
    line += f"{ratios[0]:.0f} | {ratios[1]:.0f} | {error:.0e} |"
    print(line, flush=True)
    return line


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    torch.manual_seed(0)
    head = [
        f"Milliseconds per picture, 3x224x224, batch {given.batch}, 16x16 patches hidden, "
        f"{given.rounds} rounds, scipy {scipy.__version__}. The sparse side includes putting "
        "the matrix together, vectorised; `spsolve` is the solve alone.",
        "",
        "| hidden | ours | sparse | `spsolve` | sparse / ours | `spsolve` / ours | error |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head))
    rows = [row(hidden, given.batch, given.rounds) for hidden in (0.1, 0.5, 0.9)]
    write_section("ROAD's linear imputation", [*head, *rows])


if __name__ == "__main__":
    main()
