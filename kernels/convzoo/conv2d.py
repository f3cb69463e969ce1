"""``conv2d`` and ``prepare``: one front door for every kernel."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

import numpy as np

from . import arguments, auto, catalog
from .backends import BACKENDS
from .plan import Plan, Unavailable, Unsupported
from .problem import Conv2d
from .reference import ACCURACIES

CACHED = 256  # plans and call signatures that are kept; the oldest goes first
PACKED = 8  # times the bytes of w: as much may the packed forms of a layer's weights take together
SMALL = 2**22  # bytes that they may take in any case


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
    "tilewise" to let Winograd's scheme in. For arrays on a GPU that choice is unmeasured (see ``convzoo.auto``).

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
    with call.backend.calling():
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
    """What ``prepare`` returns: weights packed once per packed form, then ``layer(x)`` runs.

    Shapes of x whose plans pack alike share one form. The forms together take at most ``PACKED`` times the
    bytes of w; beyond that the oldest is forgotten, and packed again when it is needed.
    """

    def __init__(self, w: Any, bias: Any, options: tuple, kernel: str, accuracy: str):
        self._w, self._bias, self._options = w, bias, options
        self._kernel, self._accuracy = kernel, accuracy
        self.__setstate__({})

    def __getstate__(self) -> dict:
        """What a pickle keeps: weights as they were given; they are packed anew where it is read."""
        return {k: v for k, v in vars(self).items() if k not in ("_seen", "_forms")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._seen: dict[Any, tuple[_Call, _Form]] = {}
        self._forms: dict[Any, _Form] = {}

    def __call__(self, x: Any) -> Any:
        """The convolution of x with this layer's weights; as ``conv2d``, raises what it raises."""
        try:
            key = (type(x), x.shape, x.dtype, getattr(x, "device", None), _process)
            found = self._seen.get(key)
        except (AttributeError, TypeError):
            key = found = None
        if found is None:
            p = arguments.check(x, self._w, self._bias, *self._options)
            call = _call(x, p, self._kernel, "packed", self._accuracy)
            found = (call, _Form(_NONE, 0))
        call, form = found
        weights = form.weights
        if weights is _NONE:
            form, weights = self._packed(x, call)
            if key is not None:
                _remember(self._seen, key, (call, form))
        x = call.backend.to_device(x) if call.foreign else call.backend.take("x", x)
        with call.backend.calling():
            y = call.plan.run(x, weights)
        return call.give(y)

    def _packed(self, x: Any, call: _Call) -> tuple[_Form, Any]:
        """The weights as this plan packs them: those of another that packs alike, if there are any."""
        key = (call.backend.name, _process, _pack_key(call.plan.pack))
        found = self._forms.get(key)
        weights = found.weights if found is not None else _NONE
        if found is not None and weights is not _NONE:
            return found, weights
        _, w, b = call.take(x, self._w, self._bias)
        with call.backend.calling():
            weights = call.plan.pack(w, b)
        made = _Form(weights, _bytes(weights, 2 * self._w.nbytes))
        with _lock:
            forms = self._forms
            forms.pop(key, None)
            while forms and sum(f.bytes for f in forms.values()) + made.bytes > max(
                SMALL, PACKED * self._w.nbytes
            ):
                forms.pop(next(iter(forms))).weights = _NONE
            forms[key] = made
        return made, weights


_NONE = object()


@dataclass
class _Form:
    """Packed weights, until they are forgotten."""

    weights: Any
    bytes: int


def _bytes(weights: Any, unknown: int) -> int:
    """How much memory packed weights take; ``unknown`` for what does not tell."""
    if isinstance(weights, (tuple, list)):
        return sum(_bytes(part, unknown) for part in weights if part is not None)
    size = getattr(weights, "nbytes", None)
    return size if isinstance(size, int) else unknown


def _pack_key(pack: Any) -> Any:
    """Equal for functions that pack alike: the same code, on equal values from the plan around it."""
    if not isinstance(pack, FunctionType):
        return pack
    values = tuple(map(_value_key, pack.__closure__ or ()))
    return (pack.__module__, pack.__code__, pack.__defaults__, values)


def _value_key(value: Any) -> Any:
    if isinstance(value, CellType):
        try:
            value = value.cell_contents
        except ValueError:  # not assigned on the way that this plan took
            return None
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(map(_value_key, value))
    try:
        hash(value)
    except TypeError:
        return _Itself(value)
    return (type(value), value)


@dataclass(frozen=True, eq=False)
class _Itself:
    """A value that equals nothing else."""

    value: Any


def _exact(value: Any) -> Any:
    """``value`` as part of a cache key; True, 1.0 and np.int64(1) must not pass for a cached 1."""
    kind = type(value)
    if kind is int or kind is str:
        return value
    if kind is tuple:
        return tuple([_exact(v) for v in value])
    raise TypeError


_lock = threading.Lock()
_process = 0  # how many forks lie behind this process: no plan outlives one
_calls: dict[Any, _Call] = {}
_plans: dict[Any, Plan] = {}


def _forked() -> None:
    global _lock, _process
    _lock, _process = threading.Lock(), _process + 1
    _calls.clear()
    _plans.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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
    device = str(getattr(x, "device", "cpu")).partition(":")[0]
    if owner == "torch" and f"torch_{device}" not in BACKENDS:
        raise ValueError(f"conv2d: x must be on cpu, cuda or mps, got {device}")
    if kernel == "auto":
        chosen, ready = _choose(p, owner, device, scenario, accuracy)
        return _Call(ready, catalog.find(chosen).backend, False)
    backend = catalog.find(kernel).backend
    if owner not in ("numpy", backend.library):
        takes = "a numpy array" if backend.library == "numpy" else f"a {backend.library} or numpy array"
        raise TypeError(f"conv2d: x must be {takes} for {kernel}, got {owner}")
    catalog.load(kernel)
    return _Call(plan(p, kernel), backend, owner != backend.library)


def _choose(
    p: Conv2d, owner: str | None, device: str, scenario: str, accuracy: str
) -> tuple[str, Plan]:
    """The first kernel of the written rule that can run here and do this problem."""
    reasons = []
    capability = BACKENDS[owner].capability() if owner in ("cupy", "numba_cuda") else None
    for name in auto.rule(p, owner, device, scenario, accuracy, capability):
        try:
            return name, plan(p, name)
        except (Unavailable, Unsupported) as reason:  # the next of the rule may still do it
            reasons.append(f"{name}: {reason}")
    raise Unsupported(f"conv2d: no kernel for {p} on {owner} arrays; " + "; ".join(reasons))
