"""ncnn kernels: an inference engine for phones that also has AVX-512, asked for one convolution.

Reading order
    builtin         one layer in a net of its own; 3 x 3 filters by Winograd, as is the library's way
    direct          the same with Winograd switched off

``plan`` reads its thread count from CONVZOO_THREADS, which the backend sets while planning.
"""
