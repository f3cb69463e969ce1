"""Which kernel for my layers: the answer, its margin and its doubts, on records whose truth is known."""

from __future__ import annotations

import json

import pytest
from invented import KERNELS, PROBLEMS, rewritten, written

from reports import __main__ as command

SMALL, SEED, MIDDLE = PROBLEMS


@pytest.fixture
def asked(tmp_path, capsys):
    """pick on the records below tmp_path: exit code, the JSON document, the text."""

    def ask(*arguments):
        where = ["--records", str(tmp_path / "records")]
        code = command.main(["pick", *arguments, *where, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert command.main(["pick", *arguments, *where]) == code
        return code, document["machines"], capsys.readouterr().out

    return ask


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "records" / "box-a").mkdir(parents=True)
    return tmp_path / "records" / "box-a"


def test_one_problem(folder, asked):
    written(folder)
    code, (box,), text = asked(SEED)
    (layer,) = box["layers"]
    assert code == 0 and layer["kernel"] == "numba/direct" and layer["tied"] == []
    assert layer["low"] <= layer["seconds"] <= layer["high"] and layer["contestants"] == 3
    assert layer["next"]["kernel"] == "torch_cpu/builtin"
    assert layer["next"]["low"] <= 2.0 <= layer["next"]["high"] and layer["next"]["confidence"] > 0.95
    assert [w["kernel"] for w in layer["weaker"]] == ["numpy/fft"]  # quicker, and guarantees less
    assert box["network"] is None and box["rests_on"][0]["record"] == "20261123T075011Z-quick"
    assert 'kernel="numba/direct"); y = layer(x)' in text
    for words in (
        "On box-a, 2 threads, packed, at least elementwise",
        "faster than torch_cpu/builtin, the next",
        "numpy/fft (normwise). --accuracy lets them in",
        "2026-11-23 07:50 UTC",
    ):
        assert words in text


def test_a_weaker_guarantee_lets_others_win(folder, asked):
    written(folder)
    _, (box,), _ = asked(SEED, "--accuracy", "normwise")
    assert box["layers"][0]["kernel"] == "numpy/fft" and box["layers"][0]["weaker"] == []


def test_a_tie_is_called_one(folder, asked):
    kernels = KERNELS | {"numba/twin": (0.5, "direct", "elementwise")}
    written(folder, kernels=kernels, noise=0.1)
    _, (box,), text = asked(SEED)
    (layer,) = box["layers"]
    assert {layer["kernel"], *layer["tied"]} == {"numba/direct", "numba/twin"}
    assert layer["next"]["kernel"] == "torch_cpu/builtin" and "A tie: the rounds cannot tell it from" in text


def test_one_round_has_no_interval(folder, asked):
    written(folder, rounds=1)
    _, (box,), text = asked(network(folder, dict.fromkeys(PROBLEMS, 1)))
    rows = [*box["network"]["kernels"], box["network"]["mix"]]
    assert all(row["low"] is None for row in rows)
    assert "1 round has no interval; 95% takes six or more" in text


def test_an_interval_holds_its_value(folder, asked):
    """The sum of medians need not lie between the sums of the rounds."""
    written(folder, rounds=3, noise=0.3)
    _, (box,), _ = asked(network(folder, {SMALL: 40, SEED: 3, MIDDLE: 2}))
    for row in (*box["network"]["kernels"], box["network"]["mix"]):
        assert row["low"] <= row["seconds"] <= row["high"]


def test_a_problem_that_cannot_be_is_told_why(folder, capsys):
    written(folder)
    with pytest.raises(SystemExit) as stopped:
        command.main(["pick", "n1c3h2w2k4r5s5", "--records", str(folder.parent)])
    assert stopped.value.code == 3 and "no set" not in (said := capsys.readouterr().err)
    assert "5" in said and said.count("\n") == 1


def test_few_rounds_are_said_to_be_few(folder, asked):
    written(folder, rounds=2)
    _, (box,), text = asked(SEED)
    assert len(box["layers"][0]["tied"]) == 2 and box["layers"][0]["next"] is None
    assert "2 rounds give intervals of 50% confidence" in text


def network(folder, counts):
    path = folder.parent.parent / "net.json"
    entries = [{"problem": p, "count": n, "name": f"my{i}"} for i, (p, n) in enumerate(counts.items())]
    path.write_text(json.dumps({"problems": entries}))
    return str(path)


def test_a_network_is_weighed_by_how_often_layers_run(folder, asked):
    """torch wins the layer that runs a hundred times, numba the others: the counts decide."""
    slower = {("numba/direct", SMALL): 4.0}
    written(folder, slower=slower)
    often = network(folder, {SMALL: 20000, SEED: 1, MIDDLE: 1})
    code, (box,), text = asked(often)
    net = box["network"]
    assert code == 0 and (net["layers"], net["of"], net["calls"]) == (3, 3, 20002)
    assert [row["kernel"] for row in net["kernels"]] == ["torch_cpu/builtin", "numba/direct", "numpy/im2col"]
    first = net["kernels"][0]
    by_hand = sum(x["count"] * t for x, t in zip(box["layers"], _seconds_of(box, folder), strict=True))
    assert first["seconds"] == pytest.approx(by_hand) and first["low"] < first["seconds"] < first["high"]
    assert net["mix"]["seconds"] < first["seconds"] and net["kernels"][1]["slower"]["told_apart"] is True
    assert "One kernel for all 3 layers: torch_cpu/builtin" in text and "tie" not in text
    (weaker,) = net["weaker"]
    assert weaker["accuracy"] == "normwise" and weaker["seconds"] < net["mix"]["seconds"]
    assert "with --accuracy normwise" in text
    seldom = network(folder, {SMALL: 1, SEED: 1, MIDDLE: 1})
    assert asked(seldom)[1][0]["network"]["kernels"][0]["kernel"] == "numba/direct"


def _seconds_of(box, folder):
    """The times of torch_cpu/builtin, from the record itself."""
    lines = [json.loads(row) for row in (folder / "20261123T075011Z-quick.jsonl").read_text().splitlines()]
    cells = {(c["kernel"], c["problem"]): c for c in lines if c["kind"] == "cell"}
    return [cells["torch_cpu/builtin", x["problem"]]["seconds"] for x in box["layers"]]


def test_what_was_not_measured_is_said_with_the_command(folder, asked):
    faults = {("numpy/im2col", SEED): ("unsupported", "needs R = 3"), ("numpy/im2col", SMALL): ("crashed", "x")}
    written(folder, faults=faults, warnings=["the governor is powersave"])
    path = network(folder, {SMALL: 1, SEED: 2, "n1c64h28w28k64r3s3-p1-nobias": 1, "n1c9h9w9k9r1s1": 1})
    code, (box,), text = asked(path)
    assert code == 0 and box["network"]["layers"] == 2 and box["network"]["of"] == 4
    doubts = "\n".join(box["cannot_tell"])
    command = "python -m benchmarks compare --problems"
    assert f"2 of 4 layers have no time on box-a. To measure it there: {command}" in doubts
    assert "n1c64h28w28k64r3s3-p1-nobias is, but for bias or batch, n1c64h28w28k64r3s3-p1" in doubts
    assert "the governor is powersave" in doubts and "One kernel for 2 of 4 layers" in text
    code, (box,), text = asked("n1c9h9w9k9r1s1")
    assert code == 2 and "No answer: not measured on this machine." in text
    assert "This layer has no time on box-a." in text


def test_sets_are_those_that_records_hold(folder, asked, capsys):
    written(folder, networks={"mynet": [["one", SMALL, 3], ["two", SEED, 1]]})
    assert [x["count"] for x in asked("mynet")[1][0]["layers"]] == [3, 1]
    assert [x["problem"] for x in asked("mynet/two")[1][0]["layers"]] == [SEED]
    assert len(asked("quick")[1][0]["layers"]) == 3
    with pytest.raises(SystemExit) as stopped:
        command.main(["pick", "mynett", "--records", str(folder.parent)])
    said = capsys.readouterr().err
    assert stopped.value.code == 3 and "did you mean mynet?" in said and said.count("\n") == 1


def test_a_file_is_read_as_it_is_now(folder, asked, monkeypatch):
    """A record made from the file knows its layers, too, but those of that day."""
    written(folder, command=["python", "-m", "benchmarks", "compare", "--problems", "net.txt"])
    monkeypatch.chdir(folder)
    assert len(asked("net.txt")[1][0]["layers"]) == 3  # gone: what the record remembers
    (folder / "net.txt").write_text(f"only {SEED} 4\n")
    assert [(x["layer"], x["count"]) for x in asked("net.txt")[1][0]["layers"]] == [("only", 4)]


def test_layers_of_several_records_have_no_common_interval(folder, asked):
    written(folder, problems=PROBLEMS[:2])
    written(folder, problems=PROBLEMS[2:], name="later.jsonl", started="2026-11-24T07:50:11+00:00")
    _, (box,), text = asked(network(folder, dict.fromkeys(PROBLEMS, 1)))
    assert len(box["rests_on"]) == 2 and box["network"]["kernels"][0]["low"] is None
    assert box["network"]["kernels"][1]["slower"]["told_apart"] is None
    assert "their sum has no interval" in text and "not interleaved" in text


def test_machines_are_told_apart(folder, asked, capsys):
    written(folder)
    (folder.parent / "box-b").mkdir()
    slower = {("numba/direct", p): 4.0 for p in PROBLEMS}
    written(folder.parent / "box-b", machine="box-b", slower=slower, threads=8)
    path = network(folder, dict.fromkeys(PROBLEMS, 1))
    _, boxes, text = asked(path)
    assert {b["machine"]: b["network"]["kernels"][0]["kernel"] for b in boxes} == {
        "box-a": "numba/direct",
        "box-b": "torch_cpu/builtin",
    }
    table = text[: text.index("\n\n")]
    assert "Machines, the fastest first" in table and table.index("box-a") < table.index("box-b")
    assert [b["machine"] for b in asked(path, "--machine", "box-b")[1]] == ["box-b"]
    with pytest.raises(SystemExit) as stopped:
        command.main(["pick", SEED, "--machine", "box-c", "--records", str(folder.parent)])
    assert stopped.value.code == 3 and "there are box-" in capsys.readouterr().err


def test_layout_and_scenario(folder, asked):
    written(folder, problems=(SEED, f"{SEED}-nhwc"), slower={("numba/direct", f"{SEED}-nhwc"): 9.0})
    assert asked(SEED)[1][0]["layers"][0]["kernel"] == "numba/direct"
    assert asked(SEED, "--layout", "nhwc")[1][0]["layers"][0]["kernel"] == "torch_cpu/builtin"
    code, (box,), _ = asked(SEED, "--scenario", "eager")
    assert code == 2 and "--scenario eager" in box["cannot_tell"][0]


def test_a_network_of_a_batch_is_asked_for_by_its_name_and_batch(folder, asked):
    """Records of other batches and layouts do not change what a set's name means."""
    large = [p.replace("n1", "n16") + "-nhwc" for p in PROBLEMS[:2]]
    written(folder, problems=(*large, *PROBLEMS[:2]), networks={"mynet": [["one", large[0], 3], ["two", large[1], 1]]})
    assert [x["problem"] for x in asked("mynet")[1][0]["layers"]] == list(PROBLEMS[:2])
    code, (box,), _ = asked("mynet", "--batch", "16", "--layout", "nhwc")
    assert code == 0 and [x["problem"] for x in box["layers"]] == large and box["network"]["calls"] == 4
    code, (box,), _ = asked("mynet", "--batch", "2", "--layout", "nhwc")
    assert code == 2 and "--problems mynet --layout nhwc --batch 2" in box["cannot_tell"][0]


def test_a_wrong_kernel_never_wins(folder, asked):
    rewritten(written(folder, faults={("numba/direct", SEED): ("wrong", "3 outputs outside the bound")}), lambda x: x)
    assert asked(SEED)[1][0]["layers"][0]["kernel"] == "torch_cpu/builtin"


@pytest.mark.parametrize(
    ("content", "words"),
    [("{}", 'must hold a list "problems"'), ("conv1 n0", "line 1: problem must look like"), (None, "is no file")],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(folder, capsys, content, words):
    written(folder)
    path = folder.parent.parent / "net.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        command.main(["pick", str(path), "--records", str(folder.parent)])
    said = capsys.readouterr().err
    assert stopped.value.code == 3 and words in said and said.count("\n") == 1
