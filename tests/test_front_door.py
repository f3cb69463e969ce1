"""The front door in a process that lives: forks, threads, settings of others, memory, pickles, odd arrays."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import convzoo
from convzoo import conv2d as conv2d_of
from convzoo import limits
from convzoo.problem import Conv2d, read_problems

FRONT = sys.modules["convzoo.conv2d"]
X, W = np.ones((1, 16, 20, 20), np.float32), np.ones((32, 16, 3, 3), np.float32)
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """What a process of its own says; a hang is a failure."""
    arrays = "import numpy as np, convzoo, os, sys, threading\nx = np.ones((1, 64, 32, 32), 'f')\n"
    arrays += "w = np.ones((64, 64, 3, 3), 'f')\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", arrays + code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- forks and threads -------------------------------------------------------------------------------

IN_A_CHILD = """
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import signal; signal.alarm(40)
"""


@posix
@pytest.mark.parametrize("library, kernel", [("numpy", "auto"), ("torch", "auto"), ("torch", "torch_cpu/unfold")])
def test_a_forked_child_convolves(library, kernel):
    """With what was made before the fork, too: the layer, the plans."""
    pytest.importorskip(library)
    pytest.importorskip("numba")
    make = "import torch; x, w = torch.from_numpy(x), torch.from_numpy(w)\n" if library == "torch" else ""
    done = python(
        make + f"layer = convzoo.prepare(w, padding=1, kernel={kernel!r}); want = layer(x)\n"
        f"convzoo.conv2d(x, w, padding=1, kernel={kernel!r})" + IN_A_CHILD + "y = layer(x)\n"
        f"z = convzoo.conv2d(x, w, padding=1, kernel={kernel!r})\n"
        "assert (y == want).all() and (z == want).all(); os._exit(0)"
    )
    assert done.returncode == 0, done.stderr


@posix
def test_a_child_is_told_that_numbas_threads_are_gone():
    """By name, and through a plan that the parent made: a sentence, where Numba would end the process."""
    pytest.importorskip("numba")
    done = python(
        "k = convzoo.load('numba/register_tile'); plan = k.plan(convzoo.Conv2d.parse('n1c64h32w32k64r3s3-nobias'))\n"
        "packed = plan.pack(w, None); plan.run(x, packed)\n"
        "from numba import threading_layer\n"
        "if threading_layer() != 'omp': print('as told'); sys.exit(0)"
        + IN_A_CHILD
        + """
for call in (lambda: plan.run(x, packed), lambda: convzoo.load('numba/direct')):
    try:
        call()
        os._exit(1)
    except convzoo.Unavailable as refusal:
        assert 'multiprocessing' in str(refusal) and 'threads' in str(refusal), refusal
os._exit(0)""",
        NUMBA_THREADING_LAYER="omp",
    )
    assert done.returncode == 0, done.stderr


@posix
def test_a_pool_of_forked_workers_returns():
    pytest.importorskip("numba")
    done = python(
        "import multiprocessing\nf = lambda n: float(convzoo.conv2d(x, w, padding=1)[0, 0, 9, 9])\n"
        "def work(n): return f(n)\nwant = f(0)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(work, range(4)) == [want] * 4"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_threads_at_once_on_every_layer_of_numba(layer):
    """Numba's workqueue ends a process whose threads enter it together: ours take turns."""
    pytest.importorskip("numba")
    done = python(
        "layer = convzoo.prepare(w, padding=1); want = layer(x); wrong = []\n"
        "plan = convzoo.load('numba/register_tile').plan(convzoo.Conv2d.parse('n1c64h32w32k64r3s3-p1-nobias'))\n"
        "packed = plan.pack(w, None)\n"
        "def work():\n"
        "    for _ in range(30): wrong.extend(y.max() for y in (layer(x), plan.run(x, packed)) if (y != want).any())\n"
        "ts = [threading.Thread(target=work) for _ in range(4)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]; assert not wrong",
        NUMBA_THREADING_LAYER=layer,
    )
    assert done.returncode == 0 or "No threading layer" in done.stderr, done.stderr


# --- Numba's cache on disk ---------------------------------------------------------------------------

CONVOLVE = "print(convzoo.conv2d(x, w, kernel='numba/naive')[0, 0, 5, 5])"


def _damage(folder: Path, ending: str, change) -> None:
    paths = list(folder.rglob("*" + ending))
    assert paths, "nothing was kept on disk"
    for path in paths:
        path.write_bytes(change(path.read_bytes()))


@pytest.fixture(scope="module")
def full_cache(tmp_path_factory):
    pytest.importorskip("numba")
    folder = tmp_path_factory.mktemp("cache")
    done = python(CONVOLVE, NUMBA_CACHE_DIR=str(folder))
    assert done.stdout == "576.0\n", done.stderr
    return folder


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("change", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b))])
def test_a_damaged_cache_is_written_anew(full_cache, tmp_path, ending, change):
    shutil.copytree(full_cache, tmp_path / "cache")
    _damage(tmp_path / "cache", ending, change)
    damaged = sorted(path.read_bytes() for path in (tmp_path / "cache").rglob("*" + ending))
    done = python(CONVOLVE, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert (done.stdout, done.returncode) == ("576.0\n", 0), done.stderr
    assert sorted(path.read_bytes() for path in (tmp_path / "cache").rglob("*" + ending)) != damaged


@pytest.mark.parametrize("failure", [OSError("no space left"), RuntimeError("no locator available")])
def test_where_nothing_can_be_kept_a_warning_names_the_cure(monkeypatch, failure):
    numba = pytest.importorskip("numba")
    from convzoo.numba import _kept

    def njit(*signature, cache=False, **options):
        if cache:
            raise failure
        return numba.njit(*signature, **options)

    monkeypatch.setattr(_kept, "njit", njit)
    signature = numba.types.int64(numba.types.int64)
    with pytest.warns(RuntimeWarning, match=f"{failure}.*NUMBA_CACHE_DIR"):
        assert _kept.kept(signature)(lambda n: n + 1)(1) == 2
    with pytest.raises(numba.TypingError):
        _kept.kept(signature)(lambda n: n.nothing)


def test_without_numbas_compiler_auto_takes_another():
    pytest.importorskip("numba")
    code = CONVOLVE.replace("numba/naive", "auto") + "\nprint(convzoo.catalog.find('numba/naive').backend.why_not())"
    done = python(code, NUMBA_DISABLE_JIT="1")
    assert done.stdout.startswith("576.0\nneeds numba's compiler, which NUMBA_DISABLE_JIT"), done.stderr


# --- what torch was told elsewhere -------------------------------------------------------------------


@pytest.fixture
def settings():
    """torch's switches for the precision of products, put back at the end."""
    torch = pytest.importorskip("torch")
    places = [torch.backends, torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul]
    before = [place.fp32_precision for place in places]
    yield torch
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision


SWITCHES = {
    "conv": lambda torch: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "matmul": lambda torch: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "everything": lambda torch: setattr(torch.backends, "fp32_precision", "bf16"),
    "older switch": lambda torch: torch.set_float32_matmul_precision("medium"),
}


def told(torch) -> list[str]:
    b = torch.backends
    return [place.fp32_precision for place in (b, b.mkldnn.conv, b.mkldnn.matmul, b.cuda.matmul)]


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("kernel", ["auto", "torch_cpu/builtin", "torch_cpu/unfold", "torch_cpu/packed"])
def test_products_are_not_rounded(settings, switch, kernel):
    """Whatever the caller has set; and it is set so again afterwards, also where it follows another switch."""
    torch = settings
    x, w = torch.randn(2, 64, 16, 16), torch.randn(64, 64, 3, 3) / 24
    want = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    switch(torch)
    before = told(torch)
    layer = convzoo.prepare(w, padding=1, kernel=kernel)
    for y in (convzoo.conv2d(x, w, padding=1, kernel=kernel), layer(x), layer(x)):
        assert y.dtype == torch.float32 and float((y - want).abs().max()) < 1e-4
    assert told(torch) == before
    torch.backends.fp32_precision = "none"
    assert all(now in ("none", was, "tf32") for now, was in zip(told(torch), before, strict=True))


@pytest.mark.parametrize("kernel", ["auto", "torch_cpu/builtin", "torch_cpu/channels_last", "torch_cpu/unfold"])
def test_autocast_of_the_caller_changes_nothing(kernel):
    torch = pytest.importorskip("torch")
    x, w = torch.randn(1, 8, 9, 9), torch.randn(4, 8, 3, 3)
    want = torch.nn.functional.conv2d(x, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for y in (convzoo.conv2d(x, w, kernel=kernel), convzoo.prepare(w, kernel=kernel)(x)):
            assert y.dtype == torch.float32 and torch.allclose(y, want, atol=1e-4)
        assert torch.is_autocast_enabled("cpu")


def test_settings_hold_while_another_thread_puts_its_own_back(settings):
    """Of two calls at once the first that ends must not bring rounding back under the other."""
    torch = settings
    from convzoo.backends import BACKENDS

    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    inside, outside = threading.Event(), threading.Event()

    def other():
        with BACKENDS["torch_cpu"].calling():
            inside.set()
            outside.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    with BACKENDS["torch_cpu"].calling():
        outside.set()
        thread.join(30)
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
    assert torch.backends.mkldnn.conv.fp32_precision == "bf16"


# --- a layer's memory --------------------------------------------------------------------------------


COUNTED = '''"""Packs for {what}."""
import numpy as np
from convzoo.plan import Plan

packed = []


def plan(p):
    form = {what}

    def pack(w, b):
        packed.append(form)
        return np.repeat(w[None], {times}, 0)

    return Plan(lambda x, weights: np.zeros(p.y_shape, np.float32), pack=pack)
'''


def sizes(layer, heights):
    for h in heights:
        layer(np.ones((1, 16, h, 9), np.float32))


def test_weights_are_packed_once_for_all_sizes_that_pack_alike(drop):
    drop("numpy", "counted", COUNTED.format(what="p.H // 20", times=1))
    layer = convzoo.prepare(W, kernel="numpy/counted")
    sizes(layer, [*range(10, 30), *range(10, 30)])
    assert convzoo.load("numpy/counted").module().packed == [0, 1]


def test_packed_weights_are_bounded_by_bytes(drop):
    """The oldest go, and are packed again when they are needed; the last one always stays."""
    big = np.ones((64, 16, 9, 9), np.float32)
    drop("numpy", "counted", COUNTED.format(what="p.H", times=3))
    layer = convzoo.prepare(big, kernel="numpy/counted")
    sizes(layer, range(10, 50))
    held = [form.weights.nbytes for form in layer._forms.values()]
    assert 0 < sum(held) <= max(FRONT.SMALL, FRONT.PACKED * big.nbytes)
    packed = convzoo.load("numpy/counted").module().packed
    sizes(layer, [10, 49])
    assert packed == [*range(10, 50), 10, 49][: len(packed)] and len(packed) >= 41


def test_a_kernel_of_numba_shares_its_weights():
    pytest.importorskip("numba")
    for kernel in ("numba/register_tile", "numba/winograd", "numba/direct"):
        layer = convzoo.prepare(W, padding=1, kernel=kernel)
        sizes(layer, range(12, 32, 3))
        assert len(layer._forms) <= 2, f"{kernel} packs alike for sizes that differ"


@pytest.mark.parametrize("used", [False, True])
def test_a_layer_goes_through_a_pickle(used):
    layer = convzoo.prepare(W, padding=1)
    if used:
        layer(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(X), layer(X))


# --- odd values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["auto", "numpy/shifted", "python/naive", "torch_cpu/builtin"])
@pytest.mark.parametrize("options", [{"stride": 2**59}, {"stride": (2**40, 1)}, {"dilation": 2**59}])
def test_steps_that_no_output_feels_may_be_of_any_length(kernel, options):
    if kernel != "auto" and (reason := convzoo.catalog.find(kernel).backend.why_not()):
        pytest.skip(reason)
    w = np.ones((2, 16, 1, 1) if "dilation" in options else (2, 16, 20, 20), np.float32)
    y = convzoo.conv2d(X, w, kernel=kernel, **options)
    np.testing.assert_array_equal(y, 16.0 if "dilation" in options else 6400.0)


@pytest.mark.parametrize("option", ["stride", "dilation", "padding"])
def test_steps_beyond_64_bits_are_refused(option):
    for value in (2**60, 2**63, 2**200):
        with pytest.raises(ValueError, match=rf"conv2d: {option} must be below 2\*\*60"):
            convzoo.conv2d(X, np.ones((2, 16, 1, 1), np.float32), **{option: value})


def test_an_empty_batch_does_not_hide_an_impossible_size():
    with pytest.raises(ValueError, match="fewer than"):
        convzoo.conv2d(X[:0], W, padding=2**59)


def test_a_device_that_nobody_computes_on():
    torch = pytest.importorskip("torch")
    x, w = torch.ones(1, 3, 8, 8, device="meta"), torch.ones(4, 3, 3, 3, device="meta")
    with pytest.raises(ValueError, match="conv2d: x must be on cpu, cuda or mps, got meta"):
        convzoo.conv2d(x, w)


def test_subclasses_of_arrays_are_their_numbers(tmp_path):
    class Loud(np.ndarray):
        def __array_ufunc__(self, *_, **__):
            raise AssertionError("a kernel let the subclass compute")

    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    want = conv2d_of(X, W, kernel="numpy/shifted")
    for kernel in ("auto", "numpy/shifted", "numpy/im2col", "python/naive", "numba/naive"):
        if kernel == "auto" or (kernel in convzoo.names() and not convzoo.catalog.find(kernel).backend.why_not()):
            for x in (X.view(Loud), mapped):
                y = convzoo.conv2d(x, W.view(Loud), kernel=kernel)
                assert type(y) is np.ndarray
                np.testing.assert_array_equal(y, want)


def test_subclasses_of_tensors_are_their_numbers_or_refused():
    torch = pytest.importorskip("torch")

    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, f, kinds, values=(), names=None):
            if f.__name__ == "__get__":  # shape, dtype, device
                return super().__torch_function__(f, kinds, values, names or {})
            raise AssertionError("a kernel let the subclass compute")

    class Wrapper(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, f, kinds, values=(), names=None):
            raise AssertionError("a kernel let the subclass compute")

    x, w = torch.from_numpy(X), torch.from_numpy(W)
    with torch._C.DisableTorchFunctionSubclass():
        loud, wrapped = x.as_subclass(Loud), x.as_subclass(Wrapper)
        parameter = torch.nn.Parameter(w, requires_grad=False)
    y = convzoo.conv2d(loud, parameter, kernel="torch_cpu/builtin")
    assert type(y) is torch.Tensor and torch.equal(y, torch.nn.functional.conv2d(x, w))
    with pytest.raises(TypeError, match="x must be an array, got Wrapper"):
        convzoo.conv2d(wrapped, w)


@pytest.mark.parametrize("text", ["conv1 n1c4h12w12k4r3s3-p1", '{"problems": [{"problem": "n1c4h12w12k4r3s3-p1"}]}'])
def test_a_list_of_problems_may_begin_with_a_byte_order_mark(tmp_path, text):
    path = tmp_path / "layers"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    ((_, p, count),) = read_problems(path)
    assert (p, count) == (Conv2d.parse("n1c4h12w12k4r3s3-p1"), 1)


# --- limits ------------------------------------------------------------------------------------------

GROUPS = {
    "version 2": (
        "0::/a/b\n",
        "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/memory.max": "1000000", "a/memory.max": "max"},
    ),
    "version 2, a namespace of its own": (
        "0::/\n",
        "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        {"cpu.max": "150000 100000", "memory.max": "1000000"},
    ),
    "version 1": (
        "4:memory:/docker/c\n2:cpu,cpuacct:/docker/c\n1:name=systemd:/\n",
        "31 1 0:2 /docker/c /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 1 0:3 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n",
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/docker/memory.limit_in_bytes": "1000000",
            "memory/docker/c/memory.limit_in_bytes": str(2**63 - 4096),
        },
    ),
    "no limit": (
        "2:cpu:/\n0::/\n",
        "31 1 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n30 1 0:1 / /sys/fs/cgroup/u rw - cgroup2 c rw\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "u/memory.max": "max"},
    ),
}


@pytest.mark.parametrize("groups, mounts, files", GROUPS.values(), ids=GROUPS.keys())
def test_limits_of_control_groups_are_read(tmp_path, monkeypatch, groups, mounts, files):
    unlimited = limits.memory()
    told = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    for name, text in (told | {f"sys/fs/cgroup/{k}": v for k, v in files.items()}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if "max" in files.get("u/memory.max", ""):
        assert limits.cpu_quota() is None and limits.cpus() == 8
        assert limits.memory() is None or unlimited is None or limits.memory() >= unlimited
        return
    assert limits.cpu_quota() == 1.5 and limits.cpus() == 2
    assert limits.memory() == 1000000
    with pytest.raises(ValueError, match="must fit in memory"):
        convzoo.conv2d(np.ones((1, 16, 99, 97), np.float32), np.ones((64, 16, 3, 3), np.float32))


def test_no_control_groups_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ROOT", Path(tmp_path))
    assert limits.cpu_quota() is None and limits.cpus() >= 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convzoo.conv2d(X, W, kernel="numpy/shifted")
