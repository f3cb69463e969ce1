"""Copies that nobody waits for: while a block multiplies, its next three steps are on their way.

After    numba_cuda/vector_loads   (new here: lines marked # 1)
Idea     Until now all threads of a block waited for memory before each step of 8 taps, and the values went
         through registers. Here the loads of a step are started three steps earlier, as copies from global
         to shared memory that no register holds (cp.async, LDGSTS). Four stages of shared memory take
         turns: one is read while three are filled, and one barrier a step is enough, because what is
         overwritten was read before it. A copy of 4 bytes puts a value of x anywhere, so that both layouts
         are read as they are; one that would lie outside of the image writes a zero and reads nothing.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: taps (r, s, c), packed weights [G,taps,K/G], four stages of 8 taps of x and of w
Threads  block 256 for 128 pixels by 128 filters, fewer where a small problem wants smaller tiles; grid
         ⌈N·P·Q/pixels⌉·⌈K/G/filters⌉·G·parts, the parts of the taps being added at the end
Cost     FLOP   2·N·K·P·Q·C/G·R·S, tiles and steps of 8 taps filled up with zeros
         bytes  x: 4·N·P·Q·C/G·R·S for each of ⌈K/G/filters⌉ tiles, w: 4·K·C/G·R·S for each of
                ⌈N·P·Q/pixels⌉, from L2; y once, and twice for every part where there are parts
Limits   every product is one FMA of 32 bits: its ceiling is theirs; where C/G is no multiple of 8 a table
         says where taps lie, and is loaded for each; fewer than 16 filters in a group leave threads idle;
         less than 2^32 elements; needs compute capability 8.0; compiled once a problem
Source   own; NVIDIA, CUDA C++ Programming Guide, "Asynchronous Data Copies"; stages as in CUTLASS,
         media/docs/efficient_gemm.md, "Pipelining"
"""

from numba import cuda, float32, uint32, uint64

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._implicit_gemm import DEPTH, NOWHERE, Gemm, adding, cut, packing, planned, storing
from ._launch import Launch
from ._ptx import commit, copy1_async, copy4_async, load4, wait_for_all_but

ALGORITHM = "gemm"
DTYPES = ("float32",)
STAGES = 4  # 1
AHEAD = STAGES - 1  # 1 steps whose copies are on their way
YOUNGER = STAGES - 2  # 1 of which these may be unfinished when a step begins


def build(gemm: Gemm):
    """The kernel for one problem, not yet compiled."""
    prob = gemm.problem
    PIXELS, FILTERS, HIGH, WIDE = gemm.tile
    THREADS, nhwc = gemm.tile.threads, prob.layout == "nhwc"
    PITCH = PIXELS + 4  # in nhwc a warp writes 8 taps of 4 pixels: this spreads them over all banks
    X_STAGE, W_STAGE = DEPTH * PITCH, DEPTH * FILTERS
    X_SIZE, W_SIZE = STAGES * X_STAGE, STAGES * W_STAGE
    X_COPIES, W_COPIES = DEPTH * PIXELS // THREADS, DEPTH * FILTERS // 4 // THREADS
    rows_of_warps = uint32(PIXELS // (8 * HIGH))
    C, H, W, P, Q, S = (uint32(n) for n in (prob.C, prob.H, prob.W, prob.P, prob.Q, prob.S))
    G, M, depth, width = (uint32(n) for n in (prob.groups, gemm.pixels, *gemm.packed[1:]))
    across, down, steps, each = map(uint32, (gemm.across, gemm.down, gemm.steps, gemm.steps_of_part))
    (top, left), (stride_h, stride_w) = map(uint32, prob.padding[::2]), map(uint32, prob.stride)
    step_h, step_w = map(uint32, prob.dilation)
    next_c, next_v = (uint32(1), C) if nhwc else (H * W, uint32(1))  # from one to the next, in x
    stages = uint32(STAGES)
    minus_padding = uint64(2**32 - (prob.padding[0] * prob.W + prob.padding[2]) * int(next_v))
    whole = prob.C // prob.groups % DEPTH == 0  # are all taps of a step channels of one (r, s)?
    pieces = uint32(max(1, prob.C // prob.groups // DEPTH))

    store = storing(gemm, vectors=True)

    @cuda.jit(device=True, inline="always")
    def fetch(xs, ws, x, w, table, row, column, origin, k0, to_x, to_w, from_w, step):  # 1
        stage, first = step % stages, uint32(step * DEPTH)
        tap, c0 = step // pieces, step % pieces * DEPTH
        for e in range(X_COPIES):
            more_k, more_pixels = (0, e * (THREADS // DEPTH)) if nhwc else (e * (THREADS // PIXELS), 0)
            if whole:
                rows, columns = uint32(tap // S * step_h), uint32(tap % S * step_w)
                offset = uint32((rows * W + columns) * next_v + (c0 + k0) * next_c)
                more = more_k * next_c
            else:
                j = uint32(first + k0 + more_k)
                offset, rows, columns, more = table[j], table[depth + j], table[depth + depth + j], 0
            h, v = uint32(row[e] + rows), uint32(column[e] + columns)
            inside = top <= h < top + H and left <= v < left + W
            at = uint32(uint64(origin[e]) + offset)  # modulo 2^32; anywhere if not inside
            to = uint32(stage * X_STAGE + to_x) + (more_k * PITCH + more_pixels)
            copy1_async(xs, to, x, uint64(at) + more, inside)
        for e in range(W_COPIES):
            more = e * (THREADS * 4)
            at = uint32(first * width + from_w) + more // FILTERS * width
            copy4_async(ws, uint32(stage * W_STAGE + to_w) + more, w, at, True)

    @cuda.jit(device=True, inline="always")
    def multiply(xs, ws, sums, m, f, k):  # one tap of the tile
        a, b = cuda.local.array(HIGH, float32), cuda.local.array(WIDE, float32)
        for i in range(0, HIGH, 4):
            a[i], a[i + 1], a[i + 2], a[i + 3] = load4(xs, m + uint32(k * PITCH + i * 8))
        for j in range(0, WIDE, 4):
            b[j], b[j + 1], b[j + 2], b[j + 3] = load4(ws, f + uint32(k * FILTERS + j * 4))
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] += a[i] * b[j]

    def convolve(x, w, b, table, y):
        xs = cuda.shared.array(X_SIZE, float32, alignment=16)
        ws = cuda.shared.array(W_SIZE, float32, alignment=16)
        sums = cuda.local.array((HIGH, WIDE), float32)
        origin = cuda.local.array(
            X_COPIES, uint32
        )  # of the windows of the pixels that this thread copies
        row = cuda.local.array(X_COPIES, uint32)
        column = cuda.local.array(X_COPIES, uint32)
        t, i = (
            uint32(cuda.threadIdx.x),
            uint32(cuda.blockIdx.x),
        )  # neighbouring blocks share pixels, in L2
        f0, m0 = uint32(i % across * FILTERS), uint32(i // across % down * PIXELS)
        g, part = i // across // down % G, i // across // down // G
        for e in range(X_COPIES):
            u = uint32(t + uint32(e * THREADS))
            m = uint32(m0 + (u // DEPTH if nhwc else u % PIXELS))
            n, p, q = m // Q // P, m // Q % P, m % Q
            row[e] = p * stride_h if m < M else NOWHERE
            column[e] = q * stride_w
            origin[e] = (n * H * W + p * stride_h * W + q * stride_w) * next_v
            origin[e] += g * (C // G) * next_c if nhwc else (n * (C - 1) + g * (C // G)) * next_c
            origin[e] = uint32(uint64(origin[e]) + minus_padding)
        for i in range(HIGH):
            for j in range(WIDE):
                sums[i, j] = float32(0)
        lane, warp = t % uint32(32), t // uint32(32)
        m = uint32(warp % rows_of_warps * (8 * HIGH) + lane // 2 % 8 * 4)
        f = uint32(warp // rows_of_warps * (4 * WIDE) + (lane % 2 + lane // 16 * 2) * 4)
        k0, pixel = (t % DEPTH, t // DEPTH) if nhwc else (t // PIXELS, t % PIXELS)
        to_x, to_w = uint32(k0 * PITCH + pixel), uint32(t * 4)
        from_w = uint32((g * depth + to_w // FILTERS) * width + f0 + to_w % FILTERS)

        step, end = uint32(part * each), uint32(min(part * each + each, steps))
        for ahead in range(AHEAD):  # 1
            if step + ahead < end:
                coming = uint32(step + ahead)
                fetch(xs, ws, x, w, table, row, column, origin, k0, to_x, to_w, from_w, coming)
            commit()
        while step < end:
            wait_for_all_but(YOUNGER)  # 1 this step has landed
            cuda.syncthreads()  # 1 for all threads; and the step before has been read
            coming = uint32(step + AHEAD)
            if coming < end:
                fetch(xs, ws, x, w, table, row, column, origin, k0, to_x, to_w, from_w, coming)
            commit()
            at_x, at_w = uint32(step % stages * X_STAGE + m), uint32(step % stages * W_STAGE + f)
            multiply(xs, ws, sums, at_x, at_w, 0)
            multiply(xs, ws, sums, at_x, at_w, 1)
            multiply(xs, ws, sums, at_x, at_w, 2)
            multiply(xs, ws, sums, at_x, at_w, 3)
            multiply(xs, ws, sums, at_x, at_w, 4)
            multiply(xs, ws, sums, at_x, at_w, 5)
            multiply(xs, ws, sums, at_x, at_w, 6)
            multiply(xs, ws, sums, at_x, at_w, 7)
            step = uint32(step + 1)

        store(y, b, sums, part, g, uint32(m0 + m), uint32(f0 + f))

    return convolve


def launches(p: Conv2d) -> tuple[Launch, ...]:
    gemm = cut(p)
    threads = gemm.tile.threads
    signature = "void(float32[::1], float32[::1], float32[::1], uint32[::1], float32[::1])"
    convolve = Launch("convolve", build(gemm), signature, gemm.blocks, threads, max(1, 512 // threads))
    return (packing(gemm), convolve, *([adding(gemm)] if gemm.parts > 1 else []))


def plan(p: Conv2d) -> Plan:
    return planned(cut(p), launches(p))
