"""The building blocks of the numba_cuda kernels, as they stand in for themselves in Numba's simulator.

Run by tests/test_numba_cuda_simulator.py, in a process whose numba was imported with the simulator on.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip(
        "needs NUMBA_ENABLE_CUDASIM=1: tests/test_numba_cuda_simulator.py runs it in its own process",
        allow_module_level=True,
    )

from numba import cuda, float32

from convzoo.numba_cuda import _ptx
from convzoo.numba_cuda._launch import Launch

VALUES = np.arange(1, 17, dtype=np.float32)


def launch(body, *arrays) -> None:
    Launch("test", body, "void()", 1, 1).compiled()[1, 1](*arrays)


def test_four_values_are_read_and_written_at_once():
    def body(x, y):
        v0, v1, v2, v3 = _ptx.load4(x, 8)
        _ptx.store4(y, 4, v3, v2, v1, v0)

    y = np.zeros(8, np.float32)
    launch(body, VALUES, y)
    assert y.tolist() == [0, 0, 0, 0, 12, 11, 10, 9]


@pytest.mark.parametrize(("i", "j"), [(1, 0), (0, 2)])
def test_what_a_gpu_would_call_misaligned_is_refused(i, j):
    def load(x):
        _ptx.load4(x, i + j)

    def store(x):
        _ptx.store4(x, i + j, 0, 0, 0, 0)

    def copy(x):
        shared = cuda.shared.array(16, float32, alignment=16)
        _ptx.copy4_async(shared, i, x, j, True)

    for body in (load, store, copy):
        with pytest.raises(AssertionError, match="not a multiple of 4"):
            launch(body, VALUES.copy())


@pytest.mark.parametrize("wait", [True, False])
def test_a_copy_lands_at_its_wait_and_no_earlier(wait):
    def body(x, y):
        shared = cuda.shared.array(8, float32, alignment=16)
        shared[0] = shared[1] = 7
        _ptx.copy4_async(shared, 0, x, 4, True)
        _ptx.copy1_async(shared, 5, x, 2, True)
        _ptx.copy1_async(shared, 6, x, 1000, False)  # not valid: nothing is read there
        _ptx.commit()
        if wait:
            _ptx.wait_for_all_but(0)
        for i in range(7):
            y[i] = shared[i]

    y = np.zeros(7, np.float32)
    launch(body, VALUES, y)
    if wait:
        assert y[[0, 1, 2, 3, 5, 6]].tolist() == [5, 6, 7, 8, 3, 0]
    else:
        assert np.isnan(y[[0, 1, 2, 3, 5, 6]]).all()


def test_waiting_leaves_the_newest_groups_alone():
    def body(x, y):
        shared = cuda.shared.array(3, float32, alignment=16)
        for i in range(3):
            _ptx.copy1_async(shared, i, x, i, True)
            _ptx.commit()
        for newest in (2, 1, 0):
            _ptx.wait_for_all_but(newest)
            for i in range(3):
                y[newest, i] = shared[i]

    y = np.zeros((3, 3), np.float32)
    launch(body, VALUES, y)
    assert np.isnan(y).tolist() == [[False] * 3, [False, False, True], [False, True, True]]
    assert y[0].tolist() == [1, 2, 3]


def test_copies_that_are_in_no_group_are_not_waited_for():
    def body(x, y):
        shared = cuda.shared.array(1, float32, alignment=16)
        _ptx.copy1_async(shared, 0, x, 0, True)
        _ptx.wait_for_all_but(0)
        y[0] = shared[0]

    y = np.zeros(1, np.float32)
    launch(body, VALUES, y)
    assert np.isnan(y[0])
