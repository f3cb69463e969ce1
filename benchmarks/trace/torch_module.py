"""The convolutions that a torch module asks torch for while it runs once on zeros.

Every operation passes torch's dispatcher, whoever asks for it: a module, a function, a script, an exported graph.
A mode of the dispatcher sees them all. It belongs to one thread, so each thread that the network starts gets its own.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from convzoo import Conv2d
from convzoo.problem import DTYPES

from . import Trace

# Names of operations that convolve, in whatever library: aten::conv2d, quantized::conv2d_relu, mkldnn::_convolution...
CONVOLVES = re.compile(r"conv(?!ert)", re.IGNORECASE)
PREPARES = re.compile(r"prepack|unpack|reorder|backward|_params", re.IGNORECASE)  # weights alone, or gradients


def convolutions(source: str, inputs: Sequence[tuple[int, ...]]) -> Trace:
    """Run the module that ``source`` names once on zeros; ValueError where it cannot be had or fails."""
    import torch
    from torch.jit._fuser import optimized_execution

    if not inputs:
        raise ValueError(f"{source}: a torch module must run to be traced: give --input 1x3x224x224")
    found = Trace(f"{source} {' '.join('x'.join(map(str, s)) for s in inputs)}")
    watch = _Watch(found)
    with watch.threads(), torch.compiler.set_stance("force_eager"), _output_to_stderr():
        module = _module(source)
        with _theirs(source, "cannot be evaluated"), contextlib.suppress(NotImplementedError):
            module.eval()  # an exported module knows one way only, and refuses
        for part in module.modules():
            if isinstance(part, torch.jit.ScriptModule):
                _dispatched(part)
        watch.names = {id(part): name.replace("_orig_mod.", "") for name, part in module.named_modules()}
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
        data = [torch.zeros(s, dtype=like.dtype, device=like.device) for s in inputs]
        fails = _theirs(found.source, "the module fails on this input")
        with fails, torch.no_grad(), optimized_execution(False), watch.modules(), watch.mode():
            module(*data)
            if watch.failed:
                raise watch.failed[0]
    return found


@contextlib.contextmanager
def _theirs(source: str, what: str) -> Iterator[None]:
    """Whatever the user's code raises within, SystemExit too, as one sentence that says where."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        own = (str(Path(__file__).parent), sys.prefix, sys.base_prefix, "<")
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        raise ValueError(f"{source}: {what}: {type(error).__name__}: {first}{where}") from error


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """What the user's code prints, by Python or below it, goes to standard error: --json is one document."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _module(source: str) -> Any:
    """What ``package.module:callable`` makes, or is. ValueError where there is none."""
    import torch

    name, _, attribute = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with _theirs(source, f"{name} cannot be imported"):
        made: Any = importlib.import_module(name)
    with _theirs(source, "is not there"):
        for part in attribute.split("."):
            made = getattr(made, part)
    kinds = (torch.nn.Module, torch.export.ExportedProgram)
    if not isinstance(made, kinds):
        if not callable(made):
            raise ValueError(f"{source}: is no callable and no torch module, but a {type(made).__name__}")
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise ValueError(f"{source}: must be callable without arguments ({error})") from None
        except ValueError:  # a callable without a signature: calling it tells
            pass
        with _theirs(source, "the call fails"):
            made = made()
    if not isinstance(made, kinds):
        raise ValueError(f"{source}: made a {type(made).__name__}, not a torch.nn.Module")
    return made.module() if isinstance(made, torch.export.ExportedProgram) else made


def _dispatched(script: Any) -> None:
    """Let a script that was optimised for inference ask the dispatcher for what it would else do by itself."""
    import torch

    if not hasattr(script, "graph"):  # of forward, which a container need not have
        return
    graph = script.graph.copy()
    for node in (nodes := graph.findAllNodes("prim::mkldnn_convolution")):
        x, w, bias, stride, padding, dilation, groups = node.inputs()
        seen = graph.create("aten::mkldnn_convolution", [x, w, bias, padding, stride, dilation, groups], 1)
        seen.insertBefore(node)
        node.replaceAllUsesWith(seen)
        node.destroy()
    if nodes:
        forward = torch._C._create_function_from_graph("forward", graph)
        script.forward = lambda *args, **named: forward(script, *args, **named)


class _Watch:
    """What sees the convolutions, in every thread, and in which of the network's modules each one is."""

    def __init__(self, found: Trace) -> None:
        self.found, self.failed = found, list[BaseException]()
        self.names: dict[int, str] = {}
        self.here = threading.local()

    def mode(self) -> Any:
        """A mode in which torch tells of every operation that it is about to do in this thread."""
        from torch.utils._python_dispatch import TorchDispatchMode

        watch = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                kwargs, name = kwargs or {}, func.name().partition("::")[2]
                if watch.names and CONVOLVES.search(name) and not PREPARES.search(name):
                    _call(watch.found, watch.stack()[-1], func, args, kwargs)
                return func(*args, **kwargs)

        return Mode()

    def stack(self) -> list[str]:
        if not hasattr(self.here, "stack"):
            self.here.stack = [""]
        return self.here.stack

    @contextlib.contextmanager
    def modules(self) -> Iterator[None]:
        """Keep, in each thread, the name of the module that is running."""
        from torch.nn.modules import module

        def enter(part: Any, _: Any) -> None:
            self.stack().append(self.names.get(id(part), self.stack()[-1]))

        def leave(*_: Any) -> None:
            self.stack().pop()

        hooks = (
            module.register_module_forward_pre_hook(enter),
            module.register_module_forward_hook(leave, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def threads(self) -> Any:
        """Watch threads that start within too; those that wait for work from the beginning as well."""
        start = threading.Thread.start

        def watched(thread: threading.Thread) -> None:
            run = thread.run

            def body() -> None:
                try:
                    with self.mode():
                        run()
                except Exception as error:
                    self.failed.append(error)

            thread.run = body  # type: ignore[method-assign]
            start(thread)

        return mock.patch.object(threading.Thread, "start", watched)


def _call(found: Trace, name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """One call of an operation that convolves. The names of its arguments are alike in all of torch's libraries."""
    import torch

    named = [a.name for a in func._schema.arguments]
    given = {a.name: a.default_value for a in func._schema.arguments} | dict(zip(named, args, strict=False)) | kwargs
    x, w = ([given[n] for n in named] + [None, None])[:2]
    tensors = isinstance(x, torch.Tensor) and isinstance(w, torch.Tensor)
    if not tensors or not {"stride", "padding", "dilation", "groups"} <= given.keys():
        found.leave_out(name, func.name())
        return
    sizes, images = tuple(w.shape), tuple(x.shape)
    if w.is_mkldnn and w.dim() == x.dim() + 1:  # groups apart
        sizes = (sizes[0] * sizes[1], *sizes[2:])
    if len(images) == len(sizes) - 1:  # one image, without its N
        images = (1, *images)
    dtype = str(x.dtype).removeprefix("torch.")
    if given.get("transposed") or "transpose" in func.name():
        found.leave_out(name, "transposed convolution")
    elif len(images) != 4:
        found.leave_out(name, f"{len(images) - 2}-D convolution")
    elif dtype not in DTYPES:
        found.leave_out(name, f"{dtype} convolution")
    else:
        (n, c, h, width), (k, _, r, s) = images, sizes
        stride, dilation = _two(given["stride"]), _two(given["dilation"])
        strided = x.layout is torch.strided and x.dim() == 4
        last = strided and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layer = {
            "stride": stride,
            "padding": _sides(given["padding"], (r, s), dilation),
            "dilation": dilation,
            "groups": given["groups"],
            "bias": next((given[b] is not None for b in ("bias", "bias_opt", "B") if b in given), False),
            "dtype": dtype,
            "layout": "nhwc" if last else "nchw",
        }
        try:
            found.add(name, Conv2d(n, c, h, width, k, r, s, **layer))
        except ValueError:  # torch refuses it too, in its own words, a moment later; or it is beyond our vocabulary
            found.leave_out(name, f"{func.name()} of {tuple(x.shape)} with filters of {tuple(w.shape)}")


def _sides(padding: Any, taps: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of torch's padding: numbers, ``same`` (more behind where it is odd) or ``valid``."""
    if padding == "same":
        high, wide = ((t - 1) * d for t, d in zip(taps, dilation, strict=True))
        return high // 2, high - high // 2, wide // 2, wide - wide // 2
    high, wide = (0, 0) if padding == "valid" else _two(padding)
    return high, high, wide, wide


def _two(values: Any) -> tuple[int, int]:
    """A pair, for one value stands for both directions."""
    return (int(values[0]), int(values[-1])) if isinstance(values, Sequence) else (int(values), int(values))
