"""OpenVINO kernels: an inference engine that compiles a model for one device, asked for one convolution.

Reading order
    builtin         one convolution with constant weights, compiled for latency

``plan`` reads its thread count from CONVZOO_THREADS, which the backend sets while planning.
"""
