"""`audit`: the experiments one after the other, then what they say, as a record and as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.data.source import ImageSource
from layermask.io import record as records
from layermask.io.atomic import output_folder, write_all
from layermask.removal.reading import OutputName
from layermask.removal.registry import MadeOnce, MakeOperator, from_table
from layermask.studies.audit import words
from layermask.studies.audit.findings import Table, class_name, findings
from layermask.studies.audit.parts import AuditParts, Part, plan
from layermask.studies.audit.report import audit_page
from layermask.studies.audit.samples import Shown, by_name, choose, show
from layermask.studies.protocol import names_kind, output_name
from layermask.studies.registry import AUDIT_LINEARITY_IMAGES, AUDIT_REMOVALS
from layermask.studies.runner import OF_A_RUN, run
from layermask.studies.segments.answers import SegmentAnswers, read_answers
from layermask.studies.store import Store, read_results
from layermask.zoo.loaded import Loaded

AuditProgress = Callable[[str, Store, int], AbstractContextManager[Callable[[float], None]]]
"""As that of `studies.run`, after the name of the experiment."""


@dataclass(frozen=True)
class Audit:
    """What an audit found: `record` has all numbers of the page; both are in `folder`."""

    folder: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def page(self) -> Path:
        return self.folder / "audit.html"

    @property
    def recommended(self) -> str:
        """The removal to use, "" if there are too few images to say; see `verdict` for how sure that is."""
        return self.record["verdict"]["recommended"]

    @property
    def verdict(self) -> dict[str, Any]:
        """The fields of `audit.Verdict`: kind, tied, comparisons, ..."""
        return self.record["verdict"]

    def __str__(self) -> str:
        lines = [words.headline(self.record), *words.reasons(self.record)]
        return "\n".join([*lines, *(f"- {line}" for line in words.remarks(self.record))])


@checked(
    **OF_A_RUN,
    removals=names_kind,
    segmentations=names_kind,
    linearity_images=partial(kinds.count, low=0),
    seed=kinds.seed,
    operator=kinds.function,
    output=output_name,
    planned=kinds.function,
)
def audit(
    loaded: Loaded,
    source: ImageSource,
    folder: str | Path,
    *,
    removals: Sequence[str] = AUDIT_REMOVALS,
    segmentations: Sequence[str] = ("grid",),
    linearity_images: int = AUDIT_LINEARITY_IMAGES,
    seed: int = 0,
    weights: Path | None = None,
    device: torch.device | None = None,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    force: bool = False,
    operator: MakeOperator = from_table,
    output: OutputName = "probability",
    progress: AuditProgress = lambda name, store, left: nullcontext(lambda done: None),
    planned: Callable[[AuditParts], None] = lambda made: None,
) -> Audit:
    """Measure the missingness bias of a model on a source, and write `folder`/audit.html and audit.json.

    The experiments' results lie in `folder`/segments, shape (with masks) and linearity; a run that was
    stopped goes on there. `removals` that the model cannot have are left out and named. `linearity_images`
    are those of the costliest part, 0 for none. `operator` makes the removal of a name: give your own, with
    names of your own, for variants. `output`: what confidences are, a name in `removal.reading.OUTPUTS`.
    `planned` hears what will be done. The rest is as in `studies.run`.

    Raises:
        InputError: fewer than two removals can be made, or as `studies.run` raises.
    """
    place = output_folder(folder)
    device = device or next((p.device for p in loaded.model.parameters()), torch.device("cpu"))
    operator = MadeOnce(operator)  # all parts ask the same ones
    made = plan(loaded, source, removals, segmentations, seed, linearity_images, operator, device, output)
    planned(made)
    tables: dict[str, Table] = {}
    for part in made.parts:

        def shown(store: Store, left: int, name: str = part.name) -> Any:
            return progress(name, store, left)

        store = run(
            part.experiment,
            loaded,
            part.source,
            place / part.name,
            weights=weights,
            device=device,
            batch_size=batch_size,
            skip_unreadable=skip_unreadable,
            force=force,
            progress=shown,
        )
        tables[part.name] = read_results(store.results)
    found, pictures = _report(loaded, source, made, tables, seed, operator, device)
    write_all(
        {
            place / "audit.json": records.to_json(found).encode(),
            place / "audit.html": audit_page(found, pictures).encode(),
        }
    )
    return Audit(place, found)


def _report(
    loaded: Loaded,
    source: ImageSource,
    made: AuditParts,
    tables: dict[str, Table],
    seed: int,
    operator: MakeOperator,
    device: torch.device,
) -> tuple[dict[str, Any], list[Shown]]:
    """Return the record, and the pictures of its samples."""
    found = findings(tables, loaded.labels, made.left_out)
    settings = tables["segments"][1]["settings"]
    answers = read_answers(tables["segments"][0])
    chosen = choose(answers, found["candidates"], seed)
    labelled = settings["labels"] == "of the data"
    numbers = [("differing", n) for n in chosen.differing] + [("drawn", n) for n in chosen.drawn]
    samples = [
        {"chosen": why, **_sample(answers, number, chosen.place, loaded, labelled)} for why, number in numbers
    ]
    of_samples = by_name(source, [each["image"] for each in samples])
    hidden = answers.fractions[chosen.place]
    pictures = [show(each, loaded, device, operator, answers, hidden, seed) for each in of_samples]
    about = {key: settings[key] for key in ("model", "data", "device", "engine_used")}
    rest = {
        "notes": made.notes,
        "samples": samples,
        "settings": {part.name: _settings(part) for part in made.parts},
        "versions": records.versions(),
    }
    return {"command": "audit", **about, **found, **rest}, pictures


def _settings(part: Part) -> dict[str, Any]:
    return {**part.experiment.settings(part.source), "images": len(part.source)}


def _sample(
    answers: SegmentAnswers, number: int, place: int, loaded: Loaded, labelled: bool
) -> dict[str, Any]:
    """Return what the model says of one picture, whole and with a share of its segments hidden."""

    def answer(row: int, column: int) -> dict[str, Any]:
        label = int(answers.predicted[number, row, 0, column])
        confidence = float(answers.confidence[number, row, 0, column])
        return {"class": label, "name": class_name(loaded.labels, label), "confidence": confidence}

    label = int(answers.labels[number])
    return {
        "image": answers.images[number],
        "hidden": answers.fractions[place],
        "label": {"class": label, "name": class_name(loaded.labels, label)} if labelled else None,
        "whole": answer(0, 0),
        "answers": {name: answer(row, place) for row, name in enumerate(answers.removals)},
    }
