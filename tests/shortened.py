"""A model with fewer repeated blocks: it is quicker, and calls torch in every way that the whole model does.

Its laws are also judged more strictly: each further block amplifies rounding errors, which a law must allow.
`test_shortened.py` compares the calls.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def shortened(model: nn.Module) -> nn.Module:
    """Cut runs of equal blocks, in place: to two the first time that a kind of block repeats, to one later.

    Two, because a block then reads the output of one of its own kind. Later runs differ in width only.
    """
    known: set[Any] = set()
    for chain in list(model.modules()):
        if _is_chain(chain):
            _shorten(chain, known)
    return model


def _is_chain(module: nn.Module) -> bool:
    """Whether the children run one after the other: in a list of branches, they run side by side."""
    if isinstance(module, nn.ModuleList):
        return all(type(child).__name__.endswith(("Block", "Layer")) for child in module)
    return getattr(type(module), "forward", None) is nn.Sequential.forward


def _shorten(chain: nn.Module, known: set[Any]) -> None:
    kept: list[tuple[str, nn.Module, Any]] = []
    for name, child in chain.named_children():
        kept.append((name, child, _looks(child)))
        for period in range(1, len(kept) // 2 + 1):
            if _repeats(kept, period) and _is_known(kept[-period:], known):
                del kept[-period:]
                break
    names = map(str, range(len(kept))) if isinstance(chain, nn.ModuleList) else (name for name, _, _ in kept)
    chain._modules = dict(zip(names, (child for _, child, _ in kept), strict=True))


def _repeats(kept: list[tuple[str, nn.Module, Any]], period: int) -> bool:
    """Whether the last `period` children look like those before them, hold weights, and have no strides."""
    looks = [each for _, _, each in kept[-2 * period :]]
    last = nn.ModuleList(child for _, child, _ in kept[-period:])
    strided = any(getattr(module, "stride", 1) not in (1, (1,), (1, 1)) for module in last.modules())
    return looks[:period] == looks[period:] and any(True for _ in last.parameters()) and not strided


def _is_known(blocks: list[tuple[str, nn.Module, Any]], known: set[Any]) -> bool:
    """Whether blocks of this kind, at any width, have been seen to repeat."""
    kind = tuple(type(child) for _, child, _ in blocks)
    return kind in known or bool(known.add(kind))


def _looks(module: nn.Module) -> Any:
    """Everything about a module but its numbers; None for one that does nothing in eval mode."""
    if type(module).__name__ in ("Identity", "Dropout", "DropPath", "StochasticDepth"):
        return None
    own = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | str | tuple)}
    shapes = [(name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False)]
    children = [(name, _looks(child)) for name, child in module.named_children()]
    return type(module), module.extra_repr(), own, shapes, children
