"""The CUDA emulator: what it lets pass is right on a GPU as well, as far as that can be said, and it bites."""

from __future__ import annotations

from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator import SCHEDULES, Emulator, EmulatorError, copied, fence_holds, fenced

THREADS = 128
EXAMPLES = Path(cuda_emulator.__file__).with_name("examples.cu")
RNG = np.random.default_rng(7)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@pytest.fixture
def nvrtc():
    return pytest.importorskip("convzoo.cupy._nvrtc", reason="needs CuPy, which imports without a GPU")


@pytest.fixture
def text(nvrtc):
    """The examples with _ptx.cuh in them, as NVRTC would get them."""
    header = Path(nvrtc.__file__).with_name("_ptx.cuh").read_text(encoding="utf-8")
    return EXAMPLES.read_text(encoding="utf-8").replace('#include "_ptx.cuh"', header)


@pytest.fixture
def build(text, build_folder):
    def built(name, *, sanitizer=None, schedule="round robin", seed=0):
        """The example of that name, with its barrier where it has a choice."""
        emulator = Emulator(build_folder, sanitizer)
        emulator.schedule, emulator.seed = schedule, seed
        return emulator.RawModule(text).get_function(name)

    return built


def reversed_blocks(kernel, barrier=True):
    x = np.arange(3 * THREADS, dtype="float32")
    y = copied(x)
    kernel((3,), (THREADS,), (y, np.int32(barrier)))
    return np.array_equal(y.reshape(3, -1), x.reshape(3, -1)[:, ::-1])


# --- waiting -------------------------------------------------------------------------------------------


@every_schedule
def test_barrier(build, schedule):
    assert all(reversed_blocks(build("reverse", schedule=schedule, seed=seed)) for seed in range(5))


def test_a_missing_barrier_shows(build):
    assert not any(reversed_blocks(build("reverse", schedule=each), barrier=False) for each in SCHEDULES)


def test_random_schedules_are_many_and_repeat(build):
    def outcome(seed):
        y = copied(np.arange(THREADS, dtype="float32"))
        build("reverse", schedule="random", seed=seed)((1,), (THREADS,), (y, np.int32(0)))
        return tuple(np.isnan(y))

    first = [outcome(seed) for seed in range(4)]
    assert len(set(first)) > 1
    assert first == [outcome(seed) for seed in range(4)]


@every_schedule
def test_named_barriers(build, schedule):
    y = fenced(THREADS)
    build("two_barriers", schedule=schedule)((1,), (THREADS,), (y,))
    assert np.array_equal(y, np.arange(THREADS) ^ 32)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("some_leave", "of 128 threads 28 ended, 100 wait at __syncthreads"),
        ("part_of_a_warp", "of 128 threads 64 ended, 16 wait at an instruction of a whole warp"),
    ],
)
@every_schedule
def test_a_stuck_block_is_told(build, name, told, schedule):
    with pytest.raises(EmulatorError, match=told):
        build(name, schedule=schedule)((1,), (THREADS,), (fenced(THREADS),))
    assert reversed_blocks(build("reverse")), "the launch after a stuck one"


# --- memory --------------------------------------------------------------------------------------------


def test_shared_memory_starts_as_nan_in_every_block(build):
    y = np.zeros(2 * THREADS, "float32")
    build("unwritten")((2,), (THREADS,), (y,), shared_mem=4 * THREADS)
    assert np.isnan(y).all()


@pytest.mark.parametrize("on_their_way", [0, 1, 2, 3])
def test_copies_land_at_their_wait(build, on_their_way):
    x, y = copied(RNG.random(4 * THREADS, "float32")), fenced((3, 4 * THREADS))
    build("copy_in_groups")((1,), (THREADS,), (x, y, np.int32(on_their_way), np.int32(1)))
    for group, row in enumerate(y):
        landed = group < 3 - on_their_way
        assert np.array_equal(row, x) if landed else np.isnan(row).all(), f"group {group}"


def test_copies_that_are_not_valid_read_nothing_and_give_zeros(build):
    x, y = fenced(4 * THREADS), fenced((3, 4 * THREADS))
    build("copy_in_groups")((1,), (THREADS,), (x, y, np.int32(0), np.int32(0)))
    assert not y.any()


@every_schedule
def test_copies_of_words(build, schedule):
    x, y = copied(RNG.random(THREADS, "float32")), fenced(THREADS)
    build("copy_words", schedule=schedule)((1,), (THREADS,), (x, y, np.int32(1)))
    assert np.array_equal(y, np.where(np.arange(THREADS) % 2, x, 0)[::-1])


@pytest.mark.parametrize("what", range(5))
def test_addresses_that_are_not_aligned_are_told(build, what):
    kernel = build("off_by")
    x, y = copied(RNG.random(8 * THREADS, "float32")), fenced(8)
    kernel((1,), (32,), (x, y, np.int32(what), np.int32(4)))
    with pytest.raises(EmulatorError, match=r"thread \(0, 0, 0\).*needs.* multiples? of 16"):
        kernel((1,), (32,), (x, y, np.int32(what), np.int32(1)))


def test_a_launch_that_cuda_would_refuse(build):
    kernel = build("reverse")
    x = fenced(THREADS)
    with pytest.raises(EmulatorError, match="1 to 1024 threads, got 1025"):
        kernel((1,), (1025,), (x, np.int32(1)))
    with pytest.raises(EmulatorError, match="set max_dynamic_shared_size_bytes"):
        kernel((1,), (THREADS,), (x, np.int32(1)), shared_mem=50_000)
    with pytest.raises(EmulatorError, match="number and the sizes"):
        kernel((1,), (THREADS,), (x, np.int64(1)))
    with pytest.raises(EmulatorError, match="an array with gaps"):
        kernel((1,), (THREADS,), (fenced(2 * THREADS)[::2], np.int32(1)))
    with pytest.raises(EmulatorError, match="no kernel 'inverse', only reverse"):
        kernel.module.get_function("inverse")


# --- instructions of a warp ----------------------------------------------------------------------------


@every_schedule
def test_shuffles(build, schedule):
    x, y = copied(RNG.random(32, "float32")), fenced((4, 32))
    build("shuffles", schedule=schedule)((1,), (32,), (x, y))
    lane = np.arange(32)
    below, above = np.where(lane < 3, lane, lane - 3), np.where(lane > 28, lane, lane + 3)
    assert np.array_equal(y, np.stack([x[lane ^ 5], x[above], x[below], x[lane * 0 + 7]]))


@every_schedule
def test_mma_is_a_matrix_product(build, schedule):
    a, b, d = (copied(RNG.integers(-1024, 1024, shape).astype("float32")) for shape in ((16, 8), (8, 8), (16, 8)))
    expected = a @ b + d
    build("multiply", schedule=schedule)((1,), (32,), (a, b, d, np.int32(0)))
    assert np.array_equal(d, expected)


def test_mma_sees_only_tf32(build):
    a, b, d = np.zeros((16, 8), "float32"), np.zeros((8, 8), "float32"), np.zeros((16, 8), "float32")
    a[3, 1], b[1, 2] = 1 + 2**-10 + 2**-11 + 2**-20, 1
    for rounded, expected in ((0, 1 + 2**-10), (1, 1 + 2**-9)):
        d[...] = 0
        build("multiply")((1,), (32,), (a, b, d, np.int32(rounded)))
        assert d[3, 2] == expected
        assert np.count_nonzero(d) == 1


def test_mma_cuts_off_what_a_tensor_core_cuts_off(build):
    """Four halves of the last place of 1: together two last places, and yet the tensor core drops them."""
    a, b, d = np.zeros((16, 8), "float32"), np.zeros((8, 8), "float32"), np.ones((16, 8), "float32")
    a[:, :4], b[:4] = 2**-10, 2.0**-15
    build("multiply")((1,), (32,), (a, b, d, np.int32(0)))
    assert (d == 1).all()
    a[:, :4] = 2**-8
    build("multiply")((1,), (32,), (a, b, d, np.int32(0)))
    assert (d == np.float32(1 + 4 * 2**-23)).all()


def test_cvt_rounds_to_nearest_and_ties_away(build):
    x = copied((RNG.standard_normal(THREADS) * 2.0 ** RNG.integers(-30, 30, THREADS)).astype("float32"))
    x[:6] = 1 + 2**-11, -1 - 2**-11, 1 + 3 * 2**-11, np.inf, -np.inf, 2 - 2**-12
    y = fenced(THREADS)
    build("round_to_tf32")((1,), (THREADS,), (x, y))
    with np.errstate(invalid="ignore"):
        mantissa, exponent = np.frexp(x.astype(float))
        nearest = np.copysign(np.floor(np.abs(mantissa) * 2**11 + 0.5), x) * 2.0 ** (exponent - 11)
    assert np.array_equal(y, np.where(np.isinf(x), x, nearest))


@every_schedule
def test_ldmatrix(build, schedule):
    x, y = copied(RNG.random((32, 8), "float32")), fenced((4, 8, 4))
    build("matrices", schedule=schedule)((1,), (32,), (x, y))
    assert np.array_equal(y, x[:, 4:].reshape(4, 8, 4))


# --- sanitizers ----------------------------------------------------------------------------------------


def test_thread_sanitizer_is_a_race_check(build):
    assert reversed_blocks(build("reverse", sanitizer="thread"))
    for schedule in ("round robin", "random"):
        kernel = build("reverse", sanitizer="thread", schedule=schedule)
        with pytest.raises(EmulatorError, match=r"data race(.|\n)*kernel\.cu:\d+"):
            reversed_blocks(kernel, barrier=False)


def test_thread_sanitizer_sees_copies_land(build):
    x, y = copied(RNG.random(THREADS, "float32")), fenced(THREADS)
    kernel = build("copy_words", sanitizer="thread")
    kernel((1,), (THREADS,), (x, y, np.int32(1)))
    with pytest.raises(EmulatorError, match="data race"):
        kernel((1,), (THREADS,), (x, y, np.int32(0)))


@pytest.mark.parametrize("where", range(4), ids=["global", "dynamic", "static", "last static"])
def test_address_sanitizer_sees_one_element_too_many(build, where):
    kernel = build("beyond", sanitizer="address")
    x = copied(np.zeros(THREADS, "float32"))
    kernel((2,), (THREADS,), (x, np.int32(0), np.int32(where)), shared_mem=4 * THREADS)
    with pytest.raises(EmulatorError, match=r"AddressSanitizer(.|\n)*kernel\.cu:\d+"):
        kernel((2,), (THREADS,), (x, np.int32(1), np.int32(where)), shared_mem=4 * THREADS)


def test_a_sanitizer_that_does_not_run_here_is_a_skip(build_folder, monkeypatch):
    monkeypatch.setitem(cuda_emulator.SANITIZERS, "thread", ("-fsanitize=thread", "-lno-such-library"))
    cuda_emulator.how_to_run.cache_clear()
    with pytest.raises(pytest.skip.Exception, match=r"needs g\+\+ with a thread sanitizer.*no-such-library"):
        Emulator(build_folder, "thread")
    cuda_emulator.how_to_run.cache_clear()


def test_fence():
    a = copied(np.zeros(5, "float32"))
    assert fence_holds(a)
    a.base[a.base.size - 1] = 0
    assert not fence_holds(a)
