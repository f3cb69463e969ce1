"""Every kernel against the float64 oracle: the listed problems, drawn ones, awkward arrays, threads."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import trial
from cases import AWKWARD, CASES, problems
from hypothesis import example, given
from hypothesis import strategies as st

import convzoo
from convzoo import Conv2d, Unsupported
from convzoo.plan import keep
from convzoo.reference import examine, inputs, unusual

listed = pytest.mark.parametrize("p", CASES.values(), ids=CASES.keys())
awkward = pytest.mark.parametrize("p", AWKWARD.values(), ids=AWKWARD.keys())


@listed
def test_listed_problem(kernel, p):
    """Two seeds: one puts the wide integers in x, the other in w; a plan must not remember its data."""
    plan = trial.plan(kernel, p)
    for seed in (0, 1):
        with trial.repeatable(kernel.name, p, seed):
            verdict = examine(kernel, p, seed, plan)
            why = verdict.why or unusual(kernel, plan, p, seed)
        if why:
            trial.fail(kernel.name, p, seed, why)


@given(p=problems(), seed=st.integers(0, 3))
@example(p=CASES["pad-beyond-filter"], seed=2)
def test_drawn_problem(kernel, p, seed):
    if trial.too_much(kernel, p):
        return
    try:
        with trial.repeatable(kernel.name, p, seed):
            verdict = examine(kernel, p, seed)
    except Unsupported:
        trial.refused[kernel.name] += 1
        return
    trial.expect(verdict, kernel.name, p, seed)


def test_kernel_does_some_of_the_listed_problems(kernel):
    """Without this, a kernel that refuses everything would pass by skipping."""
    reasons = set()
    for p in CASES.values():
        try:
            kernel.plan(p)
        except Unsupported as reason:
            reasons.add(str(reason))
        else:
            return
    if kernel.backend.folder != kernel.backend.name and len(reasons) == 1:
        pytest.skip(f"{kernel.name} {reasons.pop()}")  # the folder's other devices may have it
    pytest.fail(f"{kernel.name} refuses every listed problem: {'; '.join(sorted(reasons))}")


@listed
def test_auto_is_right(p):
    data = inputs(p, 0, "integers")
    x, w, b = data
    y = convzoo.conv2d(x, w, b, **trial.options(p))
    layer = convzoo.prepare(w, b, **trial.options(p))
    verdict = convzoo.reference.judge(y, p, *data, accuracy="elementwise", tier="exact")
    trial.expect(verdict, "auto", p)
    assert trial.same(layer(x), y)


# --- arrays that are not plain -----------------------------------------------------------------------


def _unaligned(a: np.ndarray) -> np.ndarray:
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    memory[:] = np.frombuffer(a.tobytes(), np.uint8)
    return memory.view(a.dtype).reshape(a.shape)


def _reversed_in_memory(a: np.ndarray) -> np.ndarray:
    back = (slice(None, None, -1),) * a.ndim
    return np.array(a[back])[back]


def _every_second(a: np.ndarray) -> np.ndarray:
    wide = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    inner = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    inner[...] = a
    return inner


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _big_endian(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder(">"))


def _subclass(a: np.ndarray) -> np.ndarray:
    class Own(np.ndarray):
        pass

    return a.copy().view(Own)


FORMS = {
    "non-contiguous": _every_second,
    "negative-strides": _reversed_in_memory,
    "fortran-order": lambda a: np.array(a, order="F"),
    "read-only": _read_only,
    "big-endian": _big_endian,
    "big-endian-reversed": lambda a: _reversed_in_memory(_big_endian(a)),
    "unaligned": _unaligned,
    "subclass": _subclass,
}


def expect_plain(y: Any, p: Conv2d) -> None:
    assert type(y) is np.ndarray
    assert y.dtype == np.dtype(p.dtype) and y.dtype.isnative
    assert y.shape == p.y_shape
    assert y.flags.c_contiguous and y.flags.writeable and y.flags.aligned


@awkward
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_awkward_array(kernel, p, form):
    data = trial.integer_inputs(kernel, p)
    arrays = [None if a is None else form(a) for a in data]
    y = trial.convolve(kernel, p, *arrays)
    expect_plain(y, p)
    trial.expect_right(kernel, p, data, y)
    for a, original in zip(arrays, data, strict=True):
        assert a is None or np.array_equal(a, original), "an argument was changed"


def test_reversed_axis_of_length_1(kernel):
    """np.ascontiguousarray keeps the negative stride of such an axis, and torch then refuses it."""
    p = Conv2d.parse("n1c1h4w5k1r3s3-p1")
    data = trial.integer_inputs(kernel, p)
    x, w, b = data
    y = trial.convolve(kernel, p, x[::-1, ::-1], w[::-1, ::-1], b[::-1])
    expect_plain(y, p)
    trial.expect_right(kernel, p, data, y)


@pytest.mark.parametrize("what", ["x", "w", "bias"])
def test_broadcast_array(kernel, what):
    """A stride of 0: all values are one value in memory."""
    p = Conv2d.parse("n2c3h6w5k4r3s2-st2x1-p1")
    x, w, b = trial.integer_inputs(kernel, p)
    if what == "x":
        x = np.broadcast_to(x[:1, :1], x.shape)
    elif what == "w":
        w = np.broadcast_to(w[:, :1, :1], w.shape)
    else:
        b = np.broadcast_to(b[:1], b.shape)
    data = tuple(np.array(a) for a in (x, w, b))
    trial.expect_right(kernel, p, data, trial.convolve(kernel, p, x, w, b))


def test_one_array_as_both_x_and_w(kernel):
    p = Conv2d.parse("n2c2h3w3k2r3s3-p1-nobias")
    x = inputs(p, 0, "integers")[0]
    trial.expect_right(kernel, p, (x, x, None), trial.convolve(kernel, p, x, x, None))


@awkward
def test_result_is_fresh_and_arguments_unchanged(kernel, p):
    data, other = (trial.integer_inputs(kernel, p, seed) for seed in (0, 2))
    mine = [None if a is None else a.copy() for a in data]
    first = trial.convolve(kernel, p, *mine)
    kept = first.copy()
    second = trial.convolve(kernel, p, *other)
    assert np.array_equal(first, kept), "the second call overwrote the first result"
    assert not any(a is not None and np.shares_memory(first, a) for a in (*mine, second))
    first[...] = np.nan
    trial.expect_right(kernel, p, other, second, seed=2)
    trial.expect_right(kernel, p, data, trial.convolve(kernel, p, *mine))
    for a, original in zip(mine, data, strict=True):
        assert a is None or np.array_equal(a, original), "an argument was changed"


# --- weights packed ahead ----------------------------------------------------------------------------


@awkward
def test_prepare(kernel, p):
    """A layer answers as conv2d does, for several sizes of x, whatever happens to w afterwards."""
    taller = dataclasses.replace(p, H=p.H + 3, N=p.N + 1)
    data = trial.integer_inputs(kernel, p)
    x, w, b = data
    w, b = w.copy(), None if b is None else b.copy()
    if reason := trial.too_much(kernel, taller):
        pytest.skip(f"{kernel.name} {reason}")
    more = trial.integer_inputs(kernel, taller)[0]
    with trial.refusals(kernel), trial.repeatable(kernel.name, p):
        layer = convzoo.prepare(w, b, **trial.options(p), kernel=kernel.name)
        first = layer(x)
        w[...] = np.nan
        if b is not None:
            b[...] = np.nan
        again, larger, back = layer(x), layer(more), layer(x)
    for y in (first, again, back):
        expect_plain(y, p)
        trial.expect_right(kernel, p, data, y)
    expect_plain(larger, taller)
    trial.expect_right(kernel, taller, (more, *data[1:]), larger)


@awkward
def test_pack_keeps_no_view_of_weights(kernel, p):
    """Packed weights must not follow a later change of w; only the default, which packs nothing, may."""
    plan = trial.plan(kernel, p)
    if plan.pack is keep:
        return
    with trial.repeatable(kernel.name, p):
        why = trial.pack_follows(kernel, p, plan)
    if why:
        trial.fail(kernel.name, p, 0, f"packed weights follow a change of w or b: {why}")


# --- threads -----------------------------------------------------------------------------------------


@awkward
def test_four_threads_at_once(kernel, p):
    """Each thread has its own data and calls several times, so that the calls overlap."""
    p = dataclasses.replace(p, N=4)
    if reason := trial.too_much(kernel, p):
        pytest.skip(f"{kernel.name} {reason}")
    data = [trial.integer_inputs(kernel, p, seed) for seed in (0, 2, 4, 6)]
    trial.convolve(kernel, p, *data[0])  # compiled, and any thread pool started
    if reason := trial.unsafe_in_threads(kernel):
        pytest.skip(f"{kernel.name} {reason}")
    calls = [lambda mine=mine: [trial.convolve(kernel, p, *mine) for _ in range(5)] for mine in data]
    for seed, mine, results in zip((0, 2, 4, 6), data, trial.from_threads(calls), strict=True):
        for y in results:
            trial.expect_right(kernel, p, mine, y, seed)


def test_one_layer_in_four_threads(kernel):
    """Weights are shared, images are not."""
    p = dataclasses.replace(CASES["groups-2"], N=3)
    if reason := trial.too_much(kernel, p):
        pytest.skip(f"{kernel.name} {reason}")
    data = trial.integer_inputs(kernel, p)
    images = [trial.integer_inputs(kernel, p, seed)[0] for seed in (0, 2, 4, 6)]
    with trial.refusals(kernel), trial.repeatable(kernel.name, p):
        layer = convzoo.prepare(*data[1:], **trial.options(p), kernel=kernel.name)
        layer(images[0])
    if reason := trial.unsafe_in_threads(kernel):
        pytest.skip(f"{kernel.name} {reason}")
    results = trial.from_threads([lambda x=x: [layer(x) for _ in range(5)] for x in images])
    for x, ys in zip(images, results, strict=True):
        for y in ys:
            trial.expect_right(kernel, p, (x, *data[1:]), y)


def test_first_calls_in_four_threads(kernel):
    """Planning, compiling and the caches must bear a start from several threads, too."""
    problems = [Conv2d.parse(f"n1c2h{5 + i % 2}w4k3r2s2-p1-st1x2") for i in range(4)]
    if reason := trial.too_much(kernel, problems[0]):
        pytest.skip(f"{kernel.name} {reason}")
    data = [trial.integer_inputs(kernel, p) for p in problems]
    if kernel.backend.name == "numba":  # its pool must have started before one can ask which it is
        trial.convolve(kernel, CASES["plain"], *trial.integer_inputs(kernel, CASES["plain"]))
    if reason := trial.unsafe_in_threads(kernel):
        pytest.skip(f"{kernel.name} {reason}")
    calls = [lambda p=p, mine=mine: trial.convolve(kernel, p, *mine) for p, mine in zip(problems, data, strict=True)]
    for p, mine, y in zip(problems, data, trial.from_threads(calls), strict=True):
        trial.expect_right(kernel, p, mine, y)


# --- arrays of torch ---------------------------------------------------------------------------------


def _tensor_forms(torch: Any) -> dict[str, Any]:
    def every_second(t):
        wide = torch.full([2 * n for n in t.shape], float("nan"), dtype=t.dtype, device=t.device)
        inner = wide[tuple(slice(1, None, 2) for _ in t.shape)]
        inner.copy_(t)
        return inner

    return {
        "plain": lambda t: t.clone(),
        "channels-last": lambda t: (
            t.clone().contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.clone()
        ),
        "non-contiguous": every_second,
        "expanded-batch": lambda t: t[:1].expand(t.shape) if t.ndim == 4 else t.clone(),
        "transposed": lambda t: t.mT.contiguous().mT if t.ndim == 4 else t.clone(),
    }


@awkward
@pytest.mark.kernels("torch_*")
@pytest.mark.parametrize("form", ["plain", "channels-last", "non-contiguous", "expanded-batch", "transposed"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensors_in_tensors_out(kernel, p, form, dtype):
    torch = pytest.importorskip("torch")
    p = dataclasses.replace(p, dtype=dtype)
    change = _tensor_forms(torch)[form]
    tensors = [
        None if a is None else change(torch.from_numpy(a).to(kernel.backend.device))
        for a in trial.integer_inputs(kernel, p)
    ]
    before = [None if t is None else t.clone() for t in tensors]
    y = trial.convolve(kernel, p, *tensors)
    assert isinstance(y, torch.Tensor) and y.device.type == kernel.backend.device
    assert y.dtype == getattr(torch, dtype) and tuple(y.shape) == p.y_shape
    assert y.is_contiguous() and not y.requires_grad
    data = tuple(None if t is None else t.cpu().numpy() for t in before)
    trial.expect_right(kernel, p, data, y.cpu().numpy())
    for t, b in zip(tensors, before, strict=True):
        assert t is None or torch.equal(t, b), "an argument was changed"
    with trial.refusals(kernel):
        layer = convzoo.prepare(*tensors[1:], **trial.options(p), kernel=kernel.name)
    trial.expect_right(kernel, p, data, layer(tensors[0]).cpu().numpy())


@awkward
def test_auto_takes_tensors(p):
    torch = pytest.importorskip("torch")
    data = inputs(p, 0, "integers")
    x, w, b = (None if a is None else torch.from_numpy(a) for a in data)
    y = convzoo.conv2d(x, w, b, **trial.options(p))
    assert isinstance(y, torch.Tensor)
    verdict = convzoo.reference.judge(y.numpy(), p, *data, accuracy="elementwise", tier="exact")
    trial.expect(verdict, "auto", p)


# --- a photograph ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """128 x 128 pixels around the face in matplotlib's sample, as (1, 3, 128, 128) in 0..255."""
    pil = pytest.importorskip("PIL.Image", reason="needs pillow to read a photograph")
    cbook = pytest.importorskip("matplotlib.cbook", reason="needs matplotlib's sample photograph")
    with cbook.get_sample_data("grace_hopper.jpg") as file, pil.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))[60:188, 200:328]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _classical_filters() -> np.ndarray:
    """Blur, two slopes and a Laplacian, 5 x 5, with another weight for each colour: (4, 3, 5, 5)."""
    smooth, slope = np.array([1, 4, 6, 4, 1]), np.array([-1, -2, 0, 2, 1])
    curve = np.array([1, 0, -2, 0, 1])
    planes = [
        np.outer(smooth, smooth),
        np.outer(smooth, slope),
        np.outer(slope, smooth),
        np.outer(smooth, curve) + np.outer(curve, smooth),
    ]
    return np.stack([np.stack([plane, 2 * plane, -plane]) for plane in planes])


@pytest.mark.parametrize("scale", [1, 1 / 255], ids=["bytes", "fractions"])
def test_photograph_through_the_seed_layer(kernel, photograph, scale):
    """3 -> 4 channels, 5 x 5, no padding. Pixels times classical filters are integers, hence exact."""
    p = Conv2d(1, 3, 128, 128, 4, 5, 5)
    if trial.too_much(kernel, p):
        p = Conv2d(1, 3, 16, 11, 4, 5, 5)
    x = (photograph[..., : p.H, : p.W] * scale).astype(np.float32)
    w = _classical_filters().astype(np.float32)
    b = np.array([0, -300, 40, 7], np.float32)
    with trial.refusals(kernel):
        y = convzoo.conv2d(x, w, b, kernel=kernel.name)
    exact = scale == 1 and kernel.accuracy == "elementwise"
    verdict = convzoo.reference.judge(y, p, x, w, b, accuracy=kernel.accuracy, tier="exact" if exact else "random")
    trial.expect(verdict, kernel.name, p)
