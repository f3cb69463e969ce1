"""Machine code that is kept on disk for the next process, and is compiled again where the disk fails."""

import warnings
from contextlib import suppress

from numba import njit


def kept(signature, **options):
    """``njit`` for one signature, with Numba's cache on disk.

    A cache that cannot be read (cut off, damaged) is emptied and written anew. Where none can be written the
    function is compiled in each process, and a warning says how to change that.
    """

    def compile(function):
        try:
            return njit(signature, cache=True, **options)(function)
        except Exception as failure:
            if not isinstance(failure, OSError):
                with suppress(Exception):
                    dispatcher = njit(cache=True, **options)(function)
                    dispatcher._cache.flush()
                    return njit(signature, cache=True, **options)(function)
            made = njit(signature, **options)(function)  # raises, if the function is what is wrong
            warnings.warn(
                f"convzoo: numba cannot keep what it compiles ({type(failure).__name__}: {failure}); each process "
                "compiles it again. Set NUMBA_CACHE_DIR to a folder that can be written",
                RuntimeWarning,
                stacklevel=2,
            )
            return made

    return compile
