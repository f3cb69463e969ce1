"""The questions: what is timed, on which problems, by which clock. ``python -m benchmarks --help``.

asv imports this package before any benchmark, in every process. Only then is our benchmark type made
known to it, and the libraries told how many threads to use, before one of them is imported.
"""

import os
import sys

if "asv_runner" in sys.modules:
    from . import asv_type, hardware, worker

    _threads = int(os.environ.get("CONVZOO_THREADS", hardware.usable_cpus()))
    os.environ.update(worker.library_environment(_threads))
    asv_type.register()
