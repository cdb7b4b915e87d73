"""`layermask explain IMAGE...`: which segments speak for and against a class, under each removal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.jobs import Job, done_already, find_jobs, go_through, load_model, prepare_folder
from layermask.cli.outcome import outcome
from layermask.cli.output import Files, in_one_line, ranking_lines, write
from layermask.studies.prepared import PreparedImage, open_image

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from layermask.explain.attribution import Attribution
    from layermask.explain.explainer import Explainer
    from layermask.removal.registry import MadeOnce
    from layermask.zoo.loaded import Loaded

Method = Annotated[
    str,
    typer.Option(
        help="lime, kernel-shap, shapley, banzhaf, leave-one-out, keep-one, occlusion, rise, insertion or "
        "deletion (the smallest region that keeps the prediction)."
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        help="Class to explain, by name or number; may be repeated.",
        show_default="the top one or two",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=options.MANY,
        help="Masked pictures per removal, if the method draws any.",
        show_default="1000",
    ),
]
Converge = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Stop earlier, when the ranking of the segments is this stable; 0.01, say.",
        **options.FINITE,
    ),
]
Seed = Annotated[
    int, typer.Option(help="Of the random samples, which are the same for every removal.", **options.SEED)
]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Also write an HTML page: a file ending in .html, or for many pictures a folder.",
        show_default=False,
        **options.PATH,
    ),
]
Curves = Annotated[
    bool,
    typer.Option(
        "--curves",
        help="Also draw insertion and deletion curves, IMAGE_curves.png: 42 more masks per removal.",
    ),
]


def command(
    images: options.Images,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    method: Method = "lime",
    segments: options.Segments = "grid",
    samples: Samples = None,
    converge: Converge = None,
    seed: Seed = 0,
    target: Targets = None,
    against: options.Against = "greyout,blackout",
    out: options.Out = Path(),
    report: Report = None,
    curves: Curves = False,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Explain a model's predictions, under layer masking and other removals beside it.

    Writes IMAGE_explain.png and IMAGE_explain.json for each picture. Of many pictures, those that an earlier
    run with the same options has done are left as they are. Exit status: 1 failed, 2 bad input,
    130 interrupted.
    """
    with outcome(quiet, options.less(batch_size)):
        removals, jobs = options.removals(against), find_jobs(images)
        settings = _settings(method, samples, converge, seed)
        folder = _prepare(out, report, jobs, curves)
        options.check_files([job.image for job in jobs[:1]])
        loaded, where = load_model(model, weights, device)
        settings["perturbations_per_eval"] = options.batch_size(batch_size, where)
        run = _Run(
            loaded, where, weights, method, settings, segments, target or [], removals, folder, report, curves
        )
        run.speak(quiet, json, batch_size == "auto")
        if len(jobs) == 1:
            run.alone(jobs[0])
        else:
            go_through(jobs, run.one_of_many, run.is_done, "explaining", quiet)


@dataclass
class _Run:
    """What stays the same from picture to picture."""

    loaded: Loaded
    device: torch.device
    weights: Path | None
    method: str
    settings: dict[str, Any]
    segments: str
    targets: list[str]
    removals: list[str]
    folder: Path
    report: Path | None
    curves: bool

    def speak(self, quiet: bool, json: bool, halve: bool) -> None:
        self.say = options.voice(quiet or json)
        self.quiet, self.json, self.halve = quiet, json, halve

    def request(self) -> dict[str, Any]:
        """What the results depend on besides the picture."""
        from layermask.io import record
        from layermask.io.atomic import expanded, is_file

        settings = {k: v for k, v in self.settings.items() if k != "perturbations_per_eval"}
        labels = expanded(self.segments)
        return {
            "layermask": record.versions()["layermask"],
            "model": self.loaded.record(self.weights),
            "method": self.method,
            "settings": settings,
            "segments": record.sha256(labels) if is_file(labels) else self.segments,
            "targets": self.targets,
            "removals": self.removals,
        }

    def is_done(self, job: Job) -> dict[str, Any] | None:
        return done_already(self.folder, job, "explain", self.request())

    def alone(self, job: Job) -> None:
        """One picture: its predictions first, a bar over its masks."""
        scene = open_image(job.image, self.loaded, self.device, self.weights)
        self.say(f"{scene.title}\n{ranking_lines(scene.named(scene.predictions))}")
        files = self._explain(scene, job, None)
        typer.echo(files.text, nl=False) if self.json else None

    def one_of_many(self, job: Job, advance: Callable[[float], None]) -> str | None:
        scene = open_image(job.image, self.loaded, self.device, self.weights)
        files = self._explain(scene, job, advance)
        if self.json:
            typer.echo(in_one_line(files.text))
        return files.engine

    def _explain(self, scene: PreparedImage, job: Job, advance: Callable[[float], None] | None) -> Files:
        from layermask.io.record import engine_of

        labels, classes = _segment(scene, self.segments), _targets(scene, self.targets)
        explainers = {name: self._explainer(name, labels) for name in self.removals}
        total = sum(_cost(each, labels) for each in explainers.values())
        found = {}
        with self._progress(total, advance) as step:
            for name, each in explainers.items():
                found[name] = each.attribute(scene.x, classes, labels, show_progress=step)
        if advance is None:
            self.say(_summary(scene, found))
        record = self._record(scene, found, engine_of(*(each.removal for each in explainers.values())))
        files = write(self.folder, f"{job.name}_explain", _sheet(scene, found, self.method), record)
        pages = [self._page(scene, found, job)] if self.report else []
        pages += [self._curves(scene, found, explainers, job)] if self.curves else []
        if advance is None:
            self.say(f"wrote {' and '.join(map(str, [files.picture, files.record, *pages]))}")
        return files

    def _explainer(self, name: str, labels: Tensor) -> Explainer:
        from layermask.explain.registry import explainer

        operator = self.operators(name, self.loaded, labels.to(self.device))
        return explainer(self.method)(operator, **self.settings)

    @cached_property
    def operators(self) -> MadeOnce:
        """The removals, made once for all pictures."""
        from layermask.cli.evaluate import halving
        from layermask.removal.registry import MadeOnce, from_table

        return MadeOnce(halving if self.halve else from_table)

    def _progress(self, total: int, advance: Callable[[float], None] | None) -> Any:
        if advance is not None:
            return nullcontext(lambda done: advance(done / total))
        if self.quiet:
            return nullcontext(lambda done: None)
        from layermask.io.progress import bar

        return bar("explaining", total)

    def _record(
        self, scene: PreparedImage, found: dict[str, Attribution], engine: str | None
    ) -> dict[str, Any]:
        from layermask.segment.labels import of_segments

        first = next(iter(found.values()))
        chances = zip(first.targets, first.prediction.tolist(), strict=True)
        return {
            "command": "explain",
            "request": self.request(),
            **scene.record(),
            "targets": scene.entries(list(chances)),
            "method": self.method,
            "settings": dict(first.settings),
            "engine_used": engine,
            "removals": {name: each.record() for name, each in found.items()},
            "segmenter": self.segments,
            "segments": of_segments(first.segments),
        }

    def _page(self, scene: PreparedImage, found: dict[str, Attribution], job: Job) -> Path:
        from layermask.io.atomic import make_folder, write_all
        from layermask.render.explanation_page import report_page

        assert self.report is not None
        path = self.report if _is_page(self.report) else self.report / f"{job.name}.html"
        make_folder(path.parent)
        first = next(iter(found.values()))
        page = report_page(
            f"{scene.title}, {first.method}",
            scene.picture,
            scene.named(scene.predictions),
            found,
            [scene.label(index) for index in range(len(scene.loaded.labels))],
            {"model": scene.loaded.name, "method": first.method, "segments": self.segments, **first.settings},
        )
        write_all({path: page.encode()})
        return path

    def _curves(
        self, scene: PreparedImage, found: dict[str, Attribution], explainers: dict[str, Explainer], job: Job
    ) -> Path:
        from layermask.io.atomic import write_all
        from layermask.metrics.flipping import curve
        from layermask.render.curves import curve_sheet
        from layermask.render.figure import png

        size = self.settings["perturbations_per_eval"]
        drawn = {
            name: [
                curve(explainers[name].removal, scene.x, each, order, perturbations_per_eval=size)
                for order in ("insertion", "deletion")
            ]
            for name, each in found.items()
        }
        labels = [scene.label(index) for index in range(len(scene.loaded.labels))]
        path = self.folder / f"{job.name}_curves.png"
        write_all(
            {path: png(curve_sheet(f"{scene.title}, {next(iter(found.values())).method}", drawn, labels))}
        )
        return path


def _prepare(out: Path, report: Path | None, jobs: Sequence[Job], curves: bool) -> Path:
    """Return the folder of --out; it and the place of --report are found to take all files."""
    from layermask.errors import InputError

    endings = ["_explain.png", "_explain.json", *(["_curves.png"] if curves else [])]
    folder = prepare_folder(out, jobs, endings)
    if report and _is_page(report):
        if len(jobs) > 1:
            raise InputError(f"--report {report} is one page for {len(jobs)} pictures: give a folder")
        options.output(report.parent, [report.name], "--report")
    elif report:
        prepare_folder(report, jobs, [".html"], "--report")
    return folder


def _is_page(report: Path) -> bool:
    return report.suffix.lower() in (".html", ".htm")


def _settings(method: str, samples: int | None, converge: float | None, seed: int) -> dict[str, Any]:
    """Return the arguments of the explainer, after checking that it has them."""
    from layermask.errors import InputError
    from layermask.explain.registry import EXPLAINERS, explainer

    known = explainer(method).__dataclass_fields__
    given = {"n_samples": samples, "converge": converge}
    settings = {key: value for key, value in given.items() if value is not None}
    if odd := [key for key in settings if key not in known]:
        able = [name for name, each in EXPLAINERS.items() if odd[0] in each.__dataclass_fields__]
        option = {"n_samples": "--samples", "converge": "--converge"}[odd[0]]
        raise InputError(f"{method} draws no samples, so it has no {option}: {', '.join(able)} have")
    return settings | ({"seed": seed} if "seed" in known else {})


def _targets(scene: PreparedImage, wanted: list[str]) -> list[int] | None:
    from layermask.zoo.labels import find_class

    return list(dict.fromkeys(find_class(text, scene.loaded.labels) for text in wanted)) or None


def _segment(scene: PreparedImage, segments: str) -> Tensor:
    """Return the (H, W) segments of what the model sees: by a segmenter, or the crop of a label-map file."""
    from layermask.data.images import load_labels
    from layermask.errors import InputError
    from layermask.io.atomic import exists, expanded
    from layermask.segment.labels import relabel
    from layermask.segment.presets import segmented

    path = expanded(segments)
    if path.suffix in (".npy", ".png", ".tif", ".tiff") or exists(path):
        labels = relabel(scene.loaded.preprocessing.labels(load_labels(path, scene.size)))
    else:
        labels = segmented(segments, scene.picture)
    if int(labels.max()) == 0:
        raise InputError(
            f"segments {segments!r} give one segment for the whole picture: there is nothing to compare"
        )
    return labels


def _cost(explainer: Explainer, labels: Tensor) -> int:
    from layermask.explain.query_plan import Segments

    return explainer.cost(Segments(labels, labels.device))


def _summary(scene: PreparedImage, found: dict[str, Attribution]) -> str:
    """Return one line per target: how well a surrogate fits, or how little of the picture is enough."""
    lines = []
    for row, target in enumerate(next(iter(found.values())).targets):
        parts = [part for name, each in found.items() if (part := _finding(name, each, row))]
        lines.append(f"{scene.label(target)}: {', '.join(parts)}" if parts else scene.label(target))
    return "\n".join(lines)


def _finding(name: str, found: Attribution, row: int) -> str:
    if found.region is not None:
        share = float(found.region[row][found.segments].float().mean())
        return f"{name} needs {int(found.region[row].sum())} segments ({share:.1%})"
    return "" if found.r2 is None else f"{name} R² {float(found.r2[row]):.2f}"


def _sheet(scene: PreparedImage, found: dict[str, Attribution], method: str) -> bytes:
    from layermask.render.figure import png
    from layermask.render.sheets import explanation_sheet

    first = next(iter(found.values()))
    labels = [scene.label(index) for index in range(len(scene.loaded.labels))]
    samples = max(each.n_samples for each in found.values())
    title = f"{scene.title}, {first.method}, {samples:,} masks"
    return png(explanation_sheet(title, scene.picture, scene.named(scene.predictions), found, labels))
