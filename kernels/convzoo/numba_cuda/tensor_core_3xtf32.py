"""Float32 accuracy from tensor cores of 11 bits: each number is split in two, three products make one.

After    numba_cuda/tensor_core_tf32   (new here: lines marked # 1 split, # 2 multiply and add apart)
Idea     v = big + small: big is v rounded to TF32, small what is left, rounded as well; together 22 to 24
         bits. x·w is then big·big + (small·big + big·small); small·small, 2^-22 of it at most, is left out.
         Tensor cores multiply TF32 fast enough to pay for three. They cut their sums instead of rounding
         them, which would add up: so the big products and the rest, 2^-11 of them, are summed apart and
         added once. Numbers of up to 12 bits are split without loss: integers come out exact.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: x[N,H,W,C] in fours of channels, packed weights [K,taps], three stages of 16 taps of both
Threads  block 256, 8 warps of 32 pixels by 32 filters each: 128 pixels by 64 filters; smaller blocks of the
         same warps for small problems; grid ⌈N·P·Q/pixels⌉·⌈K/G/filters⌉·G
Cost     FLOP   3·2·N·K·P·Q·C/G·R·S in HMMA, tiles and steps of 16 taps filled up with zeros
         bytes  x: 4·N·P·Q·C/G·R·S for each of ⌈K/G/filters⌉ tiles, w: 4·K·C/G·R·S for each of
                ⌈N·P·Q/pixels⌉, from L2, all by LDGSTS of 16 bytes and LDS.128; y once; nchw, and nhwc
                where 4 does not divide C/G: x is first copied, read and written once more
Limits   sums of fewer than 32 products are refused: what the split loses would break the bound there;
         an infinity makes NaN (its small part is Inf - Inf), numbers below 2^-115 lose their small part;
         fewer than 32 filters in a group leave tensor cores idle; less than 2^32 elements; needs compute
         capability 8.0 and the package numba-cuda; compiled once for each problem
Source   own; Ootomo and Yokota, Recovering single precision accuracy from Tensor Cores while surpassing
         the FP32 theoretical peak performance, 2022; CUTLASS, example 28, for the three products
"""

from numba import cuda, float32, uint32

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

from ._launch import Launch
from ._ptx import commit, copy4_async, load4, mma_tf32, store4, tf32, wait_for_all_but
from ._tensor_tiles import DEPTH, NOWHERE, Cut, Tile, copying, cut, packing, planned

ALGORITHM = "gemm"
DTYPES = ("float32",)
TILES = (Tile(128, 64, 32, 32, 2), Tile(64, 64, 32, 32, 4), Tile(32, 32, 32, 32, 8))
STAGES = 3
AHEAD = STAGES - 1  # steps whose copies are on their way
YOUNGER = STAGES - 2  # of which these may be unfinished when a step begins
FEWEST = 32  # products in a sum


def build(c: Cut):
    """The kernel for one problem, not yet compiled."""
    prob = c.problem
    PIXELS, FILTERS, HIGH = c.tile[:3]
    THREADS, ROWS, nhwc = c.tile.threads, HIGH // 16, prob.layout == "nhwc"
    X_STAGE, W_STAGE = PIXELS * DEPTH, FILTERS * DEPTH
    X_SIZE, W_SIZE, WINDOWS = STAGES * X_STAGE, STAGES * W_STAGE, 4 * PIXELS
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
    def fetch(xs, ws, x, w, windows, t, f0, g, step):
        quad, line = t % uint32(4), t // uint32(4)
        j = uint32(step * 4 + quad)  # of the fours of taps
        tap, channel = j // (width // 4), j % (width // 4) * 4
        rows, columns = uint32(tap // S * step_h), uint32(tap % S * step_w)
        offset, stage = uint32((rows * W + columns) * beside + channel), step % STAGES
        for e in range(X_COPIES):
            row, column, origin, _ = load4(windows, uint32((line + uint32(e * LINES)) * 4))
            h, v = uint32(row + rows), uint32(column + columns)
            inside = j < quads and top <= h < top + H and left <= v < left + W
            at = uint32(origin + offset - (top * W + left) * beside) if inside else uint32(0)
            to = uint32(stage * X_STAGE + (line + uint32(e * LINES)) * DEPTH + quad * 4)
            copy4_async(xs, to, x, at, inside)
        for e in range(W_COPIES):
            f = uint32(f0 + line + uint32(e * LINES))
            at = uint32((g * F + f) * depth + step * DEPTH + quad * 4) if f < F else uint32(0)
            to = uint32(stage * W_STAGE + (line + uint32(e * LINES)) * DEPTH + quad * 4)
            copy4_async(ws, to, w, at, f < F)

    @cuda.jit(device=True, inline="always")
    def multiply(x_big, x_small, w_big, w_small, sums, rest, i, j):  # 2
        a0, a1, a2, a3 = x_big[i, 0], x_big[i, 1], x_big[i, 2], x_big[i, 3]
        s0, s1, s2, s3 = x_small[i, 0], x_small[i, 1], x_small[i, 2], x_small[i, 3]
        b0, b1 = w_big[0], w_big[1]
        c0, c1, c2, c3 = rest[i, j, 0], rest[i, j, 1], rest[i, j, 2], rest[i, j, 3]
        c0, c1, c2, c3 = mma_tf32(s0, s1, s2, s3, b0, b1, c0, c1, c2, c3)
        c0, c1, c2, c3 = mma_tf32(a0, a1, a2, a3, w_small[0], w_small[1], c0, c1, c2, c3)
        rest[i, j, 0], rest[i, j, 1], rest[i, j, 2], rest[i, j, 3] = c0, c1, c2, c3
        c0, c1, c2, c3 = sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3]
        c0, c1, c2, c3 = mma_tf32(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3)
        sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3] = c0, c1, c2, c3

    def convolve(x, w, b, y):
        xs = cuda.shared.array(X_SIZE, float32, alignment=16)
        ws = cuda.shared.array(W_SIZE, float32, alignment=16)
        sums = cuda.local.array((ROWS, 4, 4), float32)
        rest = cuda.local.array((ROWS, 4, 4), float32)  # 2
        x_all, w_all = cuda.local.array((ROWS, 2, 4), float32), cuda.local.array((4, 4), float32)
        x_big = cuda.local.array((ROWS, 4), float32)
        x_small = cuda.local.array((ROWS, 4), float32)
        w_big = cuda.local.array(2, float32)
        w_small = cuda.local.array(2, float32)
        windows = cuda.shared.array(
            WINDOWS, uint32, alignment=16
        )  # of the pixels: row, column, origin in x
        t, i = (
            uint32(cuda.threadIdx.x),
            uint32(cuda.blockIdx.x),
        )  # neighbouring blocks share pixels, in L2
        f0, m0, g = i % across * FILTERS, i // across % down * PIXELS, i // across // down
        if t < PIXELS:
            m = uint32(m0 + t)
            n, p, q = m // Q // P, m // Q % P, m % Q
            origin = uint32(((n * H + p * stride_h) * W + q * stride_w) * beside + g * width)
            row = uint32(p * stride_h if m < M else NOWHERE)
            store4(windows, uint32(t * 4), row, uint32(q * stride_w), origin, uint32(0))
        cuda.syncthreads()
        for i in range(ROWS):
            for j in range(4):
                for e in range(4):
                    sums[i, j, e] = rest[i, j, e] = float32(0)
        lane, warp = t % uint32(32), t // uint32(32)
        m, f = uint32(warp % warps_down * HIGH + lane // 4), uint32(warp // warps_down * 32 + lane // 4)
        # Lane t of four reads 16 bytes, taps 4t to 4t + 3, of its row: as good an order of the taps as any
        # if x and w have the same, and 8 lanes then read 128 bytes in a row, which meet no bank twice.
        at_x, at_w = uint32(m * DEPTH + lane % 4 * 4), uint32(f * DEPTH + lane % 4 * 4)

        for step in range(AHEAD):
            if step < steps:
                fetch(xs, ws, x, w, windows, t, f0, g, uint32(step))
            commit()
        for step in range(uint32(0), steps):
            wait_for_all_but(YOUNGER)  # this step has landed
            cuda.syncthreads()  # for all threads; and the step before has been read
            if step + AHEAD < steps:
                fetch(xs, ws, x, w, windows, t, f0, g, uint32(step + AHEAD))
            commit()
            of_x, of_w = uint32(step % STAGES * X_STAGE + at_x), uint32(step % STAGES * W_STAGE + at_w)
            for j in range(4):
                w_all[j, 0], w_all[j, 1], w_all[j, 2], w_all[j, 3] = load4(
                    ws, uint32(of_w + uint32(j * 8 * DEPTH))
                )
            for i in range(ROWS):
                for e in range(2):
                    x_all[i, e, 0], x_all[i, e, 1], x_all[i, e, 2], x_all[i, e, 3] = load4(
                        xs, uint32(of_x + uint32((i * 16 + e * 8) * DEPTH))
                    )
            for half in range(2):
                for i in range(ROWS):
                    for e in range(4):  # 1
                        v = x_all[i, e % 2, 2 * half + e // 2]
                        x_big[i, e] = tf32(v)
                        x_small[i, e] = tf32(v - x_big[i, e])
                for j in range(4):
                    for e in range(2):  # 1
                        v = w_all[j, 2 * half + e]
                        w_big[e] = tf32(v)
                        w_small[e] = tf32(v - w_big[e])
                    for i in range(ROWS):
                        multiply(x_big, x_small, w_big, w_small, sums, rest, i, j)

        for i in range(ROWS):
            for half in range(2):
                pixel = uint32(m0 + m + uint32(i * 16 + half * 8))
                if pixel < M:
                    n, pq = pixel // (P * Q), pixel % (P * Q)
                    for e in range(8):
                        filter = uint32(
                            f0 + (f - lane // 4) + lane % 4 * 2 + uint32(e // 2 * 8 + e % 2)
                        )
                        if filter < F:
                            k = uint32(g * F + filter)
                            at = pixel * K + k if nhwc else (n * K + k) * (P * Q) + pq
                            total = (
                                sums[i, e // 2, 2 * half + e % 2] + rest[i, e // 2, 2 * half + e % 2]
                            )
                            y[uint32(at)] = total + b[k]

    return convolve


def launches(p: Conv2d) -> tuple[Launch, ...]:
    if p.taps < FEWEST:
        raise Unsupported(
            f"needs at least {FEWEST} products in a sum to keep its guarantee, got {p.taps}"
        )
    c = cut(p, TILES)
    signature = "void(float32[::1], float32[::1], float32[::1], float32[::1])"
    convolve = Launch("convolve", build(c), signature, c.blocks, c.tile.threads, c.tile.together)
    return (packing(c), *([copying(c)] if c.copied else []), convolve)


def plan(p: Conv2d) -> Plan:
    return planned(cut(p, TILES), launches(p))
