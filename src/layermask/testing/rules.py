"""The laws of a rule, on calls of its torch function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from layermask._private_torch import tree_leaves, tree_map
from layermask.check.laws import seeded
from layermask.check.samples import sample_images
from layermask.core.masked import Masked
from layermask.core.rule_table import name_of, overriding
from layermask.testing.suite import Laws


class Arguments:
    """The arguments of one call of a torch function, of which tensors, in lists too, can be replaced."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.tree = (args, kwargs)
        self.leaves = tree_leaves(self.tree)
        self.places = [
            i for i, x in enumerate(self.leaves) if isinstance(x, Tensor) and x.layout is torch.strided
        ]

    def __repr__(self) -> str:
        return str([tuple(x.shape) if isinstance(x, Tensor) else x for x in self.leaves])

    def call(self, function: Callable, changed: dict[int, Any]) -> list[Any]:
        """Return the leaves of what `function` returns; it gets copies of the tensors, some `changed`."""
        leaves = iter([_copy(changed.get(i, leaf)) for i, leaf in enumerate(self.leaves)])
        (first, *rest), named = tree_map(lambda _: next(leaves), self.tree, is_leaf=lambda _: False)
        with seeded():
            if type(function).__name__ in ("method_descriptor", "wrapper_descriptor"):
                out = getattr(first, name_of(function).split(".")[-1])(*rest, **named)  # none of Masked's own
            else:
                out = function(first, *rest, **named)
        return tree_leaves(out)


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, Masked):
        return Masked(leaf.value.clone(), leaf.visible)
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def random_masks(arguments: Arguments, places: Sequence[int], seed: int, narrow: bool) -> dict[int, Tensor]:
    """Return a mask per place, of the size of its tensor, or `narrow`: of size 1 along random axes."""
    draw = torch.Generator().manual_seed(seed)
    masks = {}
    for place in places:
        shape = [
            n if not narrow or torch.rand((), generator=draw) < 0.6 else 1
            for n in arguments.leaves[place].shape
        ]
        masks[place] = torch.rand(shape, generator=draw) < 0.6
    return masks


@dataclass
class Trial:
    """One call of a function under masks: place of a tensor among the arguments -> its mask.

    Each method returns what is wrong, or "".
    """

    function: Callable
    arguments: Arguments
    masks: dict[int, Tensor]

    @cached_property
    def answer(self) -> list[Any]:
        return self._answer(self.masks)

    def leaks(self, fill: float) -> str:
        """Whether hidden entries that hold noise of the scale `fill`, or NaN, reach a visible one (law 2)."""
        if math.isnan(fill) and not any(self.arguments.leaves[i].is_floating_point() for i in self.masks):
            return ""
        same = all(map(_same, self.answer, self._answer(self.masks, fill)))
        return "" if same else f"2: {'NaN' if math.isnan(fill) else 'noise'} in hidden entries is let through"

    def hides(self) -> str:
        """Whether showing more hides anything (law 4)."""
        draw = torch.Generator().manual_seed(len(self.masks))
        more = {i: m | (torch.rand(m.shape, generator=draw) < 0.3) for i, m in self.masks.items()}
        fine = all(map(_no_less_shown, self.answer, self._answer(more)))
        return "" if fine else "4: showing more hides something"

    def depends_on_width(self) -> str:
        """Whether a mask of size 1 along an axis means other than the same mask expanded."""
        wide = {i: m.expand(self.arguments.leaves[i].shape).clone() for i, m in self.masks.items()}
        return "" if all(map(_alike, self.answer, self._answer(wide))) else "a narrow mask is not as expanded"

    def differentiates_hidden(self) -> str:
        """Whether the gradient at hidden entries of the first masked tensor is other than 0 (law 3)."""
        place, mask = next(iter(self.masks.items()))
        try:
            self._gradient(place, lambda x: x)
        except RuntimeError:  # torch has no gradient either
            return ""
        at_hidden = self._gradient(place, lambda x: Masked(x, mask)).masked_fill(mask, 0)
        return "3: the gradient at hidden entries is not 0" if at_hidden.any() else ""

    def mixes_images(self) -> str:
        """Whether an image's answer depends on others of its batch, while torch's own does not (law 5)."""
        place, mask = next(iter(self.masks.items()))
        value, plain = self.arguments.leaves[place], self.arguments.call(self.function, {})
        for i in range(len(value)) if value.ndim else ():
            one, its_mask = value[i : i + 1], mask[i : i + 1] if len(mask) > 1 else mask
            if not self._is_row(i, plain, one, place):
                return ""
            if not self._is_row(i, self.answer, Masked(one, its_mask), place):
                return f"5: image {i} of a batch gets another answer than alone"
        return ""

    def _is_row(self, i: int, whole: list[Any], one: Any, place: int) -> bool:
        try:
            alone = self.arguments.call(self.function, {place: one})
            return all(_alike_row(i, a, b) for a, b in zip(whole, alone, strict=True))
        except (RuntimeError, ValueError, TypeError, IndexError):  # other arguments are of the whole batch
            return False

    def _gradient(self, place: int, enter: Callable[[Tensor], Any]) -> Tensor:
        x = self.arguments.leaves[place].detach().clone().requires_grad_()
        out = [_shown(leaf) for leaf in self.arguments.call(self.function, {place: enter(x)})]
        total = sum(leaf.sum() for leaf in out if isinstance(leaf, Tensor) and leaf.requires_grad)
        return torch.autograd.grad(total, x)[0]  # type: ignore[arg-type]  # 0 has none: a RuntimeError

    def _answer(self, masks: dict[int, Tensor], fill: float | None = None) -> list[Any]:
        leaves = self.arguments.leaves
        masked = {i: Masked(_filled(leaves[i], m, fill), m) for i, m in masks.items()}
        return self.arguments.call(self.function, masked)


def _filled(value: Tensor, visible: Tensor, fill: float | None) -> Tensor:
    if fill is None:
        return value
    noise = (torch.arange(value.numel()).reshape(value.shape) * 7 % 13 - 6) * fill
    return torch.where(visible, value, noise.to(value.dtype))


def difference(ours: Any, theirs: Any, tolerance: float = 0.0, empty: bool = False) -> str:
    """Return what of a result with a full mask is not as in the plain result ("" if nothing), for law 1.

    `tolerance` is relative to the largest value. `empty`: nothing went in, and something may be hidden.
    """
    if isinstance(ours, Masked):
        if not ours.visible.all() and not empty:
            return "something is hidden"
        ours = ours.value
    if not isinstance(theirs, Tensor):
        return "" if ours == theirs else f"{ours!r} instead of {theirs!r}"
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{tuple(ours.shape)} {ours.dtype} instead of {tuple(theirs.shape)} {theirs.dtype}"
    return "" if _close(ours, theirs, tolerance) else f"values differ by {(ours - theirs).abs().max():.1e}"


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    if not (theirs.is_floating_point() or theirs.is_complex()):
        return torch.equal(ours, theirs)
    scale = theirs.abs().nan_to_num(0, 0, 0).max().item() if theirs.numel() and tolerance else 0
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance * scale, equal_nan=True)


def _shown(leaf: Any) -> Any:
    """What a leaf of a result says: hidden entries blanked."""
    if not isinstance(leaf, Masked):
        return leaf
    return torch.where(leaf.visible, leaf.value, torch.zeros((), dtype=leaf.value.dtype))


def _same(a: Any, b: Any) -> bool:
    """Equal to the bit, where visible; and as visible."""
    if isinstance(a, Masked) and not torch.equal(a.visible, b.visible):
        return False
    a, b = _shown(a), _shown(b)
    return _close(a, b, 0.0) if isinstance(a, Tensor) else a == b


def _no_less_shown(a: Any, b: Any) -> bool:
    if not isinstance(a, Masked):
        return True
    return not (a.visible.expand(a.value.shape) & ~b.visible.expand(b.value.shape)).any()


def _alike(a: Any, b: Any) -> bool:
    """The same mask, stored narrow or wide, and the same values to rounding; or both no matter of masks.

    Places of a maximum are plain along an axis on which the mask varies.
    """
    if not (isinstance(a, Masked) and isinstance(b, Masked)):
        return isinstance(a, Tensor) or a == b
    masks = (x.visible.expand(a.value.shape) for x in (a, b))
    return torch.equal(*masks) and _close(_shown(a), _shown(b), 1e-5)


def _alike_row(i: int, whole: Any, alone: Any) -> bool:
    """Whether image `i` of a result is what it is alone."""
    if isinstance(whole, Masked):
        visible = whole.visible.expand(whole.value.shape)[i : i + 1]
        return _alike(alone, Masked(whole.value[i : i + 1], visible))
    return whole.shape[1:] == alone.shape[1:] and _close(alone, whole[i : i + 1], 1e-5)


class RuleLaws(Laws):
    """The laws of a rule. `subject` is the torch function, which has a rule, or is given one here as `rule`.

    `samples`: arguments to call it with; the first tensor is masked. `tolerance`: how far the answer under a
    full mask may be from the plain one, relative to the largest value, where another kernel has to run.
    """

    rule: Callable | None = None
    samples: Sequence[Arguments] = (Arguments(sample_images(2, (4, 6, 5))),)
    tolerance: float = 0.0

    def setUp(self) -> None:
        super().setUp()
        rule = inspect.getattr_static(self, "rule")
        if rule is not None:
            block = overriding({self.judged: getattr(rule, "__func__", rule)})
            block.__enter__()
            self.addCleanup(block.__exit__, None, None, None)

    def test_a_full_mask_gives_the_plain_answer(self) -> None:
        for arguments in self.samples:
            plain, place = arguments.call(self.judged, {}), arguments.places[0]
            x = arguments.leaves[place]
            for shape in (x.shape, [1] * x.ndim):
                full = Masked(x, torch.ones(shape, dtype=torch.bool))
                ours = arguments.call(self.judged, {place: full})
                for a, b in zip(ours, plain, strict=True):
                    fault = difference(a, b, self.tolerance)
                    self.assertEqual(fault, "", f"{arguments}, mask {tuple(shape)}: {fault}")

    def test_hidden_entries_reach_no_visible_one(self) -> None:
        self._judge(lambda trial: trial.leaks(1.5) or trial.leaks(math.nan))

    def test_showing_more_hides_nothing(self) -> None:
        self._judge(Trial.hides)

    def test_a_narrow_mask_is_as_the_same_mask_expanded(self) -> None:
        self._judge(Trial.depends_on_width)

    def test_hidden_entries_have_no_gradient(self) -> None:
        self._judge(Trial.differentiates_hidden)

    def test_a_batch_is_its_images_one_by_one(self) -> None:
        self._judge(Trial.mixes_images)

    def _judge(self, law: Callable[[Trial], str]) -> None:
        for number, arguments in enumerate(self.samples):
            for narrow in (False, True):
                masks = random_masks(arguments, arguments.places[:1], number, narrow)
                fault = law(Trial(self.judged, arguments, masks))
                self.assertEqual(fault, "", f"{arguments}: {fault}")
