"""`layermask explain IMAGE`: which segments speak for and against a class, under each removal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.outcome import outcome
from layermask.cli.scene import Scene, prepare, ranking_lines, write

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.explain.attribution import Attribution

Segments = Annotated[
    str, typer.Option(help="grid, slic or quickshift (grid:32 for cells of 32 pixels), or a label-map file.")
]
Targets = Annotated[
    list[str] | None,
    typer.Option(help="Class to explain, by name or number; may be repeated.", show_default="the top two"),
]
Samples = Annotated[int, typer.Option(min=2, help="Masked pictures per removal.")]
Seed = Annotated[int, typer.Option(help="Of the random samples, which are the same for every removal.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures per forward pass: this bounds the memory.")]


def command(
    image: options.Image,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    segments: Segments = "grid",
    samples: Samples = 1000,
    seed: Seed = 0,
    target: Targets = None,
    against: options.Against = "greyout,blackout",
    out: options.Out = Path(),
    batch_size: BatchSize = 32,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Explain a model's top two predictions with LIME, under layer masking and other removals beside it.

    Writes IMAGE_explain.png and IMAGE_explain.json. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome():
        removals, folder = options.prepare_output(against, out)
        scene = prepare(image, model, weights, device)
        say = options.voice(quiet or json)
        say(f"{scene.title}\n{ranking_lines(scene.named(scene.predictions))}")
        classes = _targets(scene, target)
        labels = _segment(scene, segments)
        settings = {"n_samples": samples, "seed": seed, "perturbations_per_eval": batch_size}
        found = _explain(scene, removals, labels, classes, settings, quiet)
        say(_summary(scene, found))
        record = _record(scene, segments, found)
        files = write(folder, f"{image.stem}_explain", _sheet(scene, found), record)
        typer.echo(files.text, nl=False) if json else say(f"wrote {files.picture} and {files.record}")


def _targets(scene: Scene, wanted: list[str] | None) -> list[int]:
    from layermask.zoo.labels import find_class

    if not wanted:
        return [index for index, _ in scene.predictions[:2]]
    return list(dict.fromkeys(find_class(text, scene.loaded.labels) for text in wanted))


def _segment(scene: Scene, segments: str) -> Tensor:
    """Return the (H, W) segments of what the model sees: by a segmenter, or the crop of a label-map file."""
    from layermask.errors import InputError
    from layermask.images import load_labels
    from layermask.segment import relabel, segmenter

    path = Path(segments)
    if path.suffix or path.exists():
        labels = relabel(scene.loaded.preprocessing.labels(load_labels(path, scene.size)))
    else:
        labels = segmenter(segments)(scene.picture)
    if int(labels.max()) == 0:
        raise InputError(
            f"segments {segments!r} give one segment for the whole picture: there is nothing to compare"
        )
    return labels


def _explain(
    scene: Scene, names: list[str], labels: Tensor, classes: list[int], settings: dict[str, Any], quiet: bool
) -> dict[str, Attribution]:
    from contextlib import nullcontext

    from layermask.explain.lime import Lime
    from layermask.progress import bar
    from layermask.removal.table import removal

    total = settings["n_samples"] * len(names)
    found = {}
    with nullcontext(lambda done: None) if quiet else bar("explaining", total) as advance:
        for name in names:
            operator = removal(name, scene.loaded.model, scene.loaded.preprocessing)
            found[name] = Lime(operator, **settings).attribute(
                scene.x, classes, labels, show_progress=advance
            )
    return found


def _summary(scene: Scene, found: dict[str, Attribution]) -> str:
    """Return one line per target: how well the linear surrogate fits under each removal."""
    first = next(iter(found.values()))
    if first.r2 is None:
        return ""
    targets = first.targets
    fits = [
        ", ".join(f"{name} {float(each.r2[row]):.2f}" for name, each in found.items() if each.r2 is not None)
        for row in range(len(targets))
    ]
    return "\n".join(f"{scene.label(target)}: R² {fit}" for target, fit in zip(targets, fits, strict=True))


def _sheet(scene: Scene, found: dict[str, Attribution]) -> bytes:
    from layermask.draw.figure import png
    from layermask.draw.sheets import explanation_sheet

    samples = next(iter(found.values())).settings["n_samples"]
    labels = [scene.label(index) for index in range(len(scene.loaded.labels))]
    title = f"{scene.title}, LIME with {samples:,} samples"
    return png(explanation_sheet(title, scene.picture, scene.named(scene.predictions), found, labels))


def _record(scene: Scene, segments: str, found: dict[str, Attribution]) -> dict[str, Any]:
    from layermask import record

    first = next(iter(found.values()))
    chances = zip(first.targets, first.prediction.tolist(), strict=True)
    return {
        "command": "explain",
        **scene.record(),
        "targets": scene.entries(list(chances)),
        "lime": dict(first.settings),
        "removals": {name: record.of_attribution(each) for name, each in found.items()},
        "segmenter": segments,
        "segments": record.of_segments(first.segments),
    }
