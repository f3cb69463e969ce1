"""Problems from files: the text that people write and the JSON that ``trace`` writes read alike."""

from __future__ import annotations

import json

import pytest

from benchmarks.problems import networks_in, resolve
from convzoo import Conv2d
from convzoo.problem import read_problems

A, B = "n1c3h8w8k4r3s3-p1", "n1c4h8w8k8r1s1-nobias"
TEXT = f"""# two layers of a network
first {A} x2

{B}   # no name, no count
{A} 3
"""
JSON = {"problems": [{"problem": A, "count": 5, "name": "first"}, {"problem": B}]}


def saved(folder, content, name="net.txt"):
    path = folder / name
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("content", [TEXT, JSON, TEXT.replace("\n", "\r\n")])
def test_text_and_json_say_the_same(tmp_path, content):
    want = [("first", Conv2d.parse(A), 5), (B, Conv2d.parse(B), 1)]
    assert read_problems(saved(tmp_path, content)) == want


def test_a_file_is_named_where_a_set_is(tmp_path):
    path = saved(tmp_path, TEXT)
    layers = resolve([str(path), "seed"], batch=2)
    assert [(x.name, x.problem.N, x.count) for x in layers] == [("first", 2, 5), (B, 2, 1), ("seed", 2, 1)]
    with pytest.raises(ValueError, match=r"there is no file .*gone\.json"):
        resolve([str(tmp_path / "gone.json")])
    with pytest.raises(ValueError, match=r"did you mean resnet50\?"):
        resolve(["resnet5"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("conv1 n1c3h8w8k4r9s9", "line 1: .*kernel extent must not exceed"),
        (f"{A}\nfirst second {A} 1", "line 2: must be .name. problem .count., got 'first second"),
        (f"{A} 0", "line 1: count must be 1 or more, got 0"),
        ("nonsense", "line 1: problem must look like"),
        ("# nothing\n", "holds no problem"),
        (b"\xff\xfe", "UTF-8"),
        ("{", "not JSON"),
        ({"layers": []}, 'must hold a list "problems"'),
        ({"problems": []}, "holds no problem"),
        ({"problems": [{"count": 1}]}, "entry 1: must be like"),
        ({"problems": [{"problem": A}, {"problem": B, "count": 1.5}]}, "entry 2: count must be an int, got 1.5"),
        ({"problems": [{"problem": A, "count": True}]}, "entry 1: count must be an int, got True"),
        ({"problems": [{"problem": A, "count": -1}]}, "entry 1: count must be 1 or more, got -1"),
    ],
)
def test_a_file_that_is_none_says_where(tmp_path, content, sentence):
    path = saved(tmp_path, content)
    with pytest.raises(ValueError, match=sentence) as told:
        resolve([str(path)])
    assert str(told.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "convolutions", "billions"),
    [  # multiplications with the convolutions' weights alone, as the papers and common tables count them
        ("resnext", 53, 4.23),
        ("densenet", 120, 2.83),
        ("efficientnet", 81, 0.385),
        ("inception", 94, 5.71),
        ("deeplab", 53 + 7, None),
    ],
)
def test_networks_add_up_to_what_is_published(name, convolutions, billions):
    layers = resolve([name])
    assert sum(x.count for x in layers) == convolutions
    assert len({x.name for x in layers}) == len({x.problem for x in layers}) == len(layers)
    products = sum(x.count * x.problem.flops for x in layers) / 2e9
    assert billions is None or products == pytest.approx(billions, rel=0.01)
    assert [*networks_in(layers)] == [name]


def test_layers_that_the_papers_name():
    has = {
        name: {str(x.problem) for x in resolve([name])} for name in ("deeplab", "inception", "efficientnet", "resnext")
    }
    assert {f"n1c2048h33w33k256r3s3-p{d}-d{d}-nobias" for d in (6, 12, 18)} < has["deeplab"]
    assert "n1c512h33w33k512r3s3-p8-d8-nobias" in has["deeplab"] and "n1c256h33w33k21r1s1" in has["deeplab"]
    assert {"n1c160h17w17k160r1s7-p0_0_3_3-nobias", "n1c48h35w35k64r5s5-p2-nobias"} < has["inception"]
    assert "n1c288h35w35k384r3s3-st2-nobias" in has["inception"]
    assert {"n1c144h56w56k144r5s5-st2-p2-g144-nobias", "n1c1152h1w1k48r1s1"} < has["efficientnet"]
    assert "n1c1024h14w14k1024r3s3-st2-p1-g32-nobias" in has["resnext"]


def test_densenet_is_the_one_of_an_independent_file():
    assert {x.problem for x in resolve(["densenet"])} < {x.problem for x in resolve(["onnx_light"])}
