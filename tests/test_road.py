"""ROAD's linear system against a direct sparse solve, one picture at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layermask.check.samples import sample_images
from layermask.errors import InputError
from layermask.removal.fills import linear_imputation as solver
from layermask.removal.fills.linear_imputation import linear_imputation
from layermask.removal.fills.road import NoisyLinear

np = pytest.importorskip("numpy")
sparse = pytest.importorskip("scipy.sparse")
linalg = pytest.importorskip("scipy.sparse.linalg")


def direct(image: Tensor, mask: Tensor) -> Tensor:
    """The system of Rong et al. written out pixel by pixel for (C, H, W) and (H, W), and solved in float64.

    Where no pixel is visible the system has no unique solution: 0.
    """
    out = torch.where(mask, image.double(), 0.0)
    places = (~mask).nonzero().tolist()
    if not mask.any() or not places:
        return out
    number = {tuple(place): i for i, place in enumerate(places)}
    entries = []
    rhs = np.zeros((len(places), image.shape[0]))
    for i, (row, column) in enumerate(places):
        total = 0.0
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near = (row + down, column + right)
                if (down, right) == (0, 0) or not (
                    0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                ):
                    continue
                weight = 1 / 12 if down and right else 1 / 6
                total += weight
                if near in number:
                    entries.append((-weight, i, number[near]))
                else:
                    rhs[i] += weight * out[(slice(None), *near)].numpy()
        entries.append((total, i, i))
    values, rows, columns = zip(*entries, strict=True)
    matrix = sparse.csc_matrix((values, (rows, columns)), shape=(len(places),) * 2)
    out[:, ~mask] = torch.from_numpy(linalg.splu(matrix).solve(rhs).T)
    return out


def patches(size: tuple[int, int], shown: float, side: int) -> Tensor:
    cells = torch.rand(-(-size[0] // side), -(-size[1] // side), generator=torch.Generator().manual_seed(0))
    grid = (cells < shown).repeat_interleave(side, 0).repeat_interleave(side, 1)
    return grid[: size[0], : size[1]]


def block(size: tuple[int, int]) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[3:-5, 6:-2] = False
    return mask


def pixels(size: tuple[int, int], count: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    places = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(1))[:count]
    mask.view(-1)[places] = True
    return mask


SIZE = (35, 28)
MASKS = {
    **{f"{hidden:.0%} in patches": patches(SIZE, 1 - hidden, 4) for hidden in (0.1, 0.5, 0.9)},
    **{f"{hidden:.0%} alone": patches(SIZE, 1 - hidden, 1) for hidden in (0.1, 0.5, 0.95)},
    "a block": block(SIZE),
    "all but one": pixels(SIZE, 1),
    "all but three": pixels(SIZE, 3),
    "the left half": torch.arange(SIZE[1]).expand(SIZE) >= SIZE[1] // 2,
    "all": pixels(SIZE, 0),
    "none": pixels(SIZE, SIZE[0] * SIZE[1]),
    "of a line": patches((1, 30), 0.3, 2),
    "of a column": patches((30, 1), 0.3, 2),
    "of a small picture": pixels((3, 2), 2),
    "of one pixel": pixels((1, 1), 0),
}


def solved(image: Tensor, mask: Tensor) -> Tensor:
    mask = mask[None, None]
    return linear_imputation(torch.where(mask, image[None], 0.0), mask)[0]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_the_direct_solution(mask, dtype, error):
    image = sample_images(1, (2, *mask.shape), seed=0)[0].to(dtype)
    want = direct(image, mask)
    scale = want.abs().max() if mask.any() else 1.0
    assert ((solved(image, mask) - want).abs().max() / scale) < error


def test_a_large_picture():
    image, mask = sample_images(1, (1, 96, 128), seed=0)[0], patches((96, 128), 0.1, 16)
    want = direct(image, mask)
    assert ((solved(image, mask) - want).abs().max() / want.abs().max()) < 1e-4


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_however_many_are_solved_together(chunk, monkeypatch):
    """Easy and hard masks side by side; the last chunk is not full."""
    masks = torch.stack([mask for mask in MASKS.values() if mask.shape == SIZE])[:, None]
    known = torch.where(masks, sample_images(len(masks), (3, *SIZE), seed=0).double(), 0.0)
    alone = torch.cat([linear_imputation(x[None], v[None]) for x, v in zip(known, masks, strict=True)])
    monkeypatch.setattr(solver, "CHUNK", chunk)
    torch.testing.assert_close(linear_imputation(known, masks), alone, rtol=1e-9, atol=1e-9)


def test_steps_are_few(monkeypatch):
    """Without a good preconditioner, or with one that is not symmetric, they are not."""
    cycles = []
    cycle = solver._Multigrid.cycle
    monkeypatch.setattr(
        solver._Multigrid, "cycle", lambda self, r, depth=0: cycles.append(depth) or cycle(self, r, depth)
    )
    for hidden in (0.1, 0.5, 0.9, 0.99):
        for side in (1, 16):
            mask = patches((120, 136), 1 - hidden, side)
            solved(sample_images(1, (1, 120, 136), seed=0)[0], mask)
    assert cycles.count(0) <= 8 * 10


def test_the_noise_is_added_where_hidden():
    x, mask = sample_images(1, (3, 60, 60), seed=0), patches((60, 60), 0.3, 5)[None, None]
    noise = (NoisyLinear(0.1)(x, mask) - NoisyLinear(0.0)(x, mask)).masked_select(~mask)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 0.1) < 0.01
    assert torch.equal(NoisyLinear(0.1)(x, mask).masked_select(mask), x.masked_select(mask))


def test_gradients_of_gradients():
    mask = patches((9, 11), 0.4, 2)[None, None]
    x = sample_images(1, (2, 9, 11), seed=0).double().requires_grad_()

    def filled(x):
        return linear_imputation(torch.where(mask, x, 0.0), mask)

    assert torch.autograd.gradcheck(filled, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: filled(x).square(), x, fast_mode=True)


def test_negative_noise_is_refused():
    with pytest.raises(InputError, match="noise is -1: give a number from 0 to 1000"):
        NoisyLinear(-1)
