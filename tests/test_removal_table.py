"""The laws, over every removal operator of the table: a new member is tested by being there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from fitting import made
from torch import nn

import layermask
from layermask.errors import InputError
from layermask.removal.fills.protocol import Fill
from layermask.removal.painting import PixelFill
from layermask.removal.registry import REMOVALS, RemovalEntry, check_name, removal
from layermask.testing.removals import FillLaws, RemovalLaws, SmallNet, images_and_masks
from layermask.testing.suite import Laws
from layermask.zoo.preprocessing import Preprocessing

SIZE = (12, 8)


def net(entry: RemovalEntry, channels: int, size: tuple[int, ...]) -> nn.Module:
    if not entry.transformers_only:
        return SmallNet(channels, size).eval()
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
    model = net(entry, channels, size) if model is None else model
    return made(name, model, preprocessing, segments, (channels, *size))


every = pytest.mark.parametrize("name", REMOVALS)


def laws_of(name: str) -> type[Laws]:
    entry = REMOVALS[name]
    return RemovalLaws.of(
        name,
        model=lambda case, size: net(entry, 3, size),
        removal=lambda case, model, size: operator(name, 3, size, model),
        reads_hidden=entry.reads_hidden,
        differentiable=entry.differentiable,
        tolerance=1e-5 if entry.transformers_only else 0.0,  # whose attention has other kernels for masks
        small=(8, 4) if entry.transformers_only else (6, 5),
    )


@every
@pytest.mark.parametrize("law", RemovalLaws.names())
def test_law(name: str, law: str) -> None:
    laws_of(name)(law).debug()


FILLS = [
    name for name, e in REMOVALS.items() if issubclass(getattr(layermask.removal, e.operator), PixelFill)
]


@pytest.mark.parametrize("law", sorted({*FillLaws.names()} - {*RemovalLaws.names()}))
@pytest.mark.parametrize("name", FILLS)
def test_law_of_the_fill(name: str, law: str) -> None:
    FillLaws.of(operator(name, model=nn.Identity()).fill)(law).debug()


@pytest.mark.parametrize("name", [name for name, entry in REMOVALS.items() if entry.reads_hidden])
def test_nan_is_refused_by_what_reads_hidden_pixels(name: str) -> None:
    removed, (x, visible) = operator(name), images_and_masks(3, SIZE)
    with pytest.raises(InputError, match="reads hidden pixels"):
        removed(torch.where(visible, x, float("nan")), visible)


@every
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels(name, channels):
    x, visible = images_and_masks(channels, SIZE)
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
    if REMOVALS[name].transformers_only or REMOVALS[name].fitted:
        pytest.skip("this is about what is painted")
    removed, (x, visible) = operator(name, model=nn.Identity()), images_and_masks(3, SIZE)
    painted = removed(x.to(dtype), visible)
    assert painted.dtype == dtype
    torch.testing.assert_close(painted.float(), removed(x, visible), rtol=0.02, atol=0.1)


@every
def test_the_state_of_the_model_is_that_of_the_operator(name: str) -> None:
    removed = operator(name)
    assert {key.removeprefix("model.") for key in removed.state_dict()} >= removed.model.state_dict().keys()


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
    exports = "yes" if entry.exports else "no"
    return (
        f"| `{name}` | `{entry.operator}` | {entry.summary} | {laws} | {gradient} | {dims} | {exports} "
        f"| {entry.source} |"
    )


def test_the_docs_list_every_removal():
    page = (Path(__file__).parents[1] / "docs" / "removals.md").read_text().splitlines()
    found = [line for line in page if line.startswith("| `")]
    assert found == [row(name) for name in REMOVALS], "\n".join(map(row, REMOVALS))
