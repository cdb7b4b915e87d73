"""Segmenters, and the relabelling that keeps every segment alive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermask.errors import InputError
from layermask.segment import SEGMENTERS, Grid, Quickshift, Slic, relabel, segmenter


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


@pytest.mark.parametrize("make", [Slic, Quickshift])
def test_grey_pictures(make):
    pixels = np.random.default_rng(0).random((40, 50))
    assert make()(pixels).shape == (40, 50)


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
    with pytest.raises(InputError, match=r"torch.int64 of \(2, 2, 2\)"):
        relabel(torch.zeros(2, 2, 2, dtype=torch.int64))


def test_segmenters_by_name():
    assert segmenter("grid") == Grid(16)
    assert segmenter("grid:32") == Grid(32)
    assert segmenter("slic:50") == Slic(50)
    with pytest.raises(InputError, match="unknown segments 'grit': choose from grid, slic, quickshift"):
        segmenter("grit")
    with pytest.raises(InputError, match="expected a whole number after the colon"):
        segmenter("grid:big")
    with pytest.raises(InputError, match="give 1 or more"):
        Grid(0)(torch.zeros(3, 8, 8))
