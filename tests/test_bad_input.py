"""What cannot be used is refused in one sentence that says which value, and what to do; nothing is lost."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layermask.data import images
from layermask.data.images import load_image, load_mask
from layermask.errors import ImageError, InputError, MissingPackage, import_optional
from layermask.io.atomic import output_folder, write_all


def png(width: int, height: int) -> bytes:
    """Return a PNG file whose header alone tells its size: two megabytes can claim a hundred gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def refusal(path: Path, load=load_image) -> str:
    with pytest.raises(ImageError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_missing_image(tmp_path):
    assert refusal(tmp_path / "a.png").endswith("does not exist")


def test_a_folder(tmp_path):
    assert refusal(tmp_path).endswith("is a folder: give one file")


def test_an_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert refusal(tmp_path / "a.jpg").endswith("is empty (0 bytes)")


def test_no_image_at_all(tmp_path):
    (tmp_path / "a.jpg").write_text("hello " * 100)
    assert refusal(tmp_path / "a.jpg").endswith("is not an image that Pillow can read")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.tiff", "a.bmp"])
def test_a_truncated_file(tmp_path, photograph, name):
    load_image(photograph).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    message = refusal(tmp_path / name)
    assert "truncated or damaged" in message or "not an image" in message


def test_an_image_without_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0, 5))
    message = refusal(tmp_path / "a.png")
    assert "no pixels" in message or "not an image" in message or "damaged" in message


@pytest.mark.parametrize("side", [10_001, 14_000, 20_000, 60_000])
def test_a_decompression_bomb_is_refused_with_the_limit(tmp_path, side):
    """Above and below the limits at which Pillow itself warns and refuses."""
    (tmp_path / "a.png").write_bytes(png(side, side))
    assert "100,000,000" in refusal(tmp_path / "a.png")


def test_the_limit_itself_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 12)
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").size == (4, 3)
    Image.new("RGB", (13, 1)).save(tmp_path / "b.png")
    assert "13x1 = 13 pixels, over the limit of 12: scale it down" in refusal(tmp_path / "b.png")


def test_floating_point_pixels(tmp_path):
    Image.fromarray(np.array([[0.0, 3.5]], np.float32)).save(tmp_path / "a.tiff")
    assert "float32 values from 0 to 3.5" in refusal(tmp_path / "a.tiff")


def test_a_mask_of_many_greys(tmp_path):
    Image.fromarray(np.tile(np.arange(0, 256, 3, dtype=np.uint8), (8, 1))).save(tmp_path / "m.png")
    message = refusal(tmp_path / "m.png", load_mask)
    assert "has 86 grey values from 0 to 255, and 79% of it is neither black nor white" in message
    assert message.endswith("expected only 0 (hidden) and 255 (visible), or soft edges between the two")


def test_a_photograph_is_no_mask(photograph, tmp_path):
    assert "is neither black nor white" in refusal(photograph, load_mask)
    Image.fromarray(np.array([[10, 128]], np.uint8)).save(tmp_path / "m.png")
    assert "has 2 grey values from 10 to 128" in refusal(tmp_path / "m.png", load_mask)
    Image.new("L", (4, 4), 38).save(tmp_path / "m.png")
    assert "has 1 grey values from 38 to 38" in refusal(tmp_path / "m.png", load_mask)


def test_a_mask_of_black_on_transparent(tmp_path):
    strokes = np.zeros((8, 8, 4), np.uint8)
    strokes[2:5, 2:5, 3] = 255
    Image.fromarray(strokes).save(tmp_path / "m.png")
    assert refusal(tmp_path / "m.png", load_mask).endswith("both hidden: paint what is visible in white")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 4, 4), bool), r"is of shape \(2, 4, 4\): expected \(height, width\)"),
        (np.full((4, 4), np.nan), "is float64: expected bool or numbers, and no NaN"),
        (np.full((4, 4), "x"), "is <U1: expected bool"),
        (np.array([[-1, 1]]), "has 2 grey values from -1 to 1"),
    ],
)
def test_arrays_that_are_no_masks(tmp_path, array, words):
    np.save(tmp_path / "m.npy", array)
    assert re.search(words, refusal(tmp_path / "m.npy", load_mask))


def test_a_mask_of_another_shape(tmp_path):
    Image.new("1", (40, 30)).save(tmp_path / "m.png")
    message = refusal(tmp_path / "m.png", lambda path: load_mask(path, (40, 40)))
    assert message.endswith("is 40x30 and the image 40x40: give one of the same shape")
    message = refusal(tmp_path / "m.png", lambda path: load_mask(path, (30, 40)))
    assert message.endswith("it has the size of the image before its EXIF rotation")


def test_a_model_of_five_channels_takes_no_pictures(picture, builtin):
    from dataclasses import replace

    five = replace(builtin.preprocessing, mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(ImageError, match="the model takes 5 channels and a picture has 1 or 3"):
        five(picture)
    one = replace(builtin.preprocessing, mean=(0.5,), std=(0.5,))
    assert one(picture).shape == (1, 1, 224, 224)
    assert one.picture(one(picture)).shape == (224, 224, 3)


def test_an_output_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write in the folder .*file/deeper: Not a directory"):
        output_folder(tmp_path / "file" / "deeper")
    with pytest.raises(InputError, match=r"cannot write in the folder .*file: File exists"):
        output_folder(tmp_path / "file")
    assert output_folder(tmp_path / "a" / "b").is_dir()


def test_failing_to_write_loses_nothing(tmp_path, monkeypatch):
    old, other = tmp_path / "a.png", tmp_path / "a.json"
    old.write_bytes(b"old")
    full = OSError(28, "No space left on device", str(other))
    write = Path.write_bytes

    def failing(path: Path, content: bytes) -> int:
        if content == b"second":
            write(path, content[:3])
            raise full
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(InputError, match=r"cannot write .*a\.json: No space left on device"):
        write_all({old: b"new", other: b"second"})
    assert old.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_an_interrupt_while_writing_leaves_no_part(tmp_path, monkeypatch):
    def interrupted(path: Path, content: bytes) -> int:
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all({tmp_path / "a.png": b"new"})
    assert not list(tmp_path.iterdir())


def test_outputs_replace_older_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    write_all({tmp_path / "a": b"new", tmp_path / "b": b"too"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"too"}


def test_a_missing_package_is_named():
    with pytest.raises(MissingPackage, match="the package no_such_thing, which is not installed: pip"):
        import_optional("no_such_thing.data", "timm")


def test_a_broken_package_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_thing.py").write_text("import also_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="also_not_there"):
        import_optional("broken_thing", "timm")
