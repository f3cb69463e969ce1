"""The convolutions of somebody's network: all of them, with their shapes and how often each runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.problems import FILES, resolve
from benchmarks.trace import shape, trace
from convzoo import Conv2d

NET = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(c, k, 1, stride, bias=False) if (c, stride) != (k, 1) else nn.Identity()

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.down(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.body = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))

    def forward(self, x):
        return self.body(self.stem(x))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(4, 4, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=2)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.line = nn.Conv1d(4, 4, 3)
        self.w = nn.Parameter(torch.zeros(6, 4, 1, 1))

    def forward(self, x):
        x = self.twice(self.twice(x))
        self.line(self.up(x).flatten(2))
        return nn.functional.conv2d(x, self.w)


def last():
    return ResNet().to(memory_format=torch.channels_last)


broken = nn.Linear(3, 4)
number = 3
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A module of the user's, importable from where the command is called."""
    pytest.importorskip("torch", reason="needs torch: pip install 'convzoo[cpu]'")
    (tmp_path / "mynet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path


def counts(found):
    return {str(p): n for p, n in found.counts.items()}


def test_a_torch_network(net):
    found = trace("mynet:ResNet", [(2, 3, 32, 48)])
    assert counts(found) == {  # by hand: the stem halves, the third block halves again
        "n2c3h32w48k8r7s7-st2-p3-nobias": 1,
        "n2c8h16w24k8r3s3-p1-nobias": 4,
        "n2c8h16w24k16r3s3-st2-p1-nobias": 1,
        "n2c16h8w12k16r3s3-p1-nobias": 3,
        "n2c8h16w24k16r1s1-st2-nobias": 1,
    }
    names = {str(p): name for p, name in found.names.items()}
    assert names["n2c8h16w24k8r3s3-p1-nobias"] == "body.0.conv1" and not found.left_out
    assert names["n2c8h16w24k16r1s1-st2-nobias"] == "body.2.down"


def test_odd_calls_are_seen_and_others_are_named(net):
    found = trace("mynet:Odd", [(1, 4, 16, 8)])
    assert counts(found) == {
        "n1c4h16w8k4r3s1-st2x1-p1_1_0_0-d2x1-g2": 1,
        "n1c4h7w8k4r3s1-st2x1-p1_1_0_0-d2x1-g2": 1,
        "n1c4h3w8k6r1s1-nobias": 1,  # a call of functional.conv2d, of which no module knows
    }
    assert found.left_out == {"transposed convolution": ["up"], "1-D convolution": ["line"]}


def test_channels_last_is_the_other_layout(net):
    import torch

    x = torch.zeros(1, 8, 4, 4).to(memory_format=torch.channels_last)
    assert x.stride()[1] == 1
    found = counts(trace("mynet:last", [(1, 3, 32, 32)]))
    assert "n1c8h16w16k8r3s3-p1-nobias-nhwc" in found


def test_command_writes_a_file_that_is_named_where_a_set_is(net, capsys):
    assert command.main(["trace", "mynet:ResNet", "--input", "1x3x32x32"]) == 0
    said = capsys.readouterr().out
    assert "5 different layers, 10 convolutions" in said and "--problems ResNet.json" in said
    layers = resolve(["ResNet.json"])
    assert sum(x.count for x in layers) == 10 and layers[0].name == "stem"
    assert command.main(["trace", "mynet:ResNet", "--input", "1x3x32x32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"][1]["count"] == 4
    Path("ResNet.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        command.main(["trace", "mynet:ResNet", "--input", "1x3x32x32"])
    assert stopped.value.code == 3 and "is another file" in capsys.readouterr().err
    assert Path("ResNet.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mynet:ResNet"], "give --input"),
        (["mynet:ResNet", "--input", "3by4"], "must look like 1x3x224x224, got '3by4'"),
        (["mynet:ResNet", "--input", "1x4x32x32"], "fails on this input: RuntimeError"),
        (["mynet:Other", "--input", "1x3"], "has no attribute 'Other'"),
        (["nonet:x", "--input", "1x3"], "No module named 'nonet'"),
        (["mynet:number", "--input", "1x3"], "is no callable and no torch module, but a int"),
        (["mynet:Block", "--input", "1x3"], "callable without arguments"),
        (["mynet:Block", "--input", "0x3"], "must look like 1x3x224x224, got '0x3'"),
        (["mynet:broken", "--input", "1x3"], "has no 2-D convolution"),
        (["mynet", "--input", "1x3"], "package.module:callable"),
        (["gone.onnx"], "gone.onnx"),
    ],
)
def test_refusals_are_one_sentence(net, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        command.main(["trace", *arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 3 and words in said and said.count("\n") == 1


WAYS = """
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, 2, groups=4)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Inference(Two):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Thread(Two):
    def forward(self, x):
        found = []
        thread = threading.Thread(target=lambda: found.append(super(Thread, self).forward(x)))
        thread.start()
        thread.join()
        return found[0]


class Pool(Two):
    def __init__(self):
        super().__init__()
        self.pool = ThreadPoolExecutor(1)
        self.pool.submit(int).result()  # its thread is older than the pass through the network

    def forward(self, x):
        return self.pool.submit(super().forward, x).result()


class Functions(Two):
    def forward(self, x):
        y = nn.functional.conv2d(x, self.a.weight, self.a.bias, padding=1)
        return torch.convolution(y, self.b.weight, self.b.bias, [2, 2], [0, 0], [1, 1], False, [0, 0], 4)


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.compile(Two())

    def forward(self, x):
        return self.inner(x)


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyConv2d(8, 3, padding=1), nn.ReLU(), nn.LazyConv2d(8, 3, 2, groups=4))


image = torch.zeros(1, 3, 8, 8)


def scripted():
    return torch.jit.script(Two())


def traced():
    return torch.jit.trace(Two(), image)


def frozen():
    return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(Two()).eval()))


def warm():
    network = frozen()
    for _ in range(3):
        network(image)
    return network


def exported():
    return torch.export.export(Two().eval(), (image,))


def graph_module():
    return exported().module()


def compiled():
    return torch.compile(Two())


class Prints(Two):
    def forward(self, x):
        print("by Python")
        os.system("echo by a shell")
        return super().forward(x)


class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2))

    @torch.inference_mode()
    def forward(self, x):
        return self.a(x[0])


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 1)
        self.odd = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = torch.quantize_per_tensor(self.plain(x), 0.1, 0, torch.quint8)
        w = torch.quantize_per_tensor(self.odd.weight, 0.1, 0, torch.qint8)
        packed = torch.ops.quantized.conv2d_prepack(w, None, [1, 1], [0, 0], [1, 1], 1)
        return torch.ops.quantized.conv2d(y, packed, 0.1, 0)


def raises():
    raise RuntimeError("no weights here\\nand more lines")


def quits():
    sys.exit(0)


class Quits(Two):
    def forward(self, x):
        sys.exit(0)


class BadThread(Thread):
    def forward(self, x):
        thread = threading.Thread(target=self.b, args=(x,))
        thread.start()
        thread.join()


class BadEval(Two):
    def eval(self):
        raise KeyError("mode")
"""


MODULES = ("Two", "Inference", "Thread", "Pool", "Functions", "Inside", "Lazy", "compiled")
SCRIPTS = ("scripted", "traced", "frozen", "warm", "exported", "graph_module")


@pytest.fixture
def ways(net, monkeypatch):
    """The same two convolutions, asked for in many ways."""
    (net / "ways.py").write_text(WAYS)
    monkeypatch.delitem(sys.modules, "ways", raising=False)


@pytest.mark.filterwarnings("ignore")  # torch.jit is old, and says so
@pytest.mark.parametrize("name", [*MODULES, *SCRIPTS])
def test_every_way_to_ask_torch_for_a_convolution_is_seen(ways, name):
    found = trace(f"ways:{name}", [(1, 3, 8, 8)])
    assert counts(found) == {"n1c3h8w8k8r3s3-p1": 1, "n1c8h8w8k8r3s3-st2-g4": 1} and not found.left_out
    if name in ("Two", "Inference", "Thread", "Pool", "compiled"):
        assert list(found.names.values()) == ["a", "b"]
    if name == "Inside":
        assert list(found.names.values()) == ["inner.a", "inner.b"]


@pytest.mark.filterwarnings("ignore")  # torch warns of the copy
def test_torch_pads_the_same_way_and_takes_one_image(ways):
    assert counts(trace("ways:Same", [(1, 3, 8, 8)])) == {"n1c3h8w8k4r4s3-p1_2_2_2-d1x2": 1}


@pytest.mark.filterwarnings("ignore")  # of its end
def test_a_quantized_convolution_does_not_lose_the_plain_one(ways):
    found = trace("ways:Quantized", [(1, 3, 8, 8)])
    assert counts(found) == {"n1c3h8w8k4r1s1": 1}
    (reason,) = found.left_out
    assert reason.startswith("quantized::conv2d") and len(found.left_out[reason]) == 1


def test_what_a_network_prints_is_not_in_the_document(ways, capfd):
    assert command.main(["trace", "ways:Prints", "--input", "1x3x8x8", "--json"]) == 0
    said = capfd.readouterr()
    assert len(json.loads(said.out)["problems"]) == 2
    assert "by Python" in said.err and "by a shell" in said.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "the call fails: RuntimeError: no weights here (ways.py, line "),
        ("quits", "the call fails: SystemExit: 0 (ways.py, line "),
        ("Quits", "fails on this input: SystemExit: 0 (ways.py, line "),
        ("BadThread", "fails on this input: RuntimeError: Given groups=4"),
        ("BadEval", "cannot be evaluated: KeyError: 'mode' (ways.py, line "),
    ],
)
def test_what_the_users_code_raises_is_passed_on(ways, capfd, name, words):
    with pytest.raises(SystemExit) as stopped:
        command.main(["trace", f"ways:{name}", "--input", "1x3x8x8"])
    said = capfd.readouterr().err
    assert stopped.value.code == 3 and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1 +\n", "cannot be imported: SyntaxError"),
        ("raise OSError('no GPU')\n", "OSError: no GPU (bad.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported(net, monkeypatch, text, words):
    (net / "bad.py").write_text(text)
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    with pytest.raises(ValueError, match="bad:x: bad cannot be imported") as raised:
        trace("bad:x", [(1, 3, 8, 8)])
    assert words in str(raised.value)


def graph(folder: Path, nodes, sizes, weights, size=("N", 4, 17, 18)) -> Path:
    """An ONNX file of Conv nodes on one input; ``weights`` gives shapes by name."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")
    floats = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        nodes(onnx.helper.make_node),
        "net",
        [onnx.helper.make_tensor_value_info("x", floats, size)],
        [onnx.helper.make_tensor_value_info(name, floats, None) for name in sizes],
        [onnx.helper.make_tensor(n, floats, s, [0.0] * _product(s)) for n, s in weights.items()],
    )
    path = folder / "net.onnx"
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)]), str(path))
    return path


def _product(sizes):
    total = 1
    for n in sizes:
        total *= n
    return total


def several(node):
    return [
        node("Conv", ["x", "w", "b"], ["a"], "first", pads=[1, 2, 3, 0], strides=[2, 1], dilations=[1, 2]),
        node("Conv", ["x", "w"], ["b2"], "upper", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Conv", ["x", "w"], ["c"], "lower", auto_pad="SAME_LOWER", strides=[2, 2]),
        node("Conv", ["x", "w"], ["d"], "valid", auto_pad="VALID"),
        node("Conv", ["x", "w"], ["d2"], "again", auto_pad="VALID"),
        node("Conv", ["x", "g", ""], ["e"], "groups", group=2),
        node("Relu", ["x"], ["r"]),
        node("ConvTranspose", ["x", "t"], ["u"], "up"),
    ]


WEIGHTS = {"w": (5, 4, 3, 4), "b": (5,), "g": (6, 2, 1, 1), "t": (4, 2, 2, 2)}
OUTPUTS = ("a", "b2", "c", "d", "e")


def test_an_onnx_file(tmp_path):
    path = graph(tmp_path, several, OUTPUTS, WEIGHTS)
    with pytest.raises(ValueError, match="the shape of the input of first is not known: give --input"):
        trace(str(path), [])
    found = trace(str(path), [(2, 4, 17, 18)])
    assert counts(found) == {
        "n2c4h17w18k5r3s4-st2x1-p1_3_2_0-d1x2": 1,
        "n2c4h17w18k5r3s4-st2-p1-nobias": 2,  # 17 -> 9 needs 2 rows, 18 -> 9 needs 2 columns: upper = lower
        "n2c4h17w18k5r3s4-nobias": 2,
        "n2c4h17w18k6r1s1-g2-nobias": 1,
    }
    assert found.left_out == {"ConvTranspose": ["up"]}
    with pytest.raises(ValueError, match="has 4 dimensions"):
        trace(str(path), [(2, 4)])


@pytest.mark.parametrize("size", [(1, 4, 17, 18), (1, 4, 16, 19), (1, 4, 20, 21)])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_gives_the_sizes_that_onnx_infers(tmp_path, size, auto):
    def one(node):
        return [node("Conv", ["x", "w"], ["y"], "c", auto_pad=auto, strides=[3, 2], dilations=[2, 1])]

    path = graph(tmp_path, one, ["y"], WEIGHTS, size)
    (problem,) = trace(str(path), []).counts
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    dims = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert dims[2:] == [problem.P, problem.Q]
    top, bottom, left, right = problem.padding
    more = {"SAME_UPPER": (0, 1), "SAME_LOWER": (-1, 0), "VALID": (0, 0)}[auto]
    assert bottom - top in more and right - left in more


def test_convolutions_inside_of_local_functions_are_seen(tmp_path):
    """Exporters make a function of each kind of module; its nodes run as often as it is called."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")

    def nodes(node):
        return [node("Block", ["x", "w"], ["a"], domain="mine"), node("Block", ["a", "w"], ["b"], domain="mine")]

    path = graph(tmp_path, nodes, ("b",), {"w": (4, 4, 3, 3)}, size=(1, 4, 17, 18))
    model = onnx.load(str(path))
    inner = [
        onnx.helper.make_node("Conv", ["v", "f"], ["t"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["t"], ["u"]),
    ]
    opset = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("mine", "Block", ["v", "f"], ["u"], inner, opset))
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    onnx.save(model, str(path))
    assert counts(trace(str(path), [])) == {"n1c4h17w18k4r3s3-p1-nobias": 2}


W = {"w": (4, 4, 3, 3)}
PAD = {"pads": [1, 1, 1, 1]}
PLAIN = "n1c4h16w16k4r3s3-p1-nobias"


def model(folder: Path, nodes, more=(), size=(1, 4, 16, 16), info=(), functions=(), domains=(), weights=W) -> str:
    """An ONNX file of any nodes; ``more`` gives values of small integers by name, ``info`` shapes that it tells."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    made = helper.make_graph(
        nodes(helper.make_node),
        "net",
        [helper.make_tensor_value_info("x", floats, size)],
        [helper.make_tensor_value_info("y", floats, None)],
        [helper.make_tensor(n, floats, s, [0.0] * _product(s)) for n, s in weights.items()]
        + [helper.make_tensor(n, onnx.TensorProto.INT64, [len(v)], v) for n, v in more],
        value_info=[helper.make_tensor_value_info(n, floats, s) for n, s in info],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, 1) for name in domains)]
    path = folder / "net.onnx"
    onnx.save(helper.make_model(made, opset_imports=opsets, functions=list(functions), ir_version=8), str(path))
    return str(path)


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_models_that_onnx_runtime_optimised(tmp_path, level):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'convzoo[peers]'")

    def nodes(n):
        two = [n("Conv", ["x", "w"], ["a"], "first", **PAD), n("Relu", ["a"], ["b"])]
        return [*two, n("Conv", ["b", "w"], ["c"], "second", **PAD), n("Relu", ["c"], ["y"])]

    path = model(tmp_path, nodes, size=(1, 4, "H", 16), weights={"w": (4, 4, 3, 3)})
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "made.onnx"), 3
    runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = trace(str(tmp_path / "made.onnx"), [(1, 4, 16, 16)])
    left_out = sum(len(names) for names in found.left_out.values())
    assert sum(found.counts.values()) + left_out == 2
    if level != "ALL":  # whose channels the processor decides
        assert counts(found) == {PLAIN: 2}


def test_fused_convolutions_are_listed_and_other_kinds_named(tmp_path):
    def nodes(n):
        return [
            n("FusedConv", ["x", "w"], ["a"], "fused", domain="com.microsoft", activation="Relu", **PAD),
            n("Conv", ["a", "w"], ["b"], "plain", **PAD),
            n("Conv", ["b", "w"], ["c"], "padded", domain="com.microsoft.nchwc", **PAD),
            n("NhwcFusedConv", ["c", "w"], ["d"], "other", domain="com.microsoft", **PAD),
            n("Conv", ["d", "w"], ["e"], "behind", **PAD),
            n("MyDeformConv2d", ["x", "w"], ["f"], domain="mine"),
            n("ConvertLayout", ["x"], ["g"], domain="mine"),
        ]

    domains = ("com.microsoft", "com.microsoft.nchwc", "mine")
    found = trace(model(tmp_path, nodes, domains=domains), [])
    assert counts(found) == {PLAIN: 2}
    names = {name: reason for reason, names in found.left_out.items() for name in names}
    assert names.keys() == {"padded", "other", "behind", "f"}
    assert names["behind"] == "Conv whose input has no known shape after Conv padded"
    assert "trace the model that it was made from" in names["padded"] and names["f"] == "MyDeformConv2d of mine"
    # a shape that the file tells serves where none can be inferred, unless --input changed what it follows from
    told = model(tmp_path, nodes, domains=domains, info=[("d", (1, 4, 16, 16))])
    assert counts(trace(told, [])) == counts(trace(told, [(1, 4, 16, 16)])) == {PLAIN: 3}
    assert sum(trace(told, [(2, 4, 16, 16)]).counts.values()) == 2


def test_convolutions_inside_of_other_nodes_are_named(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT

    def inside(*nodes):
        out = nodes[-1].output[0]
        return helper.make_graph(list(nodes), "inside", [], [helper.make_tensor_value_info(out, floats, None)])

    def nodes(n):
        up = inside(n("ConvTranspose", ["a", "w"], ["j"], "up", **PAD))
        deep = n("If", ["c"], ["k"], then_branch=up, else_branch=inside(n("ConvInteger", ["a", "w"], ["i"], "whole")))
        plain = inside(n("Conv", ["a", "w"], ["p"], "taken", **PAD))
        return [
            n("Conv", ["x", "w"], ["a"], "first", **PAD),
            n("Cast", ["x"], ["d"], to=onnx.TensorProto.BOOL),
            n("ReduceMax", ["x"], ["m"]),
            n("Cast", ["m"], ["c"], to=onnx.TensorProto.BOOL),
            n("If", ["c"], ["u"], "either", then_branch=inside(deep), else_branch=inside(n("Identity", ["a"], ["q"]))),
            n("Shape", ["x"], ["s"], start=0, end=1),
            n("Cast", ["s"], ["t"], to=onnx.TensorProto.BOOL),
            n("If", ["t"], ["y"], then_branch=plain, else_branch=inside(n("Conv", ["a", "w"], ["o"], "never"))),
            n("Conv", ["y", "w"], ["z"], "last", **PAD),
        ]

    found = trace(model(tmp_path, nodes), [])
    assert counts(found) == {PLAIN: 3}  # the second If asks for the number of images, and that is known
    inner = {"ConvTranspose inside of If": ["up"], "ConvInteger inside of If": ["whole"]}
    assert found.left_out == inner | {"Conv inside of If": ["never"]}


def test_a_function_of_another_opset_is_seen(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")
    helper = onnx.helper
    body = [helper.make_node("Conv", ["v", "f"], ["u"], "inner", **PAD)]
    block = helper.make_function("mine", "Block", ["v", "f"], ["u"], body, [helper.make_opsetid("", 16)])

    def nodes(n):
        return [n("Conv", ["x", "w"], ["a"], "first", **PAD), n("Block", ["a", "w"], ["y"], "second", domain="mine")]

    found = trace(model(tmp_path, nodes, functions=[block], domains=["mine"]), [])
    assert counts(found) == {PLAIN: 2} and not found.left_out


@pytest.mark.parametrize(
    ("attributes", "more", "given", "words"),
    [
        (
            {},
            {},
            (1, 3, 16, 16),
            "Conv odd contradicts the shapes before it: filters of 4x4x3x3 on an input of 1x3x16x16",
        ),
        ({"kernel_shape": [5, 5]}, {}, (1, 4, 16, 16), "odd contradicts.*"),
        ({"group": 2}, {}, (1, 4, 16, 16), "odd contradicts.*group=2"),
        ({}, {"b": (5,)}, (1, 4, 16, 16), "odd contradicts.*a bias of 5 for 4 output channels"),
        ({}, {}, (1, 4, 2, 2), "odd contradicts"),
        ({"strides": [1]}, {}, (1, 4, 16, 16), "odd contradicts"),
    ],
)
def test_contradictions_are_errors_with_the_nodes_name(tmp_path, attributes, more, given, words):
    def nodes(n):
        return [n("Conv", ["x", "w", *more], ["y"], "odd", **attributes)]

    path = model(tmp_path, nodes, size=("N", "C", "H", "W"), weights=W | more)
    with pytest.raises(ValueError, match=words):
        trace(path, [given])


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (("Reshape", ["x", "s"], {}), "Reshape odd .* cannot make 1x4x16x16 of 8x4x16x16"),
        (("Add", ["x", "v"], {}), "Add odd contradicts"),
        (("Concat", ["x", "w"], {"axis": 1}), "Concat odd contradicts"),
    ],
)
def test_what_the_graph_fixed_is_an_error_for_other_inputs(tmp_path, odd, words):
    kind, values, attributes = odd

    def nodes(n):
        return [n(kind, values, ["r"], "odd", **attributes), n("Conv", ["r", "w"], ["y"], "after", **PAD)]

    path = model(tmp_path, nodes, [("s", [1, 4, 16, 16])], ("N", 4, 16, 16), weights=W | {"v": (2, 4, 16, 16)})
    with pytest.raises(ValueError, match=words):
        trace(path, [(8, 4, 16, 16)])


def test_shapes_that_the_file_tells_wrongly_are_not_believed(tmp_path):
    def nodes(n):
        first = n("Conv", ["x", "w"], ["a"], "first", auto_pad="", **PAD)  # empty is NOTSET
        return [first, n("Conv", ["a", "w"], ["y"], "second", **PAD)]

    assert counts(trace(model(tmp_path, nodes, info=[("a", (1, 4, 99, 99))]), [])) == {PLAIN: 2}


def test_odd_pads_are_left_out_and_computed_ones_are_computed(tmp_path):
    """Exporters compute the pads of a reflection by a dozen nodes."""

    def nodes(n):
        return [
            n("Conv", ["x", "w"], ["n"], "negative", pads=[-1, 0, 0, 0]),
            n("Reshape", ["flat", "two"], ["pairs"]),
            n("Slice", ["pairs", "end", "start", "zero", "back"], ["turned"]),
            n("Transpose", ["turned"], ["columns"], perm=[1, 0]),
            n("Reshape", ["columns", "all"], ["pads"]),
            n("Pad", ["x", "pads"], ["padded"], mode="reflect"),
            n("Conv", ["padded", "w"], ["y"], "reflected"),
        ]

    integers = {"flat": [1, 2, 3, 4, 0, 0, 0, 0], "two": [-1, 2], "end": [-1], "start": [-(2**62)]}
    found = trace(model(tmp_path, nodes, [*(integers | {"zero": [0], "back": [-1], "all": [-1]}).items()]), [])
    assert counts(found) == {"n1c4h23w19k4r3s3-nobias": 1}  # rows 3 + 4, columns 1 + 2
    (names,) = found.left_out.values()
    assert names == ["negative"]


def test_the_cure_that_is_named_works(tmp_path, capsys):
    def nodes(n):
        return [n("Conv", ["x", "w"], ["y"], "only", **PAD), n("ConvTranspose", ["x", "w"], ["z"], "up")]

    path = model(tmp_path, nodes, size=("N", 4, None, None))
    with pytest.raises(SystemExit) as stopped:
        command.main(["trace", path])
    said = capsys.readouterr().err
    assert stopped.value.code == 3 and "give --input 1x3x224x224" in said and "(x is Nx4x?x?)" in said
    assert command.main(["trace", path, "--input", "1x4x16x16", "--out", str(tmp_path / "net.json")]) == 0
    assert "left out: 1 ConvTranspose (up)" in capsys.readouterr().out
    assert json.loads((tmp_path / "net.json").read_text())["left_out_names"] == {"ConvTranspose": ["up"]}


def test_what_is_no_onnx_file_is_said(tmp_path):
    pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")
    (tmp_path / "net.onnx").write_bytes(b"\xff\xffnothing")
    with pytest.raises(ValueError, match="is no ONNX file"):
        trace(str(tmp_path / "net.onnx"), [])


def test_the_light_networks_are_what_the_committed_set_says():
    """The set was extracted from these files by other code: shapes and counts must agree."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'convzoo[onnx]'")
    files = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
    if not files:
        pytest.skip("this onnx comes without its light networks")
    found: Counter[str] = Counter()
    each = {}
    for path in files:
        here = trace(str(path), [])
        each[path.stem] = sum(here.counts.values())
        for problem, n in here.counts.items():
            found[_unbiased(problem)] += n
    assert each["light_resnet50"] == 53 and each["light_densenet121"] == 121 and each["light_vgg19"] == 16
    want = {_unbiased(x.problem): x.count for x in resolve(["onnx_light"])}
    assert len(want) == 216 and found == want
    assert "onnx/backend/test/data/light" in json.loads(FILES["onnx_light"].read_text())["source"]


def _unbiased(problem: Conv2d) -> str:
    return str(problem).replace("-nobias", "")


def test_shapes():
    assert shape("1x3x4x5") == shape("1,3,4,5") == (1, 3, 4, 5)
    with pytest.raises(ValueError, match="got '1x'"):
        shape("1x")
