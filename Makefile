# Everything runs in .venv/, which is made on first use. A fresh machine needs Python 3.11, pip, gcc and make.
PYTHON ?= python3
BIN := .venv/bin
QUESTION ?= Compute (8+4)*3-6.
MODEL ?= tiny
SOURCES := src tests bench recipes examples docs scripts
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: wheel demo test test-fast sanitize lint docs examples notebook browser format bench bench-isa aarch64 clean
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[dev,docs]'
	$(BIN)/minseek models --get smollm2
	touch $@

demo: .venv/ready ## answer a question on the embedded model with 10 induced thoughts; the cache stays flat
	$(BIN)/minseek reason "$(QUESTION)" -m $(MODEL) --thoughts 10 --max-thought-tokens 250 --answer-tokens 120 --seed 1 -u

test: lint docs browser ## lint, types, documentation and all tests
	$(BIN)/python -m pytest

test-fast: .venv/ready ## tests without the slow ones and without SmolLM2, in under two minutes
	$(BIN)/python -m pytest -m "not slow and not smollm2"

SANITIZE := -g1 -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: .venv/ready ## all C kernels (forward, cluster, lowbit) under AddressSanitizer and UBSan; some minutes
	MINSEEK_CACHE=$(CURDIR)/build/sanitize MINSEEK_CFLAGS="$(SANITIZE)" ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	$(BIN)/python -m pytest -s tests/models/test_forward.py tests/models/test_packed_matrices.py tests/cluster/test_extreme_numbers.py \
		tests/cluster/test_optimality.py tests/lowbit/test_rounding.py tests/lowbit/test_instruction_sets.py \
		-k "not NumPy"

wheel: .venv/ready ## a wheel in dist/ with kernels for every level, for machines without a compiler; two minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/build_wheel.py

aarch64: .venv/ready ## the kernels compiled for aarch64 and tested under qemu-user (see scripts/aarch64.sh); ten minutes
	PYTHON="$(CURDIR)/$(BIN)/python" scripts/aarch64.sh

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

docs: .venv/ready ## the documentation site, in site/
	$(BIN)/python docs/hooks/command_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

examples: .venv/ready ## run every script of examples/
	@for script in examples/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

notebook: .venv/ready ## run examples/tour.ipynb and keep its outputs
	$(BIN)/jupyter execute --inplace examples/tour.ipynb

browser: # Chromium, for the tests of the page; without it they are skipped
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null; \
	fi || true

format: .venv/ready ## before a commit
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/ready ## the benchmarks of docs/benchmarks.md; quiet machine, some hours
	$(PIP) -e '.[bench]'
	$(BIN)/python bench/think.py
	$(BIN)/python bench/everyday.py
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/quality.py
	PYTHONPATH=. $(BIN)/python bench/gguf_files.py
	$(BIN)/python bench/serve_load.py
	mkdir -p build && $(BIN)/python -m recipes.tiny_reasoner.problems --count 1000 | tail -n 500 > build/tasks.jsonl
	$(BIN)/python bench/accuracy.py build/tasks.jsonl
	$(BIN)/python bench/accuracy.py --report
	$(BIN)/python bench/readme_picture.py
	$(BIN)/python bench/cluster_paper.py
	$(BIN)/python bench/cluster_speed.py
	$(BIN)/python bench/cluster_divergences.py
	$(BIN)/python bench/cluster_sklearn_tests.py
	$(BIN)/python bench/lowbit_proof.py
	$(BIN)/python bench/lowbit_speed.py
	$(BIN)/python bench/lowbit_stagnation.py
	$(BIN)/python bench/lowbit_floor.py
	$(BIN)/python bench/lowbit_images.py
	$(BIN)/python bench/lowbit_tune.py

bench-isa: .venv/ready ## every method at every instruction set of this machine; quiet machine, some ten minutes a level
	$(PIP) -e '.[bench]'
	$(BIN)/python bench/isa.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis site
