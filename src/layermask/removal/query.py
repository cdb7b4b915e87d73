"""Asking a removal operator, the one way for all: batches, checks of what comes back, progress, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layermask.core.inputs import OneQuery
from layermask.errors import InputError, ModelError, out_of_memory
from layermask.removal.reading import Output, Reading, takes
from layermask.removal.targets import Read, values
from layermask.removal.training import TrainingNotice
from layermask.zoo.outputs import flat_scores, scores

Forward = Callable[..., Tensor]  # images (n or 1, C, *S), visible (n, 1, *S), more inputs -> (n, numbers)
Batches = Iterable[tuple[Any, ...]]  # images, visible, more inputs
ProgressCallback = bool | Callable[[int], None]


def batches(images: Tensor, visible: Tensor, size: int, more: Sequence[Any] = ()) -> Batches:
    """Split masks (n, 1, *S), and images (n, C, *S) with them; one image (1, C, *S) goes with all of them.

    `more`: other inputs of the model; tensors (n, ...) are split with the masks.
    """
    masks = visible.to(images.device).split(size)
    shared = [images] * len(masks) if len(images) == 1 else images.split(size)
    others = [
        each.split(size) if isinstance(each, Tensor) and each.ndim else [each] * len(masks) for each in more
    ]
    return zip(shared, masks, *others, strict=True)


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
    return asking(query(removal, output, compared), asked, advance)


def asking(
    forward: Forward, asked: Batches, advance: Callable[[int], None] = lambda done: None
) -> Iterator[Tensor]:
    """Yield the answers of a `query` to each of `batches`; see `answers`."""
    for images, visible, *more in asked:
        found = forward(images, visible, *more)
        check_finite(found, images)
        yield found
        advance(len(visible))


def query(
    removal: Callable[..., Any],
    output: Output | Literal["raw"],
    compared: bool = False,
    targets: Sequence[Read] = (),
) -> Forward:
    """Return what asks a removal operator about one batch after the other of a query.

    Answers are (n, K) float32 as `output` has them, or with "raw" what the model gives, flattened.
    `compared`: the likeliest class counts, so that there have to be two. `targets`: a column for each of
    them, in place of one for each class.
    """
    query, notice = OneQuery(), _notice(removal)
    reading = Reading(removal, "logit" if output == "raw" else output, compared)

    @torch.no_grad()
    def ask(images: Tensor, visible: Tensor, *more: Any) -> Tensor:
        notice()
        with query.about(images):
            answer = removal(images, visible, *more)
        if targets:
            return values(targets, answer, len(visible), reading)
        return (flat_scores if output == "raw" else reading.table)(answer, len(visible))

    return ask


def _notice(removal: Callable[..., Any]) -> Callable[[], None]:
    """The warning about training mode for a removal that does not give it by itself."""
    own = not isinstance(removal, nn.Module) or any(
        isinstance(getattr(m, "notice", None), TrainingNotice) for m in removal.modules()
    )
    return (lambda: None) if own else TrainingNotice(removal)  # type: ignore[arg-type]  # a module here


def extra_inputs(given: Any, n_images: int, removal: Callable[..., Any]) -> tuple[Any, ...]:
    """Return what a model takes besides its images, tensors (N, ...); captum's `additional_forward_args`.

    Raises:
        InputError: the model takes fewer inputs, or a tensor is for another number of images.
    """
    more = given if isinstance(given, tuple) else () if given is None else (given,)
    if more and not takes(removal, len(more)):
        raise InputError(
            f"additional_forward_args holds {len(more)} inputs, and the model does not take so many: leave "
            "it out, or give those of its forward, without the images"
        )
    sizes = [len(each) for each in more if isinstance(each, Tensor) and each.ndim]
    if odd := [size for size in sizes if size not in (1, n_images)]:
        raise InputError(
            f"additional_forward_args holds a tensor of {odd[0]} rows for {n_images} images: give one row "
            "for each image, or one for all"
        )
    return tuple(
        each.expand(n_images, *each.shape[1:]) if isinstance(each, Tensor) and each.ndim else each
        for each in more
    )


class Unmasked:
    """The removal that removes nothing: the plain model."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, images: Tensor, visible: Tensor, *more: Any) -> Any:
        return self.model(images, *more)


def check_finite(values: Tensor, images: Tensor | None = None) -> None:
    """Refuse answers (n, classes) to images (n or 1, C, *S) that hold NaN or infinity."""
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        odd = 0 if images is None else int(images.isinf().sum())
        advice = f"the images hold infinity {odd} times" if odd else "try float32, or another removal"
        raise ModelError(f"the model's scores are not finite for {bad} of {len(values)} masks: {advice}")


def progress(show: ProgressCallback, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
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

    def __call__(self, images: Tensor, visible: Tensor, *more: Any) -> Any:
        """Return the answers to images (n or 1, C, *S) under visible (n, 1, *S); `more` as in `batches`."""
        while True:
            size = min(len(visible), self.limit or len(visible))
            try:
                return self._in_parts(images, visible, size, more)
            except (RuntimeError, MemoryError) as error:  # handled below: its traceback holds the tensors
                if size == 1 or not out_of_memory(error):
                    raise
            self.limit = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.say(f"out of memory: retrying with at most {self.limit} masks per forward pass")

    def _in_parts(self, images: Tensor, visible: Tensor, size: int, more: Sequence[Any]) -> Any:
        if size == len(visible):
            return self.removal(images, visible, *more)
        return _joined([self.removal(*each) for each in batches(images, visible, size, more)])


def _joined(parts: Sequence[Any]) -> Any:
    """Return the answers to parts of a batch as one: tensors, lists of pictures, and structures of them."""
    first: Any = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([*parts])
    if isinstance(first, Mapping):
        return type(first)(**{key: _joined([part[key] for part in parts]) for key in first})
    if isinstance(first, (list, tuple)) and all(isinstance(each, Mapping) for each in first):
        return [each for part in parts for each in part]  # a detector's, one for each picture
    if isinstance(first, (list, tuple)):
        return tuple(_joined(column) for column in zip(*parts, strict=True))
    return torch.cat([scores(part) for part in parts])
