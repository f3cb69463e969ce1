"""CuPy kernels: array calls on an NVIDIA GPU, and CUDA C++ where array calls end.

Reading order
    shifted             one product for all taps, and one sum along a slanted view of it
    shift_gemm          a product for each tap, added in place: a shift is a pointer further on
    im2col              one gather and one batched product for as many images as fit a fixed memory
    fft                 cuFFT both ways, and the products at all frequencies in one batched call
    raw_naive           our own CUDA C++: one thread for each output, from the .cu file beside it
    raw_register_tile   an implicit GEMM, a tile of sums in the registers of each thread (_nvrtc, _ptx.cuh)
    tensor_core_tf32, tensor_core_3xtf32, wgmma_3xtf32   the same on tensor cores (_implicit_gemm, _wgmma.cuh)

The first four, of which three are twins of files in the folder numpy, take their array module from
their argument, so they also run on NumPy arrays, and are tested so without a GPU. CuPy
itself imports on any machine; only its arrays need a device.
"""
