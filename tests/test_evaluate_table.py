"""Laws that every experiment of the table keeps, from the table: a new one is tested without a new test."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sheets import readable_texts
from test_cli import refused
from test_cli import run as command
from test_evaluate import five, same

from layermask.data import open_source
from layermask.errors import InputError
from layermask.studies import EXPERIMENTS, read_results, run
from layermask.studies.registry import experiment_of
from layermask.zoo.labels import numbered
from layermask.zoo.loaded import Loaded
from layermask.zoo.preprocessing import Preprocessing

PREPROCESSING = Preprocessing((72, 72), (64, 64))
QUICK = {
    "lime": dict(n_samples=30, segmentations=("grid:16", "slic:9")),
    "operators": dict(segmentations=("grid:16",), steps=3, n_orders=2, methods=("random", "lime@greyout")),
}
"""Settings that make an experiment quick, where its own take long on small pictures."""

every = pytest.mark.parametrize("name", EXPERIMENTS)


def make_data(root: Path, count: int = 5, labels: bool = True) -> Path:
    """Write pictures with all that an experiment may need."""
    from PIL import Image

    for folder in (root, root / "masks", root / "saliency"):
        folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (5, 7, 3), np.uint8))
        small.resize((90, 80), Image.Resampling.BICUBIC).save(root / f"{number}.png")
        mask = np.zeros((80, 90), np.uint8)
        mask[20 : 45 + number, 30 : 60 - number] = 255
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        Image.fromarray(random.integers(0, 255, (80, 90), np.uint8)).save(root / "saliency" / f"{number}.png")
    if labels:
        rows = [f"{number}.png,{number % 3}" for number in range(count)]
        (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return root


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def loaded() -> Loaded:
    return Loaded(five(), PREPROCESSING, numbered(5), "five")


def quick(name: str):
    return EXPERIMENTS[name].experiment(**QUICK.get(name, {}))


def test_names_are_those_of_the_classes():
    from layermask import studies

    for name, entry in EXPERIMENTS.items():
        experiment = entry.experiment()  # every setting has a default
        assert experiment.name == name
        assert getattr(studies, entry.class_name) is entry.experiment
        assert entry.summary[-1] in ".?" and entry.source
        assert "image" in experiment.columns and "removal" in experiment.columns


@every
def test_settings_hold_every_field(name, data, loaded):
    """What is not in them could change between two runs that go on with each other's rows."""
    experiment = quick(name)
    settings = experiment.settings(open_source(data))
    fields = {each.name for each in dataclasses.fields(experiment) if each.init and each.compare}
    assert fields <= settings.keys()
    assert json.loads(json.dumps(settings)) == settings


@every
def test_rows_do_not_depend_on_batches_or_other_pictures(name, data, loaded, tmp_path):
    source = open_source(data)
    whole, content = read_results(run(quick(name), loaded, source, tmp_path / "a").folder)
    assert list(whole) == list(quick(name).columns)
    assert content["settings"]["experiment"] == name and content["classes"] == list(loaded.labels)
    assert str(tmp_path) not in json.dumps(content["settings"])
    same(whole, read_results(run(quick(name), loaded, source, tmp_path / "b", batch_size=3).folder)[0])
    one = dataclasses.replace(source, samples=source.samples[3:4])
    alone = read_results(run(quick(name), loaded, one, tmp_path / "c").folder)[0]
    same(alone, {key: values[whole["image"] == "3.png"] for key, values in whole.items()})


class Stop(Exception):
    pass


@every
def test_a_run_that_stops_goes_on(name, data, loaded, tmp_path):
    source = open_source(data)
    expected = run(quick(name), loaded, source, tmp_path / "whole").results.read_bytes()

    class Stopping(EXPERIMENTS[name].experiment):
        def rows(self, scene, *arguments):
            if scene.sample.name == "2.png":
                raise Stop
            return super().rows(scene, *arguments)

    out = tmp_path / "out"
    with pytest.raises(Stop):
        run(Stopping(**QUICK.get(name, {})), loaded, source, out)
    assert run(quick(name), loaded, source, out).results.read_bytes() == expected


@every
@pytest.mark.parametrize("labels", [True, False])
def test_reports_follow_from_the_results(name, labels, loaded, tmp_path):
    entry = EXPERIMENTS[name]
    source = open_source(make_data(tmp_path / "data", labels=labels))
    columns, content = read_results(run(quick(name), loaded, source, tmp_path / "out").folder)
    assert experiment_of(content) is entry
    words = entry.words(columns, content)
    assert words[0].startswith("5 images of folder:data")
    if "labels" in content["settings"]:
        assert any("no labels" in line for line in words) is not labels
    tables = entry.summarise(columns, content)
    assert len({table.name for table in tables}) == len(tables) and tables[0].on_page
    for table in tables:
        assert all(len(row) == len(table.header) for row in table.rows)
        lines = list(csv.reader(io.StringIO(table.as_csv())))
        assert len({len(line) for line in lines}) == 1 and len(lines) == len(table.rows) + 1
        head = table.as_markdown().splitlines()[0]
        assert not table.rows or [cell.strip() for cell in head.split("|")[1:-1]] == list(table.header)
    readable_texts(entry.sheet(columns, content))


MODEL = """
from test_evaluate_table import PREPROCESSING, five
from layermask.zoo import Loaded
from layermask.zoo.labels import numbered
def model():
    return Loaded(five(), PREPROCESSING, numbered(5), "five")
"""


@pytest.fixture
def own_model(tmp_path, monkeypatch) -> Path:
    (tmp_path / "table_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "table_model", raising=False)
    return tmp_path


FLAGS = {"n_samples": "--n-samples", "segmentations": "--segments", "n_orders": "--n-orders"}


@every
def test_the_command_and_its_plot(name, data, own_model):
    flags = [
        text
        for key, value in QUICK.get(name, {}).items()
        for text in (FLAGS.get(key, f"--{key}"), ",".join(value) if isinstance(value, tuple) else str(value))
    ]
    ask = ["evaluate", name, "--data", data, "--model", "table_model:model", "--device", "cpu", *flags]
    shown = command(*ask, "--limit", 3, "--out", "out").stdout
    assert "3 images of folder:data" in shown and "wrote out/results.parquet" in shown
    assert command(*ask, "--limit", 3, "--out", "out", "--quiet").output == ""
    drawn = command("plot", "out", "--out", "drawn").stdout
    entry = EXPERIMENTS[name]
    columns, content = read_results("out")
    tables = entry.summarise(columns, content)
    assert tables[0].as_markdown() in shown and tables[0].as_markdown() in drawn
    page = Path("drawn/results.md").read_text()
    assert all(line in page for line in entry.words(columns, content))
    for table in tables:
        assert Path(f"drawn/{table.name}.csv").read_text() == table.as_csv()
        assert (f"## {table.title}\n" in page) is table.on_page
    assert Path("drawn/results.png").stat().st_size > 10_000
    for option, value in (("rule", "trapezoid"), ("hits", "1")):
        if option in entry.options:
            command("plot", "out", "--out", "drawn", f"--{option}", value)
        else:
            message = refused("plot", "out", "--out", "drawn", f"--{option}", value)
            assert f"--{option} {value} means nothing for results of {name}" in message


def text_of(*arguments: str) -> str:
    return " ".join(command(*arguments, "--help").stdout.replace("│", " ").split())


def test_the_help_is_that_of_the_table():
    listed = text_of("evaluate")
    assert all(f"{name} {entry.summary}" in listed for name, entry in EXPERIMENTS.items())


@every
def test_commands_share_their_options(name):
    from layermask.data import DATA_SOURCES

    shown = text_of("evaluate", name)
    assert EXPERIMENTS[name].summary in shown and all(kind in shown for kind in DATA_SOURCES)
    shared = "data kind images model weights removals limit seed out batch-size device skip-unreadable force"
    assert [option for option in shared.split() if f"--{option} " not in shown] == []


@every
def test_the_page_names_every_column_and_the_source(name):
    page = Path(__file__).parents[1].joinpath("docs/evaluate.md").read_text()
    assert f"## `{name}`" in page
    section = page.split(f"## `{name}`")[1].split("\n## ")[0]
    assert [each for each in EXPERIMENTS[name].experiment.columns if f"`{each}`" not in section] == []


def test_results_of_no_experiment(data, loaded, tmp_path):
    store = run(quick("shape"), loaded, open_source(data), tmp_path / "out")
    content = read_results(store.folder)[1]
    content["settings"]["experiment"] = "sections"
    with pytest.raises(InputError, match="of the experiment 'sections', and this version of layermask knows"):
        experiment_of(content)
    with pytest.raises(InputError, match="of the experiment None"):
        experiment_of({})


def test_masks_are_needed_where_objects_are_hidden(data, loaded, tmp_path):
    (data / "masks" / "1.png").unlink()
    message = r"1 of 5 images .* have no mask \(1.png\)"
    with pytest.raises(InputError, match=message):
        run(quick("shape"), loaded, open_source(data), tmp_path / "out")
