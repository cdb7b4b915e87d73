"""Asking a removal operator, the one way for all: batches, checks of what comes back, progress, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.core.inputs import OneQuery
from layermask.errors import InputError, ModelError, out_of_memory
from layermask.removal.training import TrainingNotice
from layermask.zoo.outputs import class_scores, compared_scores, flat_scores, scores

Output = Literal["probability", "logit"]
Forward = Callable[[Tensor, Tensor], Tensor]  # images (n or 1, C, *S), visible (n, 1, *S) -> (n, classes)
Batches = Iterable[tuple[Tensor, Tensor]]
Progress = bool | Callable[[int], None]


def batches(images: Tensor, visible: Tensor, size: int) -> Batches:
    """Split masks (n, 1, *S), and images (n, C, *S) with them; one image (1, C, *S) goes with all of them."""
    masks = visible.to(images.device).split(size)
    return zip(images.split(size) if len(images) > 1 else [images] * len(masks), masks, strict=True)


def answers(
    removal: Callable[..., Any],
    asked: Batches,
    output: Output | Literal["raw"] = "logit",
    compared: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> Iterator[Tensor]:
    """Yield the answers (n, classes) to each of `batches`, where the model is, as they come.

    Raises:
        ModelError: they are not finite, or as `query` raises.
    """
    forward = query(removal, output, compared)
    for images, visible in asked:
        found = forward(images, visible)
        check_finite(found, images)
        yield found
        advance(len(visible))


def query(removal: Callable[..., Any], output: Output | Literal["raw"], compared: bool = False) -> Forward:
    """Return what asks a removal operator about one batch after the other of a query.

    Answers are probabilities or logits, float32, or with "raw" what the model gives, flattened. `compared`:
    the likeliest class counts, so that there have to be two.
    """

    query, notice = OneQuery(), _notice(removal)
    read = flat_scores if output == "raw" else compared_scores if compared else class_scores

    @torch.no_grad()
    def ask(images: Tensor, visible: Tensor) -> Tensor:
        notice()
        with query.about(images):
            found = read(removal(images, visible), len(visible))
        if output == "raw":
            return found
        if output == "logit":
            return found.float()
        if found.shape[1] < 2:
            raise InputError(
                'the model has one class, whose probability is always 1: explain its score, output="logit"'
            )
        return found.float().softmax(-1)

    return ask


def _notice(removal: Callable[..., Any]) -> Callable[[], None]:
    """The warning about training mode for a removal that does not give it by itself."""
    own = not isinstance(removal, nn.Module) or any(
        isinstance(getattr(m, "notice", None), TrainingNotice) for m in removal.modules()
    )
    return (lambda: None) if own else TrainingNotice(removal)  # type: ignore[arg-type]  # a module here


def unmasked(model: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    """Return the removal that removes nothing: the plain model."""
    return lambda images, visible: model(images)


def output_kind(name: str, value: Any) -> Output:
    """Return what of a model is explained."""
    return kinds.choice(name, value, ("probability", "logit"))


def check_finite(values: Tensor, images: Tensor) -> None:
    """Refuse answers (n, classes) to images (n or 1, C, *S) that hold NaN or infinity."""
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        odd = int(images.isinf().sum())
        advice = f"the images hold infinity {odd} times" if odd else "try float32, or another removal"
        raise ModelError(f"the model's scores are not finite for {bad} of {len(values)} masks: {advice}")


def progress(show: Progress, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Give `advance(done)`: a bar for True, the caller's own function, or silence."""
    if callable(show):
        return nullcontext(show)
    if not show:
        return nullcontext(lambda done: None)
    from layermask.io.progress import bar

    return bar(name, total)


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
        return torch.cat([scores(self.removal(*each)) for each in batches(images, visible, size)])
