"""Random weights that leave an error no place to hide.

A fresh model is a poor test: batch norm is the identity, biases, class tokens and layer scales are zero,
and in a deep net without trained statistics everything under- or overflows. `randomise` redraws all of them
and then walks once through the model to bring every layer's output to order one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layermask.check.samples import sample_images


def randomise(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """Redraw the weights and statistics of `model` in place, so that answers to `images` are of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_floating_point():
                    _redraw(module, name, parameter, generator)
        with _calibrating(model, generator):
            model(_with_others(images, seed + 1))
    return model


def _with_others(images: Tensor, seed: int) -> Tensor:
    """Add enough images that others are of the same scale: what few share, every layer would amplify."""
    pixels = images[0, 0].numel()
    more = max(4, min(28, 28 * 96**2 // pixels))
    return torch.cat([images, sample_images(more, images.shape[1:], seed).to(images)])


def _redraw(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> None:
    spread, level = parameter.std(correction=0).item(), parameter.mean().abs().item()
    if "weight" in name and parameter.ndim > 1 and not isinstance(module, nn.Embedding):
        parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    elif name.endswith("bias") or name.startswith("bias"):
        parameter.normal_(0, 0.2, generator=generator)
    elif max(spread, level) <= 0.1:  # layer scales, tokens, position tables: initialised to nearly nothing
        parameter.normal_(0, 0.5, generator=generator)
    else:  # norm weights, temperatures, anything with a structure of its own
        parameter.mul_(_between(0.6, 1.4, parameter, generator))


def _between(low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).uniform_(low, high, generator=generator)


@contextmanager
def _calibrating(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Set statistics and scales, layer by layer, from what flows through during one forward pass."""

    def statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _set_statistics(module, inputs[0], generator)

    def scale(module: nn.Module, inputs: tuple, output: object) -> object:
        return _set_scale(module, inputs, output)

    handles = []
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            handles.append(module.register_forward_pre_hook(statistics))
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            handles.append(module.register_forward_hook(scale))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set_statistics(module: nn.Module, x: Tensor, generator: torch.Generator) -> None:
    """Give batch norm the statistics of `x`, each off by a random amount."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x, dim=axes, correction=0)
    variance = variance.clamp_min(variance.mean() + 1e-3)  # of few images: other images may vary more
    if isinstance(running := getattr(module, "running_mean", None), Tensor):
        running.copy_(mean + 0.3 * variance.sqrt() * torch.randn(mean.shape, generator=generator))
    if isinstance(running := module.running_var, Tensor):
        running.copy_(variance * _between(0.6, 1.6, variance, generator))


def _set_scale(module: nn.Module, inputs: tuple, output: object) -> object:
    """Give the layer's output a standard deviation near one and channels off centre by a little only.

    A net without normalisation would otherwise answer with its biases, whatever the image.
    """
    assert isinstance(output, Tensor)
    spread = output.std(correction=0).item()
    if spread > 0 and not 0.5 < spread < 2:
        for parameter in module.parameters(recurse=False):
            parameter.div_(spread)
    if isinstance(bias := module.bias, Tensor):
        axis = -1 - len(getattr(module, "kernel_size", ()))
        off_centre = 0.2 * torch.linspace(-1, 1, len(bias))
        bias.add_(off_centre - module.forward(*inputs).movedim(axis, 0).flatten(1).mean(dim=1))
    return module.forward(*inputs)
