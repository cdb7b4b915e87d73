"""Every error class stands in errors.py, and each is raised with a text that says what to do."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import layermask
from layermask import Masked, errors
from layermask.kernels import build, cache
from layermask.sparse.operands import meet

ROOT = Path(layermask.__file__).parent
CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if inspect.isclass(each) and issubclass(each, BaseException) and each.__module__ == errors.__name__
}
MASKED = Masked(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool))


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


def missing_rule() -> None:
    layermask.LayerMasking(nn.Sequential(Inner()).eval())(MASKED.value, MASKED.visible)


def open_folder(folder: Path) -> None:
    folder.chmod(0o777)
    cache.claim(folder)


RAISED: dict[str, tuple[Callable[[Path], object], str]] = {
    "InputError": (
        lambda folder: layermask.LayerMasking(nn.Identity(), growth="most"),
        "growth is 'most': choose any, half, center, keep or all",
    ),
    "WrongType": (
        lambda folder: layermask.LayerMasking(3),  # type: ignore[arg-type]
        "model is 3: give a torch.nn.Module",
    ),
    "ImageError": (
        lambda folder: layermask.load_image(folder / "cat.png"),
        "image FOLDER/cat.png does not exist",
    ),
    "ModelError": (
        lambda folder: layermask.load("resnet50"),
        "unknown model 'resnet50' (did you mean torchvision/resnet50",
    ),
    "MissingPackage": (
        lambda folder: errors.import_optional("no_such_package", "cli"),
        'this needs the package no_such_package, which is not installed: pip install "',
    ),
    "NoMaskRule": (
        lambda folder: missing_rule(),
        "torch.linalg.svdvals has no rule for masked input in module '0' at",
    ),
    "LostMask": (
        lambda folder: torch.zeros(1, 1, 2, 2).add_(MASKED),  # type: ignore[arg-type]
        "torch.Tensor.add_ at test_errors.py:",
    ),
    "BuildError": (
        lambda folder: build.build(folder / "kernels.so"),
        "there is no C compiler (cc, gcc or clang)",
    ),
    "Untrusted": (open_folder, "others may write into FOLDER (chmod 700 would mend it)"),
    "NoRows": (lambda folder: meet([MASKED], []), ""),  # type: ignore[list-item]  # nobody reads it
}
"""Class -> what raises it, and how its text begins."""


@pytest.mark.parametrize("name", CLASSES)
def test_its_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    call, text = RAISED[name]
    with pytest.raises(CLASSES[name]) as raised:
        call(tmp_path)
    assert type(raised.value) is CLASSES[name]
    assert str(raised.value).startswith(text.replace("FOLDER", str(tmp_path)))


def test_all_are_in_one_file_and_those_for_users_are_listed() -> None:
    raised = {*CLASSES, "Exception", "BaseException"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                is_error = bases & raised or any(b.endswith(("Error", "Warning", "Exit")) for b in bases)
                assert not is_error, f"{path.relative_to(ROOT)}: {node.name} belongs in errors.py"
    assert {*CLASSES} - {*errors.__all__} == {"BuildError", "NoRows", "Untrusted"}
