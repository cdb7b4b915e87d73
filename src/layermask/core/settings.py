"""How the rules act where the paper, its released code and other work differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from layermask.arguments import kinds
from layermask.arguments.declare import check_fields

FILLS = ("neighbor", "zero", "renormalize")
GROWTHS = ("any", "half", "center", "keep", "all")
POOLS = ("nothing", "neighbor", "zero")
JOINS = ("intersection", "majority", "union")
COMPATS = ("paper", "release", None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is masked. The defaults are the paper's method.

    Args:
        fill: what convolutions read at hidden cells: their "neighbor" mean (the paper), "zero", or
            "renormalize": zero, with the sum rescaled by the visible share of the window (partial
            convolution, Liu et al. 2018).
        growth: what makes the output of a window visible: "any" visible cell (the paper's max pool), at least
            "half" of its cells in the image, a visible cell at its "center" (unchanged at stride 1), "keep"
            (unchanged at stride 1, any cell where the window strides), or "all" cells (the released ViT).
        pool: what max pools read at hidden cells: "nothing" (-inf), their "neighbor" mean (the paper's
            formula), or "zero" (its released code: the same as nothing behind a ReLU); None as `compat` has
            it, else nothing.
        join: the mask where two meet: "intersection" (the paper), "majority", "union", or a function
            `join(run, *masks) -> mask`.
        compat: "paper" or "release" for the paper's formulas and its released code, where they differ from
            what we think right (docs/semantics.md lists each).
        until: name of a submodule after whose first call nothing is masked any more (Table 3).

    Raises:
        ValueError, TypeError: a field has no such value.
    """

    fill: str = "neighbor"
    growth: str = "any"
    pool: str | None = None
    join: str | Callable = "intersection"
    compat: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            fill=partial(kinds.choice, known=FILLS),
            growth=partial(kinds.choice, known=GROWTHS),
            pool=kinds.optional(partial(kinds.choice, known=POOLS)),
            join=_join,
            compat=partial(kinds.choice, known=COMPATS),
            until=kinds.optional(kinds.text),
        )

    @classmethod
    def steady(cls) -> Settings:
        """Masks stay as they are at stride 1, and max pools read filled cells.

        This was more accurate than the defaults on all four models of the search in experiments/.
        """
        return cls(growth="keep", pool="neighbor")

    @classmethod
    def paper(cls) -> Settings:
        """The paper's formulas to the letter (Balasubramanian and Feizi 2023)."""
        return cls(compat="paper")

    @classmethod
    def released(cls) -> Settings:
        """What the paper's released code computes."""
        return cls(compat="release")


def _join(name: str, join: Any) -> Any:
    return kinds.function(name, join, 3) if callable(join) else kinds.choice(name, join, JOINS)


DEFAULTS = Settings()
