"""The laws of an explainer, on games whose answers are known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from layermask.explain.attribution import Attribution
from layermask.explain.explainer import Explainer
from layermask.testing.suite import Laws

SIDE = 12  # of the pictures, in pixels


class Game:
    """A removal whose answers are known: `value(rows (n, S) float, the share shown of each segment)`.

    It returns (n, classes), and the mean of the image is added, so that images differ.
    """

    def __init__(self, segments: Tensor, value: Callable[[Tensor], Tensor]) -> None:
        self.segments, self.value = segments.flatten(), value
        self.sizes = self.segments.bincount()
        self.batches: list[int] = []

    def __call__(self, images: Tensor, visible: Tensor) -> Tensor:
        self.batches.append(len(visible))
        shown = visible.flatten(1).double()
        rows = torch.zeros(len(visible), len(self.sizes), dtype=torch.double)
        rows = rows.index_add(1, self.segments, shown) / self.sizes
        return self.value(rows) + images.double().mean(list(range(1, images.ndim)))[:, None]


def stripes(count: int, dims: int = 2) -> Tensor:
    """Return a label map of `count` bands along the last axis."""
    return (torch.arange(SIDE) * count // SIDE).expand([SIDE] * dims).contiguous()


def smooth_game(count: int, seed: int = 0) -> Game:
    """Return a game of three classes, nearly additive, with pairs that help or hinder each other."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, 3, generator=draw, dtype=torch.double)
    pairs = 0.3 * torch.randn(count, count, generator=draw, dtype=torch.double)
    return Game(stripes(count), lambda rows: rows @ weight + ((rows @ pairs) * rows).sum(1, keepdim=True))


class ExplainerLaws(Laws):
    """The laws of an explainer. `subject(removal, **settings)` makes one: its class, as a rule.

    `settings`: what it is made with, such as a number of samples that keeps the tests short.
    """

    settings: ClassVar[dict[str, Any]] = {}
    image = torch.linspace(0, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)

    def setUp(self) -> None:
        super().setUp()
        block = warnings.catch_warnings()  # of few samples
        block.__enter__()
        self.addCleanup(block.__exit__, None, None, None)
        warnings.simplefilter("ignore")

    def made(self, removal: Callable[..., Any], **settings: Any) -> Explainer:
        return self.judged(removal, **{**self.settings, **settings})

    def test_neither_the_batch_size_nor_other_pictures_change_anything(self) -> None:
        images = torch.cat([self.image, self.image.flip(3) * 2, self.image.flip(2)])
        maps = [stripes(6), stripes(6).T.contiguous(), stripes(6).flip(1)]
        game, runs = smooth_game(6), []
        for size in (1, 13, 1000):
            game.batches.clear()
            each = self.made(game, perturbations_per_eval=size)
            runs.append(each.attribute_batch(images, None, maps))
            self.assertLessEqual(max(game.batches), size)
            self._same(
                runs[-1],
                [each.attribute(*one) for one in zip(images.split(1), [None] * 3, maps, strict=True)],
            )
        for other in runs[1:]:
            self._same(runs[0], other)

    def _same(self, ours: Sequence[Attribution], theirs: Sequence[Attribution]) -> None:
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.scores, b.scores, atol=1e-7, rtol=1e-6)
            self.assertEqual((a.targets, a.n_samples), (b.targets, b.n_samples))

    def test_signals_and_volumes(self) -> None:
        for dims in (1, 3):
            image, segments = torch.ones(1, 2, *[SIDE] * dims), stripes(4, dims)
            found = self.made(Game(segments, smooth_game(4).value)).attribute(image, None, segments)
            self.assertEqual(found.heatmap().shape, (SIDE,) * dims)
            self.assertTrue(found.scores.isfinite().all(), "scores are not finite")

    def test_the_count_of_samples_and_the_progress_are_true(self) -> None:
        game, done = smooth_game(6), []
        each = self.made(game)
        found = each.attribute(self.image, None, stripes(6), show_progress=done.append)
        self.assertEqual(sum(game.batches), sum(done) + 1, "masks asked for, and the whole picture")
        self.assertLessEqual(abs(found.n_samples - sum(done)), 1)
        self.assertEqual((found.method, found.settings["output"]), (each.name, "probability"))

    def test_the_seed_decides(self) -> None:
        if not hasattr(self.made(smooth_game(12)), "seed"):
            self.skipTest("it has no seed")
        found = [
            self.made(smooth_game(12), seed=seed).attribute(self.image, 0, stripes(12)).scores
            for seed in (3, 3, 4)
        ]
        self.assertTrue(torch.equal(found[0], found[1]), "one seed gives two results")
        self.assertFalse(torch.equal(found[0], found[2]), "two seeds give one result")

    def test_the_segment_that_decides_has_the_highest_score(self) -> None:
        def value(rows: Tensor) -> Tensor:  # the first class where segment 3 is shown, else the second
            return torch.stack([4 * rows[:, 3], torch.ones_like(rows[:, 3])], 1)

        game = Game(stripes(6), value)
        scores = self.made(game).attribute(self.image, 0, stripes(6)).scores
        self.assertEqual(int(scores[0].argmax()), 3)
