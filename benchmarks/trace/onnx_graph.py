"""The convolutions of an ONNX graph, by a walk through its nodes; nothing but small integers is computed.

onnx infers the shapes, node by node: so a node whose shapes contradict each other is named, and one that onnx does
not know leaves the others as they are. A shape that the file tells is believed only where none can be inferred.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convzoo import Conv2d
from convzoo.problem import DTYPES

from . import Trace
from .torch_module import CONVOLVES

SMALL = 4096  # elements of a tensor that may be a shape, and is therefore computed
PLAIN = {("", "Conv"), ("com.microsoft", "FusedConv")}  # FusedConv is Conv, a sum and an activation
FUSED = ("activation", "activation_params")
PADDED = "; ONNX Runtime padded its channels: trace the model that it was made from"


def convolutions(path: Path, inputs: Sequence[tuple[int, ...]]) -> Trace:
    """Walk through the graph. ValueError where it is none, or contradicts itself or the inputs' shapes."""
    path.stat()  # a file that is missing is said to be, also where onnx is
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise ValueError(f"{path}: is no ONNX file") from None
    if model.functions:
        listed = {value.name for value in model.graph.input}
        for (
            tensor
        ) in model.graph.initializer:  # onnx converts between operators' versions only where it knows each type
            if tensor.name not in listed:
                kind = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                model.graph.input.append(kind)
        with contextlib.suppress(RuntimeError, ValueError):  # then its convolutions are left out, and named
            model = onnx.inliner.inline_local_functions(model, convert_version=True)
    walk = _Walk(path, model)
    walk.inputs(inputs)
    walk.graph(model.graph)
    return walk.found


class _Walk:
    """What is known of each value: its type with its shape, its data if they are few, or why not."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path, self.model, self.found = path, model, Trace(path.name)
        self.opsets = {_domain(o): o.version for o in model.opset_import}
        self.functions = {(_domain(f), f.name): f for f in model.functions}
        self.types: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.behind: dict[str, str] = {}  # the node after which a shape is not known any more
        self.unknown: list[str] = []  # inputs of the graph without a shape

    def inputs(self, given: Sequence[tuple[int, ...]]) -> None:
        """Give the inputs the shapes that were asked for, and forget what the file tells of the values behind."""
        graph = self.model.graph
        constant = {tensor.name for tensor in graph.initializer}
        mine = [v for v in graph.input if v.name not in constant and v.type.HasField("tensor_type")]
        if len(given) > len(mine):
            raise ValueError(f"{self.path}: has {len(mine)} inputs, got --input {len(given)} times")
        changed = False
        for value, wanted in zip(mine, given, strict=False):
            declared = value.type.tensor_type.shape
            if value.type.tensor_type.HasField("shape") and len(declared.dim) != len(wanted):
                raise ValueError(f"{self.path}: input {value.name} has {len(declared.dim)} dimensions, got {wanted}")
            changed |= _dims(value.type) != wanted
            del declared.dim[:]
            for size in wanted:
                declared.dim.add().dim_value = size
        for value in (*graph.value_info, *graph.output):
            if changed:
                value.type.tensor_type.ClearField("shape")
        for value in mine:
            self.types[value.name] = value.type
            if not _known(value.type):
                sizes = "x".join(d.dim_param or str(d.dim_value or "?") for d in value.type.tensor_type.shape.dim)
                self.unknown.append(f"{value.name} is {sizes or 'of any shape'}")

    def graph(self, graph: Any) -> None:
        """Every node in its turn. A graph inside of another may use the values outside."""
        import onnx

        folder = str(self.path.parent)
        for tensor in graph.initializer:
            self.types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if math.prod(tensor.dims) <= SMALL:
                if onnx.external_data_helper.uses_external_data(tensor) and _is_file(folder, tensor):
                    onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
                if not onnx.external_data_helper.uses_external_data(tensor):
                    self.data[tensor.name] = tensor
        for tensor in graph.sparse_initializer:
            self.types[tensor.values.name] = onnx.helper.make_tensor_type_proto(tensor.values.data_type, tensor.dims)
        told = {v.name: v.type for v in (*graph.value_info, *graph.output)}
        for number, node in enumerate(graph.node):
            for attribute in [a for a in node.attribute if a.name == "auto_pad" and not a.s]:
                node.attribute.remove(attribute)  # empty is NOTSET, and onnx takes it for something else
            self.node(node, node.name or next(filter(None, node.output), f"node{number}"), told)

    def node(self, node: Any, name: str, told: dict[str, Any]) -> None:
        sound = True  # shapes that do not fit are an error, but of a convolution that is left out already
        if CONVOLVES.search(node.op_type):
            before = self.found.counts.total()
            self.convolution(node, name)
            sound = self.found.counts.total() > before
        branch = self.branch(node)
        for inner in self.nested(node):
            if CONVOLVES.search(inner.op_type) and (branch is None or inner not in branch.node):
                self.found.leave_out(inner.name or name, f"{_label(inner)} inside of {node.op_type}")
        if branch is not None:
            self.graph(branch)
            same = dict(zip(node.output, (v.name for v in branch.output), strict=True))
            found = {y: self.types[inner] for y, inner in same.items() if inner in self.types}
            self.data |= {y: self.data[inner] for y, inner in same.items() if inner in self.data}
        else:
            found = self.infer(node, name, sound)
        first = next((self.behind[x] for x in node.input if x in self.behind), f"{node.op_type} {name}")
        for y in filter(None, node.output):
            if _known(found.get(y)) or y in told:
                self.types[y] = found[y] if _known(found.get(y)) else told[y]
            elif y in found:
                self.types[y] = found[y]
            if not _known(self.types.get(y)):
                self.behind[y] = first

    def branch(self, node: Any) -> Any:
        """The branch of an If that is taken, where the graph's shapes decide that."""
        import onnx

        if node.op_type != "If" or _domain(node) or node.input[0] not in self.data:
            return None
        taken = bool(onnx.numpy_helper.to_array(self.data[node.input[0]]).item())
        return next(a.g for a in node.attribute if a.name == ("then_branch" if taken else "else_branch"))

    def nested(self, node: Any, depth: int = 0) -> Iterator[Any]:
        """Nodes inside of a node, as those of Loop, Scan and functions: nobody knows how often they run."""
        function = self.functions.get((_domain(node), node.op_type)) if depth < 50 else None
        graphs = [graph for a in node.attribute for graph in (a.g, *a.graphs)]
        for graph in (*graphs, *filter(None, [function])):
            for inner in graph.node:
                yield inner
                yield from self.nested(inner, depth + 1)

    def infer(self, node: Any, name: str, sound: bool) -> dict[str, Any]:
        """Types of a node's outputs, as far as onnx can tell. ValueError where its inputs contradict each other."""
        import onnx

        if (_domain(node), node.op_type) in PLAIN and _domain(node):
            plain = onnx.helper.make_node("Conv", node.input[:3], node.output)
            plain.attribute.extend(a for a in node.attribute if a.name not in FUSED)
            node = plain
        values = [x for x in node.input if x]
        if any(x not in self.types for x in values):
            return {}
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        types = self.types if inner else {x: self.types[x] for x in values}
        opsets = self.model.opset_import
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(_domain(node), 1), _domain(node))
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, self.data, opset_imports=list(opsets), ir_version=self.model.ir_version
            )
        except onnx.defs.SchemaError:
            return {}
        except (onnx.shape_inference.InferenceError, RuntimeError) as error:
            if inner or not sound or not all(_known(self.types[x]) for x in values):
                return {}
            raise self.contradiction(node, name, str(error).rpartition("] ")[2].strip()) from None
        for y, kind in found.items():
            if node.op_type == "Reshape" and _known(kind) and _known(self.types[values[0]]):
                before, after = _dims(self.types[values[0]]), _dims(kind)
                if math.prod(before) != math.prod(after):
                    raise self.contradiction(node, name, f"cannot make {_x(after)} of {_x(before)}")
            if _known(kind) and math.prod(_dims(kind)) <= SMALL:
                self.compute(node, y, kind, opsets)
        return found

    def compute(self, node: Any, y: str, kind: Any, opsets: Any) -> None:
        """The output y of a node that works on shapes: the data of its inputs are known, or are not looked at."""
        import numpy as np
        import onnx.reference

        values = list(dict.fromkeys(filter(None, node.input)))
        shape_only = node.op_type in ("Shape", "Size") and _known(self.types[values[0]])
        if not shape_only and any(x not in self.data for x in values):
            return
        try:
            data = {
                x: np.broadcast_to(np.float32(0), _dims(self.types[x]))
                if shape_only
                else onnx.numpy_helper.to_array(self.data[x])
                for x in values
            }
            infos = [onnx.helper.make_value_info(x, self.types[x]) for x in values]
            made = onnx.helper.make_graph([node], "one", infos, [onnx.helper.make_value_info(y, kind)])
            one = onnx.helper.make_model(made, opset_imports=list(opsets))
            (result,) = onnx.reference.ReferenceEvaluator(one).run(None, data)  # type: ignore[misc]
            self.data[y] = onnx.numpy_helper.from_array(np.asarray(result), y)
        except Exception:  # whatever onnx cannot compute is not known: the shapes that follow from it are neither
            return

    def contradiction(self, node: Any, name: str, why: str) -> ValueError:
        return ValueError(f"{self.path}: {_label(node)} {name} contradicts the shapes before it: {why}")

    def convolution(self, node: Any, name: str) -> None:
        """List a node that convolves, or leave it out with its reason."""
        import onnx

        if (_domain(node), node.op_type) not in PLAIN:
            self.found.leave_out(name, _label(node) + PADDED * _domain(node).endswith(".nchwc"))
            return
        kinds = [self.types.get(value) for value in node.input]
        if not _known(kinds[0]) or not _known(kinds[1]):
            what = "input" if not _known(kinds[0]) else "filter"
            if self.unknown:
                raise ValueError(
                    f"{self.path}: the shape of the {what} of {name} is not known: give --input 1x3x224x224 for each "
                    f"input, in their order ({', '.join(self.unknown)})"
                )
            after = self.behind.get(node.input[what == "filter"], "a value that nothing makes")
            self.found.leave_out(name, f"{_label(node)} whose {what} has no known shape after {after}")
            return
        x, w = _dims(kinds[0]), _dims(kinds[1])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.types[node.input[0]].tensor_type.elem_type).name
        told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        groups, auto = told.get("group", 1), told.get("auto_pad", b"NOTSET").decode()
        if len(x) != len(w) or x[1] != w[1] * groups:
            raise self.contradiction(node, name, f"filters of {_x(w)} on an input of {_x(x)}, group={groups}")
        if tuple(told.get("kernel_shape", w[2:])) != w[2:]:
            raise self.contradiction(node, name, f"kernel_shape {_x(told['kernel_shape'])}, and filters of {_x(w)}")
        bias = kinds[2] if len(kinds) > 2 and node.input[2] else None
        if _known(bias) and _dims(bias) != w[:1]:
            raise self.contradiction(node, name, f"a bias of {_x(_dims(bias))} for {w[0]} output channels")
        if len(x) != 4 or dtype not in DTYPES:
            self.found.leave_out(name, f"{len(x) - 2}-D convolution" if len(x) != 4 else f"{dtype} convolution")
            return
        stride, dilation = (tuple(told.get(key) or (1, 1)) for key in ("strides", "dilations"))
        pads = tuple(told.get("pads") or (0, 0, 0, 0))
        if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER") or min(pads) < 0:
            self.found.leave_out(name, f"{_label(node)} with auto_pad {auto!r} and pads {pads}")
            return
        if not len(stride) == len(dilation) == len(pads) - 2 == 2:
            raise self.contradiction(
                node, name, f"strides {stride}, dilations {dilation} and pads {pads} of a 2-D image"
            )
        padding = (pads[0], pads[2], pads[1], pads[3])
        if auto != "NOTSET":
            padding = _same(x[2:], w[2:], stride, dilation, auto)
        (n, c, h, width), (k, _, r, s) = x, w
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "dtype": dtype}
        try:
            layer = Conv2d(n, c, h, width, k, r, s, bias=len(node.input) > 2 and bool(node.input[2]), **options)
        except ValueError as error:
            raise self.contradiction(node, name, str(error).removeprefix("conv2d: ")) from None
        self.found.add(name, layer)


def _domain(of: Any) -> str:
    """The domain of a node, of a function or of an imported set of operators; ai.onnx is the empty one."""
    return "" if of.domain == "ai.onnx" else of.domain


def _label(node: Any) -> str:
    return f"{node.op_type} of {node.domain}" if _domain(node) else node.op_type


def _is_file(folder: str, tensor: Any) -> bool:
    return (Path(folder) / next(e.value for e in tensor.external_data if e.key == "location")).is_file()


def _dims(kind: Any) -> Any:
    """The sizes of a type, None for one that is not known; None where not even their number is."""
    if kind is None or not kind.tensor_type.elem_type or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.tensor_type.shape.dim)


def _known(kind: Any) -> bool:
    dims = _dims(kind)
    return dims is not None and None not in dims


def _x(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


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
