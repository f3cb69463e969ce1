"""Bad input: the right kind of error, one wording, the first fault, and no backend called before it."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import convzoo
from convzoo import Conv2d, catalog
from convzoo.backends import BACKENDS, Backend

NUMPY = "numpy/per_channel"
X = np.ones((1, 2, 5, 5), np.float32)
W = np.ones((4, 2, 3, 3), np.float32)
B = np.ones(4, np.float32)


@pytest.fixture
def no_backend(monkeypatch):
    """Whatever comes near a backend or a kernel file fails the test."""

    def touched(*args, **kwargs):
        raise AssertionError("a backend was called before the arguments were refused")

    monkeypatch.setattr(catalog, "load", touched)
    monkeypatch.setattr(catalog.Kernel, "plan", touched)
    monkeypatch.setattr(catalog.Kernel, "module", touched)
    for kind in {Backend, *map(type, BACKENDS.values())}:
        for method in ("take", "to_device", "to_host", "planning", "why_not"):
            monkeypatch.setattr(kind, method, touched)


def shape(*sizes, dtype=np.float32):
    """Zeros of any size that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), sizes)


# --- each rule, in the order in which faults are told ------------------------------------------------

# (arguments that replace x, w, bias or an option; kind of error; the whole message)
RULES = {
    # 1. not an array
    "x None": ({"x": None}, TypeError, "x must be an array, got NoneType"),
    "x list": ({"x": [[1.0]]}, TypeError, "x must be an array, got list"),
    "x str": ({"x": "x"}, TypeError, "x must be an array, got str"),
    "x number": ({"x": 1.0}, TypeError, "x must be an array, got float"),
    "x scalar": ({"x": np.float32(1)}, TypeError, "x must be an array, got float32"),
    "w None": ({"w": None}, TypeError, "w must be an array, got NoneType"),
    "w tuple": ({"w": (1, 2)}, TypeError, "w must be an array, got tuple"),
    "bias list": ({"bias": [1.0] * 4}, TypeError, "bias must be an array, got list"),
    "bias number": ({"bias": 0.0}, TypeError, "bias must be an array, got float"),
    "x masked": ({"x": np.ma.masked_array(X, X > 5)}, TypeError, "x must be an array, got MaskedArray"),
    "w masked": ({"w": np.ma.masked_array(W)}, TypeError, "w must be an array, got MaskedArray"),
    "x object": ({"x": X.astype(object)}, TypeError, "x must be an array of numbers, got dtype object"),
    "bias object": ({"bias": B.astype(object)}, TypeError, "bias must be an array of numbers, got dtype object"),
    # 2. dtype
    **{
        f"{name} {dtype}": (
            {name: value.astype(dtype)},
            TypeError,
            f"{name} dtype must be float32 or float64, got {dtype}",
        )
        for name, value in (("x", X), ("w", W), ("bias", B))
        for dtype in ("bool", "uint8", "int32", "int64", "float16", "complex64", "longdouble")
        if np.dtype(dtype).name == dtype
    },
    "x str dtype": ({"x": X.astype("U1")}, TypeError, "x dtype must be float32 or float64, got str32"),
    # 3. one dtype
    "w float64": (
        {"w": W.astype("f8")},
        TypeError,
        "x, w and bias must share one dtype, got float32, float64, float32",
    ),
    "no bias, w float64": (
        {"w": W.astype("f8"), "bias": None},
        TypeError,
        "x, w and bias must share one dtype, got float32, float64",
    ),
    "bias float64": (
        {"bias": B.astype("f8")},
        TypeError,
        "x, w and bias must share one dtype, got float32, float32, float64",
    ),
    # 4. number of axes
    "layout None": ({"layout": None}, TypeError, "layout must be 'nchw' or 'nhwc', got None"),
    "layout chwn": ({"layout": "chwn"}, ValueError, "layout must be 'nchw' or 'nhwc', got 'chwn'"),
    "layout NCHW": ({"layout": "NCHW"}, ValueError, "layout must be 'nchw' or 'nhwc', got 'NCHW'"),
    "x 2-D": ({"x": X[0, 0]}, ValueError, "x must be 4-D (N, C, H, W), got shape (5, 5)"),
    "x 3-D": ({"x": X[0]}, ValueError, "x must be 4-D (N, C, H, W), got shape (2, 5, 5)"),
    "x 5-D": ({"x": X[None]}, ValueError, "x must be 4-D (N, C, H, W), got shape (1, 1, 2, 5, 5)"),
    "x 0-D": ({"x": np.array(1, np.float32)}, ValueError, "x must be 4-D (N, C, H, W), got shape ()"),
    "x 3-D nhwc": ({"x": X[0], "layout": "nhwc"}, ValueError, "x must be 4-D (N, H, W, C), got shape (2, 5, 5)"),
    "w 3-D": ({"w": W[0]}, ValueError, "w must be 4-D (K, C/groups, R, S), got shape (2, 3, 3)"),
    "bias too short": ({"bias": B[:3]}, ValueError, "bias must be 1-D of length K=4, got shape (3,)"),
    "bias 2-D": ({"bias": B[:, None]}, ValueError, "bias must be 1-D of length K=4, got shape (4, 1)"),
    "bias 0-D": ({"bias": B[0, ...]}, ValueError, "bias must be 1-D of length K=4, got shape ()"),
    # 5. kinds of the options
    **{
        f"{name} {value!r}": ({name: value}, TypeError, f"{name} must be an int or a pair of ints, got {value!r}")
        for name in ("stride", "padding", "dilation")
        for value in (
            True,
            1.0,
            1.5,
            float("nan"),
            float("inf"),
            None,
            b"1",
            1j,
            np.float32(1),
            (1, 1.0),
            (True, 1),
            (1, None),
            [1, "1"],
            {1},
            np.bool_(True),
            np.array([1, 1]),
        )
        # a set or an array is no pair; an array of one integer is no int here
    },
    "stride str": ({"stride": "1"}, TypeError, "stride must be an int or a pair of ints, got '1'"),
    "dilation str": ({"dilation": "1"}, TypeError, "dilation must be an int or a pair of ints, got '1'"),
    "padding str": ({"padding": "1"}, ValueError, "padding must be 'same', 'valid' or ints, got '1'"),
    "padding SAME": ({"padding": "SAME"}, ValueError, "padding must be 'same', 'valid' or ints, got 'SAME'"),
    "padding same with stride": (
        {"padding": "same", "stride": 2},
        ValueError,
        "padding 'same' must have stride 1, got stride (2, 2)",
    ),
    "stride of three": ({"stride": (1, 1, 1)}, ValueError, "stride must be an int or a pair of ints, got (1, 1, 1)"),
    "stride of one": ({"stride": (1,)}, ValueError, "stride must be an int or a pair of ints, got (1,)"),
    "dilation of none": ({"dilation": ()}, ValueError, "dilation must be an int or a pair of ints, got ()"),
    "padding of three": ({"padding": (1, 1, 1)}, ValueError, "padding must be an int or a pair of ints, got (1, 1, 1)"),
    "padding of three pairs": (
        {"padding": ((1, 1), (1, 1), (1, 1))},
        ValueError,
        "padding must be an int, a pair or ((top, bottom), (left, right)), got ((1, 1), (1, 1), (1, 1))",
    ),
    "padding of pair and int": (
        {"padding": ((1, 1), 1)},
        ValueError,
        "padding must be an int, a pair or ((top, bottom), (left, right)), got ((1, 1), 1)",
    ),
    "padding of wrong pairs": (
        {"padding": ((1, 1.0), (1, 1))},
        TypeError,
        "padding must be an int or a pair of ints, got (1, 1.0)",
    ),
    **{
        f"groups {value!r}": ({"groups": value}, TypeError, f"groups must be an int, got {value!r}")
        for value in (True, 1.0, None, "1", (1,), (1, 1), float("nan"), np.bool_(True), np.float64(1))
    },
    # 6. values of the options
    "stride 0": ({"stride": 0}, ValueError, "stride must be >= 1, got (0, 0)"),
    "stride (1, 0)": ({"stride": (1, 0)}, ValueError, "stride must be >= 1, got (1, 0)"),
    "stride -1": ({"stride": -1}, ValueError, "stride must be >= 1, got (-1, -1)"),
    "dilation 0": ({"dilation": (0, 1)}, ValueError, "dilation must be >= 1, got (0, 1)"),
    "dilation -2": ({"dilation": -2}, ValueError, "dilation must be >= 1, got (-2, -2)"),
    "padding -1": ({"padding": -1}, ValueError, "padding must be >= 0, got -1"),
    "padding one below 0": ({"padding": ((0, 0), (1, -1))}, ValueError, "padding must be >= 0, got ((0, 0), (1, -1))"),
    "groups 0": ({"groups": 0}, ValueError, "groups must be >= 1, got 0"),
    "groups -1": ({"groups": -1}, ValueError, "groups must be >= 1, got -1"),
    # 7. groups and channels
    "groups do not divide C": ({"groups": 3}, ValueError, "groups must divide C, got groups=3 and C=2"),
    "groups do not divide K": (
        {"groups": 2, "w": W[:3, :1], "bias": B[:3]},
        ValueError,
        "groups must divide K, got groups=2 and K=3",
    ),
    "w has too many channels": (
        {"w": shape(4, 3, 3, 3)},
        ValueError,
        "w must have C/groups = 2 input channels per group, got 3",
    ),
    "w is not grouped": ({"groups": 2}, ValueError, "w must have C/groups = 1 input channels per group, got 2"),
    "x is nchw, layout says nhwc": (
        {"layout": "nhwc"},
        ValueError,
        "kernel extent must not exceed the padded input, got kernel extent 3x3 and padded input 2x5",
    ),
    # 8. sizes
    "filter of height 0": ({"w": shape(4, 2, 0, 3)}, ValueError, "kernel must not be empty, got 0x3"),
    "filter of width 0": ({"w": shape(4, 2, 3, 0)}, ValueError, "kernel must not be empty, got 3x0"),
    "filter too large": (
        {"w": shape(4, 2, 7, 3)},
        ValueError,
        "kernel extent must not exceed the padded input, got kernel extent 7x3 and padded input 5x5",
    ),
    "dilated filter too large": (
        {"dilation": (1, 3), "padding": ((0, 0), (0, 1))},
        ValueError,
        "kernel extent must not exceed the padded input, got kernel extent 3x7 and padded input 5x6",
    ),
    "dilation absurd": (
        {"dilation": 2**40},
        ValueError,
        f"kernel extent must not exceed the padded input, got kernel extent {2**41 + 1}x{2**41 + 1} "
        "and padded input 5x5",
    ),
    "x of height 0": (
        {"x": shape(1, 2, 0, 5)},
        ValueError,
        "kernel extent must not exceed the padded input, got kernel extent 3x3 and padded input 0x5",
    ),
    "x absurd": (
        {"x": shape(2**19, 2, 2**20, 2**20)},
        ValueError,
        "x must have fewer than 2**60 elements, got (524288, 2, 1048576, 1048576)",
    ),
    "padding absurd": (
        {"padding": 2**40},
        ValueError,
        f"y must have fewer than 2**60 elements, got (1, 4, {2**41 + 3}, {2**41 + 3})",
    ),
}


def call(**changes):
    arguments = {"x": X, "w": W, "bias": B} | changes
    x, w, bias = (arguments.pop(name) for name in ("x", "w", "bias"))
    return convzoo.conv2d(x, w, bias, **arguments)


@pytest.mark.parametrize("changes, kind, message", RULES.values(), ids=RULES.keys())
def test_rule(no_backend, changes, kind, message):
    with pytest.raises(kind) as refusal:
        call(**changes)
    assert str(refusal.value) == "conv2d: " + message
    assert type(refusal.value) is kind


@pytest.mark.parametrize("name", [name for name, (changes, *_) in RULES.items() if not {"x", "bias"} & changes.keys()])
def test_rule_holds_for_prepare(no_backend, name):
    """What does not depend on x is refused when the layer is made, and never blamed on x."""
    changes, kind, message = RULES[name]
    if re.search(r"\b(C|x)\b|padded input|channels|elements", message.replace("C/groups, R", "")):
        pytest.skip("depends on x")
    arguments = {"w": W, "bias": B} | changes
    w, bias = arguments.pop("w"), arguments.pop("bias")
    with pytest.raises(kind) as refusal:
        convzoo.prepare(w, bias, **arguments)
    assert str(refusal.value) == "conv2d: " + message


FIRST_FAULT = [
    ({"x": None, "w": None}, "x must be an array"),
    ({"x": X.astype(int), "w": None}, "w must be an array"),
    ({"x": X.astype(int), "w": W.astype("f8")}, "x dtype must be"),
    ({"w": W.astype("f8"), "x": X[0]}, "x, w and bias must share one dtype"),
    ({"x": X[0], "w": W[0], "bias": B[:1]}, "x must be 4-D"),
    ({"w": W[0], "bias": B[:1]}, "w must be 4-D"),
    ({"bias": B[:1], "stride": True}, "bias must be 1-D"),
    ({"stride": 1.0, "dilation": 1.0, "groups": 1.0, "padding": 1.0}, "stride must be an int"),
    ({"stride": 0, "dilation": 1.0}, "dilation must be an int"),
    ({"stride": 0, "groups": 1.0}, "groups must be an int"),
    ({"padding": -1, "groups": 1.0}, "groups must be an int"),
    ({"padding": -1, "w": shape(4, 2, 0, 3)}, "padding must be >= 0"),
    ({"groups": 3, "w": shape(4, 2, 7, 7)}, "groups must divide C"),
    ({"stride": 0, "kernel": "no/such"}, "stride must be >= 1"),
]


@pytest.mark.parametrize("changes, start", FIRST_FAULT, ids=[start for _, start in FIRST_FAULT])
def test_first_fault_wins(no_backend, changes, start):
    with pytest.raises((TypeError, ValueError), match=f"^conv2d: {re.escape(start)}"):
        call(**changes)


def test_every_refusal_has_the_form():
    for _, _, message in RULES.values():
        assert re.fullmatch(r"[a-z, ]+('same' )?[a-z0-9-]+ .*, got .+", message), message


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"x": shape(1, 2, 2**24, 2**24)}, "y"),
        ({"w": shape(2**40, 2, 3, 3), "bias": shape(2**40)}, "y"),
        ({"padding": 2**24}, "y"),
        ({"padding": 2**24, "stride": 2**24}, "the padded x"),
        ({"x": shape(2**40, 2, 5, 5)}, "y"),
    ],
)
def test_what_no_machine_holds_is_refused_before_allocation(no_backend, changes, name):
    with pytest.raises(ValueError) as refusal:
        call(**changes)
    text = rf"conv2d: {name} must fit in memory \([0-9.]+ GiB\), got [0-9.]+ GiB"
    assert re.fullmatch(text, str(refusal.value))


# --- what must not slip through the cache of calls ---------------------------------------------------

SLIPS = [
    {"stride": True},
    {"stride": 1.0},
    {"stride": np.bool_(True)},
    {"stride": np.float64(1)},
    {"stride": (1, True)},
    {"stride": (1.0, 1)},
    {"padding": False},
    {"padding": 0.0},
    {"padding": (0, False)},
    {"padding": ((0, 0), (0, False))},
    {"padding": ((0, 0), (0, 0.0))},
    {"dilation": True},
    {"dilation": 1.0},
    {"groups": True},
    {"groups": 1.0},
    {"groups": np.bool_(True)},
]


@pytest.mark.parametrize("changes", SLIPS, ids=repr)
def test_equal_but_wrong_kind_after_a_good_call(changes):
    """True == 1 == 1.0 and they hash alike: a cache keyed by them would let them in."""
    good = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": 1, "groups": 1}
    for _ in range(2):
        call(kernel=NUMPY)
        call(kernel=NUMPY, **good)
        call(kernel=NUMPY, stride=1, padding=0)
        call(kernel=NUMPY, stride=(1, 1), padding=(0, 0))
    with pytest.raises(TypeError, match=r"^conv2d: \w+ must be an int"):
        call(kernel=NUMPY, **changes)


def test_bad_arrays_after_a_good_call():
    call(kernel=NUMPY)
    with pytest.raises(TypeError, match="MaskedArray"):
        call(kernel=NUMPY, x=np.ma.masked_array(X))
    with pytest.raises(ValueError, match="bias must be 1-D"):
        call(kernel=NUMPY, bias=B[:3])
    with pytest.raises(TypeError, match="share one dtype"):
        call(kernel=NUMPY, w=W.astype("f8"))


def test_layer_refuses_x_after_a_good_call():
    layer = convzoo.prepare(W, B, kernel=NUMPY)
    layer(X)
    for x, kind, message in [
        (X[0], ValueError, "x must be 4-D"),
        (X.astype("f8"), TypeError, "share one dtype"),
        (np.ma.masked_array(X), TypeError, "x must be an array"),
        (X[:, :1], ValueError, "w must have C/groups = 1 input channels"),
        (X[..., :2], ValueError, "kernel extent must not exceed"),
        (None, TypeError, "x must be an array"),
    ]:
        with pytest.raises(kind, match=f"^conv2d: .*{message}"):
            layer(x)


# --- what is allowed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"stride": np.int64(1), "padding": np.uint8(0), "dilation": np.int8(1), "groups": np.int32(1)},
        {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]},
        {"stride": (np.int64(1), 1), "padding": ((np.int64(0), 0), (0, 0))},
        {"padding": [[0, 0], [0, 0]]},
        {"padding": [(0, 0), (0, 0)]},
        {"padding": "valid"},
        {"kernel": "auto"},
    ],
    ids=repr,
)
def test_integers_of_any_kind_are_accepted(options):
    np.testing.assert_array_equal(call(**{"kernel": NUMPY} | options), call(kernel=NUMPY))
    layer = convzoo.prepare(W, B, **{"kernel": NUMPY} | options)
    np.testing.assert_array_equal(layer(X), call(kernel=NUMPY))


@pytest.mark.parametrize("accuracy, kind", [("exact", ValueError), ("", ValueError), (1, TypeError), (None, TypeError)])
def test_accuracy_is_one_of_the_guarantees(accuracy, kind):
    match = "conv2d: accuracy must be one of elementwise, tilewise, normwise, tf32, half, got"
    with pytest.raises(kind, match=match):
        convzoo.conv2d(X, W, B, accuracy=accuracy)
    with pytest.raises(kind, match=match):
        convzoo.prepare(W, B, accuracy=accuracy)


@pytest.mark.parametrize("integer", [int, np.int64, np.uint8])
def test_groups_of_any_integer_kind(integer):
    w = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3)
    want = call(w=w, groups=2, kernel=NUMPY)
    np.testing.assert_array_equal(call(w=w, groups=integer(2), kernel=NUMPY), want)
    np.testing.assert_array_equal(convzoo.prepare(w, B, groups=integer(2), kernel=NUMPY)(X), want)


def test_stride_may_exceed_everything():
    assert call(stride=2**40, kernel=NUMPY).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("dilation", [1, 2, (1, 2)])
@pytest.mark.parametrize("size", [(3, 3), (2, 4), (1, 5)])
def test_same_keeps_the_size_and_puts_the_odd_pixel_last(size, dilation):
    """As torch does."""
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (1, 2, 9, 11)).astype(np.float32)
    w = rng.integers(-9, 9, (3, 2, *size)).astype(np.float32)
    y = convzoo.conv2d(x, w, padding="same", dilation=dilation, kernel=NUMPY)
    assert y.shape == (1, 3, 9, 11)
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that an even filter costs it a padded copy
        want = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding="same", dilation=dilation)
    np.testing.assert_array_equal(y, want.numpy())


# --- libraries and kernels ---------------------------------------------------------------------------


def test_libraries_are_not_mixed(no_backend):
    torch = pytest.importorskip("torch")
    t = torch.from_numpy(X.copy())
    for changes, owners in [
        ({"x": t}, "torch, numpy, numpy"),
        ({"w": torch.from_numpy(W.copy())}, "numpy, torch, numpy"),
        ({"bias": torch.from_numpy(B.copy())}, "numpy, numpy, torch"),
    ]:
        with pytest.raises(TypeError) as refusal:
            call(**changes)
        wanted = f"conv2d: x, w and bias must come from one library, got {owners}"
        assert str(refusal.value) == wanted


def test_tensor_for_a_kernel_of_another_library():
    torch = pytest.importorskip("torch")
    x, w, b = (torch.from_numpy(a.copy()) for a in (X, W, B))
    with pytest.raises(TypeError) as refusal:
        call(x=x, w=w, bias=b, kernel=NUMPY)
    assert str(refusal.value) == f"conv2d: x must be a numpy array for {NUMPY}, got torch"
    with pytest.raises(TypeError):
        convzoo.prepare(w, b, kernel=NUMPY)(x)


@pytest.mark.parametrize("name", ["x", "w", "bias"])
@pytest.mark.parametrize("warm", [False, True], ids=["first-call", "after-a-good-call"])
def test_tensor_that_requires_grad_is_refused(name, warm):
    torch = pytest.importorskip("torch")
    x = np.ones((1, 2, 6 if warm else 7, 5), np.float32)  # a shape that no other test has called
    tensors = {n: torch.from_numpy(a.copy()) for n, a in {"x": x, "w": W, "bias": B}.items()}
    if warm:
        call(**tensors)
    tensors[name].requires_grad_()
    with pytest.raises(ValueError) as refusal:
        call(**tensors)
    assert str(refusal.value) == (
        f"conv2d: {name} must not require grad (no kernel here computes one; pass {name}.detach()), "
        "got requires_grad=True"
    )


def test_layer_refuses_what_requires_grad():
    torch = pytest.importorskip("torch")
    x, w = (torch.from_numpy(a.copy()) for a in (X, W))
    with pytest.raises(ValueError, match=r"^conv2d: w must not require grad"):
        convzoo.prepare(w.clone().requires_grad_())
    layer = convzoo.prepare(w)
    layer(x)
    with pytest.raises(ValueError, match=r"^conv2d: x must not require grad"):
        layer(x.requires_grad_())


@pytest.mark.parametrize("name", ["x", "w"])
@pytest.mark.parametrize("warm", [False, True], ids=["first-call", "after-a-good-call"])
def test_sparse_tensor_is_refused(name, warm):
    torch = pytest.importorskip("torch")
    x = np.ones((1, 2, 5, 6 if warm else 7), np.float32)  # a shape that no other test has called
    tensors = {n: torch.from_numpy(a.copy()) for n, a in {"x": x, "w": W, "bias": B}.items()}
    if warm:
        call(**tensors)
    tensors[name] = tensors[name].to_sparse()
    with pytest.raises(TypeError) as refusal:
        call(**tensors)
    assert str(refusal.value) == f"conv2d: {name} must be a dense tensor, got layout torch.sparse_coo"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", "bool", "complex64"])
def test_tensor_dtype(no_backend, dtype):
    torch = pytest.importorskip("torch")
    x = torch.zeros(X.shape, dtype=getattr(torch, dtype))
    with pytest.raises(TypeError, match=f"^conv2d: x dtype must be float32 or float64, got {dtype}$"):
        call(x=x, w=torch.from_numpy(W.copy()), bias=None)


def test_unknown_kernel_suggests_near_names():
    with pytest.raises(ValueError) as refusal:
        call(kernel="numpy/per_chanel")
    start = "conv2d: kernel must be 'auto' or one of convzoo.names(), got 'numpy/per_chanel' (did you mean "
    assert str(refusal.value).startswith(start + "numpy/per_channel")
    assert str(refusal.value).endswith("?)")
    with pytest.raises(ValueError, match=r"got 'qqqqqqqq'$"):
        call(kernel="qqqqqqqq")
    for use in (lambda: convzoo.load("numpy/per_chanel"), lambda: convzoo.prepare(W, kernel="numpy/x")):
        with pytest.raises(ValueError, match=r"^conv2d: kernel must be 'auto' or one of convzoo.names()"):
            use()


@pytest.mark.parametrize("kernel", [None, 3, b"numpy/per_channel", ["numpy/per_channel"]])
def test_kernel_must_be_a_name(kernel):
    with pytest.raises(TypeError, match=f"^conv2d: kernel must be a name, got {type(kernel).__name__}$"):
        call(kernel=kernel)


def test_unavailable_is_no_value_error():
    assert issubclass(convzoo.Unavailable, NotImplementedError)
    assert issubclass(convzoo.Unsupported, NotImplementedError)
    assert not issubclass(convzoo.Unavailable, ValueError)


# --- Conv2d: printing and parsing --------------------------------------------------------------------

sizes = st.integers(0, 300)
some = st.integers(1, 300)


@st.composite
def any_problem(draw):
    groups = draw(st.integers(1, 40))
    R, S, stride, dilation = (draw(some), draw(some), draw(st.tuples(some, some)), draw(st.tuples(some, some)))
    padding = draw(st.tuples(sizes, sizes, sizes, sizes))
    H = max(0, dilation[0] * (R - 1) + 1 - padding[0] - padding[1]) + draw(sizes)
    W = max(0, dilation[1] * (S - 1) + 1 - padding[2] - padding[3]) + draw(sizes)
    return Conv2d(
        draw(sizes),
        groups * draw(sizes),
        H,
        W,
        groups * draw(sizes),
        R,
        S,
        stride,
        padding,
        dilation,
        groups,
        draw(st.booleans()),
        draw(st.sampled_from(("float32", "float64", "float16", "bfloat16"))),
        draw(st.sampled_from(("nchw", "nhwc"))),
    )


@given(any_problem())
def test_a_problem_parses_back(p):
    text = str(p)
    assert re.fullmatch(r"[a-z0-9_-]+", text)
    assert Conv2d.parse(text) == p
    assert hash(Conv2d.parse(text)) == hash(p)


@given(any_problem(), any_problem())
def test_two_problems_never_print_alike(p, q):
    assume(p != q)
    assert str(p) != str(q)


@given(any_problem(), st.data())
def test_options_parse_in_any_order(p, data):
    head, *rest = str(p).split("-")
    assert Conv2d.parse("-".join([head, *data.draw(st.permutations(rest))])) == p


@given(st.text())
def test_parse_raises_nothing_but_value_error(text):
    for candidate in (text, "n1c2h3w4k5r1s1-" + text, "n1c2h3w4k5r1s1" + text):
        try:
            p = Conv2d.parse(candidate)
        except ValueError:
            continue
        assert Conv2d.parse(str(p)) == p


BAD_STRINGS = [
    "",
    "n1",
    "n1c2h3w4k5r1",
    "c2n1h3w4k5r1s1",
    "n1c2h3w4k5r1s1-",
    "n1c2h3w4k5r1s1--p1",
    "n1c2h3w4k5r1s1-p",
    "n1c2h3w4k5r1s1-p1_2",
    "n1c2h3w4k5r1s1-p1_2_3",
    "n1c2h3w4k5r1s1-p1_2_3_4_5",
    "n1c2h3w4k5r1s1-st",
    "n1c2h3w4k5r1s1-st2x",
    "n1c2h3w4k5r1s1-st2x2x2",
    "n1c2h3w4k5r1s1-p1-p1",
    "n1c2h3w4k5r1s1-st1-st2",
    "n1c2h3w4k5r1s1-f32-f64",
    "n1c2h3w4k5r1s1-bias",
    "n1c2h3w4k5r1s1-f8",
    "n1c2h3w4k5r1s1-nchwc",
    "n1c2h3w4k5r1s1-NHWC",
    "N1C2H3W4K5R1S1",
    " n1c2h3w4k5r1s1",
    "n1c2h3w4k5r1s1 ",
    "n1c2h3w4k5r1s1\n",
    "n-1c2h3w4k5r1s1",
    "n1.0c2h3w4k5r1s1",
    "n1c2h3w4k5r1s1-p-1",
    "n\u0661c2h3w4k5r1s1",
    "n1c2h3w4k5r1s1-p\u0661",
    "n1c2h3w4k5r1s1-st1-p1_1_1_1-p1",
]


@pytest.mark.parametrize("text", BAD_STRINGS, ids=repr)
def test_bad_string(text):
    with pytest.raises(ValueError, match=r"^problem must look like n1c64h56w56k64r3s3\[.*, got "):
        Conv2d.parse(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("n1c3h5w5k4r3s3-g2", "groups must divide C, got groups=2 and C=3"),
        ("n1c2h3w3k4r4s3", "got kernel extent 4x3 and padded input 3x3"),
        ("n1c2h3w3k4r3s3-st0", "stride must be >= 1, got (0, 0)"),
        ("n1c2h3w3k4r0s3", "kernel must not be empty, got 0x3"),
        ("n1c2h3w3k4r1s1-g0", "groups must be >= 1, got 0"),
    ],
)
def test_string_of_an_impossible_problem(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Conv2d.parse(text)


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        ({"N": 1.0}, TypeError, "N must be an int, got 1.0"),
        ({"K": True}, TypeError, "K must be an int, got True"),
        ({"C": None}, TypeError, "C must be an int, got None"),
        ({"H": -1}, ValueError, "H must be >= 0, got -1"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of float32, float64, float16, bfloat16, got 'int8'"),
        ({"layout": "chwn"}, ValueError, "layout must be 'nchw' or 'nhwc', got 'chwn'"),
        ({"stride": (1, 2, 3)}, ValueError, "stride must be an int or a pair of ints, got (1, 2, 3)"),
        ({"padding": (0, 0, 0, 1.0)}, TypeError, "padding must be an int, got 1.0"),
    ],
)
def test_problem_refuses(changes, kind, message):
    with pytest.raises(kind) as refusal:
        Conv2d(**{"N": 1, "C": 2, "H": 3, "W": 4, "K": 5, "R": 1, "S": 1} | changes)
    assert str(refusal.value) == "conv2d: " + message


def test_problem_knows_its_sizes():
    p = Conv2d.parse("n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2")
    assert (p.extent, p.padded, p.P, p.Q) == ((5, 4), (12, 11), 4, 3)
    assert (p.x_shape, p.w_shape, p.y_shape) == ((2, 6, 9, 8), (4, 3, 3, 2), (2, 4, 4, 3))
    assert p.taps == 18 and p.flops == 2 * 2 * 4 * 4 * 3 * 18
    assert p.min_bytes == 4 * (2 * 6 * 9 * 8 + 4 * 18 + 2 * 4 * 12 + 4)
    q = Conv2d.parse(str(p) + "-nobias-f64-nhwc")
    assert (q.x_shape, q.w_shape, q.y_shape) == ((2, 9, 8, 6), (4, 3, 3, 2), (2, 4, 3, 4))
    assert q.min_bytes == 2 * p.min_bytes - 8 * 4 and not q.bias and q.dtype == "float64"
