# Set up this checkout, try it, test it. The work is done by hpc-galaxy, pytest and scripts/; this names it.
VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an interrupted set-up is set up again; a second 'make' compares dates and starts at once.
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready

# Hundreds of processes start; where modules may not be kept compiled, each of them would compile them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-ipex container-test bench lint doctor horovod clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## Show this list.
	@echo "make TARGET; the first time it sets up $(VENV) from requirements.lock (some minutes)"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST)

demo: $(READY) ## From a synthetic survey to a trained network and its report, in ./demo, with 2 ranks.
	@$(BIN)/hpc-galaxy demo demo

# Two at a time: many wait, for a limit, a queue or a launcher. Files stay together, for what their tests share, and begin in this order.
test: $(READY) ## Run the tests.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-ipex: $(INSTALLED) ## Run the tests of intel-extension-for-pytorch, in an environment of its own (3.5 GB).
	@scripts/set_up_ipex.sh .venv-ipex
	@.venv-ipex/bin/python -m pytest tests/ipex

container-test: $(INSTALLED) ## Build the CPU image and run the demo in it, as root (15 minutes); options of 'podman build' in CONTAINER_OPTIONS.
	@scripts/container_test.sh $(CONTAINER_OPTIONS)

bench: $(READY) ## Measure every stage against what this machine can do, in two minutes; results in benchmarks/results.
	@$(BIN)/hpc-galaxy bench --quick

lint: $(INSTALLED) ## Check style, types, who imports whom, the shell scripts and the containers' recipes.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/hadolint containers/Containerfile containers/Containerfile.cuda
	@if command -v shellcheck >/dev/null; then \
	    echo "shellcheck: the shell scripts" && scripts/shell_scripts.sh | xargs shellcheck; \
	else echo "shellcheck is not installed: the shell scripts were not checked"; fi

doctor: $(READY) ## Say what is installed here, and what to do about what is missing.
	@$(BIN)/hpc-galaxy doctor

horovod: $(INSTALLED) ## Build Horovod again, for example after a compiler was installed.
	scripts/build_horovod.sh $(BIN)/python
	@touch $(READY)

clean: ## Remove what make made: the environment, ./demo, caches. The Horovod wheel's cache stays.
	rm -rf $(VENV) .venv-ipex .venv-mpich demo build hpc_galaxy.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -f hpc_galaxy/bricks/_rice*.so hpc_galaxy/cutouts/_cut*.so hpc_galaxy/shards/_fletcher*.so hpc_galaxy/splits/_moments*.so \
	    hpc_galaxy/training/data/_inputs*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock setup.cfg setup.py $(wildcard hpc_galaxy/*/*.[ch] hpc_galaxy/*/*/*.[ch])
	@rm -f $(READY) $@
	@scripts/set_up.sh $(VENV)
	@touch $@

# Without a compiler or after a failed build (3, 4) training uses torch DDP; the script has said so.
$(READY): $(INSTALLED)
	@scripts/build_horovod.sh $(BIN)/python || case $$? in 3|4) ;; *) exit 1 ;; esac
	@touch $@
