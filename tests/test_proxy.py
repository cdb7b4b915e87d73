"""KernelShap(finish="proxy"): closed forms against all subsets, error and intervals against seeds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from layermask.errors import InputError
from layermask.explain import proxy
from layermask.explain.kernel_shap import KernelShap
from layermask.testing.explainers import Game, smooth_game, stripes

IMAGE = torch.linspace(0, 1, 3 * 12 * 12).view(1, 3, 12, 12)


def rows_of(count: int) -> Tensor:
    """Return all subsets (2^S, S) bool, subset number n showing the segments whose bit of n is set."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count) & 1).bool()


def shapley_map(count: int) -> Tensor:
    """Return the matrix (S, 2^S) that makes Shapley values of all subsets, by the definition."""
    matrix = torch.zeros(count, 2**count, dtype=torch.double)
    for i, number in itertools.product(range(count), range(2**count)):
        if not number >> i & 1:
            size = number.bit_count()
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            matrix[i, number | 1 << i] += weight
            matrix[i, number] -= weight
    return matrix


def strength_of(count: int) -> Tensor:
    return 0.05 + 0.4 * torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.double)


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_closed_forms_are_those_of_all_subsets(count: int) -> None:
    spins, matrix, strength = 2 * rows_of(count).double() - 1, shapley_map(count), strength_of(count)
    kernel = proxy._kernel(spins, spins, strength)
    plain = (spins[:, None] * spins * strength + 1).prod(2) - (1 - spins[:, None] * spins * strength).prod(2)
    torch.testing.assert_close(kernel, plain / plain[0, 0])
    torch.testing.assert_close(proxy._of_kernel(spins, strength), kernel @ matrix.T)
    points = torch.eye(len(spins), dtype=torch.double) - torch.eye(len(spins), dtype=torch.double).flip(1)
    torch.testing.assert_close(proxy._of_point(spins), points @ matrix.T)
    wanted = (matrix @ (kernel + 0.3 * points) @ matrix.T).diagonal()
    torch.testing.assert_close(proxy._prior_variance(proxy.Prior(strength, 0.3)), wanted)


def test_many_segments_stay_finite() -> None:
    spins = torch.where(
        torch.rand(6, 300, generator=torch.Generator().manual_seed(0)) < 0.5, 1.0, -1.0
    ).double()
    strength = torch.full((300,), 0.9, dtype=torch.double)
    values = proxy._of_kernel(spins, strength)
    ends = proxy._kernel(torch.ones(1, 300, dtype=torch.double), spins, strength)[0]
    torch.testing.assert_close(values.sum(1), 2 * ends)  # they sum to k(all shown) - k(nothing)
    assert proxy._prior_variance(proxy.Prior(strength, 0.1)).isfinite().all()


def wavy_game(count: int = 10) -> tuple[Game, Tensor]:
    """Return a game as models play it, a sigmoid of effects and pairs, and its Shapley values."""
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(count, generator=draw, dtype=torch.double) * torch.linspace(2, 0.2, count).double()
    pairs = 0.4 * torch.randn(count, count, generator=draw, dtype=torch.double)

    def value(rows: Tensor) -> Tensor:
        scores = 2 * (rows @ weight + ((rows @ pairs) * rows).sum(1)) - 2
        return torch.stack([scores.sigmoid(), rows[:, 0]], 1)

    return Game(stripes(count), value), shapley_map(count) @ value(rows_of(count).double())[:, 0]


def found(game: Game, seed: int = 0, count: int = 10, target: Any = 0, **settings):
    each = KernelShap(game, output="logit", seed=seed, perturbations_per_eval=512, **settings)
    return each.attribute(IMAGE, target, stripes(count))


def test_the_error_is_smaller_and_the_intervals_hold() -> None:
    game, truth = wavy_game()
    for samples, most in ((200, 0.6), (400, 0.3)):
        errors, inside = {}, []
        for seed, finish in itertools.product(range(15), ("regression", "proxy")):
            each = found(game, seed, n_samples=samples, finish=finish)
            errors[finish] = errors.get(finish, 0) + float((each.scores[0] - truth).square().sum())
            if finish == "proxy":
                low, high = each.interval(0.95)
                inside.append(((low[0] <= truth) & (truth <= high[0])).double().mean())
        assert errors["proxy"] < most * errors["regression"], errors
        assert torch.stack(inside).mean() >= 0.9, inside


def test_no_subset_is_drawn_twice() -> None:
    for count, samples in ((6, 60), (10, 400), (10, 1000), (12, 480)):
        design = KernelShap(wavy_game()[0], n_samples=samples, finish="proxy").design(count)
        rows = torch.cat([design.rows(index) for index in range(len(design.sizes))])
        assert samples - 1 <= len(rows) == len(rows.unique(dim=0)) <= samples
        again = torch.cat([design.rows(index) for index in range(len(design.sizes))])
        assert torch.equal(rows, again) and torch.equal(rows[-2], ~rows[-1])


def test_it_is_exact_with_all_subsets_and_nearly_with_all_but_one_pair() -> None:
    game, truth = wavy_game(8)
    exact = found(game, count=8, n_samples=254, finish="proxy")
    assert exact.stderr is None
    torch.testing.assert_close(exact.scores[0], truth, atol=1e-6, rtol=0)
    near = found(game, count=8, n_samples=252, finish="proxy")
    assert near.stderr is not None and (near.scores[0] - truth).abs().max() < 4 * near.stderr.max() < 1e-2


def test_values_sum_to_the_difference_and_the_seed_decides() -> None:
    game, _ = wavy_game()
    one, again, other = (
        found(game, seed, n_samples=150, finish="proxy", target=[0, 1]) for seed in (1, 1, 2)
    )
    nothing = game(IMAGE, torch.zeros(1, 1, 12, 12, dtype=torch.bool))[0]
    torch.testing.assert_close(one.scores.sum(1), one.prediction - nothing, atol=1e-6, rtol=0)
    assert torch.equal(one.scores, again.scores) and not torch.equal(one.scores, other.scores)
    torch.testing.assert_close(
        one.scores[1], torch.eye(10).double()[0], atol=1e-3, rtol=0
    )  # one segment alone


def test_a_constant_answer_and_two_segments() -> None:
    flat = Game(stripes(10), lambda rows: torch.ones(len(rows), 2, dtype=torch.double))
    each = found(flat, n_samples=100, finish="proxy")
    assert each.scores.abs().max() < 1e-9 and each.stderr is not None and each.stderr.max() < 1e-9
    assert found(smooth_game(2), count=2, n_samples=100, finish="proxy").stderr is None


def test_it_stops_when_settled() -> None:
    each = found(wavy_game(12)[0], count=12, n_samples=1500, finish="proxy", precision=0.9)
    assert each.n_samples < 1000 and each.settled


def test_too_many_samples_and_other_words_are_refused() -> None:
    with pytest.raises(InputError, match="n_samples is 20000, and finish='proxy' takes 16000 at most"):
        KernelShap(wavy_game()[0], n_samples=20000, finish="proxy").design(30)
    with pytest.raises(InputError, match="finish"):
        KernelShap(wavy_game()[0], finish="trees")  # type: ignore[arg-type]
