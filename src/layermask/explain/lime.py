"""LIME: a linear surrogate of the model around one picture, fitted on random subsets of its segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.explain.attribution import Attribution
from layermask.explain.ridge import ridge
from layermask.segment import relabel

Target = int | Sequence[int] | None
Progress = bool | Callable[[int], None]


@dataclass(frozen=True)
class Lime:
    """Explain what `removal(images, visible) -> logits` answers (ribeiro2016), as the package lime 0.2 does.

    Rows of segments shown or hidden are drawn with `seed`, the same for every removal, row 0 showing all.
    They are weighted by exp(-d²/kernel_width²)^½, d their cosine distance to row 0; the surrogate is a ridge
    regression with penalty `alpha`. Memory follows `batch_size`, the number of rows in one forward pass.
    `output`: what of the model is explained.
    """

    removal: Callable[..., Any]
    n_samples: int = 1000
    kernel_width: float = 0.25
    alpha: float = 1.0
    seed: int = 0
    batch_size: int = 32
    output: Literal["probability", "logit"] = "probability"

    def __post_init__(self):
        for name in ("n_samples", "kernel_width", "alpha", "batch_size"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}: give a number above 0")

    def attribute(
        self, image: Tensor, target: Target = None, feature_mask: Any = None, show_progress: Progress = False
    ) -> Attribution:
        """Explain one image (1, C, H, W) over its segments, `feature_mask` (H, W) integers.

        `target`: class or classes; by default the two that the model finds most likely. `show_progress`: True
        for a bar, or a function to call with the number of rows just done.
        """
        if image.ndim != 4 or len(image) != 1:
            raise InputError(
                f"expected one image (1, C, H, W), got {tuple(image.shape)}: use attribute_batch"
            )
        return self.attribute_batch(image, [target], [feature_mask], show_progress)[0]

    def attribute_batch(
        self,
        images: Tensor,
        targets: Sequence[Target] | None = None,
        feature_masks: Sequence[Any] = (),
        show_progress: Progress = False,
    ) -> list[Attribution]:
        """Explain images (N, C, H, W), each over its own segments; a forward pass may span several images."""
        segments = self._segments(images, feature_masks)
        classes = self._targets(images, targets or [None] * len(images))
        rows = [self.rows(int(labels.max()) + 1) for labels in segments]
        outputs: list[list[Tensor]] = [[] for _ in rows]
        with _progress(show_progress, self.n_samples * len(images)) as advance:
            for parts in self._batches(len(images)):
                for (index, _, _), out in zip(
                    parts, self._forward(images, segments, rows, parts), strict=True
                ):
                    outputs[index].append(_pick(out, classes[index]))
                advance(sum(stop - start for _, start, stop in parts))
        found = zip(segments, classes, rows, outputs, strict=True)
        return [self._fit(a, b, c, torch.cat(d).cpu()) for a, b, c, d in found]

    def rows(self, n_segments: int) -> Tensor:
        """Return the (n_samples, n_segments) bool rows, True = shown: they depend on seed and sizes only."""
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU, so that all devices agree
        rows = torch.randint(
            0, 2, (self.n_samples, n_segments), generator=generator, dtype=torch.uint8
        ).bool()
        rows[0] = True
        return rows

    def weights(self, rows: Tensor) -> Tensor:
        """Return the (n_samples,) float64 weights of bool rows."""
        # The cosine of a 0/1 row with the row of ones is the root of its share of ones.
        distance = 1 - rows.double().mean(1).sqrt()
        return (-(distance**2) / self.kernel_width**2).exp().sqrt()

    def _segments(self, images: Tensor, feature_masks: Sequence[Any]) -> list[Tensor]:
        if images.ndim != 4 or not images.is_floating_point():
            raise InputError(f"images are float (N, C, H, W), got {images.dtype} of {tuple(images.shape)}")
        if len(feature_masks) != len(images) or any(mask is None for mask in feature_masks):
            raise InputError(
                f"give one feature_mask (H, W) of segment numbers for each of {len(images)} images"
            )
        segments = [relabel(mask) for mask in feature_masks]
        for labels in segments:
            if labels.shape != images.shape[2:]:
                shapes = f"{tuple(labels.shape)} and the image {tuple(images.shape[2:])}"
                raise InputError(
                    f"feature_mask is {shapes}: segment what the model sees, the preprocessed image"
                )
        return segments

    def _targets(self, images: Tensor, targets: Sequence[Target]) -> list[list[int]]:
        if len(targets) != len(images):
            raise InputError(
                f"{len(targets)} targets for {len(images)} images: give one, or a list, for each"
            )
        return [self._target(image, target) for image, target in zip(images.split(1), targets, strict=True)]

    def _target(self, image: Tensor, target: Target) -> list[int]:
        if target is None:
            shown = torch.ones_like(image[:, :1], dtype=torch.bool)
            answer = self._answer(image, shown)
            return answer.topk(min(2, answer.shape[1])).indices[0].tolist()
        return [target] if isinstance(target, int) else [int(index) for index in target]

    def _batches(self, n_images: int) -> Iterator[list[tuple[int, int, int]]]:
        """Yield batches of (image, first row, end row) that hold `batch_size` rows together."""
        for start in range(0, n_images * self.n_samples, self.batch_size):
            stop = min(start + self.batch_size, n_images * self.n_samples)
            first, last = start // self.n_samples, (stop - 1) // self.n_samples
            edges = [(index, index * self.n_samples) for index in range(first, last + 1)]
            yield [(index, max(start - zero, 0), min(stop - zero, self.n_samples)) for index, zero in edges]

    def _forward(self, images, segments, rows, parts) -> tuple[Tensor, ...]:
        """Return the (rows, classes) outputs of each part of one batch."""
        visible = [
            _show(rows[index][start:stop], segments[index], images.device) for index, start, stop in parts
        ]
        # One image stays one: the operator expands it, and no copy per mask is made here.
        shown = images[parts[0][0]][None] if len(parts) == 1 else _spread(images, parts)
        answer = self._answer(shown, torch.cat(visible))
        return answer.split([stop - start for _, start, stop in parts])

    @torch.no_grad()
    def _answer(self, images: Tensor, visible: Tensor) -> Tensor:
        output = self.removal(images.expand(len(visible), -1, -1, -1), visible)
        logits = getattr(output, "logits", output).float()  # Hugging Face models wrap theirs
        return logits.softmax(-1) if self.output == "probability" else logits

    def _fit(self, segments: Tensor, targets: list[int], rows: Tensor, outputs: Tensor) -> Attribution:
        fit = ridge(rows.double(), outputs, self.weights(rows), self.alpha)
        settings = {key: value for key, value in self.__dict__.items() if key != "removal"}
        return Attribution(
            scores=fit.coefficients,
            segments=segments.cpu(),
            targets=tuple(targets),
            prediction=outputs[0],
            intercept=fit.intercept,
            r2=fit.r2,
            settings=settings,
        )


def _show(rows: Tensor, segments: Tensor, device: torch.device) -> Tensor:
    """Return the (rows, 1, H, W) bool masks in which the segments of each row are visible."""
    return rows.to(device)[:, segments.to(device)][:, None]


def _pick(outputs: Tensor, classes: list[int]) -> Tensor:
    """Return the float64 columns of the classes; a GPU's own index error would end the process."""
    if not all(0 <= index < outputs.shape[1] for index in classes):
        raise InputError(f"targets {classes}: the model has the classes 0 to {outputs.shape[1] - 1}")
    return outputs[:, classes].double()


def _spread(images: Tensor, parts: list[tuple[int, int, int]]) -> Tensor:
    index = [image for image, start, stop in parts for _ in range(start, stop)]
    return images[torch.tensor(index, device=images.device)]


def _progress(show: Progress, total: int) -> AbstractContextManager[Callable[[int], None]]:
    if callable(show):
        return nullcontext(show)
    if not show:
        return nullcontext(lambda done: None)
    from layermask.progress import bar

    return bar("LIME", total)
