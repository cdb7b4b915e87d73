"""Sources of labelled pictures: every layout in small, and what is said of those that are not whole."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layermask.data import DATA_SOURCES, ImageSource, open_source
from layermask.data.overlays import Shape, Shapes
from layermask.errors import ImageError, InputError

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"  # classes 0, 1 and 2


def picture(path: Path, size=(12, 8), colour="teal") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def grey(path: Path, values, size=(12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), size[::-1]).copy()).save(path)
    return path


def left_half(size=(12, 8)) -> np.ndarray:
    return np.where(np.arange(size[0]) < size[0] // 2, 255, 0)


def make_folder(root: Path) -> None:
    for name in ("a.jpg", "b.png"):
        picture(root / name)
    (root / "labels.csv").write_text("file,label\na.jpg,0\nb.png,1\n")
    grey(root / "masks" / "a.png", left_half())


def make_imagenet(root: Path) -> None:
    for name in (f"{TENCH}/a.JPEG", f"{GOLDFISH}/b.JPEG", f"{GOLDFISH}/c.JPEG"):
        picture(root / "val" / name)
    grey(root / "masks" / GOLDFISH / "b.png", left_half())


def make_imagenet_s(root: Path) -> None:
    picture(root / "validation" / GOLDFISH / "a.JPEG")
    values = np.zeros((8, 12, 3), np.uint8)
    values[:, :6] = 44, 1, 0  # class 44 + 256 of the list below
    values[:2] = 232, 3, 0  # 1000, to be ignored
    path = root / "validation-segmentation" / GOLDFISH / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)
    names = [f"n0000{number:04}" for number in range(299)] + [GOLDFISH]
    (root / "ImageNetS_categories_im919.txt").write_text("\n".join(names))


def make_salient(root: Path) -> None:
    picture(root / "train" / TENCH / "x_1.JPEG")
    grey(root / TENCH / "feature_7" / "x_1.JPEG", 40)
    grey(root / TENCH / "feature_8" / "x_1.JPEG", 200)
    grey(root / TENCH / "feature_9" / "x_1.JPEG", 250)
    answers = [("8", "main_object")] * 5 + [("7", "background")] * 2 + [("9", "separate_object")] * 3
    lines = [f"{TENCH},{feature},{answer}" for feature, answer in answers]
    header = "Input.wordnet_id,Input.feature_index,Answer.main"
    (root / "discover_spurious_features.csv").write_text("\n".join([header, *lines]))


def annotations() -> dict:
    segments = [[[0, 0, 5, 0, 5, 7, 0, 7]], {"size": [8, 12], "counts": [88, 8]}]
    return {
        "images": [{"id": 3, "file_name": f"{SHARK}/a.JPEG", "width": 12, "height": 8}],
        "annotations": [{"image_id": 3, "category_id": 1, "segmentation": each} for each in segments],
        "categories": [{"id": 1, "name": SHARK}],
    }


def make_pixel(root: Path) -> None:
    picture(root / "images" / SHARK / "a.JPEG")
    (root / "instances.json").write_text(json.dumps(annotations()))


MAKERS = {
    "folder": make_folder,
    "imagenet": make_imagenet,
    "imagenet-s": make_imagenet_s,
    "salient-imagenet": make_salient,
    "pixel-imagenet": make_pixel,
}
FOUND = {  # names, labels, masks, saliency maps
    "folder": (["a.jpg", "b.png"], [0, 1], 1, 0),
    "imagenet": ([f"{TENCH}/a.JPEG", f"{GOLDFISH}/b.JPEG", f"{GOLDFISH}/c.JPEG"], [0, 1, 1], 1, 0),
    "imagenet-s": ([f"{GOLDFISH}/a.JPEG"], [1], 1, 0),
    "salient-imagenet": ([f"{TENCH}/x_1"], [0], 0, 1),
    "pixel-imagenet": ([f"{SHARK}/a.JPEG"], [2], 1, 0),
}


@pytest.fixture
def root(tmp_path) -> Path:
    return (tmp_path / "data").resolve()


def opened(kind: str, root: Path) -> ImageSource:
    root.mkdir(exist_ok=True)
    MAKERS[kind](root)
    return open_source(root)


def test_every_kind_of_the_table_is_tested():
    assert set(DATA_SOURCES) == set(MAKERS) == set(FOUND)
    assert all(0 < len(kind.summary) < 100 for kind in DATA_SOURCES.values())


@pytest.mark.parametrize("kind", MAKERS)
def test_a_layout_is_recognised_and_read(kind, root):
    source = opened(kind, root)
    assert source.kind == kind
    counts = source.count("mask"), source.count("saliency")
    assert ([s.name for s in source], [s.label for s in source], *counts) == FOUND[kind]
    for sample in source:
        assert sample.load_image().size == (12, 8)
        for overlay in (sample.mask, sample.saliency):
            assert overlay is None or (overlay((12, 8)).size, overlay((12, 8)).mode) == ((12, 8), "L")
    assert open_source(root, kind).digest() == source.digest()


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_masks_beside_pictures(kind, root):
    source = opened(kind, root)
    masked = next(sample for sample in source if sample.mask)
    np.testing.assert_array_equal(np.asarray(masked.load_mask())[0], left_half())
    with pytest.raises(
        InputError, match=r"[12] of [23] images .* have no mask \(.*: give a .*, or skip those"
    ):
        source.having("mask")
    assert [sample.name for sample in source.having("mask", skip=True)] == [masked.name]
    with pytest.raises(InputError, match=r"give a source that has them$"):
        source.having("saliency", skip=True)


def test_masks_whose_images_are_elsewhere(root, tmp_path):
    opened("imagenet", root)
    shutil.move(root / "masks", tmp_path / "masks")
    source = open_source(tmp_path / "masks", "imagenet", images=root)
    assert ([s.name for s in source], source.count("mask")) == (FOUND["imagenet"][0], 1)
    assert [s.label for s in source.having("mask", skip=True)] == [1]


def test_imagenet_s_takes_the_pixels_of_the_class(root):
    mask = np.asarray(opened("imagenet-s", root)[0].load_mask())
    assert (mask[:2] == 0).all()
    assert (mask[2:, :6] == 255).all() and (mask[:, 6:] == 0).all()


def test_imagenet_s_of_few_classes_needs_the_list(root):
    opened("imagenet-s", root)
    (root / "ImageNetS_categories_im919.txt").unlink()
    with pytest.raises(InputError, match=r"has 1 classes and ImageNet-S 50, 300 or 919.*put ImageNetS_cat"):
        open_source(root)


def test_saliency_is_the_largest_of_core_features(root):
    assert np.asarray(opened("salient-imagenet", root)[0].load_saliency()).max() == pytest.approx(200, abs=1)
    (root / "discover_spurious_features.csv").unlink()
    assert np.asarray(open_source(root)[0].load_saliency()).max() == pytest.approx(250, abs=1)


def test_saliency_maps_whose_images_are_elsewhere(root, tmp_path):
    opened("salient-imagenet", root)
    shutil.move(root / "train", tmp_path / "imagenet")
    with pytest.raises(InputError, match="say where ImageNet is, --images"):
        open_source(root)
    assert open_source(root, images=tmp_path / "imagenet")[0].load_image().size == (12, 8)
    shutil.rmtree(tmp_path / "imagenet" / TENCH)
    picture(tmp_path / "imagenet" / TENCH / "other.JPEG")
    with pytest.raises(InputError, match=f"map of {TENCH}/x_1, of which there is no image"):
        open_source(root, images=tmp_path / "imagenet")


def test_coco_masks_are_the_union_of_their_parts(root):
    mask = np.asarray(opened("pixel-imagenet", root)[0].load_mask()) > 0
    expected = np.zeros((8, 12), bool)
    expected[:, :6] = expected[:, 11] = True  # a polygon, and the last 8 pixels down the columns
    np.testing.assert_array_equal(mask, expected)


def compressed(runs: list[int]) -> str:
    """The other way: COCO's text for run lengths, written from its description."""
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths(seed):
    mask = np.random.default_rng(seed).random((37, 53)) < (0.5, 0.01, 0.99, 0.3, 0)[seed]
    down = mask.T.flatten()
    edges = np.flatnonzero(np.diff(down)) + 1
    runs = np.diff([0, *([0] if down[0] else []), *edges, down.size]).tolist()
    for counts in (runs, compressed(runs)):
        shapes = Shapes((Shape({"size": [37, 53], "counts": counts}, "w"),), (53, 37), "x", "w")
        np.testing.assert_array_equal(np.asarray(shapes((53, 37))) > 0, mask)
    with pytest.raises(ImageError, match=r"runs over 1961 pixels of a 53x37 mask for an image of 50x37"):
        replace(shapes, size=(50, 37))((50, 37))


def test_a_published_compressed_mask():
    """Runs 4, 3, 2 of a 3x3 mask are "432" in COCO's text, by its description."""
    mask = np.asarray(Shapes((Shape({"size": [3, 3], "counts": "432"}, "w"),), (3, 3), "x", "w")((3, 3))) > 0
    np.testing.assert_array_equal(mask, [[0, 0, 1], [0, 1, 0], [0, 1, 0]])


def test_a_table_with_columns_for_everything(root):
    picture(root / "in" / "a.png")
    grey(root / "m.png", left_half())
    grey(root / "s.png", 77)
    (root / "labels.csv").write_text(f"file,label,mask,saliency\nin/a.png,{GOLDFISH},m.png,s.png\n")
    (sample,) = open_source(root)
    assert sample.label == 1
    assert np.asarray(sample.load_mask()).max() == 255
    assert np.asarray(sample.load_saliency()).max() == 77


def test_pictures_alone_have_no_labels(root):
    picture(root / "a.png")
    source = open_source(root)
    assert (source.count("label"), source[0].label) == (0, None)
    assert source.summary == f"folder {root}: 1 images, 0 with label, 0 with mask, 0 with saliency"


def write(root: Path, table: str) -> None:
    picture(root / "a.png")
    (root / "labels.csv").write_text(table)


def nothing_useful(root: Path) -> None:
    (root / "papers").mkdir(parents=True)
    (root / "notes.txt").write_text("no picture")


def two_splits(root: Path) -> None:
    make_imagenet(root)
    shutil.copytree(root / "val", root / "train")


def broken_json(root: Path) -> None:
    make_pixel(root)
    (root / "instances.json").write_text("{ half")


def without_class(root: Path) -> None:
    content = annotations()
    content["images"][0]["file_name"] = "a.JPEG"
    content["categories"][0]["name"] = "shark"
    picture(root / "a.JPEG")
    (root / "annotations").mkdir()
    (root / "annotations" / "one.json").write_text(json.dumps(content))


BAD = {
    "no folder": (lambda root: None, r"data .* does not exist: give a folder"),
    "no layout": (nothing_useful, r"of no known layout; it holds notes.txt, papers/: expected labels.csv"),
    "empty": (lambda root: root.mkdir(), r"it holds nothing"),
    "splits": (two_splits, r"holds both val and train: give one"),
    "no image": (lambda root: write(root, "file,label\nz.png,1\n"), r"labels.csv, line 2: there is no image"),
    "label": (lambda root: write(root, "file,label\na.png,cat\n"), r"line 2: label 'cat' is neither a class"),
    "columns": (
        lambda root: write(root, "name;label\na.png;1\n"),
        r"expected the columns file,label; got name",
    ),
    "twice": (lambda root: write(root, "file,label\na.png,1\na.png,2\n"), r"lists 1 images more than once"),
    "no rows": (lambda root: write(root, "file,label\n"), r"holds no usable images"),
    "wnid": (lambda root: picture(root / "n99999999" / "a.png"), r"'n99999999' is not one of the 1,000"),
    "json": (broken_json, r"annotations .*instances.json cannot be read"),
    "no class": (without_class, r"the class of image a.JPEG is not known"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_missing_is_named(case, root):
    make, message = BAD[case]
    make(root)
    with pytest.raises(InputError, match=message):
        open_source(root, "auto" if case != "no class" else "pixel-imagenet")


def test_an_unknown_kind(root):
    make_folder(root)
    with pytest.raises(InputError, match=r"unknown kind of data 'imagnet': choose .*nearest: imagenet"):
        open_source(root, "imagnet")


@pytest.mark.parametrize("kind", MAKERS)
def test_the_digest_is_of_the_list_and_not_of_the_place(kind, root, tmp_path):
    source = opened(kind, root)
    before = source.digest()
    shutil.copytree(root, tmp_path / "copy")
    assert open_source(tmp_path / "copy").digest() == before
    picture(source[0].path, (640, 640), "red")
    assert open_source(root).digest() != before


def test_the_digest_sees_labels_and_masks(root):
    before = opened("folder", root).digest()
    (root / "masks" / "a.png").unlink()
    without = open_source(root).digest()
    (root / "labels.csv").write_text("file,label\na.jpg,1\nb.png,0\n")
    assert len({before, without, open_source(root).digest()}) == 3


def test_picking_is_at_random_in_order_and_by_the_seed(root):
    for number in range(30):
        picture(root / f"{number:02}.png")
    source = open_source(root)
    names = [sample.name for sample in source.pick(8, 1)]
    assert names == sorted(names) == [sample.name for sample in source.pick(8, 1)] and len(names) == 8
    assert names not in ([s.name for s in source.pick(8, 2)], [s.name for s in source][:8])
    assert source.pick(None) is source.pick(99) is source
    with pytest.raises(InputError, match="limit is 0: give 1 or more"):
        source.pick(0)


def test_real_folders(shared_data):
    source = open_source(shared_data / "imagenet_sample_1000")
    assert (source.kind, len(source), source[999].label) == ("folder", 1000, 999)
    source = open_source(shared_data / "davis16_masks")
    assert (len(source), source.count("label"), source.count("mask")) == (150, 0, 150)
    assert set(np.unique(np.asarray(source[0].load_mask()))) == {0, 255}


def test_the_page_names_every_kind():
    page = Path(__file__).parents[1].joinpath("docs/evaluate.md").read_text()
    assert [name for name in DATA_SOURCES if f"\n| `{name}` |" not in page] == []


# Files of a wrong kind: the entry is named

COCO = {
    "images": [{"id": 1, "file_name": f"{TENCH}/a.png", "width": 12, "height": 8}],
    "categories": [{"id": 1, "name": TENCH}],
    "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 6, 0, 6, 7]]}],
}
ENTRIES = [
    ("images", "height", (None, "8", 0, -8, 2**40, 8.5, [], True)),
    ("images", "width", (True, False)),
    ("images", "file_name", (5, None, {}, [], "")),
    ("images", "id", (None, {}, [], 1.5, True)),
    ("annotations", "image_id", (None, {}, [1], True, 2, "1")),
    ("annotations", "category_id", (None, [], 2.5, True, 2, "1")),
    ("categories", "id", (None, [], {}, True)),
]


def annotated(root: Path, content: object) -> Path:
    picture(root / TENCH / "a.png")
    (root / "annotations.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(k, n, value) for k, n, values in ENTRIES for value in values], ids=repr
)
def test_an_entry_of_a_wrong_type_is_named(tmp_path, kind, name, value):
    root = annotated(tmp_path, {**COCO, kind: [{**COCO[kind][0], name: value}]})
    with pytest.raises(InputError, match=rf"annotations {root}/annotations.json: entry 0 of ") as caught:
        open_source(root)
    named = "annotations" if (kind, name) == ("categories", "id") and value is not True else kind
    assert "\n" not in str(caught.value)
    assert kind in str(caught.value) or named in str(caught.value)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_an_annotation_of_what_is_not_there_is_named(tmp_path, key):
    good = COCO["annotations"][0]
    content = {**COCO, "annotations": [good, good, {**good, key: 7}]}
    with pytest.raises(
        InputError, match=rf"annotations\.json: entry 2 of annotations has the {key} 7, and none of"
    ):
        open_source(annotated(tmp_path, content))


@pytest.mark.parametrize(
    ("kind", "other", "what"),
    [
        ("images", {}, "id 1"),
        ("images", {"id": 2}, f"image '{TENCH}/a.png'"),
        ("categories", {}, "id 1"),
    ],
)
def test_an_entry_that_is_there_twice_is_named(tmp_path, kind, other, what):
    content = {**COCO, kind: [*COCO[kind], {**COCO[kind][0], **other}]}
    message = rf"annotations\.json: entry 1 of {kind} has the {what} of entry 0: list it once"
    with pytest.raises(InputError, match=message):
        open_source(annotated(tmp_path, content))


def test_a_size_that_is_not_the_pictures_is_named(tmp_path):
    content = {**COCO, "images": [{**COCO["images"][0], "width": 13}]}
    (sample,) = open_source(annotated(tmp_path, content))
    message = rf"mask of {TENCH}/a.png \(.*annotations.json: entry 0 of images\) is 13x8 and the image 12x8"
    with pytest.raises(ImageError, match=message):
        sample.load_mask()


@pytest.mark.parametrize("kind", COCO)
@pytest.mark.parametrize("value", [None, 5, {}, "x", [None], [5], [[]], [{}]], ids=repr)
def test_a_list_of_a_wrong_type_is_named(tmp_path, kind, value):
    with pytest.raises(InputError, match=rf"annotations.json: .*{kind}"):
        open_source(annotated(tmp_path, {**COCO, kind: value}))


WRONG_SHAPES = [1.5, None, [1], ["a"], [["a"] * 6], [[float("nan")] * 6], [[1e300] * 6], [[None] * 6]]
WRONG_SHAPES += ["", [], [[]], "abcdef", ["abcdef"], [[True] * 6], [[0, 0, 6, 0]], [[0, 0, 6, 0, 6, 7, 1]]]
WRONG_SHAPES += [
    {},
    {"counts": [95, True], "size": [8, 12]},
    {"counts": [96]},
    {"counts": 5, "size": [8, 12]},
    {"counts": [95.5, 0.5], "size": [8, 12]},
]
WRONG_SHAPES += [
    {"counts": "\x7f" * 500, "size": [8, 12]},
    {"counts": [96], "size": 8},
    {"counts": [], "size": []},
]


@pytest.mark.parametrize("shape", WRONG_SHAPES, ids=repr)
def test_a_segmentation_of_a_wrong_type_is_named_when_it_is_read(tmp_path, shape):
    good = COCO["annotations"][0]
    content = {**COCO, "annotations": [good, {**good, "segmentation": shape}]}
    (sample,) = open_source(annotated(tmp_path, content))
    entry = rf"annotations {tmp_path}/annotations\.json: entry 1 of annotations"
    with pytest.raises(ImageError, match=rf"mask of {TENCH}/a.png \({entry}\): its segmentation"):
        sample.load_mask()


@pytest.mark.parametrize("text", ["null", "5", "[" * 99999, "{", "\udcff"], ids=lambda text: text[:5])
def test_annotations_that_are_no_json_are_named(tmp_path, text):
    picture(tmp_path / TENCH / "a.png")
    (tmp_path / "annotations.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"annotations\.json"):
        open_source(tmp_path, "pixel-imagenet")


TABLES = {
    "file,label\na.png,1,2\n": "line 2: there are more fields",
    "name,label\na.png,1\n": "line 2: expected the columns file,label; got name, label",
    f"file,label\na.png,{'9' * 5000}\n": "is neither a class index",
    'file,label\n"a.png,1\n': "cannot be read",
    "file,label\n\udcff,1\n": "cannot be read",
    "file,label\na\0b.png,1\n": r"there is no image|cannot be read",
    f"file,label\n{'x' * 300}.png,1\n": "there is no image",
}


@pytest.mark.parametrize("text", TABLES, ids=lambda text: text[:20])
def test_a_table_of_a_wrong_kind_is_named(tmp_path, text):
    picture(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=TABLES[text]) as caught:
        open_source(tmp_path)
    assert "labels.csv" in str(caught.value)


def test_empty_lines_before_a_table_do_no_harm(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("\n\nfile,label\na.png,3\n")
    assert [sample.label for sample in open_source(tmp_path)] == [3]


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_a_table_that_is_a_pipe_is_refused_and_not_passed_over(tmp_path):

    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(InputError, match=r"labels\.csv is a pipe"):
        open_source(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_odd_files_are_samples_that_cannot_be_read(tmp_path):
    """They are counted, or left out if asked, as any bad picture."""

    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    shutil.copy(tmp_path / "a.png", os.fsdecode(os.fsencode(tmp_path) + b"/z\xff.png"))
    source = open_source(tmp_path)
    assert [sample.name for sample in source] == ["a.png", "loop.png", "pipe.png", "z\\udcff.png"]
    assert len(source.fingerprints()) == 4
    for sample in source[1:3]:
        with pytest.raises(ImageError, match=sample.name):
            sample.load_image()
    assert source[3].load_image().size == (12, 8)
