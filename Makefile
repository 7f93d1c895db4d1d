# make demo and make test do all their own set-up.
#   VENV=.venv        the virtual environment to make or use
#   PYTHON=python3    the interpreter to make it with (3.10, 3.11 or 3.12)
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

DIGITS = configs/digits/mask_rcnn_halvit_digits.py
DIGITS_DATA = data/digits/dataset.json
DEMO = work_dirs/demo

.PHONY: install demo test test-full check-env lint format lock clean

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

test: install
	$(RUN) -m pytest

# The tests that take minutes each, as well.
test-full: install
	$(RUN) -m pytest --full

check-env: install
	$(RUN) tools/check_env.py

lint: install
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: install
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

# Pins everything anew for all supported Pythons and platforms.
lock: install
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.10 \
	  --override requirements/overrides.txt --no-emit-package opencv-python \
	  --custom-compile-command "make lock" \
	  requirements/runtime.in requirements/dev.in -o requirements/lock.txt

clean:
	rm -rf work_dirs build dist *.egg-info
