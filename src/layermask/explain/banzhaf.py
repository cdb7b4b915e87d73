"""Banzhaf values, by regression; with another probability than 1/2 the gradient by a relaxed mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields
from layermask.explain.regression import Fit, Moments, ridge
from layermask.explain.sampling import chunk_sizes, generator
from layermask.explain.surrogate import Design, Surrogate


@dataclass(frozen=True)
class Banzhaf(Surrogate):
    """What a segment adds, on average, to the others when each is shown with `probability`.

    At 1/2 these are the Banzhaf values, the coefficients of the best linear approximation over all subsets
    (Hammer & Holzman 1992). At any p they are the gradient at (p, ..., p) of the multilinear extension, the
    expected output when segment i is shown with probability x_i (Owen 1972): the sound reading of "gradient
    by a relaxed mask". All subsets are listed, and the values exact, where n_samples allows it.
    """

    probability: float = 0.5

    name: ClassVar[str] = "Banzhaf"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, probability=partial(kinds.number, above=0, below=1))

    def design(self, n_segments: int) -> Design:
        whole = n_segments < 60 and 2**n_segments <= self.n_samples
        return _AllSubsets(self, n_segments) if whole else _RandomSubsets(self, n_segments)

    def fit(self, moments: Moments, ends: Tensor) -> Fit:
        return ridge(moments, 0.0)


class _RandomSubsets(Design):
    def __init__(self, banzhaf: Banzhaf, n_segments: int) -> None:
        super().__init__(chunk_sizes(banzhaf.n_samples))
        self.banzhaf, self.n_segments = banzhaf, n_segments

    def rows(self, index: int) -> Tensor:
        shape = (self.sizes[index], self.n_segments)
        return torch.rand(shape, generator=generator(self.banzhaf.seed, index)) < self.banzhaf.probability

    def weights(self, index: int, rows: Tensor) -> Tensor:
        return torch.ones(len(rows), dtype=torch.double)


class _AllSubsets(Design):
    """Subset number n shows the segments whose bit of n is set."""

    def __init__(self, banzhaf: Banzhaf, n_segments: int) -> None:
        sizes = chunk_sizes(2**n_segments)
        super().__init__(sizes, exact=len(sizes))
        self.probability, self.n_segments = banzhaf.probability, n_segments

    def rows(self, index: int) -> Tensor:
        start = sum(self.sizes[:index])
        numbers = torch.arange(start, start + self.sizes[index])
        return (numbers[:, None] >> torch.arange(self.n_segments) & 1).bool()

    def weights(self, index: int, rows: Tensor) -> Tensor:
        shown = rows.sum(1).double()
        return self.probability**shown * (1 - self.probability) ** (self.n_segments - shown)
