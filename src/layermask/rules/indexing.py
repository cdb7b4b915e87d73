"""Reading and writing by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.call_site import module_path, user_line
from layermask.core.mask import narrow
from layermask.core.masked import Masked, determined, masked_in, replace_masked, same_mask, zero_hidden
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule
from layermask.rules.overwrite import overwrite
from layermask.rules.shape import moved

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped


@rule(Tensor.__getitem__)
def getitem(input: Any, index: Any) -> Any:
    """Slices of a grid with a step are phases of it, which space-to-depth layers lay side by side."""
    index = replace_masked(index, _decided)
    if masked_in(index):
        return _looked_up(input, index)
    value = input.value[index]
    out = moved(input, value, lambda m: _read(m, index, input.value.shape))
    parts = index if isinstance(index, tuple) else (index,)
    out.strided_slice = any(isinstance(p, slice) and p.step not in (None, 1) for p in parts)
    return out


def _decided(x: Masked) -> Any:
    """What says which images are meant (SmolVLM leaves out empty ones) does not rest on hidden content."""
    return x.value if determined(x, ()) and x.value.dtype is torch.bool else x


def _written_value(x: Masked) -> Tensor:
    decided = _decided(x)
    return zero_hidden(x) if decided is x else decided


def _looked_up(table: Any, index: Any) -> Masked:
    """Rows of a plain table, as the vectors of a codebook, hidden where the index is."""
    if isinstance(table, Masked) or not isinstance(index, Masked) or index.value.dtype not in _WHOLE:
        raise NoMaskRule("torch.Tensor.__getitem__", module_path(), user_line(), _INDEX, _NO_INDEX)
    value = table[zero_hidden(index)]
    return Masked(value, index.visible.reshape(index.visible.shape + (1,) * (table.ndim - 1)))


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8)  # torch takes uint8 for a mask
_INDEX = "Its index is masked: which entries it means may be hidden."
_NO_INDEX = "Use torch.where, F.one_hot and a product, or decide on .value and .visible."


@rule(F.embedding)
def embedding(
    input: Int[Masked, "*S"], weight: Shaped[Tensor, "K D"], *options: Any, **more: Any
) -> Shaped[Masked, "*S D"]:
    return Masked(F.embedding(zero_hidden(input), weight, *options, **more), input.visible[..., None])


@rule(F.one_hot)
def one_hot(tensor: Int[Masked, "*S"], num_classes: int = -1) -> Int[Masked, "*S {num_classes}"]:
    if num_classes < 0:
        why = "How many classes there are would rest on hidden entries: give num_classes."
        raise NoMaskRule("torch.nn.functional.one_hot", module_path(), user_line(), why)
    return Masked(F.one_hot(zero_hidden(tensor), num_classes), tensor.visible[..., None])


@rule(Tensor.__setitem__)
def setitem(input: Masked, index: Any, value: Any) -> None:
    """The target keeps its storage where it can; the entries written take the mask of what is written."""
    if masked_in(index):
        return _set_where(input, index, value)
    # hidden content stays out of storage that something else may call visible
    new = _written_value(value) if isinstance(value, Masked) else value
    marks = (value.visible, value.is_padding) if isinstance(value, Masked) else (None, None)
    shape = input.value.shape
    visible = _written(input.visible, index, shape, marks[0], True)
    is_padding = (
        None if input.is_padding is None else _written(input.is_padding, index, shape, marks[1], False)
    )
    input.value[index] = new
    input.visible, input.is_padding = visible, is_padding


def _set_where(target: Masked, condition: Any, value: Any) -> None:
    """`y[y < 0] = 0`: one number where a condition of the value's own shape holds."""
    single = not isinstance(value, (Tensor, Sequence)) or (isinstance(value, Tensor) and value.numel() == 1)
    mine = isinstance(condition, Masked) and condition.dtype is torch.bool
    if not (mine and single and condition.shape == target.shape):
        raise NoMaskRule("torch.Tensor.__setitem__", module_path(), user_line(), _INDEX, _NO_INDEX)
    if isinstance(value, Tensor):
        value = value.reshape(()).to(target.value)
    where: Any = torch.where  # which dispatches
    out = where(condition, value, target).to(target.dtype)
    overwrite(target, zero_hidden(out), out)


def _written(mask: Tensor, index: Any, shape: Sequence[int], new: Tensor | None, plain: bool) -> Tensor:
    """The mask after a write; what was read of it and is written back leaves it as it is."""
    if new is not None and _read(mask, index, shape) is new:
        return mask
    out = mask.expand(shape).clone()
    out[index] = plain if new is None else new
    return out


def _read(mask: Tensor, index: Any, shape: Sequence[int]) -> Tensor:
    """The mask of what an index reads, still of size 1 along axes along which the mask does not vary.

    There index tensors are replaced by zeros, as many axes as they have together.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(p is True or p is False for p in parts):
        return narrow(mask.expand(shape)[index])
    parts = [torch.as_tensor(p, device=mask.device) if _is_array(p) else p for p in parts]
    parts = [each for p in parts for each in _positions(p)]
    spread = len(shape) - sum(p is not None and p is not Ellipsis for p in parts)
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    parts[at : at + 1] = [slice(None)] * spread
    single = [1] * max((p.ndim for p in parts if isinstance(p, Tensor)), default=0)
    axes = iter(range(len(shape)))
    taken = [None if p is None else _of_axis(p, mask.shape[next(axes)], single, mask) for p in parts]
    whole = all(isinstance(p, slice) and p == slice(None) for p in taken)
    return mask if whole else mask[tuple(taken)]


def _is_array(part: Any) -> bool:
    return isinstance(part, (list, range)) or type(part).__module__ == "numpy"


def _positions(part: Any) -> tuple:
    """A boolean index as the index tensors it stands for, one per axis."""
    boolean = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
    return part.nonzero(as_tuple=True) if boolean else (part,)


def _of_axis(part: Any, size: int, single: list[int], mask: Tensor) -> Any:
    """The part of an index that reads the mask along one axis, all of it if the mask does not vary there."""
    if size != 1:
        return part
    if isinstance(part, Tensor):
        return torch.zeros(single, dtype=torch.long, device=mask.device)
    return slice(None) if isinstance(part, slice) else 0


def _by_axis(input: Masked, dim: int, read: Any) -> Masked:
    """Reads along one axis: masks that do not vary along it stay as they are."""
    return moved(input, read(input.value), lambda m: m if m.ndim == 0 or m.shape[dim] == 1 else read(m))


@rule(torch.index_select, Tensor.index_select)
def index_select(input: Masked, dim: int, index: Int[Tensor, "*L"]) -> Masked:
    return _by_axis(input, dim, lambda t: t.index_select(dim, index))


@rule(torch.gather, Tensor.gather)
def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Masked:
    """Hidden where the entry or its place is."""
    if isinstance(index, Masked):
        shown: Any = same_mask(index, torch.ones_like(index.value, dtype=torch.bool))
        return torch.where(shown, input.gather(dim, zero_hidden(index)), 0)  # type: ignore[return-value]
    value = input.value.gather(dim, index)
    return moved(input, value, lambda m: _gathered(m, dim, index, input.value.shape))


def _gathered(mask: Tensor, dim: int, index: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask of what was gathered; along an axis on which it does not vary, there is nothing to gather."""
    if mask.ndim != index.ndim or mask.ndim == 0 or mask.shape[dim] != 1:
        return mask.expand(shape).gather(dim, index)
    return mask[tuple(slice(min(m, n)) for m, n in zip(mask.shape, index.shape, strict=True))]


@rule(torch.take_along_dim, Tensor.take_along_dim)
def take_along_dim(input: Any, indices: Tensor, dim: int | None = None) -> Masked:
    if not isinstance(input, Masked) or isinstance(indices, Masked):
        raise NoMaskRule("torch.take_along_dim", why="Its indices must be plain.")
    if dim is None:
        input, indices, dim = input.flatten(), indices.flatten(), 0
    value = input.value.take_along_dim(indices, dim)
    return moved(input, value, lambda m: m.expand(input.value.shape).take_along_dim(indices, dim))


@rule(torch.tril, Tensor.tril)
def tril(input: Shaped[Masked, "*B M N"], diagonal: int = 0) -> Shaped[Masked, "*B M N"]:
    return Masked(input.value.tril(diagonal), input.visible)


@rule(torch.triu, Tensor.triu)
def triu(input: Shaped[Masked, "*B M N"], diagonal: int = 0) -> Shaped[Masked, "*B M N"]:
    return Masked(input.value.triu(diagonal), input.visible)
