"""`check(model, images)`: the ops a model uses, every rule it lacks, and what the laws say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.check.laws import LAWS, WORDS, LawResult, check_laws
from layermask.check.samples import masks
from layermask.check.watch import Call, See, watched
from layermask.core.masked import Masked, masked_in, replace_masked, zero_hidden
from layermask.core.rule_table import name_of
from layermask.errors import NoMaskRule
from layermask.removal.layer_masking import taking_masked


@dataclass
class LawReport:
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


@checked(
    model=kinds.model,
    images=kinds.images,
    laws=partial(kinds.several, kind=partial(kinds.choice, known=LAWS), least=0),
    seed=kinds.seed,
    say=kinds.optional(kinds.function),
)
def check(
    model: nn.Module,
    images: Tensor,
    laws: Sequence[str] = tuple(LAWS),
    seed: int = 0,
    say: Callable[[str], object] | None = None,
) -> LawReport:
    """Run `model` on masked `images` (N, C, *S), N >= 4, noting all missing rules; judge it if none is.

    `say` hears which law is judged next: this may take minutes.
    """
    report = LawReport()
    visible = masks(images, ["patches", "all", "coarse", "block"], seed)
    with torch.no_grad(), taking_masked(model) as called, _module_names(called) as here:
        try:
            called(watched(Masked(images, visible), _noting(report, here)))
        except Exception as error:  # the model's own, perhaps of a substitute: report what was met so far
            report.error = f"{type(error).__name__}: {error} (in module {here[-1]!r})"
    if not report.missing and not report.error:
        report.laws = check_laws(model, images, laws, seed, say)
    return report


@contextmanager
def _module_names(model: nn.Module) -> Iterator[list[str]]:
    """Yield a stack with the path of the module that is running on top."""
    stack = [""]
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(lambda *_: (stack.pop(), None)[1]))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _noting(report: LawReport, here: list[str]) -> See:
    """Note every op; compute one without a rule with a rough mask, so that the run goes on."""

    def substitute(function: Callable, args: tuple, kwargs: dict) -> Any:
        modules = report.missing.setdefault(name_of(function), [])
        if here[-1] not in modules:
            modules.append(here[-1])
        shown = masked_in(args, kwargs)[0].visible.flatten(1).any(dim=1)
        return _wrapped(
            function(*replace_masked(args, zero_hidden), **replace_masked(kwargs, zero_hidden)), shown
        )

    def see(function: Callable, args: tuple, kwargs: dict, call: Call) -> Any:
        report.ops[name_of(function)] += 1
        try:
            return call()
        except NoMaskRule:  # none, or a form of the op that the rule refuses
            return substitute(function, args, kwargs)

    return see


def _wrapped(output: Any, shown: Tensor) -> Any:
    """Give each tensor of `output` a mask: visible where the image it belongs to shows anything."""
    if isinstance(output, Tensor) and output.ndim and (output.is_floating_point() or output.is_complex()):
        rows = shown if len(output) == len(shown) else shown.new_ones(1)
        rows = rows.reshape(-1, *[1] * (output.ndim - 1))
        # a map keeps its positions: without them, anything passes that follows
        return Masked(output, rows.expand(-1, *[1] * (output.ndim > 1), *output.shape[2:]).clone())
    if not isinstance(output, list | tuple):
        return output
    items = [_wrapped(item, shown) for item in output]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)  # type: ignore[call-arg]  # a named tuple


def _ops_text(report: LawReport) -> list[str]:
    lines = [f"{len(report.ops)} different ops met:"]
    width = max(map(len, report.ops), default=0)
    return lines + [f"  {name:<{width}}  {count:>5}" for name, count in report.ops.most_common()]


def _missing_text(report: LawReport) -> list[str]:
    if not report.missing:
        return ["no rule is missing"] if not report.error else []
    lines = [f"{len(report.missing)} rules missing:"]
    for name, modules in report.missing.items():
        more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
        lines.append(f"  {name}, called in {', '.join(m or 'the model itself' for m in modules[:3])}{more}")
    return [*lines, "  add one with @layermask.rule(function); until then the laws cannot be judged"]


def _laws_text(report: LawReport) -> list[str]:
    if report.error:
        return [f"the model stopped: {report.error}"]
    return [
        f"law {law.law}  {'holds' if law.passed else 'FAILS'}  {WORDS[law.law]}; error {law.error:.1e}  "
        f"{law.detail}".rstrip()
        for law in report.laws
    ]
