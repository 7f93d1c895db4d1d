# make demo and make test do all their own set-up.
#   VENV=.venv        the virtual environment to make or use
#   PYTHON=python3    the interpreter to make it with (3.10, 3.11 or 3.12)
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

DIGITS = configs/digits/mask_rcnn_halvit_digits.py
DIGITS_DATA = data/digits/dataset.json
DEMO = work_dirs/demo

.PHONY: install demo test test-full results zoo docs docs-serve benchmark check-env lint format lock \
	audit clean

install:
	@$(PYTHON) tools/install.py $(VENV)

$(DIGITS_DATA): halvit_mm/datasets/digits.py | install
	$(RUN) tools/make_digits.py data/digits
	@touch $@

# Trains a small HaLViT Mask R-CNN on handwritten digits, tests it and draws what it sees.
demo: install $(DIGITS_DATA)
	$(RUN) tools/train.py $(DIGITS) --work-dir $(DEMO)
	$(RUN) tools/test.py $(DIGITS) $$(cat $(DEMO)/last_checkpoint) --work-dir $(DEMO)_test --out $(DEMO)/predictions.pkl
	$(RUN) tools/draw_predictions.py $(DIGITS) $(DEMO)/predictions.pkl $(DEMO)/predictions.png
	$(RUN) tools/analyze_run.py $(DEMO) --out $(DEMO)/curves.png

# As many processes as cores, up to eight, with one thread each. glibc keeps freed memory: to hand
# back every tensor and fault it in anew takes longer than most tests, in virtual machines at least.
# Tests of a group share what takes long to make, and so a process.
TEST = OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 \
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist loadgroup

test: install
	$(TEST)

# The tests that take minutes each, as well.
test-full: install
	$(TEST) --full

# All tables and plots of the documentation, from the logs in docs/results.
results: install
	$(RUN) tools/make_results.py

# Trains, tests and publishes the checkpoints of the model zoo that are not there yet.
zoo: install
	$(RUN) tools/make_model_zoo.py

# The documentation, into site/; a warning fails it. The variable silences an advertisement.
docs: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

docs-serve: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve

# Whether the comparison with dense peers works, on small models; --help names the real ones.
benchmark: install
	$(RUN) tools/benchmark.py --quick --out work_dirs/benchmark

check-env: install
	$(RUN) tools/check_env.py

lint: install
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: install
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

# Pins everything anew for all supported Pythons and platforms, each file by its hash.
COMPILE = $(RUN) -m uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--custom-compile-command "make lock"
lock: install
	$(COMPILE) --override requirements/overrides.txt --no-emit-package opencv-python \
	  --excludes requirements/torch.in \
	  requirements/runtime.in requirements/dev.in -o requirements/lock.txt
	for what in torch build uv pip; do \
	  $(COMPILE) --constraint requirements/lock.txt requirements/$$what.in \
	    -o requirements/$$what.txt || exit 1; \
	done

# Looks all pinned versions up among the known vulnerabilities; needs the network.
audit: install
	$(RUN) -m uv tool run pip-audit --strict --no-deps --disable-pip \
	  -r requirements/torch.txt -r requirements/lock.txt -r requirements/build.txt

clean:
	rm -rf work_dirs build dist site *.egg-info
