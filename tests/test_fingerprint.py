"""Fingerprints: the same code gives the same one, a lost vectorisation moves it; costs and explain."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import convzoo
from benchmarks import formula, roofline
from benchmarks.fingerprint import fingerprint, read_assembly, read_sass, read_verbose, short_name
from benchmarks.verbs import explain
from convzoo import Conv2d, Plan
from convzoo.catalog import find

ROOT = Path(__file__).resolve().parent.parent
P = Conv2d.parse("n1c4h12w12k4r3s3-p1")


def ask(*command, **environment):
    paths = {"PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | paths | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def of_code(*functions):
    return fingerprint(find("numba/naive"), Plan(lambda x, w: x, code=functions), P)


# --- Numba on the CPU ---------------------------------------------------------------------------------

IN_A_PROCESS = """
import json, convzoo
from benchmarks.fingerprint import fingerprint
p = convzoo.Conv2d.parse("n1c16h40w40k16r3s3-p1")
found = {}
for name in ("numba/naive", "numba/parallel"):
    kernel = convzoo.load(name)
    plan = kernel.plan(p)
    hits = sum(sum(f.stats.cache_hits.values()) for f in plan.code)
    found[name] = [hits, fingerprint(kernel, plan, p)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_same_code_has_the_same_fingerprint_in_every_process(tmp_path):
    """Compiled, loaded from Numba's cache, and compiled again with other hashes and another cache."""
    told = []
    for seed, cache in (("1", "a"), ("2", "a"), ("3", "b")):
        environment = {"PYTHONHASHSEED": seed, "NUMBA_CACHE_DIR": str(tmp_path / cache)}
        done = ask("-W", "error", "-c", IN_A_PROCESS, **environment)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    fresh, loaded, again = told
    for name in fresh:
        assert [t[name][0] for t in told] == [0, 1, 0], "the second process must load from the cache"
        assert len(fresh[name][1]["asm_hash"]) == 16
        assert fresh[name][1] == loaded[name][1] == again[name][1]


PLANTED = """
from numba import njit, types

def add(x, y, a):
    for i in range(len(x)):
        y[i] += a * x[i]

def dot(x, y, a):
    total = x[0] - x[0]
    for i in range(len(x)):
        total += x[i] * y[i]
    x[0] = total

def compiled(function, layout="C", fastmath=("contract",), **options):
    array = types.Array(types.float32, 1, layout)
    signature = types.void(array, array, types.float32)
    return njit(signature, fastmath=set(fastmath), **options)(globals()[function])
"""


def vectors(found):
    return sum(found[k] for k in ("fma_512", "fma_256", "fma_128", "unfused_vector"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "planted.py"
    path.write_text(PLANTED)
    spec = importlib.util.spec_from_file_location("planted", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compiled


REORDERED = ("contract", "reassoc", "nsz")  # lets LLVM keep one sum in each lane


@pytest.mark.parametrize(
    ("function", "with_vectors", "without"),
    [
        ("add", {}, {"layout": "A"}),  # strided arrays: elements that do not lie side by side
        ("dot", {"fastmath": REORDERED}, {}),  # a sum whose order is that of the loop
    ],
)
def test_lost_vectorisation_moves_the_counts(planted, function, with_vectors, without):
    good, again = (of_code(planted(function, **with_vectors)) for _ in range(2))
    assert good == again, "compiled twice, the same"
    assert vectors(good) > 0 and good["vector_bits"] >= 128
    lost = of_code(planted(function, **without))
    assert vectors(lost) == 0 and lost["vector_bits"] == 0
    assert lost["fma_scalar"] + lost["unfused_scalar"] > 0
    assert lost["asm_hash"] != good["asm_hash"]


def test_a_test_of_every_index_is_other_code(planted):
    plain, checked = of_code(planted("add")), of_code(planted("add", boundscheck=True))
    assert plain["asm_hash"] != checked["asm_hash"]


@pytest.mark.kernels("numba/*")
def test_every_numba_kernel_shows_its_code(kernel_name):
    """A kernel that compiles something and keeps it out of Plan.code has no evidence beside its times."""
    for p in (P, Conv2d.parse("n1c16h20w20k16r3s3")):
        try:
            plan = convzoo.load(kernel_name).plan(p)
        except convzoo.Unsupported:
            continue
        found = fingerprint(convzoo.load(kernel_name), plan, p)
        assert "asm_hash" in found, found
        assert all(isinstance(v, (int, str)) for v in found.values())
        json.dumps(found)


X86 = """
\t.text
\t.section\t.rodata.cst4,"aM",@progbits,4
.LCPI0_0:
\t.long\t0x3f800000
\t.globl\t_ZN4mine4bodyB2v1Ex
_ZN4mine4bodyB2v1Ex:
\t.cfi_startproc
\tvmovups\t%zmm9, 64(%rsp)
\tmovabsq\t$140234567890123, %rax
.LBB0_3:
\tvmovups\t128(%rsp), %zmm1
\tvfmadd231ps\t(%rdi,%rcx,4), %zmm1, %zmm2 # zmm2 = (zmm1 * mem) + zmm2
\tvfmadd231ps\t-64(%rsp), %zmm1, %zmm3
\tvmovups\t(%rsp,%rcx,4), %zmm4
\tvmovups\t16(%rbp), %ymm5
\tvmulps\t%ymm1, %ymm2, %ymm3
\tvfmadd231ss\t%xmm1, %xmm2, %xmm3
\tvaddss\t.LCPI0_0(%rip), %xmm1, %xmm1
\tmovq\t8(%rsp), %rdx
\tjne\t.LBB0_3
\tcallq\t*%rax
\tretq
.Lfunc_end0:
cfunc._ZN4mine4bodyB2v1Ex:
\tvfmadd231ps\t%zmm1, %zmm1, %zmm2
\tretq
"""


def test_counts_of_an_assembly_text():
    found = read_assembly(X86)
    assert found.pop("asm_hash")
    assert found == {
        "fma_512": 2,
        "fma_256": 0,
        "fma_128": 0,
        "fma_scalar": 1,
        "unfused_vector": 1,
        "unfused_scalar": 1,
        "spills": 2,
        "calls": 0,
        "vector_bits": 512,
    }
    framed = X86.replace("\tvmovups\t%zmm9", "\tpushq\t%rbp\n\tmovq\t%rsp, %rbp\n\tvmovups\t%zmm9")
    assert read_assembly(framed)["spills"] == 3, "with a frame, (%rbp) is the stack as well"


def test_hash_sees_instructions_and_constants_and_nothing_else():
    same = X86.replace("LBB0_3", "LBB7_12").replace("B2v1Ex", "B2v9Ex").replace("LCPI0", "LCPI4")
    same = same.replace("140234567890123", "139999567890123").replace("(zmm1 * mem)", "(other words)")
    assert read_assembly(same)["asm_hash"] == read_assembly(X86)["asm_hash"]
    for change in (("0x3f800000", "0x40000000"), ("zmm1, %zmm2 #", "zmm1, %zmm6 #"), ("jne", "jle")):
        assert read_assembly(X86.replace(*change))["asm_hash"] != read_assembly(X86)["asm_hash"]


def test_counts_of_other_processors():
    text = """
_body:
LBB0_1:
\tldr\tq3, [sp, #16]
\tfmla\tv0.4s, v3.4s, v2.s[0]
\tfmadd\ts0, s1, s2, s3
\tstr\tq0, [x0, x1]
\tb.ne\tLBB0_1
\tret
"""
    found = read_assembly(text)
    assert found["fma_128"] == found["fma_scalar"] == found["spills"] == 1
    assert found["vector_bits"] == 128


def test_what_cannot_be_had_is_told_and_costs_nothing():
    assert "cannot be had" in of_code(object())["fingerprint"]
    assert of_code() == {}
    assert fingerprint(find("python/naive"), Plan(lambda x, w: x), P) == {}


# --- libraries ----------------------------------------------------------------------------------------


def test_onednn_names_its_implementation(capfd):
    torch = pytest.importorskip("torch")
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    from convzoo.reference import inputs

    kernel, p = convzoo.load("torch_cpu/builtin"), Conv2d.parse("n2c32h28w28k32r3s3-p1")
    plan = kernel.plan(p)
    x, w, b = (kernel.backend.to_device(a) for a in inputs(p, 0))
    call = lambda: plan.run(x, plan.pack(w, b))  # noqa: E731
    found = fingerprint(kernel, plan, p, call)
    assert found["onednn"] not in ("", "not used") and isinstance(found["reorders"], int)
    assert found == fingerprint(kernel, plan, p, call)
    assert fingerprint(kernel, plan, p) == {}, "without a call there is nothing to listen to"
    os.write(1, b"still here")
    assert capfd.readouterr().out == "still here", "standard output is as it was, and was left clean"


VERBOSE = """onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71)
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abcd,,,64x64x3x3,7.2
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core,forward_training,src:f32,,,mb1,8.6
onednn_verbose,exec,cpu,inner_product,gemm:jit,forward,src:f32,,,mb1,8.6
MKL_VERBOSE oneMKL 2024.0 Update 2 Product build
MKL_VERBOSE SGEMM(N,N,144,4,36,0x7ffd532e4990) 4.01ms CNR:OFF
MKL_VERBOSE SGEMM(N,N,144,4,36,0x7ffd532e4990) 4.01ms CNR:OFF
"""


def test_verbose_lines_are_read():
    assert read_verbose(VERBOSE) == {
        "onednn": "brg_conv_fwd:avx512_core, inner_product gemm:jit",
        "reorders": 1,
        "mkl": "2 SGEMM",
    }
    assert read_verbose("") == {"onednn": "not used"}


SASS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;          /* 0x00000a0000017a02 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2] ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R5], [R6] ;
        /*0028*/              @!PT LDS RZ, [RZ] ;
        /*0030*/                   LDS.128 R8, [R9] ;
        /*0040*/                   FFMA R0, R1, R2, R3 ;
        /*0050*/                   HMMA.1688.F32.TF32 R4, R8, R10, R4 ;
        /*0060*/                   STL [R1], R5 ;
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
"""


def test_sass_is_counted():
    found = read_sass(SASS)
    assert found.pop("sass_hash") != read_sass(SASS.replace("FFMA", "FADD"))["sass_hash"]
    assert found == {
        "ffma": 1,
        "dfma": 0,
        "mma": 1,
        "hgmma": 0,
        "ldg_128": 1,
        "ldg": 1,
        "lds_128": 1,
        "lds_64": 0,
        "lds": 1,
        "ldsm": 0,
        "sts_128": 0,
        "sts": 0,
        "ldgsts_128": 1,
        "ldgsts": 1,
        "spills": 1,
        "bar": 1,
        "instructions": 8,
    }


def test_cuda_functions_are_asked():
    """No GPU here: objects with the attributes that Numba's dispatchers and CuPy's functions document."""
    numba_function = SimpleNamespace(
        get_regs_per_thread=lambda: {("f32",): 64},
        get_local_mem_per_thread=lambda: {("f32",): 0},
        get_shared_mem_per_block=lambda: 4096,
        inspect_sass=lambda: {("f32",): SASS},
    )
    plan = Plan(lambda x, w: x, code=(numba_function, object()))
    found = fingerprint(find("numba_cuda/naive"), plan, P)
    assert (found["registers"], found["local_bytes"], found["shared_bytes"]) == (64, 0, 4096)
    assert found["ffma"] == 1
    cupy_function = SimpleNamespace(num_regs=32, local_size_bytes=8, shared_size_bytes=0)
    plan = Plan(lambda x, w: x, code=(cupy_function,))
    expected = {"registers": 32, "local_bytes": 8, "shared_bytes": 0}
    assert fingerprint(find("cupy/raw_naive"), plan, P) == expected
    assert fingerprint(find("cupy/im2col"), Plan(lambda x, w: x), P) == {}


def test_kernel_names_lose_their_arguments():
    text = "void (anonymous namespace)::im2col_kernel<float>(long, float const*)"
    assert short_name(text) == "im2col_kernel"
    name = "sm90_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc_tilesize128x128x32_stage3"
    assert short_name(name) == name


# --- costs --------------------------------------------------------------------------------------------

Q = Conv2d.parse("n2c6h17w20k10r3s5-st2x1-p1_0_2_1-g2")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2·N·K·P·Q·C/G·R·S", Q.flops),
        ("itemsize·2·N·P·Q·(2·C·R·S + 3·K)", 4 * 2 * 2 * Q.P * Q.Q * (12 * 15 + 30)),
        ("⌈P/16⌉·⌊K/4⌋", 1 * 2),
        ("N² + 3 - 1.5·2", 4),
        ("2.5·log2(8·2)·N", 20),
        ("min(N, 3)·stride_h·top", 4),
        ("p.min_bytes", Q.min_bytes),
        ("C/4", 1.5),
        ("stride·N", None),  # 2 and 1: which one?
        ("2·N·rows", None),
        ("2·N·", None),
        ("N; K", None),
        ("N·K if N else K", None),
        ("__import__('os').system('true')", None),
        ("N.__class__", None),
        ("2**99999999", None),
        ("N/(G - 2)", None),
    ],
)
def test_formulas_are_evaluated(text, value):
    assert formula.evaluate(text, formula.names_of(Q)) == value


DOC = """One thing.

Idea     None.
Cost     FLOP   2·N·K·P·width·C/G·R·S       width = Q + (S-1)·dilation_w
         bytes  the patches are written and read, in lines that
                continue: itemsize·2·N·P·Q·C·R·S, from cache
Source   own
"""


def test_cost_lines_of_a_docstring():
    found = formula.costs(DOC, Q)
    assert found["FLOP"].value == 2 * 2 * 10 * Q.P * (Q.Q + 4) * 3 * 15
    assert found["bytes"].value == 4 * 2 * 2 * Q.P * Q.Q * 6 * 15
    assert found["bytes"].text.startswith("the patches are written and read, in lines that continue: ")


@pytest.mark.parametrize(
    "prose",
    [
        "x read and the sheets written once; the sheets read K/4 times, w once a tile",
        "p.min_bytes, and what the library adds: on the CPU it copies x",
        "nhwc: p.min_bytes; nchw: x and y twice more each",
        "8·N·K·C/G·F + 2·N, in pack also 2·F",
        "8·N·K, in pack also 2·K·C/G",
        "3 loads for every product",
        "w: itemsize·N·K·⌈P/rows⌉·⌈Q/columns⌉",
    ],
)
def test_prose_has_no_value_and_stays_as_it_is(prose):
    doc = f"One.\n\nCost     FLOP   {prose}\n         bytes  {prose}\nSource   own\n"
    found = formula.costs(doc, Q)
    assert [c.value for c in found.values()] == [None, None]
    assert {c.text for c in found.values()} == {prose}


def test_costs_of_the_kernels_that_are_here():
    for name in ("python/naive", "numpy/per_channel", "numba/naive", "numba_cuda/naive", "cupy/raw_naive"):
        found = formula.costs(find(name).doc, Q)
        assert found["FLOP"].value == Q.flops and found["bytes"].value > 0, name
    assert formula.costs("No cost here.", Q) == {}


# --- explain ------------------------------------------------------------------------------------------

CEILINGS = {
    "fma_gflops_per_s": {"2": {"float32": 500.0}},
    "read_gb_per_s": {"2": {"L1": 800.0, "L2": 400.0, "L3": 100.0, "DRAM": 40.0}},
}


def test_bounds_say_which_side_binds(monkeypatch):
    sizes = {"L1": 2**15, "L2": 2**20, "L3": 2**24, "DRAM": 2**26}
    monkeypatch.setattr(explain.hardware, "cache_bytes", lambda: sizes)
    levels = [(2**16, "L1"), (2**16 + 1, "L2"), (2**21 + 1, "L3"), (2**24 + 1, "DRAM"), (2**40, "DRAM")]
    assert [roofline.level_of(size, sizes, 2) for size, _ in levels] == [level for _, level in levels]
    deep = explain.bounds(Conv2d.parse("n1c256h14w14k256r3s3-nobias"), CEILINGS, 2)
    assert deep["binds"] == "arithmetic" and deep["level"] == "L3"
    assert deep["seconds"] == pytest.approx(2 * 256 * 256 * 144 * 9 / 500e9)
    thin = Conv2d.parse("n1c64h112w112k64r1s1-g64-nobias")
    assert explain.bounds(thin, CEILINGS, 2)["seconds"] == pytest.approx(thin.min_bytes / 100e9)
    assert explain.bounds(thin, CEILINGS, 2)["binds"] == "traffic"
    assert explain.bounds(thin, CEILINGS, 1) is None, "other threads, other ceilings"
    assert explain.bounds(Conv2d.parse("n1c1h2w2k1r1s1-f64"), CEILINGS, 2) is None


def told(**evidence):
    """A cell of 1 ms at 2 threads that reaches a third of the peak, with evidence beside it."""
    bounds = {"level": "L2", "read_gb_per_s": 400.0, "moved_gb_per_s": 40.0, "of_fma": 0.33}
    cell = {"status": "ok", "seconds": 1e-3, "threads": 2, "alone_seconds": 1.9e-3, "call_seconds": 5e-6}
    cell |= {"fingerprint": {"vector_bits": 512, "spills": 0}, "bounds": bounds, "host_share": 1.0}
    return cell | {k: v if k != "bounds" else bounds | v for k, v in evidence.items()}


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        ({"fingerprint": {"vector_bits": 256, "spills": 0}}, "vectors of 256 bits, and this CPU has 512 bits"),
        ({"fingerprint": {"vector_bits": 0, "spills": 0}}, "no vectors, and this CPU has 512 bits"),
        ({"fingerprint": {"vector_bits": 512, "spills": 7}}, "registers do not suffice: 7 vectors"),
        ({"alone_seconds": 1.02e-3}, "2 threads were asked for and one works"),
        ({"bounds": {"moved_gb_per_s": 300.0}}, "L2 binds: 300 of 400 GB/s"),
        ({"bounds": {"level": "L3", "read_gb_per_s": 33.0, "moved_gb_per_s": 25.1}}, "L3 binds: 25.1 of 33 GB/s"),
        (
            {"bounds": {"level": "DRAM", "read_gb_per_s": 20.0, "moved_gb_per_s": 18.0}, "alone_seconds": 1e-3},
            "DRAM binds",
        ),
        ({"call_seconds": 0.8e-3}, "too short for its overhead: 80%"),
        ({"fingerprint": {"onednn": "ref:any"}}, "reference path (ref:any)"),
        ({"bounds": {"of_fma": 0.85}}, "Arithmetic binds: 85%"),
        ({}, "No known cause: 33% of the arithmetic peak, and L2 at 40 of 400 GB/s"),
        ({"host_share": 0.5}, "The host gave 50% of what it can"),
        ({"status": "wrong"}, "no time to explain: wrong"),
    ],
)
def test_the_diagnosis_names_the_planted_cause(monkeypatch, evidence, says):
    monkeypatch.setattr(explain.hardware, "facts", lambda: {"vector": "avx512f"})
    assert says in explain.diagnosis(told(**evidence))


def test_explain_finds_a_call_that_is_too_short():
    done = ask("-m", "benchmarks", "explain", "numba/register_tile", "n1c1h4w4k1r1s1", "--json")
    assert done.returncode == 0, done.stderr
    assert "too short for its overhead" in json.loads(done.stdout)["diagnosis"]


def test_explain_as_json():
    done = ask("-m", "benchmarks", "explain", "numba/naive", str(P), "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    x = json.loads(done.stdout)
    assert x["schema"] == "convzoo.explain/1" and x["status"] == "ok" and x["seconds"] > 0
    assert x["fingerprint"]["asm_hash"] and x["fingerprint"]["unfused_scalar"] > 0
    assert x["cost"]["FLOP"] == {"text": "2·N·K·P·Q·C/G·R·S (the problem's own)", "value": P.flops}
    assert x["useful_flops"] < x["flops"] == P.flops and x["min_bytes"] == P.min_bytes
    assert x["bounds"] or x["no_bounds"]


def test_explain_for_a_person():
    done = ask("-m", "benchmarks", "explain", "numpy/shifted", "tiny/square", "--scenario", "eager")
    assert done.returncode == 0, done.stderr
    for said in ("numpy/shifted", "eager", "GFLOP/s", "right, elementwise", "itemsize·R·S·N·P·Q·(3·C"):
        assert said in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["numpy/shiftd", "seed"], 3, "did you mean numpy/shifted"),
        (["numpy/*", "seed"], 3, "one kernel"),
        (["numpy/shifted", "resnet50"], 3, "resnet50/LAYER"),
        (["python/naive", "resnet50/conv1"], 2, "slow by design"),
    ],
)
def test_explain_refuses(arguments, code, says):
    done = ask("-m", "benchmarks", "explain", *arguments)
    assert done.returncode == code
    assert says in done.stdout + done.stderr
