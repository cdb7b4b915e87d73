"""What a library adds to a model that is almost free: milliseconds per perturbed sample.

224x224x3, 196 segments, 1,000 samples, grey fill, in one process, the sides taking turns; writes a table to
standard output, and with --write into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
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
    each = explainer(lm.Greyout(model), n_samples=SAMPLES, perturbations_per_eval=batch)
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
    found: dict[str, list[float]] = {name: [] for name in sides()}
    for round_ in range(rounds + 1):
        for name, call in sides().items():
            start = time.perf_counter()
            call()
            if round_:  # the first is to warm up
                found[name].append(1000 * (time.perf_counter() - start) / SAMPLES)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    for name, times in measure(parser.parse_args().rounds).items():
        print(f"{name:36s} {statistics.median(times):.3f} ms a sample ({min(times):.3f} to {max(times):.3f})")


if __name__ == "__main__":
    main()
