"""ONNX Runtime kernels: what a deployed network runs on, asked for one convolution.

Reading order
    builtin         one Conv node in a session of its own

``plan`` reads its thread count from CONVZOO_THREADS, and from CONVZOO_CPUS the processors to bind them
to, where they are to be bound; the backend sets both while planning.
"""
