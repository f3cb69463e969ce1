# Two commands: `make compare` and `make test`. Everything they need is installed into .venv first.
PYTHON  ?= $(firstword $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
               $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p; done) python3)
VENV    ?= .venv
PROFILE ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda12 || echo cpu)
READY    = $(VENV)/.ready-$(PROFILE)
RUN      = $(VENV)/bin/python
GPUCHECK ?= .venv-gpucheck

.PHONY: compare test test-all lint asv mutants gpu gpu-offline gpu-offline-check clean

# Check and time every kernel this machine can run (about three and a half minutes on two cores), and write the report.
compare: $(READY)
	$(RUN) -m benchmarks compare --preset quick --report $(COMPARE_FLAGS)

# The tests, file by file in two processes, then those that compare times; `make test-all` adds the slow ones.
test: $(READY)
	$(RUN) -m pytest -m "not slow and not alone" -n 2 --dist loadfile --no-loadscope-reorder
	$(RUN) -m pytest -m "not slow and alone"

test-all: $(READY)
	$(RUN) -m pytest

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

# asv's own run of its grid on this commit, with the results kept.
asv: $(READY)
	MACHINE=$$($(RUN) -m benchmarks machine) && \
	$(RUN) -m asv run -E existing:$(CURDIR)/$(RUN) --machine $$MACHINE \
	    --set-commit-hash $$(git rev-parse HEAD) $(ASV_FLAGS)

# Every mutant of the honest kernels must be rejected, or argued away (40 minutes); MUTANTS='--kernels numpy/*' for some.
mutants: $(READY)
	$(RUN) -m tests.mutation $(MUTANTS)

# Tests, sanitizer and timings on a CUDA machine that reaches no network and has the libraries installed.
gpu:
	PYTHONPATH=kernels:. $(PYTHON) -m benchmarks gpu --out $(or $(OUT),gpu-results)

# Compile every GPU kernel for the GPUs that are not here, and write reports/gpu_code.json and its page.
gpu-offline: $(GPUCHECK)/.ready
	$(GPUCHECK)/bin/python -m tests.gpu_offline

# The same, changing nothing: is the table as it would be now, does it keep its rules, are breaches seen?
gpu-offline-check: $(GPUCHECK)/.ready
	$(GPUCHECK)/bin/python -m tests.gpu_offline --check
	$(GPUCHECK)/bin/python -m pytest -q tests/gpu_offline

$(GPUCHECK)/.ready: pyproject.toml constraints/gpucheck.txt
	$(PYTHON) -m venv $(GPUCHECK)
	$(GPUCHECK)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints/gpucheck.txt -e '.[gpucheck,test]'
	touch $@

$(READY): pyproject.toml constraints/$(PROFILE).txt
	@$(PYTHON) -c 'import sys; sys.exit("convzoo needs Python 3.11 or later, got " + sys.version.split()[0] \
	    + ": make PYTHON=/path/to/python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints/$(PROFILE).txt \
	    -e '.[$(PROFILE),bench,report,fleet,test,dev]'
	touch $@

clean:
	rm -rf $(VENV) $(GPUCHECK) .asv build gpu-results
