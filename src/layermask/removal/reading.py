"""What numbers are made of a model's answers: the one table of outputs, for all that compares answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from layermask.arguments import kinds
from layermask.errors import ModelError
from layermask.zoo.labels import class_names
from layermask.zoo.outputs import class_scores, compared_scores, dense_scores

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

OutputName = Literal["probability", "sigmoid", "logit"]
Output = OutputName | Callable[[Any], Tensor]

OUTPUTS: dict[str, str] = {
    "probability": "softmax over the classes; of multi-label models of Hugging Face the sigmoid, and of "
    "models that answer probabilities already those",
    "sigmoid": "the sigmoid of each score: for models of one logit, and of labels that do not exclude "
    "each other",
    "logit": "the model's own numbers, whatever they are",
}
"""By name. A function of the model's answer that returns (N, K) will do as well."""


def output_kind(name: str, value: Any) -> Output:
    """Return what is made of a model's answers: a name in `OUTPUTS`, or a function."""
    if callable(value):
        return kinds.function(name, value, 1)
    return kinds.choice(name, value, OUTPUTS)


class Reading:
    """Makes numbers of the answers of one removal operator.

    What the model ends in is recognised once, at its first answers: by `problem_type` of a Hugging Face
    model; by a sigmoid at its end and answers between 0 and 1; and by rows that are probabilities.
    """

    def __init__(self, removal: Any, output: Output = "probability", compared: bool = False) -> None:
        self.output, self.compared = output, compared
        self.model = model_of(removal)
        self.problem = _problem(self.model)
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
        if self.compared or self.output == "probability":
            self._refuse_regression()
        if callable(self.output) or self.output == "logit":
            return found
        self._activation = self._activation or self._recognised(found)
        return self._activation(found)

    def names(self) -> Sequence[str]:
        """Return the model's class names, none if they are unknown."""
        return next((names for each in _modules(self.model) if (names := class_names(each))), ())

    def _recognised(self, found: Tensor) -> Callable[[Tensor], Tensor]:
        if self._ends_in_sigmoid() and _between(found):
            return _as_it_is
        if self.output == "sigmoid" or self.problem == "multi_label_classification":
            return Tensor.sigmoid
        if found.shape[1] < 2:
            raise ModelError(
                'the model has one class, and output="probability" compares classes: give output="sigmoid" '
                'if its number is a logit, or output="logit" for the number itself'
            )
        return _as_probabilities if _sums_to_one(found) else _softmax

    def _refuse_regression(self) -> None:
        if self.problem == "regression":
            raise ModelError(
                'the model\'s problem_type is "regression", and its numbers are no classes: explain them by '
                'output="logit"'
            )

    def _ends_in_sigmoid(self) -> bool:
        path = [] if self.model is None else _last_path(self.model)
        return any(isinstance(each, nn.Sigmoid) or "sigmoid" in _names_in_forward(each) for each in path)


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


def _modules(model: nn.Module | None) -> Iterator[nn.Module]:
    return iter(()) if model is None else model.modules()


def _last_path(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model, its last submodule, the last of that, and so on."""
    yield model
    for child in [*model.children()][-1:]:
        yield from _last_path(child)


def _names_in_forward(module: nn.Module) -> Sequence[str]:
    forward = inspect.unwrap(type(module).forward)
    return getattr(getattr(forward, "__code__", None), "co_names", ())


def _problem(model: nn.Module | None) -> str | None:
    found = (getattr(getattr(each, "config", None), "problem_type", None) for each in _modules(model))
    return next((each for each in found if isinstance(each, str)), None)


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
