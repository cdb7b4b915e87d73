"""What a reader of the numbers on LIME has to know."""

from __future__ import annotations

import numpy as np

from layermask.render.table import common_words
from layermask.studies.lime.study import LEFT_OUT
from layermask.studies.protocol import OF_THE_DATA
from layermask.studies.registry import Columns, Content


def words(columns: Columns, content: Content) -> list[str]:
    """Return what a reader of the numbers has to know."""
    settings = content["settings"]
    lines = common_words(content, "accuracy without the top segments")
    lines.append(
        f"LIME explains {_explained(content)} from {settings['n_samples']} masks; the top {settings['k']} "
        f"segments are hidden by {settings['ablation']}."
    )
    return [*lines, *_left_out(columns, content), *_too_few(columns, content)]


def _explained(content: Content) -> str:
    settings = content["settings"]
    known = settings["labels"] == OF_THE_DATA and settings["explain"] == "label"
    return "the label" if known else "the plain model's prediction"


def _left_out(columns: Columns, content: Content) -> list[str]:
    removals = len(content["settings"]["removals"])
    lines = []
    for reason, meaning in LEFT_OUT.items():
        count = int((columns["left_out"] == reason).sum()) // removals
        if count:
            whole = len(columns["left_out"]) // removals
            lines.append(f"Left out, {count} of {whole} images × segmentations: {meaning}.")
    return lines


def _too_few(columns: Columns, content: Content) -> list[str]:
    samples = content["settings"]["n_samples"]
    few = (columns["left_out"] == "") & (2 * columns["segments"] > samples)
    if not few.any():
        return []
    most = int(np.max(columns["segments"][few]))
    return [
        f"In {int(few.sum())} of {len(few)} explanations {samples} masks are less than 2 per segment (up to "
        f"{most} segments): those scores are noisy."
    ]
