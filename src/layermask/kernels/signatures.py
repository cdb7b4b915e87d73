"""What each kernel in C takes: one table, from which the checks, the calls and the operators are made.

The C function of a kernel takes, in this order: for each tensor its address (NULL where none is given), the
number of its dtype if that is free ("real"), its strides if those are free ("strided"), or the stride of its
rows ("rows"); the sizes, in the order in which the table first names them; the numbers (int as long, float as
double); the number of threads. It returns 0 or one of `OUTCOMES`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The types that can be filled and hidden, as fill.c and hide.c number them."""

_DTYPES = {
    "f32": torch.float32,
    "bool": torch.bool,
    "u8": torch.uint8,
    "i32": torch.int32,
    "i64": torch.int64,
    "real": KINDS,
}
ACTIVATIONS = 7  # of activations.h


@dataclass(frozen=True)
class Array:
    """A tensor that a kernel takes."""

    name: str
    kind: str  # a key of _DTYPES
    dims: tuple[str, ...]  # a name (bound where it is first met), a number, or an expression of names
    layout: str = ""  # contiguous; "rows": each row is; "strided": any. What is written does not overlap
    optional: bool = False
    written: bool = False

    @property
    def schema(self) -> str:
        kind = f"Tensor({self.name}!)" if self.written else "Tensor?" if self.optional else "Tensor"
        return f"{kind} {self.name}"

    @property
    def passed(self) -> list[str]:
        """What C gets, as expressions."""
        address = f"{self.name}.data_ptr()"
        given = [f"None if {self.name} is None else {address}" if self.optional else address]
        given += [f"kinds[{self.name}.dtype]"] if self.kind == "real" else []
        steps = {"": [], "rows": [f"{self.name}.stride(0)"], "strided": [f"*{self.name}.stride()"]}
        return given + steps[self.layout]

    @property
    def c_types(self) -> list[Any]:
        steps = {"": 0, "rows": 1, "strided": len(self.dims)}[self.layout]
        return [ctypes.c_void_p] + [ctypes.c_long] * (steps + (self.kind == "real"))

    @property
    def words(self) -> str:
        kind = "float32, float64, bfloat16 or float16" if self.kind == "real" else str(_DTYPES[self.kind])[6:]
        layout = {"": "contiguous ", "rows": "", "strided": ""}[self.layout]
        tail = {"": "", "rows": " with contiguous rows", "strided": " without overlap"}
        return f"a {layout}{kind} tensor on the CPU of shape ({', '.join(self.dims)}){tail[self.layout]}"

    def conditions(self) -> Iterator[str]:
        """Expressions that have to hold; sizes that it binds are bound by then."""
        name = self.name
        yield f"{name}.dtype in kinds" if self.kind == "real" else f"{name}.dtype is {self.kind}"
        yield f"{name}.is_cpu"
        loose = {"": "", "rows": f"{name}.stride(1) == 1", "strided": f"apart({name})"}[self.layout]
        loose += f" and apart({name})" if self.layout == "rows" and self.written else ""
        yield f"({name}.is_contiguous() or {loose})" if loose else f"{name}.is_contiguous()"


@dataclass(frozen=True)
class Number:
    """A number that a kernel takes."""

    name: str
    kind: str

    @property
    def schema(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Signature:
    """A kernel's arguments, and what has to hold between them, as Python expressions."""

    name: str
    arrays: tuple[Array, ...]
    numbers: tuple[Number, ...]
    where: tuple[str, ...]

    @property
    def arguments(self) -> tuple[Array | Number, ...]:
        return (*self.arrays, *self.numbers)

    @property
    def schema(self) -> str:
        return f"({', '.join(argument.schema for argument in self.arguments)}) -> ()"

    @property
    def sizes(self) -> list[str]:
        """The names of sizes, in order."""
        known = dict.fromkeys(dim for array in self.arrays for dim in array.dims if dim.isidentifier())
        return [dim for dim in known if dim not in {number.name for number in self.numbers}]

    @property
    def c_types(self) -> list[Any]:
        kinds = [ctypes.c_long if number.kind == "int" else ctypes.c_double for number in self.numbers]
        first = [kind for array in self.arrays for kind in array.c_types]
        return [*first, *[ctypes.c_long] * len(self.sizes), *kinds, ctypes.c_long]

    def fresh(self, array: Array) -> list[str]:
        """The sizes that this tensor binds: required tensors come first, then the optional ones."""
        order = sorted(self.arrays, key=lambda each: each.optional)
        known = {number.name for number in self.numbers}
        known |= {dim for each in order[: order.index(array)] for dim in each.dims}
        return [dim for dim in array.dims if dim.isidentifier() and dim not in known]

    def tests(self, array: Array) -> list[str]:
        """What has to hold of a tensor that is given, as Python expressions, once all sizes are bound."""
        fresh, name = self.fresh(array), array.name
        if not fresh:
            return [*array.conditions(), f"{name}.shape == ({', '.join(array.dims)},)"]
        rest = [f"{name}_{i} == {dim}" for i, dim in enumerate(array.dims) if dim not in fresh]
        return [*array.conditions(), *rest]

    def bind(self, array: Array) -> str:
        """The statement that binds its sizes, and its others as name_0, name_1, ..."""
        fresh = self.fresh(array)
        names = [dim if dim in fresh else f"{array.name}_{i}" for i, dim in enumerate(array.dims)]
        return f"{', '.join(names)}, = {array.name}.shape"

    def __str__(self) -> str:
        return self.name


def _array(text: str) -> Array:
    found = re.fullmatch(r"(\w+)(!?) (\w+)\[(.*)\](\??) ?(\w*)", text)
    assert found, text
    name, written, kind, dims, optional, layout = found.groups()
    return Array(name, kind, tuple(dims.split(", ")), layout, bool(optional), bool(written))


def _signature(name: str, arguments: str, *where: str) -> Signature:
    texts = arguments.split("; ")
    arrays = tuple(_array(text) for text in texts if "[" in text)
    numbers = tuple(Number(*reversed(text.split())) for text in texts if "[" not in text)
    ends = ("0 <= how < activations",) if arguments.endswith(_END) else ()
    return Signature(name, arrays, numbers, (*where, *ends))


_END = "int how; float a; float b"
_REACH = "int reach_d; int reach_h; int reach_w"
_RINGS = "max(reach_d, reach_h, reach_w) < 255 and min(reach_d, reach_h, reach_w) >= 0"
_SMALL = "max(D, H, W) < 2**31"
_REACH_2D = "int reach_h; int reach_w"
_RINGS_2D = "max(reach_h, reach_w) < 255 and min(reach_h, reach_w) >= 0"
_FEW = "N * H * W < 2**31"
_WINDOW = (
    "h w out_h out_w kernel_h kernel_w stride_h stride_w before_h before_w dilation_h dilation_w".split()
)

SIGNATURES = {
    signature.name: signature
    for signature in (
        _signature(
            "fill_rings",
            "visible bool[N, 1, D, H, W]; is_padding bool[F, 1, D, H, W]?; "
            f"rings! u8[N, 1, D, H, W]; {_REACH}",
            "is_padding is None or F in (1, N)",
            _RINGS,
            _SMALL,
        ),
        _signature(
            "fill_values",
            f"value! real[N, C, D, H, W] strided; rings u8[R, 1, D, H, W]; {_REACH}; float eps",
            "R in (1, N)",
            _RINGS,
            _SMALL,
        ),
        _signature(
            "hide_values",
            "value! real[N, C, D, H, W] strided; visible bool[R, 1, D, H, W]; float number",
            "R in (1, N)",
        ),
        _signature(
            "window_cells",
            f"cells i32[M]; read! i32[M, T]; {'; '.join(f'int {name}' for name in _WINDOW)}",
            "T == kernel_h * kernel_w",
            "min(h, w, out_h, out_w, kernel_h, kernel_w) >= 0",
            "M == 0 or out_h * out_w > 0",
            f"all(abs(x) < 2**31 for x in ({', '.join(_WINDOW)}))",
        ),
        _signature(
            "need",
            "rings u8[N, H, W]; read i32[M, T]; begins i64[N + 1]; listed! u8[N, H, W]; "
            f"needed! i32[N * H * W]; counts! i32[N, 256]; {_REACH_2D}",
            _RINGS_2D,
            _FEW,
        ),
        _signature(
            "number_rows",
            "rings u8[N, H, W]; needed i32[N * H * W]; counts i32[N, 256]; begins i32[N, 256]; "
            f"number! i32[N * H * W]; sources! i32[R, 8]; read! i32[M, T]; int visible_rows; {_REACH_2D}",
            _RINGS_2D,
            _FEW,
            "0 <= visible_rows <= N * H * W",
            "visible_rows + R < 2**31",
        ),
        _signature(
            "means",
            "source f32[V, C]; sources i32[R, 8]; out! f32[O, C]; int begin; int end",
            "0 <= begin <= end <= R <= O",
        ),
        _signature(
            "product",
            "first f32[V, G * C] rows; second f32[F, G * C]?; table i32[M, T]?; weights f32[G, P, T, C, L]; "
            "bias f32[G * columns]?; added f32[A, G * columns]?; added_at i32[M]?; out! f32[M, G * columns]; "
            f"int columns; {_END}",
            "L == (panel or L) and P == -(-columns // L)",
            "table is not None or T == 1 and M <= V",
            "added is not None or added_at is None",
            "added is None or added_at is not None or M <= A",
        ),
        _signature(
            "depthwise",
            "first f32[V, C]; second f32[F, C]?; table i32[M, T]; weights f32[T, C]; bias f32[C]?; "
            f"out! f32[M, C]; {_END}",
        ),
        _signature("maximum", "source f32[V, C]; table i32[M, T]; out! f32[M, C]"),
        _signature(
            "layer_norm",
            "source f32[V, C]; at i32[M]?; weight f32[C]?; bias f32[C]?; out! f32[M, C]; float eps",
            "at is not None or M <= V",
        ),
        _signature(
            "affine",
            "source f32[V, C]; at i32[M]?; scale f32[C]?; scales f32[S, C]?; scale_at i32[M]?; "
            f"shift f32[C]?; out! f32[M, C] rows; {_END}",
            "at is not None or M <= V",
            "(scales is None) == (scale_at is None)",
            "scale is None or scales is None",
        ),
        _signature("image_means", "source f32[V, C]; begins i64[N + 1]; out! f32[N, C]"),
    )
}
PART = _signature("side_by_side", "source f32[V, W]; at i32[M]?; out f32[M, C]", "at is not None or M <= V")
WHOLE = _signature("side_by_side", f"scale f32[C]?; shift f32[C]?; out! f32[M, C]; {_END}")
"""`side_by_side` takes a list of tensors: what holds for each of them, and for the rest."""


def apart(x: Tensor) -> bool:
    """Whether no two entries share a place: each stride steps over all that the smaller ones reach."""
    reach = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and step < reach:
            return False
        reach += step * (size - 1)
    return True


def _lines(signature: Signature) -> Iterator[str]:
    """Python that leaves in `good` whether the arguments are right."""
    tests = []
    for array in sorted(signature.arrays, key=lambda each: each.optional):
        test, fresh, name = " and ".join(signature.tests(array)), signature.fresh(array), array.name
        tests.append(f"({name} is None or {test})" if array.optional else test)
        if fresh and array.optional:
            yield f"if {name} is None: {' = '.join(fresh)} = 0"
            yield f"else: {signature.bind(array)}"
        elif fresh:
            yield signature.bind(array)
    yield f"good = {' and '.join([*tests, *(f'({each})' for each in signature.where)])}"


def checked(signature: Signature, function: Any = None, panel: int = 0) -> Callable[..., None]:
    """A function that checks its arguments, then calls the kernel in C (without one, it only checks).

    `panel`: the width of the panels in which `product` takes weights; 0 lets any pass. The function is
    compiled from the table as straight lines, for it runs some hundred times in a forward pass.

    Raises:
        RuntimeError: an argument is wrong: its dtype, shape, layout or device, or an entry of a table.
        torch.OutOfMemoryError: the kernel found no memory.
    """
    names = [argument.name for argument in signature.arguments]
    given = [each for array in signature.arrays for each in array.passed]
    given += [*signature.sizes, *(number.name for number in signature.numbers), "threads()"]
    lines = [
        f"def {signature.name}({', '.join(names)}):",
        " try:",
        *(f"  {line}" for line in _lines(signature)),
        " except (AttributeError, TypeError, ValueError): good = False",
        f" if not good: refuse(signature, ({', '.join(names)},), panel)",
        *(
            [f" outcome = function({', '.join(given)})", " if outcome: fail(signature, outcome)"]
            if function
            else []
        ),
    ]
    scope = {**_SCOPE, "signature": signature, "function": function, "panel": panel}
    exec("\n".join(lines), scope)
    return scope[signature.name]


def refuse(signature: Signature, values: tuple, panel: int = 0) -> None:
    """Raise a RuntimeError that says which argument of a kernel is wrong; the check has failed already."""
    scope = {
        **_SCOPE,
        "panel": panel,
        **dict(zip([each.name for each in signature.arguments], values, strict=True)),
    }
    given = [array for array in signature.arrays if not (array.optional and scope[array.name] is None)]
    for array in given:
        if not _is_of_kind(array, scope):
            raise RuntimeError(_wrong(signature, array, scope))
    for array in sorted(signature.arrays, key=lambda each: each.optional):
        scope.update(dict.fromkeys(signature.fresh(array), 0))
        if array in given:
            exec(signature.bind(array), scope)
    for array in given:
        if not all(eval(test, scope) for test in signature.tests(array)):
            raise RuntimeError(_wrong(signature, array, scope))
    for each in signature.where:
        if not eval(each, scope):
            raise RuntimeError(f"the kernel {signature} needs {each}; {_sizes(signature, scope)}")
    raise RuntimeError(f"the kernel {signature} cannot take these arguments: {values}")


def _is_of_kind(array: Array, scope: dict) -> bool:
    value = scope[array.name]
    if not isinstance(value, Tensor) or value.ndim != len(array.dims):
        return False
    return all(eval(test, scope) for test in array.conditions())


def _wrong(signature: Signature, array: Array, scope: dict) -> str:
    value = scope[array.name]
    seen = f"{type(value).__name__} {value}"
    if isinstance(value, Tensor):
        seen = f"{value.dtype} of shape {tuple(value.shape)} and strides {value.stride()} on {value.device}"
    sizes = _sizes(signature, scope)
    return f"the kernel {signature} needs {array.name} as {array.words}, not {seen}" + f"; {sizes}" * bool(
        sizes
    )


def _sizes(signature: Signature, scope: dict) -> str:
    names = [*signature.sizes, *(number.name for number in signature.numbers)]
    return ", ".join(f"{name} = {scope[name]}" for name in names if name in scope)


OUTCOMES = {
    1: "no memory left: ask for fewer images at a time",
    2: "a table names a row or cell that is not there",
    3: "more cells than 32-bit numbers can name: ask for fewer images at a time",
    4: "a map of rings has a cell with nothing around it to fill it from",
}
"""What the codes in outcome.h mean."""


def fail(name: object, outcome: int) -> None:
    """Raise what a kernel's code means."""
    kind = torch.OutOfMemoryError if outcome == 1 else RuntimeError
    raise kind(f"the kernel {name} failed: {OUTCOMES[outcome]}")


_SCOPE = {
    **_DTYPES,
    "kinds": KINDS,
    "apart": apart,
    "activations": ACTIVATIONS,
    "threads": torch.get_num_threads,
    "refuse": refuse,
    "fail": fail,
}
