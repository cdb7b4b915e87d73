"""Pictures, masks and label maps from files of every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from layermask.data.images import load_image, load_labels, load_mask
from layermask.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)
GREY = COLOUR.convert("L")
BLOCK = np.zeros((6, 8), np.uint8)
BLOCK[2:5, 1:4] = 255


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, name):
    COLOUR.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    image = load_image(tmp_path / name)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(array(image), PIXELS)


def test_jpeg_of_the_bundled_picture(photograph):
    image = load_image(photograph)
    assert (image.size, image.mode) == ((451, 300), "RGB")


def test_grey_is_repeated(tmp_path):
    GREY.save(tmp_path / "a.png")
    np.testing.assert_array_equal(array(load_image(tmp_path / "a.png")), array(GREY)[..., None].repeat(3, 2))


def test_palette(tmp_path):
    flat = COLOUR.quantize(8)
    flat.save(tmp_path / "a.png")
    np.testing.assert_array_equal(array(load_image(tmp_path / "a.png")), array(flat.convert("RGB")))


def test_transparent_parts_are_white(tmp_path):
    clear = COLOUR.copy()
    alpha = np.zeros((7, 9), np.uint8)
    alpha[:, :3], alpha[:, 3:6] = 255, 128
    clear.putalpha(Image.fromarray(alpha))
    clear.save(tmp_path / "a.png")
    found = array(load_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(found[:, :3], PIXELS[:, :3])
    assert (found[:, 6:] == 255).all()
    half = PIXELS[:, 3:6] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(found[:, 3:6] - half).max() <= 1


def test_grey_with_transparency(tmp_path):
    Image.fromarray(np.stack([np.full((4, 4), 90), np.full((4, 4), 0)], 2).astype(np.uint8), "LA").save(
        tmp_path / "a.png"
    )
    assert (array(load_image(tmp_path / "a.png")) == 255).all()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 65535], [128 * 257, 32768, 40000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = array(load_image(tmp_path / "a.png"))[..., 0]
    np.testing.assert_array_equal(found, [[0, 1, 255], [128, 128, 156]])


def test_cmyk(tmp_path):
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    found = array(load_image(tmp_path / "a.jpg"))
    assert found[..., 0].min() > 240
    assert found[..., 1:].max() < 40


# What a camera stores for an upright picture: EXIF names the sides that row 0 and column 0 are.
STORED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.swapaxes(0, 1),
    6: PIXELS[:, ::-1].swapaxes(0, 1),
    7: PIXELS[::-1, ::-1].swapaxes(0, 1),
    8: PIXELS[::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_turns_the_picture_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(array(load_image(tmp_path / "a.png")), PIXELS)


def test_animations_give_their_first_frame(tmp_path):
    first, second = COLOUR, COLOUR.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(array(load_image(tmp_path / "a.webp")), PIXELS)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (301, 7), (2000, 1)])
def test_odd_sizes_reach_the_model(tmp_path, builtin, size):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    x = builtin.preprocessing(load_image(tmp_path / "a.png"))
    assert x.shape == (1, 3, 224, 224)
    assert x.isfinite().all()


MASKS = {
    "0/255": lambda: Image.fromarray(BLOCK),
    "0/1": lambda: Image.fromarray(BLOCK // 255),
    "16 bit": lambda: Image.fromarray(BLOCK.astype(np.uint16) * 257),
    "1 bit": lambda: Image.fromarray(BLOCK).convert("1"),
    "RGB": lambda: Image.fromarray(BLOCK).convert("RGB"),
    "palette": lambda: Image.fromarray(BLOCK).convert("RGB").quantize(2),
    "on transparency": lambda: Image.merge("LA", [Image.new("L", (8, 6), 255), Image.fromarray(BLOCK)]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_mode(tmp_path, kind):
    MASKS[kind]().save(tmp_path / "m.png")
    np.testing.assert_array_equal(array(load_mask(tmp_path / "m.png", (8, 6))), BLOCK)


SOFT = "grey values: half of white and brighter is visible"
OPAQUE = "neither black nor white where it is opaque: its opaque part is visible"


def disc(side=64, inner=4):
    """White of soft edges on black, and where it is half or more."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    level = np.clip(side / inner - np.hypot(y, x) + 0.5, 0, 1)
    return np.round(255 * level).astype(np.uint8)


def with_alpha(colors, alpha):
    colors = np.broadcast_to(np.asarray(colors, np.uint8), (*alpha.shape, 3))
    return Image.fromarray(np.concatenate([colors, alpha[..., None]], 2))


PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
HARD = np.where(disc() > 127, np.uint8(255), np.uint8(0))
DRAWN = {
    "soft brush": (lambda: Image.fromarray(disc()), SOFT),
    "soft brush of 16 bit": (lambda: Image.fromarray(disc().astype(np.uint16) * 257), SOFT),
    "soft white on transparent": (lambda: with_alpha(255, disc()), SOFT),
    "erased background": (lambda: with_alpha(PHOTO, HARD), OPAQUE),
    "red strokes": (lambda: with_alpha((255, 0, 0), HARD), OPAQUE),
    "dark grey and light grey strokes": (lambda: with_alpha(PHOTO // 8 + 60, HARD), OPAQUE),
    "palette of VOC": (
        lambda: Image.fromarray(HARD // 255 * np.uint8(38)),
        "two values 0 and 38: 38 is visible",
    ),
    "labels 0 and 2": (lambda: Image.fromarray((HARD // 255 * 2).astype(np.uint16)), "0 and 2: 2 is visible"),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_masks_that_tools_draw_are_read_and_it_is_said_how(tmp_path, kind):
    make, words = DRAWN[kind]
    make().save(tmp_path / "m.png")
    with pytest.warns(UserWarning, match=words):
        np.testing.assert_array_equal(array(load_mask(tmp_path / "m.png")), HARD)


def test_a_black_and_white_drawing_with_transparent_parts_is_read_by_its_colours(tmp_path):
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:, :20] = 0
    with_alpha(HARD[..., None], alpha).save(tmp_path / "m.png")
    np.testing.assert_array_equal(array(load_mask(tmp_path / "m.png")), np.where(alpha > 0, HARD, 0))


def test_a_mask_of_jpeg_is_cut_with_a_warning(tmp_path):
    Image.fromarray(HARD).save(tmp_path / "m.jpg", quality=60)
    with pytest.warns(UserWarning, match="JPEG blurs edges, save masks as PNG"):
        found = array(load_mask(tmp_path / "m.jpg"))
    assert (found != HARD).mean() < 0.01


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, np.int64])
def test_masks_of_arrays(tmp_path, kind):
    for shape in ((64, 64), (1, 1, 64, 64)):
        np.save(tmp_path / "m.npy", (HARD > 0).astype(kind).reshape(shape))
        np.testing.assert_array_equal(array(load_mask(tmp_path / "m.npy", (64, 64))), HARD)


def test_a_mask_of_another_resolution_is_resized_by_nearest_neighbour(tmp_path):
    Image.fromarray(BLOCK).save(tmp_path / "m.png")
    found = array(load_mask(tmp_path / "m.png", (32, 24)))
    np.testing.assert_array_equal(found, BLOCK.repeat(4, 0).repeat(4, 1))


def test_the_mask_goes_through_the_crop_of_the_image(tmp_path, builtin):
    """Where the picture is white the mask is: image and mask are cut alike."""
    pixels = np.zeros((90, 130), np.uint8)
    pixels[20:60, 40:100] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    mask = load_mask(tmp_path / "m.png")
    seen = builtin.preprocessing(load_image(tmp_path / "m.png"))[:, :1] > 0
    visible = builtin.preprocessing.mask(mask)
    assert visible.shape == (1, 1, 224, 224)
    assert (seen == visible).float().mean() > 0.995


def test_what_the_crop_pads_is_visible(builtin):
    """Padding is no part of the picture, but the plain model sees it: all white is the plain model."""
    padding = replace(builtin.preprocessing, resize=(100, 100))
    for size in ((130, 90), (90, 130)):
        assert padding.mask(Image.new("L", size, 255)).all()
        assert int((~padding.mask(Image.new("L", size))).sum()) == 100 * 144


LABELS = np.arange(12).reshape(3, 4) * 300


@pytest.mark.parametrize("name", ["labels.npy", "labels.png", "labels.tiff"])
def test_label_maps(tmp_path, name):
    path = tmp_path / name
    np.save(path, LABELS) if name.endswith("npy") else Image.fromarray(LABELS.astype(np.uint16)).save(path)
    found = load_labels(path, (4, 3))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, LABELS)
    np.testing.assert_array_equal(load_labels(path, (8, 6)), LABELS.repeat(2, 0).repeat(2, 1))


def test_palette_label_maps_are_indices_and_not_colours(tmp_path):
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([9, 9, 9] * 256)
    picture.save(tmp_path / "l.png")
    np.testing.assert_array_equal(load_labels(tmp_path / "l.png"), indices)


def test_labels_go_through_the_crop_of_the_image(builtin):
    labels = np.arange(90 * 130).reshape(90, 130)
    found = builtin.preprocessing.labels(labels)
    assert found.shape == (224, 224)
    assert set(found.unique().tolist()) <= set(range(90 * 130))
    assert int(found[112, 112]) // 130 in (44, 45)
    assert int(found[112, 112]) % 130 in (64, 65)


def test_a_label_map_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "l.npy", LABELS)
    with pytest.raises(ImageError, match=r"is 4x3 and the image 3x4: .* before its EXIF rotation"):
        load_labels(tmp_path / "l.npy", (3, 4))
    np.save(tmp_path / "l.npy", LABELS * 0.5)
    with pytest.raises(ImageError, match=r"is float64 of shape \(3, 4\): expected integers"):
        load_labels(tmp_path / "l.npy")
    np.save(tmp_path / "l.npy", LABELS - 1)
    with pytest.raises(ImageError, match="values from -1 to 3299: expected 0 or more"):
        load_labels(tmp_path / "l.npy")
    COLOUR.save(tmp_path / "l.png")
    with pytest.raises(ImageError, match="is a RGB picture: expected one integer per pixel"):
        load_labels(tmp_path / "l.png")
    (tmp_path / "l.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ImageError, match=r"not a readable \.npy file"):
        load_labels(tmp_path / "l.npy")
