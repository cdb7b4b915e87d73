"""MCal: an affine head on the answers of any removal operator, that corrects its missingness bias.

Sridhar, Xue and Wong, "Missingness Bias Calibration in Feature Attribution Explanations", ICLR 2026,
arXiv 2603.04831.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.arguments.numbers import MOST
from layermask.core.inputs import check_inputs
from layermask.errors import InputError, import_optional
from layermask.removal.query import Unmasked, answers, batches
from layermask.removal.reading import Reading

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

LARGEST_MATRIX = 50_000  # classes: W has 10 GB
CELLS = 14  # of random masks, per axis: 16 pixels of 224


class Calibrated(nn.Module):
    """The logits z of a removal operator, corrected to W z + b.

    The operator and its model stay as they are. W and b start as the identity; `fit` learns them. Law 1 is
    not kept: images with nothing hidden are corrected too, and get an answer close to the plain model's.
    The paper also learns one head for each of several shares of hidden pixels: fit one operator for each.

    Args:
        removal: any operator with a `.model`, `removal(images, visible) -> logits (N, classes)`.
        classes: how many logits there are.
        diagonal: let W be diagonal, 2 numbers per class to learn, for many classes and few images.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, removal: nn.Module, classes: int, *, diagonal: bool = False) -> None:
        super().__init__()
        diagonal = kinds.flag("diagonal", diagonal)
        classes = kinds.count("classes", classes, low=2, high=MOST if diagonal else LARGEST_MATRIX)
        kinds.removal("removal", removal)
        self.removal = kinds.model("removal", removal)
        self.training = removal.training
        like = next((p for p in removal.parameters() if p.is_floating_point()), torch.zeros(()))
        identity = torch.ones(classes) if diagonal else torch.eye(classes)
        self.register_buffer("weight", identity.to(like.device))
        self.register_buffer("bias", torch.zeros(classes, device=like.device))

    @property
    def model(self) -> Any:
        return self.removal.model

    @property
    def diagonal(self) -> bool:
        return self.weight.ndim == 1

    def forward(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Float[Tensor, "_ K"]:
        """Return the corrected logits (N, classes); arguments and errors are those of the operator."""
        logits = self._logits(self.removal(images, visible, *args, **kwargs))
        return _affine(logits, self.weight.to(logits.dtype), self.bias.to(logits.dtype))

    def _logits(self, output: Any) -> Tensor:
        if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == len(self.bias):
            return output
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"calibration of {len(self.bias)} classes takes logits (N, {len(self.bias)}), and the operator "
            f"returned {got}: make it for the classes of this model"
        )

    @checked(
        images=kinds.images,
        labels=kinds.optional(kinds.classes),
        targets=partial(kinds.choice, known=("class", "probabilities")),
        repeats=partial(kinds.count, high=10_000),
        penalty=partial(kinds.number, low=0),
        max_iter=kinds.count,
        batch_size=kinds.count,
        seed=kinds.seed,
        show_progress=kinds.optional(partial(kinds.function, inputs=1)),
    )
    def fit(
        self,
        images: Tensor,
        visible: Tensor | float | None = None,
        *,
        labels: Tensor | None = None,
        targets: Literal["class", "probabilities"] = "class",
        repeats: int = 1,
        penalty: float = 1e-3,
        max_iter: int = 200,
        batch_size: int = 32,
        seed: int = 0,
        show_progress: Callable[[int], None] | None = None,
    ) -> Calibrated:
        """Learn W and b so that answers to masked images match those to whole ones; return self.

        The loss is the mean cross-entropy of W z + b, for the logits z of masked images, against the class
        that the unmodified model predicts for the whole image, as in the paper. It is convex, and L-BFGS
        finds its minimum.

        Args:
            images: (N, C, *S).
            visible: masks (N or 1, 1, *S); or the share shown of random masks, from 0 to 1; None for a share
                drawn for each of them.
            labels: (N,) int64, to match in place of the model's predictions.
            targets: whether to match the predicted "class", as the paper does, or all "probabilities".
            repeats: random masks per image.
            penalty: weight of the squared distance of (W, b) from the identity, per class, in units of the
                logits' spread. Without one the minimum can be at infinity.
            max_iter: steps at most.
            batch_size: images per forward pass.
            seed: of random masks.
            show_progress: called with the number of images after each forward pass.

        Raises:
            InputError: arguments that do not fit; the message says which.
        """
        _check_labels(labels, len(images), len(self.bias))
        if not isinstance(visible, Tensor):
            images = images.repeat(repeats, *[1] * (images.ndim - 1))
            labels = labels if labels is None else labels.repeat(repeats)
            visible = _random_masks(images, visible, seed)
        visible = check_inputs(images, visible).expand(len(images), *visible.shape[1:])

        def ask(removal: Callable[..., Any], advance: Callable[[int], None] = lambda done: None) -> Tensor:
            asked = batches(images, visible, batch_size)
            found = answers(lambda *one: self._logits(removal(*one)), asked, "raw", advance=advance)
            return torch.cat([logits.double() for logits in found])

        logits = ask(self.removal, show_progress or (lambda done: None))
        if labels is None:
            whole = ask(Unmasked(self.model))
            wanted = whole.argmax(1) if targets == "class" else Reading(self.removal).activated(whole)
        else:
            wanted = labels.to(logits.device)
        weight, bias = best_affine(logits, wanted, self.diagonal, penalty, max_iter)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        return self

    def save(self, path: str | Path) -> None:
        """Write W and b as safetensors."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        import_optional("safetensors.torch", "timm").save_file(tensors, str(kinds.path("path", path)))

    @classmethod
    @checked(path=kinds.path, removal=kinds.removal, classes=kinds.optional(kinds.count))
    def load(cls, path: str | Path, removal: nn.Module, classes: int | None = None) -> Calibrated:
        """Return the operator `removal` with the calibration that `save` wrote.

        Raises:
            InputError: the file is missing, holds no calibration, or one for other than `classes` classes.
        """
        weight, bias = _read(path)
        if classes is not None and len(bias) != classes:
            raise InputError(f"{path} calibrates {len(bias)} classes, and the model has {classes}")
        found = cls(removal, len(bias), diagonal=weight.ndim == 1)
        found.weight.copy_(weight)
        found.bias.copy_(bias)
        return found

    def extra_repr(self) -> str:
        return f"classes={len(self.bias)}, diagonal={self.diagonal}"


@torch.enable_grad()
def best_affine(
    logits: Tensor, goals: Tensor, diagonal: bool, penalty: float, max_iter: int = 200
) -> tuple[Tensor, Tensor]:
    """Return W, (K, K) or its diagonal (K,), and b (K,) of the least cross-entropy with `goals`.

    `logits` (N, K). `goals`: classes (N,) or probabilities (N, K). See `Calibrated.fit` for the rest.
    """
    # Centred and of one scale, as suits L-BFGS: W z + b = weight y + bias for y = (z - mean) / scale.
    mean, scale = logits.mean(0), logits.std(correction=0).clamp(min=1e-6)
    y = (logits - mean) / scale
    identity = scale * (torch.ones_like(mean) if diagonal else torch.eye(len(mean)).to(mean))
    weight, bias = (x.clone().requires_grad_() for x in (identity, mean))
    steps = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        steps.zero_grad()
        drift = (weight - identity).square().sum() + (bias - mean).square().sum()
        total = F.cross_entropy(_affine(y, weight, bias), goals) + penalty * drift / len(mean)
        total.backward()
        return total

    steps.step(loss)
    found = weight.detach() / scale
    return found, bias.detach() - _affine(mean[None], found, torch.zeros_like(mean))[0]


def _affine(logits: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return logits * weight + bias if weight.ndim == 1 else F.linear(logits, weight, bias)


def _random_masks(images: Tensor, shown: float | None, seed: int) -> Tensor:
    """One mask per image, of cells that are shown at random, up to `CELLS` of them per axis."""
    if shown is not None:
        shown = kinds.number("visible", shown, low=0, high=1)
    generator = torch.Generator().manual_seed(seed)
    size = images.shape[2:]
    grid = torch.rand(len(images), 1, *(min(CELLS, length) for length in size), generator=generator)
    shares = (
        torch.rand(len(images), generator=generator) if shown is None else torch.full((len(images),), shown)
    )
    masks = (grid < shares.view(-1, 1, *[1] * len(size))).float()
    return F.interpolate(masks, size=tuple(size)).bool().to(images.device)


def _check_labels(labels: Tensor | None, images: int, classes: int) -> None:
    if labels is None:
        return
    kinds.classes("labels", labels, classes)
    if labels.dtype != torch.int64 or tuple(labels.shape) != (images,):
        raise InputError(
            f"labels must be int64 of shape ({images},), not {labels.dtype} of {tuple(labels.shape)}"
        )


def _read(path: str | Path) -> tuple[Tensor, Tensor]:
    package = import_optional("safetensors", "timm")
    load_file = import_optional("safetensors.torch", "timm").load_file
    try:
        tensors = load_file(str(path))
    except (OSError, package.SafetensorError) as error:
        raise InputError(f"{path} is not a readable calibration: {str(error).splitlines()[0]}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    weight, bias = shapes.get("weight", ()), shapes.get("bias", ())
    if set(shapes) != {"weight", "bias"} or len(bias) != 1 or weight not in (bias, bias * 2):
        raise InputError(
            f"{path} holds {shapes}, and a calibration holds weight (K, K) or (K,) and bias (K,)"
        )
    return tensors["weight"], tensors["bias"]
