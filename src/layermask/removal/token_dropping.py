"""Token dropping: a vision transformer that is given the tokens of visible patches only."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask._private_torch import is_readable
from layermask.arguments import kinds
from layermask.core.inputs import check_inputs
from layermask.core.masked import Masked
from layermask.errors import ModelError
from layermask.removal.layer_masking import LayerMasking
from layermask.zoo.outputs import scores

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

_PATCHES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class TokenDropping(nn.Module):
    """Drop the tokens of hidden patches (Jain et al. 2022); the model is neither copied nor changed.

    Tokens are dropped before the first block, after positions are added, when all images of a batch keep
    equally many; otherwise, or if the model's blocks know where each token lies (relative positions, say),
    hidden tokens stay as keys that get no weight, which is the same to rounding. The first batch whose
    tokens are dropped is run both ways to see that it is.

    Args:
        model: a vision transformer, whose first convolution cuts the image into patches.
        keep: which tokens of partly hidden patches stay: of patches with "all" pixels visible (the paper's
            released code), or with "any", whose hidden pixels are then filled from their neighbours.

    Raises:
        ModelError: the model does not begin with patches.
    """

    def __init__(self, model: nn.Module, keep: Literal["all", "any"] = "all") -> None:
        super().__init__()
        self.model = kinds.model("model", model)
        self.keep = kinds.choice("keep", keep, ("all", "any"))
        self.training = model.training
        self.patch = _patch(model)
        self.masking = LayerMasking(model, engine="dense")
        self.drops: bool | None = None  # None: not tried yet
        self._entrances = list(_entrances(model))

    def forward(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """The output for images (N, C, *S) and visible (N or 1, 1, *S); see `LayerMasking.forward`."""
        visible = self._whole_patches(check_inputs(images, visible))
        # with no patch at all, a mean over patches has nothing to be taken over
        if self.drops is False or not is_readable(visible) or not bool(visible.any()):
            return self.masking.answer(images, visible, *args, **kwargs)
        if self.drops:
            with _dropping(self._entrances, []):
                return self.masking.answer(images, visible, *args, **kwargs)
        if self.masking.notice.applies():  # random answers tell nothing
            return self.masking.answer(images, visible, *args, **kwargs)
        return self._tried(images, visible, args, kwargs)

    def _whole_patches(self, visible: Tensor) -> Tensor:
        """Hide what is visible of partly hidden patches."""
        size = tuple(visible.shape[2:])
        if self.keep == "any" or any(n % p for n, p in zip(size, self.patch, strict=True)):
            return visible  # a model that takes other sizes pads or cuts them itself
        hidden = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(size) - 1]((~visible).float(), self.patch) > 0
        for axis, repeats in enumerate(self.patch, 2):
            hidden = hidden.repeat_interleave(repeats, axis)
        return ~hidden

    def _tried(self, images: Tensor, visible: Tensor, args: tuple, kwargs: dict) -> Any:
        """Answer with masked keys, and see whether dropping gives the same."""
        masked = self.masking.answer(images, visible, *args, **kwargs)
        happened: list[int] = []
        try:
            with _dropping(self._entrances, happened), torch.no_grad():
                dropped = self.masking.answer(images, visible, *args, **kwargs)
            same = _close(dropped, masked)
        except (RuntimeError, ValueError, AssertionError, IndexError):  # its blocks know how many there are
            same = False
        if not same and not self._repeats(masked, images, visible, args, kwargs):
            return masked
        if happened or not same:
            self.drops = bool(happened) and same
        if self.drops is False:
            warnings.warn(
                f"the blocks of this {type(self.model).__name__} depend on where each token lies: hidden "
                "tokens are masked as keys instead of dropped, which is slower and not less exact.",
                stacklevel=4,
            )
        return masked

    def _repeats(self, masked: Any, images: Tensor, visible: Tensor, args: tuple, kwargs: dict) -> bool:
        """Whether the model gives the same answer twice; one that draws at random tells nothing."""
        with torch.no_grad():
            return _close(self.masking.answer(images, visible, *args, **kwargs), masked)

    def extra_repr(self) -> str:
        return f"keep={self.keep!r}"


def _patch(model: nn.Module) -> tuple[int, ...]:
    """The size of the patches that the first convolution cuts the image into."""
    first = next((m for m in model.modules() if isinstance(m, _PATCHES)), None)
    if first is None or first.kernel_size != first.stride or max(first.kernel_size) == 1:
        raise ModelError(
            f"this {type(model).__name__} does not begin with a convolution that cuts the image into "
            "patches: it has no tokens to drop (tokendrop), use LayerMasking"
        )
    return first.kernel_size


def _entrances(model: nn.Module) -> Iterator[nn.Module]:
    """The first of every row of alike modules, where the blocks of a transformer begin."""
    for module in model.modules():
        children = list(module.children())
        alike = isinstance(module, (nn.ModuleList, nn.Sequential)) and len({*map(type, children)}) == 1
        if alike and any(children[0].children()):
            yield children[0]


@contextlib.contextmanager
def _dropping(entrances: list[nn.Module], happened: list[int]) -> Iterator[None]:
    """Within the block, tokens are dropped where they enter the first of the blocks."""

    def drop(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        key = None if args else next((k for k, v in kwargs.items() if isinstance(v, Masked)), None)
        tokens = args[0] if args else kwargs.get(key or "")
        if not isinstance(tokens, Masked) or (plain := _visible_tokens(tokens)) is None:
            return None
        happened.append(plain.shape[1])
        return (args, {**kwargs, key: plain}) if key else ((plain, *args[1:]), kwargs)

    handles = [m.register_forward_pre_hook(drop, with_kwargs=True) for m in entrances]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _visible_tokens(tokens: Masked) -> Tensor | None:
    """The visible tokens (N, K, D) of (N, L, D), if all rows have equally many."""
    if tokens.value.ndim != 3 or tokens.visible.shape[2] != 1 or tokens.visible.shape[1] == 1:
        return None
    batch, _, width = tokens.value.shape
    shown = tokens.visible[..., 0].expand(batch, -1)
    counts = shown.sum(1)
    if not bool((counts == counts[0]).all()):
        return None
    return tokens.value if bool(shown.all()) else tokens.value[shown].view(batch, -1, width)


def _close(a: Any, b: Any, tolerance: float = 1e-3) -> bool:
    a, b = scores(a), scores(b)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))
