"""The convolutions of a network, as a file of problems: from a torch module that runs, or from an ONNX graph.

Equal layers are one problem with a count, so that a report can weigh each by how often it runs. What is no
plain 2-D convolution (transposed, 1-D, 3-D, quantised) is counted and named, never dropped without a word.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convzoo import Conv2d

SCHEMA = "convzoo.problems/1"
DTYPES = ("float32", "float64", "float16", "bfloat16")
ONNX_OTHERS = ("ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "DeformConv")


@dataclass
class Trace:
    """The distinct layers in the order in which they first run, and what was left out, by reason."""

    source: str
    names: dict[Conv2d, str] = field(default_factory=dict)
    counts: Counter[Conv2d] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, problem: Conv2d) -> None:
        known = self.names.setdefault(problem, re.sub(r"\s+", "_", name) or "conv")
        self.names[problem] = known
        self.counts[problem] += 1

    def document(self) -> dict[str, Any]:
        """The file: what ``convzoo.problem.read_problems`` reads, with its source."""
        problems = [{"problem": str(p), "count": self.counts[p], "name": n} for p, n in self.names.items()]
        return {"schema": SCHEMA, "source": self.source, "problems": problems, "left_out": dict(self.left_out)}


def trace(source: str, inputs: Sequence[tuple[int, ...]]) -> Trace:
    """The convolutions of ``source``, a path of an ONNX file or ``package.module:callable``."""
    if source.endswith(".onnx") or Path(source).is_file():
        return from_onnx(Path(source), inputs)
    if ":" not in source:
        raise ValueError(f"{source}: must be an ONNX file, or package.module:callable that makes a torch module")
    return from_torch(source, inputs)


def shape(text: str) -> tuple[int, ...]:
    """1x3x224x224 as (1, 3, 224, 224)."""
    if not re.fullmatch(r"\d+([x,]\d+)*", text):
        raise ValueError(f"an input's shape must look like 1x3x224x224, got {text!r}")
    return tuple(map(int, re.split("[x,]", text)))


def from_torch(source: str, inputs: Sequence[tuple[int, ...]]) -> Trace:
    """Run the module once on zeros, and see every convolution that it asks torch for, by hook and by dispatch."""
    import torch

    if not inputs:
        raise ValueError(f"{source}: a torch module must run to be traced: give --input 1x3x224x224")
    module = _module(source)
    found = Trace(f"{source} {' '.join('x'.join(map(str, s)) for s in inputs)}")
    module.eval()
    where: list[str] = []
    hooks = []
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue  # takes no hooks: its layers are seen, but bear the name of what holds it
        hooks.append(part.register_forward_pre_hook(lambda m, a, name=name: where.append(name)))
        hooks.append(part.register_forward_hook(lambda m, a, y: where.pop() and None, always_call=True))
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    try:
        with torch.no_grad(), _watcher(found, where):
            module(*(torch.zeros(s, dtype=dtype) for s in inputs))
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{found.source}: the module fails on this input: {type(error).__name__}: {first}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _module(source: str) -> Any:
    """What ``package.module:callable`` makes, or is. ValueError where there is none."""
    import torch

    name, _, attribute = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made: Any = importlib.import_module(name)
        for part in attribute.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from None
    if not isinstance(made, torch.nn.Module):
        if not callable(made):
            raise ValueError(f"{source}: is no callable and no torch module, but a {type(made).__name__}")
        try:
            made = made()
        except TypeError as error:
            raise ValueError(f"{source}: must be callable without arguments ({error})") from None
    if not isinstance(made, torch.nn.Module):
        raise ValueError(f"{source}: made a {type(made).__name__}, not a torch.nn.Module")
    return getattr(made, "_orig_mod", made)  # of torch.compile, whose graphs would hide the calls


def _watcher(found: Trace, where: list[str]) -> Any:
    """A mode in which torch tells of every convolution that it is about to do."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watcher(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.convolution.default:
                _torch_call(found, where[-1] if where else "", args)
            elif re.search(r"::\w*conv(olution|\dd)", func.name()):
                found.left_out[func.name()] += 1
            return func(*args, **(kwargs or {}))

    return Watcher()


def _torch_call(found: Trace, name: str, args: Sequence[Any]) -> None:
    """One call of aten.convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    import torch

    x, w, bias, stride, padding, dilation, transposed, _, groups = args
    dtype = str(x.dtype).removeprefix("torch.")
    if transposed or x.dim() != 4 or dtype not in DTYPES:
        kind = "transposed" if transposed else f"{x.dim() - 2}-D" if x.dim() != 4 else dtype
        found.left_out[f"{kind} convolution"] += 1
        return
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    (n, c, h, width), (k, _, r, s) = x.shape, w.shape
    high, wide = _two(padding)
    found.add(
        name,
        Conv2d(
            n,
            c,
            h,
            width,
            k,
            r,
            s,
            stride=_two(stride),
            padding=(high, high, wide, wide),
            dilation=_two(dilation),
            groups=groups,
            bias=bias is not None,
            dtype=dtype,
            layout="nhwc" if last else "nchw",
        ),
    )


def _two(values: Sequence[int]) -> tuple[int, int]:
    """A pair, for one value stands for both directions."""
    return (int(values[0]), int(values[-1]))


def from_onnx(path: Path, inputs: Sequence[tuple[int, ...]]) -> Trace:
    """Read the graph, infer shapes, and collect its Conv nodes; nothing is run."""
    path.stat()  # a file that is missing is said to be, also where onnx is
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise ValueError(f"{path}: is no ONNX file") from None
    if model.functions:  # of the model's own, whose nodes run where they are called
        model = onnx.inliner.inline_local_functions(model)
    _set_inputs(path, model.graph, inputs)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    found = Trace(path.name)
    known = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {name: _dims(kind) for name, kind in known.items()}
    types = {name: kind.elem_type for name, kind in known.items()}
    for tensor in graph.initializer:
        shapes[tensor.name], types[tensor.name] = tuple(tensor.dims), tensor.data_type
    for number, node in enumerate(graph.node):
        if node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
            name = node.name or (node.output[0] if node.output else f"node{number}")
            _onnx_node(path, found, name, node, shapes, types)
        elif node.op_type in ONNX_OTHERS:
            found.left_out[node.op_type] += 1
        elif inside := sum(n.op_type == "Conv" for n in _nested(node)):
            found.left_out[f"Conv inside of {node.op_type}"] += inside
    return found


def _nested(node: Any) -> Iterator[Any]:
    """Nodes of the graphs inside of a node, as those of If and Loop: nobody knows how often they run."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from _nested(inner)


def _set_inputs(path: Path, graph: Any, inputs: Sequence[tuple[int, ...]]) -> None:
    """Give the graph's inputs the shapes that were asked for, and forget what was inferred for others."""
    if not inputs:
        return
    constant = {tensor.name for tensor in graph.initializer}
    mine = [value for value in graph.input if value.name not in constant]
    if len(inputs) > len(mine):
        raise ValueError(f"{path}: has {len(mine)} inputs, got --input {len(inputs)} times")
    for value, wanted in zip(mine, inputs, strict=False):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(wanted):
            raise ValueError(f"{path}: input {value.name} has {len(dims)} dimensions, got {wanted}")
        for dim, size in zip(dims, wanted, strict=True):
            dim.dim_value = size
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _dims(kind: Any) -> tuple[int, ...] | None:
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    return tuple(dims) if kind.HasField("shape") and all(d > 0 for d in dims) else None


def _onnx_node(path: Path, found: Trace, name: str, node: Any, shapes: dict[str, Any], types: dict[str, int]) -> None:
    import onnx

    x, w = (shapes.get(value) for value in node.input[:2])
    if x is None or w is None:
        what = "input" if x is None else "filter"
        raise ValueError(f"{path}: the shape of the {what} of {name} is not known: give --input 1x3x224x224")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(types[node.input[0]]).name
    if len(x) != 4 or dtype not in DTYPES:
        found.left_out[f"{len(x) - 2}-D convolution" if len(x) != 4 else f"{dtype} convolution"] += 1
        return
    told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    stride, dilation = (_two(told.get(key) or (1, 1)) for key in ("strides", "dilations"))
    auto = told.get("auto_pad", b"NOTSET").decode()
    padding = _same(x[2:], w[2:], stride, dilation, auto)
    if auto == "NOTSET":
        top, left, bottom, right = told.get("pads") or (0, 0, 0, 0)
        padding = (top, bottom, left, right)
    (n, c, h, width), (k, _, r, s) = x, w
    found.add(
        name,
        Conv2d(
            n,
            c,
            h,
            width,
            k,
            r,
            s,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=told.get("group", 1),
            bias=len(node.input) > 2 and bool(node.input[2]),
            dtype=dtype,
        ),
    )


def _same(
    size: Sequence[int], taps: Sequence[int], stride: Sequence[int], dilation: Sequence[int], auto: str
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of auto_pad: SAME gives ceil(size / stride) outputs, VALID pads nothing."""
    sides: list[int] = []
    for i in range(2):
        outputs = -(-size[i] // stride[i])
        whole = max(0, (outputs - 1) * stride[i] + dilation[i] * (taps[i] - 1) + 1 - size[i])
        whole = whole if auto.startswith("SAME") else 0
        less = whole // 2
        sides += [less, whole - less] if auto != "SAME_LOWER" else [whole - less, less]
    return sides[0], sides[1], sides[2], sides[3]


def default_path(source: str) -> Path:
    """resnet50.json for models/resnet50.onnx and for torchvision.models:resnet50."""
    name = Path(source).stem if ":" not in source else source.rpartition(":")[2]
    return Path(re.sub(r"[^\w.-]", "_", name) + ".json")


def write(found: Trace, path: Path) -> None:
    """Write the file. ValueError where something else lies in its place."""
    if path.exists():
        try:
            here = json.loads(path.read_text(encoding="utf-8")).get("schema")
        except (ValueError, AttributeError):
            here = None
        if here != SCHEMA:
            raise ValueError(f"{path}: is another file, no list of problems; name one with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found.document(), indent=1) + "\n", encoding="utf-8")


def left_out_words(found: Trace) -> str:
    told = ", ".join(f"{n} {what}" for what, n in found.left_out.items())
    return f"; left out: {told}" if told else ""


def show(found: Trace, path: Path | None) -> None:
    """The layers by what they cost, and what to do with the file."""
    from rich.table import Table

    from .terminal import console

    table = Table(box=None, pad_edge=False)
    for heading, side in (("layer", "left"), ("problem", "left"), ("calls", "right"), ("of the FLOP", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    total = sum(p.flops * n for p, n in found.counts.items())
    for p, n in sorted(found.counts.items(), key=lambda kv: -kv[0].flops * kv[1]):
        table.add_row(found.names[p], str(p), str(n), f"{p.flops * n / total:.1%}" if total else "-")
    out = console()
    out.print(table)
    calls = sum(found.counts.values())
    out.print(
        f"\n{found.source}: {len(found.counts)} different layers, {calls} convolutions, {total / 1e9:.4g} GFLOP"
        f"{left_out_words(found)}",
        style="bold",
        markup=False,
        soft_wrap=True,
    )
    if path:
        for line in (
            f"written: {path}",
            f"time it: python -m benchmarks compare --problems {path}",
            f"then:    python -m reports pick {path}",
        ):
            out.print(line, markup=False, soft_wrap=True)
