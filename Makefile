# SPDX-License-Identifier: Apache-2.0
# The front door for developers: `make help`. Every target is what you would type yourself, in an active virtual
# environment. Needs doctest (apt-get install doctest-dev) besides what `pip install` needs.

CASE ?= $(K)
N ?= 200

.DEFAULT_GOAL := check
.PHONY: check install test seed fuzz mutants kernels kernels-accept gpu bench docs docs-serve ci help

check: install ## build what changed, run unit tests and a smoke set of seeds
	build-wheel/bin/nccl_ep_unit_tests && pytest -q tests/repository tests/protocol --seeds 1 -k 'not traffic and not 32_ranks'

install: ## build and install into the active environment, tests included
	pip install -q '.[test,dev]' -Ccmake.define.NCCL_EP_BUILD_TESTS=ON

test: install ## K=ll_plan: everything with that stem, on GPUs too if there are any
	build-wheel/bin/nccl_ep_unit_tests -sf='*$(K)*' && pytest -k '$(K)'$(if $(wildcard /dev/nvidia0), && pytest --device cuda -k '$(K)')

seed: install ## CASE=test_ranks S=20931: one seed of the tests with that name
	pytest -vv -k '$(CASE)' --seed $(S)

fuzz: install ## CASE=test_ranks N=2000: many seeds
	pytest -q -x -k '$(CASE)' --seeds $(N)

mutants: install ## CASE=banks: deliberate bugs in kernels, and whether each is noticed
	pytest -v tests/mutants -k '$(CASE)'

kernels: install ## registers, shared memory, spills, code size of every kernel, beside the recorded ones
	python tests/kernels/resources.py

kernels-accept: install ## record them; the commit says why
	python tests/kernels/resources.py --accept

gpu: install ## all tests on GPUs
	pytest --device cuda

bench: install ## A=main: the working tree and another revision in turn, with their ratio
	mkdir -p build-bench-$(A)/source && git archive $(A) | tar -x -C build-bench-$(A)/source
	cmake -S build-bench-$(A)/source -B build-bench-$(A) && cmake --build build-bench-$(A) --parallel --target nccl_ep
	ep_bench --compare build-bench-$(A)/lib/libnccl_ep.so.0

docs: ## the documentation as a site in build-site, and whether its links, examples and tables are right
	pip install -q '.[test,docs]' -Ccmake.define.NCCL_EP_BUILD_TESTS=ON
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	pytest -q tests/repository tests/protocol/test_data_flow.py tests/python/test_quickstart.py tests/python/test_doctests.py tests/abi/test_c_example.py tests/abi/test_drop_in.py

docs-serve: ## the site while you write, at http://localhost:8000; needs `make docs` before
	NO_MKDOCS_2_WARNING=1 mkdocs serve

ci: ## what CI does, in a clone of the last commit
	rm -rf build-ci-clone && git clone -q . build-ci-clone && build-ci-clone/.ci/run

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
