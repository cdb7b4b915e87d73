"""The laws of layer masking, as functions that judge any model: `check_laws(model, images)`.

Numbered as in the README; the others are about rules and programs, not models. All but the last are judged of
the dense and of the sparse engine; `auto` is one of the two.

1 all visible      an image with nothing hidden gets the plain model's answer
2 no leak          what hidden pixels hold changes nothing, be it NaN, inf or noise
3 gradients        zero on hidden pixels; weight gradients finite and free of hidden pixels
4 monotone         showing more pixels never hides an output, in any module
5 batch            the batch answers as its images one by one, and permutes with them
9 engines          the sparse engine answers as the dense one
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from layermask._private_torch import ResultsSeen
from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.check.samples import masks
from layermask.check.watch import poisoned
from layermask.core.masked import Masked, masked_in
from layermask.removal.layer_masking import LayerMasking, taking_masked

TOLERANCE = 1e-5  # relative; where a batch size or a mask makes another kernel run
EXACT = 1e-10  # the same in float64
SLACK = 8  # errors of rounding may be as many times those that rounding makes in the plain model
COARSE = 1e-2  # rounding errors above this are pointed out
JUDGED = ("dense", "sparse")  # the engines


@dataclass(frozen=True)
class LawResult:
    """What one law says of one model; `error` is relative to the largest output.

    `rounding`: how far rounding moves answers, measured where an error may be of that; 0 elsewhere.
    """

    law: str
    passed: bool
    error: float
    detail: str = ""
    rounding: float = 0.0


# --- answers and how far apart they are ----------------------------------------------------------------


def leaves(output: object) -> Iterator[Tensor | Masked]:
    """Yield the tensors of a model's output, whatever structure holds them."""
    if isinstance(output, Tensor | Masked):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from leaves(item)


def _answer(model: nn.Module, *inputs: object) -> list[Tensor]:
    return [out.value if isinstance(out, Masked) else out for out in _outputs(model, *inputs)]


def _outputs(model: nn.Module, *inputs: object) -> list[Tensor | Masked]:
    with (
        seeded(),
        torch.no_grad(),
        taking_masked(model) if masked_in(inputs) else nullcontext(model) as called,
    ):
        found = list(leaves(called(*inputs)))
    if not found:
        raise ValueError(f"{type(model).__name__} returned no tensor")
    return found


@contextmanager
def seeded() -> Iterator[None]:
    """Let a model that draws random numbers even in eval mode draw the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _only(outputs: Iterable[Tensor], index: Tensor) -> list[Tensor]:
    return [out[index] for out in outputs]


def _one_by_one(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    count = len(inputs[0])
    rows = [_answer(model, *(tensor[i : i + 1] for tensor in inputs)) for i in range(count)]
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def deviation(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference relative to the largest value; inf for other shapes or non-finite."""
    return max((_deviation(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _deviation(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    a, b = a.detach().double(), b.detach().double()
    if torch.equal(a, b):
        return 0.0
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.inf
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


def _finite(outputs: Iterable[Tensor]) -> bool:
    return all(bool(out.isfinite().all()) for out in outputs)


# --- the laws ------------------------------------------------------------------------------------------


def all_visible(model: nn.Module, images: Tensor, seed: int = 0) -> LawResult:
    """Law 1: with nothing hidden the plain model's answer, also for one such image among masked ones."""
    everything = masks(images, ["all"], seed)
    some = masks(images, ["patches", "all", "coarse"], seed)
    whole = some.flatten(1).all(dim=1)

    def measure(model: nn.Module, images: Tensor) -> dict[str, float]:
        plain, errors = _answer(model, images), {}
        for engine, removal in _removals(model):
            alone, among = _answer(removal, images, everything), _answer(removal, images, some)
            errors[f"{engine} alone"] = deviation(alone, plain)
            errors[f"{engine} among masked"] = deviation(_only(among, whole), _only(plain, whole))
        return errors

    return _judge("1", measure, model, images)


def _removals(model: nn.Module) -> Iterator[tuple[str, LayerMasking]]:
    for engine in JUDGED:
        yield engine, LayerMasking(model, engine=engine)


def no_leak(model: nn.Module, images: Tensor, seed: int = 0) -> LawResult:
    """Law 2: NaN, inf or noise on hidden pixels leaves the answer bit-identical, and it is finite.

    Nor does noise in the hidden entries of every layer's output. Hidden pixels are set to zero before the
    first layer, which would hide a leak in a later one.
    """
    visible = masks(images, ["patches", "none", "pixel", "coarse", "block"], seed)
    noisy, broken = hidden_junk(images, visible, seed)

    def masked(removal: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: _answer(removal, x, visible)

    def paired(x: Tensor) -> list[Tensor]:  # straight into the model: hidden pixels are not set to zero
        return _visible_only(_outputs(model, Masked(x, visible)))

    def noisy_within(x: Tensor) -> list[Tensor]:
        return _visible_only(_outputs(model, poisoned(Masked(x, visible))))

    ways = {engine: masked(removal) for engine, removal in _removals(model)}
    bases = {engine: answer(images) for engine, answer in ways.items()}
    for engine, base in bases.items():
        if not _finite(base):
            return LawResult("2", False, math.inf, f"the masked answer is not finite ({engine})")
    errors = {
        f"nan, inf and noise ({engine})": deviation(answer(broken), bases[engine])
        for engine, answer in ways.items()
    }
    errors["noise in every layer"] = deviation(noisy_within(noisy), paired(images))
    error = max(errors.values())
    if error == 0:
        return LawResult("2", True, error)
    own = max(_unrepeatable(answer, images) for answer in (*ways.values(), paired))
    bad = ", ".join(f"{name} {value:.1e}" for name, value in errors.items() if value)
    return LawResult("2", error <= 4 * own, error, f"leaks: {bad}; the same input twice: {own:.1e}", own)


def _noise(images: Tensor, seed: int) -> Tensor:
    return 100 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)


def _poison(images: Tensor, seed: int) -> Tensor:
    """NaN, inf, -inf and noise, pixel by pixel, so that one pass tries them all."""
    kinds = torch.randint(0, 4, images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    fills = torch.tensor([math.nan, math.inf, -math.inf, 0.0]).to(images)[kinds]
    return torch.where(kinds == 3, _noise(images, seed), fills)


def hidden_junk(images: Tensor, visible: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the images with noise in their hidden pixels, and with NaN, infinities and noise."""
    return tuple(torch.where(visible, images, x) for x in (_noise(images, seed), _poison(images, seed)))  # type: ignore[return-value]


def _unrepeatable(answer: Callable[[Tensor], list[Tensor]], images: Tensor) -> float:
    """Return how far answers to the same input differ: some kernels round by how memory is aligned."""
    first, worst = answer(images), 0.0
    for _ in range(16):
        worst = max(worst, deviation(answer(images.clone()), first))
        if worst > 0:
            break
    return worst


def _visible_only(outputs: Iterable[Tensor | Masked]) -> list[Tensor]:
    """Blank what a masked output leaves unspecified."""
    return [torch.where(o.visible, o.value, 0) if isinstance(o, Masked) else o for o in outputs]


def gradients(model: nn.Module, images: Tensor, seed: int = 0) -> LawResult:
    """Law 3: pixel gradients zero where hidden; weight gradients finite, whatever hidden pixels hold."""
    visible = masks(images, ["patches", "none", "coarse", "all"], seed)
    poisoned = torch.where(visible, images, math.nan)
    noisy = torch.where(visible, images, _noise(images, seed))

    def paired(x: Tensor) -> list[Tensor]:
        pixels, weights = _gradients(model, x, lambda x: _visible_only(leaves(model(Masked(x, visible)))))
        return [pixels.masked_fill(~visible, 0), *weights]

    error = deviation(paired(noisy), paired(images))
    found = ["gradients change with hidden pixels"] if error > TOLERANCE else []
    for engine, removal in _removals(model):
        found_now = _gradients(model, poisoned, lambda x, f=removal: list(leaves(f(x, visible))))
        found += [f"{fault} ({engine})" for fault in _faults(*found_now, visible)]
    return LawResult("3", not found, error, ", ".join(found))


def _faults(pixels: Tensor, weights: list[Tensor], visible: Tensor) -> list[str]:
    faults = {
        "gradient on hidden pixels": bool(pixels.masked_fill(visible, 0).any()),
        "pixel gradient not finite": not _finite([pixels]),
        "no gradient on visible pixels": not pixels.any(),
        "weight gradient not finite": not _finite(weights),
        "no weight gradient": not any(bool(weight.any()) for weight in weights),
    }
    return [fault for fault, is_so in faults.items() if is_so]


def _gradients(
    model: nn.Module, images: Tensor, answer: Callable[[Tensor], list]
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradients of a random mix of the outputs, for the pixels and for every weight in use."""
    x = images.detach().clone().requires_grad_()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with seeded(), torch.enable_grad():
        outputs = [out for out in answer(x) if out.is_floating_point()]
        total = torch.stack([(torch.randn_like(out) * out).sum() for out in outputs]).sum()
    pixels, *weights = torch.autograd.grad(total, [x, *parameters], allow_unused=True)
    assert pixels is not None, "no gradient reaches the image"
    return pixels, [weight for weight in weights if weight is not None]


def monotone(model: nn.Module, images: Tensor, seed: int = 0) -> LawResult:
    """Law 4: what is visible in any module's output stays so when more pixels are shown."""
    less = masks(images, ["coarse", "none", "pixel", "patches"], seed)
    more = less | masks(images, ["patches", "pixel", "block", "all"], seed + 1)
    before, after = _trace(model, images, less), _trace(model, images, more)
    pairs = zip(before, after, strict=True)
    broken = [name for (name, small), (_, big) in pairs if bool((small & ~big).any())]
    detail = f"{len(before)} masked outputs, hidden by showing more: {', '.join(broken[:5]) or 'none'}"
    return LawResult("4", not broken, len(broken) / max(1, len(before)), detail)


def _trace(model: nn.Module, images: Tensor, visible: Tensor) -> list[tuple[str, Tensor]]:
    """Return the name and mask of every masked module output under every engine, in order of the calls."""
    found: list[tuple[str, Tensor]] = []

    def hook(name: str) -> Callable:
        def record(module: nn.Module, inputs: object, output: object) -> None:
            found.extend((name, out.visible) for out in leaves(output) if isinstance(out, Masked))

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        for _, removal in _removals(model):
            _outputs(removal, images, visible)
    finally:
        for handle in handles:
            handle.remove()
    return found


def batched(model: nn.Module, images: Tensor, seed: int = 0) -> LawResult:
    """Law 5: a batch answers as its images one by one, and permutes with them."""
    visible = masks(images, ["patches", "none", "all", "pixel", "block"], seed)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)

    def measure(model: nn.Module, images: Tensor) -> dict[str, float]:
        errors = {}
        for engine, removal in _removals(model):
            batch = _answer(removal, images, visible)
            permuted = _answer(removal, images[order], visible[order])
            errors[f"{engine} one by one"] = deviation(_one_by_one(removal, images, visible), batch)
            errors[f"{engine} permuted"] = deviation(permuted, _only(batch, order))
        return errors

    return _judge("5", measure, model, images, visible)


def engines(model: nn.Module, images: Tensor, seed: int = 0) -> LawResult:
    """Law 9: the sparse engine answers as the dense one."""
    visible = masks(images, ["patches", "all", "coarse", "none", "pixel"], seed)

    def measure(model: nn.Module, images: Tensor) -> dict[str, float]:
        dense, sparse = (_answer(removal, images, visible) for _, removal in _removals(model))
        return {"sparse and dense": deviation(sparse, dense)}

    return _judge("9", measure, model, images, visible)


LAWS: dict[str, Callable[[nn.Module, Tensor, int], LawResult]] = {
    "1": all_visible,
    "2": no_leak,
    "3": gradients,
    "4": monotone,
    "5": batched,
    "9": engines,
}


WORDS = {
    "1": "with all visible, the plain model's answer",
    "2": "what hidden pixels hold changes nothing",
    "3": "gradients are exact, and zero on hidden pixels",
    "4": "showing more never hides an output",
    "5": "a batch answers as its images one by one",
    "9": "the engines agree",
}
"""What each law says, in a few words."""


@checked(
    model=kinds.model,
    images=kinds.images,
    laws=partial(kinds.several, kind=partial(kinds.choice, known=LAWS), least=0),
    seed=kinds.seed,
    say=kinds.optional(kinds.function),
)
def check_laws(
    model: nn.Module,
    images: Tensor,
    laws: Sequence[str] = ("1", "2", "5"),
    seed: int = 0,
    say: Callable[[str], object] | None = None,
) -> list[LawResult]:
    """Judge `model` by the `laws` on `images` (N, C, *S), N >= 4; a law that raises has failed.

    `say` hears which law is judged next.
    """
    return [_guarded(law, model, images, seed, say or str) for law in laws]


def _guarded(
    law: str, model: nn.Module, images: Tensor, seed: int, say: Callable[[str], object]
) -> LawResult:
    say(f"law {law}: {WORDS[law]}")
    try:
        return LAWS[law](model, images, seed)
    except Exception as error:  # any error of any model is a verdict, and must not end a run over many
        reason = str(error).strip().split("\n")[0]
        return LawResult(law, False, math.inf, f"{type(error).__name__}: {reason}")


# --- the tolerance -------------------------------------------------------------------------------------

Measure = Callable[[nn.Module, Tensor], dict[str, float]]
"""What was compared -> how far apart it is, for a model and images of any precision."""


def _judge(
    law: str, measure: Measure, model: nn.Module, images: Tensor, visible: Tensor | None = None
) -> LawResult:
    """Pass below TOLERANCE; above it, only what rounding explains.

    Each engine is measured in float32 and again in float64, where rounding is 10^9 times less and all else
    stays: there it has to be EXACT. In float32 the error may be SLACK times what rounding does to answers,
    which a deep net may amplify at will: to the plain model's, and if there are masks, to masked ones'.
    """
    errors = measure(model, images)
    error, detail = max(errors.values()), _listed(errors)
    if error <= TOLERANCE:
        return LawResult(law, True, error, detail)
    double = _in_float64(model, images)
    if _mixes_images(model if double is None else double, images):
        return LawResult(law, False, error, f"{detail}; {_MIXES}")
    own = _rounding(model, images, visible, double)
    detail += f"; rounding moves answers by {own:.1e}"
    detail += ", which is too much to judge float32 well" * (own > COARSE)
    passed = error <= SLACK * own
    if double is not None:
        exact = max(measure(double, images.double()).values())
        finest = own if _casts(double, images.double()) else _rounding(double, images.double(), visible)
        detail += f"; in float64 {exact:.1e} and {finest:.1e}"
        passed &= exact <= max(EXACT, SLACK * finest)
    return LawResult(law, passed, error, detail, own)


_MIXES = "the plain model's own answer to an image depends on the others of its batch, or has no row for it"


def _mixes_images(model: nn.Module, images: Tensor) -> bool:
    """Whether images one by one are answered otherwise, by more than rounding does: that excuses nothing."""
    images = images.to(next((p.dtype for p in model.parameters()), images.dtype))
    apart = deviation(_one_by_one(model, images), _answer(model, images))
    rounds = images.dtype is not torch.float64 or _casts(model, images)
    return apart > (COARSE if rounds else TOLERANCE)


def _listed(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def _in_float64(model: nn.Module, images: Tensor) -> nn.Module | None:
    """Return the model in float64, or None if it casts to float32 on its own and cannot run so."""
    double = copy.deepcopy(model).double()
    try:
        _answer(double, images.double())
    except RuntimeError:
        return None
    return double


def _casts(double: nn.Module, images: Tensor) -> bool:
    """Whether a model in float64 computes in float32 in places, where it rounds as in float32."""
    seen: set[torch.dtype] = set()
    with ResultsSeen(lambda x: seen.add(x.dtype)):
        _answer(double, images)
    return torch.float32 in seen


def _rounding(
    model: nn.Module, images: Tensor, visible: Tensor | None, double: nn.Module | None = None
) -> float:
    """Return how far rounding moves answers.

    The plain model's: from float64's, if that is given; and in a batch from one by one. Masked ones': what a
    change of the pixels in their last digit does to them. With few cells visible, norms divide by next to
    nothing, and no answer of the plain model tells how much that amplifies.
    """
    plain = _answer(model, images)
    own = [deviation(_one_by_one(model, images), plain)]
    if double is not None:
        own.append(deviation(plain, _answer(double, images.double())))
    for _, removal in _removals(model) if visible is not None else ():
        near, here = (_answer(removal, x, visible) for x in (_nudged(images), images))
        own.append(deviation(near, here))
    return max(own)


def _nudged(images: Tensor) -> Tensor:
    """Change every number in its last digit, up or down at random."""
    draws = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    return images * (1 + torch.finfo(images.dtype).eps * (draws - 0.5).sign())
