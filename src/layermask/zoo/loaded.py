"""`Loaded`: a model with what is needed to ask it about a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from layermask._private_torch import tree_leaves
from layermask.arguments import kinds
from layermask.arguments.declare import Checked
from layermask.arguments.kinds import Text
from layermask.errors import MissingPackage, ModelError, NoMaskRule, import_optional, out_of_memory
from layermask.io.notebook import card
from layermask.io.record import sha256
from layermask.zoo.labels import numbered, remember
from layermask.zoo.outputs import class_scores, compared_scores, scores
from layermask.zoo.preprocessing import Preprocessing

if TYPE_CHECKING:
    from jaxtyping import Float32


@dataclass(frozen=True)
class Loaded(Checked):
    """A model in eval mode, the preprocessing it was trained with, and one name per class.

    `labels`: by default the classes are numbered. `name`: what pictures and records call the model.
    """

    model: Annotated[nn.Module, kinds.model] = field(repr=False)
    preprocessing: Annotated[Preprocessing, partial(kinds.instance, kind=Preprocessing)]
    labels: Annotated[tuple[str, ...], partial(kinds.several, kind=kinds.text, least=0)] = field(
        default=(), repr=False
    )
    name: Text = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        remember(self.model, self.labels)

    def _repr_html_(self) -> str:
        """What notebooks show: the model, its classes and its preprocessing."""
        count, names = sum(p.numel() for p in self.model.parameters()), "; ".join(self.labels[:3])
        facts = {
            "model": f"{type(self.model).__name__}, {count:,} parameters",
            "classes": f"{len(self.labels)}: {names}{'; ...' * (len(self.labels) > 3)}",
            **self.preprocessing.record(),
        }
        return card(self.name, facts)

    def record(self, weights: Path | None = None) -> dict[str, Any]:
        """Return what `load` and the preprocessing need to be the same again."""
        file = {"file": weights.name, "sha256": sha256(weights)} if weights else None
        return {"name": self.name, "weights": file, "preprocessing": self.preprocessing.record()}


def parameters_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the weights: weights of a custom model have no other name."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turn what a model's own code raises, `sys.exit` too, into a `ModelError` that begins with `what`."""
    try:
        yield
    except (KeyboardInterrupt, ModelError, MissingPackage, NoMaskRule):
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        raise ModelError(f"{what} {type(error).__name__}: {_line(error)}") from error


def tried(loaded: Loaded, compared: bool = True) -> Loaded:
    """Run a model on an empty picture, so that an unusable one is refused early; return it with class names.

    Classes without names are numbered. `compared`: they are to be compared, and one alone will not do.

    Raises:
        ModelError: it or its preprocessing raises, its output is not scores of two or more classes, or it
            has names for another number of classes.
    """
    device = next((parameter.device for parameter in loaded.model.parameters()), torch.device("cpu"))
    x = _black(loaded).to(device)
    read = compared_scores if compared else class_scores
    classes = read(_asked(loaded.model, x, loaded.name, "check its preprocessing"), 1).shape[1]
    labels = loaded.labels or numbered(classes)
    if len(labels) != classes:
        raise ModelError(f"model {loaded.name!r} answers {classes} scores and has {len(labels)} class names")
    return replace(loaded, labels=tuple(labels))


def check_size(answer: Callable[..., Any], inputs: tuple[Tensor, ...], name: str) -> None:
    """Ask once about images: what a model says of a size that it does not take is clearer than later errors.

    Raises:
        ModelError: it raises, or answers without a tensor.
    """
    shape = tuple(inputs[0].shape)
    with torch.no_grad(), blamed(f"model {name!r} does not take images of shape {shape}, see --size:"):
        output = answer(*inputs)
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
        raise ModelError(f"model {name!r} answers with a {type(output).__name__}, which holds no tensor")


def count_classes(model: nn.Module, preprocessing: Preprocessing, name: str) -> int:
    """Return the number of classes of a model of which nothing is known, by running it once."""
    advice = "return layermask.zoo.Loaded instead, with the preprocessing it needs"
    found = scores(_asked(model, _empty(preprocessing, name), name, advice))
    if not found.ndim:
        raise ModelError(
            f"model {name!r} answers with one number for all pictures: return scores (N, classes)"
        )
    return found.shape[-1]


def _asked(model: nn.Module, x: Tensor, name: str, advice: str) -> Any:
    """Return the model's answer; `advice` says what to do where it has none."""
    try:
        with torch.no_grad(), blamed("it raised"):
            model.eval()
            return model(x)
    except ModelError as error:
        raise ModelError(
            f"model {name!r} does not take a {tuple(x.shape)} tensor ({error}): "
            f"{_other_precision(model, x) or advice}"
        ) from error


def _other_precision(model: nn.Module, x: Tensor) -> str:
    """Return what to do about weights of another precision than pictures have, or nothing where none are."""
    weights = (*model.parameters(), *model.buffers())
    kinds = {str(w.dtype) for w in weights if w.is_floating_point() and w.dtype != x.dtype}
    if not kinds:
        return ""
    return f"its weights are {', '.join(sorted(kinds))} and pictures {x.dtype}, return it as model.float()"


def _black(loaded: Loaded) -> Float32[Tensor, "1 C H W"]:
    """Return a black picture as the model takes it."""
    picture = import_optional("PIL.Image", "cli").new("RGB", (64, 48))
    with blamed(f"the preprocessing of model {loaded.name!r} cannot be used:"):
        x = loaded.preprocessing(picture)
    if not x.numel() or not x.isfinite().all():
        raise ModelError(
            f"the preprocessing of model {loaded.name!r} makes {tuple(x.shape)} values of a picture, not all "
            "of them finite: check its crop and std"
        )
    return x


def _empty(preprocessing: Preprocessing, name: str) -> Float32[Tensor, "1 C H W"]:
    if min(preprocessing.crop) < 1:
        raise ModelError(
            f"model {name!r} takes pictures of {preprocessing.crop} pixels: give a crop of 1 or more"
        )
    return torch.zeros(1, preprocessing.channels, *preprocessing.crop)


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
