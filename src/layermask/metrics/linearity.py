"""Linearity: is the answer to the whole image the sum of the answers to its patches (paper's supplement)?

An operator that leaves the rest of the image truly out comes nearer to it than one that shows a model mostly
grey. Measured on logits, or on features with `headless(model)` under the removal operator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.arguments.refusal import shown
from layermask.errors import InputError
from layermask.removal.query import ProgressCallback, answers, progress
from layermask.segment.segmenters import Grid

EPS = 1e-8


@dataclass(frozen=True)
class Linearity:
    """Per image (N,) float64: `l2`, ‖Σ − f(all)‖ / (‖f(all)‖ + 1e-8); `cosine` of Σ and f(all); `norm` of Σ
    and `whole_norm` of f(all). Σ is the sum over patches of the answer to that patch alone.
    """

    l2: Tensor
    cosine: Tensor
    norm: Tensor
    whole_norm: Tensor


@checked(total=partial(kinds.values, ndim=2), whole=partial(kinds.values, ndim=2))
def linearity(total: Tensor, whole: Tensor) -> Linearity:
    """Compare summed answers to patches with those to whole images, both (N, D)."""
    if total.shape != whole.shape:
        raise InputError(
            f"sums {tuple(total.shape)} and whole answers {tuple(whole.shape)}: give both as (N, D)"
        )
    total, whole = total.double(), whole.double()
    return Linearity(
        l2=(total - whole).norm(dim=1) / (whole.norm(dim=1) + EPS),
        cosine=cosine_similarity(total, whole, dim=1, eps=EPS),
        norm=total.norm(dim=1),
        whole_norm=whole.norm(dim=1),
    )


@checked(
    removal=kinds.removal,
    images=kinds.images,
    patch=kinds.sizes,
    perturbations_per_eval=kinds.count,
    show_progress=kinds.progress,
)
def measure_linearity(
    removal: Callable[..., Any],
    images: Tensor,
    patch: int | tuple[int, ...] = 16,
    *,
    perturbations_per_eval: int = 32,
    show_progress: ProgressCallback = False,
) -> Linearity:
    """Ask about each patch of `patch` pixels alone and about all of images (N, C, *S).

    Answers are summed as they come, so memory follows `perturbations_per_eval`, not the number of patches.
    """
    labels = Grid(patch).labels(tuple(images.shape[2:])).to(images.device)
    count, found = int(labels.max()) + 1, []
    with progress(show_progress, "linearity", len(images) * (count + 1)) as advance:
        for image in images.split(1):
            masks = _whole_and_patches(labels, count, perturbations_per_eval)
            asked = zip(repeat(image), masks, strict=False)
            each = (answer.double().sum(0) for answer in answers(removal, asked, "raw", advance=advance))
            whole = next(each)
            total = sum(each, torch.zeros_like(whole))
            found.append(torch.stack([total, whole]).cpu())
    return linearity(*torch.stack(found, 1))


def _whole_and_patches(labels: Tensor, count: int, size: int) -> Iterator[Tensor]:
    """Yield the mask that shows all of labels (*S), then those that show one patch, `size` at a time."""
    yield torch.ones_like(labels, dtype=torch.bool)[None, None]
    for numbers in torch.arange(count, device=labels.device).split(size):
        yield labels == numbers.view(-1, 1, *[1] * labels.ndim)


@checked(model=kinds.model, head=kinds.optional(kinds.text))
def headless(model: nn.Module, head: str | None = None) -> nn.Module:
    """Return the model without its head, which answers with the head's input: features (N, D).

    A copy that shares every weight; `model` itself stays as it is. `head` is the name of the head, as in
    `named_modules`; by default the last `nn.Linear`.

    Raises:
        InputError: there is no such head.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    name = head or (linear[-1] if linear else "")
    if not name or name not in dict(model.named_modules()):
        raise InputError(
            f"the model has no head {shown(head)}"
            if head
            else "the model has no nn.Linear: give head, a module's name"
        )
    return _without(model, name.split("."))


def _without(module: nn.Module, path: list[str]) -> nn.Module:
    """Copy the modules on the path only, and put Identity at its end."""
    shallow = copy.copy(module)
    shallow._modules = dict(module._modules)
    child = module.get_submodule(path[0])
    shallow._modules[path[0]] = _without(child, path[1:]) if path[1:] else nn.Identity()
    return shallow
