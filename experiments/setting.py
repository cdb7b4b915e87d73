"""What the experiments stand on: the real weights and images, and where results go.

Neither weights nor images are in the repository. `LAYERMASK_DATA` names their folder, by default
../shared/data beside the checkout.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from layermask.data import open_source
from layermask.data.source import ImageSource
from layermask.io.atomic import write_all
from layermask.io.progress import bar
from layermask.studies import Store, run
from layermask.zoo import Loaded, labels
from layermask.zoo.preprocessing import IMAGENET_STD, Preprocessing
from layermask.zoo.weights import load_state, read_state

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"


def data() -> Path:
    """Return the folder of weights and images."""
    folder = Path(os.environ.get("LAYERMASK_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "weights").is_dir():
        raise SystemExit(f"there are no weights and images in {folder}: set LAYERMASK_DATA to their folder")
    return folder


def images() -> ImageSource:
    """Return 1,000 labelled images of ImageNet's training set, one per class."""
    return open_source(data() / "imagenet_sample_1000")


def objects() -> ImageSource:
    """Return 150 images with human object masks, without ImageNet labels."""
    return open_source(data() / "davis16_masks")


def resnet50_v1() -> nn.Module:
    """Return the Caffe ResNet-50: the first convolution of a block strides, not the second."""
    model = timm.create_model("resnet50")
    for layer in (model.layer2, model.layer3, model.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return model


def _caffe(*mean: float) -> Preprocessing:
    return Preprocessing(mean=tuple(value / 255 for value in mean), std=IMAGENET_STD)


_LITE = Preprocessing(interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


@dataclass(frozen=True)
class Weights:
    """A weight file: the architecture it fits, its preprocessing, and a name to print."""

    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    title: str


WEIGHTS = {
    "resnet50_v1.keras_in1k": Weights(resnet50_v1, _caffe(123.68, 116.779, 103.939), "ResNet-50 (Caffe)"),
    "mobilenetv2_100.tv_in1k": Weights(
        lambda: timm.create_model("mobilenetv2_100"), Preprocessing(), "MobileNetV2"
    ),
    "squeezenet1_1.caffe_in1k": Weights(
        torchvision.models.squeezenet1_1, _caffe(123, 117, 104), "SqueezeNet 1.1"
    ),
    "tf_efficientnet_lite0.in1k": Weights(
        lambda: timm.create_model("tf_efficientnet_lite0"), _LITE, "EfficientNet-Lite0"
    ),
}


def load(name: str) -> Loaded:
    """Return the model of a weight file, with its preprocessing and class names."""
    weights, path = WEIGHTS[name], data() / "weights" / f"{name}.safetensors"
    model = weights.build()
    load_state(model, read_state(path), path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Loaded(model, weights.preprocessing, labels.imagenet(), name)


def options(doc: str, limit: int, model: str = "resnet50_v1.keras_in1k") -> ArgumentParser:
    """Return a parser of the options that all experiments have."""
    parser = ArgumentParser(description=doc)
    parser.add_argument("--model", default=model, choices=WEIGHTS, help="weight file")
    parser.add_argument("--limit", type=int, default=limit, help="number of images, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64 if torch.cuda.is_available() else 16)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "experiments", help="of all rows")
    parser.add_argument("--keep", action="store_true", help="put the rows in place of those in results/")
    return parser


def of_every_model(doc: str, limit: int) -> Iterator[Namespace]:
    """Yield the options for each weight file, or for the one that --model names."""
    parser = options(doc, limit)
    parser.set_defaults(model=None)
    given = parser.parse_args()
    for name in [given.model] if given.model else WEIGHTS:
        yield Namespace(**{**vars(given), "model": name})


def measure(experiment: Any, source: ImageSource, given: Namespace, name: str) -> None:
    """Make the experiment, or the rest of it; its rows are then in the folder NAME of `--out`."""
    loaded = load(given.model)

    def progress(store: Store, left: int) -> Any:
        return bar(name, left)

    folder = given.out / name
    weights = data() / "weights" / f"{given.model}.safetensors"
    source = source.pick(given.limit, given.seed)
    store = run(
        experiment, loaded, source, folder, weights=weights, batch_size=given.batch_size, progress=progress
    )
    if given.keep:
        write_all({RESULTS / f"{name}.parquet": store.results.read_bytes()})
