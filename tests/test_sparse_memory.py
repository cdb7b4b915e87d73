"""Memory that is kept between passes: who gets which part of it, and when it goes back."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from layermask import LayerMasking
from layermask.removal.query import out_of_memory
from layermask.sparse import memory
from layermask.sparse.memory import SMALL, Memory, lending

COLUMNS = 64
ROWS = SMALL // (4 * COLUMNS)  # the least that is lent
LIKE = torch.empty(0, COLUMNS)


@pytest.fixture
def lender(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(memory, "_REGION", 8 * SMALL)
    return Memory()


def free(lender: Memory) -> list:
    with lender._lock:
        lender._lend(0)  # collects what was returned
    return [region.free for region in lender._regions]


def test_what_is_lent_does_not_overlap_and_comes_back_whole(lender: Memory) -> None:
    """Numbers written into tensors, at random taken and dropped, stay what they are."""
    draw, held = random.Random(0), []
    for number in range(400):
        if held and draw.random() < 0.55:
            x, written = held.pop(draw.randrange(len(held)))
            assert (x == written).all()
        else:
            x = lender.empty(LIKE, draw.randint(ROWS, 5 * ROWS), COLUMNS)
            assert x.data_ptr() % 64 == 0 and x.dtype is LIKE.dtype
            held.append((x.fill_(number), number))
        del x
    assert len(lender._regions) > 1
    held.clear()
    assert all(len(stretches) == 1 for stretches in free(lender))


def test_a_view_keeps_what_it_shows(lender: Memory) -> None:
    view = lender.empty(LIKE, ROWS, COLUMNS).fill_(1)[3:, 5]
    again = lender.empty(LIKE, ROWS, COLUMNS).fill_(2)
    assert (view == 1).all()
    address = view.data_ptr()
    del view
    assert lender.empty(LIKE, ROWS, COLUMNS).data_ptr() < address < again.data_ptr()


def test_it_goes_back_with_its_operator_but_what_is_lent_stays() -> None:
    lender = Memory()
    lent, region = lender.empty(LIKE, ROWS, COLUMNS).fill_(7), weakref.ref(lender._regions[0])
    del lender
    gc.collect()
    assert region() is None and (lent == 7).all()


def test_after_a_pass_no_more_than_the_cap_is_kept(lender: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 16 * SMALL)
    with lending(SimpleNamespace(memory=lender)):
        held = [memory.empty(LIKE, 8 * ROWS, COLUMNS) for _ in range(5)]
        in_use = held[3].fill_(3)
        del held
        assert len(lender._regions) == 5
    assert [region.is_free for region in lender._regions] == [True, False]
    assert (in_use == 3).all()


def test_only_within_a_pass_is_anything_lent(lender: Memory) -> None:
    memory.empty(LIKE, ROWS, COLUMNS)
    assert not lender._regions
    with lending(SimpleNamespace(memory=lender)):
        elsewhere = threading.Thread(target=memory.empty, args=(LIKE, ROWS, COLUMNS))
        elsewhere.start()
        elsewhere.join()
        assert not lender._regions
        memory.empty(LIKE, ROWS, COLUMNS)
        assert len(lender._regions) == 1
    lender._regions.clear()
    memory.empty(LIKE, ROWS, COLUMNS)
    assert not lender._regions


def test_a_region_as_large_as_asked_for(lender: Memory) -> None:
    assert lender.empty(LIKE, 100 * ROWS, COLUMNS).fill_(1).sum() == 100 * ROWS * COLUMNS


def test_no_memory_left_is_the_error_that_batches_are_halved_on(lender: Memory) -> None:
    like = torch.empty(0, 1, dtype=torch.uint8)
    with pytest.raises(RuntimeError) as caught:
        lender.empty(like, 1 << 50, 1)
    assert out_of_memory(caught.value)
    assert lender.empty(LIKE, ROWS, COLUMNS).shape == (ROWS, COLUMNS)


def test_threads_do_not_share(lender: Memory) -> None:
    wrong = []

    def work(number: int) -> None:
        for _ in range(100):
            x = lender.empty(LIKE, ROWS, COLUMNS).fill_(number)
            y = lender.empty(LIKE, 2 * ROWS, COLUMNS).fill_(-number)
            wrong.append(bool((x != number).any() or (y != -number).any()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(wrong) == 400 and not any(wrong)


def test_a_model_gives_it_back_and_later_answers_do_not_change_earlier_ones() -> None:
    model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1) for i in range(5))).eval()
    removal = LayerMasking(model, engine="sparse")
    images, visible = torch.randn(4, 3, 48, 48), torch.rand(4, 1, 48, 48) < 0.5
    with torch.no_grad():
        first = removal(images, visible)
        kept = first.clone()
        removal(-images, visible)
        assert torch.equal(first, kept)
        assert torch.equal(removal(images, visible), kept)
    region = weakref.ref(removal.sparse_engine.memory._regions[0])
    del removal
    gc.collect()
    assert region() is None
