"""LIME from end to end: layer masking, and grey fill by captum and by lime, over as many plain forwards.

ResNet-50, 224x224, the 196 patches of a grid; segmentation, masks and the fit are timed too. All sides have
the same model, number of samples and batch size, and take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from forward import devices
from lines import Lines
from markup import Line, by_machine, heading, table, title, where
from masks import SIDE, SIZE
from models import build
from page import write_all
from timing import Deadline, Late, alternate, ratios, spread, synchronize
from torch import Tensor
from workload import LAYOUTS

import layermask as lm


@dataclass(frozen=True)
class Setting:
    device: str
    dtype: str
    mode: str
    batch: int
    samples: int = 1000
    layout: str = "channels_last"

    @property
    def name(self) -> str:
        return f"{self.device}/{self.dtype}/{self.mode}/{self.layout}/b{self.batch}/{self.samples}"


SETTINGS = {
    "cpu": (
        Setting("cpu", "float32", "eager", 64),
        Setting("cpu", "float32", "eager", 64, layout="contiguous"),
    ),
    "cuda": (Setting("cuda", "bfloat16", "compile", 256), Setting("cuda", "bfloat16", "eager", 256)),
}

Side = Callable[[int], object]  # explains with so many samples


class Clock:
    """A model whose seconds are counted, and which stops when the time is over."""

    def __init__(self, call: Callable, device: str, deadline: Deadline) -> None:
        self.call, self.device, self.deadline = call, device, deadline
        self.seconds, self.exact = 0.0, device == "cpu"

    def __call__(self, *args: Any) -> Any:
        self.deadline.check()
        if not self.exact:  # to wait for a GPU at every call would cost time
            return self.call(*args)
        synchronize(self.device)
        start = time.perf_counter()
        out = self.call(*args)
        synchronize(self.device)
        self.seconds += time.perf_counter() - start
        return out


class Work:
    """The model, one picture, and the sides: each a function of the number of samples."""

    def __init__(self, setting: Setting, deadline: Deadline) -> None:
        torch.manual_seed(0)
        self.setting, self.deadline = setting, deadline
        self.place = {"device": setting.device, "dtype": getattr(torch, setting.dtype)}
        self.model = build("resnet50").to(**self.place, memory_format=LAYOUTS[setting.layout])
        self.image = torch.randn(1, 3, SIZE, SIZE)
        self.fast = torch.compile(self.model) if setting.mode == "compile" else self.model
        self.clocks: dict[str, Clock] = {}

    def _clock(self, side: str, call: Callable) -> Clock:
        self.clocks[side] = Clock(call, self.setting.device, self.deadline)
        return self.clocks[side]

    def _probabilities(self, images: Tensor) -> Tensor:
        images = images.to(**self.place, memory_format=LAYOUTS[self.setting.layout])
        return self.fast(images).float().softmax(1)

    def plain(self) -> Side:
        ask = self._clock("plain", self.fast)
        images = torch.randn(self.setting.batch, 3, SIZE, SIZE)
        images = images.to(**self.place, memory_format=LAYOUTS[self.setting.layout])

        def forwards(samples: int) -> None:
            with torch.inference_mode():
                for start in range(0, samples, self.setting.batch):
                    ask(images[: samples - start])

        return forwards

    def layermask(self) -> Side:
        removal = lm.LayerMasking(self.model, engine="auto")
        ask = self._clock("layermask", torch.compile(removal) if self.setting.mode == "compile" else removal)
        explainer = lm.Lime(ask, perturbations_per_eval=self.setting.batch)
        image = self.image.to(**self.place, memory_format=LAYOUTS[self.setting.layout])
        return lambda samples: explainer.attribute(image, 0, _segments(image), n_samples=samples)

    def captum(self) -> Side:
        from captum.attr import Lime

        explainer = Lime(self._clock("captum", self._probabilities))
        image = self.image.to(self.setting.device)
        return lambda samples: explainer.attribute(
            image,
            baselines=0,
            target=0,
            feature_mask=_segments(image)[None, None].to(image.device),
            n_samples=samples,
            perturbations_per_eval=self.setting.batch,
        )

    def lime(self) -> Side:
        from lime.lime_image import LimeImageExplainer

        ask = self._clock("lime", self._probabilities)
        picture = self.image[0].permute(1, 2, 0).double().numpy()

        def classify(pictures: Any) -> Any:
            with torch.inference_mode():
                return ask(torch.as_tensor(pictures).permute(0, 3, 1, 2).float()).cpu().numpy()

        explainer = LimeImageExplainer(random_state=0)
        return lambda samples: explainer.explain_instance(
            picture,
            classify,
            labels=(0,),
            top_labels=None,
            hide_color=0,
            num_features=(SIZE // SIDE) ** 2,
            num_samples=samples,
            batch_size=self.setting.batch,
            segmentation_fn=lambda pixels: _segments(torch.empty(pixels.shape[:2])).numpy(),
        )


SIDES = {
    "plain": "plain forwards, as many",
    "layermask": "layermask Lime, layer masking",
    "captum": "captum Lime, grey fill",
    "lime": "the package lime, grey fill",
}


def _segments(image: Tensor) -> Tensor:
    return lm.Grid(SIDE)(image)


def measure(setting: Setting, rounds: int, deadline: Deadline) -> dict[str, Any]:
    """Time all sides whose package is installed.

    Raises:
        Late: the deadline came before there was a result.
    """
    work = Work(setting, deadline)
    sides, errors = _warmed(work)
    outside: dict[str, list[float]] = {name: [] for name in sides}
    calls = {name: _watched(side, work.clocks[name], outside[name]) for name, side in sides.items()}
    times = alternate(calls, lambda turn: [setting.samples], rounds, deadline, setting.device)
    for name, call in calls.items():
        if not work.clocks[name].exact:  # once more, waiting for the GPU at every call
            work.clocks[name].exact = True
            call(setting.samples)
    return {
        "setting": dataclasses.asdict(setting),
        "cut": len(times.wall["plain"]) < rounds,
        "wall": times.wall,
        "cpu": times.cpu,
        "outside": outside,
        "errors": errors,
        "packages": dict(_packages()),
    }


def _warmed(work: Work) -> tuple[dict[str, Side], dict[str, str]]:
    """The sides after two calls each, and why others do not run here."""
    setting, sides, errors = work.setting, {}, {}
    samples = setting.batch if (setting.device, setting.mode) == ("cpu", "eager") else setting.samples
    for name in SIDES:
        try:
            side = getattr(work, name)()
            for _ in range(2):
                side(samples)
            sides[name] = side
        except Late:
            raise
        except Exception as error:
            if name == "plain":
                raise
            errors[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    return sides, errors


def _watched(side: Side, clock: Clock, outside: list[float]) -> Side:
    """The side, noting the seconds of each call that its model did not take, where these are known."""

    def call(samples: int) -> None:
        clock.seconds, start = 0.0, time.perf_counter()
        side(samples)
        if clock.exact:
            outside.append(time.perf_counter() - start - clock.seconds)

    return call


def _packages() -> Iterator[tuple[str, str]]:
    from importlib import metadata

    for name in ("captum", "lime"):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def run(settings: Iterable[Setting], lines: Lines, rounds: int, deadline: Deadline) -> None:
    for setting in settings:
        if setting.name in lines.done("lime", setting.device):
            continue
        print(f"LIME, {setting.name} ", end="", flush=True)
        try:
            found = measure(setting, rounds, deadline)
        except Late:
            print("not finished in time")
            return
        lines.add("lime", setting.name, setting.device, **found)
        parts = [f"{side} {statistics.median(ratios(found['wall'], side)):.2f}" for side in found["wall"]]
        print(f"{statistics.median(found['wall']['plain']):.2f} s; {', '.join(parts)}", flush=True)


# --- the page ------------------------------------------------------------------------------------------


def lime_section(lines: Iterable[Line]) -> list[str]:
    out = [
        "One picture of 224x224 explained over 196 patches by LIME, ResNet-50 with random weights: "
        "segmentation, masks, the model and the fit. Plain forwards are of the same model, as many, and as "
        "many at a time. What is not the model is the rest of the time when each call of it is waited for.",
    ]
    for group in by_machine(lines):
        out += ["", heading(group), "", where(group)]
        for line in group:
            out += ["", *_table(line)]
    if not any(line["machine"]["device"] == "cuda" for line in lines):
        out += ["", f"### {title('cuda')}", "", "Not measured: no GPU at hand."]
    return out


def _table(line: Line) -> list[str]:
    setting, packages = Setting(**line["setting"]), line["packages"]
    rows = []
    for side, words in SIDES.items():
        named = f"{words} ({side} {packages[side]})" if side in packages else words
        if side not in line["wall"]:
            rows.append([named, f"not run: {line['errors'][side]}", "", ""])
            continue
        rest = statistics.median(line["outside"][side])
        seconds = statistics.median(line["wall"][side])
        rows.append([named, f"{seconds:.3g}", spread(ratios(line["wall"], side)), f"{rest:.3g}"])
    head = ["", "seconds", "over plain forwards", "not the model, s"]
    what = (f"{setting.samples:,} samples", setting.dtype, setting.mode, setting.layout)
    return [f"**{', '.join(what)}, batch {setting.batch}**", "", *table(head, rows)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--batch", type=int, help="masks at a time; by default 64 on a CPU, 256 on a GPU")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--limit-minutes", type=float, help="stop after this time")
    given = options.parse_args()
    lines = Lines()
    change = {"samples": given.samples, **({"batch": given.batch} if given.batch else {})}
    for device in devices():
        settings = [dataclasses.replace(setting, **change) for setting in SETTINGS[device]]
        run(settings, lines, given.rounds, Deadline(given.limit_minutes))
    write_all([lines.path.parent])


if __name__ == "__main__":
    main()
