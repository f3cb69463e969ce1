"""CuPy kernels: array calls on an NVIDIA GPU, and CUDA C++ where array calls end.

Reading order
    shifted     three launches for each tap of the filter
    im2col      one gather and one cuBLAS call for as many images as fit a fixed amount of memory
    fft         cuFFT both ways, and the products at all frequencies in one batched cuBLAS call
    raw_naive   our own CUDA C++: one thread for each output, from the .cu file beside it
    raw_register_tile   ... a tile of outputs in the registers of each thread (_nvrtc, _ptx.cuh)

The first three are twins of files in the folder numpy; what differs is what a GPU asks for. They take
their array module from their argument, so they also run on NumPy arrays, and are tested so without a
GPU. CuPy itself imports on any machine; only its arrays need a device.
"""
