"""Hidden pixels as the weighted mean of their 8 neighbours, all at once: one linear solve for a whole batch.

The system is that of Rong et al. 2022 (ROAD, arXiv 2202.00449): weights of 1/6 for direct and 1/12 for
diagonal neighbours, those that lie in the image scaled to a sum of 1. Multiplied by that sum it is symmetric,
so conjugate gradients solve it; one V-cycle of multigrid is the preconditioner.

Every channel of every picture is one system. They lie side by side in (1, K, H, W) tensors of channels-last
memory, where a stencil for all of them is a depthwise convolution, the fastest that torch has. What a step
computes goes into buffers that the steps share: new memory costs more than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layermask._private_torch import is_readable

CHUNK = 16  # channels solved together on a CPU: what one vector holds, and its cache
MANY = 512  # on other devices: at 224 x 224 about 1.5 GB
FEW = 0.01  # with less than this share visible, float32 rounding would show: solved in float64
ACCURACY = 300, 1e-11  # of the last step but one: times the rounding of the dtype, but no less than
MAX_STEPS = 100  # 5 to 9 are needed in float32, 15 to 20 in float64
COARSEST = 8  # cells across
TINY = 1e-6
SOFTENING = 0.2  # measured, see `_Multigrid.at`


def linear_imputation(known: Tensor, visible: Tensor) -> Tensor:
    """Return `known` (N, C, H, W) with what is hidden by `visible` (N, 1, H, W) interpolated.

    Hidden entries of `known` are 0. A picture with nothing visible is 0. The relative error is below 1e-4
    in float32, 1e-10 in float64.
    """
    few = visible.flatten(1).double().mean(1) < FEW
    if known.dtype != torch.float64 and is_readable(few) and few.any():
        out = torch.zeros_like(known)
        out = out.index_put((few,), linear_imputation(known[few].double(), visible[few]).to(known.dtype))
        return out if few.all() else out.index_put((~few,), linear_imputation(known[~few], visible[~few]))
    hidden: Any = _Hidden.apply(known, ~visible, False)
    return known + hidden


class _Hidden(torch.autograd.Function):
    """The hidden values for the visible ones, a linear map; `transposed` is its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor, transposed: bool) -> Tensor:
        ctx.hidden, ctx.transposed = hidden, transposed
        with torch.backends.cudnn.flags(enabled=False):  # TF32, which it may use, is too coarse
            return _in_chunks(x, hidden, transposed)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Hidden.apply(grads[0], ctx.hidden, not ctx.transposed), None, None


def _in_chunks(x: Tensor, hidden: Tensor, transposed: bool) -> Tensor:
    out = torch.empty(1, x.shape[0] * x.shape[1], *x.shape[2:], dtype=x.dtype, device=x.device)
    rows, masks = x.reshape(out.shape), hidden.expand_as(x).reshape(out.shape)
    each = min(out.shape[1], CHUNK if x.device.type == "cpu" else MANY)
    grid = _Multigrid(out[:, :each])
    for start in range(0, out.shape[1], each):
        part = slice(min(start, out.shape[1] - each), start + each)  # the last one repeats some
        given = rows[:, part].contiguous(memory_format=torch.channels_last)
        found = grid.at(masks[:, part]).solved(given if transposed else grid.neighbors(given))
        out[:, part] = grid.neighbors(found) if transposed else found
    return out.reshape(x.shape)


NEIGHBORS = ((1, 2, 1), (2, 0, 2), (1, 2, 1))  # twelfths
BILINEAR = ((1, 3, 3, 1), (3, 9, 9, 3), (3, 9, 9, 3), (1, 3, 3, 1))  # sixteenths


class _Stencils:
    """The three convolutions of all levels, for K channels in channels-last memory."""

    def __init__(self, like: Tensor) -> None:
        near = like.new_tensor(NEIGHBORS) / 12
        self.groups = like.shape[1]
        self.near, self.less_near, self.bilinear = (
            w.expand(self.groups, 1, *w.shape).contiguous()
            for w in (near, torch.eye(9).to(like)[4].reshape(3, 3) - near, like.new_tensor(BILINEAR) / 16)
        )

    def neighbors(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.near, padding=1, groups=self.groups)

    def less_neighbors(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.less_near, padding=1, groups=self.groups)

    def enlarged(self, x: Tensor, like: Tensor) -> Tensor:
        """Bilinear interpolation to the next finer grid; what lies off the image counts as 0."""
        fine = F.conv_transpose2d(x, self.bilinear, stride=2, padding=1, groups=self.groups)
        return fine[:, :, : like.shape[2], : like.shape[3]]

    def reduced(self, x: Tensor) -> Tensor:
        """The adjoint of `enlarged`."""
        return F.conv2d(_even(x), self.bilinear, stride=2, padding=1, groups=self.groups)


def _even(x: Tensor) -> Tensor:
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    return F.pad(x, odd) if any(odd) else x


def _pooled(x: Tensor) -> Tensor:
    """Sums over cells of 2 x 2."""
    return F.avg_pool2d(_even(x), 2, divisor_override=1)


class _Level:
    """One grid: what depends on its size alone, and room for what depends on the masks."""

    def __init__(self, like: Tensor, stencils: _Stencils) -> None:
        self.neighbors = stencils.neighbors
        # Interpolation fades at the border: this undoes it.
        self.edge = stencils.enlarged(torch.ones_like(_pooled(like)), like).reciprocal()
        self.inverse, self.spread, self.sweep = (torch.empty_like(like) for _ in range(3))

    def at(self, hidden: Tensor, ties: Tensor) -> None:
        diagonal = self.neighbors(hidden).mul_(hidden).add_(ties).clamp_(min=TINY)
        torch.div(hidden, diagonal, out=self.inverse)
        torch.mul(hidden, self.edge, out=self.spread)


class _Dense:
    """The coarsest grid, solved by the inverse matrices (K, cells, cells)."""

    def __init__(self, like: Tensor, stencils: _Stencils) -> None:
        cells = like.shape[2] * like.shape[3]
        basis = torch.eye(cells).to(like).reshape(cells, 1, *like.shape[2:])
        self.neighbors = F.conv2d(basis, stencils.near[:1], padding=1).reshape(cells, cells)

    def at(self, hidden: Tensor, ties: Tensor) -> None:
        unknown, ties = (x[0].flatten(1).contiguous() for x in (hidden, ties))
        both = unknown[:, None] * unknown[:, :, None]
        links = self.neighbors * both
        diagonal = links.sum(1) + ties + (1 - unknown) + TINY  # tiny: for nothing visible
        self.inverse = torch.linalg.inv(torch.diag_embed(diagonal) - links) * both

    def solved(self, residual: Tensor) -> Tensor:
        found = self.inverse @ residual[0].flatten(1)[..., None]
        return found.reshape(residual.shape).contiguous(memory_format=torch.channels_last)


class _Multigrid:
    """The systems of the hidden pixels of K channels, on ever coarser grids."""

    def __init__(self, like: Tensor) -> None:
        like = torch.empty_like(like, memory_format=torch.channels_last)
        self.stencils = _Stencils(like)
        self.neighbors = self.stencils.neighbors
        self.residual, self.solution, self.step, self.scratch = (torch.empty_like(like) for _ in range(4))
        self.total = self.neighbors(torch.ones_like(like))  # of the weights that lie in the image
        self.levels: list[_Level] = []
        while max(like.shape[2:]) > COARSEST:
            self.levels.append(_Level(like, self.stencils))
            like = _pooled(like)
        self.coarsest = _Dense(like, self.stencils)

    def at(self, hidden: Tensor) -> _Multigrid:
        """Take the masks (1, K, H, W).

        A coarse cell is unknown if any of its four is. What ties it to visible pixels is the sum of its
        cells' ties, softened, as the tie is through more distance: measured, no share or shape of holes
        then needs more than 9 steps, against 12 with the plain sum.
        """
        unknown = hidden.to(self.total.dtype, memory_format=torch.channels_last)
        ties = torch.sub(self.total, self.neighbors(unknown), out=self.scratch).mul_(unknown)
        for level in self.levels:
            level.at(unknown, ties)
            pulls = _pooled(ties)
            unknown, ties = _pooled(unknown).clamp_(max=1), pulls / (1 + SOFTENING * pulls)
        self.coarsest.at(unknown, ties)
        return self

    def solved(self, rhs: Tensor) -> Tensor:
        """The solution for a right-hand side, which is ignored where visible, by conjugate gradients.

        Solved systems are not updated further. The result therefore does not depend on the rest of the batch.
        """
        residual, solution, step = self.residual.copy_(rhs), self.solution.zero_(), self.step
        step.copy_(self.cycle(residual))
        energy = self.dot(residual, step)
        enough = energy * max(ACCURACY[0] * torch.finfo(rhs.dtype).eps, ACCURACY[1]) ** 2
        going = energy > 0
        for _ in range(MAX_STEPS):
            image = self.applied(step)
            length = torch.where(going, energy / self.dot(step, image), 0.0)
            solution.addcmul_(length, step)
            going = energy > enough  # of before this step: one less to take
            if not is_readable(going) or not going.any():
                break
            residual.addcmul_(length, image, value=-1)
            better = self.cycle(residual)
            before, energy = energy, self.dot(residual, better)
            torch.addcmul(better, torch.where(going, energy / before, 0.0), step, out=step)
        return solution

    def applied(self, x: Tensor) -> Tensor:
        image = self.stencils.less_neighbors(x)  # a diagonal of 1, which is less at the border
        height, width = x.shape[2:]
        rows = (..., slice(None, None, max(1, height - 1)), slice(None))
        columns = (..., slice(1, -1), slice(None, None, max(1, width - 1)))
        for border in (rows, columns):
            image[border] += (self.total[border] - 1) * x[border]
        return image

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.mul(a, b, out=self.scratch).sum((2, 3), keepdim=True)

    def cycle(self, residual: Tensor, depth: int = 0) -> Tensor:
        """Nearly the solution for a residual: one V-cycle with a Jacobi sweep each way.

        Undamped sweeps are best: with these weights they divide every high frequency by 3.
        """
        if depth == len(self.levels):
            return self.coarsest.solved(residual)
        level = self.levels[depth]
        sweep = torch.mul(residual, level.inverse, out=level.sweep)
        coarse = self.cycle(self.stencils.reduced(self.neighbors(sweep).mul_(level.spread)), depth + 1)
        better = self.stencils.enlarged(coarse, sweep)
        torch.addcmul(sweep, level.spread, better, out=better)
        again = self.neighbors(better)
        return torch.addcmul(sweep, level.inverse, again, out=again)
