"""What asv imports: every module of this folder, before any benchmark, in every process.

asv finds nothing else of the repository, so the repository is appended to the path, behind the convzoo that
asv has installed. Then our benchmark type is made known to it, and the libraries are told how many threads to
use, before one of them is imported.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent.parent))

from benchmarks.hardware import library_environment, usable_cpus

from . import asv_type

os.environ.update(library_environment(int(os.environ.get("CONVZOO_THREADS", usable_cpus()))))
asv_type.register()
