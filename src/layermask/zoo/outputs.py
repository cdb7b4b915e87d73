"""What models answer: scores, plain or wrapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layermask.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Shaped


def scores(output: Any) -> Tensor:
    """Return the tensor in a model's output; Hugging Face models wrap theirs in `.logits`.

    Raises:
        ModelError: there is none.
    """
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        kind = type(output).__name__
        raise ModelError(f"the model answers with a {kind}, not with scores: wrap it to return a tensor")
    return found


def flat_scores(output: Any, count: int) -> Shaped[Tensor, "{count} D"]:
    """Return the answers (count, D) for so many pictures, scores or any features, flattened.

    Raises:
        ModelError: the output is for another number of pictures.
    """
    found = scores(output).flatten(1)
    if len(found) != count:
        raise ModelError(
            f"the model answers {tuple(found.shape)} for {count} pictures: expected one answer for each"
        )
    return found


def class_scores(output: Any, count: int) -> Shaped[Tensor, "{count} K"]:
    """Return the (count, classes) scores for so many pictures.

    Raises:
        ModelError: the output is of another shape.
    """
    found = scores(output)
    if found.ndim != 2 or len(found) != count:
        shape = tuple(found.shape)
        raise ModelError(
            f"the model answers {shape} for {count} pictures: expected scores ({count}, classes)"
            f"{_instead(found, count)}"
        )
    return found


def _instead(found: Tensor, count: int) -> str:
    """Return what to do with an answer that is no table of scores."""
    if found.ndim == 1 and len(found) == count:
        return ", let the model return them as [:, None]"
    if found.ndim > 2 and len(found) == count:
        return (
            ", of a map (N, classes, *S) give a target: lm.explain.Region(class, mask), or a function of the "
            "answer that returns (N,)"
        )
    return ""


def dense_scores(output: Any, count: int) -> Shaped[Tensor, "{count} K *S"]:
    """Return the map (count, classes, *S) of scores of a segmenter; torchvision's is the entry "out".

    Raises:
        ModelError: the output holds no such map.
    """
    found = scores(output["out"] if isinstance(output, Mapping) and "out" in output else output)
    if found.ndim < 3 or len(found) != count:
        raise ModelError(
            f"the model answers {tuple(found.shape)} for {count} pictures: a region is one of a map "
            f"({count}, classes, *S), give a class as target, or a function of the answer"
        )
    return found


def compared_scores(output: Any, count: int) -> Shaped[Tensor, "{count} K"]:
    """Return the (count, classes) scores of two classes or more: one class alone is always the likeliest.

    Raises:
        ModelError: there is one class, or the output is of another shape.
    """
    found = class_scores(output, count)
    if found.shape[1] < 2:
        raise ModelError(
            f"the model answers {tuple(found.shape)}, one score for each picture, and classes are compared: "
            "return two scores, 0 and z for a score z whose probability is sigmoid(z): "
            "torch.cat([torch.zeros_like(z), z], 1), or explain the score alone, by output sigmoid or logit"
        )
    return found
