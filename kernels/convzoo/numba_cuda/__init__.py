"""numba.cuda kernels: CUDA written in Python, compiled for the GPU by Numba.

Reading order
    naive         one thread computes one output, with indexing as in the formula
    coalesced     the same body; neighbouring threads take neighbouring pixels, so a warp reads one line
    shared_tile   a block loads its patch of x once and uses it for R·S taps and several filters
    register_tile a matrix product: a thread holds 8 x 8 sums, and uses each number that it loads 8 times
    vector_loads  four neighbours in one instruction, loaded and stored
    async_tile    the loads of the next steps run while a block multiplies
    winograd      16 products instead of 36
    tensor_core_tf32     matrices of 16 x 8 by 8 x 8 in one instruction, in 11 bits; x channels-last
    tensor_core_3xtf32   float32 accuracy from them: numbers split in two, three products for one

Read them side by side: the lines marked # 1 (and # 2) are what each adds to the one before.

Beside them lie building blocks: _implicit_gemm (a convolution as a product that is cut into tiles), _winograd
(its transforms), _ptx (instructions that Python has no words for), _launch (a kernel before it is compiled).
From register_tile on the package numba-cuda is needed, not the numba.cuda within numba.

What they share. Every size is a constant of the compiled code, so that loops over r and s unroll and
divisions become multiplications. Every index is unsigned: Python lets a signed one count from the end,
which costs a comparison and a selection at every access (naive for a 3x3 layer: 240 instructions on sm_90,
392 with signed indices). For the same reason rows and columns are counted in the padded image, where
none is negative. All blocks lie along x of the grid, because y and z end at 65535. ``launches(p)`` says
what is compiled for a problem and how it is launched: tests use it without a GPU.
The kernels also run in Numba's simulator (NUMBA_ENABLE_CUDASIM=1).
"""
