"""Attention: hidden keys get no weight, which is the same as dropping their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask.core.mask import align, any_over, cached, intersection
from layermask.core.masked import Masked, plain_of, zero_undetermined
from layermask.core.rule_table import built_in as rule
from layermask.core.rule_table import name_of
from layermask.errors import NoMaskRule

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def _softmax(function: Callable) -> Callable:
    logarithmic = "log" in function.__name__

    def softmax(
        input: Shaped[Masked, "*S"], dim: int | None = None, *args: Any, **kwargs: Any
    ) -> Float[Masked, "*S"]:
        """Over visible entries; a row that has none stays finite."""
        dim = (0 if input.value.ndim in (0, 1, 3) else 1) if dim is None else dim  # as torch picks it
        input = _cast(input, [*args, *kwargs.values()])
        varied = input.value.ndim > 0 and input.visible.shape[dim] != 1
        value = torch.where(input.visible, input.value, _least(input, dim)) if varied else input.value
        out = function(value, dim, *args, **kwargs)
        softmax_axis = None if logarithmic else _along(out, dim)
        return Masked(out, input.visible, is_padding=input.is_padding, softmax_axis=softmax_axis)

    return softmax


def _cast(x: Masked, options: Iterable[Any]) -> Masked:
    """In the dtype that was asked for: integers have no infinity to hide behind."""
    dtype = next((option for option in options if isinstance(option, torch.dtype)), None)
    return x if dtype is None else x.to(dtype)


def _least(x: Masked, dim: int) -> Tensor:
    """What stands for hidden: -inf, so that even a key masked by the least finite number wins over it."""
    seen = any_over(x.forward_pass, x.visible, (dim,), keepdim=True)
    return cached(x.forward_pass, "least", (seen,), x.value.dtype, lambda: _infinite(seen, x.value.dtype))


def _infinite(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(seen, -torch.inf, 0.0).to(dtype)


def _along(out: Tensor, dim: int) -> Tensor | None:
    """The mark of softmax weights: full size along their axis."""
    if not out.ndim:
        return None
    mark = torch.ones(out.shape[dim], dtype=torch.bool, device=out.device)
    return mark.reshape([-1 if d == dim % out.ndim else 1 for d in range(out.ndim)])


for space in (F, torch, Tensor):
    for name in ("softmax", "log_softmax"):
        rule(getattr(space, name))(_softmax(getattr(space, name)))


@rule(F.softmin)
def softmin(input: Any, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
    return F.softmax(-input, dim, *args, **kwargs)


def _keys(key: Any, value: Any) -> tuple[Tensor, Any]:
    """Which keys are visible, (..., L, 1), in both key and value; and the run."""
    shown, forward_pass = [], None
    for x in (key, value):
        if isinstance(x, Masked):
            shown.append(any_over(x.forward_pass, x.visible, (-1,), keepdim=True))
            forward_pass = x.forward_pass
    return (intersection(forward_pass, *shown) if len(shown) == 2 else shown[0]), forward_pass


def _refuse_unless_masked(function: Callable, *inputs: Any) -> None:
    if not any(isinstance(x, Masked) for x in inputs):
        why = "One of query, key and value must be masked, not only a mask or a parameter."
        raise NoMaskRule(name_of(function), why=why)


@rule(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    query: Float[Any, "*B L E"],
    key: Float[Any, "*H K E"],
    value: Float[Any, "*H K V"],
    attn_mask: Shaped[Any, "*M L #K"] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Masked, "*A L V"]:
    extra: dict[str, Any] = {"scale": scale} | ({"enable_gqa": True} if enable_gqa else {})
    _refuse_unless_masked(F.scaled_dot_product_attention, query, key, value)
    if not isinstance(key, Masked) and not isinstance(value, Masked):
        out = F.scaled_dot_product_attention(
            plain_of(query), key, value, plain_of(attn_mask), dropout_p, is_causal, **extra
        )
        return Masked(out, align(_seen_by(query, None, None), out.ndim))
    keys, forward_pass = _keys(key, value)
    if enable_gqa and keys.shape[-3] not in (1, query.shape[-3]):
        keys = keys.repeat_interleave(query.shape[-3] // keys.shape[-3], -3)
    some = any_over(forward_pass, keys, (-2,), keepdim=True)
    open_keys = (keys | ~some).transpose(-2, -1)  # with none visible all zeros are attended to: finite
    mask = _merged(attn_mask, open_keys, is_causal, query.shape[-2], key.shape[-2])
    mask = mask.expand(*mask.shape[:-2], query.shape[-2], key.shape[-2])
    out = F.scaled_dot_product_attention(
        _asking(query), _tokens(key), _tokens(value), mask, dropout_p, **extra
    )
    return Masked(out, align(_seen_by(query, some, forward_pass), out.ndim))


def _tokens(x: Any) -> Tensor:
    return zero_undetermined(x, (-2, -1)) if isinstance(x, Masked) else x


def _asking(query: Any) -> Tensor:
    """The queries. A hidden one answers for itself alone: only gradients ask that it be finite."""
    if not isinstance(query, Masked) or query.visible.shape[-1] != 1 or query.value.requires_grad:
        return plain_of(query)
    return query.value


def _merged(attn_mask: Any, keys: Tensor, is_causal: bool, queries: int, length: int) -> Tensor:
    """The caller's mask, boolean or added, with hidden keys closed."""
    if is_causal:
        keys = keys & torch.ones(queries, length, dtype=torch.bool, device=keys.device).tril()
    if attn_mask is None:
        return keys
    attn_mask = plain_of(attn_mask)
    if attn_mask.dtype is torch.bool:
        return attn_mask & keys
    return torch.where(keys, attn_mask, -torch.inf)


@rule(F.multi_head_attention_forward)
def multi_head_attention_forward(
    query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> tuple[Masked, Any]:
    """Hidden keys go in as the key padding mask. Inputs are (L, N, E), or (L, E) unbatched."""
    _refuse_unless_masked(F.multi_head_attention_forward, query, key, value)
    keys, forward_pass = (
        _keys(key, value)
        if isinstance(key, Masked) or isinstance(value, Masked)
        else (None, query.forward_pass)
    )
    bound = {name: plain_of(option) for name, option in _bind_key_padding(args, kwargs).items()}
    some = None
    if keys is not None:
        some = any_over(forward_pass, keys, (0,), keepdim=True)
        hidden = ~(keys | ~some)[..., 0].transpose(0, -1)  # (N or 1, L)
        hidden = hidden.expand(key.shape[1::-1] if key.ndim == 3 else key.shape[:1])
        bound["key_padding_mask"] = _padding(bound.get("key_padding_mask"), hidden)
        if (given := bound.get("attn_mask")) is not None:
            bound["key_padding_mask"] = _as_kind(bound["key_padding_mask"], given.dtype)
            if bound.get("need_weights", True):
                bound["attn_mask"] = _opened(given, hidden, args[1])
    out, weights = F.multi_head_attention_forward(
        plain_of(query), plain_of(key), plain_of(value), *args[:_BEFORE], **bound
    )
    return Masked(out, _seen_by(query, some, forward_pass)), weights


_BEFORE = 10  # positional parameters between value and training: embed_dim_to_check ... out_proj_bias
_AFTER = ("training", "key_padding_mask", "need_weights", "attn_mask")


def _bind_key_padding(args: tuple, kwargs: dict) -> dict:
    return dict(zip(_AFTER, args[_BEFORE:], strict=False)) | kwargs


def _as_kind(padding: Tensor, dtype: torch.dtype) -> Tensor:
    """The padding as what is added, if the caller's mask is: torch wants them of one kind."""
    if padding.dtype is not torch.bool or dtype is torch.bool:
        return padding
    return torch.where(padding, -torch.inf, 0.0).to(dtype)


def _opened(given: Tensor, hidden: Tensor, heads: int) -> Tensor:
    """The caller's mask, open where it leaves a query none but hidden keys: of none, the weights are NaN.

    `given`: (L, S) or (N * heads, L, S); `hidden`: (N, S), or (S,) unbatched. What is hidden stays closed.
    """
    closed = given if given.dtype is torch.bool else given == -torch.inf
    hidden = hidden.reshape(-1, 1, hidden.shape[-1]).repeat_interleave(heads, 0)
    nothing = (closed | hidden).all(-1, keepdim=True) & ~closed.all(-1, keepdim=True)
    return torch.where(nothing, torch.zeros_like(given[..., :1]), given)


def _padding(given: Any, hidden: Tensor) -> Tensor:
    if given is None:
        return hidden
    given = plain_of(given)
    if given.dtype is torch.bool:
        return given | hidden
    return torch.where(hidden, float("-inf"), given)


def _seen_by(query: Any, some: Tensor | None, forward_pass: Any) -> Tensor:
    shown = (
        any_over(query.forward_pass, query.visible, (-1,), keepdim=True)
        if isinstance(query, Masked)
        else None
    )
    if shown is None or some is None:
        return shown if some is None else some  # type: ignore[return-value]  # one of them is masked
    return intersection(forward_pass, shown, some)
