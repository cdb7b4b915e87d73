"""`Sample`, a picture and what is known of it, and `ImageSource`, a list of them with a name and a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from layermask.arguments import kinds
from layermask.arguments.declare import checked
from layermask.data.images import load_image
from layermask.errors import InputError, printable
from layermask.io.atomic import exists, reason

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
Known = Literal["label", "mask", "saliency"]


class Overlay(Protocol):
    """A mask or saliency map of a picture, read when it is asked for."""

    def __call__(self, size: Size) -> Image.Image:
        """Return an "L" picture of this (width, height)."""
        ...

    def fingerprint(self, root: Path) -> str:
        """Return text that changes when the file does, without reading much. Paths are relative to `root`."""
        ...


@dataclass(frozen=True)
class Sample:
    """A picture and what is known of it; nothing is read before it is asked for.

    `name`: its place in the source. `label`: the class index. `mask`: of the object, white on black.
    `saliency`: how much each pixel supports the label, 0 to 255.
    """

    name: str
    path: Path
    label: int | None = None
    mask: Overlay | None = None
    saliency: Overlay | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))  # it goes into tables and records

    def load_image(self) -> Image.Image:
        """Return the picture as RGB, upright.

        Raises:
            ImageError: it cannot be read.
        """
        return load_image(self.path)

    def load_mask(self, size: Size | None = None) -> Image.Image:
        """Return the mask, 0 and 255 (object); `size` is that of the picture, which saves reading it."""
        return self._overlay("mask", size)

    def load_saliency(self, size: Size | None = None) -> Image.Image:
        return self._overlay("saliency", size)

    def _overlay(self, what: Known, size: Size | None) -> Image.Image:
        found = getattr(self, what)
        if found is None:
            raise InputError(f"image {self.path} has no {what}: see ImageSource.having")
        return found(size or self.load_image().size)


@dataclass(frozen=True)
class ImageSource(Sequence[Sample]):
    """Samples of one folder. `kind`: its layout; `root`: the folder; `summary`: what is in it."""

    kind: str
    root: Path
    samples: tuple[Sample, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError(f"{self.root} ({self.kind}) holds no usable images: give another folder")

    @property
    def name(self) -> str:
        return printable(f"{self.kind}:{self.root.name}")

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index):  # type: ignore[override]  # slices give tuples
        return self.samples[index]

    def count(self, what: Known) -> int:  # type: ignore[override]  # of what is known, not of a sample
        """Return the number of samples that have a label, a mask or a saliency map."""
        return sum(getattr(sample, what) is not None for sample in self.samples)

    @property
    def summary(self) -> str:
        known = ", ".join(f"{self.count(what)} with {what}" for what in ("label", "mask", "saliency"))
        return f"{self.kind} {self.root}: {len(self)} images, {known}"

    def having(self, what: Known, skip: bool = False) -> ImageSource:
        """Return the source if all samples have it; with `skip`, those samples that do.

        Raises:
            InputError: some samples lack it and `skip` is False, or all lack it. The first ones are named.
        """
        lacking = [sample.name for sample in self.samples if getattr(sample, what) is None]
        if not lacking:
            return self
        some = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        if len(lacking) == len(self) or not skip:
            raise InputError(
                f"{len(lacking)} of {len(self)} images of {self.root} have no {what} ({some}): "
                f"give a source that has them{'' if len(lacking) == len(self) else ', or skip those'}"
            )
        return replace(self, samples=tuple(s for s in self.samples if getattr(s, what) is not None))

    @checked(limit=kinds.optional(kinds.count), seed=kinds.seed)
    def pick(self, limit: int | None, seed: int = 0) -> ImageSource:
        """Return `limit` samples at random, in the order of the source; all where it has no more.

        Those of a smaller limit are among those of a larger one.
        """
        if limit is None or limit >= len(self):
            return self
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:limit]
        return replace(self, samples=tuple(self.samples[i] for i in sorted(chosen.tolist())))

    def digest(self) -> str:
        """Return the SHA-256 of the list: names, labels, sizes of files; contents are not read.

        Raises:
            InputError: a file is not there.
        """
        return hashlib.sha256(json.dumps([self._line(s) for s in self.samples]).encode()).hexdigest()

    def fingerprints(self) -> dict[str, str]:
        """Return, by name, text that changes with a sample, its label or the size of a file; see `digest`.

        Raises:
            InputError: a file is not there, or a name stands for two samples.
        """
        found: dict[str, str] = {}
        for sample in self.samples:
            if sample.name in found:
                raise InputError(f"{self.root} lists image {sample.name} twice: list it once")
            line = json.dumps(self._line(sample)).encode()
            found[sample.name] = hashlib.sha256(line).hexdigest()[:16]
        return found

    def _line(self, s: Sample) -> list[str | int | None]:
        overlays = (None if o is None else o.fingerprint(self.root) for o in (s.mask, s.saliency))
        return [s.name, s.label, file_size(s.path), *overlays]


def file_size(path: Path) -> int:
    """Return the size of a file, and of a broken link its own: it is refused when it is read."""
    try:
        return (path.stat() if exists(path) else path.lstat()).st_size
    except (OSError, ValueError) as error:
        raise InputError(f"image {path} cannot be read: {reason(error)}") from error
