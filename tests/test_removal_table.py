"""The laws, over every removal operator of the table: a new member is tested by being there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import layermask
from layermask.check.samples import sample_images
from layermask.errors import InputError
from layermask.removal.fills.protocol import Fill
from layermask.removal.registry import REMOVALS, RemovalEntry, check_name, removal
from layermask.zoo.preprocessing import Preprocessing

SIZE = (12, 8)


class Net(nn.Module):
    """Small, with a weight for each pixel, so that every hidden pixel matters."""

    def __init__(self, channels: int, size: tuple[int, ...]):
        super().__init__()
        torch.manual_seed(0)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
        self.conv = conv(channels, 4, 3, padding=1)
        self.head = nn.Linear(4 * int(torch.tensor(size).prod()), 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().flatten(1))


def net(entry: RemovalEntry, channels: int, size: tuple[int, ...]) -> nn.Module:
    if not entry.transformers_only:
        return Net(channels, size).eval()
    timm = pytest.importorskip("timm")
    if len(size) != 2 or any(n % 4 for n in size):
        pytest.skip("no vision transformer for these dims here")
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=size, patch_size=4, in_chans=channels, num_classes=5, embed_dim=12, depth=1, num_heads=2
    ).eval()


def operator(name: str, channels: int = 3, size: tuple[int, ...] = SIZE, model: nn.Module | None = None):
    entry = REMOVALS[name]
    if entry.extra == "inpaint" and importlib.util.find_spec("cv2") is None:
        pytest.skip("OpenCV is not installed")
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.3, 0.6, 0.7)[:channels], std=(0.2,) * channels)
    segments = torch.arange(int(torch.tensor(size).prod())).view(size) // 7
    return removal(name, net(entry, channels, size) if model is None else model, preprocessing, segments)


def images_and_masks(
    channels: int = 3, size: tuple[int, ...] = SIZE, batch: int = 4
) -> tuple[Tensor, Tensor]:
    """The first image shows all, the second nothing, the third one corner, the others random cells of 4."""
    generator = torch.Generator().manual_seed(2)
    visible = torch.rand(batch, 1, *(-(-n // 4) for n in size), generator=generator) < 0.5
    for axis, n in enumerate(size, 2):
        visible = visible.repeat_interleave(4, axis).narrow(axis, 0, n)
    visible[0], visible[1], visible[2] = True, False, False
    visible[(2, 0, *(slice(4),) * len(size))] = True
    return sample_images(batch, (channels, *size), seed=3), visible


def same(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Equal to the bit; to rounding for transformers, whose attention has other kernels for masks."""
    if REMOVALS[name].transformers_only:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(ours, theirs)


every = pytest.mark.parametrize("name", REMOVALS)


@every
def test_all_visible_is_the_plain_model(name):
    removed, (x, visible) = operator(name), images_and_masks()
    same(name, removed(x, torch.ones_like(visible)), removed.model(x))
    same(name, removed(x, visible)[:1], removed.model(x)[:1])


@every
def test_hidden_pixels_do_not_matter_unless_it_says_so(name):
    removed, (x, visible) = operator(name), images_and_masks()
    want = removed(x, visible)
    assert want.isfinite().all()
    noisy = torch.where(visible, x, 7 * torch.rand_like(x))
    if REMOVALS[name].reads_hidden:
        assert not torch.allclose(removed(noisy, visible), want)
        with pytest.raises(InputError, match="reads hidden pixels"):
            removed(torch.where(visible, x, float("nan")), visible)
        return
    for junk in (noisy, *(torch.where(visible, x, value) for value in (float("nan"), float("inf")))):
        same(name, removed(junk, visible), want)


@every
def test_a_batch_answers_as_its_images_one_by_one(name):
    removed, (x, visible) = operator(name), images_and_masks(batch=6)
    want, order = removed(x, visible), torch.tensor([3, 5, 0, 2, 1, 4])
    close = {"rtol": 1e-5, "atol": 1e-5}
    single = torch.cat([removed(x[i : i + 1], visible[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(single, want, **close)
    torch.testing.assert_close(removed(x[order], visible[order]), want[order], **close)
    many = removed(x[4:5], visible)
    torch.testing.assert_close(many, removed(x[4:5].expand_as(x), visible), **close)
    torch.testing.assert_close(removed(x, visible[4:5]), removed(x, visible[4:5].expand_as(visible)), **close)


@every
def test_gradients(name):
    entry = REMOVALS[name]
    size = (8, 4) if entry.transformers_only else (6, 5)
    removed, (x, visible) = operator(name, 2, size), images_and_masks(2, size)
    removed, x = removed.double(), x.double()
    if entry.differentiable:
        assert torch.autograd.gradcheck(lambda x: removed(x, visible), x.clone().requires_grad_())
    if entry.reads_hidden:
        return
    x = torch.where(visible, x, float("nan")).requires_grad_()
    removed(x, visible).square().sum().backward()
    assert not x.grad.masked_fill(visible, 0).any()
    assert x.grad.isfinite().all() and x.grad[0].any()


@every
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels(name, channels):
    x, visible = images_and_masks(channels)
    assert operator(name, channels)(x, visible).isfinite().all()


@every
@pytest.mark.parametrize("size", [(11,), (1, 7), (5, 4, 6)], ids=str)
def test_signals_and_volumes(name, size):
    x, visible = images_and_masks(3, size)
    removed = operator(name, 3, size)
    if len(size) in REMOVALS[name].dims:
        assert torch.equal(removed(x, visible)[:1], removed.model(x)[:1])
    else:
        with pytest.raises(InputError, match=r"fills pictures \(N, C, H, W\), not images of shape"):
            removed(x, visible)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_floating_point_types(name, dtype):
    if REMOVALS[name].transformers_only:
        pytest.skip("this is about what is painted")
    removed, (x, visible) = operator(name, model=nn.Identity()), images_and_masks()
    painted = removed(x.to(dtype), visible)
    assert painted.dtype == dtype
    torch.testing.assert_close(painted.float(), removed(x, visible), rtol=0.02, atol=0.1)


@every
def test_nothing_is_changed(name):
    removed, (x, visible) = operator(name), images_and_masks()
    before = x.clone(), visible.clone(), {k: v.clone() for k, v in removed.model.state_dict().items()}
    removed(x, visible)
    assert torch.equal(x, before[0]) and torch.equal(visible, before[1])
    assert all(torch.equal(value, before[2][key]) for key, value in removed.model.state_dict().items())
    assert {key.removeprefix("model.") for key in removed.state_dict()} >= before[2].keys()


@every
def test_a_mask_that_is_not_binary_is_refused(name):
    x, visible = images_and_masks()
    with pytest.raises(ValueError, match="nearest neighbour"):
        operator(name)(x, visible.float() * 0.5)


@every
def test_the_table_tells_the_truth(name):
    entry, removed = REMOVALS[name], operator(name)
    assert isinstance(removed, getattr(layermask.removal, entry.operator))
    assert entry.operator in layermask.removal.__all__
    fill = getattr(removed, "fill", None)
    if isinstance(fill, Fill):
        assert entry.reads_hidden == (fill.reads == "all")
        assert not fill.dims or fill.dims == entry.dims
    assert entry.summary and entry.source


def test_segments_that_are_missing_are_asked_for():
    with pytest.raises(InputError, match="there are none here: give segments"):
        removal("segment-mean", nn.Identity(), Preprocessing())


def test_an_unknown_removal_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown removal 'grayout': choose from .*nearest: greyout"):
        removal("grayout", nn.Identity(), Preprocessing())
    assert check_name("greyout") == "greyout"


# docs/removals.md


def row(name: str) -> str:
    """The line of a removal in the docs."""
    entry = REMOVALS[name]
    laws = "1, 5" if entry.reads_hidden else "1, 2, 5"
    gradient = "yes" if entry.differentiable else "through visible pixels only"
    dims = "any" if entry.dims == (1, 2, 3) else ", ".join(f"{d}-d" for d in entry.dims)
    return (
        f"| `{name}` | `{entry.operator}` | {entry.summary} | {laws} | {gradient} | {dims} | {entry.source} |"
    )


def test_the_docs_list_every_removal():
    page = (Path(__file__).parents[1] / "docs" / "removals.md").read_text().splitlines()
    found = [line for line in page if line.startswith("| `")]
    assert found == [row(name) for name in REMOVALS], "\n".join(map(row, REMOVALS))
