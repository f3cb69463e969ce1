"""Numba kernels for the CPU: Python loops that LLVM compiles, from the definition to blocked loops.

Reading order
    naive      the seven loops, compiled, on one thread
    parallel   the same loops, the rows of y shared among all threads
    im2col     a compiled gather of the patches, then one matrix product
    direct     no matrix: blocked loops that LLVM turns into full-width vector instructions

Two rules hold in every file. Types are told in advance, so ``plan`` compiles and ``run`` never does;
shapes are arguments, so one compiled version serves every problem of its dtype, and it is kept on disk
for the next process.
"""
