"""Layer masking as a removal operator: a model and the rules, called as `removal(images, visible)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch
from torch import Tensor, nn

from layermask import rules as _rules
from layermask._private_torch import buffers_of, has_backward_hooks
from layermask.arguments import kinds
from layermask.arguments.refusal import shown
from layermask.core.dispatch import refuse_changed_masks
from layermask.core.forward_pass import ForwardPass
from layermask.core.inputs import answered, channel_axis_of, check_each, check_inputs
from layermask.core.masked import Masked, zero_hidden
from layermask.core.outputs import masked_within, to_plain
from layermask.core.rule_table import overrides, overriding
from layermask.core.settings import Settings
from layermask.errors import InputError, NoMaskRule, nearest
from layermask.removal.detection import RULES_OF_DETECTORS, is_detector, passable
from layermask.removal.new_tensors import NotingNew, makes_targets
from layermask.removal.training import TrainingNotice
from layermask.rules.released_code import release_rules
from layermask.sparse import ENGINES, sparse_engine_for
from layermask.sparse.memory import lending

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped


class LayerMasking(nn.Module):
    """The model, answering from only the visible part of its input.

    The model is neither copied nor changed. See `forward` for the call. `engine_used` is the engine that
    answered the last call, "dense" or "sparse", and None before the first one.

    Args:
        model: any module whose first argument is the images.
        engine: "dense" runs the model on whole maps, "sparse" on the visible cells alone where it can, "auto"
            on whichever is faster. They agree to 1e-5.
        settings: how the model is masked, as `Settings.steady()`; by default the paper's method.
        rules: rules of this model alone: torch function -> rule.
        changes: fields of `Settings` in place of those of `settings`: `growth="keep"` is short for
            `settings=Settings(growth="keep")`.

    Raises:
        ValueError, TypeError: an argument has no such value, or the model no module of the name `until`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        engine: str = "auto",
        settings: Settings | None = None,
        rules: Mapping[Callable, Callable] | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        self.settings = _changed(kinds.optional(_settings)("settings", settings) or Settings(), changes)
        rules = {} if rules is None else kinds.rules("rules", rules)
        self.model = kinds.model("model", model)
        self.training = model.training
        self.engine = kinds.choice("engine", _renamed(engine), ENGINES)
        self.sparse_engine = sparse_engine_for(self.engine, self.settings, model)
        self.engine_used: str | None = None
        self.rules = dict(rules)
        if self.settings.until is not None:
            _module(model, self.settings.until)
        self.detects = is_detector(model)
        self.makes_targets = makes_targets(model)
        self.notice = TrainingNotice(model)

    def forward(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """The model's output, as the model structures it, with plain tensors.

        The images are looked at for NaN in every call, which waits for their device once.

        Args:
            images: (N, C, *S) float. A batch of 1 is shared by all masks. Videos may be (N, T, C, H, W).
                Detectors take a list of images (C, H, W) as well, as torchvision's do.
            visible: (N, 1, *S) or (1, 1, *S), True (or 1) = visible; (N or 1, T, 1, H, W) for such videos.
                With a list, a list of (1, H, W).
            args, kwargs: passed on to the model.

        Raises:
            TypeError, ValueError: shapes, values, dtypes or devices that do not fit; the message says how.
            NoMaskRule: the model calls a torch function that has no rule.
        """
        if isinstance(images, (list, tuple)):
            return self._answer_each(images, visible, *args, **kwargs)
        visible = check_inputs(images, visible, channel_axis_of(images, visible))
        return self.answer(images, visible, *args, **kwargs)

    def _answer_each(self, images: Sequence[Tensor], visible: Any, *args: Any, **kwargs: Any) -> Any:
        """The answer of a detector to images of several sizes."""
        pairs = check_each(images, visible)
        forward_pass = self._forward_pass()
        each = [enter(image, mask, forward_pass)[0] for image, mask in pairs]
        forward_pass.masks = len(each)
        return self._run_on(each, pairs[0][0], forward_pass, args, kwargs)

    def answer(
        self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """The same, of images and masks (N or 1, 1, *S) bool that `check_inputs` has seen."""
        forward_pass = self._forward_pass()
        return self._run_on(enter(images, visible, forward_pass), images, forward_pass, args, kwargs)

    def _run_on(self, x: Any, images: Tensor, forward_pass: ForwardPass, args: tuple, kwargs: dict) -> Any:
        self._check_model_takes(images)
        self._refuse_backward_hooks()
        self.notice()
        model = passable(self.model) if self.detects else self.model
        with (
            _ending(self.model, forward_pass),
            _plain_buffers(self.model),
            _unchanged_masks(forward_pass),
            lending(forward_pass.sparse_engine),
            self._noting_new(forward_pass),
        ):
            out = to_plain(answered(model, x, images, args, kwargs))
        if not torch.compiler.is_compiling():
            self.engine_used = "sparse" if forward_pass.rows else "dense"
        return out

    def _noting_new(self, forward_pass: ForwardPass) -> contextlib.AbstractContextManager:
        notes = self.makes_targets and not torch.compiler.is_compiling()
        return NotingNew(forward_pass) if notes else contextlib.nullcontext()

    def _forward_pass(self) -> ForwardPass:
        release = release_rules(self.model) if self.settings.compat == "release" else {}
        kept = tuple(dict(each) for each in overrides())  # a block may end before the pass is differentiated
        sparse_engine = None if torch.compiler.is_compiling() else self.sparse_engine
        begun = sparse_engine and sparse_engine.begin_pass()
        detects = RULES_OF_DETECTORS if self.detects else {}
        return ForwardPass(
            self.settings, {**release, **detects, **self.rules}, overrides=kept, sparse_engine=begun
        )

    def _check_model_takes(self, images: Tensor) -> None:
        """Some parameter shares the images' dtype and device (autocast changes dtypes by itself)."""
        if torch.compiler.is_compiling():
            return
        casts = torch.is_autocast_enabled(images.device.type)
        kind = None
        for p in self.model.parameters():  # the first one mostly fits
            if p.is_floating_point() and images.device == p.device and (casts or images.dtype == p.dtype):
                return
            kind = kind or ((p.dtype, p.device) if p.is_floating_point() else None)
        if kind is not None:
            raise ValueError(
                f"images are {images.dtype} on {images.device}, the model's parameters {kind[0]} on "
                f"{kind[1]}: convert one of them."
            )

    def _refuse_backward_hooks(self) -> None:
        """Torch calls them through an `autograd.Function`, which sees no gradient of a masked value."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if name := next((n for n, m in self.model.named_modules() if has_backward_hooks(m)), None):
            advice = "Remove the hooks, or call it under torch.no_grad(); gradients of images need no hooks."
            raise NoMaskRule("torch.nn.Module.register_full_backward_hook", name, advice=advice)

    def extra_repr(self) -> str:
        shown = {"engine": self.engine, "engine_used": self.engine_used, **vars(self.settings)}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _renamed(engine: Any) -> Any:
    """Take "packed" for "sparse", as long as `layermask._moved` points at names that moved."""
    if type(engine) is str and engine == "packed":
        warn('engine="packed" is engine="sparse" now', FutureWarning, stacklevel=3)
        return "sparse"
    return engine


_settings = partial(kinds.instance, kind=Settings)


def _changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    known = [field.name for field in fields(Settings)]
    for name in changes:
        if name not in known:
            raise TypeError(
                f"LayerMasking has no parameter {name!r}{nearest(name, known)}: it takes engine, settings, "
                f"rules, and the fields of Settings: {', '.join(known)}."
            )
    return replace(settings, **changes)


@contextlib.contextmanager
def taking_masked(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a module that takes masked values as the model does under `LayerMasking`, within the block."""
    with contextlib.ExitStack() as stack:
        if is_detector(model):
            stack.enter_context(overriding(RULES_OF_DETECTORS))
            model = passable(model)
        if makes_targets(model):
            stack.enter_context(NotingNew())
        yield model


def enter(images: Tensor, visible: Tensor, forward_pass: ForwardPass) -> Masked:
    """The pair that enters a model, with zero at hidden pixels, so that what they hold is gone."""
    forward_pass.masks, batch = visible.shape[0], max(images.shape[0], visible.shape[0])
    x = Masked(images.expand(batch, *images.shape[1:]), visible)
    x = Masked(zero_hidden(x), visible.clone())  # the caller may write to his, and hooks to ours
    x.forward_pass, x.made = forward_pass, x.value
    return x


@contextlib.contextmanager
def _plain_buffers(model: nn.Module) -> Iterator[None]:
    """A model that keeps a running value of its own in a buffer is left with a plain tensor there."""
    try:
        yield
    finally:
        for buffers in () if torch.compiler.is_compiling() else map(buffers_of, model.modules()):
            for name, value in buffers.items():
                if isinstance(value, Masked):
                    buffers[name] = zero_hidden(value)


@contextlib.contextmanager
def _unchanged_masks(forward_pass: ForwardPass) -> Iterator[None]:
    """What a mask that was changed leads to may be another error before the end."""
    try:
        yield
    finally:
        if not torch.compiler.is_compiling():
            refuse_changed_masks(forward_pass)


@contextlib.contextmanager
def _ending(model: nn.Module, forward_pass: ForwardPass) -> Iterator[None]:
    """Within the block, masking ends when the submodule `until` returns for the first time."""
    until = forward_pass.settings.until
    if until is None:
        yield
        return

    def end(module: nn.Module, args: Any, output: Any) -> Any:
        if not any(x.forward_pass is forward_pass for x in masked_within(output)):
            return output  # of another call, in another thread
        forward_pass.ended = True
        return to_plain(output)

    handle = _module(model, until).register_forward_hook(end)
    try:
        yield
    finally:
        handle.remove()


def _module(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if not name or name not in modules:
        raise InputError(
            f"until={shown(name)} names no submodule of the {type(model).__name__}; "
            f"it has {', '.join(list(modules)[1:8])}, ..."
        )
    return modules[name]


__all__ = ["LayerMasking", "enter", "to_plain"]
_ = _rules  # imported for its effect: it fills the table
