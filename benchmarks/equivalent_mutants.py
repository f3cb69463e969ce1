"""Mutants that are no fault, each with the reason: the only ones that may survive.

A mutant is known by its kernel and by the line before and after, so that an argument falls when its line
changes; tests/test_selftest.py names the entries that fit no mutant any more.
"""

from __future__ import annotations

# {kernel: {line before: {line after: why it is no fault}}}
ARGUED: dict[str, dict[str, dict[str, str]]] = {
    "numpy/fft": {
        "BLOCK_BYTES = 2**26": {
            "BLOCK_BYTES = 1**26": ("how many filters pack transforms at once: each is transformed alone in any case"),
            "BLOCK_BYTES = 3**26": ("how many filters pack transforms at once: each is transformed alone in any case"),
            "BLOCK_BYTES = 2**25": ("how many filters pack transforms at once: each is transformed alone in any case"),
            "BLOCK_BYTES = 2**27": ("how many filters pack transforms at once: each is transformed alone in any case"),
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
        "n += 1": {"n += 2": ("passes over some good sizes: the next one is as right, only slower")},
        "if spectra_bytes > SPECTRA_BYTES:": {
            "if spectra_bytes >= SPECTRA_BYTES:": (
                "tells spectra of exactly 2 GiB from smaller ones: either side of the limit may be theirs"
            )
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
            )
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
        }
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
            )
        },
    },
    "numba/direct": {
        "TILE = 256": {
            "TILE = 255": ("one pixel more or less a tile: tiles are rounded up to LANES, and ROW grows with them"),
            "TILE = 257": ("one pixel more or less a tile: tiles are rounded up to LANES, and ROW grows with them"),
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
            "for v in range(line, line + uint64(last)):": ("zeros where the next loop writes its pixels over them")
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
            )
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
            "height = p.P + (p.R - 1) * dilation_h * stride_h": ("taller sheets, whose further rows no tap reads")
        },
        "width = p.Q + (p.S - 1) * dilation_w // stride_w": {
            "width = p.Q + (p.S - 1) * dilation_w * stride_w": (
                "wider sheets, whose further columns are gap pixels, computed and dropped"
            )
        },
        "sources = np.where((h >= 0) & (h < p.H), h, -1)": {
            "sources = np.where((h >= 0) & (h < p.H), h, -2)": (
                "the mark for a row of zeros: any negative number is taken for it"
            )
        },
        "c, r, s = np.indices((p.C // p.groups, p.R, p.S)).reshape(3, -1)": {
            "c, r, s = np.indices((p.C // p.groups, p.R, p.S)).reshape(3, -2)": (
                "NumPy takes any negative length for the unknown one"
            )
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
            )
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
        "batch, rows, size = p.N, 0, 0": {"batch, rows, size = p.N, 0, 1": ("one element of memory that nobody reads")},
        "if not own_sheet:": {"if True:": ("x is copied into sheets where it could be read in place: the same pixels")},
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
            )
        },
        "parallel = p.flops > SERIAL_FLOPS": {
            "parallel = p.flops >= SERIAL_FLOPS": ("at the very threshold either version may run: they do the same")
        },
        "packed = np.zeros((G, blocks, p.taps, BLOCK), p.dtype)": {
            "packed = np.empty((G, blocks, p.taps, BLOCK), p.dtype)": (
                "weights of output channels that do not exist: their sums are made and never read"
            )
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
        "sixes = len(taps) // 6 * 6": {
            "sixes = len(taps) // 7 * 6": ("fewer taps by sixes: the loop after it takes the others")
        },
        "for t in range(0, sixes, 6):": {
            "for t in range(0, sixes - 1, 6):": ("sixes is a multiple of six: the same turns")
        },
        "threes = len(taps) // 3 * 3": {
            "threes = len(taps) // 4 * 3": ("fewer taps by threes: the loop after it takes the others")
        },
        "for t in range(0, threes, 3):": {
            "for t in range(0, threes - 1, 3):": ("threes is a multiple of three: the same turns")
        },
    },
    "numba/im2col": {
        "for q in range(uint64(lo)):": {
            "for q in range(uint64(hi)):": ("zeros where the next loop writes its pixels over them")
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
            "return a.reshape(p.N, G, channels, -2)": ("NumPy takes any negative length for the unknown one")
        },
        "return a.reshape(p.N, -1, G, channels).transpose(0, 2, 3, 1)": {
            "return a.reshape(p.N, -2, G, channels).transpose(0, 2, 3, 1)": (
                "NumPy takes any negative length for the unknown one"
            )
        },
        "images, patches = x.reshape(p.N, -1), np.empty(elements, p.dtype)": {
            "images, patches = x.reshape(p.N, -2), np.empty(elements, p.dtype)": (
                "NumPy takes any negative length for the unknown one"
            )
        },
    },
    "numba/naive": {
        "no_bias = np.zeros(p.K, p.dtype)": {
            "no_bias = np.zeros(p.K, 'float16')": (
                "zeros of any dtype add nothing; compiled, the signature refuses the dtype"
            )
        }
    },
    "numba/parallel": {
        "body = compiled(p.dtype, p.flops > SERIAL_FLOPS)": {
            "body = compiled(p.dtype, p.flops >= SERIAL_FLOPS)": (
                "at the very threshold either version may run: they do the same"
            )
        },
        "no_bias = np.zeros(p.K, p.dtype)": {
            "no_bias = np.zeros(p.K, 'float16')": (
                "zeros of any dtype add nothing; compiled, the signature refuses the dtype"
            )
        },
    },
    "torch_cpu/builtin": {
        'return (y.permute(0, 2, 3, 1) if p.layout == "nhwc" else y).contiguous()': {
            'return y.permute(0, 2, 3, 1) if p.layout == "nhwc" else y': (
                "y is C-contiguous already: on the CPU torch answers in the order of x, others promise nothing"
            )
        }
    },
    "torch_cpu/channels_last": {
        "x = x.permute(0, 3, 1, 2) if nhwc else x.contiguous(memory_format=torch.channels_last)": {
            "x = x.permute(0, 3, 1, 2) if nhwc else x": (
                "the order in memory decides the speed: the operator takes any"
            )
        }
    },
    "torch_cpu/packed": {
        "if not torch.backends.mkldnn.is_available():": {
            "if False:": ("speaks of a torch without oneDNN, which this one is not")
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
            )
        },
    },
    "torch_cpu/unfold": {
        "if precision is None:": {"if False:": ("speaks of a torch before 2.9, which this one is not")},
        "x = x.permute(0, 3, 1, 2).contiguous()": {
            "x = x.permute(0, 3, 1, 2)": ("unfold makes its own copy of whatever it is given")
        },
        "y = y.transpose(1, 2).reshape(p.y_shape).contiguous()": {
            "y = y.transpose(1, 2).reshape(p.y_shape)": (
                "reshape has made the copy where one was needed, and its result is C-contiguous"
            )
        },
    },
    "numba/register_tile": {
        "V = 2": {"V = 3": ("tiles of three vectors are written by the same code: the sums spill, and are the same")},
        "low, high = filter_rows(j, p + f // j.Q, p + min(f + U - 1, count - 1) // j.Q)": {
            "low, high = filter_rows(j, p + f // j.Q, p + min(f + U - 1, count + 1) // j.Q)": (
                "a later last row begins with an earlier filter row: further taps, in rows of zeros"
            )
        },
        "size = (p.C * plane if nchw else height * line) + 2 * lanes * item": {
            "size = (p.C * plane if nchw else height * line) + 3 * lanes * item": (
                "a buffer with more room than is used"
            )
        },
        'here["buffer"] = (size + 4095) // 4096 * 4096 + 64 * 5': {
            'here["buffer"] = (size + 4095) // 4095 * 4096 + 64 * 5': ("a buffer with more room than is used"),
            'here["buffer"] = (size + 4095) // 4096 * 4096 + 63 * 5': (
                "the buffers of two threads begin 5 bytes closer to each other: vectors are loaded from any address"
            ),
        },
        "heights = _simd.heights_for(p.stride[1] * (item if nchw else p.C * item))": {
            "heights = _simd.heights_for(p.stride[0] * (item if nchw else p.C * item))": (
                "which tiles are looked at: all heights are right"
            ),
            "heights = _simd.heights_for(p.stride[1] * (item if nchw else p.K * item))": (
                "which tiles are looked at: all heights are right"
            ),
        },
        "U = min(heights, key=lambda U: found[U][0] * (1 if heights[0] == U else 1.03))": {
            "U = min(heights, key=lambda U: found[U][0] * (1 if heights[1] == U else 1.03))": (
                "which tile is preferred: all heights are right"
            )
        },
    },
    "numba/pointwise": {
        "fence()": {
            "pass": ("a thread's end waits for its stores past the caches in any case: that is a locked instruction")
        },
        "form = _simd.AHEAD if p.stride == (1, 1) else _simd.PLAIN": {
            "form = (_simd.PLAIN)": ("no pixels are asked for ahead of their use"),
            "form = _simd.AHEAD if p.stride == (1, 2) else _simd.PLAIN": (
                "which pixels are asked for ahead of their use: a hint, which never faults"
            ),
        },
        "j, at_table, clamped = geometry[0], table.ctypes.data, np.empty(16, np.int64)": {
            "j, at_table, clamped = geometry[0], table.ctypes.data, np.empty(15, np.int64)": (
                "a tile has at most 14 pixels"
            )
        },
        "if f + j.pixels > count:": {
            "if f + j.pixels >= count:": ("a last tile that is whole: nothing is clamped, the places are copied")
        },
        "count = min(vectors * (i + 1) // tiles * j.lanes, j.Q) - f": {
            "count = min(vectors * (i + 1) * tiles * j.lanes, j.Q) - f": (
                "a tile of two vectors computes the next tile's first as well, which is whole: the same sums twice"
            )
        },
        "threads = config.NUMBA_NUM_THREADS if parallel else 1": {
            "threads = config.NUMBA_NUM_THREADS if parallel else 0": (
                "only the estimate of tiling reads it: any block and any tile is right"
            )
        },
        "shape = (p.N, p.P * p.Q, 1) if nchw else (1, p.N * p.P * p.Q, 1)": {
            "shape = ((p.N, p.P * p.Q, 1))": ("the images of nhwc one by one instead of as one row of pixels")
        },
        "pixel = p.stride[1] * (item if nchw else p.C * item)": {
            "pixel = p.stride[1] * ((item))": ("which tiles are looked at: all heights are right")
        },
        "U = min(heights, key=lambda U: found[U][0] * (1 if heights[0] == U else 1.03))": {
            "U = min(heights, key=lambda U: found[U][0] * (0 if heights[0] == U else 1.03))": (
                "which tile is preferred: all heights are right"
            )
        },
        "U = width = 8 if _simd.many_registers() else 4": {
            "U = width = 9 if _simd.many_registers() else 4": ("tiles of nine channels are written by the same code"),
            "U = width = (8)": ("tiles of eight channels spill where there are 16 registers: the same sums"),
        },
        "narrow = 1 if 0 < p.K % width <= lanes else V": {
            "narrow = 1 if 0 <= p.K % width <= lanes else V": ("whole blocks only: the narrow tile is not used"),
            "narrow = 1 if 0 < p.C % width <= lanes else V": (
                "the wide tile for the narrow one: its second vector has zeros for weights and is not stored"
            ),
        },
    },
    "numba/unpacked": {
        "call(j.copy, (target + below * line, plane, j.P - below, line, 0, j.Q, 0, 0, step))": {
            "call(j.copy, (target + below * line, plane, j.P - below, line, 1, j.Q, 0, 0, step))": (
                "where the numbers of the next line would begin: there are none"
            )
        },
        "call(j.copy_one, (to, at + i * j.item, 1, 0, 0, count, 0, count, j.x_row))": {
            "call(j.copy_one, (to, at + i * j.item, 1, 1, 0, count, 0, count, j.x_row))": (
                "where the next line would go: there is one"
            ),
            "call(j.copy_one, (to, at + i * j.item, 2, 0, 0, count, 0, count, j.x_row))": (
                "the same line is copied twice to the same place"
            ),
        },
        "count = min(j.vectors * (i + 1) // j.tiles * j.lanes, j.P * j.Q - j.last) - f": {
            "count = min(j.vectors * (i + 2) // j.tiles * j.lanes, j.P * j.Q - j.last) - f": (
                "a tile of two vectors computes the next tile's first as well, which is whole: the same sums twice"
            )
        },
        "tile = j.tile_3 if count > 2 * j.lanes else j.tile_2 if count > j.lanes else j.tile_1": {
            "tile = j.tile_3 if count > 2 * j.lanes else j.tile_2 if count >= j.lanes else j.tile_1": (
                "one whole vector by the tile for two, of whose second no lane is read or stored"
            )
        },
        "continue": {
            "pass": ("every tile of pixels computes the last ones, not the last tile alone: the same sums again")
        },
        'here["last"] = pixels % lanes if pixels % lanes <= FEW else 0': {
            "pass": ("no pixels are left to inner products: the last ones are a vector of their own")
        },
        'here["column"] = (-(-p.C * p.R * p.S * item // 64) | 1) * 64': {
            'here["column"] = (-(-p.C * p.R * p.S * item // 64) | 1) * 65': (
                "columns of X' lie farther apart, at addresses that are aligned to nothing"
            )
        },
        "threads = get_num_threads() if parallel else 1": {
            "threads = get_num_threads() if parallel else 2": ("two shares, one after the other")
        },
    },
    "numba/few_channels": {
        "MOST = 8": {"MOST = 7": ("tiles of seven channels at most: the same sums in other tiles")},
        "parallel = p.flops > SERIAL_FLOPS": {
            "parallel = p.flops >= SERIAL_FLOPS": ("at the very threshold either version may run: they do the same")
        },
        "shares = config.NUMBA_NUM_THREADS if parallel else 1": {
            "shares = config.NUMBA_NUM_THREADS if parallel else 2": ("two shares, one after the other"),
            "shares = (1)": ("one thread takes all units: slower, the same sums"),
            "shares = (config.NUMBA_NUM_THREADS)": ("several shares, one after the other"),
        },
        'size, dtype = shares * int(j["buffer"]) // p.itemsize, np.dtype(p.dtype)': {
            'size, dtype = shares * int(j["buffer"]) * p.itemsize, np.dtype(p.dtype)': (
                "more memory for the sheets than is used"
            )
        },
        "return _simd.pack_panels(w, G, U, lanes, places), bias.reshape(-1)": {
            "return _simd.pack_panels(w, G, U, lanes, places), bias.reshape(-2)": (
                "NumPy takes any negative length for the unknown one"
            )
        },
    },
    "numba/depthwise": {
        "MOST = 8": {"MOST = 7": ("tiles of seven channels at most: the same sums in other tiles")},
        "(3, 1): (7, 4, 2, 1), (5, 1): (7, 4, 2, 1), (7, 1): (7, 4, 2, 1), (3, 2): (4, 2, 1), (5, 2): (1,),": {
            "(3, 1): (7, 4, 2, 1), (5, 0): (7, 4, 2, 1), (7, 1): (7, 4, 2, 1), (3, 2): (4, 2, 1), (5, 2): (1,),": (
                "5 x 5 filters go over sheets: slower, the same sums"
            ),
            "(3, 1): (7, 4, 1, 1), (5, 1): (7, 4, 2, 1), (7, 1): (7, 4, 2, 1), (3, 2): (4, 2, 1), (5, 2): (1,),": (
                "two rows or three by tiles of one row: the same sums"
            ),
            "(3, 1): (7, 4, 2, 1), (5, 1): (7, 4, 2, 1), (7, 1): (7, 4, 2, 1), (2, 2): (4, 2, 1), (5, 2): (1,),": (
                "3 x 3 filters with stride 2 go over sheets, 2 x 2 ones are done in place: the same sums"
            ),
        },
        "L //= 2": {"L //= 3": ("vectors of five numbers, or of one: LLVM makes them of those that there are")},
        "if stride == 2 and _simd.lanes(p.dtype) > L:": {
            "if False:": ("taller tiles for half vectors: slower, the same sums"),
            "if not (stride == 2 and _simd.lanes(p.dtype) > L):": ("tiles of other heights, all of which are right"),
        },
        "rows = min((T for T in heights if T <= p.P), key=lambda T: -(-p.P // T) * (T + 1))": {
            "rows = min((T for T in heights if T <= p.P), key=lambda T: -(-p.Q // T) * (T + 1))": (
                "which height is preferred: all of those that fit are right"
            )
        },
        "x_image=p.H * p.W * p.C * item, x_row=p.W * p.C * item, x_pixel=p.stride[1] * p.C * item,": {
            "x_image=p.H * p.W * p.K * item, x_row=p.W * p.C * item, x_pixel=p.stride[1] * p.C * item,": (
                "this way is for K = C"
            )
        },
        "windows = (3, 5, 7) if _simd.many_registers() else (3, 5)": {
            "windows = (3, 5, 7) if _simd.many_registers() else (2, 5)": (
                "which filters share columns of x: others take tap by tap, the same sums"
            )
        },
        "return fill(j, values, tiles), np.array(spans, np.int64).ravel(), tiles[0][1]": {
            "return fill(j, values, tiles), np.array(spans, np.int64).ravel(), tiles[1][1]": (
                "which tile's code is shown to a reader: it is not called"
            )
        },
        "in_place = square and (p.S, p.stride[0]) in ROWS and p.padding[2] <= _simd.lanes(p.dtype) // 4": {
            "in_place = square and (p.S, p.stride[0]) in ROWS and p.padding[1] <= _simd.lanes(p.dtype) // 4": (
                "much padding on the left in place instead of over sheets: slower, the same sums"
            ),
            "in_place = square and (p.R, p.stride[0]) in ROWS and p.padding[2] <= _simd.lanes(p.dtype) // 4": (
                "the filter is square here: R = S"
            ),
        },
        "parallel, way, dtype, shape = p.flops > SERIAL_FLOPS, way_of(p), np.dtype(p.dtype), p.y_shape": {
            "parallel, way, dtype, shape = p.flops >= SERIAL_FLOPS, way_of(p), np.dtype(p.dtype), p.y_shape": (
                "at the very threshold either version may run: they do the same"
            )
        },
        "shares, size, lanes = config.NUMBA_NUM_THREADS if parallel else 1, 0, _simd.lanes(p.dtype)": {
            "shares, size, lanes = (1), 0, _simd.lanes(p.dtype)": ("one thread takes all units: slower, the same sums"),
            "shares, size, lanes = config.NUMBA_NUM_THREADS if parallel else 2, 0, _simd.lanes(p.dtype)": (
                "two shares, one after the other"
            ),
        },
        "return _simd.pack_panels(w, p.C, U, lanes, places), bias.reshape(-1)": {
            "return _simd.pack_panels(w, p.C, U, lanes, places), bias.reshape(-2)": (
                "NumPy takes any negative length for the unknown one"
            )
        },
    },
    "numba/_pixels": {
        "return (8, 8, 7, 6, 5, 4, 3, 3) if _simd.many_registers(force) else (8, 5, 3, 2, 2, 2, 1, 1)": {
            "return (8, 8, 7, 6, 5, 4, 3, 3) if _simd.many_registers(force) else (8, 5, 3, 2, 1, 2, 1, 1)": (
                "tiles of one vector for five channels: the same sums in other tiles"
            ),
            "return (8, 8, 7, 6, 5, 4, 3, 3) if _simd.many_registers(force) else (8, 5, 3, 2, 2, 3, 1, 1)": (
                "three vectors for six channels spill where there are 16 registers: the same sums"
            ),
            "return (8, 8, 8, 6, 5, 4, 3, 3) if _simd.many_registers(force) else (8, 5, 3, 2, 2, 2, 1, 1)": (
                "eight vectors for three channels: the same sums in other tiles"
            ),
            "return (8, 8, 7, 6, 5, 4, 3, 3) if _simd.many_registers(force) else (8, 5, 3, 3, 2, 2, 1, 1)": (
                "three vectors for four channels: the same sums in other tiles"
            ),
        },
        "count = np.where(row < rows, np.maximum(0, high - low), 0)": {
            "count = np.where(row < rows, np.maximum(0, high - low), 1)": (
                "a lane of a row after the band: a tile stores nothing of such rows"
            )
        },
        "offset = np.where(count, (row * p.Q + f - row * width) * pixel, 0)": {
            "offset = np.where(count, (row * p.Q + f - row * width) * pixel, 1)": (
                "where a segment without lanes would go"
            )
        },
        "return ((rows + more) * width * item + 63) // 128 * 128 + 64": {
            "return ((rows + more) * width * item + 63) // 128 * 129 + 64": (
                "sheets lie farther apart, at addresses that are aligned to nothing"
            )
        },
    },
    "numba/winograd_decomposed": {
        '(2, "5/8,-5/8,8/5,-8/5"),': {
            '(3, "5/8,-5/8,8/5,-8/5"),': (
                "pieces of another size at the same points: the same sums from more products"
            ),
            '(1, "5/8,-5/8,8/5,-8/5"),': (
                "pieces of another size at the same points: the same sums from more products"
            ),
        },
        '(3, "0,5/8,-5/8,8/5,-8/5"),': {
            '(4, "0,5/8,-5/8,8/5,-8/5"),': (
                "pieces of another size at the same points: the same sums from more products"
            )
        },
        '(4, "0,5/8,-5/8,8/5,-8/5"),': {
            '(5, "0,5/8,-5/8,8/5,-8/5"),': (
                "pieces of another size at the same points: the same sums from more products"
            ),
            '(3, "0,5/8,-5/8,8/5,-8/5"),': (
                "pieces of another size at the same points: the same sums from more products"
            ),
        },
        "r, points = min(FRAMES, key=lambda frame: products_of(p, *frame))": {
            "r, points = max(FRAMES, key=lambda frame: products_of(p, *frame))": (
                "the frame with the most products: slower, the same sums"
            )
        },
    },
    "numba/_winograd": {
        "if shared_w < A:": {
            "if shared_w <= A:": (
                "where every frequency of a row is shared, no vector is stored aside, wherever that is"
            )
        },
        "last = max(two, first + 1)": {
            "last = max(two, first - 1)": (
                "a product takes one channel at least, and those at infinity have filters of zeros"
            )
        },
        "ahead = (last - first) * i // tile_parts": {
            "ahead = (first - first) * i // tile_parts": (
                "with which panel a part begins: slower where two write to one line, the same sums"
            )
        },
        "grid = numbers[8], numbers[9], min(1, numbers[4] % m), min(1, numbers[5] % m)": {
            "grid = numbers[8], numbers[9], min(1, numbers[4] // m), min(1, numbers[5] % m)": (
                "a last row that is as high as the others comes last in a block, with all frequencies; one that is "
                "the only row shares no product, and nobody reads those that it lacks"
            )
        },
    },
    "numba/_winograd_code": {
        "return CHUNK if self.m > 2 else 2 * CHUNK": {
            "return (CHUNK)": ("tiles of 2 outputs have shorter sums, too: slower, and no less exact"),
            "return CHUNK if self.m > 1 else 2 * CHUNK": (
                "tiles of 2 outputs have shorter sums, too: slower, and no less exact"
            ),
        },
        "even = [(a + b) / 2 for a, b in zip(BT[i], BT[i + 1], strict=True)]": {
            "even = [(a + b) / 2 for a, b in zip(BT[i], BT[i + 1], strict=False)]": (
                "rows of a matrix have the same length"
            )
        },
        "odd = [(a - b) / 2 for a, b in zip(BT[i], BT[i + 1], strict=True)]": {
            "odd = [(a - b) / 2 for a, b in zip(BT[i], BT[i + 1], strict=False)]": (
                "rows of a matrix have the same length"
            )
        },
    },
    "numba/_simd": {
        'return 512 if "avx512f" in found else 256 if "avx" in found else 128': {
            'return 512 if "avx512f" in found else 256 if "avx" in found else 127': (
                "speaks of processors without AVX, which this one is not"
            )
        },
        "return (14, 10, 7, 4) if many_registers(force) else (6, 4)": {
            "return (14, 11, 7, 4) if many_registers(force) else (6, 4)": (
                "tiles of eleven pixels are written by the same code"
            ),
            "return ((6, 4))": ("lower tiles than the registers could hold: the same sums"),
        },
        "again": {"not (again)": ("how a number that nobody changes is loaded: only registers care")},
        "self.b.call(f, [pointer, I32(int(write)), I32(3 if write else 2), I32(1)])": {
            "self.b.call(f, [pointer, I32(int(write)), I32(3 if write else 3), I32(1)])": (
                "into which cache a prefetch is asked for"
            )
        },
        "if not self.fused:": {"if False:": ("speaks of processors without fused multiply-add, which this one is not")},
        "place = places[u] if u < HELD else v.integer(v.add(pixels, 8 * u), again=True)": {
            "place = (v.integer(v.add(pixels, 8 * u), again=True))": (
                "all places are loaded again for each tap: slower, the same places"
            )
        },
        "None if block is whole else v.first(v.add(channels, -j * v.lanes))": {
            "(v.first(v.add(channels, -j * v.lanes)))": ("whole vectors are stored under a mask of all lanes")
        },
        "for rows, mask, u in zip(turned, masks, groups, strict=True):": {
            "for rows, mask, u in zip(turned, masks, groups, strict=False):": (
                "turned and masks are made of groups: all three have the same length"
            )
        },
        "own = [v.least(u, channels) if in_place else I64(u) for u in range(U)]": {
            "own = [(v.least(u, channels)) for u in range(U)]": (
                "channels after the last are the last one again instead of zeros, and are not stored"
            )
        },
        "blocks = b.sdiv(v.add(taps, L - 1), I64(L))": {
            "blocks = b.sdiv(v.add(taps, L + 1), I64(L))": (
                "a further block without taps: nothing of it is loaded or stored"
            )
        },
        "store, following = b.append_basic_block(), b.append_basic_block()": {
            "(following, store) = b.append_basic_block(), b.append_basic_block()": (
                "two new blocks of code, whichever of them is which"
            )
        },
        "pack = _packing(w.size > 2**16)": {
            "pack = _packing(w.size >= 2**16)": ("at the very threshold either version may run: they do the same")
        },
    },
}

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (kernel, before, after): why
    for kernel, lines in ARGUED.items()
    for before, changes in lines.items()
    for after, why in changes.items()
}
