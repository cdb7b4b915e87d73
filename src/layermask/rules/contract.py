"""Contractions: hidden entries take no part in a product summed over them.

Along features that all share one mask nothing changes. Along positions the hidden terms are zero, as in any
sum; softmax weights that did not know of them are renormalised over what is visible. With plain parameters
(flatten + linear, token mixing) the layer acts as normal on the zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.call_site import module_path, user_line
from layermask.core.mask import any_over, cached, intersection, keep_merged, varies, weighs
from layermask.core.masked import Masked, everywhere, zero_hidden, zero_undetermined
from layermask.core.rule_table import built_in as rule
from layermask.errors import NoMaskRule

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def _operand(x: Any, summed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What a product that sums along these axes reads of an operand, masked or plain; and its narrow mask."""
    if isinstance(x, Masked):
        return zero_undetermined(x, summed), x.visible
    return x, everywhere(x)


@rule(F.linear)
def linear(
    input: Shaped[Any, "*B I"], weight: Shaped[Any, "*O I"], bias: Shaped[Any, "*O"] | None = None
) -> Shaped[Masked, " ..."]:
    if isinstance(weight, Masked) or isinstance(bias, Masked):
        product: Any = torch.matmul  # which dispatches, if one of these two is masked
        out = product(input, weight.transpose(-2, -1) if weight.ndim > 1 else weight)
        return out if bias is None else out + bias
    if input.visible.shape[-1] == 1:
        return Masked(
            F.linear(input.value, weight, bias),
            _features(input, weight),
            is_padding=input.is_padding,
            softmax_axis=None
            if input.softmax_axis is None or input.softmax_axis.shape[-1] != 1
            else input.softmax_axis,
        )
    visible = any_over(input.forward_pass, input.visible, (-1,), keepdim=weight.ndim > 1)
    return Masked(F.linear(zero_hidden(input), weight, bias), visible)


def _features(x: Masked, weight: Tensor) -> Tensor:
    return x.visible if weight.ndim > 1 else x.visible[..., 0]


@rule(
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
    torch.Tensor.bmm,
    torch.mm,
    torch.Tensor.mm,
)
def matmul(input: Any, other: Any) -> Masked:
    if input.ndim == 1:
        return matmul(input.unsqueeze(0), other).squeeze(-2 if other.ndim > 1 else 0)
    if other.ndim == 1:
        return matmul(input, other.unsqueeze(-1)).squeeze(-1)
    (a, seen_a), (b, seen_b) = _operand(input, (-1,)), _operand(other, (-2,))
    out = torch.matmul(a, b)
    forward_pass = (input if isinstance(input, Masked) else other).forward_pass
    visible = cached(
        forward_pass,
        "matmul",
        (seen_a, seen_b),
        None,
        lambda: keep_merged(forward_pass, outer_mask(forward_pass, seen_a, seen_b), seen_a, seen_b),
    )
    out = _renormalised(torch.matmul, out, (input, other), ((-1,), (-2,)), (a, b), (seen_a, seen_b))
    return Masked(out, visible)


@rule(torch.Tensor.__rmatmul__)
def rmatmul(input: Any, other: Any) -> Masked:
    return matmul(other, input)


def outer_mask(forward_pass: Any, a: Tensor, b: Tensor) -> Tensor:
    """Where any visible term meets: rows x columns, narrow where both factors are."""
    if a.shape[-1] == 1:
        b = any_over(forward_pass, b, (-2,), keepdim=True)
    elif b.shape[-2] == 1:
        a = any_over(forward_pass, a, (-1,), keepdim=True)
    if a.shape[-1] == 1:
        n = max(a.ndim, b.ndim)
        a, b = (m.reshape((1,) * (n - m.ndim) + m.shape) for m in (a, b))
        return a & b
    return torch.matmul(a.double(), b.double()) > 0  # double: autocast leaves it alone


def _renormalised(
    product: Callable, out: Tensor, factors: tuple, summed: Sequence, values: tuple, masks: tuple
) -> Tensor:
    """Divide by the share of softmax's weights whose other factor is visible: they did not know of it."""
    for place, (weights, dims) in enumerate(zip(factors, summed, strict=True)):
        other = 1 - place
        _refuse_part_of_rows(weights, dims, factors[other], summed[other])
        if (
            isinstance(weights, Masked)
            and weighs(weights, dims)
            and not varies(masks[place], dims)
            and varies(masks[other], summed[other])
        ):
            shown = masks[other].to(out.dtype)
            part, total = (
                product(*_ordered(place, values[place], m)) for m in (shown, torch.ones_like(shown))
            )
            each = torch.ones(_sizes_along(values[place], dims), dtype=out.dtype, device=out.device)
            whole = product(*_ordered(place, each, (~masks[other]).to(out.dtype))) == 0
            none = whole | (part.abs() <= torch.finfo(out.dtype).tiny) | (total == 0)
            return out / torch.where(none, torch.ones_like(part), part / total)
    return out


def _refuse_part_of_rows(weights: Any, dims: Sequence[int], other: Any, summed: Sequence[int]) -> None:
    """What is visible of a whole row decides by what its weights grow, and the rest is not here."""
    if not (isinstance(weights, Masked) and isinstance(other, Masked) and weights.part_of_rows):
        return
    if not varies(weights.visible, dims) and (varies(other.visible, summed) or other.cut):
        raise NoMaskRule("torch.matmul", module_path(), user_line(), _PART_OF_ROWS, _WHOLE_ROWS)


_PART_OF_ROWS = (
    "Its softmax weights were cut along their axis, and the positions that they weigh are masked: how much "
    "weight hidden positions leave to the others is known of whole rows only."
)
_WHOLE_ROWS = "Multiply whole rows, and cut what comes out; or mask the logits before the softmax."


def _ordered(place: int, weights: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    return (weights, shown) if place == 0 else (shown, weights)


def _sizes_along(x: Tensor, dims: Sequence[int]) -> list[int]:
    """The sizes of these axes, and 1 for every other."""
    kept = {d % x.ndim for d in dims}
    return [n if d in kept else 1 for d, n in enumerate(x.shape)]


def _fused(product: Any) -> Any:
    def fused(input: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        """beta * input + alpha * (a @ b)"""
        out = product(a, b)
        out = out if alpha == 1 else out * alpha
        if beta == 0:  # then torch ignores even NaN in input
            return out
        return out + (input if beta == 1 else input * beta)

    return fused


for name, product in (("addmm", torch.mm), ("baddbmm", torch.bmm), ("addmv", torch.matmul)):
    rule(getattr(torch, name), getattr(torch.Tensor, name))(_fused(product))


@rule(torch.dot, torch.Tensor.dot)
def dot(input: Shaped[Any, " N"], tensor: Shaped[Any, " N"]) -> Shaped[Masked, ""]:
    return matmul(input, tensor)


@rule(torch.cov, torch.Tensor.cov)
def cov(
    input: Masked, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Masked:
    """Of rows, over the columns that both show, each less its own mean, as `numpy.ma.cov` has it."""
    plain = torch.cov(
        zero_undetermined(input, ()), correction=correction, fweights=fweights, aweights=aweights
    )
    if not varies(input.visible, (-1,)):
        shown = input.visible
        return Masked(plain, shown & shown.mT if plain.ndim else shown.reshape(()))
    x, shown = (m.reshape(-1, m.shape[-1]) for m in (zero_hidden(input), input.visible))
    kind = x.real.dtype if x.is_floating_point() or x.is_complex() else plain.dtype
    each = shown.to(kind)
    times = each * (1 if fweights is None else fweights) * (1 if aweights is None else aweights)
    x = (x - (x * times).sum(1, keepdim=True) / times.sum(1, keepdim=True).clamp(min=1e-30)) * each
    total = times @ each.mT
    squares = total if aweights is None else (times * aweights) @ each.mT
    left = total - correction * squares / total.clamp(min=1e-30)
    ours = (x * times) @ x.mH / torch.where(left > 0, left, 1)  # with fewer torch answers NaN
    whole = shown.all(1)
    ours = torch.where(whole[:, None] & whole, plain, torch.where(left > 0, ours, 0))
    return Masked(ours.reshape(plain.shape), (total > 0).reshape([m for m in total.shape][: plain.ndim]))


@rule(torch.corrcoef, torch.Tensor.corrcoef)
def corrcoef(input: Masked) -> Masked:
    """Of rows, as `cov`."""
    found, plain = input.cov(), torch.corrcoef(zero_undetermined(input, ()))
    if not varies(input.visible, (-1,)):
        return Masked(plain, found.visible)
    value = found.value.reshape(-1, found.shape[-1] if found.ndim else 1)
    lengths = value.diagonal().real.sqrt()
    out = value / lengths / lengths[:, None]
    out = out if out.is_complex() else out.clip(-1, 1)
    whole = input.visible.all(-1).reshape(-1)
    out = torch.where(whole[:, None] & whole, plain, torch.where(lengths[:, None] * lengths > 0, out, 0))
    return Masked(out.reshape(plain.shape), found.visible)


@rule(torch.outer, torch.Tensor.outer)
def outer(input: Shaped[Any, " N"], vec2: Shaped[Any, " M"]) -> Shaped[Masked, "N M"]:
    return input[:, None] * vec2


@rule(torch.tensordot)
def tensordot(a: Any, b: Any, dims: Any = 2, out: None = None) -> Any:
    """One product of matrices: the other axes of `a` times those of `b`."""
    if not isinstance(dims, int):
        over_a, over_b = ([d % x.ndim for d in listed] for listed, x in zip(dims, (a, b), strict=True))
    else:
        over_a, over_b = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    for i, j in zip(over_a, over_b, strict=True):  # torch lets an axis of size 1 stand for any size
        n = max(a.shape[i], b.shape[j])
        a = a.expand([n if d == i else m for d, m in enumerate(a.shape)])
        b = b.expand([n if d == j else m for d, m in enumerate(b.shape)])
    rest_a, rest_b = ([d for d in range(x.ndim) if d not in over] for x, over in ((a, over_a), (b, over_b)))
    shape = [a.shape[d] for d in rest_a] + [b.shape[d] for d in rest_b]
    terms = math.prod(a.shape[d] for d in over_a)
    left = a.permute(*rest_a, *over_a).reshape(math.prod(shape[: len(rest_a)]), terms)
    right = b.permute(*over_b, *rest_b).reshape(terms, math.prod(shape[len(rest_a) :]))
    return matmul(left, right).reshape(shape)


@rule(torch.inner, torch.Tensor.inner)
def inner(input: Any, other: Any) -> Any:
    if input.ndim == 0 or other.ndim == 0:
        return input * other
    return tensordot(input, other, ([-1], [-1]))


@rule(F.cosine_similarity)
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Masked:
    """The angle between the entries that both show, whose number cancels."""
    a, b = (x if isinstance(x, Masked) else Masked(*_operand(x, ())) for x in (x1, x2))
    a, b = a + torch.zeros_like(b.value), b + torch.zeros_like(a.value)
    visible = intersection(a.forward_pass, a.visible, b.visible)
    forward_pass = a.forward_pass or b.forward_pass
    a, b = Masked(a.value, visible), Masked(b.value, visible)
    a.forward_pass = b.forward_pass = forward_pass
    lengths = [x.norm(2, dim, keepdim=True).clamp_min(eps) for x in (a, b)]
    return (a / lengths[0] * (b / lengths[1])).sum(dim)


@rule(F.pairwise_distance)
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    return (x1 - x2 + eps).norm(p, -1, keepdim=keepdim)


@rule(torch.functional.cdist)
def cdist(
    x1: Float[Any, "*#B P M"], x2: Float[Any, "*#B R M"], p: float = 2.0, compute_mode: Any = None
) -> Float[Masked, "*B P R"]:
    """Of every row to every other, over the features that both show."""
    if any(isinstance(x, Masked) and x.visible.shape[-1] != 1 for x in (x1, x2)):
        return (x1.unsqueeze(-2) - x2.unsqueeze(-3)).norm(p, -1)
    (a, seen_a), (b, seen_b) = _operand(x1, (-1,)), _operand(x2, (-1,))
    mode = {} if compute_mode is None else {"compute_mode": compute_mode}
    return Masked(torch.cdist(a, b, p, **mode), seen_a & seen_b.transpose(-2, -1))


@rule(torch.einsum)
def einsum(equation: Any, *operands: Any) -> Masked:
    if not isinstance(equation, str):
        raise TypeError("einsum of masked values takes an equation string, not index lists.")
    operands = (
        tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    )
    spelled = _without_repeats(equation)
    summed = _summed(spelled)
    values, masks = zip(*map(_operand, operands, summed), strict=True)
    out = torch.einsum(equation, *values)
    seen = torch.einsum(spelled, *(m.double() for m in masks))
    if len(operands) == 2:
        out = _renormalised(partial(torch.einsum, equation), out, operands, summed, values, masks)
    return Masked(out, seen > 0)


def _summed(equation: str) -> list[list[int]]:
    """The axes of each operand that are summed over, those before an ellipsis from the front."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    letters = terms.replace(",", "").replace("...", "")
    kept = result if arrow else [letter for letter in letters if letters.count(letter) == 1]
    found = []
    for term in terms.split(","):
        front, dots, back = term.partition("...")
        axes = enumerate(front) if dots else ((i - len(term), letter) for i, letter in enumerate(term))
        behind = ((i - len(back), letter) for i, letter in enumerate(back))
        found.append([axis for axis, letter in (*axes, *behind) if letter not in kept])
    return found


def _without_repeats(equation: str) -> str:
    if any(
        len(set(t)) < len(t) for t in equation.replace("...", "").replace(" ", "").split("->")[0].split(",")
    ):
        raise NotImplementedError(
            f"einsum {equation!r} takes a diagonal, which has no mask rule; use .diagonal()."
        )
    return equation
