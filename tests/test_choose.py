"""The fast choice between two images is `torch.where`, to the bit."""

from __future__ import annotations

import pytest
import torch

from layermask.removal.fills.select import select

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batches", [(1, 5), (5, 1), (5, 5), (1, 1)])
@pytest.mark.parametrize("paint", ["colour", "image", "number"])
def test_it_is_where(dtype, batches, paint):
    torch.manual_seed(0)
    images = torch.randn(batches[0], 3, 6, 7).to(dtype)
    images[:, 0, 0] = torch.nan
    images[:, 1, 1, :3] = torch.tensor([torch.inf, -torch.inf, -0.0])
    visible = torch.rand(batches[1], 1, 6, 7) < 0.5
    other = {"colour": (1, 3, 1, 1), "image": (batches[0], 3, 6, 7), "number": ()}[paint]
    painted = torch.randn(other).to(dtype)
    want = torch.where(visible, images, painted)
    for given in (images, images.to(memory_format=torch.channels_last), images.flip(3).contiguous().flip(3)):
        found = select(visible, given, painted)
        assert found.dtype == dtype and found.shape == want.shape
        assert torch.equal(found.nan_to_num(77.0), want.nan_to_num(77.0))
        assert torch.equal(found.signbit(), want.signbit())


def test_gradients_pass():
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    paint = torch.randn(2, 3, 4, 4, requires_grad=True)
    visible = torch.rand(2, 1, 4, 4) < 0.5
    a, b = torch.autograd.grad(select(visible, images, paint).sum(), [images, paint])
    assert torch.equal(a, visible.expand_as(a).float()) and torch.equal(b, 1 - a)
