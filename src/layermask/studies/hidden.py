"""What is hidden of a picture: by a mask file, or by patches drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layermask.errors import printable

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from layermask.studies.prepared import PreparedImage

PATCH = 16  # pixels, of what --hide hides
LARGE = 0.3  # of the picture: a hidden region that is as large has an outline that says much


@dataclass(frozen=True)
class Hidden:
    """What is hidden: `visible` (1, 1, H, W), by a mask file or by a share of patches drawn with a seed."""

    visible: Tensor
    mask: Path | None
    share: float
    seed: int

    def amount(self) -> float:
        return float(self.visible.float().mean())

    def title(self) -> str:
        how = printable(self.mask.name) if self.mask else f"random {PATCH}×{PATCH} patches hidden"
        return f"{how}, {self.amount():.1%} visible"

    def record(self) -> dict[str, Any]:
        from layermask.io.record import sha256

        if self.mask:
            return {"file": self.mask.name, "sha256": sha256(self.mask), "visible": self.amount()}
        return {"hide": self.share, "seed": self.seed, "patch": PATCH, "visible": self.amount()}


def outline_hint(visible: Tensor) -> str:
    """Return what to know if most of what is hidden (1, 1, H, W) is one large region, as around an object."""
    from layermask.errors import import_optional

    hidden = (~visible[0, 0]).cpu().numpy()
    if hidden.mean() < LARGE:
        return ""
    regions = import_optional("skimage.measure", "cli").label(hidden, connectivity=1)
    share = max((regions == number).mean() for number in range(1, int(regions.max()) + 1))
    if share < max(LARGE, 0.9 * hidden.mean()):
        return ""
    return (
        f"one region of {share:.0%} of the picture is hidden, and under layer masking its outline too: "
        "compare --removals layermask,mean, which shows it (docs/wrong-tool.md)"
    )


def hide_part(scene: PreparedImage, mask: Path | None, share: float, seed: int) -> Hidden:
    """Hide by a mask file, or a share of patches drawn with a seed; what holds no data is hidden too."""
    visible = visible_part(scene, mask) if mask else _patches(scene, share, seed)
    visible = visible if scene.valid is None else visible & scene.valid
    return Hidden(visible, mask, share, seed)


def _patches(scene: PreparedImage, share: float, seed: int) -> Tensor:
    """Return the (1, 1, H, W) mask of patches drawn at random; at least one is visible and one hidden."""
    import torch

    from layermask.errors import InputError

    patches = patches_of(scene)
    count = int(patches.max()) + 1
    if count == 1:
        size = tuple(patches.shape)
        raise InputError(f"the model sees {size} pixels, one patch of {PATCH}x{PATCH}: give a --mask instead")
    hidden = min(max(1, round(share * count)), count - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    visible = torch.ones(count, dtype=torch.bool).index_fill(0, order[:hidden], False)
    return visible[patches][None, None].to(scene.x.device)


def patches_of(scene: PreparedImage) -> Tensor:
    from layermask.segment.segmenters import Grid

    return Grid(PATCH)(scene.picture)


def visible_part(scene: PreparedImage, path: Path, invert: bool = False) -> Tensor:
    """Return the (1, 1, H, W) mask of what the model sees."""
    import numpy as np

    from layermask.errors import ImageError

    mask, ours = _mask_of(scene, path)
    mask = mask.point(lambda level: 255 - level) if invert else mask
    visible = _tensor(mask) if ours else scene.loaded.preprocessing.mask(mask)
    if not visible.any():
        share = float((np.asarray(mask) > 0).mean())
        why = "black is visible with --invert" if invert else "white is visible; --invert makes black visible"
        if share:
            seen = "{1}x{0}".format(*scene.loaded.preprocessing.crop)
            why = f"what is visible, {share:.2%} of it, lies outside the {seen} pixels that the model takes"
        raise ImageError(f"mask {path} hides all that the model sees of the picture: {why}")
    return visible.to(scene.x.device)


def _mask_of(scene: PreparedImage, path: Path) -> tuple[Image.Image, bool]:
    """Return the mask of the picture, or one of the size of what the model sees, and whether it is that."""
    from layermask.data.images import fitted, load_mask, same_shape
    from layermask.data.polygons import load_region

    if path.suffix.lower() == ".json":
        return load_region(path, scene.size), False
    mask, crop = load_mask(path), scene.loaded.preprocessing.crop
    if mask.size == crop[::-1] and not same_shape(mask.size, scene.size):
        return mask, True
    return fitted(mask, scene.size, path), False


def _tensor(mask: Image.Image) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(mask) > 0)[None, None]
