"""``conv2d`` and ``prepare``: one front door for every kernel, and the choice behind kernel="auto"."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from . import arguments, catalog
from .backends import BACKENDS
from .plan import Plan, Unavailable, Unsupported
from .problem import Conv2d
from .reference import ACCURACIES

CACHED = 256  # plans and call signatures that are kept; the oldest goes first


def conv2d(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, layout: str = "nchw", kernel: str = "auto", accuracy: str = "elementwise",
) -> Any:  # fmt: skip
    """The convolution of ``x`` with ``w``, as ``torch.nn.functional.conv2d`` defines it.

    x is (N, C, H, W), or (N, H, W, C) with ``layout="nhwc"``; w is (K, C/groups, R, S); bias is (K,);
    the result is (N, K, P, Q) or (N, P, Q, K), fresh, C-contiguous, in the dtype of x (float32 or
    float64). ``stride``, ``dilation``: an int or (h, w). ``padding``: an int, (h, w), ((top, bottom),
    (left, right)), "same" or "valid". ``kernel``: a name from ``convzoo.names()``, or "auto", which
    takes the fastest that guarantees at least ``accuracy`` (see ``convzoo.reference``): "elementwise", or
    "tilewise" to let Winograd's scheme in.

    Arrays of the kernel's own library go in and come out without a copy; NumPy arrays are accepted by
    every kernel and come back as NumPy. Raises TypeError or ValueError for wrong arguments, Unavailable
    where this machine cannot run the kernel, Unsupported where the kernel cannot do the problem.
    """
    call = None
    try:
        key = (
            type(x), x.shape, x.dtype, type(w), w.shape, w.dtype,
            bias if bias is None else (type(bias), bias.shape, bias.dtype),
            _exact(stride), _exact(padding), _exact(dilation), _exact(groups), layout, kernel, accuracy,
            getattr(x, "device", None),
        )  # fmt: skip
        call = _calls.get(key)
    except (AttributeError, TypeError):
        key = None  # not hashable, or no array at all: the validator has the words for it
    if call is None:
        p = arguments.check(x, w, bias, stride, padding, dilation, groups, layout)
        arguments.check_choice("accuracy", accuracy, ACCURACIES)
        call = _call(x, p, kernel, "eager", accuracy)
        if key is not None:
            _remember(_calls, key, call)
    x, w, b = call.take(x, w, bias)
    plan = call.plan
    y = plan.run(x, plan.pack(w, b))
    return call.give(y)


def prepare(
    w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, layout: str = "nchw", kernel: str = "auto", accuracy: str = "elementwise",
) -> Layer:  # fmt: skip
    """A layer with these weights: ``layer(x)`` is conv2d(x, w, ...) with the weights packed only once.

    The weights are copied now, so later changes of ``w`` do not show. Raises what conv2d raises; what
    depends on x is found at the first call with an x of that shape.
    """
    arguments.check_layer(w, bias, stride, padding, dilation, groups, layout)
    arguments.check_choice("accuracy", accuracy, ACCURACIES)
    if kernel != "auto":
        catalog.load(kernel)
    options = (stride, padding, dilation, groups, layout)
    return Layer(_copy(w), None if bias is None else _copy(bias), options, kernel, accuracy)


def _copy(a: Any) -> Any:
    owner = arguments.library(a)
    if owner == "torch":
        return a.clone()
    if owner == "numba_cuda":
        return BACKENDS[owner].to_device(a.copy_to_host())
    return a.copy()


@dataclass(frozen=True)
class _Call:
    """A plan and the way into and out of its library for one kind of array."""

    plan: Plan
    backend: Any
    foreign: bool  # NumPy arrays for a kernel of another library: copied there and back

    def take(self, *arrays: Any) -> tuple:
        if self.foreign:
            return tuple(None if a is None else self.backend.to_device(a) for a in arrays)
        take = self.backend.take
        x, w, b = arrays
        return (take("x", x), take("w", w), None if b is None else take("bias", b))

    def give(self, y: Any) -> Any:
        if self.foreign:
            self.backend.synchronize()
            return self.backend.to_host(y)
        return y


class Layer:
    """What ``prepare`` returns: weights packed once per shape of x, then ``layer(x)`` runs."""

    def __init__(self, w: Any, bias: Any, options: tuple, kernel: str, accuracy: str):
        self._w, self._bias, self._options = w, bias, options
        self._kernel, self._accuracy = kernel, accuracy
        self._packed: dict[Any, tuple[_Call, Any]] = {}

    def __call__(self, x: Any) -> Any:
        """The convolution of x with this layer's weights; as ``conv2d``, raises what it raises."""
        try:
            key = (type(x), x.shape, x.dtype, getattr(x, "device", None))
            found = self._packed.get(key)
        except (AttributeError, TypeError):
            key = found = None
        if found is None:
            p = arguments.check(x, self._w, self._bias, *self._options)
            call = _call(x, p, self._kernel, "packed", self._accuracy)
            _, w, b = call.take(x, self._w, self._bias)
            found = (call, call.plan.pack(w, b))
            if key is not None:
                _remember(self._packed, key, found)
        call, weights = found
        x = call.backend.to_device(x) if call.foreign else call.backend.take("x", x)
        return call.give(call.plan.run(x, weights))


def _exact(value: Any) -> Any:
    """``value`` as part of a cache key; True, 1.0 and np.int64(1) must not pass for a cached 1."""
    kind = type(value)
    if kind is int or kind is str:
        return value
    if kind is tuple:
        return tuple([_exact(v) for v in value])
    raise TypeError


_lock = threading.Lock()
_calls: dict[Any, _Call] = {}
_plans: dict[Any, Plan] = {}


def _remember(cache: dict, key: Any, value: Any) -> None:
    with _lock:
        while len(cache) >= CACHED:
            del cache[next(iter(cache))]
        cache[key] = value


def plan(p: Conv2d, kernel: str) -> Plan:
    """The plan of a named kernel for ``p``, made once per problem and kernel."""
    found = _plans.get((p, kernel))
    if found is None:
        found = catalog.load(kernel).plan(p)
        _remember(_plans, (p, kernel), found)
    return found


def _call(x: Any, p: Conv2d, kernel: str, scenario: str, accuracy: str) -> _Call:
    owner = arguments.library(x)
    if kernel == "auto":
        chosen, ready = _choose(p, x, owner, scenario, accuracy)
        return _Call(ready, catalog.find(chosen).backend, False)
    backend = catalog.find(kernel).backend
    if owner not in ("numpy", backend.library):
        takes = "a numpy array" if backend.library == "numpy" else f"a {backend.library} or numpy array"
        raise TypeError(f"conv2d: x must be {takes} for {kernel}, got {owner}")
    catalog.load(kernel)
    return _Call(plan(p, kernel), backend, owner != backend.library)


def _choose(p: Conv2d, x: Any, owner: str | None, scenario: str, accuracy: str) -> tuple[str, Plan]:
    """The first kernel of the written rule that can run here and do this problem."""
    reasons = []
    device = getattr(getattr(x, "device", None), "type", "cpu")
    for name in rule(p, owner, device, scenario, accuracy):
        try:
            return name, plan(p, name)
        except (Unavailable, Unsupported) as reason:  # the next of the rule may still do it
            reasons.append(f"{name}: {reason}")
    raise Unsupported(f"conv2d: no kernel for {p} on {owner} arrays; " + "; ".join(reasons))


def rule(
    p: Conv2d, owner: str | None, device: str, scenario: str, accuracy: str = "elementwise"
) -> list[str]:
    """The written rule behind kernel="auto": names in the order in which they are tried.

    The library of the arrays decides the family; within it the rule follows recorded results.
    """
    if owner == "torch":
        if device != "cpu":
            return [f"torch_{device}/builtin"]
        first = "packed" if scenario == "packed" else "builtin"
        return [f"torch_cpu/{first}", "torch_cpu/builtin"]
    if owner == "cupy":
        return ["cupy/im2col", "cupy/shifted", "cupy/raw_naive"]
    if owner == "numba_cuda":
        return ["numba_cuda/shared_tile", "numba_cuda/coalesced", "numba_cuda/naive"]
    return [*_rule_for_numpy(p, scenario == "packed", accuracy), "numpy/im2col", "numpy/shifted"]


def _rule_for_numpy(p: Conv2d, packed: bool, accuracy: str) -> list[str]:
    """Numba kernels in the order of their times on two threads of a Zen 4 (reports/cpu_kernels.md)."""
    inputs, outputs = p.C // p.groups, p.K // p.groups
    # few_channels sorts columns by their stride; with 5 x 20 or 11 x 11 taps register_tile is faster by 10 to 20 %
    small = p.stride == (1, 1) or (max(p.stride) <= 2 and p.R * p.S <= 49)
    few = outputs <= 8 or (inputs <= 4 and p.layout == "nchw" and small)
    # channels in the lanes leave up to half of them empty; more input channels make up for it
    odd = outputs <= 24 and outputs % 16 and inputs <= 64 and p.layout == "nchw" and p.stride == (1, 1)
    few = few or bool(odd)
    own = ["numba/few_channels", "numba/register_tile"]
    order = own if few else own[::-1]
    if inputs == 1:
        return ["numba/depthwise", *order]
    # what packing costs must pay off within one call, eagerly; Winograd's is up to four times the bytes of w
    pixels, least = p.N * p.P * p.Q, 0 if packed else 180
    one_tap = (p.R, p.S) == (1, 1)
    if one_tap:
        # with a stride in nchw: alike at N = 1, but at N = 16 register_tile takes up to 0.6 of the time
        strided = p.layout == "nchw" and p.stride != (1, 1)
        order = [*order, "numba/pointwise"] if strided else ["numba/pointwise", *order]
    if not (packed or few) and (one_tap or pixels <= 800):
        order = ["numba/unpacked", *order]  # refuses nhwc
    if one_tap:
        return order
    if accuracy == "elementwise":
        return order
    if not odd and _pays_to_cut(p, packed):
        return ["numba/winograd_decomposed", *order]
    winograd = []
    # filters that leave the second-level cache while they are packed need more pixels to pay for it
    larger = least if p.K * p.C <= 2**16 or packed else 400
    if inputs >= 8 and outputs >= 12 and pixels >= larger:
        winograd = ["numba/winograd"]
    if inputs >= 32 and outputs >= 24 and pixels >= least:
        winograd = [*winograd, "numba/winograd_small"]
    return [*winograd, *order]


def _pays_to_cut(p: Conv2d, packed: bool) -> bool:
    """Whether numba/winograd_decomposed is faster than direct kernels; others refuse what it refuses."""
    (down, right), taps = p.stride, p.R * p.S
    if p.groups > 1 or right > 2 or p.dilation != (1, 1) or (p.R, p.S, p.stride) == (3, 3, (1, 1)):
        return False
    # with one tap in a row or column, or hardly more taps than the stride, there is nothing to save;
    # with few taps of all channels, or few outputs, transforms take longer than products
    if down >= p.R or right >= p.S or p.C * taps <= 100 or p.K < 16:
        return False
    high, wide = -(-p.P // 4), -(-p.Q // 4)
    tiles = p.N * high * wide
    if 16 * high * wide > 2 * p.P * p.Q:
        return False  # mostly outside of y
    # numbers for each filter of one channel: read from memory, they must serve many tiles
    weights = 36 * max(down, -(-p.R // 3)) * max(right, -(-p.S // 3)) * p.K * p.C * p.itemsize
    if weights > (10e6 if tiles < 100 else 20e6):
        return False
    return packed or p.N * p.P * p.Q * taps > 15_000
