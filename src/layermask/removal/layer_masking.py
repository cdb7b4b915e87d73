"""Layer masking as a removal operator: a model and the rules, called as `removal(images, visible)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layermask import rules as _rules
from layermask.arguments import kinds
from layermask.arguments.refusal import shown
from layermask.core.forward_pass import ForwardPass, Settings
from layermask.core.inputs import answered, check_inputs
from layermask.core.mask import JOINS
from layermask.core.masked import Masked, settled
from layermask.core.outputs import masked_within, to_plain
from layermask.core.rule_table import overrides
from layermask.core.window import GROWTHS
from layermask.errors import InputError
from layermask.padding.neighbor import FILLS
from layermask.padding.rings import EPSILON
from layermask.removal.training import TrainingNotice
from layermask.rules.pool import POOLS
from layermask.rules.released_code import release_rules
from layermask.sparse import ENGINES, packing
from layermask.sparse.memory import lending

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped

UPDATE_PRESETS: dict[str, tuple[str, str | None]] = {"paper": ("any", None), "steady": ("keep", "neighbor")}
"""Growth and pool that go together. "steady" was more accurate than the default on all four models of the
search in experiments/."""


class LayerMasking(nn.Module):
    """The model, answering from only the visible part of its input.

    The model is neither copied nor changed. See `forward` for the call. `engine_used` is the engine that
    answered the last call, "dense" or "packed", and None before the first one.

    Args:
        model: any module whose first argument is the images.
        fill: what convolutions read at hidden cells: "neighbor" (the paper), "zero", or "renormalize"
            (partial convolution, Liu et al. 2018).
        growth: what makes the output of a window visible: "any" visible cell (the paper), at least "half"
            of its cells, its "center" (unchanged at stride 1), or "keep": unchanged at stride 1, any cell
            where the window strides.
        pool: what max pools read at hidden cells: "nothing", their "neighbor" mean (the paper's formula),
            or "zero" (its released code); by default as `compat` has it, else nothing.
        join: the mask where two meet: "intersection" (the paper), "majority", "union", or a function
            `join(run, *masks) -> mask`.
        compat: "paper" or "release" for the paper's formulas and its released code, where they differ from
            what we think right (docs/semantics.md lists each).
        preset: a name in `UPDATE_PRESETS`, for `growth` and `pool` where they are not given.
        engine: "dense" runs the model on whole maps, "packed" on the visible cells alone where it can, "auto"
            on whichever is faster. They agree to 1e-5.
        until: name of a submodule after whose first call nothing is masked any more (Table 3).
        rules: rules of this model alone: torch function -> rule.

    Raises:
        ValueError: an option has no such value, or the model no module of that name.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        fill: str = "neighbor",
        growth: str | None = None,
        pool: str | None = None,
        join: str | Callable = "intersection",
        compat: str | None = None,
        preset: str = "paper",
        engine: str = "auto",
        until: str | None = None,
        rules: Mapping[Callable, Callable] | None = None,
    ) -> None:
        super().__init__()
        preset = kinds.choice("preset", preset, UPDATE_PRESETS)
        updates, pools = UPDATE_PRESETS[preset]
        updates = updates if growth is None else kinds.choice("growth", growth, GROWTHS)
        pools = pools if pool is None else kinds.choice("pool", pool, POOLS)
        fill = kinds.choice("fill", fill, FILLS)
        compat = kinds.choice("compat", compat, EPSILON)
        join = kinds.function("join", join, 3) if callable(join) else kinds.choice("join", join, JOINS)
        engine = kinds.choice("engine", engine, ENGINES)
        until = kinds.optional(kinds.text)("until", until)
        rules = {} if rules is None else kinds.rules("rules", rules)
        self.model = kinds.model("model", model)
        self.training = model.training
        self.settings = Settings(fill, updates, join, compat, pools)
        self.engine, self.packing = engine, packing(engine, self.settings, model)
        self.engine_used: str | None = None
        self.until = until
        self.rules = dict(rules)
        if until is not None:
            _module(model, until)
        self.notice = TrainingNotice(model)

    def forward(
        self, images: Float[Tensor, "N C *S"], visible: Shaped[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """The model's output, as the model structures it, with plain tensors.

        The images are looked at for NaN in every call, which waits for their device once.

        Args:
            images: (N, C, *S) float. A batch of 1 is shared by all masks.
            visible: (N, 1, *S) or (1, 1, *S), True (or 1) = visible.
            args, kwargs: passed on to the model.

        Raises:
            TypeError, ValueError: shapes, values, dtypes or devices that do not fit; the message says how.
            NoMaskRule: the model calls a torch function that has no rule.
        """
        return self.answer(images, check_inputs(images, visible), *args, **kwargs)

    def answer(
        self, images: Float[Tensor, "N C *S"], visible: Bool[Tensor, "M 1 *S"], *args: Any, **kwargs: Any
    ) -> Any:
        """The same, of images and masks (N or 1, 1, *S) bool that `check_inputs` has seen."""
        self._check_model_takes(images)
        self.notice()
        run = self._run()
        x = enter(images, visible, run)
        with _ending(self.model, self.until, run), lending(run.packing):
            out = to_plain(answered(self.model, x, images, args, kwargs))
        if not torch.compiler.is_compiling():
            self.engine_used = "packed" if run.rows else "dense"
        return out

    def _run(self) -> ForwardPass:
        release = release_rules(self.model) if self.settings.compat == "release" else {}
        kept = tuple(dict(each) for each in overrides())  # a block may end before the pass is differentiated
        packing = None if torch.compiler.is_compiling() else self.packing
        begun = packing and packing.begin_pass()
        return ForwardPass(self.settings, {**release, **self.rules}, overrides=kept, packing=begun)

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

    def extra_repr(self) -> str:
        return (
            ", ".join(f"{k}={v!r}" for k, v in vars(self.settings).items())
            + f", engine={self.engine!r}, engine_used={self.engine_used!r}, until={self.until!r}"
        )


def enter(images: Tensor, visible: Tensor, run: ForwardPass) -> Masked:
    """The pair that enters a model, with hidden pixels settled once, so that what they hold is gone."""
    run.masks, batch = visible.shape[0], max(images.shape[0], visible.shape[0])
    x = Masked(images.expand(batch, *images.shape[1:]), visible)
    x = Masked(settled(x), visible.clone())  # the caller may write to his, and hooks to ours
    x.run, x.made = run, x.value
    return x


@contextlib.contextmanager
def _ending(model: nn.Module, until: str | None, run: ForwardPass | None) -> Iterator[None]:
    """Within the block, masking ends when the submodule `until` returns for the first time."""
    if until is None:
        yield
        return

    def end(module: nn.Module, args: Any, output: Any) -> Any:
        if not any(x.run is run for x in masked_within(output)):
            return output  # of another call, in another thread
        run.ended = True  # type: ignore[union-attr]  # set by the caller
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
