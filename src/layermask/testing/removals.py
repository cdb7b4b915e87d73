"""The laws of a removal operator, and of a fill as the operator that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layermask.check.laws import hidden_junk, seeded
from layermask.check.samples import sample_images
from layermask.removal.painting import PixelFill
from layermask.testing.suite import Laws


class SmallNet(nn.Module):
    """A convolution and a weight for each pixel, so that every hidden pixel matters."""

    def __init__(self, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        with seeded():
            convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
            self.conv = convolution(channels, 4, 3, padding=1)
            self.head = nn.Linear(4 * math.prod(size), 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().flatten(1))


def images_and_masks(channels: int, size: Sequence[int], batch: int = 4) -> tuple[Tensor, Tensor]:
    """Return images and masks. The first shows all, the second nothing, the third one corner of 4 pixels'
    width, the others random cells of that width."""
    generator = torch.Generator().manual_seed(2)
    visible = torch.rand(batch, 1, *(-(-n // 4) for n in size), generator=generator) < 0.5
    for axis, n in enumerate(size, 2):
        visible = visible.repeat_interleave(4, axis).narrow(axis, 0, n)
    visible[0], visible[1], visible[2] = True, False, False
    visible[(2, 0, *(slice(4),) * len(size))] = True
    return sample_images(batch, (channels, *size), seed=3), visible


class RemovalLaws(Laws):
    """The laws of a removal operator. `subject(model)` makes one, `removal(images, visible) -> model output`.

    `reads_hidden`: what hidden pixels hold may change the answer, by definition. `differentiable`: the
    gradient is that of the whole. `tolerance`: how far an answer may be from one that it has to equal.
    `channels`, `size`, `small`: of the images, and of those on which gradients are measured.
    """

    reads_hidden: bool = False
    differentiable: bool = True
    tolerance: float = 0.0
    channels: int = 3
    size: tuple[int, ...] = (12, 8)
    small: tuple[int, ...] = (6, 5)

    def model(self, size: tuple[int, ...]) -> nn.Module:
        """Return the model that the operator is made of; override it for operators of other models."""
        return SmallNet(self.channels, size).eval()

    def removal(self, model: nn.Module, size: tuple[int, ...]) -> Callable[..., Any]:
        return self.judged(model)

    def made(self, batch: int = 4) -> tuple[nn.Module, Callable[..., Any], Tensor, Tensor]:
        """Return a model, its operator, images and masks."""
        model = self.model(self.size)
        return model, self.removal(model, self.size), *images_and_masks(self.channels, self.size, batch)

    def same(self, ours: Tensor, theirs: Tensor, tolerance: float | None = None) -> None:
        tolerance = self.tolerance if tolerance is None else tolerance
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 10)

    def test_all_visible_is_the_plain_model(self) -> None:
        model, removed, x, visible = self.made()
        self.same(removed(x, torch.ones_like(visible)), model(x))
        self.same(removed(x, visible)[:1], model(x)[:1])

    def test_hidden_pixels_do_not_matter(self) -> None:
        _, removed, x, visible = self.made()
        want = removed(x, visible)
        self.assertTrue(want.isfinite().all(), "the answer is not finite")
        if self.reads_hidden:
            noisy = torch.where(visible, x, 7 * torch.rand_like(x))
            self.assertFalse(torch.allclose(removed(noisy, visible), want), "it does not read hidden pixels")
            return
        for junk in hidden_junk(x, visible):
            self.same(removed(junk, visible), want)

    def test_a_batch_answers_as_its_images_one_by_one(self) -> None:
        _, removed, x, visible = self.made(batch=6)
        want, order = removed(x, visible), torch.tensor([3, 5, 0, 2, 1, 4])
        single = torch.cat([removed(x[i : i + 1], visible[i : i + 1]) for i in range(6)])
        self.same(single, want, 1e-5)
        self.same(removed(x[order], visible[order]), want[order], 1e-5)

    def test_one_image_goes_with_many_masks_and_one_mask_with_many_images(self) -> None:
        _, removed, x, visible = self.made(batch=6)
        self.same(removed(x[4:5], visible), removed(x[4:5].expand_as(x), visible), 1e-5)
        self.same(removed(x, visible[4:5]), removed(x, visible[4:5].expand_as(visible)), 1e-5)

    def test_the_gradient_is_that_of_the_whole(self) -> None:
        if not self.differentiable:
            self.skipTest("it is not differentiable")
        removed, x, visible = self._double()
        torch.autograd.gradcheck(lambda x: removed(x, visible), x.clone().requires_grad_())

    def test_hidden_pixels_have_no_gradient(self) -> None:
        if self.reads_hidden:
            self.skipTest("it reads hidden pixels")
        removed, x, visible = self._double()
        x = torch.where(visible, x, math.nan).requires_grad_()
        removed(x, visible).square().sum().backward()
        assert x.grad is not None
        self.assertFalse(x.grad.masked_fill(visible, 0).any(), "there is a gradient on hidden pixels")
        self.assertTrue(x.grad.isfinite().all(), "the gradient is not finite")
        self.assertTrue(x.grad[0].any(), "visible pixels have no gradient")

    def _double(self) -> tuple[Callable[..., Any], Tensor, Tensor]:
        x, visible = images_and_masks(self.channels, self.small)
        return self.removal(self.model(self.small).double(), self.small), x.double(), visible

    def test_nothing_is_changed(self) -> None:
        model, removed, x, visible = self.made()
        before = x.clone(), visible.clone(), {k: v.clone() for k, v in model.state_dict().items()}
        removed(x, visible)
        self.same(x, before[0], 0.0)
        self.same(visible, before[1], 0.0)
        for key, value in model.state_dict().items():
            self.same(value, before[2][key], 0.0)

    def test_a_mask_that_is_not_binary_is_refused(self) -> None:
        _, removed, x, visible = self.made()
        with self.assertRaises(ValueError):
            removed(x, visible.float() * 0.5)


class FillLaws(RemovalLaws):
    """The laws of a fill, `subject(images, visible) -> images`, and of the operator that it makes.

    Images are (N, C, *S) and masks (N, 1, *S) bool. Give a fill that draws
    random numbers a seed.
    """

    def removal(self, model: nn.Module, size: tuple[int, ...]) -> Callable[..., Any]:
        return PixelFill(model, self.judged)

    def test_visible_pixels_shapes_and_types_stay(self) -> None:
        x, visible = images_and_masks(self.channels, self.size)
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            images = x.to(dtype)
            painted = self.judged(images, visible)
            self.assertEqual((painted.shape, painted.dtype), (images.shape, dtype))
            self.same(torch.where(visible, painted, 0), torch.where(visible, images, 0), 0.0)
