"""`layermask segments [IMAGE...]`: the segmenters, and what one makes of a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layermask.cli import options
from layermask.cli.jobs import Job, find_jobs, go_through, nodata_of, prepare_folder
from layermask.cli.outcome import outcome

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Images = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Pictures, folders or wildcards; none to list the segmenters.",
        metavar="IMAGE",
        parser=options.path,
    ),
]

Out = Annotated[Path, typer.Option(help="Folder for the two files of each picture.", **options.PATH)]


def command(
    images: Images = None,
    segments: options.Segments = "grid",
    nodata: options.Nodata = None,
    out: Out = Path(),
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """List the segmenters, or write the segments of pictures.

    These are IMAGE_segments.npy (labels) and IMAGE_segments.png (borders and numbers).
    The label maps can be edited and given to `explain --segments`. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet, "picture, or fewer --segments"):
        if not images:
            typer.echo(_listing(json))
            return
        from layermask.segment.presets import segmented, segmenter

        # Refused before anything is written.
        asked = getattr(segmenter(segments), "n_segments", None)
        jobs = find_jobs(images)
        folder = prepare_folder(out, jobs, ["_segments.npy", "_segments.png"])

        def work(job: Job, advance: Callable[[float], None]) -> None:
            import numpy as np
            import torch

            from layermask.data.images import load_image
            from layermask.data.nodata import load_valid

            valid = None
            if nodata is not None:
                data = np.array(load_valid(job.image, nodata_of(nodata, job)))
                valid = torch.from_numpy(data > 0)
            picture = load_image(job.image, gaps=nodata is not None)
            labels = segmented(segments, picture, valid)
            written = _write(folder, job, labels, picture)
            _tell(job, labels, asked, quiet, json)
            if not (quiet or json):
                options.printer(False)(f"wrote {' and '.join(map(str, written))}")
            advance(1)

        go_through(jobs, work, lambda job: None, "segmenting", quiet)


def _listing(json: bool) -> str:
    import dataclasses
    from json import dumps

    from layermask.segment.presets import SEGMENTER_PRESETS, SEGMENTERS

    entries = {name: dataclasses.asdict(make()) for name, make in SEGMENTERS.items()}  # type: ignore[call-overload]
    presets = {name: repr(preset) for name, preset in SEGMENTER_PRESETS.items()}
    if json:
        return dumps({"segmenters": entries, "presets": presets})
    rows = {name: ", ".join(f"{k}={v}" for k, v in values.items()) for name, values in entries.items()}
    rows |= {"boxes": "left,top,right,bottom;...", "FILE": "label map: .npy, or a PNG or TIFF of integers"}
    return "\n".join(f"{name:22s} {text}" for name, text in {**rows, **presets}.items())


def _write(folder: Path, job: Job, labels: Tensor, shown: Image.Image) -> list[Path]:
    """Write the labels and the picture, and return where."""
    from io import BytesIO

    import numpy as np

    from layermask.io.atomic import make_folder, write_all
    from layermask.io.overlay import bordered_picture, numbered_picture

    array, picture = BytesIO(), BytesIO()
    np.save(array, labels.numpy())
    numbered_picture(bordered_picture(shown, labels), labels).save(picture, "PNG")
    stem = folder / f"{job.name}_segments"
    make_folder(stem.parent)
    contents = {
        stem.with_name(f"{stem.name}.npy"): array.getvalue(),
        stem.with_name(f"{stem.name}.png"): picture.getvalue(),
    }
    write_all(contents)
    return list(contents)


def _tell(job: Job, labels: Tensor, asked: int | None, quiet: bool, json: bool) -> None:
    from json import dumps

    from layermask.segment.labels import sizes_of

    count, sizes = int(labels.max()) + 1, sizes_of(labels, int(labels.max()) + 1)
    if json:
        typer.echo(dumps({"image": job.image.name, "segments": count, "sizes": sizes.tolist()}))
    elif not quiet:
        options.printer(False)(
            f"{job.image}: {count} segments of {int(sizes.min())} to {int(sizes.max())} pixels"
            + f" ({asked} were asked for; the segmenter decides)" * (asked not in (None, count))
        )
