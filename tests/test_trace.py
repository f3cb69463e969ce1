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
    assert found.left_out == {"transposed convolution": 1, "1-D convolution": 1}


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
    assert found.left_out == {"ConvTranspose": 1}
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
