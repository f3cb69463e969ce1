"""One operation, many implementations: multi-channel conv2d behind one interface.

``conv2d(x, w, bias, kernel="numba/direct")`` runs one, ``prepare`` packs the weights ahead, ``names()``
lists them, ``load(name)`` gives the kernel itself. Importing this module imports no optional library.
"""

from .catalog import load, names
from .conv2d import conv2d, prepare
from .plan import Plan, Unavailable, Unsupported
from .problem import Conv2d

__version__ = "0.1.0"
__all__ = ["Conv2d", "Plan", "Unavailable", "Unsupported", "conv2d", "load", "names", "prepare"]
