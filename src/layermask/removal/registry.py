"""The removal operators by name: the one list that the command line, the tests and the docs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from layermask._private_torch import MadeFor
from layermask.arguments import kinds
from layermask.core.settings import Settings
from layermask.errors import InputError
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.painting import (
    Blackout,
    BlurFill,
    ConstantFill,
    EdgeSmoothedFill,
    Greyout,
    InpaintFill,
    MeanFill,
    NeighborFill,
    NoiseFill,
    NoisyLinearFill,
    PushPullFill,
    RandomPixelFill,
    SegmentMeanFill,
)
from layermask.removal.token_dropping import TokenDropping
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing


@dataclass(frozen=True)
class RemovalEntry:
    """A removal operator: how to make it, and which laws it keeps. Tests and docs follow from it."""

    make: Callable[[nn.Module, Preprocessing, Tensor | None], nn.Module]
    """From the model, its preprocessing and the segments (*S), if any."""
    operator: str
    """The name of its class in `layermask`."""
    summary: str
    """What hidden pixels become."""
    source: str
    reads_hidden: bool = False
    """By definition: what hidden pixels hold may change the answer."""
    differentiable: bool = True
    """The gradient on visible pixels is that of the whole, fill included."""
    needs_segments: bool = False
    transformers_only: bool = False
    """It takes vision transformers, and answers as they do to rounding, not to the bit."""
    dims: tuple[int, ...] = (1, 2, 3)
    """The numbers of spatial dims that it takes."""
    extra: str = ""
    """The extra of layermask that it needs, if any."""


REMOVALS: dict[str, RemovalEntry] = {
    "layermask": RemovalEntry(
        lambda model, p, segments: LayerMasking(model),
        "LayerMasking",
        "nothing: every layer answers from visible positions only",
        "Balasubramanian and Feizi 2023, arXiv 2211.14646",
    ),
    "layermask-steady": RemovalEntry(
        lambda model, p, segments: LayerMasking(model, settings=Settings.steady()),
        "LayerMasking",
        'nothing, as layermask, by the preset "steady"',
        "ours: experiments/operator_search.py",
    ),
    "tokendrop": RemovalEntry(
        lambda model, p, segments: TokenDropping(model),
        "TokenDropping",
        "nothing: the tokens of patches that are not wholly visible are left out",
        "Jain et al. 2022, arXiv 2204.08945",
        transformers_only=True,
    ),
    "greyout": RemovalEntry(
        lambda model, p, segments: Greyout(model, p.mean, p.std),
        "Greyout",
        "the mean colour of ImageNet",
        "common practice",
    ),
    "blackout": RemovalEntry(
        lambda model, p, segments: Blackout(model, p.mean, p.std),
        "Blackout",
        "black",
        "common practice",
    ),
    "zero": RemovalEntry(
        lambda model, p, segments: ConstantFill(model, 0.0),
        "ConstantFill",
        "0 after normalisation, the model's own mean colour",
        "common practice, captum's default baseline",
    ),
    "mean": RemovalEntry(
        lambda model, p, segments: MeanFill(model),
        "MeanFill",
        "the mean colour of the visible pixels",
        "common practice",
    ),
    "segment-mean": RemovalEntry(
        lambda model, p, segments: SegmentMeanFill(model, _segments(segments)),
        "SegmentMeanFill",
        "the mean colour of their segment, hidden or not",
        "Ribeiro et al. 2016, arXiv 1602.04938; lime's default",
        reads_hidden=True,
        needs_segments=True,
    ),
    "blur": RemovalEntry(
        lambda model, p, segments: BlurFill(model),
        "BlurFill",
        "the image blurred, 21 pixels wide, sigma 10",
        "Fong and Vedaldi 2017, arXiv 1704.03296; Jain et al. 2022, arXiv 2204.08945",
        reads_hidden=True,
    ),
    "gaussian-noise": RemovalEntry(
        lambda model, p, segments: NoiseFill(model, kind="gaussian"),
        "NoiseFill",
        "noise with the mean and variance of normalised data",
        "common practice",
    ),
    "uniform-noise": RemovalEntry(
        lambda model, p, segments: NoiseFill(model, kind="uniform", mean=p.mean, std=p.std),
        "NoiseFill",
        "noise, uniform from black to white",
        "common practice",
    ),
    "random-pixels": RemovalEntry(
        lambda model, p, segments: RandomPixelFill(model),
        "RandomPixelFill",
        "the colours of random visible pixels of the same image",
        "after Jain et al. 2022, arXiv 2204.08945",
    ),
    "neighbor": RemovalEntry(
        lambda model, p, segments: NeighborFill(model),
        "NeighborFill",
        "means of neighbours, ring by ring: layer masking's padding, of the input only",
        "Balasubramanian and Feizi 2023, Algorithm 1",
    ),
    "push-pull": RemovalEntry(
        lambda model, p, segments: PushPullFill(model),
        "PushPullFill",
        "smooth, from a pyramid of means of what is visible",
        "Gortler et al. 1996, The Lumigraph",
    ),
    "telea": RemovalEntry(
        lambda model, p, segments: InpaintFill(model, method="telea", mean=p.mean, std=p.std),
        "InpaintFill",
        "inpainted by fast marching, in OpenCV",
        "Telea 2004",
        differentiable=False,
        dims=(2,),
        extra="inpaint",
    ),
    "navier-stokes": RemovalEntry(
        lambda model, p, segments: InpaintFill(model, method="ns", mean=p.mean, std=p.std),
        "InpaintFill",
        "inpainted along lines of equal brightness, in OpenCV",
        "Bertalmio et al. 2001",
        differentiable=False,
        dims=(2,),
        extra="inpaint",
    ),
    "road": RemovalEntry(
        lambda model, p, segments: NoisyLinearFill(model),
        "NoisyLinearFill",
        "the weighted mean of their 8 neighbours, plus noise of 0.01",
        "Rong et al. 2022, arXiv 2202.00449",
        dims=(2,),
    ),
    "edge-smoothed-grey": RemovalEntry(
        lambda model, p, segments: EdgeSmoothedFill(model, p.mean, p.std),
        "EdgeSmoothedFill",
        "grey, blurred into the edges, 5 pixels wide, sigma 1",
        "released code of Balasubramanian and Feizi 2023",
    ),
}


def _segments(segments: Tensor | None) -> Tensor:
    if segments is None:
        raise InputError(
            "removal 'segment-mean' paints segments, and there are none here: give segments, a map of whole "
            "numbers of the images' size, or choose another removal"
        )
    return segments


def removal(
    name: str, model: nn.Module, preprocessing: Preprocessing, segments: Tensor | None = None
) -> nn.Module:
    """Build the removal operator `name`: `operator(images, visible) -> model output`.

    `segments` (*S), whole numbers, are what "segment-mean" paints; the others have no use for them.
    """
    return REMOVALS[check_name(name)].make(
        kinds.model("model", model),
        kinds.instance("preprocessing", preprocessing, Preprocessing),
        kinds.optional(kinds.label_map)("segments", segments),
    )


def check_name(name: str) -> str:
    """Return `name`, if there is a removal operator of that name."""
    return kinds.known("removal", name, REMOVALS)


MakeOperator = Callable[[str, Loaded, "Tensor | None"], Callable[..., Any]]
"""From the name of a removal, the model and the segments (*S), if any."""


def from_table(name: str, loaded: Loaded, segments: Tensor | None = None) -> nn.Module:
    """Return the removal operator of a name in `layermask.removal.REMOVALS`."""
    return removal(name, loaded.model, loaded.preprocessing, segments)


class MadeOnce:
    """Makes each removal once per model, and what may paint segments anew for each map of them.

    An operator keeps what it has learned of its model: prepared weights, whether tokens can be dropped.
    """

    def __init__(self, make: MakeOperator = from_table) -> None:
        self.make = make
        self._made = MadeFor()

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._made)

    def __call__(self, name: str, loaded: Loaded, segments: Tensor | None = None) -> Any:
        if segments is not None and paints_segments(name):
            return self.make(name, loaded, segments)
        return self._made.get((loaded,), name, lambda: self.make(name, loaded, None))


def paints_segments(name: str) -> bool:
    """Whether a removal may depend on the segments; one of an unknown name may."""
    return name not in REMOVALS or REMOVALS[name].needs_segments
