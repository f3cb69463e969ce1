"""FFT: a convolution in space is a product in frequency, so the filter's size stops mattering.

After    numpy/im2col   (new here: another algorithm, with other costs and another kind of error)
Idea     Transform every channel of x and every filter once. At each frequency the sum over c is then a
         small K/G × C/G product, and one inverse transform for each k gives y. A correlation, which is
         what networks call convolution, takes the complex conjugate of the filter's spectrum. An FFT
         lives on a circle; the padded image is long enough that no output reaches round it. Filters are
         transformed in pack, so a layer that keeps its weights pays for them once.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, with F frequencies: w[F,G,K/G,C/G] @ x[F,G,C/G,N] → y[F,G,K/G,N]
Threads  those of the BLAS behind NumPy in the product; the transforms use one
Cost     with H' × W' the padded size rounded up to a product of small primes, F = H'·(W'/2 + 1):
         FLOP   8·N·K·C/G·F + 2.5·log2(H'·W')·H'·W'·(N·C + N·K), in pack also 2.5·log2(…)·H'·W'·K·C/G
         bytes  spectra of x, w, y: 2·itemsize·F·(4·N·C + K·C/G + 4·N·K)
Limits   every output of stride 1 is computed, a stride then picks some; a dilation spreads the filter
         small outputs beside large ones lose digits: the error follows the norm of the whole plane
         (hence normwise, not elementwise); refuses filters whose spectra exceed SPECTRA_BYTES
         NumPy transforms float32 forward in float64, rounds, and comes back in float32
Source   own; Mathieu, Henaff and LeCun, Fast Training of Convolutional Networks through FFTs,
         arXiv:1312.5851
"""

import numpy as np

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "fft"
ACCURACY = "normwise"
SPECTRA_BYTES = 2**31  # a spectrum is as large as the image, whatever the size of its filter
BLOCK_BYTES = 2**26  # filters that pack transforms at once


def good_size(n: int) -> int:
    """The first size from n on whose prime factors are all 7 or less: other FFTs are much slower."""
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def plan(p: Conv2d) -> Plan:
    N, C, K, G = p.N, p.C, p.K, p.groups
    inputs, outputs = C // G, K // G
    top, _, left, _ = p.padding
    size = high, wide = tuple(map(good_size, p.padded))
    half = wide // 2 + 1  # a real signal's other half mirrors this one
    F, complex_bytes = high * half, 2 * p.itemsize
    spectra_dtype = {"float32": np.complex64, "float64": np.complex128}[p.dtype]
    spectra_bytes = complex_bytes * F * K * inputs
    if spectra_bytes > SPECTRA_BYTES:
        needs = f"{SPECTRA_BYTES / 2**30:g} GiB, got {spectra_bytes / 2**30:.1f} GiB"
        raise Unsupported(f"needs the spectra of all filters to fit {needs}")
    block = max(1, BLOCK_BYTES // (complex_bytes * F * inputs))

    def pack(w, b):
        spectra = np.empty((F, K, inputs), spectra_dtype)
        for k in range(0, K, block):
            some = w[k : k + block]
            filters = np.zeros((len(some), inputs, *p.extent), w.dtype)
            filters[:, :, :: p.dilation[0], :: p.dilation[1]] = some
            found = np.fft.rfft2(filters, s=size, axes=(2, 3)).conj()
            spectra[:, k : k + block] = found.reshape(len(some), inputs, F).transpose(2, 0, 1)
        return spectra.reshape(F, G, outputs, inputs), None if b is None else b.copy()

    def run(x, weights):
        spectra, b = weights
        image = np.zeros((N, C, *p.padded), x.dtype)
        if p.layout == "nhwc":
            x = x.transpose(0, 3, 1, 2)
        image[:, :, top : top + p.H, left : left + p.W] = x
        x = np.fft.rfft2(image, s=size, axes=(2, 3)).reshape(N, C, F)
        x = np.ascontiguousarray(x.transpose(2, 1, 0)).reshape(F, G, inputs, N)
        y = (spectra @ x).reshape(F, K, N).transpose(2, 1, 0).reshape(N, K, high, half)
        y = np.fft.irfft2(y, s=size, axes=(2, 3))
        p_end, q_end = (p.P - 1) * p.stride[0] + 1, (p.Q - 1) * p.stride[1] + 1
        y = y[:, :, : p_end : p.stride[0], : q_end : p.stride[1]]
        if b is not None:
            y = y + b[:, None, None]
        return np.ascontiguousarray(y.transpose(0, 2, 3, 1) if p.layout == "nhwc" else y)

    # On the way there: image, both stages of rfft2 in float64. On the way back: product, copy, irfft2.
    return Plan(run, pack=pack, workspace=complex_bytes * F * N * max(7 * C, C + 3 * K))
