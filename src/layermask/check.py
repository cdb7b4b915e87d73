"""`check(model, images)`: the ops a model uses, every rule it lacks, and what the laws say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from layermask import masked
from layermask.laws import LawResult, check_laws, leaves
from layermask.masked import Masked
from layermask.samples import masks


@dataclass
class Report:
    """What a masked forward pass met: `ops` name -> calls, `missing` name -> modules that call it."""

    ops: Counter[str] = field(default_factory=Counter)
    missing: dict[str, list[str]] = field(default_factory=dict)
    laws: list[LawResult] = field(default_factory=list)
    error: str = ""  # what ended the pass early

    @property
    def ok(self) -> bool:
        return not self.missing and not self.error and all(law.passed for law in self.laws)

    def __str__(self) -> str:
        return "\n".join([*_ops_text(self), *_missing_text(self), *_laws_text(self)])


def check(
    model: nn.Module, images: Tensor, laws: Sequence[str] = ("1", "2", "3", "4", "5"), seed: int = 0
) -> Report:
    """Run `model` on masked `images` (N, C, *S), N >= 4, noting all missing rules; judge it if none is."""
    report = Report()
    visible = masks(images, ["patches", "all", "coarse", "block"], seed)
    with torch.no_grad(), _module_names(model) as here, _substituting(report, here), _Ops(report):
        try:
            model(Masked(images, visible))
        except Exception as error:  # the model's own, perhaps of a substitute: report what was met so far
            report.error = f"{type(error).__name__}: {error} (in module {here[-1]!r})"
    if not report.missing and not report.error:
        report.laws = check_laws(model, images, laws, seed)
    return report


def run_check(model: nn.Module, images: Tensor) -> tuple[str, bool]:
    """Return the report as text for the command line, and whether all is well."""
    report = check(model, images)
    return str(report), report.ok


class _Ops(TorchFunctionMode):
    """Count every torch function called with a masked argument, by the name its users write."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if any(isinstance(leaf, Masked) for leaf in leaves([args, kwargs or {}])):
            self.report.ops[_name(func)] += 1
        return func(*args, **(kwargs or {}))


def _name(func: Callable) -> str:
    return resolve_name(func) or f"{func.__module__}.{func.__qualname__}"


@contextmanager
def _module_names(model: nn.Module) -> Iterator[list[str]]:
    """Yield a stack with the path of the module that is running on top."""
    stack = [""]
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(lambda *_: (stack.pop(), None)[1], always_call=False))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _substituting(report: Report, here: list[str]) -> Iterator[None]:
    """While open, an op without a rule is noted and computed with a rough mask, so that the run goes on."""

    def substitute(func: Callable, args: tuple, kwargs: dict) -> object:
        modules = report.missing.setdefault(_name(func), [])
        if here[-1] not in modules:
            modules.append(here[-1])
        inputs = [leaf for leaf in leaves([args, kwargs]) if isinstance(leaf, Masked)]
        return _wrapped(func(*_values(args), **_values(kwargs)), inputs)

    before, masked.FALLBACK = masked.FALLBACK, substitute
    try:
        yield
    finally:
        masked.FALLBACK = before


def _values(item):
    """Replace every masked value in the arguments of a call by its plain tensor."""
    if isinstance(item, Masked):
        return item.value
    if isinstance(item, dict):
        return {key: _values(value) for key, value in item.items()}
    return type(item)(map(_values, item)) if type(item) in (list, tuple) else item


def _wrapped(output, inputs: list[Masked]):
    """Give each tensor of `output` a mask: visible where the image it belongs to shows anything."""
    if isinstance(output, Tensor) and output.ndim and output.is_floating_point():
        shown = inputs[0].visible.flatten(1).any(dim=1)
        same_batch = len(output) == len(shown)
        rows = shown if same_batch else shown.new_ones(1)
        return Masked(output, rows.reshape(-1, *[1] * (output.ndim - 1)))
    return type(output)(_wrapped(o, inputs) for o in output) if type(output) in (list, tuple) else output


def _ops_text(report: Report) -> list[str]:
    lines = [f"{len(report.ops)} different ops met:"]
    width = max(map(len, report.ops), default=0)
    return lines + [f"  {name:<{width}}  {count:>5}" for name, count in report.ops.most_common()]


def _missing_text(report: Report) -> list[str]:
    if not report.missing:
        return ["no rule is missing"] if not report.error else []
    lines = [f"{len(report.missing)} rules missing:"]
    for name, modules in report.missing.items():
        more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
        lines.append(f"  {name}, called in {', '.join(m or 'the model itself' for m in modules[:3])}{more}")
    return [*lines, "  add one with @layermask.rule(function); until then the laws cannot be judged"]


def _laws_text(report: Report) -> list[str]:
    if report.error:
        return [f"the model stopped: {report.error}"]
    return [
        f"law {law.law}  {'holds' if law.passed else 'FAILS'}  error {law.error:.1e}  {law.detail}".rstrip()
        for law in report.laws
    ]
