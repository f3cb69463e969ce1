"""The questions: what is timed, on which problems, by which clock. ``python -m benchmarks --help``."""
