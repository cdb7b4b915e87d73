"""Feature maps inside a model: where its stages are, and what they hold under any removal (Figure 2).

places = find_places(model, image)
whole = activations(model, lambda: model(image), places)
masked = activations(model, lambda: LayerMasking(model)(image, visible), places)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.core.masked import Masked
from layermask.errors import InputError
from layermask.removal.layer_masking import LayerMasking


@dataclass(frozen=True)
class Place:
    """Where a model has a feature map: the output of the submodule `module` in its `call`-th call, from 0.

    `size`: (h, w) of the map. `axes`: the two axes of the output that are height and width, or the one along
    which tokens lie; then `cells` are the indices of the map's tokens, in reading order, no class tokens.
    """

    module: str
    call: int
    size: tuple[int, int]
    axes: tuple[int, ...]
    cells: tuple[int, ...] = ()


@dataclass(frozen=True)
class FeatureMap:
    """`values` (C, h, w) float, 0 where hidden, and `visible` (h, w) bool; both on the CPU."""

    values: Tensor
    visible: Tensor

    def channel(self, index: int) -> FeatureMap:
        """Return one channel, as a map (1, h, w)."""
        return FeatureMap(self.values[index : index + 1], self.visible)


@checked(model=kinds.model, image=kinds.image)
def find_places(model: nn.Module, image: Tensor) -> list[Place]:
    """Return where each stage of a model begins and ends, for an image (1, C, H, W).

    A stage is all that has one resolution. It begins with the first module output of that resolution and
    ends with the last; modules that go down one resolution, as residual blocks with a stride, are taken as a
    whole. A stage of one module has one place, and a model without feature maps none.

    The model is run once with nothing visible: an axis along which masks vary is one of space, and what is
    visible even so is a class token.

    Raises:
        InputError: the image is not one 2-d image, or the model is in training mode.
        NoMaskRule: the model calls a torch function that has no rule.
    """
    if image.ndim != 4:
        raise InputError(f"image: expected one image (1, C, H, W), got {tuple(image.shape)}")
    if model.training:
        raise InputError(f"the {type(model).__name__} is in training mode: call model.eval() first")
    nothing = torch.zeros_like(image[:, :1], dtype=torch.bool)
    root = _Call("", 0)
    with _watching(model, root, (image.shape[2], image.shape[3])), torch.no_grad():
        LayerMasking(model, engine="dense")(image, nothing)
    spine = list(_stages(root, image[0, 0].numel()))
    sizes = sorted({place.size for place in spine}, key=lambda size: -size[0] * size[1])
    ends = [[place for place in spine if place.size == size] for size in sizes]
    return [place for stage in ends for place in dict.fromkeys((stage[0], stage[-1]))]


@checked(
    model=kinds.model,
    answer=partial(kinds.function, inputs=0),
    places=partial(kinds.instances, kind=Place),
)
def activations(model: nn.Module, answer: Callable[[], Any], places: Sequence[Place]) -> list[FeatureMap]:
    """Return the feature maps at `places` while `answer()` runs the model on one image, under any removal.

    Raises:
        InputError: `answer` does not reach a place, or finds another shape there, as when tokens are dropped.
    """
    calls, found = Counter(), {}
    wanted = {(place.module, place.call): place for place in places}

    def keep(name: str, output: Any) -> None:
        place = wanted.get((name, calls[name]))
        calls[name] += 1
        if place is not None:
            found[place] = _read(place, _first(output))

    modules = dict(model.named_modules())
    with ExitStack() as hooks, torch.no_grad():
        for name in {place.module for place in places}:
            hook = lambda module, args, output, name=name: keep(name, output)  # noqa: E731
            hooks.enter_context(modules[name].register_forward_hook(hook))
        answer()
    if missed := [place.module for place in places if place not in found]:
        raise InputError(f"the model was not run through {missed[0]!r}: run the one whose places these are")
    return [found[place] for place in places]


@checked(whole=partial(kinds.instance, kind=FeatureMap))
def most_varying_channel(whole: FeatureMap) -> int:
    """Return the channel with the largest variance over space, the one that figures show."""
    return int(whole.values.flatten(1).var(1, correction=0).argmax())


@checked(
    one=partial(kinds.instance, kind=FeatureMap),
    whole=partial(kinds.instance, kind=FeatureMap),
    where=kinds.mask,
)
def distance(one: FeatureMap, whole: FeatureMap, where: Tensor) -> float | None:
    """Return |one - whole| / |whole| over all channels and the cells `where` (h, w); None if |whole| is 0."""
    size = float(whole.values[:, where].norm())
    return float((one.values - whole.values)[:, where].norm()) / size if size else None


@dataclass
class _Call:
    """One call of a submodule, those it made in turn, and the place of its output if that is a map."""

    name: str
    number: int
    place: Place | None = None
    inner: list[_Call] = field(default_factory=list)

    def areas(self) -> Iterator[int]:
        for call in self.inner:
            if call.place:
                yield call.place.size[0] * call.place.size[1]
            yield from call.areas()


@contextmanager
def _watching(model: nn.Module, root: _Call, size: tuple[int, int]) -> Iterator[None]:
    """Within the block, calls of submodules are added below `root`, as a tree."""
    open_calls, numbers = [root], Counter()

    def enter(name: str) -> None:
        call = _Call(name, numbers[name])
        numbers[name] += 1
        open_calls[-1].inner.append(call)
        open_calls.append(call)

    def leave(output: Any) -> None:
        call = open_calls.pop()
        call.place = _place(call, _first(output), size)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                before = module.register_forward_pre_hook(lambda module, args, name=name: enter(name))
                after = module.register_forward_hook(lambda module, args, output: leave(output))
                hooks.enter_context(before)
                hooks.enter_context(after)
        yield


def _stages(call: _Call, area: int) -> Iterator[Place]:
    """Yield the places of a model's outermost modules, opening those that pass through several resolutions.

    `area` is how many cells the map has that enters.
    """
    alone = sum(inner.place is not None for inner in call.inner) == 1  # a backbone in a wrapper, say
    for inner in call.inner:
        here = inner.place
        after = here.size[0] * here.size[1] if here else 0
        passes = any(after < between < area for between in inner.areas())
        if here is None or passes or (alone and any(inner.areas())):
            for place in _stages(inner, area):
                yield place
                area = place.size[0] * place.size[1]
        else:
            yield here
            area = after


def _place(call: _Call, output: Any, size: tuple[int, int]) -> Place | None:
    """Return the place of an output, if its mask says that it is a map or a row of tokens."""
    if not isinstance(output, Masked) or len(output.value) != 1:
        return None
    shape = tuple(output.value.shape)
    axes = tuple(axis for axis, length in enumerate(output.visible.shape) if length > 1)
    if len(shape) == 4 and len(axes) == 2:
        grid = shape[axes[0]], shape[axes[1]]
        return Place(call.name, call.number, grid, axes) if _alike(grid, size) else None
    if len(shape) == 3 and len(axes) == 1:
        cells = tuple((~output.visible).flatten().nonzero().flatten().tolist())
        grid = _grid(len(cells), size)
        return Place(call.name, call.number, grid, axes, cells) if grid else None
    return None


def _grid(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the (h, w) of `count` tokens in a grid that has the shape of the image."""
    grids = [(h, count // h) for h in range(2, count) if count % h == 0]
    alike = [grid for grid in grids if _alike(grid, size)]
    return min(alike, key=lambda grid: abs(grid[0] * size[1] - grid[1] * size[0]), default=None)


def _alike(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a grid has the shape of the image, to one cell. Attention weights and gates rarely do."""
    (h, w), (height, width) = grid, size
    return 2 <= h <= height and 2 <= w <= width and abs(h * width - w * height) <= 1.5 * max(height, width)


def _first(output: Any) -> Any:
    """Return the first tensor in what a module returned: its map, where it returns more."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((found for branch in output if (found := _first(branch)) is not None), None)
    return output if isinstance(output, (Tensor, Masked)) else None


def _read(place: Place, output: Any) -> FeatureMap:
    value, visible = output, None
    if isinstance(output, Masked):
        value, visible = torch.where(output.visible, output.value, 0), output.visible
    # a copy: the next module may work in place
    values = _as_map(place, value).to("cpu", torch.float, copy=True)
    if visible is None:
        return FeatureMap(values, torch.ones(place.size, dtype=torch.bool))
    return FeatureMap(values, _as_map(place, visible.expand(value.shape)).any(0).cpu())


def _as_map(place: Place, x: Any) -> Tensor:
    """Return an output as (C, h, w)."""
    tokens = bool(place.cells)
    lengths = tuple(x.shape[axis] for axis in place.axes) if x.ndim > max(place.axes) else ()
    fits = len(lengths) == 1 and lengths[0] > place.cells[-1] if tokens else lengths == place.size
    if not fits or len(x) != 1:
        raise InputError(
            f"{place.module!r} gave {tuple(x.shape)} for one image, where a map {place.size} was expected: "
            "give one image, and a removal that keeps every position"
        )
    x = x[0].movedim([axis - 1 for axis in place.axes], list(range(-len(place.axes), 0)))
    return x[:, list(place.cells)].reshape(-1, *place.size) if tokens else x
