"""The tensor-core kernels of CuPy without a GPU: their CUDA C++ on the CPU emulator, and faults in it found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cuda_emulator import SCHEDULES, Emulator, EmulatorError, copied, fence_holds

from convzoo import Conv2d, Unsupported
from convzoo.catalog import find
from convzoo.reference import Verdict, inputs, judge

MMA, WGMMA = ("cupy/tensor_core_tf32", "cupy/tensor_core_3xtf32"), ("cupy/wgmma_3xtf32",)

# Fewer than 32 products in an output: wgmma refuses, tensor_core_3xtf32 sums with FMAs.
FEW_TAPS = (
    "n1c1h1w1k1r1s1",
    "n2c3h13w17k5r3s2-st2x3-p1_2_0_3",
    "n1c2h9w30k3r2s4-st1x3-p0_3_2_1-d2x3-nobias",
    "n1c7h11w10k14r3s5-st2x3-p2_1_4_0-d1x2-g7",
    "n1c1h9w9k1r3s3-p1",
    "n1c2h3w4k2r3s3-p2_3_1_2-d3x3",
    "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nhwc",
)
MANY_TAPS = (
    "n1c36h7w9k66r3s3-p1-nhwc",  # two tiles of filters, of pixels a rest; x is read in place
    "n3c30h7w6k22r3s4-st2-p1_0_2_1-g2-nobias",  # 15 channels of a group become 16; 6 whole steps
    "n1c68h7w6k9r1s1-st3x2-nhwc",  # stride beyond the filter, odd rows of y
    "n1c2h15w14k3r7s5-p0_3_2_1-d2x1",  # a step of depth holds several taps
    "n1c5h12w11k1r2s4-st5x1-p4_0_1_3-d3x2-nobias-nhwc",  # one filter, padding beyond it
    "n1c32h5w4k8r1s1-nhwc",  # one step, shorter than the pipeline
)


@pytest.fixture
def modules(monkeypatch):
    """The kernel of that name and its module, with this emulator in the place of CuPy."""
    nvrtc = pytest.importorskip("convzoo.cupy._nvrtc", reason="needs CuPy, which imports without a GPU")

    def on(emulator, name):
        kernel = find(name)
        module = kernel.module()
        emulator.stands_in(monkeypatch, nvrtc, module.gemm, module)
        return kernel, module

    return on


@pytest.fixture
def emulator(build_folder):
    return Emulator(build_folder)


def verdicts(kernel, module, text):
    """The verdict on data of every kind, plan and pack included."""
    p = Conv2d.parse(text)
    plan = module.plan(p)
    exact = (("exact", 0), ("exact", 1)) if kernel.accuracy == "elementwise" else (("integers", 0),)
    for tier, seed in (*exact, ("random", 2)):
        x, w, b = inputs(p, seed, tier, kernel.accuracy)
        weights = plan.pack(copied(w), None if b is None else copied(b))
        y = plan.run(copied(x), weights)
        verdict = judge(y, p, x, w, b, accuracy=kernel.accuracy, tier=tier)
        if verdict.ok and not fence_holds(y):
            verdict = Verdict(False, "wrote outside of y")
        yield f"{p}, {tier} data, seed {seed}: {verdict.why}", verdict


def assert_right(kernel, module, text):
    for words, verdict in verdicts(kernel, module, text):
        assert verdict.ok, words


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name in MMA for text in (*FEW_TAPS, *MANY_TAPS)]
    + [(name, text) for name in WGMMA for text in MANY_TAPS],
)
def test_is_right(modules, emulator, name, text):
    emulator.schedule = SCHEDULES[sum(text.encode()) % len(SCHEDULES)]
    assert_right(*modules(emulator, name), text)


@pytest.mark.parametrize(
    ("name", "tile"),
    [("cupy/tensor_core_3xtf32", tile) for tile in ((128, 128), (128, 64), (64, 128))]
    + [("cupy/wgmma_3xtf32", tile) for tile in ((128, 128), (256, 64))],
)
def test_every_tile(modules, emulator, monkeypatch, name, tile):
    """More than one tile each way, with rests; small problems choose the smallest tile by themselves."""
    kernel, module = modules(emulator, name)
    monkeypatch.setattr(module, "TILES", (tile,))
    rows, columns = tile
    filters = 194 if columns == 128 else 66
    assert_right(kernel, module, f"n1c10h{rows // 16 + 1}w17k{filters}r1s4-p0_0_2_1")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", (*MMA, *WGMMA))
def test_in_every_order_of_threads(modules, emulator, name, schedule):
    emulator.schedule = schedule
    for emulator.seed in range(3 if schedule == "random" else 1):
        assert_right(*modules(emulator, name), MANY_TAPS[1])


@pytest.mark.parametrize("text", ["n1c32h4w8k64r1s1-nobias", "n1c64h4w8k64r1s1", "n1c288h2w8k64r1s1-nobias"])
@pytest.mark.parametrize("name", (MMA[1], *WGMMA))
def test_bound_where_cut_sums_add_up(modules, emulator, name, text):
    """All terms positive; and the first far above the others, so that every later sum cuts it again."""
    kernel, module = modules(emulator, name)
    p = Conv2d.parse(text)
    plan = module.plan(p)
    x, w, b = inputs(p, 0, "random")
    x, w = np.abs(x), np.abs(w)
    for _ in range(2):
        verdict = judge(plan.run(x, plan.pack(w, b)), p, x, w, b, accuracy=kernel.accuracy)
        assert verdict.ok, verdict.why
        assert verdict.budget < 0.9
        x[:, 4:] *= np.float32(1e-3)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("name", ("cupy/tensor_core_3xtf32", *WGMMA))
def test_under_a_sanitizer(modules, build_folder, name, sanitizer):
    assert_right(*modules(Emulator(build_folder, sanitizer), name), "n1c9h5w8k7r2s3-st1x2-p1_0_2_1")


# --- faults on purpose -----------------------------------------------------------------------------------

# Eight lanes move 16 bytes each at once: in one of their eight groups of four banks, or one after another.
COUNT_CONFLICTS = """
static const void *check_banks(const void *p)
{
    const unsigned group = reinterpret_cast<uintptr_t>(p) / 16 % 8;
    const unsigned(*const told)[cuda_on_cpu::MOST_WORDS] = cuda_on_cpu::tell(&group, 1);
    for (int other = cuda_on_cpu::lane() / 8 * 8; other < cuda_on_cpu::lane(); ++other)
        if (told[other][0] == group)
            cuda_on_cpu::fail("two lanes meet in a bank");
    return p;
}
#define cp_async16(to, ...) cp_async16(const_cast<void *>(check_banks(to)), __VA_ARGS__)
#define ldmatrix_x4(to, row) ldmatrix_x4(to, check_banks(row))
"""


def edit(*changes):
    """A function that makes these changes in the source that has the first of them, each just once."""

    def edited(text):
        if changes[0][0] not in text:
            return text  # of another kernel of the same plan
        for before, after in changes:
            assert text.count(before) == 1, f"{text.count(before)} times in the source: {before}"
            text = text.replace(before, after)
        return text

    return edited


THREE, ONE = "cupy/tensor_core_3xtf32", "cupy/tensor_core_tf32"
LOOP_BARRIER = "__syncthreads();              // everybody's"
FAULTS = {
    "mma: no wait for copies": (THREE, "not exact", ("cp_async_wait<STAGES - 2>();", "")),
    "mma: no barrier": (THREE, "not exact", (LOOP_BARRIER, "//")),
    "mma: copies before the barrier": (
        THREE,
        "not exact",
        ("cp_async_wait<STAGES - 2>();", "load(step + STAGES - 1); cp_async_wait<STAGES - 1>();"),
        ("load(step + STAGES - 1);\n", "\n"),
    ),
    "mma: small parts lost": (THREE, "not exact", ("small = cvt_rna_tf32(f - __uint_as_float(big));", "small = 0;")),
    "mma: cut, not rounded": (ONE, "outside the tf32 bound", ("big = cvt_rna_tf32(f);", "big = v;")),
    "mma: no swizzle": (
        THREE,
        "two lanes meet in a bank",
        ("typedef long long distance;", "typedef long long distance;" + COUNT_CONFLICTS),
        ("(chunk ^ (row & 7)) << 2", "chunk << 2"),
    ),
    "channels last: no barrier": (THREE, "not exact", ("__syncthreads();\n    // and write", "//")),
    "channels last: padding not cleared": (THREE, "not exact", ("in_group < inputs", "true")),
    "wgmma: no wait for copies": (*WGMMA, "not exact", ("cp_async_wait<STAGES - 3>();", "")),
    "wgmma: no barrier": (*WGMMA, "not exact", ("__syncthreads();\n        const float *xs", "const float *xs")),
    "wgmma: copies not fenced": (*WGMMA, "not exact", ("fence_async();  ", "")),
    "wgmma: copies one stage early": (
        *WGMMA,
        "not exact",
        ("step < STAGES - 2", "step < STAGES - 1"),
        ("cp_async_wait<STAGES - 3>", "cp_async_wait<STAGES - 2>"),
        ("load(step + STAGES - 2)", "load(step + STAGES - 1)"),
    ),
    "wgmma: registers reused at once": (*WGMMA, "not exact", ("wgmma_wait<1>();", "")),
    "wgmma: registers not fenced": (*WGMMA, "needs a wgmma_fence", ("            wgmma_fence();", "")),
    "wgmma: sums read too early": (*WGMMA, "not exact", ("    wgmma_wait<0>();", "")),
    "wgmma: another swizzle": (*WGMMA, "not exact", ("row & 7", "row & 3")),
}


def first_fault(modules, build_folder, name, text, edited):
    """What goes wrong in any order of threads, or None."""
    for schedule in ("warp forward", "warp reverse"):
        emulator = Emulator(build_folder, edit=edited)
        emulator.schedule = schedule
        try:
            for words, verdict in verdicts(*modules(emulator, name), text):
                if not verdict.ok:
                    return words
        except EmulatorError as error:
            return str(error)
    return None


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(modules, build_folder, fault):
    name, told, *changes = FAULTS[fault]
    text = "n1c1h9w9k4r1s1-nobias" if name == ONE else MANY_TAPS[1]
    found = first_fault(modules, build_folder, name, text, edit(*changes))
    assert found is not None and told in found, found


def test_thread_sanitizer_finds_the_missing_barrier_in_any_order(modules, build_folder):
    emulator = Emulator(build_folder, "thread", edit=edit((LOOP_BARRIER, "//")))
    with pytest.raises(EmulatorError, match="data race"):
        list(verdicts(*modules(emulator, THREE), MANY_TAPS[1]))


@pytest.mark.parametrize("name", (THREE, *WGMMA))
def test_address_sanitizer_finds_shared_memory_one_row_short(modules, build_folder, monkeypatch, name):
    kernel, module = modules(Emulator(build_folder, "address"), name)
    enough = module.gemm.shared_bytes
    monkeypatch.setattr(module.gemm, "shared_bytes", lambda *tile: enough(*tile) - 16)
    with pytest.raises(EmulatorError, match="heap-buffer-overflow"):
        list(verdicts(kernel, module, MANY_TAPS[5]))


@pytest.mark.parametrize("name", (THREE, *WGMMA))
def test_no_two_lanes_meet_in_a_bank(modules, build_folder, name):
    check = ("typedef long long distance;", "typedef long long distance;" + COUNT_CONFLICTS)
    assert first_fault(modules, build_folder, name, MANY_TAPS[1], edit(check)) is None


# --- the Python half -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", (*MMA, *WGMMA))
def test_x_at_an_odd_address(modules, emulator, name):
    """A view may start anywhere; 16-byte copies may not."""
    kernel, module = modules(emulator, name)
    p = Conv2d.parse("n1c8h4w5k3r2s2-nhwc")
    x, w, b = inputs(p, 0, "integers")
    view = copied(np.append(0, x.ravel()).astype("float32"))[1:].reshape(x.shape)
    assert view.ctypes.data % 16 == 4
    plan = module.plan(p)
    verdict = judge(plan.run(view, plan.pack(w, b)), p, x, w, b, accuracy=kernel.accuracy, tier="integers")
    assert verdict.ok, verdict.why


@pytest.mark.parametrize("name", (*MMA, *WGMMA))
def test_steps_beyond_32_bits(modules, emulator, name):
    """A stride or dilation that never takes a step may be any number."""
    p = Conv2d(1, 40, 5, 6, 3, 1, 1, stride=2**40, dilation=2**50)
    assert_right(*modules(emulator, name), str(p))


@pytest.mark.parametrize("name", (*MMA, *WGMMA))
def test_weights_that_are_no_numbers_stay_so(modules, emulator, name):
    _, module = modules(emulator, name)
    p = Conv2d.parse("n1c8h3w3k4r2s2-nobias")
    w = np.ones(p.w_shape, "float32")
    w.view("uint32")[1, 0, 0, 0] = 0x7FFFFFFF  # the NaN with all bits set: rounding its bits would overflow
    w[2, 0, 0, 0] = np.inf
    plan = module.plan(p)
    with np.errstate(invalid="ignore"):  # the small part of an infinity
        y = plan.run(np.ones(p.x_shape, "float32"), plan.pack(w, None))
    assert np.isnan(y[:, 1]).all()
    assert not np.isfinite(y[:, 2]).any()
    assert (y[:, [0, 3]] == p.taps).all()


@pytest.mark.parametrize("name", (*MMA, *WGMMA))
def test_plan_keeps_no_view_of_the_weights(modules, emulator, name):
    _, module = modules(emulator, name)
    p = Conv2d.parse("n1c4h5w5k64r4s2-nhwc")
    x, w, b = inputs(p, 0, "integers")
    plan = module.plan(p)
    packed = plan.pack(w, b)
    before = plan.run(x, packed)
    w[...], b[...] = np.nan, np.nan
    assert np.array_equal(plan.run(x, packed), before)


@pytest.mark.parametrize(
    ("name", "capability", "text", "told"),
    [
        *((name, "75", "n1c32h4w4k8r1s1", "8.0 or later, got 7.5") for name in MMA),
        *((*WGMMA, capability, "n1c32h4w4k8r1s1", "9.0") for capability in ("80", "100")),
        (*WGMMA, "90", "n1c31h4w4k8r1s1", "needs C/G.R.S >= 32, got 31"),
        *((name, "90", f"n1c4h{2**15}w{2**15}k4r3s3", "below 2..31") for name in (*MMA, *WGMMA)),
    ],
)
def test_refusals(modules, emulator, name, capability, text, told):
    _, module = modules(emulator, name)
    emulator.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(compute_capability=capability))
    with pytest.raises(Unsupported, match=told):
        module.plan(Conv2d.parse(text))


def test_large_layers_take_large_tiles(modules, emulator):
    _, module = modules(emulator, WGMMA[0])
    choose = module.gemm.tile

    def chosen(text):
        return choose(Conv2d.parse(text), module.TILES)

    assert chosen("n32c256h56w56k256r3s3-p1") == (128, 128)
    assert chosen("n32c64h56w56k64r3s3-p1") == (256, 64)
    assert chosen("n1c64h14w14k256r3s3-p1") == (128, 64)
