"""CUDA C++ from the file beside a kernel, compiled by NVRTC for the GPU at hand and kept on disk by CuPy.

CuPy finds an earlier compilation by the text, the options and the GPU's architecture. What a text
includes is not part of that key, so that an edited header would go unseen: headers of this folder are
therefore put into the text where it includes them.
"""

import re
from pathlib import Path

import cupy

INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


def source(file: Path) -> str:
    """The text of a .cu file with the headers of its folder in it; lines keep their names and numbers."""

    def put_in(found: re.Match) -> str:
        line = file_text.count("\n", 0, found.start()) + 2
        return f'#line 1 "{found[1]}"\n{source(file.parent / found[1])}#line {line} "{file.name}"'

    file_text = file.read_text(encoding="utf-8")
    return INCLUDE.sub(put_in, file_text)


def compiled(file: Path, name: str, shared_bytes: int = 0, architecture: str = "", **constants: object):
    """The kernel ``name`` of a .cu file, with ``constants`` as macros; ``shared_bytes``: the dynamic ones.

    ``architecture`` is for instructions that only one GPU has, "sm_90a". CuPy asks for "sm_90" all the
    same, and of the two NVRTC takes the one that can do more (12.9, 13.0 and 13.5 do; 12.8 refuses).
    """
    options = ("-std=c++17", *(f"-D{key}={value}" for key, value in constants.items()))
    if architecture:
        options += (f"-arch={architecture}",)
    kernel = cupy.RawModule(code=source(file), options=options).get_function(name)
    if shared_bytes > 48 * 1024:  # more than any kernel gets unasked
        kernel.max_dynamic_shared_size_bytes = shared_bytes
    return kernel
