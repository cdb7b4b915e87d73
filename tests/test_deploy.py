"""Exported, folded and written models: they answer as the model, keep laws 1 and 2, and stand alone."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import fitting
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from torch import Tensor, nn
from torch.export import ExportedProgram

from layermask import InputError, LayerMasking, deploy
from layermask.check.samples import masks, sample_images
from layermask.deploy import FORMATS
from layermask.errors import MissingPackage
from layermask.removal import REMOVALS, Calibrated, Greyout
from layermask.removal.gaps import NaNHidden
from layermask.zoo.outputs import scores
from layermask.zoo.preprocessing import Preprocessing

IGNORED = (  # torch's own; the last two of torch 2.6 alone
    *("ignore::DeprecationWarning", "ignore::FutureWarning"),
    *("ignore:Attempted to insert a get_attr", "ignore:Node lifted_tensor"),
)
pytestmark = pytest.mark.filterwarnings(*IGNORED)


class Block(nn.Module):
    """Norms behind a convolution, a grouped and a depthwise one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12)
        self.grouped, self.second = nn.Conv2d(12, 12, 3, padding="same", groups=3), nn.BatchNorm2d(12)
        self.depthwise, self.third = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.hidden, self.fourth, self.head = nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.stem(F.pad(x, (0, 1, 0, 1)))), inplace=True)
        x = x + F.relu(self.second(self.grouped(x)), inplace=True)
        x += self.third(self.depthwise(x))
        return self.head(self.fourth(self.hidden(x.mean((2, 3)))))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, 2, groups=2)
        self.norm, self.head = nn.BatchNorm2d(6, affine=False), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.up(self.stem(x))).relu().mean((2, 3)))


class Standardised(nn.Module):
    """A weight that is computed from a parameter, and a convolution that two norms read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.conv = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Conv2d(8, 8, 1)
        self.one, self.other, self.head = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        x = self.conv(F.conv2d(x, (self.weight - mean) / std, padding=1))
        return self.head((self.one(x) * self.other(x).sigmoid()).mean((2, 3)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "block": Block,
    "transposed": Transposed,
    "standardised": Standardised,
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@functools.cache
def program(name: str, fold: bool = True) -> ExportedProgram:
    return deploy.export(made(name), *example(2, 0), fold=fold)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The file of a model's program in a format, written once."""
    folder = tmp_path_factory.mktemp("written")

    @functools.cache
    def file(name: str, format: str) -> Path:
        return FORMATS[format].write(program(name), folder / f"{name}.{format}")

    return file


def example(batch: int, seed: int, side: int = 12) -> tuple[Tensor, Tensor]:
    images = sample_images(batch, (3, side, side), seed)
    return images, masks(images, ["coarse", "block", "pixel", "none"], seed)


def assert_close(ours: Tensor, theirs: Tensor, bound: float = 1e-5) -> None:
    gap = ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()
    assert gap <= bound, f"{gap:.1e}"


def operations(module: nn.Module) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fold", [False, True])
def test_exported_answers_as_the_model(name: str, fold: bool) -> None:
    removal, module = LayerMasking(made(name)), program(name, fold).module()
    with torch.no_grad():
        for batch, seed in ((1, 1), (2, 2), (5, 3)):
            assert_close(module(*example(batch, seed)), removal(*example(batch, seed)))


@pytest.mark.parametrize("number", [1, 3])
def test_exported_from_one_image(number: int) -> None:
    images, visible = example(number, 0)
    module = deploy.export(made("standardised"), images[:1], visible).module()
    with torch.no_grad():
        assert_close(module(*example(5, 1)), LayerMasking(made("standardised"))(*example(5, 1)))


def test_exported_with_a_fixed_batch() -> None:
    exported = deploy.export(made("standardised"), *example(1, 0), dynamic_batch=False)
    assert not exported.range_constraints
    with pytest.raises((AssertionError, RuntimeError), match=r"Guard failed|Expected input"):
        exported.module()(*example(2, 0))


@functools.cache
def removed(name: str) -> nn.Module:
    """A removal of the table, of a small model."""
    entry, segments = REMOVALS[name], torch.arange(144).view(12, 12) // 30
    if entry.extra == "inpaint" and importlib.util.find_spec("cv2") is None:
        pytest.skip("OpenCV is not installed")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    if entry.transformers_only:
        vit = {"img_size": 12, "patch_size": 4, "num_classes": 5, "embed_dim": 12, "depth": 1, "num_heads": 2}
        model = pytest.importorskip("timm").models.VisionTransformer(**vit)
    return fitting.made(name, model.eval(), Preprocessing(), segments, (3, 12, 12))


@pytest.mark.parametrize("name", REMOVALS)
def test_every_removal_exports_as_the_table_says(name: str, tmp_path: Path) -> None:
    """The graph, and its ONNX file, answer another batch as the operator does, and twice the same."""
    removal = removed(name)
    if not REMOVALS[name].exports:
        with pytest.raises(
            InputError, match=f"{type(removal).__name__} does not export: .*LayerMasking.* do"
        ):
            deploy.export(removal, *example(2, 0))
        return
    exported = deploy.export(removal, *example(2, 0))
    module, other = exported.module(), example(3, 1)
    with torch.no_grad():
        for _ in range(2):
            assert_close(module(*other), removal(*other))
    pytest.importorskip("onnxruntime")
    file = deploy.to_onnx(exported, tmp_path / "model.onnx")
    assert deploy.difference(deploy.load(file), removal, *other) <= 1e-5


def test_what_wraps_a_removal_exports() -> None:
    grey = Calibrated(Greyout(made("standardised")), 5)
    with torch.no_grad():
        assert_close(deploy.export(grey, *example(2, 0)).module()(*example(3, 1)), grey(*example(3, 1)))
    with pytest.raises(InputError, match="NoisyLinearFill does not export"):
        deploy.export(Calibrated(removed("road"), 5), *example(2, 0))


def test_a_graph_for_images_with_gaps() -> None:
    """NaN in the images is hidden by the graph itself, and what was there does not matter."""
    removal, (images, visible) = LayerMasking(made("standardised")), example(3, 1)
    gap = images.clone()
    gap[:, 1, 3:7, :5] = torch.nan
    module = deploy.export(NaNHidden(removal), gap[:2], visible[:2]).module()
    with torch.no_grad():
        assert_close(module(gap, visible), removal(images, visible & ~gap.isnan().any(1, keepdim=True)))


def test_an_opset_that_torch_does_not_write_is_refused(tmp_path: Path) -> None:
    """Torch logs that it could not convert the model, and writes another opset."""
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    with pytest.raises(InputError, match=r"opset 13 was asked for, and torch could write .* 18 only"):
        deploy.to_onnx(program("standardised"), file, opset=13)
    assert not file.exists()


def test_other_removals_are_exported_as_they_are() -> None:
    removal = Greyout(made("block"))
    module = deploy.export(removal, *example(2, 0)).module()
    with torch.no_grad():
        assert_close(module(*example(3, 1)), removal(*example(3, 1)))


@pytest.mark.parametrize("fold", [False, True])
def test_nothing_of_this_library_is_in_the_graph(fold: bool) -> None:
    nodes = program("block", fold).graph.nodes
    assert {node.op for node in nodes} <= {"placeholder", "call_function", "output"}
    notes = [f"{node.target} {node.meta}" for node in nodes]
    assert not [note for note in notes if "layermask" in note or os.sep + "site-packages" in note]


def test_norms_and_constants_are_folded() -> None:
    for name, norms in (("block", 0), ("transposed", 0), ("standardised", 2)):
        plain = torch.export.export(made(name), example(2, 0)[:1], strict=False)
        folded = deploy.fold(plain)
        assert sum("batch_norm" in operation for operation in operations(folded)) == norms, name
        assert not any("std" in operation or "div" in operation for operation in operations(folded))
        with torch.no_grad():
            assert_close(folded(example(2, 1)[0]), made(name)(example(2, 1)[0]))


def test_what_is_computed_twice_is_computed_once() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x, 0.0).amax((2, 3)) + torch.where(x > 0, x, 0.0).mean((2, 3))

    x = torch.randn(2, 3, 4, 4)
    folded = deploy.fold(torch.export.export(Twice().eval(), (x,), strict=False))
    counts = Counter(operations(folded))
    assert counts["aten.gt.Scalar"] == counts["aten.where.ScalarOther"] == 1
    assert torch.equal(folded(x), Twice()(x))


def test_in_place_operations_are_not_merged() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            before = y * 2
            y[:, :1].mul_(3)
            return before + y * 2

    x = torch.randn(2, 3, 4, 4)
    folded = deploy.fold(torch.export.export(InPlace().eval(), (x,), strict=False))
    assert torch.equal(folded(x), InPlace()(x))


def test_folding_leaves_the_model_as_it_was() -> None:
    model = made("block")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = deploy.fold(torch.export.export(model, example(2, 0)[:1], strict=False))
    with torch.no_grad():
        for tensor in folded.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


FOLDED = [
    "timm+/test_resnet",
    "timm+/test_efficientnet",  # norms with an activation
    "timm+/test_nfnet",  # standardised weights
    "timm+/test_vit",
]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in FOLDED], ids=lambda f: f.name)
def test_folded_models_keep_laws_1_and_2(family) -> None:
    """To 1e-5, or twice the model's own distance from float64 where that is more (many layers, random)."""
    model, images = family.build()
    visible = masks(images, ["coarse", "block", "pixel", "all"], 1)
    everything = torch.ones_like(visible)
    folded = deploy.fold(deploy.export(model, images, visible, fold=False))
    exact = deepcopy(model).double()
    plain, theirs = answer(model, images), answer(LayerMasking(model), images, visible)
    ours = answer(folded, images, visible)
    assert_as_exact(answer(folded, images, everything), plain, answer(exact, images.double()))
    assert_as_exact(ours, theirs, answer(LayerMasking(exact), images.double(), visible))
    for junk in (float("nan"), float("inf"), 1e3):
        assert torch.equal(answer(folded, images.where(visible, junk), visible), ours), junk


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in FOLDED], ids=lambda f: f.name)
def test_models_without_their_norms_keep_laws_1_and_2(family) -> None:
    model, images = family.build()
    visible = masks(images, ["coarse", "block", "pixel", "all"], 1)
    folded, exact = deploy.fold_model_norms(model, images), deepcopy(model).double()
    norms = [[type(m) for m in x.modules() if isinstance(m, NORMS)] for x in (model, folded)]
    assert len(norms[1]) < len(norms[0]) or not norms[0]
    plain = answer(model, images), answer(exact, images.double())
    assert_as_exact(answer(folded, images), *plain)
    masked, theirs = LayerMasking(folded), answer(LayerMasking(model), images, visible)
    ours = answer(masked, images, visible)
    assert_as_exact(ours, theirs, answer(LayerMasking(exact), images.double(), visible))
    assert_as_exact(answer(masked, images, torch.ones_like(visible)), *plain)
    assert torch.equal(answer(masked, images.where(visible, float("nan")), visible), ours)


@pytest.mark.parametrize("name, left", [("block", 0), ("transposed", 0), ("standardised", 2)])
def test_norms_are_folded_where_they_follow_one_layer_alone(name: str, left: int) -> None:
    model, images = made(name), example(3, 1)[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = deploy.fold_model_norms(model, images)
    assert sum(isinstance(module, NORMS) for module in folded.modules()) == left
    assert_close(answer(folded, images), answer(model, images))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


NORMS = nn.modules.batchnorm._BatchNorm


def answer(model: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return scores(model(*inputs))


def assert_as_exact(ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    own = (theirs - exact).abs().max().item()
    assert_close(ours, exact, max(1e-5, 2 * own))


def test_folding_is_exact_in_float64() -> None:
    model, (images, visible) = made("block").double(), example(3, 1)
    folded = deploy.fold(deploy.export(model, images.double(), visible, fold=False))
    with torch.no_grad():
        assert_close(folded(images.double(), visible), LayerMasking(model)(images.double(), visible), 1e-12)


# Operations of a rule that a runtime does not have.
CANNOT = {("transposed", "onnx"): "onnxruntime has no ConvTranspose of float64, by which the mask goes"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_files_answer_as_the_model(name: str, format: str, written: Callable[[str, str], Path]) -> None:
    _require(format)
    if (name, format) in CANNOT:
        pytest.skip(CANNOT[name, format])
    path = written(name, format)
    removal, run = LayerMasking(made(name)), deploy.load(path)
    assert deploy.difference(run, removal, *example(1, 1)) <= 1e-5
    images, visible = example(4, 2)
    assert deploy.difference(run, removal, images, visible) <= 1e-5
    ours = run(images, visible)[0]
    assert torch.equal(run(images.where(visible, float("nan")), visible)[0], ours)
    assert not torch.allclose(run(images, ~visible)[0], ours, atol=1e-3)
    content = path.read_bytes()
    assert b"layermask" not in content and b"site-packages" not in content


def _require(format: str) -> None:
    for package in FORMATS[format].needs:
        pytest.importorskip(package)


def test_onnx_inputs_and_batch_are_named(written: Callable[[str, str], Path]) -> None:
    _require("onnx")
    import onnx

    model = onnx.load(written("block", "onnx"))
    onnx.checker.check_model(model)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    inputs = {"images": ["batch", 3, 12, 12], "visible": ["batch", 1, 12, 12]}
    assert shapes == inputs | {"output": ["batch", 5]}
    assert not any(node.metadata_props for node in model.graph.node)
    assert [entry.version for entry in model.opset_import] == [deploy.OPSET]


def test_a_pt2_file_needs_nothing_of_this_library(written: Callable[[str, str], Path]) -> None:
    path = written("block", "pt2")
    code = f"""
import sys
sys.modules["layermask"] = None
import torch
module = torch.export.load({str(path)!r}).module()
print(tuple(module(torch.zeros(3, 3, 12, 12), torch.ones(3, 1, 12, 12, dtype=torch.bool)).shape))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(3, 5)", done.stderr


def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _require("onnx")
    images, visible = example(2, 0)
    with pytest.raises(InputError, match=r"training mode: call \.eval"):
        deploy.export(made("block").train(), images, visible)
    with pytest.raises(ValueError, match="visible must be"):
        deploy.export(made("block"), images, visible[..., :4])
    with pytest.raises(TypeError, match="give images and visible"):
        deploy.to_onnx(made("block"), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"model\.bin is in no format that is known here: onnx, pt2"):
        deploy.load(tmp_path / "model.bin")
    with pytest.raises(InputError, match=r"shapes \[\(2, 3\)\], the model with \[\(2, 5\)\]"):
        deploy.difference(lambda images, visible: [torch.zeros(2, 3)], made("block"), images, visible)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackage, match=r'pip install .*"onnx>='):
        deploy.to_onnx(made("block"), tmp_path / "model.onnx", images, visible)
