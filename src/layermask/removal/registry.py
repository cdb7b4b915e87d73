"""The removal operators by name: the one list that the command line, the tests and the docs read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from layermask._private_torch import MadeFor
from layermask.arguments import kinds
from layermask.core.settings import Settings
from layermask.errors import InputError
from layermask.io.record import sha256
from layermask.removal.adaptive import Adaptive
from layermask.removal.fills.protocol import Fill
from layermask.removal.fitted import file_of, found
from layermask.removal.layer_masking import LayerMasking
from layermask.removal.matched import Matched
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
    """A removal operator: its class, how one is made, and which laws it keeps. Tests and docs follow from it.

    What its fill says of itself, if it has one, is read there.
    """

    kind: type[nn.Module]
    summary: str
    """What hidden pixels become."""
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scaled: bool = False
    """It is given the mean and the std of the model's preprocessing."""
    needs_segments: bool = False
    fitted: bool = False
    """It needs statistics of the model, which `layermask fit` collects: those of `Matched`."""
    transformers_only: bool = False
    """It takes vision transformers, and answers as they do to rounding, not to the bit."""

    def make(self, model: nn.Module, preprocessing: Preprocessing, segments: Tensor | None) -> nn.Module:
        """Return the operator for a model, its preprocessing and the segments (*S), if any."""
        if self.fitted:
            return self.over(Matched.load(found(model, self.operator), model, preprocessing))
        settings = dict(self.settings)
        if self.scaled:
            settings |= {"mean": preprocessing.mean, "std": preprocessing.std}
        if self.needs_segments:
            settings["feature_mask"] = _segments(segments)
        return self.kind(model, **settings)

    def over(self, matched: Matched) -> nn.Module:
        """Return the operator, if it is a fitted one, that uses these statistics."""
        return matched if self.kind is Matched else self.kind(matched.model, matched)

    @property
    def operator(self) -> str:
        """The name of its class in `layermask.removal`."""
        return self.kind.__name__

    @property
    def fill(self) -> type[Fill]:
        return getattr(self.kind, "makes", Fill)

    @property
    def reads_hidden(self) -> bool:
        """By definition: what hidden pixels hold may change the answer."""
        return self.fill.reads == "all"

    @property
    def differentiable(self) -> bool:
        """The gradient on visible pixels is that of the whole, fill included."""
        return self.fill.differentiable

    @property
    def dims(self) -> tuple[int, ...]:
        """The numbers of spatial dims that it takes."""
        return self.fill.dims or (1, 2, 3)

    @property
    def exports(self) -> bool:
        """`layermask.deploy` writes it as a graph of its own."""
        return self.fill.exports

    @property
    def extra(self) -> str:
        """The extra of layermask that it needs, if any."""
        return self.fill.extra


REMOVALS: dict[str, RemovalEntry] = {
    "layermask": RemovalEntry(
        LayerMasking,
        "nothing: every layer answers from visible positions only",
        "Balasubramanian and Feizi 2023, arXiv 2211.14646",
    ),
    "layermask-steady": RemovalEntry(
        LayerMasking,
        "nothing, as layermask, with `Settings.steady()`",
        "ours: experiments/operator_search.py",
        settings={"settings": Settings.steady()},
    ),
    "matched": RemovalEntry(
        Matched,
        "nothing, as layermask-steady, with the statistics of channels brought back to those of whole images",
        "ours: experiments/matched.py",
        fitted=True,
    ),
    "adaptive": RemovalEntry(
        Adaptive,
        "holes: nothing, as layermask-steady; around cut-outs: 0 after normalisation",
        "ours: experiments/matched.py",
    ),
    "adaptive-matched": RemovalEntry(
        Adaptive,
        "holes: nothing, as matched; around cut-outs: 0 after normalisation",
        "ours: experiments/matched.py",
        fitted=True,
    ),
    "tokendrop": RemovalEntry(
        TokenDropping,
        "nothing: the tokens of patches that are not wholly visible are left out",
        "Jain et al. 2022, arXiv 2204.08945",
        transformers_only=True,
    ),
    "greyout": RemovalEntry(Greyout, "the mean colour of ImageNet", "common practice", scaled=True),
    "blackout": RemovalEntry(Blackout, "black", "common practice", scaled=True),
    "zero": RemovalEntry(
        ConstantFill,
        "0 after normalisation, the model's own mean colour",
        "common practice, captum's default baseline",
    ),
    "mean": RemovalEntry(MeanFill, "the mean colour of the visible pixels", "common practice"),
    "segment-mean": RemovalEntry(
        SegmentMeanFill,
        "the mean colour of their segment, hidden or not",
        "Ribeiro et al. 2016, arXiv 1602.04938; lime's default",
        needs_segments=True,
    ),
    "blur": RemovalEntry(
        BlurFill,
        "the image blurred, 21 pixels wide, sigma 10",
        "Fong and Vedaldi 2017, arXiv 1704.03296; Jain et al. 2022, arXiv 2204.08945",
    ),
    "gaussian-noise": RemovalEntry(
        NoiseFill, "noise with the mean and variance of normalised data", "common practice"
    ),
    "uniform-noise": RemovalEntry(
        NoiseFill,
        "noise, uniform from black to white",
        "common practice",
        settings={"kind": "uniform"},
        scaled=True,
    ),
    "random-pixels": RemovalEntry(
        RandomPixelFill,
        "the colours of random visible pixels of the same image",
        "after Jain et al. 2022, arXiv 2204.08945",
    ),
    "neighbor": RemovalEntry(
        NeighborFill,
        "means of neighbours, ring by ring: layer masking's padding, of the input only",
        "Balasubramanian and Feizi 2023, Algorithm 1",
    ),
    "push-pull": RemovalEntry(
        PushPullFill,
        "smooth, from a pyramid of means of what is visible",
        "Gortler et al. 1996, The Lumigraph",
    ),
    "telea": RemovalEntry(InpaintFill, "inpainted by fast marching, in OpenCV", "Telea 2004", scaled=True),
    "navier-stokes": RemovalEntry(
        InpaintFill,
        "inpainted along lines of equal brightness, in OpenCV",
        "Bertalmio et al. 2001",
        settings={"method": "ns"},
        scaled=True,
    ),
    "road": RemovalEntry(
        NoisyLinearFill,
        "the weighted mean of their 8 neighbours, plus noise of 0.01",
        "Rong et al. 2022, arXiv 2202.00449",
    ),
    "edge-smoothed-grey": RemovalEntry(
        EdgeSmoothedFill,
        "grey, blurred into the edges, 5 pixels wide, sigma 1",
        "released code of Balasubramanian and Feizi 2023",
        scaled=True,
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

    `segments` (*S), whole numbers, are what "segment-mean" paints; the others ignore them.
    """
    return REMOVALS[check_name(name)].make(
        kinds.model("model", model),
        kinds.instance("preprocessing", preprocessing, Preprocessing),
        kinds.optional(kinds.label_map)("segments", segments),
    )


def check_name(name: str) -> str:
    """Return `name`, if there is a removal operator of that name."""
    return kinds.known("removal", name, REMOVALS)


def statistics_record(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the checksum of the statistics that removals of these names read, if any of them does."""
    if not any(name in REMOVALS and REMOVALS[name].fitted for name in names):
        return {}
    path = file_of(model)
    return {} if path is None else {"fitted": sha256(path)}


MakeOperator = Callable[[str, Loaded, "Tensor | None"], Callable[..., Any]]
"""From the name of a removal, the model and the segments (*S), if any."""


def from_table(name: str, loaded: Loaded, segments: Tensor | None = None) -> nn.Module:
    """Return the removal operator of a name in `layermask.removal.REMOVALS`."""
    return removal(name, loaded.model, loaded.preprocessing, segments)


class MadeOnce:
    """Makes each removal once per model; one that may paint segments is made for each map of segments.

    An operator keeps what it has prepared for its model, as weights, or whether tokens can be dropped.
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
