"""FFT on the GPU: batched cuFFT both ways, and the products at all frequencies in one cuBLAS call.

After    numpy/fft   (new here: thousands of small matrix products are one batched call)
Idea     As in numpy/fft, the sum over c is a K/G × C/G product at each frequency. On the CPU that is a
         loop of small BLAS calls; here all F·G of them go to cuBLAS as one strided batch, and all
         planes of all images to cuFFT as one transform. So a call is some fifteen launches, whatever
         the size of the filter. Filters are transformed in pack: a layer pays for them once.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, with F frequencies: w[F,G,K/G,C/G] @ x[F,G,C/G,N] → y[F,G,K/G,N]
Threads  cuFFT, cuBLAS and CuPy choose them
Cost     with H' × W' the padded size rounded up to a product of small primes, F = H'·(W'/2 + 1):
         FLOP   8·N·K·C/G·F + 2.5·log2(H'·W')·H'·W'·(N·C + N·K), in pack also 2.5·log2(…)·H'·W'·K·C/G
         bytes  spectra of x, w, y: 2·itemsize·F·(4·N·C + K·C/G + 4·N·K)
Limits   every output of stride 1 is computed, a stride then picks some; a dilation spreads the filter
         small outputs beside large ones lose digits: the error follows the norm of the whole plane
         (hence normwise, not elementwise); refuses filters whose spectra exceed SPECTRA_BYTES
         few images make the products matrix times vector, bound by reading the spectra of the filters
         images go together as they fit IMAGE_BYTES and 2**31 pixels, which cuFFT's plans count in 32 bits
Source   own; Mathieu, Henaff and LeCun, Fast Training of Convolutional Networks through FFTs,
         arXiv:1312.5851
"""

import cupy

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "fft"
ACCURACY = "normwise"
SPECTRA_BYTES = 2**31  # a spectrum is as large as the image, whatever the size of its filter
BLOCK_BYTES = 2**28  # filters that pack transforms at once
IMAGE_BYTES = 2**30  # what run allocates for the images that go together


def good_size(n: int) -> int:
    """The first size from n on whose prime factors are all 7 or less: cuFFT has code for just those."""
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
    spectra_dtype = {"float32": "complex64", "float64": "complex128"}[p.dtype]
    spectra_bytes = complex_bytes * F * K * inputs
    if spectra_bytes > SPECTRA_BYTES:
        needs = f"{SPECTRA_BYTES / 2**30:g} GiB, got {spectra_bytes / 2**30:.1f} GiB"
        raise Unsupported(f"needs the spectra of all filters to fit {needs}")
    # On the way there: image, spectrum, a copy. On the way back: product, two copies. cuFFT's own area.
    one_image = complex_bytes * F * max(4 * C, C + 4 * K)
    images = max(1, min(N, IMAGE_BYTES // one_image, (2**31 - 1) // (max(C, K) * high * wide)))
    if max(C, K) * high * wide >= 2**31:
        raise Unsupported("needs fewer than 2**31 padded pixels in an image, the limit of a cuFFT plan")
    block = max(1, BLOCK_BYTES // (complex_bytes * F * inputs))

    def pack(w, b):
        xp = cupy.get_array_module(w)  # NumPy for NumPy arrays: no GPU needed to test
        spectra = xp.empty((F, K, inputs), spectra_dtype)
        for k in range(0, K, block):
            some = w[k : k + block]
            filters = xp.zeros((len(some), inputs, *p.extent), w.dtype)
            filters[:, :, :: p.dilation[0], :: p.dilation[1]] = some
            found = xp.fft.rfft2(filters, s=size, axes=(2, 3)).conj()
            spectra[:, k : k + block] = found.reshape(len(some), inputs, F).transpose(2, 0, 1)
        return spectra.reshape(F, G, outputs, inputs), None if b is None else b.copy()

    def convolve(xp, x, spectra):
        """[n,K,P,Q] as a view, for some images."""
        image = xp.zeros((len(x), C, *p.padded), x.dtype)
        image[:, :, top : top + p.H, left : left + p.W] = x
        x = xp.fft.rfft2(image, s=size, axes=(2, 3)).reshape(-1, C, F)
        x = xp.ascontiguousarray(x.transpose(2, 1, 0)).reshape(F, G, inputs, -1)
        y = (spectra @ x).reshape(F, K, -1).transpose(2, 1, 0).reshape(-1, K, high, half)
        y = xp.fft.irfft2(y, s=size, axes=(2, 3))
        p_end, q_end = (p.P - 1) * p.stride[0] + 1, (p.Q - 1) * p.stride[1] + 1
        return y[:, :, : p_end : p.stride[0], : q_end : p.stride[1]]

    def run(x, weights):
        xp = cupy.get_array_module(x)
        spectra, b = weights
        y = xp.empty(p.y_shape, x.dtype)
        planes = y.transpose(0, 3, 1, 2) if p.layout == "nhwc" else y
        x = x.transpose(0, 3, 1, 2) if p.layout == "nhwc" else x
        bias = 0 if b is None else b[:, None, None]
        for n in range(0, N, images):
            found = convolve(xp, x[n : n + images], spectra)
            xp.add(found, bias, out=planes[n : n + images])
        return y

    return Plan(run, pack=pack, workspace=images * one_image)
