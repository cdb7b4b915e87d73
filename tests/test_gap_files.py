"""Files that say where they hold no data: nodata values, NaN, alpha, masks, polygons; rasters and volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import layermask as lm
from layermask.data import load_pixels, load_polygons, load_raster, load_valid, load_volume
from layermask.errors import ImageError, InputError, MissingPackage
from layermask.studies.prepared import open_image
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

GAP = np.zeros((12, 16), dtype=bool)
GAP[2:6, 3:9] = True
COLOURS = np.random.default_rng(0).integers(1, 255, (12, 16, 3)).astype(np.uint8)
WHITE = np.where(GAP, 0, 255).astype(np.uint8)
LABELME: dict[str, Any] = {
    "imagePath": "a.png",
    "imageWidth": 16,
    "imageHeight": 12,
    "shapes": [{"label": "cloud", "points": [[3, 2], [8, 5]], "shape_type": "rectangle"}],
}
COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.png", "width": 16, "height": 12}],
    "categories": [{"id": 1, "name": "cloud"}],
    "annotations": [{"image_id": 7, "category_id": 1, "segmentation": [[3, 2, 8, 2, 8, 5, 3, 5]]}],
}


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if isinstance(content, dict):
        path.write_text(json.dumps(content))
    else:
        Image.fromarray(content).save(path)
    return path


def gapped(kind: str, folder: Path) -> tuple[Path, str]:
    """A picture whose file tells in this way what is no data, and the option for it."""
    black, grey = np.where(GAP[..., None], np.uint8(0), COLOURS), COLOURS[..., 0] / np.float32(255)
    if kind == "value":
        return written(folder, "a.png", black), "0"
    if kind == "deep":
        return written(
            folder, "a.png", np.where(GAP, 65535, 300 * COLOURS[..., 0].astype(np.uint16) // 2)
        ), "65535"
    if kind == "nan":
        return written(folder, "a.tif", np.where(GAP, np.float32("nan"), grey)), "nan"
    if kind == "alpha":
        return written(folder, "a.png", np.dstack([COLOURS, WHITE])), "alpha"
    if kind == "mask":
        return written(folder, "a.png", COLOURS), str(written(folder, "m.png", WHITE))
    return written(folder, "a.png", COLOURS), str(
        written(folder, "m.json", {"labelme": LABELME, "coco": COCO}[kind])
    )


KINDS = ("value", "deep", "nan", "alpha", "mask", "labelme", "coco")


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_say_that_there_is_no_data(kind: str, tmp_path: Path) -> None:
    path, nodata = gapped(kind, tmp_path)
    assert np.array_equal(np.asarray(load_valid(path, nodata)) == 0, GAP)


@pytest.mark.parametrize("size", [12, 8, 20, 31])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_no_pixel_that_resizing_mixed_with_the_gap_is_valid(
    size: int, interpolation: Any, tmp_path: Path
) -> None:
    """Whatever colour the gap has, what is valid of the resized picture is the same."""
    preprocessing = Preprocessing((size, size), (size, size), interpolation)
    loaded = Loaded(nn.Identity(), preprocessing, ("a",), "net")
    mask = str(written(tmp_path, "m.png", WHITE))
    found = []
    for colour in (0, 255):
        path = written(tmp_path, f"{colour}.png", np.where(GAP[..., None], np.uint8(colour), COLOURS))
        image = open_image(path, loaded, torch.device("cpu"), None, nodata=mask)
        assert image.valid is not None and 0 < int(image.valid.sum()) < image.valid.numel()
        found.append(torch.where(image.valid, image.x, 0))
    assert torch.equal(*found)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    plain, nan = written(tmp_path, "a.png", COLOURS), gapped("nan", tmp_path)[0]
    with pytest.raises(ImageError, match="is RGB, without alpha: give a value, nan or a mask file"):
        load_valid(plain, "alpha")
    with pytest.raises(ImageError, match="holds no data at all"):
        load_valid(written(tmp_path, "b.png", np.zeros_like(COLOURS)), "0")
    with pytest.raises(ImageError, match="holds NaN at 24 pixels: hide them by --nodata nan"):
        lm.load_image(nan)
    with pytest.raises(ImageError, match=r"float32 values from .* to 2.*floats from 0 to 1"):
        lm.load_image(written(tmp_path, "f.tif", np.full((3, 3), 2, np.float32)))
    assert lm.load_image(nan, gaps=True).getpixel((4, 3)) == (0, 0, 0)


def test_polygons_by_label_and_by_picture(tmp_path: Path) -> None:
    two = {**COCO, "images": [*COCO["images"], {"id": 8, "file_name": "b.png", "width": 4, "height": 4}]}
    path = written(tmp_path, "two.json", two)
    assert np.array_equal(np.asarray(load_polygons(path, "a.png", "cloud")) > 0, GAP)
    for given, message in (
        ({}, "give the name of one of its 2 pictures, as a.png, b.png"),
        ({"image": "b.png"}, "have no region for b.png"),
        ({"image": "a.png", "label": "sea"}, "no region of label 'sea'"),
    ):
        with pytest.raises(ImageError, match=message):
            load_polygons(path, **given)
    circle = {**LABELME, "shapes": [{**LABELME["shapes"][0], "shape_type": "circle"}]}
    with pytest.raises(ImageError, match="a circle where polygons and rectangles are read"):
        load_polygons(written(tmp_path, "c.json", circle))
    for odd in ({"shapes": 5}, {"images": []}, {}):
        with pytest.raises(ImageError, match="neither labelme's nor COCO's"):
            load_polygons(written(tmp_path, "odd.json", odd))


def test_pixels_keep_their_bits_and_transparent_ones_are_nan(tmp_path: Path) -> None:
    deep = (np.arange(192).reshape(12, 16) * 300).astype(np.uint16)
    found = load_pixels(written(tmp_path, "deep.png", deep))
    assert found.shape == (1, 1, 12, 16) and np.array_equal(found[0, 0].numpy(), deep)
    found = load_pixels(gapped("alpha", tmp_path)[0])
    assert found.shape == (1, 3, 12, 16) and np.array_equal(found.isnan().any(1)[0].numpy(), GAP)
    assert np.array_equal(found[0].permute(1, 2, 0).numpy()[~GAP], COLOURS[~GAP])
    grey = np.dstack([COLOURS[..., 0], WHITE])
    assert load_pixels(written(tmp_path, "la.png", grey)).shape == (1, 1, 12, 16)


@pytest.mark.parametrize("name", ["rasterio", "nibabel"])
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    load = load_raster if name == "rasterio" else load_volume
    with pytest.raises(MissingPackage, match=rf"needs the package {name}, .*: pip install .*{name}"):
        load("a.tif")


@pytest.mark.filterwarnings("ignore:.*matmul", "ignore:.*no geotransform")
def test_rasters_of_many_bands(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(1).integers(1, 9000, (6, 12, 16)).astype(np.int16)
    values[2, GAP] = -9999
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 16, "height": 12, "count": 6, "dtype": "int16", "nodata": -9999}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
    found = load_raster(path)
    assert found.shape == (1, 6, 12, 16) and np.array_equal(found.isnan().any(1)[0].numpy(), GAP)
    assert np.array_equal(found[0, 2].numpy()[~GAP], values[2][~GAP])
    assert np.array_equal(load_raster(path, [4, 1])[0, 0].numpy(), values[3])
    assert not load_raster(path, [1]).isnan().any()
    for bands, message in (([9], "cannot be read"), ([0], "bands")):
        with pytest.raises(InputError, match=message):
            load_raster(path, bands)
    with pytest.raises(ImageError, match="cannot be read"):
        load_raster(tmp_path / "none.tif")


def test_volumes(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(2).normal(size=(5, 6, 7, 2)).astype(np.float32)
    values[1, 2, 3, 0] = np.nan
    for channels in (1, 2):
        kept = values[..., :channels].squeeze(-1) if channels == 1 else values
        nibabel.save(nibabel.Nifti1Image(kept, np.eye(4)), tmp_path / "a.nii.gz")
        found = load_volume(tmp_path / "a.nii.gz")
        assert found.shape == (1, channels, 5, 6, 7) and int(found.isnan().sum()) == 1
        assert np.array_equal(found[0, -1].numpy(), values[..., channels - 1], equal_nan=True)
    (tmp_path / "b.nii").write_bytes(b"no volume")
    for name, message in (("b.nii", "cannot be read"), ("c.nii", "does not exist")):
        with pytest.raises(ImageError, match=message):
            load_volume(tmp_path / name)


def test_a_mask_of_frames_hides_pixels_of_a_video() -> None:
    """(N, T, C, H, W) as VideoMAE has it, and (N, C, T, H, W) as convolutions do."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()

    class Frames(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return net(x.transpose(1, 2))

    video, shown = torch.randn(2, 4, 3, 8, 8), torch.rand(2, 4, 1, 8, 8) < 0.7
    frames = lm.LayerMasking(Frames().eval())
    wanted = lm.LayerMasking(net)(video.transpose(1, 2), shown.transpose(1, 2))
    assert torch.equal(frames(video, shown), wanted)
    gap = torch.where(torch.arange(3).view(3, 1, 1) == 1, torch.where(shown, video, torch.nan), video)
    assert torch.equal(lm.adapters.NaNHidden(frames, channel_axis=2)(gap), wanted)
    with pytest.raises(ValueError, match="visible must be"):
        frames(video, shown[:, :3])


@pytest.mark.parametrize("kind", ["value", "alpha", "labelme"])
def test_the_command_line_hides_what_is_no_data(kind: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from layermask.cli.app import app

    path, nodata = gapped(kind, tmp_path)
    out = tmp_path / "out"
    arguments = ["segments", str(path), "--segments", "grid:4", "--nodata", nodata, "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    labels = np.load(out / "a_segments.npy")
    assert np.array_equal(labels == -1, GAP) and labels.max() == 11


def test_segments_of_pictures_without_data_are_refused(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from layermask.cli.app import app

    path = written(tmp_path, "a.png", COLOURS)
    result = CliRunner().invoke(app, ["segments", str(path), "--nodata", "alpha", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "without alpha" in result.output
