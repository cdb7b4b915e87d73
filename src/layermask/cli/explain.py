"""`layermask explain IMAGE...`: which segments speak for and against a class, under each removal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layermask.cli import options
from layermask.cli.evaluate import halving
from layermask.cli.jobs import Advance, Found, Job, Session, find_jobs, prepare_folder
from layermask.cli.outcome import outcome
from layermask.errors import InputError
from layermask.io.atomic import exists, expanded, is_file, make_folder, write_all
from layermask.io.progress import bar
from layermask.io.record import engine_of, sha256
from layermask.studies.prepared import PreparedImage

if TYPE_CHECKING:
    from torch import Tensor

    from layermask.explain.attribution import Attribution
    from layermask.explain.explainer import Explainer
    from layermask.removal.registry import MadeOnce

CONTENDER = 0.1  # of the likeliest class's number: a second class with less is not explained unasked

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
        help="Class to explain, by name or number, or in the map of a segmenter pixel:CLASS@X,Y or "
        "polygon:CLASS@X,Y,X,Y,..., of a detector box:CLASS@LEFT,TOP,RIGHT,BOTTOM; may be repeated.",
        show_default="the top one, and the second if it has a tenth of the first's probability",
    ),
]
Samples = Annotated[
    int | None,
    options.count(
        "Masks per removal, for methods that draw masks at random.",
        "--n-samples",
        least=2,
        most=options.MANY,
        show_default="1000",
    ),
]
Converge = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Stop early once the ranking of the segments is this stable, for example 0.01.",
        **options.FINITE,
    ),
]
PRECISION = 0.8
Precision = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Ask for masks until the scores are settled: until those of another seed would correlate this "
        "much with them, for every class. At most --n-samples; 1 asks for all of them.",
        show_default=f"{PRECISION}, without --converge",
        **options.FINITE,
    ),
]
Seed = Annotated[
    int, typer.Option(help="Random seed for the masks, which are the same for every removal.", **options.SEED)
]
ReportPath = Annotated[
    Path | None,
    typer.Option(
        help="Also write an HTML page: a file that ends in .html, or, for one page per picture, a folder "
        "(any other name).",
        show_default=False,
        **options.PATH,
    ),
]
Curves = Annotated[
    bool,
    typer.Option(
        "--curves",
        help="Also draw insertion and deletion curves, IMAGE_curves.png, from 42 more masks per removal.",
    ),
]


def command(
    images: options.Images,
    model: options.Model = "builtin",
    weights: options.Weights = None,
    fitted: options.Fitted = None,
    method: Method = "lime",
    segments: options.Segments = "grid",
    samples: Samples = None,
    converge: Converge = None,
    precision: Precision = None,
    seed: Seed = 0,
    target: Targets = None,
    output: options.Output = "probability",
    removals: options.Removals = "layermask,greyout,blackout",
    nodata: options.Nodata = None,
    out: options.Out = Path(),
    report: ReportPath = None,
    curves: Curves = False,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Explain a model's predictions under layer masking and, for comparison, under other removals.

    Writes IMAGE_explain.png and IMAGE_explain.json for each picture. Pictures that an earlier run with the
    same options has finished are skipped. Exit status: 1 failed, 2 bad input, 130 interrupted.
    """
    with outcome(quiet, options.less(batch_size)):
        from layermask.removal.targets import is_form

        names, jobs = options.removals(removals), find_jobs(images)
        read = options.output_of(output)
        _check_segments(segments)
        settings = _settings(method, samples, converge, precision, seed) | {"output": read}
        if report:
            _check_report(report, jobs)
        others = ["_curves.png"] if curves else []
        place = (out, model, weights, device, quiet, json)
        scored = not any(map(is_form, target or []))
        more = {"output": read, "nodata": nodata, "scored": scored, "fitted": fitted}
        session = Session.open("explain", jobs, *place, *others, **more)
        size = options.batch_size(batch_size, session.device)
        make = halving if batch_size == "auto" else None
        asked = _Asked(method, settings, segments, target or [], names)
        work = _Work(session, asked, size, report, curves, make)
        session.run(work, lambda job: asked.record(), "explaining")


@dataclass(frozen=True)
class _Asked:
    """What the results depend on besides the picture and the model."""

    method: str
    settings: dict[str, Any]
    segments: str
    targets: list[str]
    removals: list[str]

    def record(self) -> dict[str, Any]:
        labels = expanded(self.segments)
        return {**vars(self), "segments": sha256(labels) if is_file(labels) else self.segments}


@dataclass
class _Work:
    """Explains one picture after the other."""

    session: Session
    asked: _Asked
    batch_size: int
    report: Path | None
    curves: bool
    make: Any

    def __call__(self, image: PreparedImage, job: Job, advance: Advance) -> Found:
        self.session.print_line(f"{image.title}\n{image.listed(image.predictions)}")
        labels, classes = _segment(image, self.asked.segments), _targets(image, self.asked.targets)
        explainers = {name: self._explainer(name, labels) for name in self.asked.removals}
        total = sum(_cost(each, labels) for each in explainers.values())
        with self._progress(total, advance) as step:
            found: dict[str, Attribution] = {}
            for name, each in explainers.items():
                # Without data, removals may disagree on the likeliest classes: all explain the first one's.
                found[name] = each.attribute(image.x, classes, labels, show_progress=step, valid=image.valid)
                classes = classes or list(found[name].targets)
        self.session.print_line(_summary(image, found))
        record = self._record(image, found) | {"engine_used": engine_of(*self.operators)}
        pages = [self._page(image, found, job)] if self.report else []
        pages += [self._curves(image, found, explainers, job)] if self.curves else []
        return Found(_sheet(image, found), record, pages)

    def _explainer(self, name: str, labels: Tensor) -> Explainer:
        from layermask.explain.registry import explainer

        operator = self.operators(name, self.session.loaded, labels.to(self.session.device))
        return explainer(self.asked.method)(
            operator, perturbations_per_eval=self.batch_size, **self.asked.settings
        )

    @cached_property
    def operators(self) -> MadeOnce:
        """The removals, made once for all pictures."""
        from layermask.removal.registry import MadeOnce

        return MadeOnce(self.make) if self.make else MadeOnce()

    def _progress(self, total: int, advance: Advance) -> Any:
        """Return what the masks just asked are told to: a bar of its own for one picture alone."""
        if not self.session.alone:
            return nullcontext(lambda done: advance(done / total))
        return nullcontext(lambda done: None) if self.session.quiet else bar("explaining", total)

    def _record(self, image: PreparedImage, found: dict[str, Attribution]) -> dict[str, Any]:
        from layermask.segment.labels import of_segments

        first = next(iter(found.values()))
        chances = zip(first.targets, first.prediction.tolist(), strict=True)
        return {
            **image.record(),
            "targets": image.entries(list(chances)),
            "method": self.asked.method,
            "settings": dict(first.settings),
            "removals": {name: each.record() for name, each in found.items()},
            "segmenter": self.asked.segments,
            "segments": of_segments(first.segments),
        }

    def _page(self, image: PreparedImage, found: dict[str, Attribution], job: Job) -> Path:
        from layermask.render.explanation_page import report_page

        assert self.report is not None
        path = self.report if _is_page(self.report) else self.report / f"{job.name}.html"
        make_folder(path.parent)
        first = next(iter(found.values()))
        about = image.record()
        page = report_page(
            f"{image.title}, {first.method}",
            image.picture,
            image.named(image.predictions),
            found,
            _class_names(image),
            {
                "model": about["model"],
                "device": about["device"],
                "method": first.method,
                "segments": self.asked.segments,
                **first.settings,
                "versions": about["versions"],
            },
        )
        write_all({path: page.encode()})
        return path

    def _curves(
        self, image: PreparedImage, found: dict[str, Attribution], explainers: dict[str, Explainer], job: Job
    ) -> Path:
        from layermask.io.figure import png
        from layermask.metrics.flipping import curve
        from layermask.render.curves import curve_sheet

        settings = {
            "perturbations_per_eval": self.batch_size,
            "output": image.output,
            "valid": image.valid,
        }
        drawn = {
            name: [
                curve(explainers[name].removal, image.x, each, order, **settings)
                for order in ("insertion", "deletion")
            ]
            for name, each in found.items()
        }
        title = f"{image.title}, {next(iter(found.values())).method}"
        path = self.session.folder / f"{job.name}_curves.png"
        write_all({path: png(curve_sheet(title, drawn, _class_names(image)))})
        return path


def _check_segments(segments: str) -> None:
    """Find out before a model is loaded that the segmenter is known, if it is no file."""
    from layermask.segment.presets import segmenter

    if not _is_map(expanded(segments)):
        segmenter(segments)


def _is_map(path: Path) -> bool:
    return path.suffix in (".npy", ".png", ".tif", ".tiff") or exists(path)


def _check_report(report: Path, jobs: Sequence[Job]) -> None:
    """Find out before a model is loaded that the pages can be written."""
    if not _is_page(report):
        prepare_folder(report, jobs, [".html"], "--report")
    elif len(jobs) > 1:
        raise InputError(f"--report {report} is one page for {len(jobs)} pictures: give a folder")
    else:
        options.output(report.parent, [report.name], "--report")


def _class_names(image: PreparedImage) -> list[str]:
    return [image.label(index) for index in range(len(image.loaded.labels))]


def _is_page(report: Path) -> bool:
    return report.suffix.lower() in (".html", ".htm")


def _settings(
    method: str, samples: int | None, converge: float | None, precision: float | None, seed: int
) -> dict[str, Any]:
    """Return the arguments of the explainer, after checking that it has them."""
    from layermask.explain.registry import EXPLAINERS, explainer

    known = explainer(method).__dataclass_fields__
    if converge is None and precision is None and "precision" in known:
        precision = PRECISION
    given = {"n_samples": samples, "converge": converge, "precision": precision}
    settings = {key: value for key, value in given.items() if value is not None}
    if odd := [key for key in settings if key not in known]:
        able = [name for name, each in EXPLAINERS.items() if odd[0] in each.__dataclass_fields__]
        option = "--n-samples" if odd[0] == "n_samples" else f"--{odd[0]}"
        raise InputError(f"{method} draws no samples, so it has no {option}: {', '.join(able)} have")
    return settings | ({"seed": seed} if "seed" in known else {})


def _targets(image: PreparedImage, wanted: list[str]) -> list[Any] | None:
    from layermask.removal.targets import from_text
    from layermask.zoo.labels import find_class

    size = (image.x.shape[2], image.x.shape[3])
    found = [from_text(text, size) for text in wanted]
    numbers = [find_class(each, image.loaded.labels) if isinstance(each, str) else each for each in found]
    return list(dict.fromkeys(numbers)) or _contenders(image)


def _contenders(image: PreparedImage) -> list[Any] | None:
    """Return the likeliest class alone if the second is no contender; None leaves it to the explainer."""
    if image.valid is not None or image.output == "logit" or len(image.predictions) < 2:
        return None
    (first, most), (_, next_most) = image.predictions[:2]
    return None if next_most >= CONTENDER * most else [first]


def _segment(image: PreparedImage, segments: str) -> Tensor:
    """Return the (H, W) segments of what the model sees: by a segmenter, or the crop of a label-map file."""
    from layermask.data.images import load_labels
    from layermask.segment.labels import relabel
    from layermask.segment.presets import segmented

    path, valid = expanded(segments), None if image.valid is None else image.valid[0, 0].cpu()
    if _is_map(path):
        labels = relabel(image.loaded.preprocessing.labels(load_labels(path, image.size)), valid)
    else:
        labels = segmented(segments, image.picture, valid)
    if int(labels.max()) == 0:
        raise InputError(
            f"segments {segments!r} give one segment for the whole picture: there is nothing to compare"
        )
    return labels


def _cost(explainer: Explainer, labels: Tensor) -> int:
    from layermask.explain.query_plan import Segments

    return explainer.cost(Segments(labels, labels.device))


def _summary(image: PreparedImage, found: dict[str, Attribution]) -> str:
    """Return one line per target: how well a surrogate fits, or how little of the picture is enough.

    One more says how many masks were needed, where they were asked for until scores are settled.
    """
    lines = []
    for row, target in enumerate(next(iter(found.values())).targets):
        parts = [part for name, each in found.items() if (part := _finding(name, each, row))]
        name = image.label(target)
        lines.append(f"{name}: {', '.join(parts)}" if parts else name)
    if any(each.settled is not None for each in found.values()):
        lines.append(f"masks: {', '.join(_masks(name, each) for name, each in found.items())}")
    return "\n".join(lines)


def _masks(name: str, found: Attribution) -> str:
    return f"{name} {found.n_samples:,} ({'settled' if found.settled else 'not settled'})"


def _finding(name: str, found: Attribution, row: int) -> str:
    if found.region is not None:
        share = float(found.visible(found.region[row]).float().mean())
        return f"{name} needs {int(found.region[row].sum())} segments ({share:.1%})"
    return "" if found.r2 is None else f"{name} R² {float(found.r2[row]):.2f}"


def _sheet(image: PreparedImage, found: dict[str, Attribution]) -> bytes:
    from layermask.explain.sheet import explanation_sheet
    from layermask.io.figure import png

    samples = max(each.n_samples for each in found.values())
    title = f"{image.title}, {next(iter(found.values())).method}, {samples:,} masks"
    predictions = image.named(image.predictions)
    return png(explanation_sheet(title, image.picture, predictions, found, _class_names(image)))
