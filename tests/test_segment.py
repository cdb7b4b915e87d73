"""Segmenters, and the relabelling that keeps every segment alive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermask.data.images import load_image
from layermask.errors import InputError, MissingPackage
from layermask.segment.labels import relabel
from layermask.segment.presets import SEGMENTER_PRESETS, SEGMENTERS, segmented, segmenter
from layermask.segment.segmenters import Boxes, Grid, Quickshift, Slic


@pytest.mark.parametrize("name", SEGMENTERS)
def test_labels_are_contiguous_from_zero_and_the_same_each_time(name, builtin, picture):
    pixels = builtin.preprocessing.picture(builtin.preprocessing(picture))
    labels = SEGMENTERS[name]()(pixels)
    assert labels.shape == (224, 224)
    assert labels.dtype == torch.int64
    assert torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1))
    assert int(labels.max()) > 10
    assert torch.equal(labels, SEGMENTERS[name]()(pixels))


def test_grid_is_the_papers_196_squares():
    labels = Grid(16)(torch.zeros(1, 3, 224, 224))
    assert torch.equal(labels.unique(return_counts=True)[1], torch.full((196,), 256))
    for row, column in ((0, 0), (15, 16), (100, 30), (223, 223)):
        assert labels[row, column] == row // 16 * 14 + column // 16


@pytest.mark.parametrize("shape", [(5, 7, 13), (1, 1, 33, 20)])
def test_grid_of_any_channels_and_size(shape):
    labels = Grid(8)(torch.zeros(shape))
    assert labels.shape == shape[-2:]
    assert torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1))


def test_grid_of_a_picture_reads_its_first_two_dims():
    assert Grid(8)(np.zeros((33, 20, 3), np.uint8)).shape == (33, 20)


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 13])
def test_any_number_of_channels(name, channels):
    """lime's segmenters take three (its issues 378 and 447)."""
    shape = (40, 50, channels) if channels else (40, 50)
    pixels = np.random.default_rng(0).random(shape).astype(np.float32)
    labels = SEGMENTERS[name]()(pixels)
    assert labels.shape == (40, 50) and torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1))
    if channels:
        tensor = torch.from_numpy(pixels).movedim(-1, 0)
        assert torch.equal(SEGMENTERS[name]()(tensor), labels)
        assert torch.equal(SEGMENTERS[name]()(tensor[None]), labels)


def test_presets_are_the_papers(builtin, picture):
    pixels = builtin.preprocessing.picture(builtin.preprocessing(picture))
    counts = {name: int(preset(pixels).max()) + 1 for name, preset in SEGMENTER_PRESETS.items()}
    assert counts["paper-grid"] == 196
    assert 50 < counts["paper-slic"] < 130 < counts["paper-lime-slic"] < 300
    assert counts["paper-quickshift"] < counts["paper-lime-quickshift"]


@pytest.mark.parametrize("name", ["slic", "felzenszwalb", "quickshift", "watershed"])
def test_every_segment_hides_pixels(name, builtin, picture):
    """With labels from 1, as scikit-image has them, lime never hides the last segment (alibi's issue 748)."""
    from layermask.explain.query_plan import Segments

    pixels = builtin.preprocessing.picture(builtin.preprocessing(picture))
    segments = Segments(SEGMENTERS[name]()(pixels), torch.device("cpu"))
    hidden = ~segments.masks(~torch.eye(segments.count, dtype=torch.bool))
    assert hidden.flatten(1).any(1).all() and (hidden.sum(0) == 1).all()


def test_grids_of_signals_and_volumes():
    assert Grid(4).labels((10,)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert torch.equal(Grid((2, 3, 4)).labels((4, 6, 8)).unique(), torch.arange(8))
    with pytest.raises(InputError, match="or one per axis"):
        Grid((2, 3)).labels((4, 6, 8))


def test_boxes():
    labels = Boxes(((0, 0, 4, 3), (2, 1, 6, 5)))(torch.zeros(3, 8, 10))
    for y in range(8):
        for x in range(10):
            want = 2 if 2 <= x < 6 and 1 <= y < 5 else int(x < 4 and y < 3)
            assert labels[y, x] == want
    assert segmenter("boxes:0,0,4,3;2,1,6,5") == Boxes(((0, 0, 4, 3), (2, 1, 6, 5)))
    for text in ("boxes:", "boxes:1,2,3", "boxes:a,b,c,d"):
        with pytest.raises(InputError, match="expected left,top,right,bottom"):
            segmenter(text)
    with pytest.raises(InputError, match=r"box \(0, 0, 11, 3\) is not within the picture of 10x8 pixels"):
        Boxes(((0, 0, 11, 3),))(torch.zeros(3, 8, 10))


def test_slic_follows_its_number_of_segments(builtin, picture):
    pixels = builtin.preprocessing.picture(builtin.preprocessing(picture))
    few, many = (int(Slic(n)(pixels).max()) + 1 for n in (20, 200))
    assert few < 40 < 100 < many


def test_relabel_closes_gaps_in_order():
    labels = np.array([[5, 5, 9], [100, 9, -3]])
    assert relabel(labels).tolist() == [[1, 1, 2], [3, 2, 0]]
    assert relabel(labels).dtype == torch.int64


def test_relabel_refuses_what_is_no_label_map():
    with pytest.raises(InputError, match=r"integers of shape \(H, W\), got torch.float32 of \(2, 2\)"):
        relabel(torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"torch.int64 of \(\)"):
        relabel(torch.tensor(3))


def test_segmenters_by_name():
    assert segmenter("grid") == Grid(16)
    assert segmenter("grid:32") == Grid(32)
    assert segmenter("slic:50") == Slic(50)
    assert segmenter("slic:n_segments=50,compactness=0.5") == Slic(50, 0.5)
    assert segmenter("paper-quickshift") == Quickshift(4, 200, 0.2)
    with pytest.raises(InputError, match="'colour' is not one of n_segments, compactness, sigma"):
        segmenter("slic:colour=5")
    with pytest.raises(InputError, match=r"unknown segments 'grit': choose from grid, slic, .*nearest: grid"):
        segmenter("grit")
    with pytest.raises(InputError, match="'big' is not a number"):
        segmenter("grid:big")
    with pytest.raises(InputError, match="give 1 or more"):
        Grid(0)(torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    "text", ["grid:1e10", "grid:nan", "slic:sigma=inf", f"grid:{10**30}", "grid:²", "grid:--5"]
)
def test_numbers_that_no_segmenter_takes(text):
    with pytest.raises(InputError, match=r"segments '.*is not a number"):
        segmenter(text)


def test_a_segmenter_that_fails_is_named_by_its_text(monkeypatch):
    def fails(self, image):
        raise ZeroDivisionError("no steps")

    assert segmented("grid:4", torch.zeros(3, 8, 8)).tolist() == Grid(4).labels((8, 8)).tolist()
    monkeypatch.setattr(Grid, "__call__", fails)
    with pytest.raises(InputError, match="segments 'grid:4' cannot be made: ZeroDivisionError: no steps"):
        segmented("grid:4", torch.zeros(3, 8, 8))


def test_volumes_in_batches_are_segmented_in_three_dimensions():
    volume = torch.zeros(1, 1, 24, 32, 16)
    assert torch.equal(Grid(8)(volume), Grid(8).labels((24, 32, 16)))
    valid = torch.ones(24, 32, 16, dtype=torch.bool)
    valid[:, 0] = False
    assert torch.equal(Grid(8)(volume, valid) == -1, ~valid)
    with pytest.raises(InputError, match="image: a picture is"):
        Slic(4)(volume)
    with pytest.raises(InputError, match=r"boxes are of pictures \(H, W\)"):
        Boxes(((0, 0, 2, 2),))(volume)


def test_a_path_is_a_picture(photograph):
    for each in (Grid(32), Slic(10)):
        assert torch.equal(each(photograph), each(load_image(photograph)))
        assert torch.equal(each(str(photograph)), each(np.asarray(load_image(photograph))))


def test_without_numpy_it_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingPackage, match="the package numpy, which is not installed: pip install"):
        Slic(4)(torch.zeros(3, 8, 8))
