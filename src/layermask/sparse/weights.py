"""Weights in the order of rows, batch norms folded in, kept from one pass to the next by what they hold.

Nothing tells all changes of a tensor: writes through `.data`, through numpy or in inference mode leave no
trace. So what is kept is found by a checksum of the weights' contents, taken whenever an operator is called
with them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layermask._private_torch import identities
from layermask.kernels.checksum import Place
from layermask.rules import normalise
from layermask.sparse.ops import to_compute_dtype

Tensors = tuple[Tensor | None, ...]
MOST_SEEN = 10_000  # weights whose places are noted


@dataclass(eq=False)
class Captured:
    """Weights as they were when an operator was called, which may be computed later.

    `given` are the model's own, `tensors` the same or copies of them, which nobody changes. `content` says
    what they held, or is None where that cannot be told.
    """

    given: Tensors
    tensors: Tensors
    content: Hashable


class PreparedWeights:
    """What was computed of a model's weights. Owned by one operator, and gone with it.

    Two passes that need different things (another grouping of operators, say) may take turns: what was used
    in this pass or in the one before is kept.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}
        self._known: set[tuple[tuple[int, ...], Hashable]] = set()  # tensors, and what they held
        self._seen: dict[tuple[int, ...], _Seen] = {}
        self._volatile = False
        self._pass = 0

    def begin_pass(self) -> None:
        self._pass += 1

    def capture(self, *tensors: Tensor | None) -> Captured:
        """The tensors as they are now. Only those of which something is kept are not copied."""
        content = self._content(tensors)
        if not self._volatile and (identities(*tensors), content) in self._known:
            return Captured(tensors, tensors, content)
        copies = tuple(t if t is None else t.detach().clone() for t in tensors)
        return Captured(tensors, copies, content)

    def _content(self, tensors: Tensors) -> Hashable:
        """What tensors hold, with their shapes, or None where that cannot be read without waiting."""
        given = [t for t in tensors if t is not None]
        key = identities(*tensors)
        seen = self._seen.get(key)
        if seen is None or not seen.place.holds(given):
            seen = self._look(key, tensors, seen)
        if not seen.place.readable:
            return None
        content = (seen.place.checksum(given), seen.shapes)
        if seen.parameter:  # that the model changes within a pass: from then on, copies are taken
            self._volatile |= seen.last == self._pass and seen.content != content
            seen.last, seen.content = self._pass, content
        return content

    def _look(self, key: tuple[int, ...], tensors: Tensors, before: _Seen | None) -> _Seen:
        if len(self._seen) >= MOST_SEEN:  # of models that compute their weights anew in every pass
            self._seen.clear()
        given = [t for t in tensors if t is not None]
        seen = self._seen[key] = _Seen(Place(given), _shapes(tensors), _is_parameter(given))
        if before is not None:
            seen.last, seen.content = before.last, before.content
        return seen

    def get(self, weights: Sequence[Captured], params: Hashable, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it gave before for weights of the same contents.

        Raises:
            RuntimeError: the weights were changed after the operator was called and before it was computed.
        """
        if any(w.content is None for w in weights):
            return compute()
        key = (params, *(w.content for w in weights))
        kept = self._kept.get(key)
        if kept is None:
            if not all(w.tensors is not w.given or self._content(w.given) == w.content for w in weights):
                raise RuntimeError(
                    "the model changed weights that an operator had yet to be computed with: use "
                    'LayerMasking(model, engine="dense").'
                )
            self._drop_unused()
            kept = self._kept[key] = _Kept(compute(), self._pass)
        for w in weights:
            if w.tensors is not w.given:  # the next time, these very tensors need not be copied
                self._known.add((identities(*w.given), w.content))
        kept.used = self._pass
        return kept.value

    def _drop_unused(self) -> None:
        """Weights that change from pass to pass must not pile up."""
        old = [key for key, kept in list(self._kept.items()) if kept.used < self._pass - 1]
        for key in old:
            self._kept.pop(key, None)
        if old:
            contents = {content for key in list(self._kept) for content in key[1:]}  # type: ignore[index]
            self._known = {known for known in list(self._known) if known[1] in contents}


@dataclass(eq=False)
class _Kept:
    value: Any
    used: int  # the last pass that asked for it


@dataclass(eq=False)
class _Seen:
    """Weights that an operator was called with: where they lie, and what they held when last read."""

    place: Place
    shapes: tuple
    parameter: bool
    last: int = -1  # the pass
    content: Hashable = None


def _shapes(tensors: Tensors) -> tuple:
    return tuple([t if t is None else (t.shape, t.dtype) for t in tensors])


def _is_parameter(tensors: Sequence[Tensor]) -> bool:
    return any(isinstance(t, nn.Parameter) for t in tensors)


@dataclass(eq=False)
class Norm:
    """A batch norm in evaluation: mean, variance, weight and bias, of which the last two may be None."""

    weights: Captured
    eps: float

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) each, in float64: the norm is x * scale + shift."""
        mean, var, weight, bias = self.weights.tensors
        assert mean is not None and var is not None
        return normalise.scale_and_shift(mean, var, weight, bias, self.eps)


@dataclass(eq=False)
class Scale:
    """A number per channel, as ConvNeXt's layer scale; in the place of a norm."""

    weights: Captured
    eps: float = 0.0

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        (factor,) = self.weights.tensors
        assert factor is not None
        scale = factor.double().flatten()
        return scale, torch.zeros_like(scale)


def folded_weights(weights: Captured, norms: Sequence[Norm | Scale]) -> tuple[Tensor, Tensor | None]:
    """A convolution's weight and bias, as rows meet them, with the norms behind it folded in."""
    weight, bias = weights.tensors
    assert weight is not None
    weight, bias = to_compute_dtype(weight), bias if bias is None else to_compute_dtype(bias)
    if not norms:
        return weight, bias
    return normalise.fold_batch_norms(weight, bias, [norm.scale_and_shift() for norm in norms])
