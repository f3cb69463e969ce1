"""cupy/raw_register_tile without a GPU: its CUDA C++ on the CPU emulator, and faults in it that are found."""

from __future__ import annotations

import dataclasses

import pytest
from cases import problems
from cuda_emulator import SCHEDULES, Emulator, EmulatorError, copied, fence_holds
from hypothesis import given
from hypothesis import strategies as st

from convzoo import Conv2d, Unsupported
from convzoo.catalog import find
from convzoo.reference import inputs, judge

# Tails: of filters, of pixels (whole runs of four and not), of taps (steps have 8), of parts.
PROBLEMS = (
    "n1c1h1w1k1r1s1",
    "n1c1h9w9k1r3s3-p1",
    "n2c3h13w17k5r3s2-st2x1-p1_2_0_3",
    "n1c2h9w30k3r2s4-st1x3-p0_3_2_1-d2x3-nobias",
    "n3c6h8w7k4r3s3-p1-g2",
    "n1c7h11w10k14r3s5-st2x3-p2_1_4_0-d1x2-g7",
    "n1c2h3w4k2r3s3-p2_3_1_2-d3x3",
    "n1c5h12w11k1r2s4-st5x1-p4_0_1_3-d3x2-nobias",
    "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nhwc",
    "n1c5h6w11k9r2s3-p0_1_2_0-nobias-nhwc",
    "n1c68h7w6k9r1s1-st3x2-nhwc",
    "n3c30h7w6k66r3s4-st2-p1_0_2_1-g3-nobias",
    "n1c3h13w12k132r3s3-p1",
)
TILES = range(4)
NARROW = "n2c5h9w15k37r3s2-p1_0_0_1-g1"  # tails in every dimension of every tile


@pytest.fixture
def module(monkeypatch):
    """convzoo.cupy.raw_register_tile; its ``cupy`` is what ``use`` says."""
    nvrtc = pytest.importorskip("convzoo.cupy._nvrtc", reason="needs CuPy, which imports without a GPU")
    found = find("cupy/raw_register_tile").module()
    found.use = lambda emulator: emulator.stands_in(monkeypatch, nvrtc, found)
    yield found
    del found.use


@pytest.fixture
def emulator(module, build_folder):
    emulator = Emulator(build_folder)
    module.use(emulator)
    return emulator


def why_not(module, text, tiers=(("exact", 0), ("exact", 1), ("random", 2))):
    """None if ``text`` comes out right on data of every kind, else what is wrong."""
    p = Conv2d.parse(text)
    plan = module.plan(p)
    for tier, seed in tiers:
        x, w, b = inputs(p, seed, tier)
        weights = plan.pack(copied(w), None if b is None else copied(b))
        y = plan.run(copied(x), weights)
        verdict = judge(y, p, x, w, b, accuracy="elementwise", tier=tier)
        if not verdict.ok:
            return f"{tier} data, seed {seed}: {verdict.why}"
        if not fence_holds(y):
            return "wrote outside of y"
    return None


@pytest.mark.parametrize("text", PROBLEMS)
def test_is_right(module, emulator, text):
    assert why_not(module, text) is None


@pytest.mark.parametrize("layout", ["", "-nhwc"])
@pytest.mark.parametrize("tile", TILES)
def test_every_tile_in_every_schedule(module, emulator, monkeypatch, tile, layout):
    monkeypatch.setattr(module, "TILES", module.TILES[tile : tile + 1])
    for schedule in SCHEDULES:
        emulator.schedule, emulator.seed = schedule, tile
        assert why_not(module, NARROW + layout, [("exact", 0)]) is None, schedule


@pytest.mark.parametrize("text", [PROBLEMS[3], PROBLEMS[11], PROBLEMS[8]])
def test_parts_of_the_taps(module, emulator, monkeypatch, text):
    """The work of a tile shared by several blocks, of which the last has less."""
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    device = emulator.cuda.Device()
    device.attributes["MultiProcessorCount"] = 132
    _tile, parts = module.layout_of_blocks(Conv2d.parse(text), 132)
    assert parts > 1
    assert why_not(module, text) is None


def test_tiles_follow_the_problem(module):
    def chosen(text):
        return module.layout_of_blocks(Conv2d.parse(text), 132)

    assert chosen("n32c256h56w56k256r3s3-p1") == ((128, 128, 8), 1)
    assert chosen("n32c64h56w56k64r3s3-p1") == ((64, 128, 8), 1)
    (tile_k, tile_m, _), parts = chosen("n1c512h7w7k512r3s3-p1")
    assert tile_k * tile_m < 128 * 128
    assert parts > 4
    assert chosen("n32c3h224w224k32r3s3-p1")[0][0] == 32


@given(problems(), st.sampled_from(TILES), st.sampled_from(SCHEDULES), st.integers(1, 8))
def test_drawn_problems(module, emulator, p, tile, schedule, least_steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILES", module.TILES[tile : tile + 1])
        patch.setattr(module, "LEAST_STEPS", least_steps)
        emulator.schedule = schedule
        assert why_not(module, str(dataclasses.replace(p, dtype="float32")), [("exact", 0)]) is None


@pytest.mark.parametrize("text", ["n1c2h5w6k3r1s1", "n1c2h5w6k3r1s1-nhwc"])
def test_steps_beyond_32_bits(module, emulator, text):
    assert why_not(module, text + f"-st{2**40}-d{2**50}") is None


def test_refuses_what_its_numbers_cannot_hold(module, emulator):
    for p in (
        Conv2d(1, 1, 2**28, 1, 1, 1, 1),
        Conv2d(2**15, 1, 2**8, 2**8, 1, 1, 1),
        Conv2d(1, 1, 1, 1, 1, 1, 1, padding=(2**28, 0, 0, 0), stride=2**28),
    ):
        with pytest.raises(Unsupported, match=r"below 2\*\*28, and pixels and blocks below 2\*\*31"):
            module.plan(p)


def test_images_beyond_32_bits(module):
    """Distances in x and y of more than 2**31 elements are 64 bits wide: in the table, and in the source."""
    p = Conv2d(1, 2**14, 2**10, 2**10, 1, 1, 1)
    table = module.table_of_taps(p)
    assert table[-1, 0] == (2**14 - 1) * 2**20


# --- sanitizers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("layout", ["", "-nhwc"])
def test_sanitizers_find_nothing(module, build_folder, monkeypatch, sanitizer, layout):
    monkeypatch.setattr(module, "TILES", module.TILES[2:3])
    module.use(Emulator(build_folder, sanitizer))
    assert why_not(module, NARROW + layout, [("exact", 0)]) is None


# --- teeth ---------------------------------------------------------------------------------------------

FAULTS = {
    "a barrier": ("        __syncthreads();", "        "),
    "a wait": ("cp_async_wait<0>();", ""),
    "a row of x": ("x_tile[2][STEP]", "x_tile[2][STEP - 1]"),
}


@pytest.fixture
def without(module, build_folder, monkeypatch):
    """``without(fault, sanitizer)(schedule)`` runs the faulty kernel, and returns what was found or None."""
    monkeypatch.setattr(module, "TILES", module.TILES[2:3])

    def faulty(fault, sanitizer=None):
        right, wrong = FAULTS[fault]

        def edit(source):
            assert source.count(right) == 1, f"{right!r} must stand once in the source"
            return source.replace(right, wrong)

        emulator = Emulator(build_folder, sanitizer, edit)
        module.use(emulator)

        def found(schedule):
            emulator.schedule = schedule
            try:
                return why_not(module, NARROW, [("exact", 0)])
            except EmulatorError as error:
                return str(error)

        return found

    return faulty


def test_a_missing_barrier_is_found(without):
    found = without("a barrier")
    assert found("warp forward") and found("warp reverse")
    assert "data race" in without("a barrier", "thread")("round robin")


def test_a_missing_wait_is_found(without):
    found = without("a wait")
    assert all(found(schedule) for schedule in SCHEDULES)


def test_a_missing_row_of_shared_memory_is_found(without):
    assert "runtime error: index 7 out of bounds" in without("a row of x", "address")("round robin")
