"""Wu-Palmer similarity of the ImageNet classes, from the hypernyms of WordNet 3.0 in the package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from layermask.errors import InputError

_FILE = Path(__file__).parents[1] / "assets" / "wordnet30_imagenet.tsv"
_FAR = 1_000  # longer than any path


@dataclass(frozen=True)
class Hierarchy:
    """Synsets by id, every one after its hypernyms (what it is a kind of), and the ids of the classes."""

    words: Mapping[str, str]
    hypernyms: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...]

    @cached_property
    def ids(self) -> list[str]:
        """All ids, hypernyms first."""
        done: dict[str, None] = {}
        for name in self.hypernyms:
            self._visit(name, done)
        return list(done)

    def _visit(self, name: str, done: dict[str, None]) -> None:
        if name not in done:
            for above in self.hypernyms[name]:
                self._visit(above, done)
            done[name] = None

    @cached_property
    def ups(self) -> dict[str, dict[str, int]]:
        """For each synset all that it is a kind of, itself included, and the fewest steps up to it."""
        found: dict[str, dict[str, int]] = {}
        for name in self.ids:
            steps = {name: 0}
            for above in self.hypernyms[name]:
                for far, count in found[above].items():
                    steps[far] = min(count + 1, steps.get(far, _FAR))
            found[name] = steps
        return found

    @cached_property
    def depths(self) -> dict[str, tuple[int, int]]:
        """The fewest and the most steps up to a root."""
        found: dict[str, tuple[int, int]] = {}
        for name in self.ids:
            above = [found[each] for each in self.hypernyms[name]]
            found[name] = (
                min((low for low, _ in above), default=-1) + 1,
                max((high for _, high in above), default=-1) + 1,
            )
        return found

    def distance(self, a: str, b: str) -> int:
        """Return the steps of the shortest way between two synsets, up to a common hypernym and down."""
        near, far = self.ups[a], self.ups[b]
        return min(steps + far[name] for name, steps in near.items() if name in far)

    def subsumer(self, a: str, b: str) -> str:
        """Return the lowest common hypernym as nltk chooses it.

        The one whose shortest way to the root is longest; of several `a`, or else the first word in the
        alphabet.
        """
        common = self.ups[a].keys() & self.ups[b].keys()
        lowest = max(self.depths[name][0] for name in common)
        chosen = [name for name in common if self.depths[name][0] == lowest]
        return a if a in chosen else min(chosen, key=self._place)

    def _place(self, name: str) -> tuple[str, str]:
        return self.words[name].lower(), name

    def wu_palmer(self, a: str, b: str) -> float:
        """Return 2 d / (d + x + d + y) of two synset ids (Wu and Palmer 1994), as nltk computes it.

        d: nodes on the longest way from the root to the lowest common hypernym; x, y: steps to it.
        """
        top = self.subsumer(a, b)
        depth = self.depths[top][1] + 1
        return 2 * depth / (2 * depth + self.distance(a, top) + self.distance(b, top))


def hierarchy_of(lines: Iterable[str]) -> Hierarchy:
    """Read lines of id, class or "-", first word and hypernym ids, separated by tabs."""
    rows = [line.rstrip("\n").split("\t") for line in lines if not line.startswith("#")]
    classes = sorted((int(index), name) for name, index, _, _ in rows if index != "-")
    return Hierarchy(
        words={name: word for name, _, word, _ in rows},
        hypernyms={name: tuple(above.split()) for name, _, _, above in rows},
        classes=tuple(name for _, name in classes),
    )


@lru_cache(1)
def imagenet_hierarchy() -> Hierarchy:
    """Return WordNet 3.0 above the 1,000 ImageNet synsets."""
    return hierarchy_of(_FILE.read_text(encoding="utf-8").splitlines())


def are_imagenet(names: Sequence[str]) -> bool:
    """Whether these are the 1,000 ImageNet classes in their order, told by their WordNet words.

    Libraries name a few of them otherwise, so nine in ten of the words have to be among the names.
    """
    tree = imagenet_hierarchy()
    words = [tree.words[each].replace("_", " ").casefold() for each in tree.classes]
    if len(names) != len(words):
        return False
    pairs = zip(words, names, strict=True)
    alike = sum(word in {part.strip().casefold() for part in name.split(",")} for word, name in pairs)
    return alike > 0.9 * len(words)


@lru_cache(1)
def wu_palmer_matrix() -> Tensor:
    """Return the (1000, 1000) float64 Wu-Palmer similarities of the ImageNet classes, [first, second].

    As nltk's they lie in (0, 1], and are below 1 for 107 classes and themselves (dogs, mostly), where a
    shorter way to the root bypasses the longest.
    """
    return wu_palmer_all(imagenet_hierarchy())


def wu_palmer_all(tree: Hierarchy) -> Tensor:
    """Return `tree.wu_palmer` of all pairs of its classes at once, float64."""
    number = {name: row for row, name in enumerate(tree.ids)}
    up = torch.full((len(number), len(number)), _FAR, dtype=torch.int16)  # steps up from one to the other
    for name, steps in tree.ups.items():
        up[number[name], [number[above] for above in steps]] = torch.tensor(
            list(steps.values()), dtype=torch.int16
        )
    of_classes = up[[number[name] for name in tree.classes]].T.contiguous()
    tops = torch.stack([_subsumers(tree, name, number, of_classes) for name in tree.classes])
    # Steps to each synset that is a subsumer.
    ways = torch.full((len(number), len(tops)), _FAR, dtype=torch.int16)
    for top in tops.unique():
        above = (up[top] < _FAR).nonzero()[:, 0]
        ways[top] = (of_classes[above] + up[top, above, None]).amin(0)
    depth = torch.tensor([tree.depths[name][1] + 1.0 for name in tree.ids], dtype=torch.float64)[tops]
    places = torch.arange(len(tops))
    return 2 * depth / (2 * depth + ways[tops, places[:, None]] + ways[tops, places])


def _subsumers(tree: Hierarchy, name: str, number: Mapping[str, int], up: Tensor) -> Tensor:
    """Return the numbers (classes,) of the lowest common hypernyms; `up` (synsets, classes) are steps."""
    ranked = sorted(tree.ups[name], key=lambda top: (-tree.depths[top][0], top != name, tree._place(top)))
    above = torch.tensor([number[top] for top in ranked])
    return above[(up[above] < _FAR).byte().argmax(0)]


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the similarities of ImageNet classes (...) and (...), which broadcast, as float64.

    Raises:
        InputError: a class is not one of the 1,000.
    """
    for name, classes in (("predicted", first), ("labels", second)):
        if len(classes) and (int(classes.min()) < 0 or int(classes.max()) > 999):
            raise InputError(
                f"{name} of {tuple(classes.shape)} has classes from {int(classes.min())} to "
                f"{int(classes.max())}: WordNet similarity knows the 1,000 ImageNet classes, 0 to 999"
            )
    return wu_palmer_matrix()[first.cpu(), second.cpu()]
