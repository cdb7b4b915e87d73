"""Rules whose function has no OpInfo, on samples written by hand (law 8); law 5 for rules, from a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import Masked, NoMaskRule
from layermask._private_torch import functions_of_name
from layermask.core.rule_table import name_of
from layermask.testing.rules import Arguments, difference

X = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.5


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach() for p in module.parameters()]


def _recurrent(cls: type, states: int) -> tuple:
    torch.manual_seed(0)
    state = torch.zeros(1, 2, 3) if states == 1 else (torch.zeros(1, 2, 3),) * 2
    return X[:, :, :, 0], state, weights(cls(6, 3)), True, 1, 0.0, False, False, True


def _cell(cls: type) -> tuple:
    torch.manual_seed(0)
    state = X[:, 0, 1, :3]
    return X[:, 0, :, 0], ((state, state.sin()) if cls is nn.LSTMCell else state), *weights(cls(6, 3))


SAMPLES: dict[Callable, list[tuple | Arguments]] = {
    torch.Tensor.cpu: [(X,)],
    torch.Tensor.detach: [(X,)],
    torch.detach: [(X,)],
    torch.Tensor.detach_: [(X,)],
    torch.detach_: [(X,)],
    torch.Tensor.pin_memory: [],
    torch.Tensor.cuda: [],
    torch.Tensor.requires_grad_: [(X,), (X, False)],
    torch.Tensor.type: [(X, torch.float64), (X, "torch.HalfTensor")],
    torch.Tensor.type_as: [(X, X.double())],
    torch.Tensor.__setitem__: [],
    torch.Tensor.copy_: [(X, X.flip(0)), (X, X[:1].double())],
    torch.Tensor.random_: [(X,), (X, 3), (X, -2, 5)],
    torch.Tensor.dim: [(X,)],
    torch.Tensor.ndimension: [(X,)],
    torch.Tensor.size: [(X,), (X, 1)],
    torch.Tensor.stride: [(X,), (X, -1)],
    torch.Tensor.numel: [(X,)],
    torch.numel: [(X,)],
    torch.Tensor.nelement: [(X,)],
    torch.Tensor.element_size: [(X,)],
    torch.Tensor.storage_offset: [(X,)],
    torch.Tensor.get_device: [(X,)],
    torch.get_device: [(X,)],
    torch.Tensor.is_contiguous: [(X,), Arguments(X, memory_format=torch.channels_last)],
    torch.Tensor.is_complex: [(X,)],
    torch.is_complex: [(X,)],
    torch.Tensor.is_floating_point: [(X,)],
    torch.is_floating_point: [(X,)],
    torch.Tensor.is_inference: [(X,)],
    torch.is_inference: [(X,)],
    torch.Tensor.is_pinned: [(X,)],
    torch.Tensor.is_signed: [(X,)],
    torch.is_signed: [(X,)],
    torch.Tensor.is_same_size: [(X, X)],
    torch.is_same_size: [(X, X)],
    torch.Tensor.new_tensor: [(X, [1.0, 2.0])],
    torch.ops.aten.split.Tensor: [(X, 2, 1), (X, 1)],
    torch.ops.aten.upsample_nearest1d.vec: [(X[0], [9], None), (X[0], None, [1.5])],
    torch.ops.aten.upsample_nearest2d.vec: [(X, [9, 7], None), (X, None, [2.0, 1.5])],
    torch.ops.aten.upsample_nearest3d.vec: [(X[None], [3, 9, 7], None)],
    torch.ops.aten.upsample_linear1d.vec: [(X[0], [9], False, None), (X[0], [9], True, None)],
    torch.ops.aten.upsample_bilinear2d.vec: [(X, [9, 7], False, None), (X, None, True, [2.0, 1.5])],
    torch.ops.aten.upsample_bicubic2d.vec: [(X, [9, 7], False, None)],
    torch.ops.aten.upsample_trilinear3d.vec: [(X[None], [3, 9, 7], False, None)],
    torch.result_type: [(X, 1), (X, X.double())],
    torch.feature_dropout: [(X, 0.5, True), (X, 0.5, False)],
    torch.feature_dropout_: [(X, 0.5, True)],
    F.dropout1d: [(X[..., 0], 0.5, True), (X[..., 0], 0.5, False)],
    F.fold: [
        (X.reshape(2, 12, 10), (6, 3), 2),
        (X.reshape(2, 4, 30), (5, 6), 1),
        (X.reshape(2, 8, 15), (6, 4), 2, 1, 0, (1, 1)),
    ],
    F.lp_pool1d: [(X[..., 0], 2, 2), (X[..., 0], 3.0, 3, 1, True)],
    F.lp_pool2d: [(X, 2, 2), (X, 1.0, (3, 2), 1, True)],
    F.lp_pool3d: [(X[None], 2, 2)],
    F.adaptive_max_pool1d_with_indices: [(X[..., 0], 2)],
    F.adaptive_max_pool2d_with_indices: [(X, (2, 1)), (X, 3)],
    F.adaptive_max_pool3d_with_indices: [(X[None], 2)],
    F.max_pool1d_with_indices: [(X[..., 0], 2)],
    F.max_pool2d_with_indices: [(X, 2), (X, 3, 2, 1)],
    F.max_pool3d_with_indices: [(X[None], 2)],
    F.affine_grid: [(X[:, 0, :2, :3], (2, 4, 5, 3), False), (X[:, 0, :3, :4], (2, 4, 5, 3, 2), True)],
    torch._assert: [],
    torch.Tensor.tolist: [],
    torch.lstm_cell: [_cell(nn.LSTMCell)],
    torch.gru_cell: [_cell(nn.GRUCell)],
    torch.rnn_tanh_cell: [_cell(nn.RNNCell)],
    torch.rnn_relu_cell: [_cell(nn.RNNCell)],
    torch.lstm: [_recurrent(nn.LSTM, 2)],
    torch.gru: [_recurrent(nn.GRU, 1)],
    torch.rnn_tanh: [_recurrent(nn.RNN, 1)],
    torch.rnn_relu: [_recurrent(nn.RNN, 1)],
    torch._VF._pack_padded_sequence: [(X[:, 0], torch.tensor([6, 4]), True)],
    torch._VF._pad_packed_sequence: [(X[0, 0], torch.tensor([3, 2, 1]), True, 0.5, 4)],
    next(functions_of_name("max_unpool2d")): [],
    next(functions_of_name("max_unpool3d")): [],
    next(functions_of_name("pad_sequence")): [([X[0, 0], X[1, 0, :4]], True, 0.5)],
}
"""Rules that no OpInfo names: function -> argument lists, the first argument being the masked one. Empty:
writing by index is judged in test_mechanism.py, CUDA elsewhere, and unpooling without windows is refused."""
RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)

CASES = [
    pytest.param(f, args if isinstance(args, Arguments) else Arguments(*args), id=f"{name_of(f)}-{i}")
    for f, every in SAMPLES.items()
    for i, args in enumerate(every)
]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("function, args", CASES)
def test_full_mask_is_the_plain_operation(function: Callable, args: Arguments, whole: bool) -> None:
    place = args.places[0]
    first = args.leaves[place]
    visible = torch.ones(first.shape if whole else [1] * first.ndim, dtype=torch.bool)
    ours, plain = args.call(function, {place: Masked(first, visible)}), args.call(function, {})
    near = 1e-6 if function in RECURRENT else 0.0  # packed sequences run through other kernels
    assert not any(difference(a, b, near) for a, b in zip(ours, plain, strict=True))


# --- law 5: a batch is its images one by one ---------------------------------------------------------------

W = {n: torch.randn(6, 2, *[3] * n, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3)}
RULES: dict[str, Callable] = {
    "conv": lambda x: F.conv2d(x, W[2], padding=1, groups=2),
    "strided conv": lambda x: F.conv2d(x, W[2], stride=2, padding=1, groups=2),
    "dilated conv": lambda x: F.conv2d(x, W[2], padding="same", dilation=2, groups=2),
    "padded conv": lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), W[2], stride=2, groups=2),
    "transposed conv": lambda x: F.conv_transpose2d(x, torch.ones(4, 3, 2, 2), stride=2),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "ceil pool": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "average pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "lp pool": lambda x: F.lp_pool2d(x, 2, 2),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": F.instance_norm,
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "global mean": lambda x: x.mean((2, 3)),
    "deviation": lambda x: x.std((2, 3)),
    "softmax": lambda x: x.flatten(2).softmax(-1),
    "flips side by side": lambda x: torch.cat([x, x.flip(-1)], dim=1),
    "flips one below the other": lambda x: torch.cat([x, x.flip(-1)], dim=2),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3),
    "covariance": lambda x: x.flatten(2) @ x.flatten(2).mT,
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "unshuffle": lambda x: F.pixel_unshuffle(x[..., :4], 2),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "flatten and linear": lambda x: F.linear(x.flatten(1), torch.linspace(-1, 1, 360).reshape(3, 120)),
    "quarters": lambda x: torch.cat([x[..., ::2, :4:2], x[..., 1::2, :4:2], x[..., ::2, 1:4:2]], 1),
    "stacked": lambda x: torch.stack([x, x.flip(-1)], 1).sum(1),
    "recurrent": lambda x: torch.lstm(
        x[:, :, :, 0], (x.new_zeros(1, x.shape[0], 3),) * 2, *_recurrent(nn.LSTM, 2)[2:]
    )[0],
}


def outcome(x: Tensor, visible: Tensor, apply: Callable) -> tuple[Tensor, Tensor]:
    out = apply(Masked(x, visible))
    visible = out.visible.expand(out.value.shape)
    return torch.where(visible, out.value, 0), visible


@pytest.mark.parametrize("masks", ["one each", "one shared"])
@pytest.mark.parametrize("name", RULES)
def test_a_batch_is_its_images_one_by_one(name: str, masks: str) -> None:
    shared = masks == "one shared"
    values, shown = outcome(X, MASK[:1] if shared else MASK, RULES[name])
    for i in range(2):
        value, seen = outcome(X[i : i + 1], MASK[:1] if shared else MASK[i : i + 1], RULES[name])
        assert torch.equal(shown[i : i + 1], seen)
        assert torch.allclose(values[i : i + 1], value, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_of_flips_is_two_batches(shared: bool) -> None:
    """Test-time augmentation: the batch is laid end to end, whether or not its images share a mask."""
    visible = MASK[:1] if shared else MASK
    values, shown = outcome(X, visible, lambda x: torch.cat([x, x.flip(-1)], 0))
    full = visible.expand(2, 1, 6, 5)
    assert torch.equal(shown, torch.cat([full, full.flip(-1)]).expand(shown.shape))
    assert torch.equal(values, torch.where(shown, torch.cat([X, X.flip(-1)]), 0))


@pytest.mark.parametrize("name", RULES)
def test_how_a_mask_is_stored_does_not_matter(name: str) -> None:
    """A mask of rows, expanded (stride 0) or written out."""
    rows = MASK[:1, :, :, :1].expand(1, 1, 6, 5)
    values, shown = outcome(X, rows, RULES[name])
    written, seen = outcome(X, rows.contiguous(), RULES[name])
    assert torch.equal(shown, seen)
    assert torch.allclose(values, written, atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", ["to", "type_as", "view_as", "reshape_as", "expand_as"])
def test_only_the_likeness_of_a_masked_tensor_is_plain(method: str) -> None:
    """vit_dwee casts a plain scalar to the type of its masked queries."""
    out = getattr(X.double(), method)(Masked(X, MASK))
    assert isinstance(out, Tensor) and torch.equal(out, X.to(out.dtype))


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss])
def test_a_mean_of_weights_is_refused(loss: Callable) -> None:
    """Torch divides by the sum of the weights, and not by the number of entries."""
    x = Masked(X, torch.ones(1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(NoMaskRule, match="one of weights"):
        loss(x, X.sin(), weight=X.abs())
    ours = loss(x, X.sin(), weight=X.abs(), reduction="none")
    torch.testing.assert_close(ours.value, loss(X, X.sin(), weight=X.abs(), reduction="none"))


LAYERS = {
    "conv": nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    "conv transposed": nn.ConvTranspose2d(4, 3, 3, stride=2),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "adaptive mean": nn.AdaptiveAvgPool2d(2),
    "power mean": nn.LPPool2d(2, 2),
    "instance norm": nn.InstanceNorm2d(4),
    "circular pad": nn.CircularPad2d(1),
    "unfold": nn.Unfold(3, padding=1),
    "fold": nn.Sequential(nn.Unfold((2, 5), stride=2), nn.Fold((6, 5), (2, 5), stride=2)),
    "softmax": nn.Softmax2d(),
}


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_an_image_alone_answers_as_a_batch_of_one(name: str, channels: int) -> None:
    mask = torch.rand(channels, 6, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    with torch.no_grad():
        alone, batch = LAYERS[name](Masked(X[0], mask)), LAYERS[name](Masked(X[:1], mask[None]))
    torch.testing.assert_close(alone.value, batch.value[0])
    shape = alone.value.shape
    assert torch.equal(alone.visible.expand(shape), batch.visible.expand(1, *shape)[0])
