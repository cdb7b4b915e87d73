"""Removal by painting: a fill, `fill(images, visible) -> images`, lifted to a removal operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Signature, signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from layermask._private_torch import is_readable, writes_so_far
from layermask.arguments import kinds
from layermask.arguments.numbers import LARGEST, same_length
from layermask.arguments.refusal import has, refused, shown, warn
from layermask.core.inputs import answered, check_inputs
from layermask.errors import InputError
from layermask.removal.fills.blur import Blurred, EdgeSmoothed
from layermask.removal.fills.constant import Constant
from layermask.removal.fills.inpaint import Inpainted
from layermask.removal.fills.mean import SegmentMean, VisibleMean
from layermask.removal.fills.neighbor import Neighbors
from layermask.removal.fills.noise import Noise, RandomPixels
from layermask.removal.fills.protocol import Fill
from layermask.removal.fills.pushpull import PushPull
from layermask.removal.fills.road import NoisyLinear
from layermask.removal.training import TrainingNotice
from layermask.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class PixelFill(nn.Module):
    """The model, answering from images whose hidden pixels are painted by `fill`.

    The model is neither copied nor changed. `fill(images, visible)` is called with (N, C, *S) and (N, 1, *S)
    of the same N, and returns the painted images. It may read hidden pixels. It must not change visible ones
    or write into its arguments.
    """

    def __init__(self, model: nn.Module, fill: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = kinds.model("model", model)
        self.fill = kinds.function("fill", fill, 2)
        self.training = model.training
        self.notice = TrainingNotice(model)

    def forward(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the model's output for images (N, C, *S) and visible (N, 1, *S); either batch may be 1.

        Raises:
            TypeError, ValueError: as `LayerMasking.forward`.
            InputError: the fill cannot paint these images, or what it returned cannot be used.
        """
        self.notice()
        return answered(self.model, self.painted(images, visible), images, args, kwargs)

    def painted(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"]
    ) -> Float[Tensor, "_ C *S"]:
        """Return what the model is shown, (N, C, *S)."""
        if isinstance(self.fill, Fill) and type(self.fill).__call__ is Fill.__call__:
            return self.fill(images, visible)  # which checks its input, and keeps what is visible
        return _checked(self.fill, images, check_inputs(images, visible))

    def extra_repr(self) -> str:
        return "" if isinstance(self.fill, nn.Module) else f"fill={_name(self.fill)}"


def _checked(fill: Callable[[Tensor, Tensor], Any], images: Tensor, visible: Tensor) -> Tensor:
    """Return what a custom fill returns, after checking it."""
    batch = max(len(images), len(visible))
    images, visible = (x.expand(batch, *x.shape[1:]) for x in (images, visible))
    compiling = torch.compiler.is_compiling()
    before = 0 if compiling else writes_so_far(images)
    painted = fill(images, visible)
    if not compiling and writes_so_far(images) != before:
        raise InputError(f"the fill {_name(fill)} writes into the images it is given: let it return new ones")
    _check_kind(fill, painted, images)
    if not is_readable(painted):
        return painted
    if not painted.isfinite().all():
        raise InputError(
            f"the fill {_name(fill)} returned NaN or inf in {int((~painted.isfinite()).sum())} of the "
            f"{painted.numel()} values, shape {tuple(painted.shape)}: paint finite colours"
        )
    changed = painted.ne(images) & visible
    if changed.any():
        raise InputError(
            f"the fill {_name(fill)} changed {int(changed.sum())} values of visible pixels, images of shape "
            f"{tuple(images.shape)}: return torch.where(visible, images, paint)"
        )
    return painted


def _check_kind(fill: Callable, painted: Any, images: Tensor) -> None:
    if not isinstance(painted, Tensor):
        raise InputError(f"the fill {_name(fill)} returned {type(painted).__name__}: return a torch.Tensor")
    for what in ("shape", "dtype", "device"):
        ours, theirs = getattr(images, what), getattr(painted, what)
        if ours != theirs:
            ours, theirs = (tuple(x) if what == "shape" else x for x in (ours, theirs))
            raise InputError(
                f"the fill {_name(fill)} returned images of {what} {theirs} for {what} {ours}: return {ours}"
            )


def _name(fill: Callable) -> str:
    if isinstance(fill, Fill):
        return str(fill)
    return getattr(fill, "__name__", type(fill).__name__)


class _Painting(PixelFill):
    """A `PixelFill` whose fill is made, as `makes`, from the arguments that follow the model."""

    makes: ClassVar[type[Fill]]

    def __init_subclass__(cls) -> None:
        if cls.__init__ is _Painting.__init__:
            parameters = signature(PixelFill).parameters["model"], *signature(cls.makes).parameters.values()
            cls.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # which `help` shows

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, self.makes(*args, **kwargs))


class MeanFill(_Painting):
    """Hidden pixels have the mean colour of the visible ones."""

    makes = VisibleMean


class SegmentMeanFill(_Painting):
    """Hidden pixels have the mean colour of their segment in `feature_mask` (*S), as lime's default."""

    makes = SegmentMean

    def __init__(self, model: nn.Module, feature_mask: Tensor) -> None:
        super().__init__(model, kinds.label_map("feature_mask", feature_mask))


class BlurFill(_Painting):
    """Hidden pixels come from the blurred image; `kernel_size` and `sigma` in pixels."""

    makes = Blurred


class NoiseFill(_Painting):
    """Hidden pixels are noise of a `kind`, "gaussian" or "uniform"; see `fills.noise.Noise`."""

    makes = Noise


class RandomPixelFill(_Painting):
    """Hidden pixels have the colours of randomly chosen visible pixels of the same image."""

    makes = RandomPixels


class NeighborFill(_Painting):
    """The paper's neighbour padding, of the input only."""

    makes = Neighbors


class PushPullFill(_Painting):
    """Holes are filled smoothly from a pyramid of means."""

    makes = PushPull


class InpaintFill(_Painting):
    """Holes are inpainted by OpenCV, `method` "telea" or "ns"; `mean` and `std` are the model's own."""

    makes = Inpainted


class NoisyLinearFill(_Painting):
    """Hidden pixels are the weighted mean of their neighbours, plus `noise`: the fill of ROAD."""

    makes = NoisyLinear


def normalisation(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation of each channel, checked."""
    mean, std = kinds.numbers("mean", mean), kinds.numbers("std", std, above=0)
    same_length(mean=mean, std=std)
    if any((1 + abs(m)) / s > LARGEST for m, s in zip(mean, std, strict=True)):
        raise refused(
            "mean", mean, f"divided by std, {shown(std)}, colours are beyond {LARGEST:g}, give larger"
        )
    return mean, std


def grey(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[float, ...]:
    """Return ImageNet's mean colour, normalised; on other than 3 channels, the mean of the data."""
    mean, std = normalisation(mean, std)
    colour = IMAGENET_MEAN if len(mean) == 3 else mean
    return tuple((c - m) / s for c, m, s in zip(colour, mean, std, strict=True))


class _OfNormalised(PixelFill):
    """Paints colours of normalised images, by `mean` and `std`; warns once if images seem to be none."""

    def __init__(self, model: nn.Module, mean: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self._asks = mean is IMAGENET_MEAN  # who gives another has thought of it
        within = (m for m in model.modules() if type(m).__name__ == "Normalize" and has(m, "mean", "std"))
        if next(within, None) is not None:
            self._ask("the model has a Normalize of its own")

    def painted(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"]
    ) -> Float[Tensor, "_ C *S"]:
        """Return what the model is shown, (N, C, *S)."""
        painted = super().painted(images, visible)
        if self._asks and is_readable(images) and images.numel():
            low, high = (float(end) for end in images.aminmax())
            if 0 <= low < high <= 1:
                self._ask("all values of the images lie between 0 and 1")
        return painted

    def _ask(self, why: str) -> None:
        name = type(self).__name__
        if self._asks:
            warn(
                f"{why}, and {name} paints colours of images that are normalised already: give "
                f"{name}(model, mean=[0, 0, 0], std=[1, 1, 1]) for images from 0 to 1"
            )
        self._asks = False


class EdgeSmoothedFill(_OfNormalised, _Painting):
    """Hidden pixels are ImageNet's mean colour, blurred into the edges: 5 x 5 pixels, sigma 1."""

    makes = EdgeSmoothed

    def __init__(
        self,
        model: nn.Module,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        *,
        kernel_size: int = 5,
        sigma: float = 1.0,
    ) -> None:
        color = grey(mean, std)
        super().__init__(model, mean, color, kernel_size=kernel_size, sigma=sigma, origin="mean and std")


class ConstantFill(_Painting):
    """Hidden pixels have one colour: a value per channel, or one for all, normalised as the images are.

    Zero, the default, is the mean of the training data.
    """

    makes = Constant
    _origin = "color"

    def __init__(self, model: nn.Module, color: Tensor | Sequence[float] | float = 0.0) -> None:
        if isinstance(color, Tensor):
            color = kinds.tensor("color", color)
            color = color.flatten() if color.ndim > 1 else color
        super().__init__(model, color, origin=self._origin)

    @property
    def color(self) -> tuple[float, ...]:
        """One value per channel, or one for all."""
        return self.fill.color  # type: ignore[union-attr]  # of the `Constant`


class Blackout(_OfNormalised, ConstantFill):
    """Hidden pixels are black, the value 0 before normalisation with `mean` and `std`."""

    _origin = "mean and std"

    def __init__(self, model: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> None:
        means, stds = normalisation(mean, std)
        super().__init__(model, mean, tuple(-m / s for m, s in zip(means, stds, strict=True)))


class Greyout(_OfNormalised, ConstantFill):
    """Hidden pixels have the mean colour of ImageNet; on other than 3 channels, the mean of the data."""

    _origin = "mean and std"

    def __init__(self, model: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> None:
        super().__init__(model, mean, grey(mean, std))
