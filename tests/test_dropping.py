"""Hidden tokens and steps are as if they had never been there: the rules against really dropping them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)

from layermask import LayerMasking, Masked, NoMaskRule

BATCH, TOKENS, WIDTH, HEADS = 3, 7, 8, 2


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(
        BATCH, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


KEPT = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0]], dtype=torch.bool)
"""Which tokens each sequence has left."""


def masked(x: Tensor, kept: Tensor = KEPT) -> Masked:
    seen = kept[..., None]
    return Masked(torch.where(seen, x, math.nan), seen)


class Attention(nn.Module):
    """The projections of self-attention; `attend(q, k, v)` is one of the ways to do the rest."""

    def __init__(self, attend: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.attend = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), attend

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(x).reshape(x.shape[0], -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        )
        return self.out(self.attend(q, k, v).transpose(1, 2).reshape(x.shape[0], -1, WIDTH))


def by_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * 4**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores, -1), v)


def by_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    bias = q.new_zeros(1, 1, 1)
    out = torch.bmm(torch.baddbmm(bias, q, k.mT, beta=0, alpha=0.5).softmax(-1), v)
    return out.unflatten(0, (-1, HEADS))


def talking_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The heads' scores and weights mix (CaiT)."""
    mix = torch.tensor([[0.3, 0.9], [-0.5, 1.2]], dtype=q.dtype)
    scores = F.linear((q @ k.mT).permute(0, 2, 3, 1), mix).permute(0, 3, 1, 2)
    return F.linear(scores.softmax(-1).permute(0, 2, 3, 1), mix).permute(0, 3, 1, 2) @ v


def cross_covariance(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of channels to channels, over normalised tokens (XCiT)."""
    q, k, v = (t.transpose(-2, -1) for t in (q, k, v))
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * 1.7).softmax(-1)
    return (weights @ v).transpose(-2, -1)


def linear_by_ones(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """EfficientViT: the normaliser is a padded column of ones."""
    q, k = F.relu(q) + 0.1, F.relu(k) + 0.1
    out = q @ (k.transpose(-2, -1) @ F.pad(v, (0, 1), value=1.0))
    return out[..., :-1] / (out[..., -1:] + 1e-15)


def linear_by_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
    return torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v)) / (total + 1e-15)


def efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax of the keys over the tokens (Shen et al. 2021)."""
    return q.softmax(-1) @ (k.softmax(-2).mT @ v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


WAYS = [
    F.scaled_dot_product_attention,
    by_softmax,
    by_einsum,
    by_baddbmm,
    talking_heads,
    cross_covariance,
    linear_by_ones,
    linear_by_sum,
    efficient,
    causal,
    grouped,
]


def assert_as_dropped(model: Callable[..., Tensor], x: Tensor, kept: Tensor = KEPT) -> None:
    """Assert that kept tokens come out as if the others were not there, and stay the visible ones."""
    out = model(masked(x, kept))
    assert torch.equal(out.visible.expand(*kept.shape, 1)[..., 0], kept)
    for row, seen in enumerate(kept):
        theirs = model(x[row : row + 1, seen])
        assert torch.allclose(out.value[row, seen], theirs[0], atol=1e-12, rtol=0), f"sequence {row}"


@pytest.mark.parametrize("attend", WAYS, ids=lambda way: way.__name__)
def test_attention_drops_tokens(attend: Callable) -> None:
    assert_as_dropped(Attention(attend).double(), tokens())


@pytest.mark.parametrize("attend", WAYS, ids=lambda way: way.__name__)
def test_nothing_visible_stays_finite(attend: Callable) -> None:
    x = tokens().requires_grad_()
    seen = torch.zeros(BATCH, TOKENS, 1, dtype=torch.bool)
    out = Attention(attend).double()(Masked(torch.where(seen, x, 0.0), seen))
    out.value.sum().backward()
    assert not out.visible.any()
    assert out.value.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_multihead_attention_drops_tokens(batch_first: bool, needs: bool, options: dict) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **options).double()

    def model(x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        out, _ = attention(x, x, x, need_weights=needs)
        return out if batch_first else out.transpose(0, 1)

    assert_as_dropped(model, tokens())


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_drops_tokens(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 16, batch_first=True, norm_first=norm_first, activation="gelu"
    )
    assert_as_dropped(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval(), tokens())


@pytest.mark.parametrize("number", [(1, WIDTH), (2, WIDTH)])
def test_class_tokens_are_always_there(number: tuple) -> None:
    extra, position = tokens(1)[0, : number[0]], tokens(2)[:1]
    attention = Attention(by_softmax).double()

    def model(x: Tensor, kept: Tensor | None = None) -> Tensor:
        x = x + (position if kept is None else position[:, kept])
        x = torch.cat([extra.expand(x.shape[0], -1, -1), x], dim=1)
        x = attention(x + attention(x))
        return x[:, 0]

    out = model(masked(tokens()))
    assert out.visible.all()
    for row, seen in enumerate(KEPT):
        assert torch.allclose(
            out.value[row], model(tokens()[row : row + 1, seen], seen)[0], atol=1e-12, rtol=0
        )


def test_cross_attention_to_a_masked_sequence() -> None:
    torch.manual_seed(0)
    attention, query = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double(), tokens(1)[:, :2]
    x, out = tokens(), None
    out, _ = attention(query, masked(x), masked(x))
    assert out.visible.all()
    for row, seen in enumerate(KEPT):
        theirs, _ = attention(query[row : row + 1], x[row : row + 1, seen], x[row : row + 1, seen])
        assert torch.allclose(out.value[row], theirs[0], atol=1e-12, rtol=0)


class Queries(nn.Module):
    """Two queries ask the pixels (N, WIDTH, 1, TOKENS), then one another, heads merged into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(by_baddbmm).double()

    def forward(self, images: Tensor) -> Tensor:
        x = self.attention(images.flatten(2).mT)
        query = tokens(1)[:1, :2].expand(len(images), -1, -1)
        found = ((query @ x.mT).softmax(-1) @ x) + query
        return self.attention(found) + found


def test_merged_heads_leave_an_image_of_which_nothing_is_visible_as_it_is_alone() -> None:
    removal, images = LayerMasking(Queries()), tokens().mT.unsqueeze(2)
    visible = KEPT[:, None, None].clone()
    visible[1] = False
    both = removal(images, visible)
    for row in range(BATCH):
        alone = removal(images[row : row + 1], visible[row : row + 1])
        assert torch.allclose(both[row : row + 1], alone, atol=1e-12, rtol=0)
    assert not torch.allclose(both[1], removal.model.attention.out.bias.expand(2, -1), atol=1e-3)


@pytest.mark.parametrize("kind", ["for all", "for each", "float"])
def test_a_query_whose_open_keys_are_all_hidden_attends_to_those_that_are_visible(kind: str) -> None:
    """Of none, torch's weights are NaN. What the caller closes for good stays so."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    closed = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)  # the first queries see the first keys
    given = {
        "for all": closed,
        "for each": closed.expand(BATCH * HEADS, -1, -1),
        "float": torch.zeros(TOKENS, TOKENS, dtype=torch.float64).masked_fill(closed, -math.inf),
    }[kind]
    query, x = tokens(1), tokens()
    out, weights = attention(query, masked(x), masked(x), attn_mask=given)
    assert out.visible.all() and weights.isfinite().all()
    for row, seen in enumerate(KEPT):
        left = closed[:, seen]
        left = left & ~left.all(-1, keepdim=True)
        theirs, _ = attention(*(y[row : row + 1] for y in (query, x[:, seen], x[:, seen])), attn_mask=left)
        assert torch.allclose(out.value[row], theirs[0], atol=1e-12, rtol=0)
    never = torch.ones_like(closed)
    assert attention(query, masked(x), masked(x), attn_mask=never)[0].value.isnan().all()


@pytest.mark.parametrize("kind", ["bool", "float", "least", "minus infinity"])
@pytest.mark.parametrize("attend", ["sdpa", "softmax"])
def test_attention_masks_close_keys_beside_the_hidden_ones(attend: str, kind: str) -> None:
    """Even where every key that is visible is closed by the least number, hidden ones get no weight."""
    open_ = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(5)) < 0.7
    open_ |= torch.eye(TOKENS, dtype=torch.bool)
    least = {
        "bool": -math.inf,
        "float": -100.0,
        "least": torch.finfo(torch.float64).min,
        "minus infinity": -math.inf,
    }[kind]
    added = torch.zeros(TOKENS, TOKENS, dtype=torch.float64).masked_fill(~open_, least)
    if kind == "least":
        added[3] = least
    q, k, v = tokens(1), tokens(2), tokens(3)

    def model(q: Tensor, k: Tensor, v: Tensor, added: Tensor, open_: Tensor) -> Tensor:
        if attend == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=open_ if kind == "bool" else added)
        return (q @ k.mT / math.sqrt(WIDTH) + added).softmax(-1) @ v

    out = model(masked(q), masked(k), masked(v), added, open_)
    for row, seen in enumerate(KEPT):
        part = (t[row : row + 1, seen] for t in (q, k, v))
        theirs = model(*part, added[seen][:, seen], open_[seen][:, seen])
        assert torch.allclose(out.value[row, seen], theirs[0], atol=1e-12, rtol=0)


def test_windows_with_a_shift_attend_to_what_they_show() -> None:
    """Swin: windows of 2 x 2 on a rolled 4 x 4 map; a window's attention is that of its visible tokens."""
    x = torch.randn(2, 4, 4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    attention = Attention(by_softmax).double()

    def windows(t: Tensor) -> Tensor:
        t = torch.roll(t, (-1, -1), (1, 2)).view(2, 2, 2, 2, 2, -1)
        return t.permute(0, 1, 3, 2, 4, 5).reshape(8, 4, -1)

    out = attention(windows(Masked(torch.where(kept[..., None], x, math.nan), kept[..., None])))
    for value, tokens_in, seen in zip(out.value, windows(x), windows(kept[..., None])[..., 0], strict=True):
        if seen.any():
            assert torch.allclose(value[seen], attention(tokens_in[None, seen])[0], atol=1e-12, rtol=0)


POOLINGS: dict[str, Callable] = {
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.max(dim=1).values,
    "amax": lambda x: x.amax(1),
    "min": lambda x: x.min(1)[0],
    "logsumexp": lambda x: x.logsumexp(1),
    "std": lambda x: x.std(1, unbiased=False),
    "var": lambda x: torch.var(x, 1, correction=0),
    "generalised mean": lambda x: x.abs().clamp(min=1e-6).pow(3).mean(1).pow(1 / 3),
    "attention pooling": lambda x: ((x @ x.new_ones(WIDTH, 1)).softmax(1) * x).sum(1),
    "learned query": lambda x: ((x @ x.new_ones(WIDTH)).softmax(-1).unsqueeze(1) @ x).squeeze(1),
    "soft bag": lambda x: torch.einsum("bn,bnc->bc", (x.sum(-1) / 3).softmax(1), x),
    "sum": lambda x: x.sum(1),
    "products": lambda x: (x.mT @ x).flatten(1),
    "sum of absolutes": lambda x: x.norm(p=1, dim=1),
    "length": lambda x: x.norm(dim=1),
    "any": lambda x: (x > 1).any(1).double(),
    "all": lambda x: (x > -1).all(1).double(),
}


@pytest.mark.parametrize("way", POOLINGS)
def test_pooling_is_over_the_tokens_left(way: str) -> None:
    pool, x = POOLINGS[way], tokens()
    out = pool(masked(x))
    assert out.visible.all()
    for row, seen in enumerate(KEPT):
        assert torch.allclose(out.value[row], pool(x[row : row + 1, seen])[0], atol=1e-12, rtol=0), (
            f"sequence {row}"
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_weights_that_knew_nothing_of_the_mask_are_renormalised(side: str) -> None:
    """A softmax over all places, predicted from pooled features: its part on what is visible counts."""
    x, hidden = tokens(), masked(tokens())
    scores = hidden.mean(1) @ tokens(4)[0].mT
    weights = scores.softmax(-1)
    left = (weights.unsqueeze(1) @ hidden).squeeze(1)
    out = left if side == "left" else (hidden.mT @ weights.unsqueeze(-1)).squeeze(-1)
    for row, seen in enumerate(KEPT):
        part = weights.value[row, seen]
        assert torch.allclose(out.value[row], (part / part.sum()) @ x[row, seen], atol=1e-12, rtol=0)


CUTS: dict[str, Callable[[Any], list[Any]]] = {
    "slices": lambda w: [w[..., :3], w[..., 3:]],
    "chunks": lambda w: [*w.chunk(2, -1)],
    "split": lambda w: [*w.split([3, TOKENS - 3], -1)],
    "one by one": lambda w: [w[..., i : i + 1] for i in range(TOKENS)],
    "narrow": lambda w: [w.narrow(-1, 0, 3), w.narrow(-1, 3, TOKENS - 3)],
    "index": lambda w: [w[..., torch.tensor([0, 1])], w.index_select(-1, torch.arange(2, TOKENS))],
    "scaled": lambda w: [2 * part.mT.mT.clone() for part in w.chunk(2, -1)],
}
PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "matmul": torch.matmul,
    "einsum": lambda w, v: torch.einsum("bqk,bkc->bqc", w, v),
    "transposed": lambda w, v: (v.mT @ w.mT).mT,
}


def _in_parts(weights: Any, values: Any, cut: Callable, product: Callable) -> Any:
    parts = cut(weights)
    sizes = [part.shape[-1] for part in parts]
    return sum(product(w, v) for w, v in zip(parts, values.split(sizes, 1), strict=True))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("cut", CUTS)
def test_a_part_of_softmax_weights_that_knew_nothing_of_the_mask_is_refused(cut: str, product: str) -> None:
    """What is visible of the whole row decides by what its weights grow: a part of it cannot tell."""
    hidden = masked(tokens())
    weights = (hidden.mean(1, keepdim=True) @ tokens(4)[0].mT).softmax(-1)
    PRODUCTS[product](weights, hidden)  # whole rows
    with pytest.raises(NoMaskRule, match=r"softmax weights were cut along their axis.*Multiply whole rows"):
        _in_parts(weights, hidden, CUTS[cut], PRODUCTS[product])


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("cut", CUTS)
def test_parts_of_softmax_weights_that_knew_the_mask_sum_to_the_whole(cut: str, product: str) -> None:
    hidden = masked(tokens())
    weights = (hidden @ hidden.mT).softmax(-1)
    factor = 2 if cut == "scaled" else 1
    parts, whole = _in_parts(weights, hidden, CUTS[cut], PRODUCTS[product]), weights @ hidden * factor
    assert torch.allclose(parts.value, whole.value, atol=1e-12, rtol=0)


@pytest.mark.parametrize("way", POOLINGS)
def test_pooling_of_nothing_is_hidden_and_finite(way: str) -> None:
    out = POOLINGS[way](masked(tokens(), torch.zeros(BATCH, TOKENS, dtype=torch.bool)))
    assert not out.visible.any()
    assert out.value.isfinite().all()


RECURRENT = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 3}),
    (nn.GRU, {"bidirectional": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
    (nn.RNN, {"num_layers": 2, "bias": False}),
]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cls, options", RECURRENT, ids=str)
def test_recurrent_layers_skip_hidden_steps(cls: type, options: dict, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = cls(WIDTH, 5, batch_first=batch_first, **options).double()

    def model(x: Tensor) -> Tensor:
        return layer(x)[0] if batch_first else layer(x.transpose(0, 1))[0].transpose(0, 1)

    assert_as_dropped(model, tokens())
    state = layer(masked(tokens()) if batch_first else masked(tokens()).transpose(0, 1))[1]
    last = state[0] if cls is nn.LSTM else state
    for row, seen in enumerate(KEPT):
        part = tokens()[row : row + 1, seen]
        theirs = layer(part if batch_first else part.transpose(0, 1))[1]
        theirs = theirs[0] if cls is nn.LSTM else theirs
        last_here = last.value[:, row] if isinstance(last, Masked) else last[:, row]
        assert torch.allclose(last_here, theirs[:, 0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sorted_already", [True, False])
@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_skip_hidden_steps(cls: type, sorted_already: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = cls(WIDTH, 5, bidirectional=True, batch_first=batch_first).double()
    lengths = torch.tensor([7, 6, 4] if sorted_already else [6, 7, 4])

    def model(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = x if batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=sorted_already)
        out, state = layer(packed)
        out, _ = pad_packed_sequence(out, batch_first, padding_value=0.5, total_length=TOKENS)
        return (out if batch_first else out.transpose(0, 1)), state[0] if cls is nn.LSTM else state

    ours, last = model(masked(tokens()), lengths)
    whole, whole_last = model(Masked(tokens(), torch.ones(1, 1, 1, dtype=torch.bool)), lengths)
    plain, plain_last = model(tokens(), lengths)
    assert whole.visible.all() and torch.allclose(whole.value, plain, atol=1e-12)
    assert torch.allclose(whole_last, plain_last, atol=1e-12)
    for row, (seen, length) in enumerate(zip(KEPT, lengths.tolist(), strict=True)):
        left = seen & (torch.arange(TOKENS) < length)
        theirs, theirs_last = model(tokens()[row : row + 1, left], left.sum()[None])
        count = int(left.sum())
        assert torch.equal(ours.visible[row, :, 0], seen | (torch.arange(TOKENS) >= length))
        assert torch.allclose(ours.value[row, left], theirs[0, :count], atol=1e-12)
        assert (ours.value[row, length:] == 0.5).all()
        assert torch.allclose(last[:, row], theirs_last[:, 0], atol=1e-12)


def test_sequences_of_several_lengths_are_laid_side_by_side() -> None:
    x = tokens()
    parts = [masked(x)[i, :length] for i, length in enumerate((3, 7, 5))]
    for lay in (
        pad_sequence,
        lambda parts, first: pad_packed_sequence(pack_sequence(parts, False), first)[0],
    ):
        out = lay(parts, True)
        for row, length in enumerate((3, 7, 5)):
            shown = KEPT[row, :length]
            assert torch.equal(out.visible[row, :length, 0], shown) and out.visible[row, length:].all()
            assert torch.equal(out.value[row, :length][shown], x[row, :length][shown])
            assert not out.value[row, length:].any()


class PatchViT(nn.Module):
    """Patches, class token, position embedding, two blocks: token dropping for whole patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls, self.position = (
            nn.Parameter(torch.randn(1, 1, WIDTH)),
            nn.Parameter(torch.randn(1, 10, WIDTH)),
        )
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=True)
        self.blocks, self.head = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(WIDTH, 5),
        )

    def forward(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        if kept is not None:
            x = torch.cat([x[:, :1], x[:, 1:][:, kept]], 1)
        return self.head(self.blocks(x)[:, 0])


@pytest.mark.parametrize("growth", ["any", "half", "center", "keep"])
def test_a_vision_transformer_drops_hidden_patches(growth: str) -> None:
    model = PatchViT().double().eval()
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[1, 0, 0, 1, 1, 0, 0, 0, 1], [0] * 9, [1] * 9], dtype=torch.bool)
    visible = kept.view(3, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    ours = LayerMasking(model, growth=growth)(torch.where(visible, images, math.nan), visible)
    for row, seen in enumerate(kept):
        assert torch.allclose(ours[row], model(images[row : row + 1], seen)[0], atol=1e-12, rtol=0)
