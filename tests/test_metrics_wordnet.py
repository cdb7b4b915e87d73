"""Wu-Palmer similarity: values derived by hand, values that nltk documents, and the hierarchy itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layermask.errors import InputError
from layermask.metrics import wordnet
from layermask.metrics.wordnet import hierarchy_of, imagenet_hierarchy, similarity, wu_palmer_matrix

DOG, CAT, CARNIVORE, CANINE = "n02084071", "n02121620", "n02075296", "n02083346"

#        thing
#        /    \
#     life    ware
#     /  \      \
#  plant  pet -- gnome       "gnome" is a pet and a ware; "oak" is a plant
#    |
#   oak
SMALL = """# a comment
n1\t-\tthing\t
n2\t-\tlife\tn1
n3\t-\tware\tn1
n4\t-\tplant\tn2
n5\t-\tpet\tn2
n6\t0\tgnome\tn5 n3
n7\t1\toak\tn4
n8\t2\tvase\tn3
"""


def test_a_hierarchy_by_hand() -> None:
    tree = hierarchy_of(SMALL.splitlines())
    assert tree.classes == ("n6", "n7", "n8")
    assert tree.depths["n6"] == (2, 3)  # by ware, and by pet and life
    assert tree.distance("n6", "n7") == 4 and tree.distance("n6", "n8") == 2
    assert tree.subsumer("n7", "n6") == "n2" and tree.subsumer("n8", "n6") == "n3"
    assert tree.wu_palmer("n6", "n7") == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))
    assert tree.wu_palmer("n6", "n8") == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert tree.wu_palmer("n7", "n8") == pytest.approx(2 * 1 / (2 * 1 + 3 + 2))
    # gnome, pet and gnome itself: min depths 2, 2; of equals nltk takes the first synset itself
    assert tree.subsumer("n6", "n6") == "n6" and tree.wu_palmer("n6", "n6") == 1


def test_of_equally_low_subsumers_the_first_word_counts() -> None:
    tree = hierarchy_of(
        ["r\t-\troot\t", "b\t-\tBee\tr", "a\t-\tcow\tr", "x\t0\tx\ta b", "y\t1\ty\ta b"]  # bee before cow
    )
    assert tree.subsumer("x", "y") == "b"


def test_values_that_nltk_documents() -> None:
    tree = imagenet_hierarchy()
    assert tree.wu_palmer(DOG, CAT) == pytest.approx(0.8571428571428571, abs=1e-15)
    assert tree.distance(DOG, CAT) == 4  # path similarity 0.2
    # a dog is a domestic animal too, a shorter way to the root, so its lowest subsumer with itself is canine
    assert tree.subsumer(DOG, DOG) == CANINE and tree.subsumer(DOG, CAT) == CARNIVORE
    assert tree.wu_palmer(DOG, DOG) == pytest.approx(26 / 28)


def test_the_matrix_is_the_pairs() -> None:
    tree, matrix = imagenet_hierarchy(), wu_palmer_matrix()
    assert matrix.shape == (1000, 1000) and matrix.dtype == torch.float64
    for a in range(0, 1000, 97):
        row = [tree.wu_palmer(tree.classes[a], b) for b in tree.classes]
        torch.testing.assert_close(matrix[a], torch.tensor(row, dtype=torch.float64), atol=1e-15, rtol=0)
    assert float(matrix.min()) > 0 and float(matrix.max()) == 1
    assert int((matrix.diagonal() < 1).sum()) == 107  # as the docstring has it
    small = hierarchy_of(SMALL.splitlines())
    pairs = [[small.wu_palmer(a, b) for b in small.classes] for a in small.classes]
    assert torch.equal(wordnet.wu_palmer_all(small), torch.tensor(pairs, dtype=torch.float64))


def test_the_hierarchy_has_the_known_path_lengths(shared_data: Path) -> None:
    numpy = pytest.importorskip("numpy")
    known = numpy.load(shared_data / "imagenet_wordnet_pathdist.npz")["dist"]
    tree = imagenet_hierarchy()
    for a in range(0, 1000, 31):
        assert [tree.distance(tree.classes[a], b) for b in tree.classes] == known[a].tolist()


def test_similarity_broadcasts_and_refuses_other_classes() -> None:
    predicted = torch.tensor([[1, 2], [3, 4]])
    found = similarity(predicted, torch.tensor([[1], [0]]))
    assert found[0, 0] == wu_palmer_matrix()[1, 1] and found[1, 1] == wu_palmer_matrix()[4, 0]
    with pytest.raises(InputError, match=r"predicted of \(1,\) has classes from 1000 to 1000.*0 to 999"):
        similarity(torch.tensor([1000]), torch.tensor([0]))


def test_the_licence_is_beside_the_data() -> None:
    notice = wordnet._FILE.with_name("wordnet30.LICENSE").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in notice
