"""`layermask export MODEL`: the masked model as a file of two inputs, images and visible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import FAILED, outcome

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.zoo.loaded import Loaded

Model = Annotated[str, options.model_argument()]
Out = Annotated[
    Path | None, typer.Option(help="The file to write.", show_default="model.FORMAT", **options.PATH)
]
Format = Annotated[
    str | None,
    typer.Option(help="onnx, or pt2, torch's own.", show_default="as --out ends, else onnx"),
]
Size = Annotated[int | None, options.size("Side of the images, in pixels.")]
Fold = Annotated[
    bool, typer.Option("--fold/--no-fold", help="Fold batch norm and constants into the weights.")
]
BOUND = 1e-4  # relative: what a runtime's other kernels may differ by in float32


def command(
    model: Model,
    out: Out = None,
    format: Format = None,
    size: Size = None,
    fold: Fold = True,
    weights: options.Weights = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Export a model with layer masking as one graph, and compare the file's outputs with the model's.

    The file takes images (N, C, H, W), preprocessed as the model expects, and visible (N, 1, H, W), True =
    visible, for any N. ONNX needs the extra onnx of layermask.

    Exit status: 1 if the outputs differ, 2 bad input.
    """
    with outcome(quiet, "--size"):
        from json import dumps

        from layermask.zoo import load

        file, kind = _file(out, format)
        options.output(file.parent, [file.name], "--out")
        record = _written(load(model, weights), file, kind, size, fold)
        if json:
            typer.echo(dumps(record))
        else:
            options.printer(quiet)(_lines(record))
        if not record["difference"] <= BOUND:
            typer.echo(f"layermask: the outputs of {file} differ from the model's", err=True)
            raise typer.Exit(FAILED)


def _file(out: Path | None, format: str | None) -> tuple[Path, str]:
    """The file and its format, found before a model is loaded to be one that can be written and checked."""
    from layermask.deploy import FORMATS
    from layermask.deploy.formats import format_of
    from layermask.errors import InputError, import_optional

    file = out or Path(f"model.{format or 'onnx'}")
    kind = format_of(file, format)
    if file.suffix[1:] in FORMATS and file.suffix[1:] != kind:
        raise InputError(f"--out {file} ends in the name of another format than --format {kind}")
    for package in FORMATS[kind].needs:
        import_optional(package, FORMATS[kind].extra)
    return file, kind


def _written(loaded: Loaded, out: Path, kind: str, size: int | None, fold: bool) -> dict[str, Any]:
    from layermask.deploy import FORMATS, difference, export, load
    from layermask.io.record import engine_of
    from layermask.removal.layer_masking import LayerMasking
    from layermask.zoo.loaded import check_size

    removal = LayerMasking(loaded.model)
    side = (size, size) if size else loaded.preprocessing.crop
    shape = (loaded.preprocessing.channels, *side)
    check_size(removal, _sample(1, shape, 0), loaded.name)
    program = export(removal, *_sample(2, shape, 0), fold=fold)
    FORMATS[kind].write(program, out)
    return {
        "model": loaded.name,
        "file": str(out),
        "format": kind,
        "bytes": out.stat().st_size,
        "operations": sum(node.op == "call_function" for node in program.graph.nodes),
        "difference": difference(load(out, kind), removal, *_sample(3, shape, 1)),
        "engine_used": engine_of(removal),
        "images": ["N", *shape],
        "preprocessing": loaded.preprocessing.record(),
    }


def _sample(batch: int, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Random images and masks of several kinds."""
    from layermask.check.samples import masks, sample_images

    images = sample_images(batch, shape, seed)
    return images, masks(images, ("patches", "block", "coarse"), seed)


def _lines(record: dict[str, Any]) -> str:
    size = record["bytes"] / 2**20
    shape = ", ".join(map(str, record["images"]))
    return (
        f"wrote {record['file']}: {size:.1f} MiB, {record['operations']} operations, images ({shape})\n"
        f"largest difference from the model, on other images and masks: {record['difference']:.1e}"
    )
