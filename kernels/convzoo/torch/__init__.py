"""torch kernels: the library's own convolutions, in the ways in which a user can ask for them.

Reading order
    unfold          im2col and a matrix product: the textbook's way, in two library calls
    builtin         the convolution itself in one call; what every other kernel is compared with
    channels_last   the same call on the memory order that the libraries prefer
    packed          the CPU library's own weight format, prepared ahead
    tf32            the same call with permission to round: another precision class, CUDA only

One file serves three backends: torch_cpu, torch_cuda and torch_mps. ``plan`` reads the device from
``torch.get_default_device()``, which the backend sets while planning. Strict float32 is the default
everywhere: on CUDA ``allow_tf32`` is an argument of every call, so a process-wide switch neither leaks
in nor is changed. Inputs never require grad, so no call needs ``torch.no_grad()``, which would add more
than a microsecond to a call of six. The MPS paths have not been run by this project.
"""
