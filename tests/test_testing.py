"""`layermask.testing`: the page's example passes, and each suite notices what breaks a law."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermask import Masked, PixelFill
from layermask.explain import FeatureAblation, Lime
from layermask.testing import Arguments, ExplainerLaws, FillLaws, RemovalLaws, RuleLaws
from layermask.testing.suite import Laws

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"


@pytest.mark.parametrize("runner", ["pytest -q -p no:cacheprovider -p no:xdist", "unittest -v"])
def test_the_example_of_the_page(runner: str, tmp_path: Path) -> None:
    """Every law of every class runs, and the base classes, which have no subject, are skipped or left out."""
    example = "\n".join(re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    (tmp_path / "test_mine.py").write_text(example)
    command = [sys.executable, "-W", "error::UserWarning", "-m", *runner.split(), "test_mine.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    suites = (FillLaws, RemovalLaws, RuleLaws, ExplainerLaws)
    count = sum(len(suite.names()) for suite in suites)
    if runner.startswith("pytest"):
        assert f"{count - 1} passed, 1 skipped" in ran.stdout  # KeepOne has no seed
    else:
        assert ran.stderr.count("... ok") == count - 1


# --- what is broken, and the law that notices ------------------------------------------------------------


def rule(body: Callable[[Masked], Any]) -> dict[str, Any]:
    return {"subject": F.softplus, "rule": body}


def paint(value: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, visible: torch.where(visible, images, value)


def remembered(images: Tensor, visible: Tensor) -> Tensor:
    """Adds what the first image has in common with the others of its batch."""
    return torch.where(visible, images, torch.where(visible, images, 0).mean())


def length(images: Tensor) -> Tensor:
    return images.square().sum((1, 2, 3), keepdim=True).sqrt()


def writes(images: Tensor, visible: Tensor) -> Tensor:
    images.mul_(visible)
    return images


class Changing(nn.Module):
    """An operator that writes into weights or images, and takes grey masks."""

    def __init__(self, model: nn.Module, what: str) -> None:
        super().__init__()
        self.model, self.what = model, what

    @torch.no_grad()
    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        if self.what == "weights":
            next(self.model.parameters()).mul_(1.5)
        if self.what == "images":
            images.mul_(visible)
        return self.model(torch.where(visible > 0.2, images, 0))


class WrongCount(FeatureAblation):
    def attribute_batch(self, *args: Any, **kwargs: Any) -> Any:
        found = super().attribute_batch(*args, **kwargs)
        for each in found:
            object.__setattr__(each, "n_samples", 1)
        return found


class Restless(Lime):
    """Does not heed its seed."""

    def plan(self, *args: Any) -> Any:
        object.__setattr__(self, "seed", int(torch.randint(0, 1000, ())))
        return super().plan(*args)


class Upside(FeatureAblation):
    """Gives its scores the wrong sign."""

    def attribute_batch(self, *args: Any, **kwargs: Any) -> Any:
        found = super().attribute_batch(*args, **kwargs)
        for each in found:
            object.__setattr__(each, "scores", -each.scores)
        return found


class Sums(FeatureAblation):
    """Scores depend on the pictures that are explained with this one."""

    def attribute_batch(self, *args: Any, **kwargs: Any) -> Any:
        found = super().attribute_batch(*args, **kwargs)
        total = sum(each.scores.mean() for each in found)
        for each in found:
            object.__setattr__(each, "scores", each.scores + total)
        return found


class Flat(FeatureAblation):
    """Takes pictures only."""

    def attribute_batch(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().attribute_batch(F.avg_pool2d(images, 1), *args, **kwargs)


BROKEN: dict[str, tuple[type[Laws], dict[str, Any], str]] = {
    "a rule that scales": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value) * 1.01, x.visible)),
        "a_full_mask_gives_the_plain_answer",
    ),
    "a rule that hides": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value), torch.zeros_like(x.visible))),
        "a_full_mask_gives_the_plain_answer",
    ),
    "a rule that smears": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value) + 0 * x.value.sum(-1, keepdim=True), x.visible)),
        "hidden_entries_reach_no_visible_one",
    ),
    "a rule that flips masks": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value), x.visible if x.visible.all() else ~x.visible)),
        "showing_more_hides_nothing",
    ),
    "a rule that counts the mask": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value) * x.visible.sum() / x.visible.numel() ** 0.99, x.visible)),
        "a_narrow_mask_is_as_the_same_mask_expanded",
    ),
    "a rule that reads hidden slopes": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value) + x.value.sum() - x.value.sum().detach(), x.visible)),
        "hidden_entries_have_no_gradient",
    ),
    "a rule that mixes the batch": (
        RuleLaws,
        rule(lambda x: Masked(F.softplus(x.value) * (1 + ~x.visible.all(0)), x.visible)),
        "a_batch_is_its_images_one_by_one",
    ),
    "a fill of NaN": (FillLaws, {"subject": paint(torch.nan)}, "hidden_pixels_do_not_matter"),
    "a fill that reads hidden pixels": (
        FillLaws,
        {"subject": lambda x, visible: torch.where(visible, x, x.flip(-1).nan_to_num(0, 1, 1))},
        "hidden_pixels_do_not_matter",
    ),
    "a fill that says it reads hidden pixels": (
        FillLaws,
        {"subject": paint(0.5), "reads_hidden": True},
        "hidden_pixels_do_not_matter",
    ),
    "a fill over visible pixels": (
        FillLaws,
        {"subject": lambda x, visible: torch.zeros_like(x)},
        "visible_pixels_shapes_and_types_stay",
    ),
    "a fill in float32": (
        FillLaws,
        {"subject": lambda x, visible: torch.where(visible, x.float(), 0)},
        "visible_pixels_shapes_and_types_stay",
    ),
    "a fill that mixes the batch": (
        FillLaws,
        {"subject": remembered},
        "a_batch_answers_as_its_images_one_by_one",
    ),
    "a fill that writes": (FillLaws, {"subject": writes}, "all_visible_is_the_plain_model"),
    "a fill that draws anew": (
        FillLaws,
        {"subject": lambda x, visible: torch.where(visible, x, torch.rand_like(x))},
        "hidden_pixels_do_not_matter",
    ),
    "a fill without a gradient": (
        FillLaws,
        {"subject": lambda x, visible: torch.where(visible, x, torch.where(visible, x, 0).detach().amax())},
        "the_gradient_is_that_of_the_whole",
    ),
    "a fill with an endless slope": (
        FillLaws,
        {"subject": lambda x, visible: torch.where(visible, x, length(x.nan_to_num() * visible))},
        "hidden_pixels_have_no_gradient",
    ),
    "a removal that changes weights": (
        RemovalLaws,
        {"subject": lambda model: Changing(model, "weights")},
        "nothing_is_changed",
    ),
    "a removal that changes images": (
        RemovalLaws,
        {"subject": lambda model: Changing(model, "images")},
        "nothing_is_changed",
    ),
    "a removal that takes grey masks": (
        RemovalLaws,
        {"subject": lambda model: Changing(model, "")},
        "a_mask_that_is_not_binary_is_refused",
    ),
    "a removal that repeats its answer": (
        RemovalLaws,
        {"subject": lambda model: lambda x, visible: model(torch.where(visible, x, 0)).expand(len(x), 5)},
        "one_image_goes_with_many_masks_and_one_mask_with_many_images",
    ),
    "an explainer that miscounts": (
        ExplainerLaws,
        {"subject": WrongCount},
        "the_count_of_samples_and_the_progress_are_true",
    ),
    "an explainer that mixes pictures": (
        ExplainerLaws,
        {"subject": Sums},
        "neither_the_batch_size_nor_other_pictures_change_anything",
    ),
    "an explainer upside down": (
        ExplainerLaws,
        {"subject": Upside},
        "the_segment_that_decides_has_the_highest_score",
    ),
    "an explainer of pictures only": (ExplainerLaws, {"subject": Flat}, "signals_and_volumes"),
    "an explainer without rest": (
        ExplainerLaws,
        {"subject": Restless, "settings": {"n_samples": 30}},
        "the_seed_decides",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_law_is_noticed(name: str) -> None:
    suite, settings, law = BROKEN[name]
    with pytest.raises(AssertionError, match=f"laws are broken(?s:.*)\ntest_{law}: "):
        suite.check(**settings)


def test_every_law_is_broken_by_something() -> None:
    suites = (FillLaws, RemovalLaws, RuleLaws, ExplainerLaws)
    laws = {name.removeprefix("test_") for suite in suites for name in suite.names()}
    assert laws == {law for _, _, law in BROKEN.values()}


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="FillLaws has no setting 'read_hidden'"):
        FillLaws.check(paint(0.0), read_hidden=True)


def test_a_broken_rule_is_in_force_for_its_laws_only() -> None:
    plain = F.softplus(torch.ones(2))
    with pytest.raises(AssertionError):
        RuleLaws.check(**rule(lambda x: Masked(F.softplus(x.value) * 2, x.visible)))
    assert torch.equal(F.softplus(Masked(torch.ones(2), torch.ones(2, dtype=torch.bool))).value, plain)


def test_what_keeps_the_laws_passes() -> None:
    FillLaws.check(paint(0.5))
    RemovalLaws.check(lambda model: PixelFill(model, paint(0.5)))
    RuleLaws.check(F.softplus, samples=[Arguments(torch.randn(2, 3)), Arguments(torch.randn(4), beta=2)])
    ExplainerLaws.check(FeatureAblation)
