# Everything a newcomer types. Needs make, git and python3; the rest is installed into .venv from uv.lock.
PROTOCOL ?= quick
NETWORKS ?= 2000
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport VIRTUAL_ENV PYTHONPATH
unexport PYTHONDONTWRITEBYTECODE  # else every process compiles fastai and torch anew

.DEFAULT_GOAL := help
.PHONY: help setup repro test site dist lab torture lock clean

help:
	@echo "make repro     rebuild every table and figure on the quick protocol (PROTOCOL=small, thesis: the others)"
	@echo "make test      lint, unit tests, the pipeline at toy size, every notebook"
	@echo "make site      the paper as pages in site/, and as PDF: open site/index.html (a PDF takes a Chromium)"
	@echo "make dist      what a release holds: wheel, site, archive, in dist/"
	@echo "make lab       open the notebooks in JupyterLab"
	@echo "make torture   the slow tests, with their counts; NETWORKS=20000: that many random networks in the measures' fuzzer"
	@echo "make lock      enter code that computes what it did into dvc.lock"
	@echo "make clean     remove what repro and test made; committed results and .venv stay"

setup: | $(UV)
	$(UV) sync --frozen --extra paper --extra scale

# Without uv on the machine: a private copy. --target, because Debian's pip refuses to install beside its own packages.
.uv/bin/uv:
	python3 -m pip install --quiet --target .uv uv || { python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv; }

repro: setup
	dvc repro report@$(PROTOCOL)

test: setup
	ruff check .
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not torture" tests
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --nbval-lax --nbval-current-env notebooks/*.ipynb

site: setup
	python -m ctxnet site

# What a release holds: the wheel, the site, and the repository with its records as Zenodo keeps it.
dist: site
	rm -rf dist && mkdir dist
	$(UV) build --quiet --wheel --out-dir dist
	tar -czf dist/ctxnet-site.tar.gz site
	git archive --format=zip --prefix=ctxnet/ -o dist/ctxnet-repository.zip HEAD

lab: setup
	jupyter lab

torture: setup
	pytest -m torture -rP --networks $(NETWORKS)

# After a change of code that computes what it did: enter it into dvc.lock instead of making every result again.
lock: setup
	OMP_NUM_THREADS=1 pytest tests/test_training.py -k golden
	python -m ctxnet.pipeline.stages data quick
	mkdir -p results/quick/tables results/quick/figures results/quick/cards results/quick/runs
	dvc commit --quiet --force dvc.yaml
	find results/quick -type d -empty -delete

clean:
	rm -rf results/quick results/dvc/*/quick.* results/*/notebook results/*/runs/*/notebook results/measure/*/notebook data/probe-* data/.probe-* data/pathfinder-* data/.pathfinder-*
	rm -rf site dist build dvc_plots .pytest_cache .ruff_cache .dvc/tmp .dvc/cache
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +

# For those without uv: environment.yml installs this list.
requirements.txt: uv.lock | $(UV)
	$(UV) export --quiet --frozen --extra paper --no-annotate --no-header --no-emit-project -o $@
