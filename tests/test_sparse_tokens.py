"""Tokens as rows of the sparse engine: the dense engine's answers, views as in torch, and less work."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import TABLES, Step
from programs import Model as MapProgram
from test_aliasing import COMMON, answers, assert_close
from test_tokens import DROPS, IMAGES, KEYS, logits, patches
from torch import Tensor, nn

from layermask import LayerMasking
from layermask.errors import NoRows
from layermask.kernels import library
from layermask.sparse import ops
from layermask.sparse.axes import Axis, arranged, as_rows, axis, of_map, reshaped, shape_of

needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler: auto is dense")
RAGGED = {
    "equal": patches(4, [5] * 4),
    "ragged": patches(4, [5, 0, 16, 9], seed=1),
    "one for all": patches(4, [7]),
    "all": patches(4, [16] * 4),
    "none": patches(4, [0] * 4),
}


def _unfused() -> nn.Module:
    model = DROPS["vit"]()
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False
    return model


def _eager() -> nn.Module:
    model = DROPS["hf ViT"]()
    model.set_attn_implementation("eager")  # type: ignore[operator]
    return model


PARTLY = {"vit, attention pooling", "eva02: rotary positions", "hf ViT, written out"}  # some of it runs dense
MODELS = {**DROPS, **KEYS, "vit, written out": _unfused, "hf ViT, written out": _eager}


@pytest.fixture(autouse=True)
def seeded_and_without_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


# --- models --------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_transformers_answer_as_the_dense_engine(name: str) -> None:
    model = MODELS[name]()
    dense, auto = LayerMasking(model, engine="dense"), LayerMasking(model)
    for visible in RAGGED.values():
        ours, theirs = logits(auto(IMAGES, visible)), logits(dense(IMAGES, visible))
        assert auto.engine_used == "sparse"
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp_min(1e-3)
    ours, plain = logits(auto(IMAGES, RAGGED["all"])), logits(model(IMAGES))
    assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max().clamp_min(1e-3)


@needs_compiler
@pytest.mark.parametrize("name", sorted(MODELS.keys() - PARTLY))
def test_only_visible_tokens_are_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product but that of the head has as many rows as there are visible patches and other tokens."""
    model, counts = MODELS[name](), []
    product = ops.product

    def counting(source, table, weights, *more):
        counts.append(len(source.rows) if table is None else len(table))
        return product(source, table, weights, *more)

    monkeypatch.setattr(ops, "product", counting)
    LayerMasking(model)(IMAGES, RAGGED["ragged"])
    before = {"vit, registers": 5, "vit, mean of tokens": 0, "deit, distilled": 2, "hf DeiT": 2}
    patches_shown, others = 5 + 0 + 16 + 9, 4 * before.get(name, 1)
    assert set(counts) == {patches_shown, patches_shown + others}
    assert len(counts) >= 1 + 2 * 4


@needs_compiler
def test_hidden_pixels_and_other_images_do_not_matter() -> None:
    removal, visible = LayerMasking(DROPS["vit"]()), RAGGED["ragged"]
    base = removal(IMAGES, visible)
    for junk in (float("nan"), float("inf"), 9.0):
        assert torch.equal(removal(torch.where(visible, IMAGES, junk), visible), base)
    alone = torch.cat([removal(IMAGES[i : i + 1], visible[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, base, rtol=1e-5, atol=1e-5)


def test_sequences_are_padded_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, and all at once as on a GPU: the same answers; also in float64, which has no kernels."""
    from layermask.sparse import sequences

    for name in ("vit", "beit: relative positions"):
        model = MODELS[name]().double()
        found = []
        for few in (0, 10**6):
            monkeypatch.setattr(sequences, "FEW_TOKENS", few)
            removal = LayerMasking(model, engine="sparse")
            found.append([removal(IMAGES.double(), visible) for visible in RAGGED.values()])
        dense = LayerMasking(model, engine="dense")
        for ours, others, visible in zip(*found, RAGGED.values(), strict=True):
            theirs = dense(IMAGES.double(), visible)
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(others, theirs, rtol=1e-9, atol=1e-9)


class TwoMasks(nn.Module):
    """Attention under a mask that has grown, added to tokens under the one before, and then read alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.attend = (
            nn.Conv2d(3, 16, 16, 16),
            nn.Conv2d(16, 16, 3, padding=1),
            Attention(),
        )

    def forward(self, x):
        y = self.stem(x)
        tokens = y.flatten(2).transpose(1, 2)
        attended = self.attend(self.conv(y).flatten(2).transpose(1, 2))
        joined = torch.cat([attended, attended], 1)
        return tokens + attended, attended * 1, joined[:, 1:] + joined[:, 1:], joined


@needs_compiler
def test_rows_of_a_narrower_mask_are_chosen() -> None:
    model = TwoMasks().eval()
    for visible in RAGGED.values():
        ours = LayerMasking(model)(IMAGES, visible)
        for one, other in zip(ours, LayerMasking(model, engine="dense")(IMAGES, visible), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Scaled(nn.Module):
    """A number for each channel of a head, and for each head; a plain operand in front."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attend = nn.Conv2d(3, 16, 16, 16), Attention()
        self.of_channels, self.of_heads = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(2, 1, 1))
        self.places = nn.Parameter(torch.randn(1, 16, 16))

    def forward(self, x):
        y = self.stem(x).flatten(2).transpose(1, 2)
        heads = y.unflatten(2, (2, 8)).transpose(1, 2)
        turned = heads * self.of_channels * self.of_heads
        return (
            turned.transpose(1, 2).flatten(2),
            heads.mT * 2 + 1,
            self.places + y,
            (self.places + y).view(-1, 16),
        )


@needs_compiler
def test_numbers_of_channels_meet_heads() -> None:
    model = Scaled().eval()
    for visible in RAGGED.values():
        ours = LayerMasking(model)(IMAGES, visible)
        for one, other in zip(ours, LayerMasking(model, engine="dense")(IMAGES, visible), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_convolutional_networks_without_attention_keep_their_engine() -> None:
    few = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.Flatten(), nn.Linear(64, 7)).eval()
    removal = LayerMasking(few)
    removal(IMAGES, RAGGED["equal"])
    assert removal.engine_used == "dense"


def test_copies_of_a_removal_answer_alike() -> None:
    removal = LayerMasking(DROPS["torchvision"]())
    base = removal(IMAGES, RAGGED["ragged"])
    assert torch.equal(copy.deepcopy(removal)(IMAGES, RAGGED["ragged"]), base)


# --- axes ----------------------------------------------------------------------------------------------

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(2),
    "flatten all but images": lambda x: x.flatten(1),
    "transpose": lambda x: x.transpose(1, -1),
    "turn": lambda x: x.movedim(-1, 0),
    "swap": lambda x: x.transpose(0, 1),
    "heads": lambda x: x.unflatten(-1, (2, -1)),
    "halves in front": lambda x: x.unflatten(0, (2, -1)),
    "halves in the middle": lambda x: x.unflatten(1, (-1, 2)),
    "new axis": lambda x: x.reshape(*x.shape[:1], 1, *x.shape[1:]),
    "join": lambda x: x.flatten(0, 1),
}


@given(st.lists(st.sampled_from(list(MOVES)), max_size=6))
@settings(max_examples=300, derandomize=True, **COMMON)
def test_axes_follow_what_torch_does(moves: list[str]) -> None:
    """The value of a map of rows, after any moves, and back to rows."""
    n, c, h, w = 2, 12, 4, 6
    rows = torch.arange(n * h * w * c).view(n, h, w, c)
    value, axes = rows.permute(0, 3, 1, 2), of_map(n, h, w, c, (0, 1, 2, 3))
    mask = (torch.rand(n, h, w, 1) > 0.5, torch.rand(1, h, w, 1) > 0.5)
    marks = [m.permute(0, 3, 1, 2).expand(n, c, h, w) for m in mask]
    for move in moves:
        try:
            moved = MOVES[move](value)
            number = torch.empty(tuple(range(1, value.ndim + 1)), device="meta")
            turned = move in ("transpose", "turn", "swap")
            axes = (
                tuple(axes[i - 1] for i in MOVES[move](number).shape)
                if turned
                else reshaped(axes, moved.shape)
            )
        except (RuntimeError, IndexError, NoRows):
            continue  # no such axes, or a digit that cannot be cut
        value, marks = moved, [MOVES[move](m) for m in marks]
    assert shape_of(axes) == tuple(value.shape)
    assert torch.equal(arranged(rows, axes), value)
    assert torch.equal(as_rows(value, axes), rows)
    for m, mark in zip(mask, marks, strict=True):
        narrow = arranged(m, axes)
        assert torch.equal(narrow.expand_as(mark), mark)
        assert all(n == 1 for n, each in zip(narrow.shape, axes, strict=True) if _of_channels(each))


def _of_channels(one: Axis) -> bool:
    return all(digit.kind == "c" for digit in one)


def test_digits_that_count_on_are_one() -> None:
    axes = reshaped((axis(("n", 2)), axis(("h", 4), ("w", 6)), axis(("c", 12))), (2, 24, 3, 4))
    assert reshaped(axes, (2, 24, 12))[-1] == axis(("c", 12))
    with pytest.raises(NoRows):
        reshaped(axes, (2, 24, 5, 2))


# --- aliases: whatever a program does with tokens ------------------------------------------------------

LENGTH, WIDTH = 16, 16


class Attention(nn.Module):
    """As timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class TokenProgram(MapProgram):
    """A program on tokens, between two blocks of a transformer."""

    def __init__(self, steps: Sequence[Step]) -> None:
        nn.Module.__init__(self)
        self.steps = steps
        self.stem, self.norm = nn.Conv2d(3, WIDTH, 2, 2), nn.LayerNorm(WIDTH)
        self.attend, self.mlp = (
            Attention(),
            nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH)),
        )
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.table = nn.Parameter(torch.randn(2, LENGTH, LENGTH))

    def forward(self, x):
        torch.manual_seed(0)
        y = self.stem(x).flatten(2).transpose(1, 2) + self.places
        y = y + self.attend(self.norm(y))
        out = self.play(self.steps, y)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1)
        return [*out, (y + self.mlp(self.norm(y)))[:, 0]]

    def _step(self, name, index, values) -> None:
        x = values[index]
        if name in OURS:
            if tuple(x.shape[1:]) == (LENGTH, WIDTH):
                found = OURS[name](self, x)
                values += found if isinstance(found, tuple) else [found]
        else:
            super()._step(name, index, values)


def _heads(x):
    return x.reshape(len(x), x.shape[1], 2, 2, -1).permute(2, 0, 3, 1, 4)


def _scores(x):
    q = x.unflatten(2, (2, 8)).transpose(1, 2)
    return q @ (q * 0.3).transpose(-2, -1)


def _written_out(net, x):
    """As transformers writes it in its eager mode, with the weights, which are read too."""
    v = (x * 2).unflatten(2, (2, 8)).transpose(1, 2)
    weights = F.dropout(
        F.softmax(_scores(x) / 3 + net.table, dim=-1, dtype=torch.float32), 0.1, training=False
    )
    return torch.matmul(weights, v).transpose(1, 2).contiguous().flatten(2), weights


def _written_to(net, x):
    """Scores that change after something was made of them."""
    scores = _scores(x)
    halved = scores * 0.5
    scores.mul_(3.0)
    return halved.softmax(-1) @ x.unflatten(2, (2, 8)).transpose(1, 2), halved, scores, scores.softmax(-1)


OURS: dict[str, Callable] = {
    "norm of tokens": lambda net, x: net.norm(x),
    "linear": lambda net, x: net.attend.proj(x),
    "attention": lambda net, x: net.attend(x),
    "mlp": lambda net, x: x + net.mlp(x),
    "heads": lambda net, x: _heads(x),
    "queries and keys": lambda net, x: tuple(_heads(x).unbind(0)),
    "first of the heads": lambda net, x: _heads(x)[0],
    "heads and back": lambda net, x: _heads(x).permute(1, 3, 0, 2, 4).reshape(x.shape),
    "heads copied": lambda net, x: _heads(x)[1].transpose(1, 2).contiguous(),
    "answers of heads": lambda net, x: F.scaled_dot_product_attention(
        *[x.unflatten(2, (2, 8)).transpose(1, 2)] * 3
    ),
    "answers joined": lambda net, x: (
        F.scaled_dot_product_attention(*[x.unflatten(2, (2, 8)).transpose(1, 2)] * 3)
        .transpose(1, 2)
        .flatten(2)
    ),
    "scores": lambda net, x: _scores(x),
    "weights": lambda net, x: (_scores(x) * 0.5 + net.table).softmax(-1),
    "written out": lambda net, x: _written_out(net, x),
    "scores written to": lambda net, x: _written_to(net, x),
    "later tokens": lambda net, x: x[:, 2:],
    "with tokens": lambda net, x: torch.cat([net.token.expand(len(x), 2, -1), x], 1),
    "positions": lambda net, x: x + net.places,
    "flat": lambda net, x: x.flatten(1),
    "turned and flat": lambda net, x: x.transpose(1, 2).flatten(1),
    "halves": lambda net, x: x.chunk(2, -1),
    "a map": lambda net, x: x.transpose(1, 2).reshape(len(x), WIDTH, 4, 4),
}
NAMES = (*TABLES, *OURS, *OURS, "forget", "sum of two", "back")
SMALL = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = {"half": torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5}
MASKS |= {"one": MASKS["half"][:1], "all": torch.ones(2, 1, 4, 4, dtype=torch.bool)}
MASKS = {name: m.repeat_interleave(2, 2).repeat_interleave(2, 3) for name, m in MASKS.items()}


def judge(*steps: Step) -> None:
    torch.manual_seed(0)
    net = TokenProgram(steps).eval()
    plain = answers(net, SMALL)
    for name, visible in MASKS.items():
        dense = answers(LayerMasking(net, engine="dense"), SMALL, visible)
        if name == "all":
            assert_close(dense, plain, "dense, all visible")
        removal = LayerMasking(net)
        assert_equal_but_for_rounding(net, answers(removal, SMALL, visible), dense, name)
        assert removal.engine_used == "sparse"


def assert_equal_but_for_rounding(net: nn.Module, ours: list[Tensor], dense: list[Tensor], name: str) -> None:
    """To 1e-5, or to 8 times what rounding does to the dense answers if float64 shows no fault."""
    try:
        assert_close(ours, dense, f"sparse, {name} visible")
    except AssertionError:
        twice, images, visible = copy.deepcopy(net).double(), SMALL.double(), MASKS[name]
        exact = answers(LayerMasking(twice, engine="dense"), images, visible)
        for a, b in zip(answers(LayerMasking(twice, engine="sparse"), images, visible), exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        for a, b, c in zip(ours, dense, exact, strict=True):
            if (a - b).abs().max() > 1e-5 * b.abs().max().clamp_min(1e-3):
                assert (a - b).abs().max() <= 8 * (b - c).abs().max(), f"sparse, {name} visible"


@needs_compiler
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 5)), max_size=6))
@settings(max_examples=150, derandomize=True, **COMMON)
def test_random_programs_of_tokens(steps: list[Step]) -> None:
    judge(*steps)


@pytest.mark.slow
@needs_compiler
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 5)), max_size=7))
@settings(max_examples=2000, **COMMON)
def test_many_random_programs_of_tokens(steps: list[Step]) -> None:
    judge(*steps)


@needs_compiler
@pytest.mark.parametrize("ours", OURS)
def test_what_is_read_and_then_written(ours: str) -> None:
    """A value is written after another was made of it, and the other way round."""
    for write in ("mul_", "add_ a tensor", "relu_"):
        judge((ours, 0), (write, 0), ("clone", 1))
        judge((ours, 0), (write, 1), ("linear", 0), ("clone", 2))
        judge((ours, 0), ("view", 1), ("forget", 1), (write, 2), ("mlp", 0))
