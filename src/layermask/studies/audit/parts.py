"""What an audit does: which removals, which experiments on which images, and what it leaves out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from layermask.data.source import ImageSource
from layermask.errors import InputError
from layermask.metrics.linearity import headless
from layermask.removal.reading import OutputName
from layermask.removal.registry import REMOVALS
from layermask.studies.linearity.study import LinearityStudy
from layermask.studies.protocol import MakeOperator, chances
from layermask.studies.segments.study import SegmentStudy
from layermask.studies.shape_bias.study import ShapeBiasStudy
from layermask.zoo.loaded import Loaded

PATCH = 32


@dataclass(frozen=True)
class Part:
    """An experiment and its images."""

    name: str
    experiment: Any
    source: ImageSource


@dataclass(frozen=True)
class AuditParts:
    """The parts, in order; `left_out`: removals that the model cannot have; `notes`: parts left out."""

    parts: list[Part]
    left_out: dict[str, str]
    notes: dict[str, str]


def plan(
    loaded: Loaded,
    source: ImageSource,
    removals: Sequence[str],
    segmentations: Sequence[str],
    seed: int,
    linearity_images: int,
    operator: MakeOperator,
    device: torch.device,
    output: OutputName = "probability",
) -> AuditParts:
    """Return what to do with this model and these images.

    Raises:
        InputError: fewer than two removals can be made for the model.
    """
    tried = {name: _why_not(name, loaded, operator, device) for name in removals}
    left_out = {name: why for name, why in tried.items() if why}
    usable = [name for name in removals if name not in left_out]
    if len(usable) < 2:
        raise InputError(
            f"an audit compares removals, and of {', '.join(removals)} {len(usable)} can be made for "
            f"{loaded.name}{_reasons(left_out)}: give others"
        )
    study = SegmentStudy(usable, segmentations, seed=seed, output=output, operator=operator)
    parts = [Part("segments", study, source)]
    notes = {}
    anywhere = [name for name in usable if name not in REMOVALS or not REMOVALS[name].needs_segments]
    if source.count("mask") and anywhere:
        objects = source.having("mask", skip=True)
        parts.append(Part("shape", ShapeBiasStudy(anywhere, output, operator=operator), objects))
    else:
        notes["shape"] = "the data has no object masks" if anywhere else "all removals paint segments"
    if linearity_images:
        parts.append(Part("linearity", _sums(usable, loaded, operator), source.pick(linearity_images, seed)))
    else:
        notes["linearity"] = "it was not asked for"
    return AuditParts(parts, left_out, notes)


def _sums(removals: Sequence[str], loaded: Loaded, operator: MakeOperator) -> LinearityStudy:
    """Sum features or, of a model whose last layer is none that can be left out, the logits."""
    patch = max(1, min(PATCH, min(loaded.preprocessing.crop) // 4))
    try:
        headless(loaded.model)
    except InputError:
        return LinearityStudy(removals, patches=(patch,), of="logits", operator=operator)
    return LinearityStudy(removals, patches=(patch,), operator=operator)


def _why_not(name: str, loaded: Loaded, operator: MakeOperator, device: torch.device) -> str:
    """Return why a removal cannot be had, or nothing: try it on an empty picture, half of it hidden."""
    size = loaded.preprocessing.crop
    x = torch.zeros(1, loaded.preprocessing.channels, *size, device=device)
    visible = torch.ones(1, 1, *size, dtype=torch.bool)
    visible[..., : size[1] // 2] = False
    segments = torch.zeros(size, dtype=torch.int64, device=device)
    try:
        chances(operator(name, loaded, segments), x, visible, 1)
    except (InputError, NotImplementedError) as error:  # no such package, model or rule
        return " ".join(str(error).split())
    return ""


def _reasons(left_out: dict[str, str]) -> str:
    return " (" + "; ".join(f"{name}: {why}" for name, why in left_out.items()) + ")" if left_out else ""
