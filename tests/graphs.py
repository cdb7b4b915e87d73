"""Random small models as tables of steps, and what each step should do by its slow twin.

`draw(seed)` gives a `Graph`, whose repr is its table. A graph runs on plain tensors and on masked ones, its
`twin` on one image, cell by cell. The twin finds the cells that an output reads by asking the plain layer
with one cell at a time, and fills hidden ones by Algorithm 1 as in `twins.py`. It knows nothing of the
engine's geometry.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import twins
from torch import Tensor, nn

from layermask.core.settings import Settings

Options = dict[str, Any]
Size = tuple[int, ...]
MOST_CELLS = 110


def weights(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return _weights(seed, shape).to(dtype) if dtype is not torch.float64 else _weights(seed, shape)


@functools.lru_cache(512)
def _weights(seed: int, shape: Size) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=draw) / math.sqrt(math.prod(shape[1:]))


# --- kinds of steps --------------------------------------------------------------------------------------


class Kind:
    """A kind of layer: `draw` its options (None where it does not fit), `run` it, `twin` it."""

    inputs = 1
    twinned = True

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {}

    def run(self, options: Options, *inputs: Any) -> Any:
        raise NotImplementedError

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        raise NotImplementedError


KINDS: dict[str, Kind] = {}


def kind(cls: type[Kind]) -> type[Kind]:
    KINDS[cls.__name__] = cls()
    return cls


@dataclass
class Cells:
    """One image of the slow twin: value (C, *S), and the masks (*S) of what is visible and of padding."""

    value: np.ndarray
    visible: np.ndarray
    is_padding: np.ndarray

    @property
    def size(self) -> Size:
        return self.visible.shape


def plainly(layer: Callable[[Tensor], Tensor], value: np.ndarray) -> np.ndarray:
    return layer(torch.tensor(value)[None])[0].numpy()


class Pointwise(Kind):
    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        return Cells(plainly(lambda v: self.run(options, v), x.value), x.visible, x.is_padding)


class Move(Kind):
    """Each output cell is a copy of one input cell, or a constant: of which cell, a map of numbers tells."""

    def blank(self, options: Options) -> Options:
        """The same with -1 for its constant."""
        return options

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        numbers = np.broadcast_to(np.arange(x.visible.size, dtype=float).reshape(x.size), x.value.shape)
        source = plainly(lambda v: self.run(self.blank(options), v), numbers)[0].astype(int)
        copied, at = source >= 0, source.clip(min=0)
        visible = np.where(copied, x.visible.flatten()[at], True)
        is_padding = np.where(copied, x.is_padding.flatten()[at], True)
        value = np.where(x.visible, x.value, math.nan)
        return Cells(plainly(lambda v: self.run(options, v), value), visible, is_padding)


class Windowed(Kind):
    """Each output cell reads some input cells, of which the hidden ones are filled first."""

    def reach(self, options: Options, size: Size) -> Size:
        """How far apart two cells that one output reads can be, per axis; zeros: hidden cells read as 0."""
        raise NotImplementedError

    def read(self, options: Options, x: Tensor) -> Tensor:
        """The layer for one channel, with no term of its own and no negative weights."""
        return self.run(options, x)

    def about(self, options: Options, x: Tensor) -> Tensor:
        """The same with all that is read: it decides where all that `read` reads is padding."""
        return self.read(options, x)

    def growth(self, settings: Settings) -> str:
        return "any"

    def filled(self, options: Options, settings: Settings, x: Cells) -> np.ndarray:
        reach = self.reach(options, x.size)
        if x.visible.all() or not any(reach):
            return np.where(x.visible, x.value, 0.0)
        return twins.pad_k(np.where(x.visible, x.value, 0.0), x.visible, reach, pads=x.is_padding)

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        value = plainly(lambda v: self.run(options, v), self.filled(options, settings, x))
        core = reads(lambda v: self.read(options, v), x.size)
        wider = reads(lambda v: self.about(options, v), x.size) if "mode" in options else core
        grown = twins.GROWTH[self.growth(settings)]
        visible, is_padding = (
            np.ones(core.shape[: value.ndim - 1], bool),
            np.zeros(core.shape[: value.ndim - 1], bool),
        )
        for place in twins.cells(visible.shape):
            real = core[place] & ~x.is_padding
            real = real if real.any() else wider[place] & ~x.is_padding
            is_padding[place] = not real.any()
            visible[place] = is_padding[place] or grown((), [((), bool(v)) for v in x.visible[real]])
        return Cells(value, visible, is_padding)


def _impulses(size: Size) -> Tensor:
    n = math.prod(size)
    return torch.eye(n, dtype=torch.float64).reshape(n, 1, *size)


def reads(layer: Callable[[Tensor], Tensor], size: Size) -> np.ndarray:
    """bool (*S', *S): which input cells each output cell of a layer of one channel reads."""
    out = layer(_impulses(size))
    return np.moveaxis((out[:, 0].abs() > 1e-6).numpy(), 0, -1).reshape(*out.shape[2:], *size)


def sizes(rng: random.Random, n: int, choices: Sequence[int]) -> Size:
    """The same for all axes mostly."""
    if rng.random() < 0.6:
        return (rng.choice(choices),) * n
    return tuple(rng.choice(choices) for _ in range(n))


def groups_of(rng: random.Random, channels: int) -> int:
    return rng.choice([1, 1, 1, *(g for g in range(2, channels + 1) if channels % g == 0)])


CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LP_POOL = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}
ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


@kind
class conv(Windowed):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        n, groups = len(size), groups_of(rng, channels)
        kernel, dilation = sizes(rng, n, [1, 2, 3, 3, 3, 4]), sizes(rng, n, [1, 1, 1, 2])
        span = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        padding: Any = rng.choice([sizes(rng, n, [0, 1, 1, 2, 3]), tuple(s // 2 for s in span)])
        stride = sizes(rng, n, [1, 1, 1, 2, 3])
        if stride == (1,) * n and rng.random() < 0.15:
            padding = rng.choice(["same", "valid"])
        out = groups * rng.randint(1, max(1, rng.choice([4, 4, 10]) // groups))
        return {
            "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
            "out": out, "bias": rng.random() < 0.7, "seed": rng.randrange(10**6),
        }  # fmt: skip

    def run(self, options: Options, x: Any) -> Any:
        o, c = options, x.shape[1]
        weight = weights(o["seed"], o["out"], c // o["groups"], *o["kernel"], dtype=x.dtype)
        bias = weights(o["seed"] + 1, o["out"], dtype=x.dtype) if o["bias"] else None
        return CONV[len(o["kernel"])](x, weight, bias, o["stride"], o["padding"], o["dilation"], o["groups"])

    def read(self, options: Options, x: Tensor) -> Tensor:
        ones = x.new_ones(1, 1, *options["kernel"])
        return CONV[x.ndim - 2](x, ones, None, options["stride"], options["padding"], options["dilation"])

    def reach(self, options: Options, size: Size) -> Size:
        return tuple((k - 1) * d for k, d in zip(options["kernel"], options["dilation"], strict=True))

    def growth(self, settings: Settings) -> str:
        return settings.growth


@kind
class transposed(Windowed):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        n, groups = len(size), groups_of(rng, channels)
        kernel, stride = sizes(rng, n, [1, 2, 3, 3, 4]), sizes(rng, n, [1, 2, 2, 3])
        dilation = sizes(rng, n, [1, 1, 1, 2])
        padding = tuple(rng.choice([0, 0, 1, (k - 1) // 2]) for k in kernel)
        extra = tuple(rng.choice([0, 0, max(s, d) - 1]) for s, d in zip(stride, dilation, strict=True))
        return {
            "kernel": kernel, "stride": stride, "padding": padding, "extra": extra, "dilation": dilation,
            "groups": groups, "out": rng.randint(1, max(1, 4 // groups)), "bias": rng.random() < 0.7,
            "seed": rng.randrange(10**6),
        }  # fmt: skip

    def _geometry(self, o: Options, groups: int) -> tuple:
        return o["stride"], o["padding"], o["extra"], groups, o["dilation"]

    def run(self, options: Options, x: Any) -> Any:
        o = options
        weight = weights(o["seed"], x.shape[1], o["out"], *o["kernel"], dtype=x.dtype)
        bias = weights(o["seed"] + 1, o["out"] * o["groups"], dtype=x.dtype) if o["bias"] else None
        return TRANSPOSED[len(o["kernel"])](x, weight, bias, *self._geometry(o, o["groups"]))

    def read(self, options: Options, x: Tensor) -> Tensor:
        ones = x.new_ones(1, 1, *options["kernel"])
        return TRANSPOSED[x.ndim - 2](x, ones, None, *self._geometry(options, 1))

    def reach(self, options: Options, size: Size) -> Size:
        each = zip(options["kernel"], options["stride"], options["dilation"], strict=True)
        return tuple(math.ceil((k - 1) * d / s) for k, s, d in each)

    def growth(self, settings: Settings) -> str:
        return "half" if settings.growth == "half" else "any"


class Pool(Windowed):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        n = len(size)
        kernel = sizes(rng, n, [1, 2, 2, 3, 3])
        padding = tuple(rng.randint(0, k // 2) for k in kernel)
        stride = rng.choice([None, sizes(rng, n, [1, 1, 2, 3])])
        return {"kernel": kernel, "stride": stride, "padding": padding, "ceil": rng.random() < 0.4}

    def reach(self, options: Options, size: Size) -> Size:
        return tuple(k - 1 for k in options["kernel"])

    def growth(self, settings: Settings) -> str:
        return settings.growth


@kind
class max_pool(Pool):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        dilation = sizes(rng, len(size), [1, 1, 1, 2])
        return {**(super().draw(rng, channels, size) or {}), "dilation": dilation}

    def run(self, options: Options, x: Any) -> Any:
        o = options
        return MAX_POOL[len(o["kernel"])](x, o["kernel"], o["stride"], o["padding"], o["dilation"], o["ceil"])

    def reach(self, options: Options, size: Size) -> Size:
        return tuple((k - 1) * d for k, d in zip(options["kernel"], options["dilation"], strict=True))

    def filled(self, options: Options, settings: Settings, x: Cells) -> np.ndarray:
        if settings.pool == "neighbor":
            return super().filled(options, settings, x)
        return np.where(x.visible, x.value, -math.inf)


@kind
class avg_pool(Pool):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        divisor = rng.choice([None, None, None, 3]) if len(size) > 1 else None
        if rng.random() < 0.1:
            return {"kernel": size, "stride": None, "padding": (0,) * len(size), "ceil": False,
                    "count": True, "divisor": divisor}  # fmt: skip
        return {**(super().draw(rng, channels, size) or {}), "count": rng.random() < 0.5, "divisor": divisor}

    def run(self, options: Options, x: Any) -> Any:
        o = options
        more = () if len(o["kernel"]) == 1 else (o["divisor"],)
        return AVG_POOL[len(o["kernel"])](
            x, o["kernel"], o["stride"], o["padding"], o["ceil"], o["count"], *more
        )

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        out = super().twin(options, settings, x)
        if options["kernel"] == x.size and not any(options["padding"]) and options["divisor"] is None:
            mean = twins.masked_mean(x.value, x.visible)  # a global pool by another name
            out.value[:] = mean.reshape(out.value.shape)
        return out


@kind
class lp_pool(Pool):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {**(super().draw(rng, channels, size) or {}), "p": rng.choice([1.0, 2.0])}

    def run(self, options: Options, x: Any) -> Any:
        o, n = options, len(options["kernel"])
        kernel, stride = (k[0] if k and n == 1 else k for k in (o["kernel"], o["stride"]))
        return LP_POOL[n](x, o["p"], kernel, stride, o["ceil"])


class Adaptive(Windowed):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"to": tuple(rng.choice([1, 2, 3, 4, 5, 7, n]) for n in size)}

    def reach(self, options: Options, size: Size) -> Size:
        return (0,) * len(size)


@kind
class adaptive_max(Adaptive):
    def run(self, options: Options, x: Any) -> Any:
        return ADAPTIVE_MAX[len(options["to"])](x, options["to"])

    def filled(self, options: Options, settings: Settings, x: Cells) -> np.ndarray:
        return np.where(x.visible, x.value, -math.inf)


@kind
class adaptive_avg(Adaptive):
    def run(self, options: Options, x: Any) -> Any:
        return ADAPTIVE_AVG[len(options["to"])](x, options["to"])

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        out, bins = super().twin(options, settings, x), reads(lambda v: self.run(options, v), x.size)
        for place in twins.cells(out.size):
            out.value[(slice(None), *place)] = twins.masked_mean(x.value, x.visible & bins[place])
        return out


LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Sampled(Windowed):
    def core(self, options: Options) -> Options:
        return {**options, "mode": "bilinear"} if options["mode"] == "bicubic" else options

    def read(self, options: Options, x: Tensor) -> Tensor:
        return self.run(self.core(options), x)

    def about(self, options: Options, x: Tensor) -> Tensor:
        return self.run(options, x)


@kind
class interpolate(Sampled):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        modes = ["nearest", "nearest-exact", LINEAR[len(size)], LINEAR[len(size)], "area"]
        mode = rng.choice([*modes, "bicubic", "bicubic"] if len(size) == 2 else modes)
        smooth = mode in ("bicubic", *LINEAR.values())
        to: Any = tuple(rng.randint(max(1, n // 2), 2 * n) for n in size)
        scale = None
        if rng.random() < 0.5:
            to, scale = None, tuple(rng.choice([0.5, 0.7, 1.5, 2.0, 2.0]) for _ in size)
        return {
            "to": to, "scale": scale, "mode": mode, "align": rng.random() < 0.4 if smooth else None,
            "antialias": smooth and len(size) == 2 and min(size) > 1 and rng.random() < 0.3,  # torch: 1 wide
        }  # fmt: skip

    def run(self, options: Options, x: Any) -> Any:
        o = options
        return F.interpolate(x, o["to"], o["scale"], o["mode"], o["align"], antialias=o["antialias"])

    def reach(self, options: Options, size: Size) -> Size:
        if "nearest" in options["mode"]:
            return (0,) * len(size)
        scales = options["scale"] or [t / n for t, n in zip(options["to"], size, strict=True)]
        support = 2 if options["mode"] == "bicubic" else 1
        wide = [max(1.0, 1 / s) if options["antialias"] or options["mode"] == "area" else 1.0 for s in scales]
        return tuple(math.ceil(2 * support * w) - (w == 1.0) for w in wide)


@kind
class grid_sample(Sampled):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        if len(size) == 1:
            return None
        modes = ["bilinear", "nearest"] + (["bicubic"] if len(size) == 2 else [])
        return {
            "to": tuple(rng.randint(2, n + 2) for n in size), "mode": rng.choice(modes),
            "outside": rng.choice(["zeros", "border", "reflection"]), "align": rng.random() < 0.5,
            "zoom": rng.choice([0.6, 1.0, 1.5]), "seed": rng.randrange(10**6),
        }  # fmt: skip

    def run(self, options: Options, x: Any) -> Any:
        o, n = options, len(options["to"])
        theta = torch.eye(n, n + 1, dtype=x.dtype) * o["zoom"] + 0.3 * weights(
            o["seed"], n, n + 1, dtype=x.dtype
        )
        grid = F.affine_grid(theta.expand(len(x), n, n + 1), [len(x), 1, *o["to"]], align_corners=o["align"])
        return F.grid_sample(x, grid, o["mode"], o["outside"], o["align"])

    def reach(self, options: Options, size: Size) -> Size:
        return ({"nearest": 0, "bilinear": 1, "bicubic": 3}[options["mode"]],) * len(size)


@kind
class unfold_and_fold(Windowed):
    """What covers a cell is that cell, over and over."""

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        if len(size) != 2:
            return None
        return {
            "size": size, "kernel": sizes(rng, 2, [1, 2, 3]), "dilation": sizes(rng, 2, [1, 1, 2]),
            "padding": sizes(rng, 2, [0, 1]), "stride": sizes(rng, 2, [1, 2, 3]),
        }  # fmt: skip

    def run(self, options: Options, x: Any) -> Any:
        geometry = [options[name] for name in ("kernel", "dilation", "padding", "stride")]
        return F.fold(F.unfold(x, *geometry), options["size"], *geometry)

    def reach(self, options: Options, size: Size) -> Size:
        return (0, 0)


# --- moves -------------------------------------------------------------------------------------------------


@kind
class pad(Move):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        mode = rng.choice(["constant", "constant", "constant", "circular", "reflect", "replicate"])
        least = -1 if mode == "constant" and min(size) > 3 else 0
        pads = [rng.randint(least, 2) for _ in range(2 * len(size))]
        if rng.random() < 0.3:
            pads = [rng.randint(1, 2)] * (2 * len(size))
        return {
            "pads": pads,
            "mode": mode,
            "value": rng.choice([0.0, 0.0, 0.5]) if mode == "constant" else None,
        }

    def run(self, options: Options, x: Any) -> Any:
        return F.pad(x, options["pads"], options["mode"], options["value"])

    def blank(self, options: Options) -> Options:
        return {**options, "value": -1.0} if options["mode"] == "constant" else options


@kind
class pixel_shuffle(Move):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {} if len(size) == 2 and channels % 4 == 0 else None

    def run(self, options: Options, x: Any) -> Any:
        return F.pixel_shuffle(x, 2)


@kind
class pixel_unshuffle(Kind):
    twinned = False

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        even = len(size) == 2 and not any(n % 2 for n in size)
        return {} if even and channels <= 2 and rng.random() < 0.5 else None

    def run(self, options: Options, x: Any) -> Any:
        return F.pixel_unshuffle(x, 2)


@kind
class roll(Move):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"by": rng.randint(-2, 2), "axis": rng.randint(2, len(size) + 1)}

    def run(self, options: Options, x: Any) -> Any:
        return torch.roll(x, options["by"], options["axis"])


@kind
class flip(Move):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"axis": rng.randint(2, len(size) + 1)}

    def run(self, options: Options, x: Any) -> Any:
        return x.flip(options["axis"])


@kind
class turn(Move):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {} if len(size) > 1 else None

    def run(self, options: Options, x: Any) -> Any:
        return x.transpose(-1, -2)


@kind
class crop(Move):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        axis = rng.randrange(len(size))
        begin = rng.randrange(size[axis])
        return {
            "axis": axis,
            "begin": begin,
            "end": rng.randint(begin + 1, size[axis]),
            "step": rng.choice([1, 1, 2]),
        }

    def run(self, options: Options, x: Any) -> Any:
        part = slice(options["begin"], options["end"], options["step"])
        return x[(slice(None),) * (2 + options["axis"]) + (part,)]


@kind
class tiled(Move):
    """Beside itself."""

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"axis": rng.randint(2, len(size) + 1)} if rng.random() < 0.5 else None

    def run(self, options: Options, x: Any) -> Any:
        return torch.cat([x, x.flip(options["axis"])], options["axis"])


# --- entry by entry, and over all positions ----------------------------------------------------------------


@kind
class activation(Pointwise):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        names = [
            "relu",
            "relu_",
            "relu6",
            "leaky_relu",
            "sigmoid",
            "silu",
            "gelu",
            "tanh",
            "hardswish",
            "elu",
        ]
        return {"name": rng.choice(names)}

    def run(self, options: Options, x: Any) -> Any:
        name = options["name"]
        if name == "relu_":
            return F.relu(x * 1, inplace=True)
        return getattr(F, name)(x)


@kind
class batch_norm(Pointwise):
    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"seed": rng.randrange(10**6)}

    def run(self, options: Options, x: Any) -> Any:
        mean, spread, scale, shift = weights(options["seed"], 4, x.shape[1], dtype=x.dtype)
        return F.batch_norm(x, mean, spread.square() + 0.5, scale, shift)


@kind
class scale(Pointwise):
    """By a number of each channel, plus one of each."""

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"seed": rng.randrange(10**6)}

    def run(self, options: Options, x: Any) -> Any:
        a, b = weights(options["seed"], 2, x.shape[1], *[1] * (x.ndim - 2), dtype=x.dtype)
        return x * a + b


@kind
class channel_gate(Pointwise):
    """CBAM: a gate of each position, by the mean and maximum over its channels."""

    def run(self, options: Options, x: Any) -> Any:
        return x * (x.mean(1, keepdim=True) + x.amax(1, keepdim=True)).sigmoid()


@kind
class norm_of_channels(Pointwise):
    def run(self, options: Options, x: Any) -> Any:
        return F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1)


@kind
class mixed_channels(Pointwise):
    """A linear layer of the channels, which lie last for it."""

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"out": rng.choice([1, 3, 9]), "bias": rng.random() < 0.7, "seed": rng.randrange(10**6)}

    def run(self, options: Options, x: Any) -> Any:
        weight, bias = (
            weights(options["seed"], options["out"], *n, dtype=x.dtype) for n in ([x.shape[1]], [])
        )
        return F.linear(x.movedim(1, -1), weight, bias if options["bias"] else None).movedim(-1, 1)


@kind
class split_channels(Pointwise):
    """Some go through an activation, the others beside it."""

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"chunks": rng.random() < 0.5} if channels > 1 else None

    def run(self, options: Options, x: Any) -> Any:
        first, *rest = x.chunk(2, 1) if options["chunks"] else (x[:, :1], x[:, 1:])
        return torch.cat([F.leaky_relu(first, 0.1), *rest], 1)


@kind
class group_norm(Kind):
    def run(self, options: Options, x: Any) -> Any:
        return F.group_norm(x, 1)

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        if not x.visible.any():
            return x
        seen = x.value[:, x.visible]
        return Cells((x.value - seen.mean()) / np.sqrt(seen.var() + 1e-5), x.visible, x.is_padding)


@kind
class gate(Kind):
    """Squeeze and excitation: a gate of each channel, by its mean."""

    def draw(self, rng: random.Random, channels: int, size: Size) -> Options | None:
        return {"pooled": rng.random() < 0.5}

    def run(self, options: Options, x: Any) -> Any:
        axes = tuple(range(2, x.ndim))
        mean = ADAPTIVE_AVG[x.ndim - 2](x, 1) if options["pooled"] else x.mean(axes, keepdim=True)
        return x * mean.sigmoid()

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        (x,) = inputs
        mean = twins.masked_mean(x.value, x.visible).reshape(-1, *[1] * len(x.size))
        any_real = bool((x.visible & ~x.is_padding).any()) or bool(x.is_padding.all())
        shown = any_real if options["pooled"] else x.visible.any()
        return Cells(x.value / (1 + np.exp(-mean)), x.visible & shown, x.is_padding & shown)


# --- joins -------------------------------------------------------------------------------------------------


class Join(Kind):
    inputs = 2

    def twin(self, options: Options, settings: Settings, *inputs: Cells) -> Cells:
        a, b = inputs
        value = self.run(options, *(torch.tensor(x.value)[None] for x in inputs))
        return Cells(value[0].numpy(), a.visible & b.visible, a.is_padding & b.is_padding)


@kind
class added(Join):
    def run(self, options: Options, *inputs: Any) -> Any:
        return inputs[0] + inputs[1]


@kind
class multiplied(Join):
    def run(self, options: Options, *inputs: Any) -> Any:
        return inputs[0] * torch.sigmoid(inputs[1])


@kind
class concatenated(Join):
    def run(self, options: Options, *inputs: Any) -> Any:
        return torch.cat(inputs, 1)


HEADS: dict[str, Callable[[Any], Any]] = {
    "map": lambda x: x,
    "mean": lambda x: x.mean(tuple(range(2, x.ndim))),
    "pooled": lambda x: ADAPTIVE_AVG[x.ndim - 2](x, 1).flatten(1),
    "maximum": lambda x: x.amax(tuple(range(2, x.ndim))),
    "cell": lambda x: x[(slice(None), slice(None), *[0] * (x.ndim - 2))] * 2 + 1,
    "tokens": lambda x: x.flatten(2).permute(2, 0, 1),
    "mean of tokens": lambda x: F.linear(
        x.flatten(2).permute(2, 0, 1).mean(0),
        weights(8, 3, x.shape[1], dtype=x.dtype),
        weights(9, 3, dtype=x.dtype),
    ),
    "linear": lambda x: F.linear(x.flatten(1), weights(7, 3, x[:1].numel(), dtype=x.dtype)),
}


# --- graphs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One layer: its kind and options, and the numbers of the values that it reads (0 is the image)."""

    kind: str
    options: Options
    reads: tuple[int, ...]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={option}" for name, option in self.options.items())
        return f"{self.kind}({options}) of {', '.join(map(str, self.reads))}"


@dataclass(eq=False)
class Graph(nn.Module):
    """A model of its steps. Value 0 is the image, value i the output of step i."""

    channels: int
    size: Size
    settings: Settings
    head: str
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def trace(self, x: Any) -> list[Any]:
        """Every value, the head's last."""
        values = [x]
        for step in self.steps:
            values.append(KINDS[step.kind].run(step.options, *(values[i] for i in step.reads)))
        return [*values, HEADS[self.head](values[-1])]

    def forward(self, x: Any) -> Any:
        return self.trace(x)[-1]

    def is_tokens(self, value: int) -> bool:
        """Whether a value has the batch behind its positions."""
        return self.head == "tokens" and value == len(self.steps) + 1

    def twin(self, image: np.ndarray, visible: np.ndarray) -> list[Cells]:
        """Every value up to the first step that has no twin, for an image (C, *S) under a mask (*S)."""
        values = [Cells(image, visible, np.zeros_like(visible))]
        for step in self.steps:
            if not KINDS[step.kind].twinned:
                break
            inputs = [values[i] for i in step.reads]
            values.append(KINDS[step.kind].twin(step.options, self.settings, *inputs))
        return values

    def __repr__(self) -> str:
        lines = [f"image {self.channels} x {self.size}, {self.settings}, head {self.head}"]
        return "\n".join(lines + [f"{i}: {step}" for i, step in enumerate(self.steps, 1)])


SIZES = {1: (6, 12), 2: (3, 9), 3: (3, 4)}


def draw(seed: int) -> Graph:
    """A random graph of some steps."""
    rng = random.Random(seed)
    n = rng.choice([1, 2, 2, 2, 2, 2, 2, 2, 3])
    size = tuple(1 if rng.random() < 0.06 else rng.randint(*SIZES[n]) for _ in range(n))
    graph = Graph(rng.randint(1, 4), size, _settings(rng), rng.choice(list(HEADS)))
    values = [torch.zeros(1, graph.channels, *size, dtype=torch.float64)]
    for _ in range(rng.choice([2, 3, 4, 5, 6, 9])):
        for step, value in _next(rng, values):
            graph.steps.append(step)
            values.append(value)
    if (
        graph.head == "tokens" and values[-1][0, 0].numel() == 1
    ):  # of which no mask tells batch from positions
        graph.head = "map"
    return graph


def _settings(rng: random.Random) -> Settings:
    growth = rng.choice(["any"] * 5 + ["half", "keep", "center"])
    if rng.random() < 0.8:
        return Settings(growth=growth, pool=rng.choice([None, None, "neighbor"]))
    fill, join = (
        rng.choice(["neighbor", "zero", "renormalize"]),
        rng.choice(["intersection", "majority", "union"]),
    )
    return Settings(fill=fill, growth=growth, join=join, compat=rng.choice([None, "paper"]))


def _next(rng: random.Random, values: list[Tensor]) -> list[tuple[Step, Tensor]]:
    """A step that fits and what it gives for plain values; two where a branch is resized to meet another."""
    for _ in range(50):
        name = rng.choice(list(KINDS))
        steps = _joined(rng, name, values) if KINDS[name].inputs == 2 else _single(rng, name, values)
        if steps:
            return steps
    return []


def _single(rng: random.Random, name: str, values: list[Tensor]) -> list[tuple[Step, Tensor]]:
    at = len(values) - 1 if rng.random() < 0.8 else rng.randrange(len(values))
    options = KINDS[name].draw(rng, values[at].shape[1], tuple(values[at].shape[2:]))
    return [] if options is None else _tried(Step(name, options, (at,)), values)


def _joined(rng: random.Random, name: str, values: list[Tensor]) -> list[tuple[Step, Tensor]]:
    last, other = len(values) - 1, rng.randrange(len(values))
    channels, size = values[other].shape[1], tuple(values[other].shape[2:])
    if name != "concatenated" and values[last].shape[1] != channels:
        return []
    if tuple(values[last].shape[2:]) == size:
        return _tried(Step(name, {}, (last, other)), values)
    mode = rng.choice(["nearest", LINEAR[len(size)]])
    options = {"to": size, "scale": None, "mode": mode, "align": None, "antialias": False}
    resized = _tried(Step("interpolate", options, (last,)), values)
    return resized and resized + _tried(Step(name, {}, (last + 1, other)), [*values, resized[0][1]])


def _tried(step: Step, values: list[Tensor]) -> list[tuple[Step, Tensor]]:
    """The step, if torch takes it and what it gives is neither empty nor large."""
    try:
        out = KINDS[step.kind].run(step.options, *(values[i] for i in step.reads))
    except (RuntimeError, ValueError, NotImplementedError):
        return []
    fits = 0 < out[0, 0].numel() <= MOST_CELLS and 0 < out.shape[1] <= 12 and bool(out.isfinite().all())
    return [(step, out)] if fits else []


def masks(seed: int, size: Size) -> Tensor:
    """(4, 1, *S): nothing, something, that and more, everything."""
    rng = random.Random(seed)
    shares = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    less = shares < rng.choice([0.1, 0.3, 0.6])
    if rng.random() < 0.5:  # a block
        less = torch.zeros(size, dtype=torch.bool)
        less[tuple(slice(b := rng.randrange(n), rng.randint(b + 1, n)) for n in size)] = True
    more = less | (shares > rng.choice([0.5, 0.9]))
    return torch.stack([torch.zeros_like(less), less, more, torch.ones_like(less)])[:, None]
