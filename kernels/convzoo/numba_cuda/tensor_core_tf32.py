"""Tensor cores: a warp multiplies matrices of 16 x 8 by 8 x 8 in one instruction, in 11 bits.

After    numba_cuda/async_tile   (new here: lines marked # 1)
Idea     A tensor core does the products of 1024 FMAs with one instruction of a warp (HMMA), where numbers
         may be rounded to TF32: the range of float32 with 11 bits. Its operands lie spread over the
         registers of the 32 lanes. Whatever way leads there must keep up: x and w come to shared memory by
         copies of 16 bytes that nobody waits for (LDGSTS), three steps in flight, and to the registers by
         LDS.128. A warp computes 64 pixels by 64 filters, so that each number loaded is used 64 times.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: x[N,H,W,C] in fours of channels, packed weights [K,taps], three stages of 16 taps of both
Threads  block 128, 4 warps: 128 pixels by 128 filters; smaller warps and blocks for small problems; grid
         ⌈N·P·Q/pixels⌉·⌈K/G/filters⌉·G
Cost     FLOP   2·N·K·P·Q·C/G·R·S in HMMA, tiles and steps of 16 taps filled up with zeros
         bytes  x: 4·N·P·Q·C/G·R·S for each of ⌈K/G/filters⌉ tiles, w: 4·K·C/G·R·S for each of
                ⌈N·P·Q/pixels⌉, from L2; y once; nchw, and nhwc where 4 does not divide C/G: x is first
                copied into the order of the loads, read and written once more
Limits   rounds x and w to 11 bits, to the nearest (TF32 cut off instead would be biased); mma.sync reaches
         about 62 % of what Hopper's tensor cores can (arXiv:2402.13499); fewer than 64 filters in a
         group leave them idle; less than 2^32 elements; needs compute capability 8.0 and the package
         numba-cuda; compiled once for each problem
Source   own; NVIDIA, PTX ISA, "Matrix Fragments for mma.m16n8k8" and "cp.async"; stages and warp tiles as
         in CUTLASS, media/docs/efficient_gemm.md
"""

from numba import cuda, float32, uint32

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._launch import Launch
from ._ptx import commit, copy4_async, load4, mma_tf32, tf32, wait_for_all_but
from ._tensor_tiles import DEPTH, NOWHERE, Cut, Tile, copying, cut, packing, planned

ALGORITHM = "gemm"
ACCURACY = "tf32"
DTYPES = ("float32",)
TILES = (Tile(128, 128, 64, 64, 2), Tile(64, 64, 32, 32, 4), Tile(32, 32, 32, 32, 8))
STAGES = 3
AHEAD = STAGES - 1  # steps whose copies are on their way
YOUNGER = STAGES - 2  # of which these may be unfinished when a step begins


def build(c: Cut):
    """The kernel for one problem, not yet compiled."""
    prob = c.problem
    PIXELS, FILTERS, HIGH, WIDE, _ = c.tile
    THREADS, nhwc = c.tile.threads, prob.layout == "nhwc"
    ROWS, COLUMNS = HIGH // 16, WIDE // 8  # of a warp's tile, in matrices of 16 x 8 outputs
    X_STAGE, W_STAGE = PIXELS * DEPTH, FILTERS * DEPTH
    X_SIZE, W_SIZE = STAGES * X_STAGE, STAGES * W_STAGE
    LINES = THREADS // 4  # rows that the threads copy at once, four of them 16 bytes each of a row
    X_COPIES, W_COPIES = PIXELS // LINES, FILTERS // LINES
    warps_down = uint32(PIXELS // HIGH)
    K, H, W, P, Q, S = (uint32(getattr(prob, n)) for n in "KHWPQS")
    F, M, quads, width, steps, across, down = (
        uint32(n) for n in (c.filters, c.pixels, c.quads, c.width, c.steps, c.across, c.down)
    )
    (top, left), (stride_h, stride_w) = map(uint32, prob.padding[::2]), map(uint32, prob.stride)
    step_h, step_w = map(uint32, prob.dilation)
    beside, depth = uint32(prob.groups * c.width), uint32(c.steps * DEPTH)  # between pixels, filters

    @cuda.jit(device=True, inline="always")
    def fetch(xs, ws, x, w, row, column, origin, t, f0, g, step):
        quad, line = t % uint32(4), t // uint32(4)
        j = uint32(step * 4 + quad)  # of the fours of taps
        tap, channel = j // (width // 4), j % (width // 4) * 4
        rows, columns = uint32(tap // S * step_h), uint32(tap % S * step_w)
        offset, stage = uint32((rows * W + columns) * beside + channel), step % STAGES
        for e in range(X_COPIES):
            h, v = uint32(row[e] + rows), uint32(column[e] + columns)
            inside = j < quads and top <= h < top + H and left <= v < left + W
            at = uint32(origin[e] + offset - (top * W + left) * beside) if inside else uint32(0)
            to = uint32(stage * X_STAGE + (line + uint32(e * LINES)) * DEPTH + quad * 4)
            copy4_async(xs, to, x, at, inside)
        for e in range(W_COPIES):
            f = uint32(f0 + line + uint32(e * LINES))
            at = uint32((g * F + f) * depth + step * DEPTH + quad * 4) if f < F else uint32(0)
            to = uint32(stage * W_STAGE + (line + uint32(e * LINES)) * DEPTH + quad * 4)
            copy4_async(ws, to, w, at, f < F)

    @cuda.jit(device=True, inline="always")
    def multiply(a, b, sums, i, j, half):  # 1
        c0, c1, c2, c3 = mma_tf32(
            a[0, 2 * half], a[1, 2 * half], a[0, 2 * half + 1], a[1, 2 * half + 1],
            b[j, 2 * half], b[j, 2 * half + 1],
            sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3],
        )  # fmt: skip
        sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3] = c0, c1, c2, c3

    @cuda.jit(device=True, inline="always")
    def load(to, i, of, at):
        v0, v1, v2, v3 = load4(of, at)
        to[i, 0], to[i, 1], to[i, 2], to[i, 3] = tf32(v0), tf32(v1), tf32(v2), tf32(v3)  # 1

    def convolve(x, w, bias, y):
        xs = cuda.shared.array(X_SIZE, float32, alignment=16)
        ws = cuda.shared.array(W_SIZE, float32, alignment=16)
        sums = cuda.local.array((ROWS, COLUMNS, 4), float32)  # 1
        a, b = cuda.local.array((2, 4), float32), cuda.local.array((COLUMNS, 4), float32)
        origin = cuda.local.array(
            X_COPIES, uint32
        )  # of the windows of the pixels that this thread copies
        row = cuda.local.array(X_COPIES, uint32)
        column = cuda.local.array(X_COPIES, uint32)
        t, i = (
            uint32(cuda.threadIdx.x),
            uint32(cuda.blockIdx.x),
        )  # neighbouring blocks share pixels, in L2
        f0, m0, g = i % across * FILTERS, i // across % down * PIXELS, i // across // down
        for e in range(X_COPIES):
            m = uint32(m0 + t // uint32(4) + uint32(e * LINES))
            n, p, q = m // Q // P, m // Q % P, m % Q
            row[e] = p * stride_h if m < M else NOWHERE
            column[e] = q * stride_w
            origin[e] = ((n * H + p * stride_h) * W + q * stride_w) * beside + g * width
        for i in range(ROWS):
            for j in range(COLUMNS):
                for e in range(4):
                    sums[i, j, e] = float32(0)
        lane, warp = t % uint32(32), t // uint32(32)
        m, f = (
            uint32(warp % warps_down * HIGH + lane // 4),
            uint32(warp // warps_down * WIDE + lane // 4),
        )
        # Lane t of four reads 16 bytes, taps 4t to 4t + 3, of its row: as good an order of the taps as any
        # if x and w have the same, and 8 lanes then read 128 bytes in a row, which meet no bank twice.
        at_x, at_w = uint32(m * DEPTH + lane % 4 * 4), uint32(f * DEPTH + lane % 4 * 4)

        for step in range(AHEAD):
            if step < steps:
                fetch(xs, ws, x, w, row, column, origin, t, f0, g, uint32(step))
            commit()
        for step in range(uint32(0), steps):
            wait_for_all_but(YOUNGER)  # this step has landed
            cuda.syncthreads()  # for all threads; and the step before has been read
            if step + AHEAD < steps:
                fetch(xs, ws, x, w, row, column, origin, t, f0, g, uint32(step + AHEAD))
            commit()
            of_x, of_w = uint32(step % STAGES * X_STAGE + at_x), uint32(step % STAGES * W_STAGE + at_w)
            for j in range(COLUMNS):
                load(b, j, ws, uint32(of_w + uint32(j * 8 * DEPTH)))
            for i in range(ROWS):
                load(a, 0, xs, uint32(of_x + uint32(i * 16 * DEPTH)))
                load(a, 1, xs, uint32(of_x + uint32((i * 16 + 8) * DEPTH)))
                for half in range(2):
                    for j in range(COLUMNS):
                        multiply(a, b, sums, i, j, half)

        for i in range(ROWS):
            for half in range(2):
                pixel = uint32(m0 + m + uint32(i * 16 + half * 8))
                if pixel < M:
                    n, pq = pixel // (P * Q), pixel % (P * Q)
                    for e in range(2 * COLUMNS):
                        filter = uint32(
                            f0 + (f - lane // 4) + lane % 4 * 2 + uint32(e // 2 * 8 + e % 2)
                        )
                        if filter < F:
                            k = uint32(g * F + filter)
                            at = pixel * K + k if nhwc else (n * K + k) * (P * Q) + pq
                            y[uint32(at)] = sums[i, e // 2, 2 * half + e % 2] + bias[k]

    return convolve


def launches(p: Conv2d) -> tuple[Launch, ...]:
    c = cut(p, TILES)
    signature = "void(float32[::1], float32[::1], float32[::1], float32[::1])"
    convolve = Launch("convolve", build(c), signature, c.blocks, c.tile.threads, c.tile.together)
    return (packing(c), *([copying(c)] if c.copied else []), convolve)


def plan(p: Conv2d) -> Plan:
    return planned(cut(p, TILES), launches(p))
