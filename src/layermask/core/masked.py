"""The pair (value, visible) that flows through an untouched model, and the table of rules it obeys.

`Masked` is a plain class that implements `__torch_function__`: every torch function called on it is
looked up, by function object, in `RULES`. A rule takes the torch function's own parameters, any of which
may be `Masked`, and returns `Masked` again. Rules sit above autograd, so they are differentiated as they
stand. The idea is that of JAX's batching rules and of quax; the semantics are those of layer masking
(Balasubramanian & Feizi, ICCV 2023, section 3.2).
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import resolve_name

from layermask._private_torch import identities, same_storage, writes_so_far
from layermask.arguments import kinds
from layermask.core.call_site import autograd_function, module_path, user_line
from layermask.errors import InputError

RULES: dict[Callable, Callable] = {}
"""What each torch function does to `Masked` arguments: torch function -> rule. It only grows."""

_BUILT_IN: dict[Callable, tuple[Callable, bool]] = {}
"""This package's own: torch function -> its rule, and whether that takes a Masked first and nothing else."""


class NoMaskRule(NotImplementedError):
    """A model called a torch function that has no rule for `Masked` arguments.

    `function` is its name as the user wrote it, `module` the path of the submodule that called it ("" when
    no submodule did).
    """

    def __init__(self, function: str, module: str = "", line: str = "", why: str = "") -> None:
        self.function, self.module, self.line, self.why = function, module, line, why
        super().__init__(self.message())

    def place(self) -> str:
        parts = [self.module and f"in module {self.module!r}", self.line and f"at {self.line}"]
        return "".join(f" {part}" for part in parts if part)

    def message(self) -> str:
        return (
            f"{self.function} has no rule for masked input{self.place()}. {self.why and self.why + ' '}"
            f"Add one: decorate a function that has the parameters of {self.function} and returns "
            f"Masked(value, visible) with @layermask.rule({self.function})."
        )


class LostMask(NoMaskRule):
    """A masked value was to be written into a plain tensor, in place or by `out=`, which has no mask.

    Not a TypeError: torch would take that for an operand it may try the other way round.
    """

    def message(self) -> str:
        return (
            f"{self.function}{self.place()} would write a masked value into a plain tensor, which has no "
            "mask. Write out of place, or make the target Masked first."
        )


@dataclass(frozen=True)
class Settings:
    """How the rules act where the paper, its code and others differ; see `LayerMasking`."""

    fill: str = "neighbor"
    growth: str = "any"
    join: str | Callable = "intersection"
    compat: str | None = None
    pool: str | None = None  # as `compat` has it


DEFAULTS = Settings()


@dataclass(eq=False)
class Run:
    """What one pass through a model shares: settings, its own rules, and the masks derived so far."""

    settings: Settings = field(default_factory=lambda: DEFAULTS)  # torch 2.11's compiler: not plain
    rules: Mapping[Callable, Callable] = field(default_factory=dict)
    memo: dict = field(default_factory=dict)
    grad: bool = field(default_factory=torch.is_grad_enabled)
    overrides: tuple[Mapping, ...] = ()  # where the pass began: it may go on in other threads, or later
    packing: Any = None  # the packed engine, tried first (layermask.sparse)
    function: Callable | None = None  # that the packed engine computes or puts off now
    rows: bool = False  # whether anything was computed as rows of visible cells
    watch: Callable | None = None  # `watch(function, args, kwargs, call)` answers in place of `call()`
    ended: bool = False  # True once the module named by `until` has run: from there on nothing is masked
    masks: int | None = None  # how many there are, one for all images or one for each, where it is known


class Masked:
    """A tensor of which only the entries where `visible` is True count.

    `visible` is bool and has as many dims as `value`, each of the value's size or 1 ("does not vary along
    it"). Hidden entries of `value` are unspecified: no rule lets them reach a visible entry.

    `frame` marks visible entries that explicit padding added: a window may read them, but they are no
    neighbours to fill from and make no window visible. `weights`, bool, is full size along the axis over
    which the entries are softmax weights, which already sum to one over what is visible, and 1 along others.

    Raises:
        TypeError: one is not a tensor, or one of those besides `value` is not bool.
        ValueError: the shapes do not fit, or they are on different devices.
    """

    def __init__(
        self, value: Tensor, visible: Tensor, *, frame: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        _check_pair(value, visible)
        if frame is not None or weights is not None:
            _check_extra(frame, weights, value)
        self.value, self.visible, self.frame, self.weights = value, visible, frame, weights
        self.phase = False  # one phase of a grid, as a slice with a step gives it
        self.shared = False  # something else may hold this value, or a view of it
        self.run: Run | None = None

    made: Tensor | None = None  # the value as a rule gave it: another one is somebody else's
    cut = False  # one position that was cut out of a map: where hidden, it holds anything

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    def __repr__(self) -> str:
        shape, visible = tuple(self.value.shape), tuple(self.visible.shape)
        return f"Masked(shape={shape}, visible={visible}, dtype={self.value.dtype})"

    @property
    def present_value(self) -> Tensor | None:
        """The value, or None where it is still to be computed."""
        return self.value

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        raise TypeError(
            "the truth value of a Masked is undefined, and it is no index: decide on .value or .visible."
        )

    def __iter__(self) -> Iterator:
        raise TypeError("a Masked cannot be iterated over, nor be an index; use .unbind(0).")

    def __copy__(self) -> Masked:
        """Another pair of the same memory, as torch copies a tensor."""
        self.shared = True
        return self._like(self.value, self.visible, self.frame, self.weights)

    def __deepcopy__(self, memo: dict) -> Masked:
        return self._like(*copy.deepcopy((self.value, self.visible, self.frame, self.weights), memo))

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Pickled without the pass it belongs to."""
        return _paired, (self.value, self.visible, self.frame, self.weights)

    def _like(self, *parts: Any) -> Masked:
        out = _paired(*parts)
        out.phase, out.cut, out.run, out.shared = self.phase, self.cut, self.run, self.shared
        out.made = out.value
        return out

    __array_ufunc__ = None  # numpy scalars leave the operation to us

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "a Masked cannot become a numpy array, which has no hidden entries; take .value and .visible."
        )

    if TYPE_CHECKING:  # the rest of torch.Tensor's interface, given by `_give_tensor_interface`

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Masked: ...
        def __neg__(self) -> Masked: ...
        def __add__(self, other: Any) -> Masked: ...
        def __sub__(self, other: Any) -> Masked: ...
        def __mul__(self, other: Any) -> Masked: ...
        def __truediv__(self, other: Any) -> Masked: ...

    __hash__ = object.__hash__  # type: ignore[assignment]  # __eq__ below is elementwise, as in torch.Tensor


def _paired(value: Tensor, visible: Tensor, frame: Tensor | None, weights: Tensor | None) -> Masked:
    return Masked(value, visible, frame=frame, weights=weights)


def _check_pair(value: Tensor, visible: Tensor) -> None:
    if torch.compiler.is_compiling():  # shapes may be symbolic there; eager runs have checked them
        return
    if not isinstance(value, Tensor) or not isinstance(visible, Tensor):
        raise TypeError(
            f"Masked takes two tensors, value and visible, not {type(value).__name__} and "
            f"{type(visible).__name__}."
        )
    if visible.dtype is not torch.bool:
        raise TypeError(f"visible must be bool (True = visible), not {visible.dtype}.")
    _check_fits("visible", visible, value)


def _check_extra(frame: Any, weights: Any, value: Tensor) -> None:
    """Check what most pairs have not."""
    if torch.compiler.is_compiling():
        return
    for name, mark in (("frame", frame), ("weights", weights)):
        if mark is None:
            continue
        if not isinstance(mark, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(mark).__name__}.")
        if mark.dtype is not torch.bool:
            raise TypeError(f"{name} must be bool, not {mark.dtype}.")
        _check_fits(name, mark, value)


def _check_fits(name: str, mark: Tensor, value: Tensor) -> None:
    if mark.device != value.device:
        raise ValueError(
            f"{name} is on {mark.device} and the value on {value.device}: move one to the other."
        )
    if mark.ndim != value.ndim or any(m not in (1, n) for m, n in zip(mark.shape, value.shape, strict=True)):
        raise ValueError(
            f"{name} of shape {tuple(mark.shape)} does not fit a value of shape {tuple(value.shape)}: "
            "it needs as many dims, each of the same size or 1."
        )


def rule(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as the rule of `functions`, whose parameters it takes.

    It is called with the arguments that the model wrote.

    Raises:
        ValueError: one of them has a rule already (use `overriding` to replace it for a while).
    """
    _load_rules()

    def register(body: Callable) -> Callable:
        for function in functions:
            _add(function, body)
        return body

    return register


def built_in(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register a rule of this package. It is called with torch's own parameter names, also for numpy's.

    If its first parameter is a `Masked`, it is not called with a plain tensor there.
    """

    def register(body: Callable) -> Callable:
        first = _takes_masked_first(body)
        for function in functions:
            _add(function, body)
            _BUILT_IN[function] = body, first
        return body

    return register


def _add(function: Callable, body: Callable) -> None:
    if function in RULES:
        raise ValueError(f"{name_of(function)} has a rule already; replace it within `overriding`.")
    RULES[function] = body


def _takes_masked_first(body: Callable) -> bool:
    """Whether the type of the first parameter is Masked and nothing else."""
    hints = get_type_hints(getattr(body, "func", body))  # of a functools.partial
    return next(iter(hints.values()), None) is Masked


def _load_rules() -> None:
    """Import the rules of this package, if only this module was imported so far."""
    if "layermask.rules" not in sys.modules:
        importlib.import_module("layermask.rules")


_OVERRIDES: ContextVar[tuple[Mapping, ...]] = ContextVar("layermask overrides", default=())
_OPEN_BLOCKS: list[None] = []  # as long as blocks are open, in whatever context


@contextlib.contextmanager
def overriding(rules: Mapping[Callable, Callable]) -> Iterator[None]:
    """Replace or add rules within a `with` block. Per model: `LayerMasking(rules=...)`.

    Other threads and asyncio tasks do not see it, but for what they do within a pass that began in the block.
    Blocks may be nested and interleaved: of two that replace the same rule, the one opened last holds.
    A compiled model follows: it is compiled anew.
    """
    mine = dict(kinds.rules("rules", rules))
    _OVERRIDES.set((mine, *_OVERRIDES.get()))
    _OPEN_BLOCKS.append(None)
    try:
        yield
    finally:
        _OPEN_BLOCKS.pop()
        mine.clear()  # for contexts that were copied from this one meanwhile
        _OVERRIDES.set(tuple(each for each in _OVERRIDES.get() if each is not mine))


def overrides() -> tuple[Mapping, ...]:
    """What the open blocks of `overriding` replace in this context, the innermost first."""
    # compilers before torch 2.14 cannot read a context variable: they need not where no block is open
    return _OVERRIDES.get() if _OPEN_BLOCKS else ()


def rule_for(run: Run, function: Callable) -> Callable | None:
    """The rule in force: of the model, of a block of `overriding`, or of the table; None if there is none."""
    for rules in (run.rules, *overrides(), *run.overrides):
        if function in rules:
            return rules[function]
    return RULES.get(function)


def name_of(function: Callable) -> str:
    """The name of a torch function as users write it."""
    return resolve_name(function) or getattr(function, "__name__", repr(function))


def masked_in(*trees: Any) -> list[Masked]:
    """Every `Masked` in nested tuples, lists and dicts."""
    found: list[Masked] = []
    for tree in trees:
        if isinstance(tree, Masked):
            found.append(tree)
        elif isinstance(tree, (tuple, list)):
            found += masked_in(*tree)
        elif isinstance(tree, dict):
            found += masked_in(*tree.values())
    return found


def replace_masked(tree: Any, change: Callable[[Masked], Any]) -> Any:
    """The same nest of tuples, lists and dicts, with `change` applied to every `Masked`."""
    if isinstance(tree, Masked):
        return change(tree)
    if isinstance(tree, (tuple, list)) and type(tree) in (tuple, list):
        return type(tree)(replace_masked(branch, change) for branch in tree)
    if type(tree) is dict:
        return {key: replace_masked(branch, change) for key, branch in tree.items()}
    return tree


def settled(x: Masked) -> Tensor:
    """The value with zero at every hidden entry, chosen and not multiplied: hidden NaN must not leak."""
    zero = 0.0 if x.value.is_floating_point() or x.value.is_complex() else 0
    return torch.where(x.visible, x.value, zero) if x.value.dtype is not torch.bool else x.value & x.visible


def dispatch(function: Callable, args: tuple, kwargs: dict) -> Any:
    """Apply the rule of `function` to arguments of which at least one is `Masked`."""
    inputs = masked_in(args, kwargs)
    run = _enter(inputs)
    if run.ended:
        return function(*replace_masked(args, settled), **replace_masked(kwargs, settled))
    _refuse_lost_writes(function, args, kwargs)
    _refuse_lost_gradient(function, run, inputs)
    if run.watch is not None:
        return _watched(run, function, args, kwargs)
    options = {str(NUMPY_NAMES.get(name, name)): option for name, option in kwargs.items()}
    if run.packing is not None and (out := run.packing(run, function, args, options)) is not NotImplemented:
        return replace_masked(out, lambda x: _in_run(x, run))
    body = rule_for(run, function)
    if body is None:
        return _no_rule(function, args, kwargs)
    ours, masked_first = _BUILT_IN.get(function, (None, False))
    if body is ours and masked_first:
        _refuse_other_argument(function, args, options)
    out = body(*args, **(options if body is ours else kwargs))
    cut = any(x.cut for x in inputs)
    for x in masked_in(out):
        x = _in_run(x, run)
        x.cut |= cut and not has_positions(x)
        x.shared |= body is not ours  # a rule of the user may keep what it gives
        _note_sharing(x, inputs)
    return out


def _watched(run: Run, function: Callable, args: tuple, kwargs: dict) -> Any:
    """What the watcher of the pass answers; it does not see what rules call of one another."""
    watch, run.watch = run.watch, None
    try:
        out = watch(function, args, kwargs, lambda: dispatch(function, args, kwargs))  # type: ignore[misc]  # not None
    finally:
        run.watch = watch
    for x in masked_in(out):
        x.run = run
    return out


def _in_run(x: Masked, run: Run) -> Masked:
    x.run, x.made = run, x.present_value
    return x


NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # which torch takes as well


def _enter(inputs: list[Masked]) -> Run:
    """The run of the inputs. One that has none comes from outside, where its value is held too."""
    run = next((x.run for x in inputs if x.run is not None), None) or Run(DEFAULTS, masks=_masks(inputs))
    compiling = torch.compiler.is_compiling()  # in-place rules assume sharing there
    for x in inputs:
        if not compiling:
            x.shared |= x.run is None or x.made is not x.present_value
            _refuse_changed_mask(run, x.visible)
        x.run = run
    return run


def _refuse_changed_mask(run: Run, visible: Tensor) -> None:
    """Masks are shared by values, and what was derived of them is kept, so nobody may write to one."""
    written = writes_so_far(visible)
    before, _ = run.memo.setdefault(("written", *identities(visible)), (written, visible))
    if before != written:
        raise InputError(
            f"a mask of shape {tuple(visible.shape)} was changed in place, and other values share it: give "
            "the value another mask, as x.visible = x.visible & shown."
        )


def _masks(inputs: list[Masked]) -> int | None:
    return next((x.visible.shape[0] for x in inputs if x.visible.ndim), None)


def has_positions(x: Masked) -> bool:
    """Whether the mask varies along more than the batch; without positions it has one entry per image."""
    shape, count = x.visible.shape, x.visible.numel()
    if x.run is None or x.run.masks is None:
        return any(n != 1 for n in shape[1:])
    return count != 1 and (count != x.run.masks or max(shape) != count)


def _note_sharing(out: Masked, inputs: list[Masked]) -> None:
    if torch.compiler.is_compiling():  # in-place rules assume sharing there
        return
    for x in inputs:
        if x is not out and same_storage(x.value, out.value):
            x.shared = out.shared = True


def _refuse_other_argument(function: Callable, args: tuple, kwargs: dict) -> None:
    """A rule whose first parameter is `Masked` has none for a plain tensor there and a mask elsewhere."""
    if isinstance(args[0] if args else kwargs.get("input"), Tensor):
        why = "Its first argument is plain, and only that one may be masked."
        raise NoMaskRule(name_of(function), module_path(), user_line(), why)


def _no_rule(function: Callable, args: tuple, kwargs: dict) -> Any:
    if "layermask.rules" not in sys.modules:
        _load_rules()
        return dispatch(function, args, kwargs)
    if torch.compiler.is_compiling():  # the stack cannot be read while it is traced
        raise NoMaskRule(getattr(function, "__name__", "a function"))
    raise NoMaskRule(name_of(function), module_path(), user_line())


def _refuse_lost_writes(function: Callable, args: tuple, kwargs: dict) -> None:
    """In-place and `out=` writes of a masked value into a plain tensor would lose the mask."""
    plain_target = len(args) > 0 and isinstance(args[0], Tensor)
    if kwargs.get("out") is not None or (plain_target and writes(function)):
        raise LostMask(name_of(function), module_path(), user_line())


def writes(function: Callable) -> bool:
    """Whether a torch function works in place."""
    return function in _WRITING


INPLACE = frozenset(
    f"__{op}__" for op in "iadd isub imul idiv itruediv ifloordiv imod ipow iand ior ixor setitem".split()
)
_WRITING = {  # found once by name: some compilers cannot follow what is done with names
    getattr(space, name): True
    for space in (Tensor, torch, F)
    for name in dir(space)
    if name in INPLACE or (name.endswith("_") and not name.startswith("_"))
}


def _refuse_lost_gradient(function: Callable, run: Run, inputs: list[Masked]) -> None:
    """`autograd.Function.apply` hands a Masked over without a gradient, and no torch hook sees it happen."""
    if torch.compiler.is_compiling() or not run.grad or torch.is_grad_enabled():
        return
    if any(x.value.requires_grad for x in inputs) and (name := autograd_function()):
        why = "torch.autograd.Function takes plain tensors only: the gradient would be lost silently."
        raise NoMaskRule(f"{name}.apply", module_path(), user_line(), why)


def _give_tensor_interface() -> None:
    """Give Masked every method and operator of torch.Tensor, each dispatched, and its plain properties."""
    for name in dir(Tensor):
        if name in _OWN or (hasattr(Masked, name) and name not in _OPERATORS):
            continue
        attribute = getattr(Tensor, name)
        if name in _METADATA:
            setattr(Masked, name, property(lambda self, name=name: getattr(self.value, name)))
        elif name in _OPERATORS or (callable(attribute) and not name.startswith("__")):
            setattr(Masked, name, _method(attribute))
    for name, body in _PROPERTIES.items():
        setattr(Masked, name, property(body))


def _method(function: Callable) -> Callable:
    def method(self: Masked, *args: Any, **kwargs: Any) -> Any:
        return dispatch(function, (self, *args), kwargs)

    return method


_OWN = {"__bool__", "__iter__", "__array__", "__len__", "__repr__", "__hash__"}
_METADATA = frozenset(
    """
    shape dtype device ndim layout is_cuda is_cpu is_meta is_mps is_xpu is_nested is_sparse is_quantized
    requires_grad is_leaf grad_fn itemsize nbytes
    """.split()
)
_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
_OPERATORS = frozenset(
    [f"__{op}__" for op in "eq ne lt le gt ge neg pos abs invert getitem setitem".split()]
    + [f"__{side}{op}__" for op in _BINARY for side in ("", "r", "i")]
)
_PROPERTIES = {
    "T": lambda x: x.permute(*range(x.ndim - 1, -1, -1)),
    "mT": lambda x: x.transpose(-2, -1),
    "H": lambda x: x.transpose(-2, -1).conj(),
    "mH": lambda x: x.transpose(-2, -1).conj(),
    "data": lambda x: x.detach(),
    "real": torch.real,
    "imag": torch.imag,
}
_give_tensor_interface()
