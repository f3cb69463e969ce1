"""Mutants that are no fault, each with the reason: the only ones that may survive.

A mutant is known by its kernel and by the line before and after, so that an argument falls when its line
changes; tests/test_selftest.py names the entries that fit no mutant any more.
"""

from __future__ import annotations

# {kernel: {line before: {line after: why it is no fault}}}
ARGUED: dict[str, dict[str, dict[str, str]]] = {
    "numpy/fft": {
        "BLOCK_BYTES = 2**26": {
            "BLOCK_BYTES = 1**26": (
                "how many filters pack transforms at once: each is transformed alone in any case"
            ),
            "BLOCK_BYTES = 3**26": (
                "how many filters pack transforms at once: each is transformed alone in any case"
            ),
            "BLOCK_BYTES = 2**25": (
                "how many filters pack transforms at once: each is transformed alone in any case"
            ),
            "BLOCK_BYTES = 2**27": (
                "how many filters pack transforms at once: each is transformed alone in any case"
            ),
        },
        "for prime in (2, 3, 5, 7):": {
            "for prime in (3, 3, 5, 7):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
            "for prime in (2, 2, 5, 7):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
            "for prime in (2, 4, 5, 7):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
            "for prime in (2, 3, 4, 7):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
            "for prime in (2, 3, 6, 7):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
            "for prime in (2, 3, 5, 6):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
            "for prime in (2, 3, 5, 8):": (
                "another list of factors gives another size from n on, and every size from n on is long enough"
            ),
        },
        "if rest == 1:": {
            "if True:": ("n itself is long enough, only slower"),
            "if not (rest == 1):": ("a size with other factors is as right, only slower"),
            "if rest != 1:": ("a size with other factors is as right, only slower"),
        },
        "n += 1": {
            "n += 2": ("passes over some good sizes: the next one is as right, only slower"),
        },
        "if spectra_bytes > SPECTRA_BYTES:": {
            "if spectra_bytes >= SPECTRA_BYTES:": (
                "tells spectra of exactly 2 GiB from smaller ones: either side of the limit may be theirs"
            ),
        },
        "block = max(1, BLOCK_BYTES // (complex_bytes * F * inputs))": {
            "block = max(2, BLOCK_BYTES // (complex_bytes * F * inputs))": (
                "blocks of two filters at least: blocks only bound the memory of pack"
            ),
            "block = max(1, BLOCK_BYTES * (complex_bytes * F * inputs))": (
                "another number of filters a block: blocks only bound the memory of pack"
            ),
            "block = max(1, BLOCK_BYTES // (complex_bytes + F * inputs))": (
                "another number of filters a block: blocks only bound the memory of pack"
            ),
            "block = max(1, BLOCK_BYTES // (complex_bytes * F + inputs))": (
                "another number of filters a block: blocks only bound the memory of pack"
            ),
            "block = max(1, BLOCK_BYTES // (complex_bytes * F * outputs))": (
                "another number of filters a block: blocks only bound the memory of pack"
            ),
        },
        "x = np.ascontiguousarray(x.transpose(2, 1, 0)).reshape(F, G, inputs, N)": {
            "x = x.transpose(2, 1, 0).reshape(F, G, inputs, N)": (
                "reshape copies what it cannot view: the same numbers, in a slower order"
            ),
        },
    },
    "numpy/per_channel": {
        "sides = ((0, 0), (0, 0), (top, bottom), (left, right))": {
            "sides = ((0, 1), (0, 0), (top, bottom), (left, right))": (
                "pads a further image of zeros that nobody reads"
            ),
            "sides = ((0, 0), (0, 1), (top, bottom), (left, right))": (
                "pads a further channel of zeros that nobody reads"
            ),
        },
    },
    "numpy/windows": {
        "WINDOW_BYTES = 2**28": {
            "WINDOW_BYTES = 1**28": (
                "how many images share a contraction: each output is summed within one in any case"
            ),
            "WINDOW_BYTES = 3**28": (
                "how many images share a contraction: each output is summed within one in any case"
            ),
            "WINDOW_BYTES = 2**27": (
                "how many images share a contraction: each output is summed within one in any case"
            ),
            "WINDOW_BYTES = 2**29": (
                "how many images share a contraction: each output is summed within one in any case"
            ),
        },
        "per_image = p.itemsize * p.P * p.Q * p.taps": {
            "per_image = p.itemsize + p.P * p.Q * p.taps": (
                "another estimate of the memory for an image: it only sets how many images share a contraction"
            ),
            "per_image = p.itemsize * p.Q * p.Q * p.taps": (
                "another estimate of the memory for an image: it only sets how many images share a contraction"
            ),
            "per_image = p.itemsize * p.P + p.Q * p.taps": (
                "another estimate of the memory for an image: it only sets how many images share a contraction"
            ),
            "per_image = p.itemsize * p.P * p.P * p.taps": (
                "another estimate of the memory for an image: it only sets how many images share a contraction"
            ),
            "per_image = p.itemsize * p.P * p.Q + p.taps": (
                "another estimate of the memory for an image: it only sets how many images share a contraction"
            ),
        },
        "images = max(1, min(p.N, WINDOW_BYTES // per_image))": {
            "images = max(2, min(p.N, WINDOW_BYTES // per_image))": (
                "at least two images a contraction: a slice ends with the batch anyway"
            ),
            "images = max(1, max(p.N, WINDOW_BYTES // per_image))": (
                "all images in one contraction: more memory, the same sums"
            ),
            "images = max(1, min(p.N, WINDOW_BYTES * per_image))": (
                "all images in one contraction: more memory, the same sums"
            ),
        },
        "image = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))": {
            "image = np.pad(x, ((0, 1), (0, 0), (top, bottom), (left, right)))": (
                "pads a further image of zeros that nobody reads"
            ),
            "image = np.pad(x, ((0, 0), (0, 1), (top, bottom), (left, right)))": (
                "pads a further channel of zeros that nobody reads"
            ),
        },
        "k = slice(g * outputs, (g + 1) * outputs)": {
            "k = slice(g * outputs, (g + 2) * outputs)": (
                "also sums the next group's outputs from the wrong channels; the next turn of g overwrites them"
            ),
        },
    },
    "numba/direct": {
        "TILE = 256": {
            "TILE = 255": (
                "one pixel more or less a tile: tiles are rounded up to LANES, and ROW grows with them"
            ),
            "TILE = 257": (
                "one pixel more or less a tile: tiles are rounded up to LANES, and ROW grows with them"
            ),
        },
        "LANES = 16": {
            "LANES = 15": ("tiles are multiples of another number, and ROW follows: only vectors care"),
            "LANES = 17": ("tiles are multiples of another number, and ROW follows: only vectors care"),
        },
        "SHEETS = 2**22": {
            "SHEETS = 1**22": ("how many images have their sheets made at a time: images do not meet"),
            "SHEETS = 3**22": ("how many images have their sheets made at a time: images do not meet"),
            "SHEETS = 2**21": ("how many images have their sheets made at a time: images do not meet"),
            "SHEETS = 2**23": ("how many images have their sheets made at a time: images do not meet"),
        },
        "for v in range(line, line + uint64(first)):": {
            "for v in range(line, line + uint64(last)):": (
                "zeros where the next loop writes its pixels over them"
            ),
        },
        "sums = sums[-sums.ctypes.data // sums.itemsize % LANES :]": {
            "sums = sums[sums.ctypes.data // sums.itemsize % LANES :]": (
                "where the sums begin within a cache line: room for any such offset is allocated"
            ),
            "sums = sums[-sums.ctypes.data * sums.itemsize % LANES :]": (
                "where the sums begin within a cache line: room for any such offset is allocated"
            ),
            "sums = sums[-sums.ctypes.data // sums.itemsize // LANES :]": (
                "where the sums begin within a cache line: room for any such offset is allocated"
            ),
        },
        "if outputs == 1:": {
            "if False:": (
                "one output channel goes through the code for four: three rows of sums are made and not read"
            ),
            "if outputs == 0:": (
                "one output channel goes through the code for four: three rows of sums are made and not read"
            ),
        },
        "add_to_one(sums, x, (n * G + g) * group + begin, taps, w[g, block], pixels)": {
            "add_to_one(sums, x, (n * G + g) * group + begin, taps, w[g, block - 1], pixels)": (
                "a group of one output has one block: block is 0, and -1 is the same one"
            ),
        },
        "for p in range(start // width, (end - 1) // width + 1):": {
            "for p in range(start // width, (end + 1) // width + 1):": (
                "further rows, of which no pixel lies in the tile: their runs are empty"
            ),
            "for p in range(start // width, (end - 0) // width + 1):": (
                "further rows, of which no pixel lies in the tile: their runs are empty"
            ),
            "for p in range(start // width, (end - 1) // width + 2):": (
                "further rows, of which no pixel lies in the tile: their runs are empty"
            ),
        },
        "height = p.P + (p.R - 1) * dilation_h // stride_h": {
            "height = p.P + (p.R - 1) * dilation_h * stride_h": (
                "taller sheets, whose further rows no tap reads"
            ),
        },
        "width = p.Q + (p.S - 1) * dilation_w // stride_w": {
            "width = p.Q + (p.S - 1) * dilation_w * stride_w": (
                "wider sheets, whose further columns are gap pixels, computed and dropped"
            ),
        },
        "sources = np.where((h >= 0) & (h < p.H), h, -1)": {
            "sources = np.where((h >= 0) & (h < p.H), h, -2)": (
                "the mark for a row of zeros: any negative number is taken for it"
            ),
        },
        "c, r, s = np.indices((p.C // p.groups, p.R, p.S)).reshape(3, -1)": {
            "c, r, s = np.indices((p.C // p.groups, p.R, p.S)).reshape(3, -2)": (
                "NumPy takes any negative length for the unknown one"
            ),
        },
        "tiles = -(-run_length * p.itemsize // (4 * TILE))": {
            "tiles = -(-run_length + p.itemsize // (4 * TILE))": (
                "a tile for every pixel, rounded up: smaller tiles, the same sums"
            ),
            "tiles = -(-run_length * p.itemsize * (4 * TILE))": (
                "smaller tiles, the same sums: they only need to fit ROW"
            ),
            "tiles = -(-run_length * p.itemsize // (3 * TILE))": (
                "smaller tiles, the same sums: they only need to fit ROW"
            ),
            "tiles = -(-run_length * p.itemsize // (4 + TILE))": (
                "smaller tiles, the same sums: they only need to fit ROW"
            ),
        },
        "blocks = -(-outputs // BLOCK)": {
            "blocks = -(-outputs * BLOCK)": (
                "further blocks with no output channel in them: nothing of them is written"
            ),
        },
        "own_sheet = nchw and p.stride == (1, 1) and not any(p.padding) and pixels <= run_length": {
            "own_sheet = nchw and p.stride == (0, 1) and not any(p.padding) and pixels <= run_length": (
                "x is copied into sheets where it could be read in place: the same pixels"
            ),
            "own_sheet = nchw and p.stride == (1, 0) and not any(p.padding) and pixels <= run_length": (
                "x is copied into sheets where it could be read in place: the same pixels"
            ),
            "own_sheet = nchw and p.stride == (1, 1) and not any(p.padding) and pixels < run_length": (
                "x is copied into sheets where it could be read in place: the same pixels"
            ),
        },
        "batch, rows, size = p.N, 0, 0": {
            "batch, rows, size = p.N, 0, 1": ("one element of memory that nobody reads"),
        },
        "if not own_sheet:": {
            "if True:": ("x is copied into sheets where it could be read in place: the same pixels"),
        },
        "batch = min(p.N, max(1, SHEETS // (p.C * channel * p.itemsize)))": {
            "batch = max(p.N, max(1, SHEETS // (p.C * channel * p.itemsize)))": (
                "how many images have their sheets made at a time: images do not meet"
            ),
            "batch = min(p.N, max(2, SHEETS // (p.C * channel * p.itemsize)))": (
                "how many images have their sheets made at a time: images do not meet"
            ),
            "batch = min(p.N, max(1, SHEETS * (p.C * channel * p.itemsize)))": (
                "how many images have their sheets made at a time: images do not meet"
            ),
            "batch = min(p.N, max(1, SHEETS // (p.K * channel * p.itemsize)))": (
                "how many images have their sheets made at a time: images do not meet"
            ),
            "batch = min(p.N, max(1, SHEETS // (p.C + channel * p.itemsize)))": (
                "how many images have their sheets made at a time: images do not meet"
            ),
            "batch = min(p.N, max(1, SHEETS // (p.C * channel + p.itemsize)))": (
                "how many images have their sheets made at a time: images do not meet"
            ),
        },
        "shape = (p.C // G * channel, outputs, *(gapless if width == p.Q else line), run_length, pixels)": {
            "shape = (p.C // G * channel, outputs, *((line)), run_length, pixels)": (
                "rows without gaps taken one by one instead of as one long row"
            ),
        },
        "parallel = p.flops > SERIAL_FLOPS": {
            "parallel = p.flops >= SERIAL_FLOPS": (
                "at the very threshold either version may run: they do the same"
            ),
        },
        "packed = np.zeros((G, blocks, p.taps, BLOCK), p.dtype)": {
            "packed = np.empty((G, blocks, p.taps, BLOCK), p.dtype)": (
                "weights of output channels that do not exist: their sums are made and never read"
            ),
        },
        "threads = get_num_threads() if parallel else 1": {
            "threads = (1)": ("one thread takes all items: slower, the same sums"),
            "threads = (get_num_threads())": ("on one thread the number is not read"),
            "threads = get_num_threads() if parallel else 0": ("on one thread the number is not read"),
            "threads = get_num_threads() if parallel else 2": ("on one thread the number is not read"),
        },
        "images, maps = images.reshape(-1), maps.reshape(-1)": {
            "images, maps = images.reshape(-2), maps.reshape(-1)": (
                "NumPy takes any negative length for the unknown one"
            ),
            "images, maps = images.reshape(-1), maps.reshape(-2)": (
                "NumPy takes any negative length for the unknown one"
            ),
        },
    },
    "numba/im2col": {
        "for q in range(uint64(lo)):": {
            "for q in range(uint64(hi)):": ("zeros where the next loop writes its pixels over them"),
        },
        "x_is_patches = p.R == p.S == 1 and p.stride == (1, 1) and not any(p.padding)": {
            "x_is_patches = p.R == p.S == 0 and p.stride == (1, 1) and not any(p.padding)": (
                "a plain 1 x 1 filter takes the general way: slower, the same matrix"
            ),
            "x_is_patches = p.R == p.S == 1 and p.stride == (0, 1) and not any(p.padding)": (
                "a plain 1 x 1 filter takes the general way: slower, the same matrix"
            ),
            "x_is_patches = p.R == p.S == 1 and p.stride == (1, 0) and not any(p.padding)": (
                "a plain 1 x 1 filter takes the general way: slower, the same matrix"
            ),
        },
        "elements = 0 if x_is_patches else p.C * p.R * p.S * pixels": {
            "elements = 1 if x_is_patches else p.C * p.R * p.S * pixels": (
                "memory for patches that this case does not use"
            ),
            "elements = (p.C * p.R * p.S * pixels)": ("memory for patches that this case does not use"),
        },
        "return a.reshape(p.N, G, channels, -1)": {
            "return a.reshape(p.N, G, channels, -2)": (
                "NumPy takes any negative length for the unknown one"
            ),
        },
        "return a.reshape(p.N, -1, G, channels).transpose(0, 2, 3, 1)": {
            "return a.reshape(p.N, -2, G, channels).transpose(0, 2, 3, 1)": (
                "NumPy takes any negative length for the unknown one"
            ),
        },
        "images, patches = x.reshape(p.N, -1), np.empty(elements, p.dtype)": {
            "images, patches = x.reshape(p.N, -2), np.empty(elements, p.dtype)": (
                "NumPy takes any negative length for the unknown one"
            ),
        },
    },
    "numba/naive": {
        "no_bias = np.zeros(p.K, p.dtype)": {
            "no_bias = np.zeros(p.K, 'float16')": (
                "zeros of any dtype add nothing; compiled, the signature refuses the dtype"
            ),
        },
    },
    "numba/parallel": {
        "body = compiled(p.dtype, p.flops > SERIAL_FLOPS)": {
            "body = compiled(p.dtype, p.flops >= SERIAL_FLOPS)": (
                "at the very threshold either version may run: they do the same"
            ),
        },
        "no_bias = np.zeros(p.K, p.dtype)": {
            "no_bias = np.zeros(p.K, 'float16')": (
                "zeros of any dtype add nothing; compiled, the signature refuses the dtype"
            ),
        },
    },
    "torch_cpu/builtin": {
        'return (y.permute(0, 2, 3, 1) if p.layout == "nhwc" else y).contiguous()': {
            'return y.permute(0, 2, 3, 1) if p.layout == "nhwc" else y': (
                "y is C-contiguous already: on the CPU torch answers in the order of x, others promise nothing"
            ),
        },
    },
    "torch_cpu/channels_last": {
        "x = x.permute(0, 3, 1, 2) if nhwc else x.contiguous(memory_format=torch.channels_last)": {
            "x = x.permute(0, 3, 1, 2) if nhwc else x": (
                "the order in memory decides the speed: the operator takes any"
            ),
        },
    },
    "torch_cpu/packed": {
        "if not torch.backends.mkldnn.is_available():": {
            "if False:": ("speaks of a torch without oneDNN, which this one is not"),
        },
        "size = (p.N, p.C, p.H, p.W) if even else (p.N, p.C, *p.padded)": {
            "size = ((p.N, p.C, *p.padded))": (
                "a hint for which block format will be fastest: the operator takes any format that it made"
            ),
            "size = (p.N, p.C, p.W, p.W) if even else (p.N, p.C, *p.padded)": (
                "a hint for which block format will be fastest: the operator takes any format that it made"
            ),
            "size = (p.N, p.C, p.H, p.H) if even else (p.N, p.C, *p.padded)": (
                "a hint for which block format will be fastest: the operator takes any format that it made"
            ),
        },
        "x = x.permute(0, 3, 1, 2) if nhwc else x.contiguous(memory_format=torch.channels_last)": {
            "x = x.permute(0, 3, 1, 2) if nhwc else x": (
                "the order in memory decides the speed: the operator takes any"
            ),
        },
    },
    "torch_cpu/unfold": {
        "if precision is None:": {
            "if False:": ("speaks of a torch before 2.9, which this one is not"),
        },
        "x = x.permute(0, 3, 1, 2).contiguous()": {
            "x = x.permute(0, 3, 1, 2)": ("unfold makes its own copy of whatever it is given"),
        },
        "y = y.transpose(1, 2).reshape(p.y_shape).contiguous()": {
            "y = y.transpose(1, 2).reshape(p.y_shape)": (
                "reshape has made the copy where one was needed, and its result is C-contiguous"
            ),
        },
    },
}

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (kernel, before, after): why
    for kernel, lines in ARGUED.items()
    for before, changes in lines.items()
    for after, why in changes.items()
}
