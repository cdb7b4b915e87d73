"""`layermask check`: ops met, all missing rules at once, law results, exit status."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from layermask.check import LAWS, check, laws
from layermask.check.samples import sample_images
from layermask.cli.app import app
from layermask.core.masked import Masked
from layermask.core.rule_table import RULES, overriding
from layermask.errors import ModelError
from layermask.sparse import ops as kernels
from layermask.sparse.rules.table import SPARSE_FORMS
from layermask.zoo.architectures import build, smallest_size
from layermask.zoo.sources import library_names


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values, _ = torch.mode(x, dim=-1, keepdim=True)
        return torch.renorm(x, 2, 0, 1e9) + values


class Odd(nn.Module):
    """Uses three ops that have no rule, in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner, self.head = nn.Conv2d(3, 4, 3), Inner(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(torch.relu(self.conv(x)))
        return self.head(x.mean((-2, -1))) + torch.linalg.svdvals(x).mean()


class Fine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((-2, -1)))


class Leaking(Fine):
    """Reads hidden pixels behind the back of the rules."""

    def forward(self, x: Tensor) -> Tensor:
        value = x.value if isinstance(x, Masked) else x
        return super().forward(x) + value.mean()


IMAGES = sample_images(4, (3, 16, 16))


def test_all_missing_rules_are_found_in_one_pass() -> None:
    report = check(Odd().eval(), IMAGES)
    assert set(report.missing) == {"torch.mode", "torch.renorm", "torch.linalg.svdvals"}
    assert report.missing["torch.mode"] == ["inner"]
    assert report.missing["torch.linalg.svdvals"] == [""]
    assert not report.ok and not report.laws and not report.error


def test_ops_are_counted_by_the_name_users_write() -> None:
    ops = check(Fine().eval(), IMAGES, laws=()).ops
    assert ops == {
        "torch.nn.functional.conv2d": 1,
        "torch.relu": 1,
        "torch.Tensor.mean": 1,
        "torch.nn.functional.linear": 1,
    }


def test_text_names_rules_and_laws() -> None:
    report = check(Odd().eval(), IMAGES)
    text = str(report)
    assert not report.ok
    assert "3 rules missing" in text and "torch.renorm, called in inner" in text
    assert "torch.linalg.svdvals, called in the model itself" in text
    report = check(Fine().eval(), IMAGES)
    text = str(report)
    assert report.ok and "no rule is missing" in text
    for law in LAWS:
        assert f"law {law}  holds" in text


def test_a_leak_fails_the_laws() -> None:
    report = check(Leaking().eval(), IMAGES, laws=("2",))
    assert not report.ok and "noise in every layer" in report.laws[0].detail


def test_a_rule_that_reads_hidden_entries_fails_law_2() -> None:
    """Deep in the model, where no pixel's noise arrives any more: the first layer has set it to zero."""

    def careless(input: Masked, dim: tuple) -> Masked:
        return Masked(input.value.mean(dim), input.visible[..., 0, 0])

    with overriding({torch.Tensor.mean: careless}):
        report = check(Fine().eval(), IMAGES, laws=("1", "2"))
    assert [law.passed for law in report.laws] == [True, False]
    assert "noise in every layer" in report.laws[1].detail


def test_a_rule_that_hides_what_more_pixels_show_fails_law_4() -> None:
    def flipped(input: Masked) -> Masked:
        return Masked(input.value.relu(), ~input.visible)

    with overriding({torch.relu: flipped}):
        assert not check(Fine().eval(), IMAGES, laws=("4",)).ok


def test_a_rule_that_mixes_the_batch_fails_law_5() -> None:
    def mixed(input: Masked) -> Masked:
        value = torch.where(input.visible, input.value.relu(), 0)
        return Masked(value + value.mean(), input.visible)

    with overriding({torch.relu: mixed}):
        results = check(Fine().eval(), IMAGES, laws=("1", "2", "5")).laws
    assert [result.passed for result in results] == [False, True, False]


def test_a_rule_that_leaves_infinity_in_hidden_entries_fails_law_3() -> None:
    """Weight gradients sum over them, and 0 times inf is NaN."""

    def infinite(input: Masked, dim: tuple) -> Masked:
        visible = input.visible.flatten(1).any(dim=1, keepdim=True)
        value = torch.where(input.visible, input.value, 0).mean(dim)
        return Masked(torch.where(visible, value, torch.inf), visible)

    with overriding({torch.Tensor.mean: infinite}):
        result = check(Fine().eval(), IMAGES, laws=("3",)).laws[0]
    assert not result.passed and "weight gradient not finite" in result.detail


def test_an_engine_that_skips_an_op_fails_law_9(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPARSE_FORMS, torch.relu, (lambda input: input, RULES[torch.relu]))
    for model, size in ((Fine(), IMAGES), (Fine().double(), IMAGES.double())):
        result = check(model.eval(), size, laws=("9",)).laws[0]
        assert not result.passed and result.error > 1e-2


def scaled(factor: float, dtypes: tuple = (torch.float32, torch.float64)) -> Callable:
    """Break a kernel: all it returns is too large, in some types."""

    def broken(kernel: Callable) -> Callable:
        def call(*args: Any) -> Tensor:
            out = kernel(*args)
            return out * factor if out.dtype in dtypes else out

        return call

    return broken


def no_bias(prepare: Callable) -> Callable:
    return lambda weight, bias, groups: prepare(weight, None, groups)


def shifted(grow: Callable) -> Callable:
    """Break a mask: it lies one cell too far right."""

    def call(*args: Any) -> tuple:
        visible, is_padding = grow(*args)
        return visible.roll(1, -1), is_padding

    return call


BREAKS: dict[str, tuple[str, Callable, str]] = {
    "means * 1.5": ("sparse.ops.image_means", scaled(1.5), "19"),
    "means * 1.01": ("sparse.ops.image_means", scaled(1.01), "19"),
    "means * 1.0001": ("sparse.ops.image_means", scaled(1.0001), "19"),
    "means * 1.5, compiled": ("sparse.ops.image_means", scaled(1.5, (torch.float32,)), "19"),
    "means * 1.0001, compiled": ("sparse.ops.image_means", scaled(1.0001, (torch.float32,)), "19"),
    "means * 1.5, twin": ("sparse.ops.image_means", scaled(1.5, (torch.float64,)), ""),
    "no bias": ("sparse.ops.prepare", no_bias, "19"),
    "fill * 1.01": ("rules.convolve.filled", scaled(1.01), "19"),
    "mask shifted": ("rules.convolve.grow", shifted, "2"),
}
"""What is broken, how, and the laws that have to notice. (A twin is measured where its kernel is off.)"""


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_engine_fails_the_laws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, broken, laws = BREAKS[name]
    module, _, function = path.rpartition(".")
    holder = importlib.import_module(f"layermask.{module}")
    monkeypatch.setattr(holder, function, broken(getattr(holder, function)))
    failed = {law.law for law in check(Fine().eval(), IMAGES).laws if not law.passed}
    assert failed >= set(laws)
    doubled = {law.law for law in check(Fine().eval().double(), IMAGES.double()).laws if not law.passed}
    assert doubled >= set("" if "compiled" in name else "19" if "twin" in name else laws)


class Amplifying(Fine):
    """As a deep net: every layer makes four times as much of the rounding of those before."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for _ in range(8):
            x = torch.sin(4 * x)
        return self.head(x.mean((-2, -1)))


def test_only_what_rounding_explains_is_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Amplifying().eval()
    law = check(model, IMAGES, laws=("9",)).laws[0]
    assert law.passed and law.error > 1e-5 and "rounding moves answers" in law.detail
    for factor in (1.0001, 1.01, 1.5):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "product", scaled(factor, (torch.float32,))(kernels.product))
            assert not check(model, IMAGES, laws=("9",)).laws[0].passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_measured_by_the_last_digit_of_each_precision(dtype: torch.dtype) -> None:
    images = sample_images(1, (3, 8, 8)).to(dtype)
    moved = (laws._nudged(images) / images - 1).abs()
    assert moved.max() <= 2 * torch.finfo(dtype).eps
    assert (moved > 0).float().mean() > 0.6


def test_a_judge_that_cannot_see_says_so() -> None:
    """Rounding may take more than a percent; then float64 decides, and the report tells."""

    class Chaotic(Fine):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(1e7 * super().forward(x))

    law = check(Chaotic().eval(), IMAGES, laws=("9",)).laws[0]
    assert "too much to judge float32 well" in law.detail


def test_an_error_of_the_model_is_reported_with_its_place() -> None:
    class Broken(Fine):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x))

    report = check(Broken().eval(), IMAGES)
    assert not report.ok and "in module 'head'" in report.error
    assert "the model stopped: RuntimeError" in str(report)


def test_the_table_of_rules_is_left_as_it_was() -> None:
    before = dict(RULES)
    check(Odd().eval(), IMAGES)
    assert before == RULES


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision/resnet18", (3, 64, 64)),
        ("torchvision/vit_b_32", (3, 64, 64)),
        ("timm/vit_tiny_patch16_224", (3, 64, 64)),
        ("timm/resnet18.a1_in1k", (3, 64, 64)),
        ("hf/mobilenet_v1", (3, 64, 64)),
        ("builtin", (3, 64, 64)),
    ],
)
def test_architectures_are_built_by_name_without_weights(name: str, shape: tuple) -> None:
    model, found = build(name, 64)
    assert found == shape and not model.training


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timm/resnet81", "resnet"),
        ("torchvision/resnet81", "resnet18"),
        ("resnet18", "the forms are"),
        ("timm/", "the forms are"),
    ],
)
def test_unknown_names_say_what_is_known(name: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        build(name)


def test_names_cover_both_libraries() -> None:
    known = list(library_names())
    assert "torchvision/resnet18" in known and "timm/convnext_tiny" in known and len(known) > 1000


def test_the_smallest_size_is_one_that_runs() -> None:
    assert smallest_size("timm/resnet18") == 64
    assert smallest_size("timm/vit_base_patch14_dinov2", (96, 112)) == 96
    assert smallest_size("timm/crossvit_tiny_240") is None


def test_command_prints_and_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_ok.py").write_text(f"from {__name__} import Fine\n")
    (tmp_path / "mine_odd.py").write_text(f"from {__name__} import Odd\n")
    run = CliRunner().invoke
    good = run(app, ["check", "mine_ok:Fine", "--size", "16"])
    assert good.exit_code == 0, good.output
    assert "law 2  holds" in good.output
    bad = run(app, ["check", "mine_odd:Odd", "--size", "16"])
    assert bad.exit_code == 1 and "torch.mode" in bad.output
    unknown = run(app, ["check", "timm/resnet81"])
    assert unknown.exit_code == 2 and "nearest" in unknown.output


class OfTheBatch(nn.Module):
    """Compares each image with all of its batch; or has a column, not a row, for each."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.conv, self.transposed = nn.Conv2d(3, 4, 3), transposed

    def forward(self, x: Any) -> Any:
        scores = self.conv(x).mean((2, 3))
        return scores.T if self.transposed else scores - scores.mean(0)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_depends_on_the_batch_is_not_excused_as_rounding(transposed: bool) -> None:
    images = sample_images(4, (3, 16, 16))
    (law,) = laws.check_laws(OfTheBatch(transposed).eval(), images, ("5",))
    assert not law.passed and "depends on the others of its batch" in law.detail
