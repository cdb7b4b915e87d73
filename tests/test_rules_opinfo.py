"""Every rule on PyTorch's own samples of its operation (law 8), and laws 2 and 4 on the same samples.

A rule is found here by the name of its function, so a new one is tested without writing a test. Rules whose
function has no OpInfo need a line in `test_rules_by_hand.py`: `test_every_rule_is_sampled` says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from layermask import Masked, NoMaskRule
from layermask.core import RULES
from layermask.core.rule_table import name_of
from layermask.testing.rules import Arguments, Trial, difference, random_masks

invocations = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations",
    reason="PyTorch's OpInfo database is private, and needs expecttest and hypothesis",
    exc_type=ImportError,
)
core = pytest.importorskip("torch.testing._internal.opinfo.core")

OTHER_KERNEL = {
    "addmm": "composed of mm, mul and add",
    "baddbmm": "composed of bmm, mul and add",
    "addmv": "composed of matmul, mul and add",
    "matmul": "vectors go through the matrix kernel",
    "__rmatmul__": "vectors go through the matrix kernel",
    "var_mean": "var and mean one after the other",
    "std_mean": "var, sqrt and mean one after the other",
    "std": "the root of var",
    "nn.functional.batch_norm": "in training mode the statistics are those of visible entries",
    "norm": "a single number is a vector of one",
    "linalg.norm": "as norm",
    "linalg.vector_norm": "as norm",
    "dot": "vectors go through the matrix kernel",
    "inner": "composed of matmul",
    "tensordot": "composed of matmul",
    "nn.functional.cosine_similarity": "composed of norms and a sum",
    "nn.functional.pairwise_distance": "composed of norm",
    "nn.functional.cross_entropy": "a quotient of sums, where targets are classes",
    "nn.functional.nll_loss": "a quotient of sums",
    "trapezoid": "composed of sums",
    "trapz": "composed of sums",
    "cumulative_trapezoid": "composed of sums",
    "cdist": "distances one by one where a mask varies along features",
}
"""Where 1e-5 relative replaces bit for bit."""

PARAMETERS = {
    "nn.functional.batch_norm": "statistics, weight and bias",
    "nn.functional.layer_norm": "weight and bias",
    "nn.functional.rms_norm": "weight",
    "nn.functional.group_norm": "weight and bias",
    "nn.functional.instance_norm": "statistics, weight and bias",
    "nn.functional.multi_head_attention_forward": "projections and masks",
    "nn.functional.scaled_dot_product_attention": "a mask alone",
    "nn.functional.conv_transpose1d": "kernel and bias: no output cell would be known to be hidden",
    "nn.functional.conv_transpose2d": "kernel and bias: no output cell would be known to be hidden",
    "nn.functional.conv_transpose3d": "kernel and bias: no output cell would be known to be hidden",
    "nn.functional.max_unpool1d": "indices",
    "nn.functional.max_unpool2d": "indices",
    "nn.functional.max_unpool3d": "indices",
    "cov": "weights",
    "stft": "a window",
    "__getitem__": "an index",
    "gather": "an index",
    "index_select": "an index",
    "take_along_dim": "an index",
    **dict.fromkeys("scatter scatter_add scatter_reduce index_add index_copy index_fill".split(), "an index"),
    **dict.fromkeys(["nn.functional.cross_entropy", "nn.functional.nll_loss"], "targets and weights"),
    **dict.fromkeys(["quantile", "nanquantile"], "shares"),
    "index_put": "indices",
    "masked_scatter": "a mask of places",
    "narrow": "a start",
    "tensor_split": "indices",
    "nn.functional.prelu": "weight",
    "repeat_interleave": "numbers of repeats",
}
"""Operations of which every tensor after the first is a parameter: Masked there may be refused (by name)."""

REFUSED = {
    "einsum": "takes a diagonal",
    "nn.functional.one_hot": "give num_classes",
    "norm": "Norms of matrices",
    "linalg.norm": "Norms of matrices",
    "nn.functional.multi_head_attention_forward": "_none_or_dtype",  # attn_mask does not dispatch
}
"""Samples of the first argument that a rule refuses: operation -> what its message says."""

NO_METHOD = {"__div__", "__rdiv__"}  # Python 2's division
UNINITIALISED = {"empty_like", "new_empty"}
RANDOM = {
    "nn.functional.rrelu": "draws for negative entries only, so hidden ones shift the draws of the others",
    "bernoulli": "hidden entries must be probabilities",
    "normal": "hidden entries must be standard deviations",
}
"""Law 2 does not hold of random numbers: operation -> why."""

BY_WIDTH = {
    "cat": "a mask that varies along the axis makes it an axis of positions",
    "concat": "as cat",
    "concatenate": "as cat",
    **dict.fromkeys("stack column_stack hstack vstack dstack diff".split(), "as cat"),
    "constant_pad_nd": "padding along an axis that the mask does not vary along has the mask of its row",
    "nn.functional.pad": "as constant_pad_nd",
    "nn.functional.unfold": "as constant_pad_nd",
}
"""Where a mask of size 1 along an axis means other than the same mask expanded: operation -> why."""

SPOKEN = {
    "truediv": "div",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "invert": "bitwise_not",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
"""Operators whose torch function has another name."""


def stems(function: Callable) -> set[str]:
    """The names under which OpInfo may know a function: without underscores, `r`, `i` and namespaces."""
    name = name_of(function).split(".")[-1]
    core = name.strip("_")
    found = {name, core} | ({core[1:]} if name.startswith("__") and core[0] in "ri" else set())
    return found | {SPOKEN[stem] for stem in found if stem in SPOKEN}


def _by_stem() -> dict[str, list[Callable]]:
    table: dict[str, list[Callable]] = {}
    for function in RULES:
        for stem in stems(function):
            table.setdefault(stem, []).append(function)
    return table


BY_STEM = _by_stem()


def spellings(op: Any) -> list[Callable]:
    """Every way to write an operation: its function, method, operator and in-place forms, and its aliases."""
    kinds = "op method_variant inplace_variant operator_variant inplace_operator_variant".split()
    own = [getattr(form, kind, None) for form in (op, *op.aliases) for kind in kinds]
    names = [form.name.split(".")[-1] for form in (op, *op.aliases)]
    ruled = [f for name in names for f in BY_STEM.get(name, []) if f.__name__ not in NO_METHOD]
    return list({id(f): f for f in [*own, *ruled] if callable(f)}.values())


def dtypes(op: Any) -> list[torch.dtype]:
    floating = [d for d in (torch.float32, torch.float64) if d in op.dtypes]
    return floating or [d for d in (torch.int64, torch.bool, torch.complex64) if d in op.dtypes][:1]


RULED = [op for op in invocations.op_db if any(f in RULES for f in spellings(op))]
RULED = [
    op for op in RULED if dtypes(op) and not op.name.startswith("masked.")
]  # torch.masked has functions of its own
UNRULED = [op for op in invocations.op_db if not any(f in RULES for f in spellings(op))]
UNRULED = [
    op for op in UNRULED if torch.float32 in op.dtypes and "jiterator" not in op.name
]  # that is CUDA's alone
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning"
)  # torch warns of its own samples
CASES = [pytest.param(op, dtype, id=f"{op.formatted_name}-{dtype}") for op in RULED for dtype in dtypes(op)]


@pytest.fixture(autouse=True)
def quick_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time of these tests.

    That is seeding every device that there might be, and searching the stack, with its source lines, for the
    `unittest` method that asks for samples, where there is none.
    """
    monkeypatch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
    monkeypatch.setattr(core, "extract_test_fn", lambda: None, raising=False)


def samples(op: Any, dtype: torch.dtype, most: int) -> list[Arguments]:
    """The samples of an operation, evenly thinned out to about `most`."""
    try:
        every = list(op.sample_inputs("cpu", dtype))
    except (RuntimeError, ImportError, NotImplementedError, AssertionError) as error:
        pytest.skip(f"OpInfo makes no samples here: {error}")
    return [Arguments(s.input, *s.args, **s.kwargs) for s in every[:: max(1, len(every) // most)]]


def allowed(op: Any, place: int, error: Exception) -> bool:
    """Whether a refusal is one of those listed above, in words that say so."""
    message = str(error)
    if place > 0 and "would write a masked value into a plain tensor" in message:
        return True
    if op.name in REFUSED and REFUSED[op.name] in message:
        return True
    if place > 0 and op.name in PARAMETERS:
        return isinstance(error, (NoMaskRule, TypeError)) and "mask" in message.lower()
    return False


def _faults(op: Any, function: Callable, sample: Arguments, places: list[int], whole: bool) -> Iterator[str]:
    """What goes wrong when one tensor after the other becomes `Masked`, all visible."""
    try:
        plain = sample.call(function, {})
    except Exception:  # torch itself has no such spelling for this sample
        return
    for place in places if not any(out is NotImplemented for out in plain) else ():
        leaf = sample.leaves[place]
        visible = torch.ones(leaf.shape if whole else [1] * leaf.ndim, dtype=torch.bool)
        where = f"{name_of(function)} {sample} argument {place}, mask {tuple(visible.shape)}: "
        try:
            ours = sample.call(function, {place: Masked(leaf, visible)})
        except Exception as error:
            if not allowed(op, sample.places.index(place), error) and not _composed(function, error):
                yield f"{where}{type(error).__name__}: {error}"
            continue
        if op.name not in UNINITIALISED:
            tolerance = 1e-5 if op.name in OTHER_KERNEL else 0.0
            empty = any(sample.leaves[i].numel() == 0 for i in sample.places)
            differences = (difference(a, b, tolerance, empty) for a, b in zip(ours, plain, strict=True))
            yield from (where + found for found in differences if found)


def _composed(function: Callable, error: Exception) -> bool:
    """A spelling without a rule of its own may call what has none, or a method of `Tensor` unbound."""
    return function not in RULES and (isinstance(error, NoMaskRule) or str(error).startswith("descriptor"))


@pytest.mark.parametrize("op, dtype", CASES)
def test_full_mask_is_the_plain_operation(op: Any, dtype: torch.dtype) -> None:
    faults = []
    first = dtype is dtypes(op)[0]
    for number, sample in enumerate(samples(op, dtype, 200 if first else 40)):
        faults += _faults(op, op.op, sample, sample.places if first else sample.places[:1], whole=True)
        if first:
            faults += _faults(op, op.op, sample, sample.places[:1], whole=False)
            for function in spellings(op)[1:] if number < 6 else ():
                faults += _faults(op, function, sample, sample.places[:1], whole=bool(number % 2))
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:12])


@pytest.mark.parametrize("op", UNRULED, ids=lambda op: op.formatted_name)
def test_operations_without_a_rule_refuse_or_are_right(op: Any) -> None:
    """Some are composed of operations that have rules."""
    for sample in samples(op, torch.float32, 2)[:2]:
        for place in sample.places[:1]:
            visible = torch.ones([1] * sample.leaves[place].ndim, dtype=torch.bool)
            try:
                ours = sample.call(op.op, {place: Masked(sample.leaves[place], visible)})
            except (NoMaskRule, TypeError, AttributeError) as refusal:
                assert "mask" in str(refusal).lower(), refusal
                continue
            for a, b in zip(ours, sample.call(op.op, {}), strict=True):
                assert not difference(a, b, 1e-5)


# --- laws 2 and 4, and that a mask means the same however wide it is stored -------------------------------


def broken_laws(op: Any, sample: Arguments, masks: dict[int, Tensor]) -> Iterator[str]:
    """The laws that the operation breaks on a sample under these masks."""
    trial = Trial(op.op, sample, masks)
    try:
        trial.answer  # noqa: B018  # which is kept
    except Exception:  # judged above, with full masks
        return
    if op.name not in RANDOM:
        yield from filter(None, (trial.leaks(1.5), trial.leaks(math.nan)))
    yield from filter(None, [trial.hides()])
    if op.name not in BY_WIDTH and 0 not in [n for i in masks for n in sample.leaves[i].shape]:
        yield from filter(None, [trial.depends_on_width()])


@pytest.mark.parametrize(
    "op", [op for op in RULED if op.name not in UNINITIALISED], ids=lambda op: op.formatted_name
)
def test_laws_of_the_mask(op: Any) -> None:
    faults = []
    for number, sample in enumerate(samples(op, dtypes(op)[0], 10)):
        several = [sample.places] if len(sample.places) > 1 else []
        for places in [[place] for place in sample.places[:4]] + several:
            for narrow in (False, True):
                masks = random_masks(sample, places, number, narrow)
                shapes = [tuple(mask.shape) for mask in masks.values()]
                faults += [f"{law}: {sample}, masks {shapes}" for law in broken_laws(op, sample, masks)]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:12])


def test_every_rule_is_sampled() -> None:
    from test_rules_by_hand import SAMPLES

    assert len(RULED) > 300 and len(RULES) > 700
    sampled = {id(f) for op in RULED for f in spellings(op)} | {id(f) for f in SAMPLES}
    missing = sorted(name_of(f) for f in RULES if id(f) not in sampled and f.__name__ not in NO_METHOD)
    assert not missing, f"rules with neither an OpInfo nor a sample in test_rules_by_hand.py: {missing}"
