"""The choice behind kernel="auto": a written rule, made from recorded results where there are any.

The rule for arrays on a GPU is unmeasured: no GPU's record exists yet. It follows from what each kernel's file
states: its guarantee, the compute capability that it needs, and the shapes that leave its tiles idle.
"""

from __future__ import annotations

from .problem import Conv2d

ROUNDED = ("tf32", "half")  # guarantees that let products be rounded before they are added
FEW_TAPS = 32  # products in a sum, below which tensor cores break the elementwise bound


def rule(
    p: Conv2d, owner: str | None, device: str, scenario: str, accuracy: str = "elementwise",
    capability: int | None = None,
) -> list[str]:  # fmt: skip
    """The written rule behind kernel="auto": names in the order in which they are tried.

    The library of the arrays decides the family. ``capability`` is a GPU's compute capability, as 90 for
    9.0; None for Numba's simulator.
    """
    if owner == "torch":
        if device != "cpu":
            rounded = device == "cuda" and accuracy in ROUNDED and p.dtype == "float32"
            return [*["torch_cuda/tf32"] * rounded, f"torch_{device}/builtin"]
        first = "packed" if scenario == "packed" and p.dtype == "float32" else "builtin"
        return [f"torch_cpu/{first}", "torch_cpu/builtin"]
    if owner == "cupy":
        # with groups = C a matrix product would be of one row
        plain = (
            ["raw_naive", "im2col", "shifted"]
            if p.groups == p.C
            else ["im2col", "shifted", "raw_naive"]
        )
        return [f"cupy/{idea}" for idea in (*_tiles_on_cupy(p, accuracy, capability or 0), *plain)]
    if owner == "numba_cuda":
        tiles = _tiles_on_numba_cuda(p, accuracy, capability or 0)
        return [f"numba_cuda/{idea}" for idea in (*tiles, "shared_tile", "coalesced", "naive")]
    order = _rule_for_numpy(p, scenario == "packed", accuracy)
    return [*_on_a_matrix_unit(p, scenario, accuracy), *order, "numpy/im2col", "numpy/shifted"]


def _on_a_matrix_unit(p: Conv2d, scenario: str, accuracy: str) -> list[str]:
    """Kernels that refuse a CPU without the unit; packing weights for it takes longer than an eager call.

    Unlike the rest of the rule this follows loops on a noisy host, not records: there are none yet.
    """
    if p.dtype != "float32" or scenario != "packed" or p.C // p.groups < 32 or p.flops < 1e7:
        return []
    own = {"half": ["numba/amx_bf16"], "tf32": ["numba/amx_3xbf16"]}.get(accuracy, [])
    # with stride 1 Winograd makes 3 x 3 filters cheaper where more than the elementwise guarantee is not asked
    winograd = accuracy == "normwise" and p.R * p.S > 1 and p.stride == (1, 1)
    return [*own, *([] if winograd else ["numba/amx_6xbf16"])]


def _tiles_on_cupy(p: Conv2d, accuracy: str, capability: int) -> list[str]:
    """Unmeasured: kernels with a tile of sums in registers, the one with most multiply-adds a cycle first."""
    outputs, found = p.K // p.groups, []
    if p.dtype != "float32" or outputs < 32:  # fewer filters leave most of a tile idle
        return found
    if accuracy in ROUNDED and capability >= 80:
        found.append("tensor_core_tf32")
    if p.taps >= FEW_TAPS and capability == 90:
        found.append("wgmma_3xtf32")
    if p.taps >= FEW_TAPS and capability >= 80:
        found.append("tensor_core_3xtf32")
    return [*found, "raw_register_tile"]


def _tiles_on_numba_cuda(p: Conv2d, accuracy: str, capability: int) -> list[str]:
    """Unmeasured: the same for kernels that need the package numba-cuda and a real GPU."""
    outputs, found, single = p.K // p.groups, [], p.dtype == "float32"
    if outputs < 16 or not capability:
        return found
    if single and accuracy in ROUNDED and capability >= 80 and outputs >= 64:
        found.append("tensor_core_tf32")
    if single and accuracy != "elementwise" and min(p.C, outputs) >= 32:  # else all is transforms
        found.append("winograd")  # refuses all but 3 x 3 filters at stride 1
    if single and p.taps >= FEW_TAPS and capability >= 80 and outputs >= 32:
        found.append("tensor_core_3xtf32")
    if single:
        found.append("async_tile" if capability >= 80 else "vector_loads")
    return [*found, "register_tile"]


def _rule_for_numpy(p: Conv2d, packed: bool, accuracy: str) -> list[str]:
    """Numba kernels in the order of their times on two threads of a Zen 4 (reports/cpu_kernels.md)."""
    inputs, outputs = p.C // p.groups, p.K // p.groups
    # few_channels sorts columns by their stride; with 5 x 20 or 11 x 11 taps register_tile is faster by 10 to 20 %
    small = p.stride == (1, 1) or (max(p.stride) <= 2 and p.R * p.S <= 49)
    few = outputs <= 8 or (inputs <= 4 and p.layout == "nchw" and small)
    # channels in the lanes leave up to half of them empty; more input channels make up for it
    odd = outputs <= 24 and outputs % 16 and inputs <= 64 and p.layout == "nchw" and p.stride == (1, 1)
    few = few or bool(odd)
    own = ["numba/few_channels", "numba/register_tile"]
    order = own if few else own[::-1]
    if inputs == 1:
        return ["numba/depthwise", *order]
    # what packing costs must pay off within one call, eagerly; Winograd's is up to four times the bytes of w
    pixels, least = p.N * p.P * p.Q, 0 if packed else 180
    one_tap = (p.R, p.S) == (1, 1)
    if one_tap:
        # with a stride in nchw: alike at N = 1, but at N = 16 register_tile takes up to 0.6 of the time
        strided = p.layout == "nchw" and p.stride != (1, 1)
        order = [*order, "numba/pointwise"] if strided else ["numba/pointwise", *order]
    if not (packed or few) and (one_tap or pixels <= 800):
        order = ["numba/unpacked", *order]  # refuses nhwc
    if one_tap:
        return order
    if accuracy == "elementwise":
        return order
    if not odd and _pays_to_cut(p, packed):
        return ["numba/winograd_decomposed", *order]
    winograd = []
    # filters that leave the second-level cache while they are packed need more pixels to pay for it
    larger = least if p.K * p.C <= 2**16 or packed else 400
    if inputs >= 8 and outputs >= 12 and pixels >= larger:
        winograd = ["numba/winograd"]
    if inputs >= 32 and outputs >= 24 and pixels >= least:
        winograd = [*winograd, "numba/winograd_small"]
    return [*winograd, *order]


def _pays_to_cut(p: Conv2d, packed: bool) -> bool:
    """Whether numba/winograd_decomposed is faster than direct kernels; others refuse what it refuses."""
    (down, right), taps = p.stride, p.R * p.S
    if p.groups > 1 or right > 2 or p.dilation != (1, 1) or (p.R, p.S, p.stride) == (3, 3, (1, 1)):
        return False
    # with one tap in a row or column, or hardly more taps than the stride, there is nothing to save;
    # with few taps of all channels, or few outputs, transforms take longer than products
    if down >= p.R or right >= p.S or p.C * taps <= 100 or p.K < 16:
        return False
    high, wide = -(-p.P // 4), -(-p.Q // 4)
    tiles = p.N * high * wide
    if 16 * high * wide > 2 * p.P * p.Q:
        return False  # mostly outside of y
    # numbers for each filter of one channel: read from memory, they must serve many tiles
    weights = 36 * max(down, -(-p.R // 3)) * max(right, -(-p.S // 3)) * p.K * p.C * p.itemsize
    if weights > (10e6 if tiles < 100 else 20e6):
        return False
    return packed or p.N * p.P * p.Q * taps > 15_000
