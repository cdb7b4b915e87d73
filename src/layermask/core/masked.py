"""The pair (value, visible) that flows through an untouched model.

`Masked` implements `__torch_function__`: every torch function called on it is looked up, by function
object, in a table of rules (`rule_table.RULES`). A rule takes the torch function's own parameters, any of
which may be `Masked`, and returns `Masked` again. Rules sit above autograd, so they are differentiated as
they stand. The idea is that of JAX's batching rules and of quax; the semantics are those of layer masking
(Balasubramanian & Feizi, ICCV 2023, section 3.2).

Models, hooks and libraries ask `isinstance(x, torch.Tensor)`, and compiled code then reads the memory of `x`.
So what is made is a real tensor, `MaskedTensor`, that has no memory: code that reads it below the rules comes
to `__torch_dispatch__`, which refuses. `is_plain` tells other tensors from it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from torch import Tensor

from layermask._private_torch import is_readable, without_memory
from layermask.core.forward_pass import ForwardPass
from layermask.core.settings import DEFAULTS, Settings
from layermask.io.notebook import card, masked_map

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped

_Kind = TypeVar("_Kind", bound="Masked")
_PICTURES = 4  # of a batch, in notebooks


class Masked:
    """A tensor of which only the entries where `visible` is True count.

    `visible` is bool and has as many dims as `value`, each of the value's size or 1 ("does not vary along
    it"). Hidden entries of `value` are unspecified: no rule lets them reach a visible entry.

    `is_padding` marks visible entries that explicit padding added: a window may read them, but they are no
    neighbours to fill from and make no window visible. `softmax_axis`, bool, is full size along the axis over
    which the entries are softmax weights, which already sum to one over what is visible, and 1 along others.

    Raises:
        TypeError: one is not a tensor, or one of those besides `value` is not bool.
        ValueError: the shapes do not fit, or they are on different devices.
    """

    def __new__(cls: type[_Kind], *args: Any, **marks: Any) -> _Kind:
        """A `MaskedTensor`, but for compilers, which cannot make a tensor of a class within a graph."""
        if torch.compiler.is_dynamo_compiling():
            return object.__new__(Masked)  # type: ignore[return-value]  # no other class is made there
        return without_memory(MaskedTensor)

    def __init__(
        self,
        value: Shaped[Tensor, "*S"],
        visible: Bool[Tensor, "*#S"],
        *,
        is_padding: Bool[Tensor, "*#S"] | None = None,
        softmax_axis: Bool[Tensor, "*#S"] | None = None,
    ) -> None:
        _check_pair(value, visible)
        if is_padding is not None or softmax_axis is not None:
            _check_extra(is_padding, softmax_axis, value)
        self.value, self.visible, self.is_padding, self.softmax_axis = (
            value,
            visible,
            is_padding,
            softmax_axis,
        )
        self.strided_slice = False  # one phase of a grid, as a slice with a step gives it
        self.aliased = False  # something else may hold this value, or a view of it
        self.forward_pass: ForwardPass | None = None

    made: Tensor | None = None  # the value as a rule gave it: another one is somebody else's
    cut = False  # one position that was cut out of a map: where hidden, it holds anything
    part_of_rows = False  # softmax weights without those of other positions, that knew of no mask

    def __repr__(self) -> str:
        shape, visible = tuple(self.value.shape), tuple(self.visible.shape)
        return f"Masked(shape={shape}, visible={visible}, dtype={self.value.dtype})"

    def _repr_html_(self) -> str:
        """What notebooks show: the share that is visible, and the first images, hidden cells checkered."""
        value, facts = self.present_value, {"device": str(self.visible.device)}
        if not is_readable(self.visible) or self.visible.is_meta:
            return card(repr(self), facts)
        shares = self.visible.float().flatten(1).mean(1) if self.visible.ndim else self.visible.float()[None]
        facts["visible"] = f"{100 * shares.mean():.1f} %"
        if len(shares) > 1:
            facts["visible"] += f", from {100 * shares.min():.1f} to {100 * shares.max():.1f} % of an image"
        if value is None or value.ndim != 4 or value.is_complex():
            return card(repr(self), facts)
        shown = self.visible.expand(len(value), -1, *value.shape[2:])
        maps = zip(value[:_PICTURES], shown, strict=False)
        return card(repr(self), facts, [(f"image {i}", masked_map(*each)) for i, each in enumerate(maps)])

    @property
    def present_value(self) -> Tensor | None:
        """The value, or None where it is still to be computed."""
        return self.value

    def __iter__(self) -> Iterator[Masked]:
        return iter(self.unbind(0))

    def __copy__(self) -> Masked:
        """Another pair of the same memory, as torch copies a tensor."""
        self.aliased = True
        return self._like(self.value, self.visible, self.is_padding, self.softmax_axis)

    def __deepcopy__(self, memo: dict) -> Masked:
        return self._like(
            *copy.deepcopy((self.value, self.visible, self.is_padding, self.softmax_axis), memo)
        )

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickled without the pass it belongs to."""
        return _paired, (self.value, self.visible, self.is_padding, self.softmax_axis)

    def _like(self, *parts: Any) -> Masked:
        out = _paired(*parts)
        out.strided_slice, out.cut, out.forward_pass, out.aliased = (
            self.strided_slice,
            self.cut,
            self.forward_pass,
            self.aliased,
        )
        out.made, out.part_of_rows = out.value, self.part_of_rows
        return out

    __array_ufunc__ = None  # numpy scalars leave the operation to us

    if TYPE_CHECKING:  # the rest of torch.Tensor's interface, given by `_give_tensor_interface`

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Masked: ...
        def __len__(self) -> int: ...
        def __neg__(self) -> Masked: ...
        def __add__(self, other: Any) -> Masked: ...
        def __sub__(self, other: Any) -> Masked: ...
        def __mul__(self, other: Any) -> Masked: ...
        def __truediv__(self, other: Any) -> Masked: ...

    __hash__ = object.__hash__  # type: ignore[assignment]  # __eq__ below is elementwise, as in torch.Tensor


class MaskedTensor(Masked, Tensor):  # type: ignore[misc]  # its interface is given to Masked by name
    """The pair as a torch.Tensor, which Python and C++ both take it for. Its own memory is empty."""

    __hash__ = Tensor.__hash__  # that of a plain tensor which becomes one while it is in a dict or a set

    def __new__(cls, *args: Any, **marks: Any) -> Any:
        return without_memory(cls)


def is_plain(x: Any) -> TypeGuard[Tensor]:
    """Whether `x` is a tensor that is no `Masked`, which `isinstance` takes for a tensor too."""
    return isinstance(x, Tensor) and not isinstance(x, Masked)


def _paired(value: Tensor, visible: Tensor, is_padding: Tensor | None, softmax_axis: Tensor | None) -> Masked:
    return Masked(value, visible, is_padding=is_padding, softmax_axis=softmax_axis)


def _check_pair(value: Tensor, visible: Tensor) -> None:
    if torch.compiler.is_compiling():  # shapes may be symbolic there; eager runs have checked them
        return
    if not (type(value) is type(visible) is Tensor or (is_plain(value) and is_plain(visible))):
        raise TypeError(
            f"Masked takes two tensors, value and visible, not {type(value).__name__} and "
            f"{type(visible).__name__}."
        )
    if visible.dtype is not torch.bool:
        raise TypeError(f"visible must be bool (True = visible), not {visible.dtype}.")
    _check_fits("visible", visible, value)


def _check_extra(is_padding: Any, softmax_axis: Any, value: Tensor) -> None:
    """Check what most pairs have not."""
    if torch.compiler.is_compiling():
        return
    for name, mark in (("is_padding", is_padding), ("softmax_axis", softmax_axis)):
        if mark is None:
            continue
        if not is_plain(mark):
            raise TypeError(f"{name} must be a tensor, not {type(mark).__name__}.")
        if mark.dtype is not torch.bool:
            raise TypeError(f"{name} must be bool, not {mark.dtype}.")
        _check_fits(name, mark, value)


def _check_fits(name: str, mark: Tensor, value: Tensor) -> None:
    if mark.device != value.device:
        raise ValueError(
            f"{name} is on {mark.device} and the value on {value.device}: move one to the other."
        )
    if not _fits(mark.shape, value.shape):
        raise ValueError(
            f"{name} of shape {tuple(mark.shape)} does not fit a value of shape {tuple(value.shape)}: "
            "it needs as many dims, each of the same size or 1."
        )


@functools.lru_cache(1024)  # asked for every value that is made
def _fits(narrow: torch.Size, full: torch.Size) -> bool:
    return len(narrow) == len(full) and all(m in (1, n) for m, n in zip(narrow, full, strict=True))


def masked_in(*trees: Any) -> list[Masked]:
    """Every `Masked` in nested tuples, lists and dicts."""
    found: list[Masked] = []
    for tree in trees:
        if isinstance(tree, Masked):
            found.append(tree)
        elif isinstance(tree, (tuple, list)):
            found += masked_in(*tree)
        elif isinstance(tree, dict):
            found += masked_in(*tree.values())
    return found


def replace_masked(tree: Any, change: Callable[[Masked], Any]) -> Any:
    """The same nest of tuples, lists and dicts, with `change` applied to every `Masked`."""
    if isinstance(tree, Masked):
        return change(tree)
    if isinstance(tree, (tuple, list)) and type(tree) in (tuple, list):
        return type(tree)(replace_masked(branch, change) for branch in tree)
    if type(tree) is dict:
        return {key: replace_masked(branch, change) for key, branch in tree.items()}
    return tree


def zero_hidden(x: Shaped[Masked, "*S"]) -> Shaped[Tensor, "*S"]:
    """The value with zero at every hidden entry, chosen and not multiplied: hidden NaN must not leak."""
    zero = 0.0 if x.value.is_floating_point() or x.value.is_complex() else 0
    return torch.where(x.visible, x.value, zero) if x.value.dtype is not torch.bool else x.value & x.visible


def plain_of(x: Any) -> Any:
    """What is read of any argument: of a masked one zero at every hidden entry, another one as it is."""
    return zero_hidden(x) if isinstance(x, Masked) else x


def everywhere(x: Tensor) -> Tensor:
    """The mask of a tensor that is all visible, of size 1 along every axis."""
    return torch.ones([1] * x.ndim, dtype=torch.bool, device=x.device)


def same_mask(x: Shaped[Masked, "*S"], value: Shaped[Tensor, "*S"]) -> Shaped[Masked, "*S"]:
    """A value of the same shape, visible where `x` is."""
    return Masked(value, x.visible, is_padding=x.is_padding)


def zero_hidden_pair(x: Masked) -> Masked:
    """The same pair with zero at every hidden entry."""
    out = same_mask(x, zero_hidden(x))
    out.forward_pass = x.forward_pass
    return out


def settings_of(x: Masked) -> Settings:
    """Those of the pass that the value belongs to."""
    return x.forward_pass.settings if x.forward_pass else DEFAULTS


def has_positions(x: Masked) -> bool:
    """Whether the mask varies along more than the batch; without positions it has one entry per image."""
    shape, count = x.visible.shape, x.visible.numel()
    if x.forward_pass is None or x.forward_pass.masks is None:
        return any(n != 1 for n in shape[1:])
    if count == 1 or (count == x.forward_pass.masks and max(shape) == count):
        return False
    return shape[0] != count or count != x.forward_pass.masks * merged(x.forward_pass, x.visible)


def merged(forward_pass: ForwardPass | None, visible: Tensor) -> int:
    """How many equal entries an image has in front, as where heads were merged with the images; mostly 1."""
    return (forward_pass.remembered("merged", visible) if forward_pass else None) or 1


def determined(x: Masked, dims: Sequence[int]) -> bool:
    """Whether entries along `dims` count even where they are hidden: an image's vector has no positions.

    Where nothing was visible, pools gave it 0 and biases their values. Every operation goes on from these, as
    the plain model would. A position that was cut out of a map is not determined, nor are the images of a
    batch, nor values from outside of a pass, whose hidden entries may be anything.
    """
    if x.forward_pass is None or x.forward_pass.outside:
        return False
    return not (x.cut or has_positions(x) or any(x.visible.shape[d] != 1 for d in dims))


def zero_undetermined(x: Masked, dims: Sequence[int]) -> Tensor:
    """The value as an operation may read it along `dims`: zero at hidden entries, unless it is determined."""
    return x.value if determined(x, dims) else zero_hidden(x)
