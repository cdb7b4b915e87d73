"""What each fill paints, against slow twins written pixel by pixel; and fills of one's own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from layermask import PixelFill
from layermask.check.samples import sample_images
from layermask.errors import InputError, MissingPackage
from layermask.removal import Blackout, ConstantFill, Greyout, InpaintFill
from layermask.removal.fills.blur import Blurred, EdgeSmoothed, gaussian_blur
from layermask.removal.fills.constant import Constant
from layermask.removal.fills.inpaint import Inpainted
from layermask.removal.fills.mean import SegmentMean, VisibleMean
from layermask.removal.fills.neighbor import Neighbors
from layermask.removal.fills.noise import Noise, RandomPixels
from layermask.removal.fills.pushpull import PushPull
from layermask.removal.fills.road import NoisyLinear
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return sample_images(2, (3, 9, 7), seed=0), torch.rand(2, 1, 9, 7, generator=generator) < 0.4


def hidden_places(visible: Tensor):
    """The (image, position) of every hidden pixel."""
    for image, _, *place in (~visible).nonzero().tolist():
        yield image, tuple(place)


def check(fill, images: Tensor, visible: Tensor, twin) -> None:
    """The fill paints `twin(image (C, *S), mask (*S), place)`, and nothing where visible."""
    painted = fill(images, visible)
    shown = visible.expand_as(images)
    assert torch.equal(painted[shown], images[shown])
    for image, place in hidden_places(visible):
        want = twin(images[image], visible[image, 0], place)
        torch.testing.assert_close(painted[(image, slice(None), *place)], want, rtol=1e-4, atol=1e-5)


# one colour


@pytest.mark.parametrize(
    ("make", "before"), [(Blackout, torch.zeros(3, 1, 1)), (Greyout, MEAN)], ids=["black", "grey"]
)
def test_the_colour_is_that_of_pixels_before_normalisation(case, make, before):
    fill = make(nn.Identity()).fill
    check(fill, *case, lambda image, mask, place: ((before - MEAN) / STD).flatten())


def test_grey_is_imagenets_mean_under_any_normalisation(case):
    x, visible = case
    painted = Greyout(nn.Identity(), (0.5,) * 3, (0.25,) * 3).fill(x, torch.zeros_like(visible))
    torch.testing.assert_close(painted[0, :, 0, 0] * 0.25 + 0.5, torch.tensor(IMAGENET_MEAN))


def test_grey_of_other_channels_is_the_mean_of_the_data():
    assert Greyout(nn.Identity(), (0.3,), (0.2,)).color == (0.0,)


@pytest.mark.parametrize("color", [2.0, [2.0, 2.0, 2.0], torch.tensor([2.0, 2.0, 2.0])], ids=str)
def test_any_colour(case, color):
    check(ConstantFill(nn.Identity(), color), *case, lambda image, mask, place: torch.full((3,), 2.0))


def test_a_colour_of_other_channels_is_refused(case):
    with pytest.raises(
        InputError, match=r"a colour of 3 channels.*shape \(2, 1, 9, 7\): give color with 1 values, or one"
    ):
        Constant((0.1, 0.2, 0.3))(case[0][:, :1], case[1])


# means


def test_the_mean_is_that_of_visible_pixels(case):
    check(VisibleMean(), *case, lambda image, mask, place: image[:, mask].mean(1))


def test_segments_have_the_mean_of_all_their_pixels(case):
    segments = torch.arange(63).view(9, 7) // 10
    segments[segments == 3] = 9  # a gap in the labels

    def twin(image, mask, place):
        return image[:, segments == segments[place]].mean(1)

    check(SegmentMean(segments), *case, twin)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (torch.zeros(9, 7), "segments: a label map is integers .* torch.float32"),
        (torch.full((9, 7), -1), "give whole numbers from 0"),
        (torch.zeros(7, 9, dtype=torch.int64), r"segments of shape \(7, 9\) .* give a map of shape \(9, 7\)"),
        (torch.zeros(2, 9, 7, dtype=torch.int64), r"segments of shape \(2, 9, 7\)"),
    ],
    ids=["float", "negative", "turned", "two"],
)
def test_segments_that_do_not_fit_are_refused(case, segments, message):
    with pytest.raises(InputError, match=message):
        SegmentMean(segments)(*case)


# blur


def blurred_at(image: Tensor, place: tuple[int, ...], kernel_size: int, sigma: float) -> Tensor:
    """The Gaussian mean around one pixel, mirrored at the border without repeating it."""

    def mirrored(i: int, size: int) -> int:
        period = max(1, 2 * (size - 1))
        return min(i % period, period - i % period)

    total, weights = torch.zeros(image.shape[0]), 0.0
    reaches = [min(kernel_size // 2, size - 1) for size in image.shape[1:]]
    for step in itertools.product(*(range(-r, r + 1) for r in reaches)):
        weight = math.exp(-sum(s * s for s in step) / (2 * sigma**2))
        there = (mirrored(p + s, n) for p, s, n in zip(place, step, image.shape[1:], strict=True))
        total, weights = total + weight * image[(slice(None), *there)], weights + weight
    return total / weights


@pytest.mark.parametrize(("kernel_size", "sigma"), [(3, 0.8), (21, 10.0)], ids=["small", "Jain et al."])
def test_blur(case, kernel_size, sigma):
    x, visible = case
    check(Blurred(kernel_size, sigma), x, visible, lambda i, m, p: blurred_at(i, p, kernel_size, sigma))


def test_blur_of_volumes():
    x = sample_images(1, (2, 3, 4, 5), seed=0)
    visible = torch.rand(1, 1, 3, 4, 5) < 0.5
    check(Blurred(5, 1.0), x, visible, lambda i, m, p: blurred_at(i, p, 5, 1.0))


def test_blur_is_torchvisions():
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = torch.randn(2, 3, 30, 41)
    torch.testing.assert_close(
        gaussian_blur(x, 21, 10.0), functional.gaussian_blur(x, [21, 21], [10.0, 10.0])
    )


def test_smoothed_edges(case):
    def twin(image, mask, place):
        return blurred_at(torch.where(mask, image, torch.tensor(0.5)), place, 5, 1.0)

    check(EdgeSmoothed((0.5,)), *case, twin)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((4, 1.0), "kernel_size is 4: give an odd number"),
        ((5, 0.0), "sigma is 0.0: give a number above 0"),
    ],
    ids=["even", "flat"],
)
@pytest.mark.parametrize("fill", [Blurred, lambda *s: EdgeSmoothed((0.0,), *s)], ids=["blur", "edges"])
def test_a_kernel_that_cannot_be_is_refused(fill, settings, message):
    with pytest.raises(InputError, match=message):
        fill(*settings)


# random colours

NOISES = {
    "gaussian": lambda seed: Noise("gaussian", seed),
    "uniform": lambda seed: Noise("uniform", seed),
    "random pixels": lambda seed: RandomPixels(seed),
    "road": lambda seed: NoisyLinear(0.1, seed),
}
noises = pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)


@noises
def test_a_seed_gives_the_same_picture_whatever_the_batch(case, make):
    x, visible = case
    painted = make(0)(x, visible)
    assert torch.equal(make(0)(x, visible), painted)
    torch.testing.assert_close(make(0)(x[1:], visible[1:]), painted[1:])
    assert not torch.equal(make(1)(x, visible), painted)


@noises
def test_no_seed_is_new_each_time(case, make):
    x, visible = (tensor[:1].expand(2, -1, -1, -1) for tensor in case)
    fill = make(None)
    painted = fill(x, visible)
    assert not torch.equal(fill(x, visible), painted)
    assert not torch.equal(painted[0], painted[1])


def test_the_noise_has_the_colours_that_it_should():
    x, visible = torch.zeros(1, 3, 200, 100), torch.zeros(1, 1, 200, 100, dtype=torch.bool)
    gaussian = Noise("gaussian")(x, visible)
    assert abs(gaussian.mean()) < 0.02 and abs(gaussian.std() - 1) < 0.02
    uniform = Noise("uniform", mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3))(x, visible)[0].flatten(1)
    colours = uniform * torch.tensor([[0.1], [0.2], [0.3]]) + torch.tensor([[0.2], [0.3], [0.4]])
    assert colours.min() >= -1e-6 and colours.max() <= 1 + 1e-6
    torch.testing.assert_close(colours.mean(1), torch.full((3,), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(colours.std(1), torch.full((3,), 12**-0.5), atol=0.02, rtol=0)


def test_random_pixels_are_visible_ones_of_the_same_image(case):
    x, visible = case
    painted = RandomPixels()(x, visible)
    for image, place in hidden_places(visible):
        colour = painted[(image, slice(None), *place)]
        assert (x[image][:, visible[image, 0]] == colour[:, None]).all(0).any()


def test_random_pixels_choose_every_visible_pixel_alike():
    x = torch.arange(10_000.0).view(1, 1, 100, 100)
    visible = torch.zeros(1, 1, 100, 100, dtype=torch.bool)
    visible.view(-1)[:5] = True
    counts = RandomPixels()(x, visible).flatten()[5:].long().bincount()
    assert len(counts) == 5 and counts.min() > 1800 and counts.max() < 2200


def test_an_unknown_noise_is_refused():
    with pytest.raises(InputError, match="kind is 'pink': choose gaussian or uniform"):
        Noise("pink")  # type: ignore[arg-type]


# rings, pyramids


def rings(image: Tensor, mask: Tensor) -> Tensor:
    """Algorithm 1 of the paper, pixel by pixel."""
    image, known = image.clone(), mask.clone()
    while not known.all():
        before, value = known.clone(), image.clone()
        for place in itertools.product(*(range(n) for n in mask.shape)):
            steps = itertools.product(
                *(range(max(0, p - 1), min(n, p + 2)) for p, n in zip(place, mask.shape, strict=True))
            )
            near = [value[(slice(None), *step)] for step in steps if before[step]]
            if not before[place] and near:
                image[(slice(None), *place)] = torch.stack(near).mean(0)
                known[place] = True
    return image


@pytest.mark.parametrize("size", [(9, 7), (13,), (3, 4, 5)], ids=str)
def test_neighbors_ring_by_ring(size):
    x = sample_images(2, (3, *size), seed=0)
    visible = torch.zeros(2, 1, *size, dtype=torch.bool)
    visible.flatten(1)[:, [2, 7, 12]] = True
    check(Neighbors(), x, visible, lambda image, mask, place: rings(image, mask)[(slice(None), *place)])


def pyramid(image: Tensor, mask: Tensor) -> Tensor:
    """Push-pull of (C, W), cell by cell: a cell is the mean of the known of its two."""
    if len(mask) == 1:
        return image
    half = range(0, len(mask), 2)
    small = torch.zeros(image.shape[0], len(half))
    known = torch.zeros(len(half), dtype=torch.bool)
    for i, start in enumerate(half):
        pair = slice(start, start + 2)
        known[i] = mask[pair].any()
        small[:, i] = image[:, pair][:, mask[pair]].mean(1) if known[i] else 0
    small = pyramid(small, known)
    out = image.clone()
    for i in range(len(mask)):
        if not mask[i]:
            other = min(max(i // 2 + (1 if i % 2 else -1), 0), -(-len(mask) // 2) - 1)
            out[:, i] = 0.75 * small[:, i // 2] + 0.25 * small[:, other]
    return out


@pytest.mark.parametrize("width", [16, 13, 2])
def test_push_pull(width):
    x, visible = sample_images(2, (3, width), seed=0), torch.zeros(2, 1, width, dtype=torch.bool)
    visible[:, :, [0, width // 3, width // 2]] = True
    check(PushPull(), x, visible, lambda image, mask, place: pyramid(image, mask)[:, place[0]])


@pytest.mark.parametrize("size", [(8, 8), (5, 6, 7)], ids=str)
def test_push_pull_keeps_a_constant(size):
    visible = torch.zeros(1, 1, *size, dtype=torch.bool)
    visible.view(-1)[3] = True
    painted = PushPull()(torch.full((1, 2, *size), 3.0), visible)
    torch.testing.assert_close(painted, torch.full((1, 2, *size), 3.0))


# inpainting


@pytest.mark.parametrize("method", ["telea", "ns"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_inpainting_is_opencvs(method, channels):
    cv2 = pytest.importorskip("cv2")
    mean, std = (0.5,) * channels, (0.25,) * channels
    x = sample_images(1, (channels, 20, 16), seed=0).clamp(-2, 2)
    visible = torch.rand(1, 1, 20, 16) < 0.7
    painted = Inpainted(method, 3, mean, std)(x, visible)
    settled = torch.where(visible, x, 0.0)[0]
    pixels = ((settled * 0.25 + 0.5) * 255).round().to(torch.uint8).numpy()
    flag = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[method]
    for channel in range(channels):
        want = cv2.inpaint(pixels[channel], (~visible[0, 0]).byte().numpy(), 3, flag)
        want = (torch.from_numpy(want) / 255 - 0.5) / 0.25
        hidden = ~visible[0, 0]
        torch.testing.assert_close(painted[0, channel][hidden], want[hidden])


def test_without_opencv_the_message_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackage, match=r'pip install .*"opencv-python-headless>=4.8"'):
        InpaintFill(nn.Identity())


def test_inpainting_by_other_means_is_refused():
    pytest.importorskip("cv2")
    with pytest.raises(InputError, match="method is 'magic': choose telea or ns"):
        InpaintFill(nn.Identity(), method="magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="radius is 0"):
        InpaintFill(nn.Identity(), radius=0)


# fills of one's own


def paints(value):
    def fill(images, visible):
        return torch.where(visible, images, value)

    return fill


def test_a_fill_of_ones_own(case):
    x, visible = case
    assert torch.equal(PixelFill(nn.Identity(), paints(2.0))(x, visible), Constant((2.0,))(x, visible))
    reads = PixelFill(nn.Identity(), lambda images, visible: images)
    assert torch.equal(reads(x, visible), x)


def test_a_fill_of_ones_own_gets_equal_batches_without_a_copy(case):
    x, visible = case[0][:1], torch.rand(50, 1, 9, 7) < 0.5
    seen = []

    def fill(images, visible):
        seen.append((images, visible))
        return torch.where(visible, images, 0.0)

    PixelFill(nn.Identity(), fill)(x, visible)
    images, masks = seen[0]
    assert images.shape == (50, 3, 9, 7) and masks.shape == (50, 1, 9, 7)
    assert images.data_ptr() == x.data_ptr() and images.stride(0) == 0


def test_a_network_as_fill_is_part_of_the_operator(case):
    x, visible = case

    class Painter(nn.Module):
        def __init__(self):
            super().__init__()
            self.color = nn.Parameter(torch.tensor(1.5))

        def forward(self, images, visible):
            return torch.where(visible, images, self.color)

    removed = PixelFill(nn.Identity(), Painter())
    assert list(removed.state_dict()) == ["fill.color"]
    removed(x, visible).sum().backward()
    assert removed.fill.color.grad == float((~visible).sum()) * 3


def writes(images, visible):
    images[~visible.expand_as(images)] = 0
    return images


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda x, v: x[:1], r"returned images of shape \(1, 3, 9, 7\) for shape \(2, 3, 9, 7\)"),
        (lambda x, v: x.double(), "returned images of dtype torch.float64 for dtype torch.float32"),
        (lambda x, v: x.to("meta"), "returned images of device meta for device cpu"),
        (lambda x, v: x.tolist(), "returned list: return a torch.Tensor"),
        (paints(float("nan")), "returned NaN or inf in .* paint finite colours"),
        (lambda x, v: x + 1, r"changed \d+ values of visible pixels.*return torch.where"),
        (writes, "the fill writes writes into the images it is given"),
    ],
    ids=["shape", "dtype", "device", "list", "nan", "visible", "in place"],
)
def test_what_a_fill_of_ones_own_must_not_do(case, fill, message):
    x, visible = case[0].clone(), case[1]
    with pytest.raises(InputError, match=message):
        PixelFill(nn.Identity(), fill)(x, visible)


def test_in_inference_mode(case):
    with torch.inference_mode():
        x = case[0].clone()
        assert PixelFill(nn.Identity(), paints(0.0))(x, case[1]).shape == x.shape
        assert NoisyLinear()(x, case[1]).isfinite().all()


def test_more_arguments_reach_the_model(case):
    class Scaled(nn.Module):
        def forward(self, x, by=1.0):
            return x * by

    removed = ConstantFill(Scaled())
    assert torch.equal(removed(*case, by=2.0), 2 * removed(*case))


def test_the_operator_says_what_it_paints():
    assert "fill=Constant(color=(0.0,))" in repr(ConstantFill(nn.Identity()))
