"""What a library adds to a model that is almost free: milliseconds per perturbed sample.

224x224x3, 196 segments, 1,000 samples, grey fill, in one process, the sides taking turns; and the memory that
more samples take. Writes a section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable

import torch
from memory import peak_memory
from page import write_section
from torch import Tensor, nn

import layermask as lm

SAMPLES, SIDE = 1000, 224
SEGMENTS = lm.Grid(16)(torch.empty(SIDE, SIDE))


class AlmostFree(nn.Module):
    """The corner pixel of each channel through a linear layer: no pass over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images[..., 0, 0])


def ours(explainer: type, model: nn.Module, image: Tensor, batch: int) -> Callable[[], object]:
    each = explainer(lm.removal.Greyout(model), n_samples=SAMPLES, perturbations_per_eval=batch)
    return lambda: each.attribute(image, 0, SEGMENTS)


def captums(method: str, model: nn.Module, image: Tensor, batch: int) -> Callable[[], object]:
    from captum import attr

    explainer = getattr(attr, method)(lambda x: model(x).softmax(1))
    return lambda: explainer.attribute(
        image,
        baselines=0,
        target=0,
        feature_mask=SEGMENTS[None, None],
        n_samples=SAMPLES,
        perturbations_per_eval=batch,
    )


def limes(model: nn.Module, image: Tensor, batch: int) -> Callable[[], object]:
    from lime.lime_image import LimeImageExplainer

    picture = image[0].permute(1, 2, 0).double().numpy()

    def classify(pictures: object) -> object:
        x = torch.as_tensor(pictures).permute(0, 3, 1, 2).float()
        return model(x).softmax(1).detach().numpy()

    explainer = LimeImageExplainer(random_state=0)
    return lambda: explainer.explain_instance(
        picture,
        classify,
        labels=(0,),
        top_labels=None,
        hide_color=0,
        num_features=196,
        num_samples=SAMPLES,
        batch_size=batch,
        segmentation_fn=lambda _: SEGMENTS.numpy(),
    )


def sides() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model, image = AlmostFree().eval(), torch.randn(1, 3, SIDE, SIDE)
    return {
        "layermask Lime, 32 at a time": ours(lm.Lime, model, image, 32),
        "layermask KernelShap, 32": ours(lm.KernelShap, model, image, 32),
        "layermask PermutationShapley, 32": ours(lm.PermutationShapley, model, image, 32),
        "captum KernelShap, 32": captums("KernelShap", model, image, 32),
        "captum KernelShap, 1": captums("KernelShap", model, image, 1),
        "captum Lime, 32": captums("Lime", model, image, 32),
        "lime, 10": limes(model, image, 10),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds per sample. The order is drawn anew for every round: what one side leaves behind in memory
    is cleaned up by the next."""
    calls = sides()
    found: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for turn in range(rounds + 1):
        for name in draw.sample(list(calls), len(calls)):
            gc.collect()
            start = time.perf_counter()
            calls[name]()
            if turn:  # the first round is to warm up
                found[name].append(1000 * (time.perf_counter() - start) / SAMPLES)
    return found


def peak(explainer: str, samples: int) -> float:
    """Return the peak of memory while explaining, in MiB."""
    setup = (
        "from overhead import SEGMENTS, SIDE, AlmostFree, lm\n"
        f"explainer = lm.{explainer}(lm.removal.Greyout(AlmostFree()), n_samples={samples})\n"
        "image = torch.randn(1, 3, SIDE, SIDE)\n"
        "explainer.attribute(image, 0, SEGMENTS, n_samples=500)"  # what the first call loads stays
    )
    return peak_memory(setup, "explainer.attribute(image, 0, SEGMENTS)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    lines = [f"One image of 224x224x3, 196 segments, {SAMPLES:,} samples, grey fill, {rounds} rounds.", ""]
    lines += ["| masks per call | ms per sample, median | from | to |", "|---|---|---|---|"]
    for name, times in measure(rounds).items():
        lines.append(f"| {name} | {statistics.median(times):.3f} | {min(times):.3f} | {max(times):.3f} |")
    lines += [
        "",
        "Peak memory while explaining, 32 masks at a time, medians of five processes, MiB:",
        "",
    ]
    lines += ["| explainer | 1,000 samples | 10,000 samples |", "|---|---|---|"]
    for explainer in ("Lime", "KernelShap", "PermutationShapley"):
        lines.append(f"| {explainer} | {peak(explainer, 1000):.0f} | {peak(explainer, 10_000):.0f} |")
    print("\n".join(lines))
    write_section("What explaining adds to a model that is almost free", lines)


if __name__ == "__main__":
    main()
