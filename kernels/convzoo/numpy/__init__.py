"""NumPy kernels: convolution as calls on whole arrays, each file with fewer and larger calls.

Reading order
    per_channel   one window times one filter at a time; the 1x of every table
    shifted       the whole image times one tap at a time
    windows       all taps at once, on a view of every window
    im2col        the matrix behind that view, written by hand where it stays in cache
    fft           another algorithm: products of spectra

shifted, im2col and fft have twins of the same name in the folder cupy: read the two side by side.
"""
