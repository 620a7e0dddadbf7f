# Everything runs in .venv, made on first use from pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo demo-seg demo-vit demo-3d test test-all test-torch lint clean

install: $(READY)

$(READY): requirements/build.txt requirements/lock.txt setup.py
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else \
	  'The pinned environment needs Python 3.11 or 3.12, this is %d.%d: run make PYTHON=python3.11' % v)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements/build.txt
	@echo "mmcv 2.1.0: a wheel if pip finds one, else built from source (about 15 minutes on 2 cores)"
	MMCV_WITH_OPS=1 $(BIN)/pip install -q --no-build-isolation --no-deps mmcv==2.1.0
	$(BIN)/pip install -q --no-deps -r requirements/lock.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/python demo/demo.py detection

demo-seg: $(READY)
	$(BIN)/python demo/demo.py segmentation

demo-vit: $(READY)
	$(BIN)/python demo/demo.py vit

demo-3d: $(READY)
	$(BIN)/python demo/demo.py detection3d

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" tests

test-all: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests

# Backbones, cost and weights with another torch, without any toolkit: make test-torch TORCH=2.1.2
TORCH ?= 2.1.2
test-torch:
	$(PYTHON) -m venv $(VENV)-torch-$(TORCH)
	$(VENV)-torch-$(TORCH)/bin/pip install -q torch==$(TORCH) -r requirements/torch_only.txt
	PYTHONPATH=.:tests $(VENV)-torch-$(TORCH)/bin/python -m pytest -q -n 2 -p torch_only \
	  -m "not slow" tests/models tests/cost tests/weights

lint: $(READY)
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info
