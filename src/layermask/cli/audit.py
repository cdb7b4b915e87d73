"""`layermask audit MODEL`: the missingness bias of a model, and which removal to use with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import evaluate, options
from layermask.cli.outcome import outcome
from layermask.errors import import_optional
from layermask.studies.registry import AUDIT_LINEARITY_IMAGES, AUDIT_REMOVALS

if TYPE_CHECKING:
    from layermask.studies.audit.parts import AuditParts
    from layermask.studies.store import Store

Model = Annotated[str, options.model_argument()]
LinearityImages = Annotated[
    int, options.count("Pictures for the linearity test, the most expensive part; 0 skips it.", least=0)
]
Out = Annotated[
    Path,
    typer.Option(help="Folder for the page. A stopped audit continues there.", **options.PATH),
]

REMOVALS = ", ".join(AUDIT_REMOVALS)


def command(
    model: Model,
    data: evaluate.Data,
    kind: evaluate.Kind = "auto",
    images: evaluate.Images = None,
    weights: options.Weights = None,
    fitted: options.Fitted = None,
    removals: evaluate.Removals = REMOVALS,
    segmentations: evaluate.Segmentations = "grid",
    limit: evaluate.Limit = None,
    linearity_images: LinearityImages = AUDIT_LINEARITY_IMAGES,
    seed: evaluate.Seed = 0,
    output: options.Output = "probability",
    out: Out = Path("audit"),
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    skip_unreadable: evaluate.Skip = False,
    force: evaluate.Force = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Recommend a removal for a model, and say how certain that is, in audit.html (one page) and audit.json.

    Hides segments of the pictures under each removal, their objects where there are masks, and all but single
    patches. If it is interrupted or killed, the same command continues. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet, options.less(batch_size)):
        import_optional("pyarrow.parquet", "evaluate")  # before anything is loaded or listed
        from layermask.cli.jobs import load_model
        from layermask.data import open_source
        from layermask.io.record import to_json
        from layermask.removal.registry import check_name
        from layermask.studies.audit import audit
        from layermask.studies.protocol import from_table

        wanted = [check_name(name) for name in evaluate.names(removals, "--removals")]
        source = open_source(data, kind, images).pick(limit, seed)
        print_line = options.printer(quiet or json)
        print_line(source.summary)
        loaded, where = load_model(model, weights, device, fitted=fitted)
        found = audit(
            loaded,
            source,
            out,
            removals=wanted,
            segmentations=evaluate.names(segmentations, "--segments"),
            linearity_images=linearity_images,
            seed=seed,
            output=options.output_of(output),
            weights=weights,
            device=where,
            batch_size=options.batch_size(batch_size, where),
            skip_unreadable=skip_unreadable,
            force=force,
            operator=evaluate.halving if batch_size == "auto" else from_table,
            planned=lambda plan: _tell(plan, quiet, print_line),
            progress=_progress(quiet),
        )
        print_line(f"\n{found}\n\nwrote {found.page} and audit.json")
        if json:
            typer.echo(to_json(found.record), nl=False)


def _tell(plan: AuditParts, quiet: bool, print_line: Callable[[str], None]) -> None:
    """Say what will be done, and on standard error what will not."""
    parts = ", ".join(f"{part.name} ({len(part.source)} images)" for part in plan.parts)
    print_line(f"{', '.join(plan.parts[0].experiment.removals)}: {parts}")
    if not quiet:
        for name, why in plan.left_out.items():
            typer.echo(f"layermask: {name} is left out: {why}", err=True)


def _progress(quiet: bool) -> Any:
    """Return what shows a bar with the time left for each experiment."""

    def show(name: str, store: Store, left: int) -> Any:
        total = store.settings["data"]["images"]
        return evaluate.progress(quiet, total, name)(store, left)

    return show
