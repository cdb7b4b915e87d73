"""Operations over a set of positions answer as torch does over the visible ones alone.

Attention, norms and statistics know no neighbours: what is hidden might as well not be there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import Masked

LENGTHS = {2: [1], 3: [0, 2], 7: [1, 2, 6]}  # of sets -> who is visible


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some(x: Tensor, axis: int) -> tuple[Any, Tensor]:
    """`x` with NaN at what is hidden along an axis, and only what is visible of it."""
    left = torch.tensor(LENGTHS[x.shape[axis]])
    shape = [-1 if d == axis % x.ndim else 1 for d in range(x.ndim)]
    visible = torch.zeros(x.shape[axis], dtype=torch.bool).index_fill(0, left, True).reshape(shape)
    return Masked(torch.where(visible, x, math.nan), visible), x.index_select(axis, left)


def agree(ours: Any, theirs: Tensor) -> None:
    assert isinstance(ours, Masked)
    assert ours.visible.all()
    assert ours.value.shape == theirs.shape
    assert torch.allclose(ours.value, theirs, rtol=1e-12, atol=1e-12)


# --- attention -----------------------------------------------------------------------------------------


def spelled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def summed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("...qk,...kc->...qc", torch.einsum("...qc,...kc->...qk", q, k).softmax(-1), v)


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The weights as the second factor."""
    return (v.mT @ (k @ q.mT).softmax(-2)).mT


WAYS: dict[str, Callable] = {
    "fused": F.scaled_dot_product_attention,
    "spelled": spelled,
    "summed": summed,
    "turned": turned,
}
SIDES = {"keys": (True, False), "values": (False, True), "both": (True, True)}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("way", WAYS)
def test_attention_reads_the_visible_keys(way: str, side: str, length: int) -> None:
    q, (k, few_k), (v, few_v) = (
        draw(2, 5, 4),
        some(draw(2, length, 4, seed=1), -2),
        some(draw(2, length, 4, seed=2), -2),
    )
    hides_k, hides_v = SIDES[side]
    asking = Masked(
        q, torch.ones(1, 1, 1, dtype=torch.bool)
    )  # weights are known as such once a value is masked
    keys, values = k if hides_k else draw(2, length, 4, seed=1), v if hides_v else draw(2, length, 4, seed=2)
    agree(WAYS[way](asking, keys, values), WAYS[way](q, few_k, few_v))


@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("side", SIDES)
def test_attention_with_a_mask_of_its_own(side: str, length: int, kind: torch.dtype) -> None:
    q, (k, few_k), (v, few_v) = (
        draw(2, 5, 4),
        some(draw(2, length, 4, seed=1), -2),
        some(draw(2, length, 4, seed=2), -2),
    )
    hides_k, hides_v = SIDES[side]
    bias = draw(5, length, seed=3)
    bias = bias if kind is torch.float64 else (bias > 0).index_fill(1, torch.tensor(LENGTHS[length][0]), True)
    keys, values = k if hides_k else draw(2, length, 4, seed=1), v if hides_v else draw(2, length, 4, seed=2)
    ours = F.scaled_dot_product_attention(q, keys, values, bias)
    agree(ours, F.scaled_dot_product_attention(q, few_k, few_v, bias[:, LENGTHS[length]]))


PADDINGS = {
    "none": lambda shape: None,
    "bool": lambda shape: torch.zeros(shape, dtype=torch.bool),
    "float": lambda shape: draw(*shape, seed=4),
}


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("side", SIDES)
def test_multi_head_attention_reads_the_visible_keys(
    side: str, length: int, padding: str, batched: bool
) -> None:
    torch.manual_seed(0)
    attention, many = nn.MultiheadAttention(4, 2, dtype=torch.float64).eval(), [2] * batched
    q, rows = draw(5, *many, 4), [draw(length, *many, 4, seed=n) for n in (1, 2)]
    (k, few_k), (v, few_v) = (some(x, 0) for x in rows)
    given = PADDINGS[padding]((*many, length))
    few = None if given is None else given[..., LENGTHS[length]]
    keys, values = (
        masked if hides else x for masked, hides, x in zip((k, v), SIDES[side], rows, strict=True)
    )
    with torch.no_grad():
        ours, _ = attention(q, keys, values, key_padding_mask=given)
        theirs, _ = attention(q, few_k, few_v, key_padding_mask=few)
    agree(ours, theirs)


@pytest.mark.parametrize("way", WAYS)
def test_hidden_queries_stay_hidden(way: str) -> None:
    """One query of three is hidden: it answers nothing, and the others answer as before."""
    q, k, v = (draw(2, 3, 4, seed=n) for n in range(3))
    (asking, _), theirs = some(q, -2), WAYS[way](q, k, v)
    ours = WAYS[way](asking, k, v)
    assert ours.visible.expand(ours.value.shape)[0, :, 0].tolist() == [True, False, True]
    assert torch.allclose(ours.value[:, [0, 2]], theirs[:, [0, 2]], rtol=1e-12, atol=1e-12)


# --- norms and statistics ------------------------------------------------------------------------------

W, B = draw(4, seed=5), draw(4, seed=6)
STATISTICS: dict[str, Callable] = {
    "mean": lambda x: x.mean(-1),
    "maximum": lambda x: x.amax(-1),
    "minimum": lambda x: x.amin(-1),
    "variance": lambda x: x.var(-1, correction=0),
    "deviation": lambda x: x.std(-1, correction=0),
    "logsumexp": lambda x: x.logsumexp(-1),
    "pool": lambda x: F.adaptive_avg_pool1d(x, 1),
    "maximal pool": lambda x: F.adaptive_max_pool1d(x, 1),
}
SUMS: dict[str, Callable] = {
    "sum": lambda x: x.sum(-1),
    "product with ones": lambda x: x @ torch.ones(x.shape[-1], dtype=torch.float64),
    "ones of activations": lambda x: (x @ (x * 0 + 1).mT)[..., 0],
    "linear": lambda x: F.linear(x, torch.ones(1, x.shape[-1], dtype=torch.float64))[..., 0],
    "einsum": lambda x: torch.einsum("bcn->bc", x),
    "einsum of two": lambda x: torch.einsum("bcn,bcn->bc", x, x * 0 + 1),
    "tensordot": lambda x: torch.tensordot(x, torch.ones(x.shape[-1], dtype=torch.float64), 1),
    "running sum": lambda x: x.cumsum(-1)[..., -1],
    "where": lambda x: torch.where(torch.ones(x.shape[-1], dtype=torch.bool), x, 0.0).sum(-1),
    "chosen": lambda x: x[..., torch.ones(x.shape[-1], dtype=torch.bool)].sum(-1),
    "axis by axis": lambda x: x.unsqueeze(-1).sum((-1, -2)),
    "norm": lambda x: (x - x.amin(-1, keepdim=True)).norm(1, -1) + (x * 0 + 1).sum(-1) * x.amin(-1),
}
"""Ways to write the sum over positions (law 11)."""
WHOLE: dict[str, Callable] = {
    "maximum": lambda x: x.max(-1).values,
    "maximum of axes": lambda x: x.amax((-2, -1)),
    "minimum": lambda x: x.min(-1).values,
    "first": lambda x: x.sort(-1).values[..., 0],
    "product": lambda x: x.prod(-1),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int16])
@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("name", WHOLE)
def test_statistics_of_whole_numbers(name: str, length: int, dtype: torch.dtype) -> None:
    """What is hidden holds the extremes of its dtype."""
    numbers = (draw(2, 4, length) * 5).abs().to(dtype)
    x, few = some(numbers.double(), -1)
    for extreme in (torch.iinfo(dtype).min, torch.iinfo(dtype).max):
        ours = WHOLE[name](Masked(torch.where(x.visible, numbers, extreme), x.visible))
        assert torch.equal(ours.value, WHOLE[name](few.to(dtype)))


NORMS: dict[str, Callable] = {
    "instance": lambda x: F.instance_norm(x, None, None, W, B),
    "group": lambda x: F.group_norm(x, 2, W, B),
    "layer": lambda x: F.layer_norm(x, x.shape[1:]),
    "root mean square": lambda x: F.rms_norm(x, x.shape[1:]),
    "batch": lambda x: F.batch_norm(x, None, None, W, B, training=True),
    "softmax": lambda x: x.softmax(-1),
    "log softmax": lambda x: x.log_softmax(-1),
    "normalize": lambda x: F.normalize(x, dim=1),
}


@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_the_visible(name: str, length: int) -> None:
    ours, few = some(draw(2, 4, length), -1)
    agree(STATISTICS[name](ours), STATISTICS[name](few))


@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("name", SUMS)
def test_every_spelling_of_a_sum_is_of_the_visible(name: str, length: int) -> None:
    ours, few = some(draw(2, 4, length), -1)
    agree(SUMS[name](ours), few.sum(-1))


@pytest.mark.parametrize("p", [0, 0.5, 1, 2, 3, math.inf, -math.inf, -1, -2])
@pytest.mark.parametrize("length", [3, 7])
def test_norms_are_of_the_visible(length: int, p: float) -> None:
    x, few = some(draw(2, 4, length), -1)
    agree(torch.linalg.vector_norm(x, p, -1), torch.linalg.vector_norm(few, p, -1))


REGION = torch.zeros(6, 6, dtype=torch.bool)
REGION[:2, :3] = True
SCORES: dict[str, Callable] = {
    "product": lambda y: (y * REGION).sum((2, 3)),
    "where": lambda y: torch.where(REGION, y, 0.0).sum((2, 3)),
    "filled": lambda y: y.masked_fill(~REGION, 0.0).sum((2, 3)),
    "einsum": lambda y: torch.einsum("nchw,hw->nc", y, REGION.double()),
    "chosen": lambda y: y[:, :, REGION].sum(-1),
    "cut out": lambda y: y[:, :, :2, :3].sum((2, 3)),
    "flat": lambda y: y.flatten(2) @ REGION.flatten().double(),
}
"""Ways to write the sum over a region of a map, as scores of dense predictions are."""


@pytest.mark.parametrize("name", SCORES)
def test_a_score_of_a_region_is_of_what_is_visible_there(name: str) -> None:
    """It does not change with what is hidden elsewhere."""
    y, row = draw(2, 3, 6, 6), torch.arange(6)[:, None]
    for visible in (REGION, row < 2, row < 4, row % 2 == 0):
        shown = visible.expand(6, 6)[None, None]
        ours = SCORES[name](Masked(torch.where(shown, y, math.nan), shown))
        agree(ours, (y * (REGION & shown)).sum((2, 3)))


@pytest.mark.filterwarnings("ignore:var\\(\\)")
@pytest.mark.parametrize("correction", [0, 0.5, 1, 1.5, 2])
@pytest.mark.parametrize("length", LENGTHS)
def test_variances_are_corrected_as_torch_corrects_them(length: int, correction: float) -> None:
    """Where as much is subtracted as there are entries, torch answers NaN or infinity; this stays finite."""
    x, few = some(draw(2, 4, length), -1)
    ours, theirs = x.var(-1, correction=correction).value, few.var(-1, correction=correction)
    assert ours.isfinite().all()
    if few.shape[-1] > correction:
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["amax", "amin", "max", "min"])
def test_extremes_of_truths_are_truths(name: str) -> None:
    x, few = some(draw(2, 4, 3), -1)
    ours = getattr(torch, name)(Masked(x.value > 0, x.visible), -1)
    ours = ours if isinstance(ours, Masked) else ours[0]
    assert ours.dtype is torch.bool and torch.equal(ours.value, getattr(few > 0, "a" + name[-3:])(-1))


@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("name", ["any", "all"])
def test_truths_of_the_visible(name: str, hidden: bool, length: int) -> None:
    """Of both truths, all of one, and whatever stands where it is hidden."""
    mixed = draw(3, length) > torch.tensor([[0.0], [math.inf], [-math.inf]])
    masked, few = some(mixed.double(), -1)
    x = Masked(torch.where(masked.visible, mixed, hidden), masked.visible)
    ours = getattr(torch, name)(x, -1)
    assert torch.equal(ours.value, getattr(torch, name)(few.bool(), -1))


@pytest.mark.parametrize("side", SIDES)
def test_heads_that_share_keys_have_each_its_own_mask(side: str) -> None:
    """Grouped queries: the visible keys of the first group's head are not those of the second's."""
    q, k, v = draw(1, 4, 5, 4), draw(1, 2, 3, 4, seed=1), draw(1, 2, 3, 4, seed=2)
    visible = torch.tensor([[True, True, False], [False, True, True]])[None, :, :, None]
    pairs = (
        Masked(torch.where(visible, x, math.nan), visible) if hides else x
        for x, hides in zip((k, v), SIDES[side], strict=True)
    )
    ours = F.scaled_dot_product_attention(q, *pairs, enable_gqa=True)
    heads = [(slice(0, 2), 0, [0, 1]), (slice(2, 4), 1, [1, 2])]
    theirs = [
        F.scaled_dot_product_attention(q[:, those], k[:, [i]][:, :, left], v[:, [i]][:, :, left])
        for those, i, left in heads
    ]
    agree(ours, torch.cat(theirs, 1))


@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("name", NORMS)
def test_norms_over_the_visible(name: str, length: int) -> None:
    x, few = some(draw(2, 4, length), -1)
    ours = NORMS[name](x)
    assert torch.equal(ours.visible, x.visible)
    left = ours.value.index_select(-1, torch.tensor(LENGTHS[length]))
    assert torch.allclose(left, NORMS[name](few), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["instance", "batch", "group", "layer"])
def test_gradients_of_norms_know_nothing_of_the_hidden(name: str) -> None:
    x, few = some(draw(2, 4, 7), -1)
    got = []
    for values in (x, few):
        with torch.enable_grad():
            weights = [t.clone().requires_grad_() for t in (W, B)]
            out = (NORMS[name](values) if name == "layer" else _norm(name, values, *weights)).square()
            read = torch.where(out.visible, out.value, 0) if isinstance(out, Masked) else out
            got.append([read.sum()] if name == "layer" else torch.autograd.grad(read.sum(), weights))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(*got, strict=True))


def _norm(name: str, x: Any, weight: Tensor, bias: Tensor) -> Tensor:
    norms = {
        "instance": lambda: F.instance_norm(x, None, None, weight, bias),
        "group": lambda: F.group_norm(x, 2, weight, bias),
        "batch": lambda: F.batch_norm(x, None, None, weight, bias, training=True),
    }
    return norms[name]()


@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("norm", [F.batch_norm, F.instance_norm])
def test_running_statistics_are_those_of_the_visible(norm: Callable, length: int) -> None:
    """Of two visible entries the unbiased variance is twice the other."""
    moved = []
    for values in some(draw(1, 4, length), -1):
        mean, var = W.clone(), B.abs()
        norm(values, mean, var, None, None, True, 0.3)
        moved.append((mean, var))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*moved, strict=True))


# --- softmax weights that move -------------------------------------------------------------------------

PADS = [(0, 0, 0, 0, 1, 1), (1, 0, 2, 0), (0, 0, 0, 0, -1, 2), (2, -1)]


@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_weights_may_be_padded(dim: int, shuffled: bool, mode: str, pads: tuple) -> None:
    """With all visible, what follows answers as torch; the mark of weights moves with them."""
    x: Any = draw(2, 4, 5, 4)
    if mode != "constant":  # which pads the last two axes alone
        pads = (*pads, 0, 0)[:4]
    shown = Masked(x, torch.ones(2, 1, 5, 4, dtype=torch.bool))
    tails = (lambda y: y[:, :, 0], lambda y: y @ y.mT, lambda y: y.chunk(2, 1)[0], lambda y: y.flatten(1))
    for tail in tails:
        weights = (F.pixel_shuffle(y.softmax(dim), 2) if shuffled else y.softmax(dim) for y in (shown, x))
        ours, theirs = (tail(F.pad(w, pads, mode)) for w in weights)
        agree(ours, theirs)


def test_weights_padded_with_zeros_are_renormalised() -> None:
    """Zeros keep their sum: values that are hidden leave the others' weights to be scaled up."""
    q: Any = draw(2, 5, 3)
    asking = Masked(q, torch.ones(1, 1, 1, dtype=torch.bool))
    v, few = some(draw(2, 7, 4, seed=2), -2)
    keys = draw(2, 5, 3, seed=1)
    ours = F.pad((asking @ keys.mT).softmax(-1), (0, 2)) @ v
    weights = F.pad((q @ keys.mT).softmax(-1), (0, 2))[..., LENGTHS[7]]
    agree(ours, weights / weights.sum(-1, keepdim=True) @ few)


@pytest.mark.parametrize("factor", [3.0, 0.1, -2.0])
@pytest.mark.parametrize("einsum", [False, True])
def test_weights_keep_their_factor(factor: float, einsum: bool) -> None:
    """Scaled, they are renormalised to what they summed to."""
    asking = Masked(draw(2, 5, 3), torch.ones(1, 1, 1, dtype=torch.bool))
    weights = (asking @ draw(2, 7, 3, seed=1).mT).softmax(-1)
    v, _ = some(draw(2, 7, 4, seed=2), -2)
    scaled = weights * factor
    ours = torch.einsum("bqk,bkc->bqc", scaled, v) if einsum else scaled @ v
    assert torch.allclose(ours.value, factor * (weights @ v).value, rtol=1e-12, atol=1e-12)


# --- what few models do --------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [True, False])
def test_a_vector_is_sorted_with_its_mask(descending: bool) -> None:
    x, few = some(draw(7), 0)
    values, places = x.sort(descending=descending)
    assert torch.equal(values.value[:3], few.sort(descending=descending)[0])
    assert values.visible.tolist() == [True] * 3 + [False] * 4
    assert torch.equal(x.argsort(descending=descending), places)
    single = Masked(torch.tensor(2.0), torch.tensor(True)).sort()
    assert (single[0].value.item(), single[0].visible.item(), single[1].item()) == (2.0, True, 0)


@pytest.mark.parametrize("equation", ["ii", "ii->i", "bii->bi", "ij,jj->i"])
def test_diagonals_in_einsum_are_refused(equation: str) -> None:
    operands = [Masked(draw(*[3] * len(t)), torch.ones([1] * len(t)).bool()) for t in _terms(equation)]
    with pytest.raises(NotImplementedError, match="takes a diagonal"):
        torch.einsum(equation, *operands)


def test_a_repeated_letter_of_the_answer_is_no_diagonal() -> None:
    x = Masked(draw(3, 4), torch.ones(1, 1, dtype=torch.bool))
    assert torch.equal(torch.einsum("ij->ji", x).value, x.value.T)


def _terms(equation: str) -> list[str]:
    return equation.split("->")[0].split(",")


@pytest.mark.parametrize("length", LENGTHS)
def test_linear_layers_with_a_vector_of_weights(length: int) -> None:
    """They answer one number per position: of masks along positions, along features, and of weights."""
    x, weight = draw(2, length, 4), draw(4, seed=1)
    along, _ = some(x, 1)
    ours = F.linear(along, weight)
    assert torch.equal(ours.visible.expand(2, -1), along.visible[..., 0].expand(2, -1))
    assert torch.allclose(torch.where(ours.visible, ours.value, 0), along_only(x @ weight, ours.visible))
    features, _ = some(draw(2, 5, length), 2)
    ours, weight = F.linear(features, draw(length, seed=1)), draw(length, seed=1)
    kept = torch.where(features.visible, features.value, 0)
    assert ours.visible.all() and torch.allclose(ours.value, kept @ weight)
    hidden = Masked(weight, torch.ones(1, dtype=torch.bool))
    assert torch.allclose(F.linear(draw(2, 5, length), hidden).value, draw(2, 5, length) @ weight)


def along_only(x: Tensor, visible: Tensor) -> Tensor:
    return torch.where(visible, x, 0)


@pytest.mark.parametrize("shape", [(1, 4, 1, 3), (2, 4, 3, 1), (1, 2, 3, 3)], ids=str)
def test_shuffled_channels_take_their_masks_along(shape: tuple) -> None:
    x, visible = draw(*shape), draw(*shape, seed=1) > 0
    out = F.channel_shuffle(Masked(x, visible), 2)
    assert torch.equal(out.visible.expand(shape), F.channel_shuffle(visible, 2))
    assert torch.equal(out.value[out.visible], F.channel_shuffle(x, 2)[out.visible])


def test_what_a_step_leaves_out_makes_a_phase() -> None:
    """Phases that are laid side by side keep each its own mask; what is cut without a step joins."""
    x = Masked(draw(1, 2, 4, 4), torch.eye(4, dtype=torch.bool)[None, None])
    phases = [x[..., a::2, b::2] for a in (0, 1) for b in (0, 1)]
    out = torch.cat(phases, 1)
    assert torch.equal(
        out.visible.expand(out.shape), torch.cat([p.visible.expand(p.shape) for p in phases], 1)
    )
    halves = [x[..., :2:1, :2], x[..., 2:, 2:]]
    joined = torch.cat(halves, 1)
    assert torch.equal(joined.visible, halves[0].visible & halves[1].visible)


@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_a_key_padding_mask_that_is_given_as_it_is_joins_the_hidden_keys(kind: torch.dtype) -> None:
    """The module makes numbers of truths before the function is called; others call that themselves."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, dtype=torch.float64).eval()
    x, given = draw(7, 2, 4), torch.zeros(2, 7, dtype=torch.bool)
    given[:, 1] = True  # of those that are visible, 1, 2 and 6
    keys, _ = some(x, 0)
    weights = (layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0)
    weights += (layer.out_proj.weight, layer.out_proj.bias, False)
    padding = given if kind is torch.bool else torch.where(given, -math.inf, 0.0).to(kind)
    with torch.no_grad():
        ours, _ = F.multi_head_attention_forward(x, keys, keys, 4, 2, *weights, key_padding_mask=padding)
        theirs, _ = layer(x, x[[2, 6]], x[[2, 6]])
    agree(ours, theirs)


@pytest.mark.parametrize("length", LENGTHS)
def test_inner_products_run_over_the_last_axes(length: int) -> None:
    """Over what both show."""
    (a, few_a), (b, few_b) = some(draw(2, 3, length), -1), some(draw(4, length, seed=1), -1)
    whole = Masked(draw(4, length, seed=1), torch.ones(1, 1, dtype=torch.bool))
    for left, right in ((a, b), (a, whole), (draw(2, 3, length), b)):
        agree(torch.inner(left, right), torch.inner(few_a, few_b))


@pytest.mark.parametrize("name", ["sqrt", "rsqrt", "log", "reciprocal", "logit", "asin", "div", "pow"])
def test_slopes_at_hidden_entries_do_no_harm(name: str) -> None:
    """Forward, they answer as without gradients; backward, weights get finite gradients."""
    functions: dict[str, Callable] = {"div": lambda x: 0.5 / x, "pow": lambda x: x**-0.5}
    function, weight = functions.get(name, getattr(torch, name, None)), torch.tensor(0.5, requires_grad=True)
    visible = torch.tensor([[True, False, True]])
    x = Masked(torch.tensor([[0.3, 0.0, 0.6]]), visible)
    plain = function(x.value * 0.5)
    with torch.enable_grad():
        out = function(x * weight)
        torch.where(visible, out.value, 0.0).sum().backward()
    assert torch.equal(out.value[visible], plain[visible])
    assert weight.grad is not None and weight.grad.isfinite()


@pytest.mark.parametrize("length", [3, 7])
def test_vectors_of_a_batch_are_normalised_over_the_visible_ones(length: int) -> None:
    x, few = some(draw(length, 4), 0)
    ours = F.batch_norm(x, None, None, W, B, training=True)
    assert torch.allclose(ours.value[LENGTHS[length]], F.batch_norm(few, None, None, W, B, training=True))


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("weights", [None, torch.tensor([1, 2, 1, 3, 1, 1, 2])])
@pytest.mark.parametrize("rows", [0, 3])
def test_covariances_are_over_the_visible_columns(rows: int, weights: Any, correction: int) -> None:
    x, few = some(draw(rows, 7) if rows else draw(7), -1)
    left = None if weights is None else weights[LENGTHS[7]]
    agree(
        torch.cov(x, fweights=weights, correction=correction),
        torch.cov(few, fweights=left, correction=correction),
    )
    agree(x.corrcoef(), few.corrcoef())
    none = Masked(x.value, torch.zeros_like(x.visible))
    single = Masked(x.value, torch.arange(7).reshape(x.visible.shape) == 2)
    for found, seen in ((none.cov(), False), (none.corrcoef(), False), (single.cov(), True)):
        assert found.value.isfinite().all() and bool(found.visible.all()) == seen
    whole = Masked(draw(3, 7), torch.ones(1, 7, dtype=torch.bool))
    assert torch.equal(whole.cov().value, draw(3, 7).cov())
    assert torch.equal(whole.corrcoef().value, draw(3, 7).corrcoef())


@pytest.mark.parametrize("correction", [0, 1])
def test_covariances_of_rows_with_columns_of_their_own(correction: int) -> None:
    """Over the columns that both show, each row less its own mean, as numpy has it."""
    x, visible = draw(4, 9), torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) < 0.6
    visible[3] = True
    given = Masked(torch.where(visible, x, math.nan), visible)
    array = np.ma.masked_array(x.numpy(), ~visible.numpy())
    agree(given.cov(correction=correction), torch.tensor(np.ma.cov(array, ddof=correction).data))
    lengths = torch.tensor([x[i, visible[i]].var(correction=1) for i in range(4)]).sqrt()
    wanted = torch.tensor(np.ma.cov(array).data) / lengths / lengths[:, None]
    agree(given.corrcoef(), wanted.clip(-1, 1))
    assert float(given.cov(correction=correction).value[3, 3]) == float(x[3].cov(correction=correction))


@pytest.mark.parametrize("function", [torch.cov, torch.corrcoef])
def test_covariances_of_images_show_where_both_do(function: Callable) -> None:
    x = draw(3, 7)
    shown = torch.tensor([True, False, True])
    found = function(Masked(torch.where(shown[:, None], x, math.nan), shown[:, None]))
    assert torch.equal(found.visible.expand(3, 3), shown[:, None] & shown)
    kept = torch.tensor([0, 2])
    assert torch.allclose(found.value[kept][:, kept], function(x[kept]), rtol=1e-12, atol=1e-12)


OF_COMPLEX: dict[str, Callable] = {
    "var": lambda x: x.var(1),
    "biased var": lambda x: x.var(1, correction=0),
    "std": lambda x: x.std(1),
    "var and mean": lambda x: torch.var_mean(x, 1)[0],
    "logsumexp": lambda x: x.logsumexp(1),
    "mean": lambda x: x.mean(1),
}


@pytest.mark.parametrize("name", OF_COMPLEX)
def test_statistics_of_complex_numbers(name: str) -> None:
    x, few = some(torch.complex(draw(2, 7, 3), draw(2, 7, 3, seed=1)), 1)
    ours, theirs = OF_COMPLEX[name](x), OF_COMPLEX[name](few)
    assert ours.value.dtype is theirs.dtype
    agree(ours, theirs)
    whole = Masked(few, torch.ones(1, 3, 1, dtype=torch.bool))
    assert torch.equal(OF_COMPLEX[name](whole).value, theirs)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("length", [16, 6])
@pytest.mark.parametrize("way", ["function", "method", "real"])
@pytest.mark.filterwarnings("ignore:stft with return_complex=False is deprecated:UserWarning")
def test_spectrograms_read_hidden_samples_as_zero(way: str, length: int, center: bool) -> None:
    """A frame is visible if its window reads a visible sample."""
    x = draw(3, 64)
    visible = torch.rand(3, 64, generator=torch.Generator().manual_seed(1)) < 0.1
    options = {"hop_length": 3, "win_length": length, "window": torch.ones(length).double(), "center": center}
    call = torch.Tensor.stft if way == "method" else torch.stft
    read = lambda given: call(given, 16, **options, return_complex=True)  # noqa: E731
    ours: Any = read(Masked(torch.where(visible, x, math.nan), visible))
    assert torch.equal(ours.value, read(torch.where(visible, x, 0)))
    # a frame reads nothing of what it does not see: its spectrum of those samples is zero
    seen = read(visible.double()).abs().amax(1, keepdim=True) > 1e-9
    assert torch.equal(ours.visible, seen)
    if way == "real":
        pairs: Any = torch.stft(Masked(x, visible), 16, **options, return_complex=False)
        assert torch.equal(pairs.visible[..., 0], seen)
    whole = Masked(x, torch.ones(1, 1, dtype=torch.bool))
    assert torch.equal(read(whole).value, read(x)) and read(whole).visible.shape == (1, 1, 1)
