"""Asking a removal operator: for probabilities or logits, and in halves where a batch is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.core.inputs import OneQuery
from layermask.errors import InputError, out_of_memory
from layermask.removal.training import TrainingNotice
from layermask.zoo.outputs import class_scores, compared_scores, scores


class Halving:
    """`removal`, asked for half as many masks at a time whenever memory runs out; `say` hears of it.

    The answers stay the same, to the rounding of other batch sizes. With one mask at a time the error is
    raised.
    """

    def __init__(self, removal: Callable[..., Any], say: Callable[[str], None] = print) -> None:
        self.removal, self.say = removal, say
        self.limit: int | None = None

    def __call__(self, images: Tensor, visible: Tensor) -> Any:
        """Return the (n, classes) answers to images (n or 1, C, *S) under visible (n, 1, *S)."""
        while True:
            size = min(len(visible), self.limit or len(visible))
            try:
                return self._in_parts(images, visible, size)
            except (RuntimeError, MemoryError) as error:  # handled below: its traceback holds the tensors
                if size == 1 or not out_of_memory(error):
                    raise
            self.limit = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.say(f"out of memory: retrying with at most {self.limit} masks per forward pass")

    def _in_parts(self, images: Tensor, visible: Tensor, size: int) -> Any:
        if size == len(visible):
            return self.removal(images, visible)
        parts = images.split(size) if len(images) > 1 else [images] * -(-len(visible) // size)
        answers = [self.removal(x, mask) for x, mask in zip(parts, visible.split(size), strict=True)]
        return torch.cat([scores(answer) for answer in answers])


Output = Literal["probability", "logit"]
Forward = Callable[[Tensor, Tensor], Tensor]  # images (n or 1, C, *S), visible (n, 1, *S) -> (n, classes)


def query(removal: Callable[..., Any], output: Output, compared: bool = False) -> Forward:
    """Return what asks a removal operator for probabilities or logits, for one query.

    `compared`: the likeliest class counts, so that there have to be two.
    """

    query, notice = OneQuery(), _notice(removal)
    scores = compared_scores if compared else class_scores

    @torch.no_grad()
    def ask(images: Tensor, visible: Tensor) -> Tensor:
        notice()
        with query.about(images):
            logits = scores(removal(images, visible), len(visible)).float()
        if output == "logit":
            return logits
        if logits.shape[1] < 2:
            raise InputError(
                'the model has one class, whose probability is always 1: explain its score, output="logit"'
            )
        return logits.softmax(-1)

    return ask


def _notice(removal: Callable[..., Any]) -> Callable[[], None]:
    """The warning about training mode for a removal that does not give it by itself."""
    own = not isinstance(removal, nn.Module) or any(
        isinstance(getattr(m, "notice", None), TrainingNotice) for m in removal.modules()
    )
    return (lambda: None) if own else TrainingNotice(removal)  # type: ignore[arg-type]  # a module here


def output_kind(name: str, value: Any) -> Output:
    """Return what of a model is explained."""
    return kinds.choice(name, value, ("probability", "logit"))


def check_finite(values: Tensor) -> None:
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise InputError(
            f"the model's scores are not finite for {bad} of {len(values)} masks: "
            "try float32, or another removal"
        )
