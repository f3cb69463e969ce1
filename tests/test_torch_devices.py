"""Which device torch kernels are planned for, and what they then ask torch to do, without that device.

A plan reads its device from torch's default device, so the code for CUDA and for MPS can be planned
anywhere and run on CPU tensors: what it passes on is seen, and its arithmetic is judged. The devices
themselves are not: MPS has never been run by this project, CUDA only where there is a GPU.
"""

from __future__ import annotations

import contextlib

import pytest

import convzoo
from convzoo import Conv2d, Unsupported
from convzoo.backends import BACKENDS, default_torch_device
from convzoo.catalog import find
from convzoo.reference import examine

torch = pytest.importorskip("torch", reason="needs torch: pip install 'convzoo[cpu]'")

EVERY_OPTION = [
    Conv2d.parse(text)
    for text in (
        "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2",
        "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nobias-nhwc",
        "n2c5h7w6k3r3s3-p1",
        "n2c5h7w6k3r1s1-nhwc",
        "n2c4h5w6k4r3s3-p1-g4",
    )
]
CONVOLUTION = (  # of aten::_convolution, in order
    "input",
    "weight",
    "bias",
    "stride",
    "padding",
    "dilation",
    "transposed",
    "output_padding",
    "groups",
    "benchmark",
    "deterministic",
    "cudnn_enabled",
    "allow_tf32",
)


def stems(backend: str) -> list[str]:
    return [name.partition("/")[2] for name in convzoo.names(f"{backend}/*")]


# The choice of a device


@pytest.mark.parametrize(
    ("usable", "chosen"), [(("cuda", "mps"), "cuda"), (("cuda",), "cuda"), (("mps",), "mps"), ((), "cpu")]
)
def test_cuda_then_mps_then_cpu(monkeypatch, usable, chosen):
    for device in ("cuda", "mps"):
        reason = None if device in usable else "needs another machine"
        monkeypatch.setattr(BACKENDS[f"torch_{device}"], "why_not", lambda reason=reason: reason)
    assert default_torch_device() == chosen


@pytest.mark.parametrize(
    ("cuda", "built", "mps", "chosen"),
    [
        (True, "12.8", True, "cuda"),
        (False, "12.8", True, "mps"),
        (False, None, True, "mps"),
        (False, None, False, "cpu"),
    ],
)
def test_the_choice_follows_what_torch_says(monkeypatch, cuda, built, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_torch_device() == chosen
    why_not = BACKENDS["torch_cuda"].why_not()
    if cuda:
        assert why_not is None
    else:
        assert ("GPU" if built else "built for CUDA") in why_not
    assert (BACKENDS["torch_mps"].why_not() is None) == mps
    assert BACKENDS["torch_cpu"].why_not() is None


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_planning_makes_the_device_the_default(device, monkeypatch):
    inside = []
    monkeypatch.setattr(torch, "device", lambda name: inside.append(name) or contextlib.nullcontext())
    with BACKENDS[f"torch_{device}"].planning():
        assert inside == [device]


@pytest.fixture
def plan_anywhere(monkeypatch):
    """Lets plans be made for devices that are not here.

    Asked for the default device, torch makes a tensor there to learn its number; told the number, it
    does not look.
    """
    for device in ("cuda", "mps"):
        there = torch.device(device, 0)
        monkeypatch.setattr(BACKENDS[f"torch_{device}"], "planning", lambda there=there: there)


@pytest.mark.parametrize("stem", stems("torch_mps"))
def test_mps_refuses_what_it_cannot_do(stem):
    kernel = find(f"torch_mps/{stem}")
    with pytest.raises(Unsupported, match="float32"):
        kernel.plan(Conv2d.parse("n1c3h5w6k4r3s3-f64"))
    with pytest.raises(Unsupported, match="65536"):
        kernel.plan(Conv2d.parse("n1c1h1w65537k1r1s1"))


# What is passed on


class Calls:
    """Stands in for a function of torch: notes the arguments, then does what the function does."""

    def __init__(self, function):
        self.function, self.made = function, []

    def __call__(self, *args):
        self.made.append(args)
        return self.function(*args)


@pytest.fixture
def calls(monkeypatch, plan_anywhere):
    """Calls of the convolution with all its arguments, and of the one that reads process-wide switches."""
    explicit, implicit = Calls(torch._convolution), Calls(torch.nn.functional.conv2d)
    monkeypatch.setattr(torch, "_convolution", explicit)
    monkeypatch.setattr(torch.nn.functional, "conv2d", implicit)
    return explicit.made, implicit.made


def test_the_arguments_of_the_convolution_stand_where_the_kernels_put_them():
    schema = torch.ops.aten._convolution.default._schema
    assert tuple(argument.name for argument in schema.arguments) == CONVOLUTION
    x, w, b = torch.randn(2, 6, 9, 8), torch.randn(4, 3, 3, 2), torch.randn(4)
    stride, padding, dilation, groups = (2, 3), (1, 2), (2, 1), 2
    strict = (True, False, True, False)
    y = torch._convolution(x, w, b, stride, padding, dilation, False, (0, 0), groups, *strict)
    assert torch.equal(y, torch.nn.functional.conv2d(x, w, b, stride, padding, dilation, groups))


@pytest.mark.parametrize("stem", stems("torch_cuda"))
def test_cuda_is_told_its_precision_with_every_call(stem, calls):
    kernel = find(f"torch_cuda/{stem}")
    explicit, implicit = calls
    for p in EVERY_OPTION:
        try:
            plan = kernel.plan(p)
        except Unsupported as reason:
            pytest.skip(f"{kernel.name} {reason}")
        explicit.clear()
        # the worst that a user can have switched; none of it may leak in or be changed
        with torch.backends.cudnn.flags(enabled=False, benchmark=False, deterministic=True, allow_tf32=True):
            verdict = examine(find(f"torch_cpu/{stem}"), p, plan=plan)
            assert torch.backends.cudnn.allow_tf32
            assert not torch.backends.cudnn.benchmark
        assert verdict.ok, f"{p}: {verdict.why}"
        assert not implicit, "F.conv2d obeys process-wide switches: call torch._convolution on CUDA"
        if kernel.algorithm == "direct":
            assert len(explicit) >= 5, "examine runs a plan at least five times"
        for call in explicit:
            told = dict(zip(CONVOLUTION, call, strict=True))
            assert told["allow_tf32"] is (kernel.accuracy == "tf32")
            assert told["cudnn_enabled"] and told["benchmark"] and not told["deterministic"]


@pytest.mark.parametrize("stem", stems("torch_mps"))
def test_mps_is_given_contiguous_arrays(stem, calls):
    explicit, implicit = calls
    for p in EVERY_OPTION:
        try:
            plan = find(f"torch_mps/{stem}").plan(p)
        except Unsupported as reason:
            pytest.skip(f"torch_mps/{stem} {reason}")
        verdict = examine(find(f"torch_cpu/{stem}"), p, plan=plan)
        assert verdict.ok, f"{p}: {verdict.why}"
        assert not explicit, "cuDNN's switches mean nothing to MPS"
        for x, w, *_ in implicit:
            assert x.is_contiguous() and w.is_contiguous()


def test_tf32_is_for_cuda_alone(plan_anywhere):
    p = Conv2d.parse("n1c3h5w6k4r3s3")
    for device in ("cpu", "mps"):
        with pytest.raises(Unsupported, match="CUDA"):
            find(f"torch_{device}/tf32").plan(p)
    assert find("torch_cuda/tf32").accuracy == "tf32"
    assert [find(f"torch_cuda/{s}").accuracy for s in stems("torch_cuda")].count("tf32") == 1


def test_weights_of_one_library_are_for_the_cpu_alone(plan_anywhere):
    for device in ("cuda", "mps"):
        with pytest.raises(Unsupported, match="CPU"):
            find(f"torch_{device}/packed").plan(Conv2d.parse("n1c3h5w6k4r3s3"))


# A matrix product takes no argument for its precision: a switch that lowers it is refused


@pytest.fixture
def matmul_precision():
    """Sets torch's older process-wide switch; the newer one, once touched, cannot be unset.

    Where another test has touched the newer one, what the older one tells need not be what is set.
    """
    torch.set_float32_matmul_precision("highest")
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_unfold_refuses_lowered_matrix_products(device, matmul_precision, plan_anywhere):
    kernel = find(f"torch_{device}/unfold")
    p = Conv2d.parse("n1c3h5w6k4r3s3")
    plan = kernel.plan(p)
    x, w, b = torch.randn(1, 3, 5, 6), torch.randn(4, 3, 3, 3), torch.randn(4)
    plan.run(x, plan.pack(w, b))
    matmul_precision("medium")
    with pytest.raises(Unsupported, match="full float32"):  # through the front door it is put right instead
        plan.run(x, plan.pack(w, b))
    kernel.plan(Conv2d.parse("n1c3h5w6k4r3s3-f64"))  # float64 is never lowered


@pytest.mark.parametrize("stem", ["channels_last", "packed", "tf32"])
def test_packed_weights_do_not_follow_later_changes(stem, plan_anywhere):
    p = Conv2d.parse("n1c4h5w6k8r1s1")  # a 1x1 filter has both memory orders at once
    plan = find(f"torch_{'cuda' if stem == 'tf32' else 'cpu'}/{stem}").plan(p)
    x, w, b = torch.randn(1, 4, 5, 6), torch.randn(8, 4, 1, 1), torch.randn(8)
    weights = plan.pack(w, b)
    before = plan.run(x, weights)
    w.fill_(0)
    b.fill_(0)
    assert torch.equal(plan.run(x, weights), before)
