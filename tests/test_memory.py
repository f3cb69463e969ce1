"""Memory that outputs are lent: warm and used again, but never while anybody looks at it."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="needs numba: pip install numba")
from convzoo.numba import _memory

SHAPE = (1, 8, 251, 257)  # a size that no kernel asks for


def address(y):
    return y.ctypes.data


def test_a_block_is_lent_again_when_its_output_is_gone():
    y = _memory.empty(SHAPE, "float32")
    first = address(y)
    del y
    assert address(_memory.empty(SHAPE, "float32")) == first


def test_nobody_sees_an_output_change():
    y = _memory.empty(SHAPE, "float32")
    view = y[0, 1:3].T
    y[...] = 7
    first = address(y)
    del y
    other = _memory.empty(SHAPE, "float32")
    assert address(other) != first
    other[...] = 0
    assert (view == 7).all()
    assert not np.shares_memory(view, other)


@pytest.mark.parametrize("part, again", [(1.0, True), (0.5, True), (0.26, True), (0.2, False)])
def test_smaller_outputs_take_a_waiting_block_of_up_to_four_times_their_size(monkeypatch, part, again):
    monkeypatch.setattr(_memory, "_waiting", {})
    monkeypatch.setattr(_memory, "_held", 0)
    y = _memory.empty((2**20,), "float32")
    first = address(y)
    del y
    smaller = _memory.empty((int(2**20 * part),), "float32")
    assert (address(smaller) == first) == again
    assert smaller.flags.c_contiguous and smaller.flags.writeable and smaller.size == int(2**20 * part)
    del smaller
    assert _memory._held == sum(size * len(blocks) for size, blocks in _memory._waiting.items())


def test_the_closest_block_is_taken_and_a_larger_output_takes_none(monkeypatch):
    monkeypatch.setattr(_memory, "_waiting", {})
    monkeypatch.setattr(_memory, "_held", 0)
    large, small = _memory.empty((2**21,), "float32"), _memory.empty((2**20,), "float32")
    closest = address(small)
    del large, small
    assert address(_memory.empty((2**20 - 5000,), "float32")) == closest
    with_more = _memory.empty((2**22,), "float32")
    assert with_more.nbytes == 2**24
    assert len(_memory._waiting) == 2
