"""One sweep over many hosts: every cell once, where it can run; nothing finished is lost, whoever dies."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import hardware, machine_file, record
from benchmarks.compare import PRESETS
from benchmarks.fleet import coordinator, hosts, on_host, plan
from benchmarks.fleet.share import Share

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

KERNELS = ("numpy/shifted", "numpy/windows", "numba/direct", "python/naive")
PROBLEMS = ("n1c4h12w12k4r3s3-p1", "n1c3h11w13k5r3s2-st2x1-p1_0_2_1")
BACKENDS = {
    name: {"usable": True, "why_not": None, "about": {name: "1.0"}} for name in ("numpy", "numba", "python")
} | {"cupy": {"usable": False, "why_not": "needs a GPU"}}
ABOUT = {
    "machine": "box-a",
    "suite": record.SUITE,
    "commit": "c" * 40,
    "dirty": False,
    "root": "/r",
    "node": "n",
    "hardware": {"python": "3.12"},
    "backends": BACKENDS,
}
ASKED = {
    "machine": "box-a",
    "kernels": list(KERNELS),
    "problems": [[p, p, 1] for p in PROBLEMS],
    "networks": {},
    "scenarios": ["packed"],
    "preset": "quick",
    "seed": 0,
    "threads": 2,
    "suite": record.SUITE,
    "sampling": {"effort": {}, "rounds": [2, 2], "seconds": 75.0},
    "commit": "c" * 40,
    "dirty": False,
}


def host(**declared):
    return hosts.Host("tcp://127.0.0.1:1", "127.0.0.1", {"slot": 1, **declared}, about=ABOUT)


def test_a_host_runs_what_it_has_and_declares():
    assert [host().why_not(k) for k in KERNELS] == [None] * 4
    assert host().why_not("cupy/fft") == "needs a GPU"
    only = host(numpy=1)
    assert only.why_not("numpy/fft") is None and "declares" in (only.why_not("numba/direct") or "")
    assert host(cpu=1).why_not("numba/direct") is None
    assert host(cuda=1).why_not("cupy/fft") == "needs a GPU" and host(cuda=1).why_not("numpy/fft")
    assert host(gigabytes=7).why_not("numpy/fft") is None  # a resource that says nothing about backends
    assert "knows no backend" in (host().why_not("abacus/beads") or "")


@pytest.mark.parametrize(
    ("other", "ours", "words"),
    [
        ({}, {}, ""),
        ({"suite": 1}, {}, "has suite 1"),
        ({"commit": "d" * 40}, {}, "is at commit dddddddddd"),
        ({"dirty": True, "node": "m"}, {}, "uncommitted changes in its checkout"),
        ({"node": "m"}, {"dirty": True}, "the coordinator's checkout has uncommitted changes"),
        ({"dirty": True}, {"dirty": True}, ""),  # the very same folder
        ({"why": "doctor fails there"}, {}, "doctor fails"),
    ],
)
def test_only_what_the_record_will_say_may_be_measured(other, ours, words):
    said = hosts.objection(ABOUT | other, ABOUT | ours)
    assert words in said and bool(said) == bool(words)


def test_hosts_of_one_class_have_the_same_versions():
    newer = ABOUT | {"backends": BACKENDS | {"numpy": BACKENDS["numpy"] | {"about": {"numpy": "2.0"}}}}
    assert not hosts.misfit(ABOUT, ABOUT) and "has numpy" in hosts.misfit(newer, ABOUT)
    assert "has Python 3.13" in hosts.misfit(ABOUT | {"hardware": {"python": "3.13"}}, ABOUT)


def round_line(kernel, problem, i):
    return json.dumps(
        {
            "kind": "round",
            "round": i,
            "kernel": kernel,
            "problem": problem,
            "scenario": "packed",
            "status": "ok",
            "seconds": 1e-3 + 1e-5 * i,
            "error": {"score": 1.0},
            "accuracy": "elementwise",
            "algorithm": "direct",
            "workspace": 0,
            "plan_seconds": 0.1,
            "pack_seconds": 0.1,
            "wall_seconds": 2.0,
        }
    )


def begin_lines(piece):
    known = {k: v for k, v in ASKED.items() if k not in ("kernels", "problems")}
    return [json.dumps({"kind": "run", "schema": record.SCHEMA, "hardware": {"cpu": "x"}, **known})]


def take(share, able=lambda kernel: True, boxes=1):
    """A slice for a host that can run these kernels, all of which take a second."""
    return share.take(0, lambda k: None if able(k) else "cannot", lambda k, q: 1.0, boxes)


def test_slices_are_whole_problems_and_each_cell_is_given_once(tmp_path):
    share = Share(ASKED, tmp_path)
    first = take(share, lambda k: k.startswith("numpy"))
    assert first.kernels == ["numpy/shifted", "numpy/windows"] and len(first.layers) == 1
    assert not first.lines
    pieces = [first]
    while piece := take(share):
        pieces.append(piece)
    given = Counter((k, str(x.problem)) for piece in pieces for x in piece.layers for k in piece.kernels)
    assert given == Counter({(k, p): 1 for k in KERNELS for p in PROBLEMS})


@pytest.mark.parametrize(("boxes", "sizes"), [(1, [4, 2, 1, 1]), (2, [2, 1, 1, 1, 1, 1, 1])])
def test_slices_are_few_and_the_last_ones_short(tmp_path, boxes, sizes):
    problems = [f"n1c{c}h9w9k4r3s3" for c in range(1, 9)]
    share = Share({**ASKED, "problems": [[p, p, 1] for p in problems]}, tmp_path)
    found = []
    while piece := take(share, boxes=boxes):
        found.append(len(piece.layers))
    assert found == sizes


def test_lines_arrive_once_whatever_the_network_does(tmp_path):
    share = Share(ASKED, tmp_path)
    piece = take(share)
    problem = str(piece.layers[0].problem)
    lines = begin_lines(piece) + [round_line(k, problem, i) for i in range(2) for k in KERNELS]
    lines.append(json.dumps({"kind": "end", "status": "complete", "libraries": {"numpy": {"numpy": "1"}}}))
    assert share.receive(piece, 0, lines[:4]) == 3
    assert share.receive(piece, 6, lines[6:8]) == 0  # two were lost on the way
    assert share.receive(piece, 2, lines[2:5]) == 1  # two of these are known
    assert share.receive(piece, 0, lines) == 4 and piece.complete
    found = [x for x in record.read(share.log.path) if x["kind"] == "round"]
    assert Counter((x["kernel"], x["round"]) for x in found) == Counter((k, i) for k in KERNELS for i in range(2))
    share.close("numpy/shifted", False, lambda kernel: None)
    header, *rest = record.read(share.log.path)
    assert header["kernels"] == list(KERNELS) and header["hardware"] == {"cpu": "x"}
    assert rest[-1]["kind"] == "end" and rest[-1]["status"] == "interrupted"  # the other problem waits

    again = Share.resumed(share.log.path, header, rest)
    assert again.waiting == {problem: [], next(p for p in PROBLEMS if p != problem): list(KERNELS)}
    piece = take(again)
    assert json.loads(piece.lines[0])["problems"] == [[str(piece.layers[0].problem)] * 2 + [1]]
    assert piece.received == len(piece.lines) == 1
    again.log.close()


def test_what_no_host_can_run_is_skipped_with_the_reason(tmp_path):
    share = Share(ASKED, tmp_path)
    piece = take(share, lambda k: k == "numba/direct")
    share.receive(piece, 0, begin_lines(piece))
    found = share.close(None, False, lambda k: None if k == "numba/direct" else "needs a lathe")
    lines = list(record.read(Path(found["record"])))
    assert found["status"] == "interrupted" and found["unfinished"] == 2
    assert {x["why"] for x in lines if x["kind"] == "skip"} == {"needs a lathe"}
    assert sum(x["kind"] == "skip" for x in lines) == 6


class Boxes:
    """A Dask client whose workers, given as address: box, do nothing by themselves."""

    status = "running"

    def __init__(self, **boxes):
        self.boxes, self.asked, self.topics = boxes, {}, []

    def scheduler_info(self, n_workers):
        return {"workers": {a: {"host": box, "resources": {}} for a, box in self.boxes.items()}}

    def submit(self, function, *arguments, workers, **_):
        self.asked[workers[0]] = future = Future()
        future.order = arguments[-1] if arguments else None
        self.topics += arguments[:1]
        return future


def sweep_over(client, tmp_path):
    return coordinator.Fleet(client, ASKED, tmp_path, [], [], lambda *_: 1.0)


def go_on(run):
    run._look_around()
    run._give()
    while not run._inbox.empty():
        run._hear()


def test_two_measurements_never_share_a_box(tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "ours", lambda: ABOUT)
    client = Boxes(a1="a", a2="a", b="b")
    run = sweep_over(client, tmp_path)
    go_on(run)
    assert set(client.asked) == {"a1", "a2", "b"}  # all are asked what they are
    for future in client.asked.values():
        future.set_result(ABOUT)
    client.asked = {}
    for _ in range(4):
        go_on(run)
    assert set(client.asked) in ({"a1", "b"}, {"a2", "b"})
    ended = {"lines": [], "run": "r", "seconds": 1.0, "why": "no space left", "code": 3}
    client.asked.pop("b").set_result(ended)
    for _ in range(4):
        go_on(run)
    assert "b" not in client.asked and "could not measure" in run.hosts["b"].refused
    assert "no space left" in run.shares["box-a"].incomplete[0]
    client.boxes = {}  # the scheduler is gone
    run._looked_at = 0.0
    go_on(run)
    assert all(h.lost for h in run.hosts.values()) and len(run.shares["box-a"].incomplete) == 2


def test_two_coordinators_do_not_hear_each_other(tmp_path, monkeypatch):
    """A host may still measure for one that was killed when the next begins."""
    monkeypatch.setattr(coordinator, "ours", lambda: ABOUT)
    topics = set()
    for name in ("first", "second"):
        client = Boxes(a="a")
        run = sweep_over(client, tmp_path / name)
        go_on(run)
        client.asked["a"].set_result(ABOUT)
        for _ in range(2):
            go_on(run)
        topics.update(client.topics)
    assert len(topics) == 2


SCRIPT = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--records") + 1]) / "box"
folder.mkdir(parents=True)
with (folder / "r.jsonl").open("w") as out:
    for i in range(int(os.environ["LINES"])):
        print(json.dumps({"line": i}), file=out, flush=True)
        time.sleep(0.15)
    out.write("half a li")
    out.flush()
    time.sleep(float(os.environ["AFTER"]))
print("sorry", file=sys.stderr)
sys.exit(2)
"""


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """A compare that writes a line now and then; ``scripted(lines, seconds it lives on)``."""

    def ready(lines, after):
        (tmp_path / "s.py").write_text(SCRIPT)
        monkeypatch.setenv("LINES", str(lines))
        monkeypatch.setenv("AFTER", str(after))
        monkeypatch.setattr(on_host, "_command", lambda *a: [sys.executable, str(tmp_path / "s.py"), *a])

    return ready


ORDER = {"slice": 3, "arguments": [], "lines": [], "problems": {"problems": []}}


def test_a_host_sends_lines_as_they_come(scripted):
    scripted(4, 0)
    said = []
    result = on_host.run_slice(ORDER, lambda first, lines: said.append((first, lines)), lambda: False)
    every = [json.dumps({"line": i}) for i in range(4)]
    assert result["lines"] == every and result["code"] == 2 and result["why"] == "sorry"
    assert len(said) > 1 and [text for _, lines in said for text in lines] == every
    assert [first for first, _ in said] == [sum(len(x) for _, x in said[:i]) for i in range(len(said))]


def test_a_host_stops_when_nobody_wants_it(scripted):
    scripted(1, 60)
    began = time.monotonic()
    result = on_host.run_slice(ORDER, lambda *_: None, lambda: time.monotonic() - began > 1)
    assert time.monotonic() - began < 15 and result["code"] == -signal.SIGKILL


def test_plan_adds_up_recorded_seconds(tmp_path):
    log = record.Record(tmp_path / "r.jsonl", ASKED)
    for kernel, seconds in zip(KERNELS[:3], (1.0, 2.0, 4.0), strict=True):
        line = json.loads(round_line(kernel, PROBLEMS[0], 0))
        log.add(line | {"wall_seconds": seconds})
    log.add({"kind": "skip", "kernel": "python/naive", "problem": PROBLEMS[0], "status": "unsupported"})
    log.add({"kind": "end", "libraries": {}, "import_seconds": {"numpy": 0.25, "numba": 0.75, "cupy": 9.0}})
    log.close()
    durations = plan.Durations([tmp_path / "r.jsonl", tmp_path / "none.jsonl"])
    assert durations.round_seconds("box-a", "numba/direct", PROBLEMS[0]) == 4.0
    assert durations.round_seconds("box-b", "numba/direct", PROBLEMS[0]) == 4.0  # from another machine
    assert durations.round_seconds("box-a", "numpy/fft", PROBLEMS[0]) == 1.5  # of its backend
    assert durations.round_seconds("box-a", "python/naive", PROBLEMS[0]) == 0.0  # refuses it
    assert durations.known("python/naive", PROBLEMS[0]) and not durations.known("numpy/fft", PROBLEMS[0])
    quick = PRESETS["quick"]  # 3 to 6 rounds, within 75 s
    assert plan.slice_seconds(1.0, quick) == 6 and plan.slice_seconds(20.0, quick) == 60
    assert plan.slice_seconds(40.0, quick) == 120
    two = [hosts.Host(f"tcp://h{i}:1", f"h{i}", {"slot": 1}, about=ABOUT) for i in range(2)]
    share = Share({**ASKED, "problems": [[PROBLEMS[0]] * 2 + [1]]}, tmp_path)
    run = SimpleNamespace(shares={"box-a": share}, hosts={h.address: h for h in two})
    found = plan.plan(run, durations, quick)
    assert [(r["slices"], r["cells"], r["seconds"]) for r in found["hosts"]] == [(1, 4, 48.0), (0, 0, 0.0)]
    assert (found["seconds"], found["cells"], found["known"], found["left"]) == (48.0, 4, 4, 0)


# ---- with Dask


def begin(root, *arguments, module="benchmarks"):
    environment = os.environ | {"PYTHONPATH": f"{root / 'kernels'}{os.pathsep}{root}"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Cluster:
    """A scheduler and workers on loopback, each a process that can be killed."""

    def __init__(self, root):
        pytest.importorskip("distributed", reason="needs distributed: pip install 'convzoo[fleet]'")
        self.root = root
        self.workers = []
        self._scheduler = begin(root, "scheduler", "--port", "0", "--no-dashboard", module="dask")
        for line in self._scheduler.stderr:
            if found := re.search(r"Scheduler at:\s*(t\w+://\S+)", line):
                self.address = found[1]
                break

    def add(self, *declared, boxes=False):
        """A worker for each of the declared resources; on Linux loopback has addresses enough for boxes."""
        begun = []
        for i, resources in enumerate(declared or ["slot=1"]):
            begun.append(
                begin(
                    self.root,
                    "worker",
                    self.address,
                    "--nthreads",
                    "1",
                    "--no-nanny",
                    "--no-dashboard",
                    "--host",
                    f"127.0.0.{i + 1}" if boxes and sys.platform == "linux" else "127.0.0.1",
                    "--memory-limit",
                    "0",
                    "--resources",
                    resources,
                    module="dask",
                )
            )
        for worker in begun:
            for line in worker.stderr:
                if "Registered to" in line:
                    break
        self.workers += begun

    def close(self):
        for process in [*self.workers, self._scheduler]:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def tree(clean_tree, tmp_path_factory):
    """A committed tree that takes a busy machine as it is: these tests ask who measures, not how well."""
    root = tmp_path_factory.mktemp("fleet") / "tree"
    shutil.copytree(clean_tree, root)
    for name in ("verbs/compare.py", "compare.py"):
        file = root / "benchmarks" / name
        file.write_text(file.read_text().replace("watch=True", "watch=False"))
    shares = {str(n): {"float32": 1e9, "float64": 1e9} for n in range(1, 257)}
    high = {level: 1e9 for level in ("L1", "L2", "L3", "DRAM")}
    rates = {"read_gb_per_s": {n: high for n in shares}, "copy_gb_per_s": {n: high for n in shares}}
    machine_file.save(
        hardware.machine_name(), root / "reports" / "machines", ceilings={"fma_gflops_per_s": shares, **rates}
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["add", "-A"], ["commit", "-qm", "hurried"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    return root


@pytest.fixture
def cluster(tree):
    found = Cluster(tree)
    yield found
    found.close()


CHEAP = ("numpy/shifted", "numpy/windows", "python/naive")
ARGUMENTS = ("--kernels", *CHEAP, "--problems", "tiny", "--rounds", "2")


def sweep(cluster, folder, *arguments):
    given = arguments or (*ARGUMENTS, "--records", folder)
    return begin(cluster.root, "fleet", "--scheduler", cluster.address, "--json", *given)


def measured(path):
    """How often each round of each cell stands in a record."""
    return Counter((x["kernel"], x["problem"], x["round"]) for x in record.read(path) if x["kind"] == "round")


WHOLE = Counter((k, p, i) for k in CHEAP for p in PROBLEMS for i in range(2))


def compares(root):
    """Runs of compare that are under way in this tree, and who began each."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            if "compare" in command and os.readlink(entry / "cwd") == str(root):
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def none_left(root):
    ends = time.monotonic() + 20
    while compares(root) and time.monotonic() < ends:
        time.sleep(0.05)
    return not compares(root)


@pytest.mark.slow
def test_every_cell_once_on_a_host_that_could_run_it(cluster, tmp_path):
    """Four workers that declare different things; their record is like one of compare."""
    declared = ("slot=1 numpy=1", "slot=1 python=1", "slot=1 cpu=1", "slot=1 numba=1")
    cluster.add(*declared, boxes=True)
    out, err = sweep(cluster, tmp_path).communicate(timeout=900)
    found = json.loads(out)
    (share,) = found["shares"]
    path = Path(share["record"])
    assert share["status"] == "complete" and not share["incomplete"], err
    assert measured(path) == WHOLE
    declared = {h["host"]: set(h["declared"]) for h in found["hosts"]}
    assert len(declared) == 4
    for piece in found["slices"]:
        backends = {k.partition("/")[0] for k in piece["kernels"]}
        assert backends <= declared[piece["host"]] or "cpu" in declared[piece["host"]]
    given = Counter((k, q) for piece in found["slices"] for k in piece["kernels"] for q in piece["problems"])
    assert given == Counter({(k, q): 1 for k in CHEAP for q in PROBLEMS})
    alone = begin(cluster.root, "compare", *ARGUMENTS, "--records", tmp_path / "alone", "-q")
    alone.communicate(timeout=200)
    (other,) = (tmp_path / "alone").glob("*/*.jsonl")
    assert forms(path) == forms(other)


def forms(path):
    """The keys of each kind of line of a record."""
    found = {}
    for line in record.read(path):
        found.setdefault(line["kind"], set()).update(line)
    return found


def killed(cluster, folder, rng, victim, path=None, within=8):
    """One run in which a worker or the coordinator is killed. The record; what it held of finished rounds stays."""
    before = path.read_bytes() if path else b""
    resume = ("--resume", path) if path else ()
    run = sweep(cluster, folder, *resume)
    if not cluster.workers:
        assert "waiting for the first" in run.stderr.readline()
        cluster.add()
    ends = time.monotonic() + 120
    while not path and run.poll() is None and time.monotonic() < ends:
        path = next(iter(folder.glob("*/*.jsonl")), None)
        time.sleep(0.02)
    time.sleep(rng.uniform(0, within))
    if victim == "worker":
        busy = [w for w in cluster.workers if w.pid in compares(cluster.root).values()]
        rng.choice(busy or cluster.workers).kill()
    else:
        run.kill()
    told = path.read_bytes() if path else b""
    out, err = run.communicate(timeout=900)
    assert "Traceback" not in err, err
    assert path.read_bytes().startswith(told.rpartition(b"\n")[0]) and told.startswith(before.rpartition(b"\n")[0])
    assert max(measured(path).values(), default=1) == 1
    if victim == "coordinator":
        assert none_left(cluster.root), "a host went on measuring for nobody"
    elif measured(path) != WHOLE:
        assert run.returncode == 2 and json.loads(out)["shares"][0]["incomplete"]
    return path


def finish(cluster, path):
    before = measured(path)
    out, err = sweep(cluster, None, "--resume", path).communicate(timeout=900)
    assert measured(path) == WHOLE and before <= measured(path), err
    (share,) = json.loads(out)["shares"]
    assert share["status"] == "complete" and {c["rounds"] for c in share["cells"]} == {2}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_killed_at_a_random_moment_and_resumed(cluster, tmp_path):
    path = killed(cluster, tmp_path, random.Random(), "coordinator", within=3)
    finish(cluster, path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_twenty_kills(cluster, tmp_path, request):
    """Of a worker or of the coordinator, at random moments, also while an earlier death is being made good."""
    rng, kills, path, finished = random.Random(), Counter(), None, 0
    cluster.add("slot=1", "slot=1 numpy=1", "slot=1 cpu=1", "slot=1", boxes=True)
    while sum(kills.values()) < 20:
        victim = rng.choice(("worker", "coordinator"))
        path = killed(cluster, tmp_path / str(finished), rng, victim, path)
        kills[victim] += 1
        print(f"{victim} killed with {sum(measured(path).values())} of {sum(WHOLE.values())} rounds recorded")
        for worker in [w for w in cluster.workers if w.poll() is not None]:
            worker.communicate()
            cluster.workers.remove(worker)
            cluster.add()
        if measured(path) == WHOLE or rng.random() < 0.5:
            finish(cluster, path)
            path, finished = None, finished + 1
    print(f"killed {dict(kills)}; {finished} records finished")


ONE = ("--kernels", "numpy/shifted", "--problems", PROBLEMS[0], "--rounds", "1")


def test_local_needs_no_scheduler(tree, tmp_path):
    pytest.importorskip("distributed", reason="needs distributed: pip install 'convzoo[fleet]'")
    run = begin(tree, "fleet", "--local", "1", *ONE, "--records", tmp_path)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0 and "there to the end" in out, err
    (path,) = tmp_path.glob("*/*.jsonl")
    assert measured(path) == Counter([("numpy/shifted", PROBLEMS[0], 0)])


@pytest.mark.slow
def test_plan_asks_the_hosts_and_measures_nothing(tree, tmp_path):
    pytest.importorskip("distributed", reason="needs distributed: pip install 'convzoo[fleet]'")
    run = begin(tree, "fleet", "--local", "1", "--plan", *ONE, "--records", tmp_path)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0 and "1 slices, 1 cells" in out, err
    assert not list(tmp_path.iterdir())


SSH_SERVER = """
import asyncio, asyncssh

class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

async def run(process):
    pipes = {name: asyncio.subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    child = await asyncio.create_subprocess_shell(process.command, **pipes)
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    process.exit(await child.wait())

async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=run)
    words = key.export_public_key().decode().split()
    print(server.sockets[0].getsockname()[1], *words, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_hosts_through_ssh(tree, tmp_path, monkeypatch):
    """A server on loopback that lets everybody in, and whose key is known."""
    for name in ("distributed", "asyncssh"):
        pytest.importorskip(name, reason=f"needs {name}: pip install 'convzoo[fleet]'")
    (tmp_path / "server.py").write_text(SSH_SERVER)
    server = subprocess.Popen(
        [sys.executable, tmp_path / "server.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        port, *key = server.stdout.readline().split()
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
        (tmp_path / "hosts").write_text(f"127.0.0.1:{port}  # this box\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        run = begin(tree, "fleet", "--ssh", tmp_path / "hosts", *ONE, "--records", tmp_path, "--json")
        out, err = run.communicate(timeout=300)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
    assert run.returncode == 0, out + err
    (share,) = json.loads(out)["shares"]
    assert measured(Path(share["record"])) == Counter([("numpy/shifted", PROBLEMS[0], 0)])


@pytest.mark.slow
def test_encrypted_as_the_readme_says(tree, tmp_path, monkeypatch):
    """A scheduler that demands TLS serves who has a certificate, and nobody else."""
    distributed = pytest.importorskip("distributed", reason="needs distributed: pip install 'convzoo[fleet]'")
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'convzoo[fleet]'")
    made = distributed.Security.temporary()
    for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_scheduler_cert), ("key", made.tls_scheduler_key)):
        (tmp_path / f"{name}.pem").write_text(text)
    begun = "DASK_DISTRIBUTED__COMM__"
    monkeypatch.setenv(f"{begun}REQUIRE_ENCRYPTION", "true")
    monkeypatch.setenv(f"{begun}DEFAULT_SCHEME", "tls")
    monkeypatch.setenv(f"{begun}TLS__CA_FILE", str(tmp_path / "ca.pem"))
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        for part in ("cert", "key"):
            monkeypatch.setenv(f"{begun}TLS__{role}__{part.upper()}", str(tmp_path / f"{part}.pem"))
    cluster = Cluster(tree)
    try:
        assert cluster.address.startswith("tls://")
        cluster.add()
        out, err = sweep(cluster, tmp_path, *ONE, "--records", tmp_path).communicate(timeout=300)
        assert json.loads(out)["shares"][0]["status"] == "complete", err
        monkeypatch.delenv(f"{begun}TLS__CA_FILE")
        refused = sweep(cluster, tmp_path, *ONE, "--records", tmp_path)
        assert "needs certificates" in refused.communicate(timeout=60)[1] and refused.returncode == 3
    finally:
        cluster.close()


def test_usage(clean_tree, tmp_path):
    for arguments, words in (
        ((), "one of the arguments --local --scheduler --ssh is required"),
        (("--local", "0"), "--local: invalid whole number of 1 or more value: '0'"),
        (("--local", "1", "--resume", tmp_path / "none.jsonl"), "none.jsonl"),
    ):
        run = begin(clean_tree, "fleet", *arguments)
        _, err = run.communicate(timeout=60)
        assert run.returncode == 3 and words in err, err
    pytest.importorskip("distributed", reason="needs distributed: pip install 'convzoo[fleet]'")
    (tmp_path / "hosts").write_text("# nobody\n")
    run = begin(clean_tree, "fleet", "--ssh", tmp_path / "hosts")
    assert "lists no host" in run.communicate(timeout=60)[1] and run.returncode == 3
