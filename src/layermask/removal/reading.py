"""What numbers are made of a model's answers: the one table of outputs, for all that compares answers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.arguments.refusal import warn
from layermask.errors import ModelError
from layermask.removal.evidence import (
    MULTI,
    PROBABILITIES,
    REGRESSION,
    SINGLE,
    ends_in_sigmoid,
    is_known_classifier,
    modules_of,
    problem_of,
)
from layermask.zoo.labels import class_names
from layermask.zoo.outputs import class_scores, compared_scores, dense_scores

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

OutputName = Literal["probability", "softmax", "sigmoid", "logit"]
Output = OutputName | Callable[[Any], Tensor]

OUTPUTS: dict[str, str] = {
    "probability": "what the model's own numbers and parts show it to be: probabilities as they are, softmax "
    "over classes, the sigmoid of labels. Where nothing shows it, softmax, with a warning",
    "softmax": "softmax over the classes, of which one is right",
    "sigmoid": "the sigmoid of each score: for models of one logit, and of labels that do not exclude "
    "each other",
    "logit": "the model's own numbers, whatever they are",
}
"""By name. A function of the model's answer that returns (N, K) will do as well."""
OF_CLASSES = ("probability", "softmax")
"""The outputs that compare classes, of which a model has two or more."""

_asked: weakref.WeakSet[Any] = weakref.WeakSet()
"""The models, and removals without one, of which a user was asked already what their numbers are."""


def output_kind(name: str, value: Any) -> Output:
    """Return what is made of a model's answers: a name in `OUTPUTS`, or a function."""
    if callable(value):
        return kinds.function(name, value, 1)
    return kinds.choice(name, value, OUTPUTS)


class Reading:
    """Makes numbers of the answers of one removal operator.

    What the model's numbers are is recognised once, at its first answers, by the numbers themselves and by
    what `evidence` finds in the model. docs/explaining.md has the table.
    """

    def __init__(self, removal: Any, output: Output = "probability", compared: bool = False) -> None:
        self.output, self.compared = output, compared
        self.removal, self.model = removal, model_of(removal)
        self.problem, self.says = problem_of(self.model)
        self._activation: Callable[[Tensor], Tensor] | None = None

    def table(self, answer: Any, count: int) -> Float32[Tensor, "{count} K"]:
        """Return the numbers for an answer to so many masked pictures.

        Raises:
            ModelError: the answer is no table of scores, or it is unknown what its scores are.
        """
        read = compared_scores if self.compared else class_scores
        if callable(self.output):
            return read(_columns(self.output(answer)), count).float()
        return self.activated(read(answer, count).float())

    def dense(self, answer: Any, count: int) -> Float32[Tensor, "{count} K *S"]:
        """Return the numbers for the dense answer to so many masked pictures."""
        if callable(self.output):
            return dense_scores(self.output(answer), count).float()
        return self.activated(dense_scores(answer, count).float())

    def activated(self, found: Float[Tensor, "N K *S"]) -> Float[Tensor, "N K *S"]:
        """Return scores as the output has them, probabilities along the second axis."""
        # who compares classes cannot mean a declared regression; a loss among the modules may be another's
        declared = "problem_type" in self.says
        if self.output == "probability" or (self.compared and declared and self.output != "softmax"):
            self._refuse_regression()
        if callable(self.output) or self.output == "logit":
            return found
        self._activation = self._activation or self._recognised(found)
        return self._activation(found)

    def names(self) -> Sequence[str]:
        """Return the model's class names, none if they are unknown."""
        return next((names for each in modules_of(self.model) if (names := class_names(each))), ())

    def _recognised(self, found: Tensor) -> Callable[[Tensor], Tensor]:
        if self.output != "softmax":
            if _between(found) and (self.problem == PROBABILITIES or ends_in_sigmoid(self.model)):
                return _as_it_is
            if self.output == "sigmoid" or self.problem == MULTI:
                return Tensor.sigmoid
        if found.shape[1] < 2:
            raise ModelError(
                f'the model has one class, and output="{self.output}" compares classes: give '
                'output="sigmoid" if its number is a logit, or output="logit" for the number itself'
            )
        if _sums_to_one(found):
            return _as_probabilities
        if self.output == "probability" and not self._is_of_classes(found):
            self._ask(found)
        return _softmax

    def _is_of_classes(self, found: Tensor) -> bool:
        """Whether something shows that one class of several is right: log-probabilities, or the model."""
        shown = self.problem == SINGLE or is_known_classifier(self.model, found.shape[1])
        return shown or _sums_to_one(found.exp())

    def _ask(self, found: Tensor) -> None:
        """Warn once of a model whose numbers may be anything."""
        one = self.removal if self.model is None else self.model
        try:
            if one in _asked:
                return
            _asked.add(one)
        except TypeError:  # of a class that cannot be remembered
            pass
        seen = ' (all are between 0 and 1: output="logit" if they are probabilities)' * _between(found)
        warn(
            f"nothing shows what the model's {found.shape[1]} numbers are, so softmax is taken: say "
            'output="softmax" if one class of them is right, output="sigmoid" if they are labels that do not '
            f'exclude each other, output="logit" if they are no classes, as those of a regression{seen}'
        )

    def _refuse_regression(self) -> None:
        if self.problem == REGRESSION:
            raise ModelError(
                f'the model\'s {self.says}, and its numbers are no classes: explain them by output="logit"'
            )


def model_of(removal: Any) -> nn.Module | None:
    """Return the model behind a removal operator of this package, or a user's operator that is a module."""
    while type(removal).__module__.startswith("layermask."):
        inner = getattr(removal, "removal", None) or getattr(removal, "model", None)
        if inner is None:
            break
        removal = inner
    return removal if isinstance(removal, nn.Module) else None


def takes(removal: Any, inputs: int) -> bool:
    """Whether so many inputs can be given to a removal operator besides images and masks."""
    model = model_of(removal)
    if model is None or model is removal:
        return kinds.binds(removal, 2 + inputs)
    return kinds.binds(model, 1 + inputs)


def _softmax(found: Tensor) -> Tensor:
    return found.softmax(1)


def _as_it_is(found: Tensor) -> Tensor:
    """The answers of a model that ends in a sigmoid."""
    if not _between(found):
        raise _changed(found)
    return found


def _as_probabilities(found: Tensor) -> Tensor:
    """Rows that sum to 1; hidden cells of a dense map are 0 throughout."""
    if not _sums_to_one(found, empty=True):
        raise _changed(found)
    return found


def _changed(found: Tensor) -> ModelError:
    return ModelError(
        f"the model's first answers are probabilities, and of shape {tuple(found.shape)} some are none: "
        'say what they are, output="logit" for the numbers themselves'
    )


def _between(found: Tensor) -> bool:
    return bool(((found >= 0) & (found <= 1)).all())


def _sums_to_one(found: Tensor, empty: bool = False) -> bool:
    """Whether numbers along the second axis are probabilities, or all 0 where that is `empty`."""
    whole = (found.sum(1) - 1).abs() <= _rounding(found)
    return _between(found) and bool((whole | (found == 0).all(1) if empty else whole).all())


def _rounding(found: Tensor) -> float:
    """Return by how much probabilities may miss 1: that follows the precision that the model has."""
    for kind in (torch.bfloat16, torch.float16):
        if found.to(kind).to(found.dtype).equal(found):
            return 2 * torch.finfo(kind).eps
    return 1e-4


def _columns(found: Any) -> Any:
    """Return (N,) as (N, 1)."""
    return found[:, None] if isinstance(found, Tensor) and found.ndim == 1 else found
