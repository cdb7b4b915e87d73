"""pytorch-grad-cam: class activation maps through a layer-masked model, and ROAD with any removal."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from layermask.adapters.arguments import Removal, painter
from layermask.arguments import kinds
from layermask.arguments.refusal import has
from layermask.core.masked import Masked, zero_hidden
from layermask.errors import InputError
from layermask.removal.gaps import NaNHidden, mark_hidden

Metric = TypeVar("Metric")


class CamModel(NaNHidden):
    """`GradCAM(model=CamModel(removal, layers), target_layers=layers)`: maps of what is visible only.

    Hidden pixels are NaN in the input (`mark_hidden`). The methods' hooks on `target_layers` get plain
    tensors with 0 where hidden, and gradients that are 0 there, so that a hidden position adds nothing to
    the map; the methods then enlarge it to the image and blur its edge.

    Raises:
        InputError: a target layer that is no part of the removal's model.
    """

    def __init__(self, removal: Removal, target_layers: Sequence[nn.Module]) -> None:
        super().__init__(removal)
        target_layers = kinds.instances("target_layers", target_layers, nn.Module, 1)
        own = set(self.modules())
        for layer in target_layers:
            if layer not in own:
                raise InputError(
                    f"target_layers: the target layer {type(layer).__name__} is no module of the removal's "
                    "model"
                )
        self.target_layers = tuple(target_layers)  # a tuple, so that they are not registered twice

    def forward(self, images: Tensor) -> Tensor:
        """Return the (N, K) scores of images (N, C, *S), NaN = hidden."""
        with contextlib.ExitStack() as stack:
            for layer in self.target_layers:
                stack.enter_context(_plain_for_hooks(layer))
            return super().forward(images)


@contextlib.contextmanager
def _plain_for_hooks(layer: nn.Module) -> Iterator[None]:
    """Within the block, the hooks that the layer has see its masked output as a plain tensor."""
    pairs: list[Masked] = []  # a stack: a layer may call itself

    def undress(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Masked):
            return None
        pairs.append(output)
        return zero_hidden(output)

    def dress(module: nn.Module, args: Any, output: Any) -> Any:
        if not pairs:
            return None
        before = pairs.pop()
        after = Masked(output, before.visible, is_padding=before.is_padding, softmax_axis=before.softmax_axis)
        after.forward_pass, after.strided_slice = before.forward_pass, before.strided_slice
        after.aliased = True  # the hooks hold it
        return after

    handles = [layer.register_forward_hook(undress, prepend=True), layer.register_forward_hook(dress)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def as_road(metric: Metric, removal: Removal | None = None) -> Metric:
    """Return a copy of a ROAD metric that writes NaN where it would impute, to be asked with `NaNHidden`.

        as_road(ROADCombined(percentiles=[20, 50, 80]))(images, cams, targets, NaNHidden(removal))

    With a `removal` that paints, the metric paints as it does, and is asked with the plain model. Takes every
    ROAD class of `pytorch_grad_cam.metrics.road`.

    Raises:
        InputError: an object that holds no imputer, or a removal that does not paint.
    """
    instead = "leave it out here, and give the metric the model NaNHidden(removal)"
    return _imputing(metric, mark_hidden if removal is None else painter(removal, instead))


def _imputing(metric: Metric, hide: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    parts = ("morf_averager", "lerf_averager")
    own: Any = copy.copy(metric)
    if has(own, *parts):
        for part in parts:
            setattr(own, part, _imputing(getattr(own, part), hide))
    elif has(own, "percentiles", "imputer"):  # an average over thresholds
        at: Callable = own.imputer
        own.imputer = lambda percentile: _imputing(at(percentile), hide)
    elif has(own, "perturbation") and has(own.perturbation, "imputer"):
        own.perturbation = copy.copy(own.perturbation)
        own.perturbation.imputer = lambda image, keep: hide(image[None], keep[None, None].bool())[0]
    else:
        raise InputError(
            f"metric: {type(metric).__name__} has no imputer: give a ROAD metric of pytorch_grad_cam"
        )
    return own
