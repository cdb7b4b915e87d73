"""The experiments by name: the one list that the command line, `plot`, the tests and the docs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from layermask.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from layermask.render.table import Table

Columns = Mapping[str, "np.ndarray"]
Content = Mapping[str, Any]
"""What `read_results` returns: the columns, and what the file says of itself."""


@dataclass(frozen=True)
class Entry:
    """An experiment: `home`, the folder here with its study.py, report.py and figure.py.

    Modules are imported when asked for, so that the list itself costs nothing.
    """

    home: str
    class_name: str
    summary: str
    source: str
    options: tuple[str, ...] = ()
    """What its `summarise` and `sheet` can be told: "rule" of areas under curves, "hits" of classes."""

    @property
    def experiment(self) -> Any:
        """The class, of `runner.Experiment`."""
        return getattr(import_module(f"layermask.studies.{self.home}.study"), self.class_name)

    @property
    def _report(self) -> Any:
        return import_module(f"layermask.studies.{self.home}.report")

    def words(self, columns: Columns, content: Content) -> list[str]:
        """Return what a reader of the numbers has to know, a line each."""
        return self._report.words(columns, content)

    def summarise(self, columns: Columns, content: Content, **options: Any) -> list[Table]:
        """Return the tables of the results; the first is the one to print."""
        return self._report.summarise(columns, content, **options)

    def sheet(self, columns: Columns, content: Content, **options: Any) -> Figure:
        """Return the figure of the results."""
        figure = import_module(f"layermask.studies.{self.home}.figure")
        return figure.sheet(columns, content, **options)


PAPER = "Balasubramanian and Feizi 2023, arXiv 2211.14646"

EXPERIMENTS: dict[str, Entry] = {
    "segments": Entry(
        "segments",
        "SegmentStudy",
        "Hide 0, 10, ... 100 % of the segments, and see what the model predicts.",
        PAPER + ", section 4.1",
        ("rule",),
    ),
    "shape": Entry(
        "shape_bias",
        "ShapeBiasStudy",
        "Hide the object, then a hole of its shape elsewhere: does the shape tell what was in it?",
        PAPER + ", section 4.2",
        ("hits",),
    ),
    "linearity": Entry(
        "linearity",
        "LinearityStudy",
        "Compare the answer to the whole picture with the sum of the answers to its patches.",
        PAPER + ", supplement",
    ),
    "lime": Entry(
        "lime",
        "LimeStudy",
        "Explain pictures with LIME under each removal, and compare that with their object masks.",
        PAPER + ", section 4.4.2",
    ),
    "operators": Entry(
        "operators",
        "OperatorStudy",
        "See what each removal does to answers by the mere act of hiding, and how it ranks methods.",
        "Bluecher et al. 2024, arXiv 2401.06654; after Hsieh et al. 2026, arXiv 2605.16905",
    ),
}

AUDIT_REMOVALS = ("layermask", "greyout", "blackout", "mean", "push-pull", "blur")
"""What an audit compares by default: the method, what most tools paint, and the best of the cheap fills."""
AUDIT_LINEARITY_IMAGES = 10


def experiment_of(content: Content) -> Entry:
    """Return the entry of the experiment that results are of.

    Raises:
        InputError: it is none of this version.
    """
    name = (content.get("settings") or {}).get("experiment")
    if name not in EXPERIMENTS:
        raise InputError(
            f"the results are of the experiment {name!r}, and this version of layermask knows "
            f"{', '.join(EXPERIMENTS)}: read them with the version that made them"
        )
    return EXPERIMENTS[name]
