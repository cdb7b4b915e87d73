"""`layermask fit MODEL --data DIR`: collect the statistics that the removal "matched" needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.jobs import find_jobs, load_model
from layermask.cli.outcome import outcome
from layermask.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.zoo.loaded import Loaded

Model = Annotated[str, options.model_argument()]
Data = Annotated[
    Path,
    typer.Option(
        help="Folder of pictures of the kind that the model is asked about; labels are not needed.",
        show_default=False,
        **options.PATH,
    ),
]
Limit = Annotated[int, options.count("Use this many pictures, chosen at random by --seed.", most=10_000)]
Seed = Annotated[int, typer.Option(help="Random seed for the pictures and the masks.", **options.SEED)]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The file to write, for --fitted.",
        show_default="in the user's cache, where --removals matched finds it",
        **options.PATH,
    ),
]


def command(
    model: Model,
    data: Data,
    limit: Limit = 60,
    seed: Seed = 0,
    weights: options.Weights = None,
    out: Out = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Collect a model's statistics of whole and of masked pictures, for the removals matched and
    adaptive-matched.

    Once per model; later commands with the same weights find the file by themselves, or take it by --fitted.
    30 to 100 pictures are best. Exit status: 1 failed, 2 bad input.
    """
    with outcome(quiet, "--limit, or --device cpu"):
        from json import dumps

        from layermask.removal.fitted import default_file
        from layermask.removal.matched import Matched
        from layermask.zoo.loaded import check_size

        loaded, where = load_model(model, weights, device, scored=False)
        file = out or default_file(loaded.model)
        options.output(file.parent, [file.name], "--out")
        images = _pictures(loaded, data, limit, seed).to(where)
        check_size(loaded.model, (images[:1],), loaded.name)
        matched = Matched(loaded.model).fit(images, seed=seed)
        matched.save(file, loaded)
        record = _record(loaded, matched, file)
        if json:
            typer.echo(dumps(record))
        else:
            options.printer(quiet)(_line(record, out))


def _pictures(loaded: Loaded, data: Path, limit: int, seed: int) -> Tensor:
    """Return pictures of a folder in any layout, (N, C, H, W)."""
    import torch

    from layermask.data import open_source
    from layermask.data.images import load_image

    try:
        paths = [sample.path for sample in open_source(data)]
    except InputError:  # of no layout with labels, which are not needed
        paths = [job.image for job in find_jobs([data])]
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [paths[place] for place in order[:limit]]
    return torch.cat([loaded.preprocessing(load_image(path)) for path in chosen])


def _record(loaded: Loaded, matched: Any, file: Path) -> dict[str, Any]:
    statistics = matched.statistics
    return {
        "model": loaded.name,
        "file": str(file),
        "place": statistics.place,
        "maps": len(statistics.channels),
        "channels": sum(statistics.channels),
        "images": statistics.images,
        "shape": list(statistics.shape),
        "levels": [round(level, 6) for level in statistics.levels.tolist()],
        "preprocessing": loaded.preprocessing.record(),
    }


def _line(record: dict[str, Any], out: Path | None) -> str:
    use = "" if out is None else f" --fitted {out}"
    return (
        f"wrote {record['file']}: statistics of {record['channels']} channels at {record['maps']} "
        f"{record['place']}, from {record['images']} pictures\nuse them by --model {record['model']}{use} "
        "and the removals matched and adaptive-matched"
    )
