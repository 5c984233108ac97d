# Everything a fresh machine needs to try, test or develop confidential_ml. Needs Python >= 3.11, git and the package
# registries; what else is missing is installed through apt if it may be.
#
#   make demo    seal, load and use a model; see what is refused
#   make serve   an HTTP server at http://localhost:8080 (settings: docs/http.md 4, as environment)
#   make client  attest that server, provision a model into it, predict, verify, delete; from another process
#   make train-model  train the classifier of examples/data again
#   make test    build and run every test and check (CI)
#   make check   the checks on the code alone (format, lint, types, layers)
#   make bench   measure, beside XGBoost and the fast libraries that run its models; writes docs/benchmarks.md;
#                BENCH="--quick" tries it out, BENCH="--help" lists the options
#   make bench-compilers  the engine built by clang, plain and hardened, beside the one built by gcc
#   make tsan-test    the C++ tests under ThreadSanitizer
#   make load    requests per second of the server's routes beside an empty one
#   make soak    many clients for SOAK_SECONDS while models are swapped every second
#   make fuzz    fuzz the ecalls for FUZZ_SECONDS
#   make exhaustive   the scalar functions over all 2^32 inputs
#   make clean   remove what was built
#
# PLATFORM=openenclave-simulation or openenclave needs the Open Enclave SDK (docs/building.md).

PLATFORM ?= simulation
PYTHON ?= python3
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 300
export PYTHON

ifneq ($(PLATFORM),simulation)
export CC = clang
export CXX = clang++
endif

PYTHONS := $(shell scripts/find_pythons.sh)
ifeq ($(PYTHONS),)
$(error no Python 3.11 or later found)
endif
suffix := $(if $(filter simulation,$(PLATFORM)),,-$(PLATFORM))
VENV := .venv$(suffix)
OTHER_VENV := .venv-other$(suffix)
BENCH_VENV := .venv-bench$(suffix)
HAS_OTHER := $(word 2,$(PYTHONS))
# What takes long and does not depend on XGBoost or the extension runs with one Python, shared out between the two.
WITH_THE_FIRST := attestation attestation_attacks attestation_differential card collateral_service edger8r endpoint \
  examples hpke json_depth protocol relying_party remote
WITH_THE_OTHER := arrow_stream cli cli_predict cli_remote client console_assembly console_page console_requests \
  console_verifier deployment large_bodies mlflow_scoring open_inference openapi server_process server_routes \
  server_settings server_store single_row_tensor
without = $(patsubst %,--ignore=tests/test_%.py,$(1))

sources := pyproject.toml CMakeLists.txt $(shell find cmake common edl enclave host simulation scripts src -type f \
             -not -name '*.pyc')

.PHONY: demo serve client train-model load soak test check cpp-test sanitized-test tsan-test python-test bench bench-compilers fuzz exhaustive clean packages test-packages

demo: packages $(VENV)/.installed
	@$(VENV)/bin/python examples/demo.py --other-image $(VENV)/test_images/rebuilt.signed

# A simulation on this machine alone, so it may say out loud what it lacks. Every setting can be given another value.
serve: packages $(VENV)/.installed
	@mkdir -p build
	@CONFIDENTIAL_ML_MODEL_STORE="$${CONFIDENTIAL_ML_MODEL_STORE:-build/model_store}" \
	CONFIDENTIAL_ML_UNSAFE__SIMULATION="$${CONFIDENTIAL_ML_UNSAFE__SIMULATION:-true}" \
	CONFIDENTIAL_ML_UNSAFE__CLEARTEXT_PREDICT="$${CONFIDENTIAL_ML_UNSAFE__CLEARTEXT_PREDICT:-true}" \
	CONFIDENTIAL_ML_UNSAFE__CLEARTEXT_UPLOAD="$${CONFIDENTIAL_ML_UNSAFE__CLEARTEXT_UPLOAD:-true}" \
	CONFIDENTIAL_ML_UNSAFE__ANONYMOUS="$${CONFIDENTIAL_ML_UNSAFE__ANONYMOUS:-[\"owner\", \"client\", \"metrics\"]}" \
	exec $(VENV)/bin/python -W ignore:SIMULATION -m confidential_ml.server

client: packages $(VENV)/.installed
	@$(VENV)/bin/python examples/attesting_client.py $(URL)

train-model: packages $(VENV)/.installed
	@$(VENV)/bin/python examples/train_iris.py examples/data/iris_model.json

test: test-packages
	@$(MAKE) --no-print-directory -j 2 $(VENV)/.installed $(if $(HAS_OTHER),$(OTHER_VENV)/.installed)
	@$(MAKE) --no-print-directory check
ifeq ($(PLATFORM),simulation)
	@$(MAKE) --no-print-directory cpp-test sanitized-test
endif
	@$(MAKE) --no-print-directory python-test
	@echo "All tests and checks passed."

packages:
	@scripts/find_sdk.sh $(PLATFORM)
	@scripts/system_packages.sh

test-packages:
	@scripts/find_sdk.sh $(PLATFORM)
	@scripts/system_packages.sh test

$(VENV)/.installed: $(sources)
	@scripts/install.sh $(VENV) $(word 1,$(PYTHONS)) $(PLATFORM)
	@touch $@

$(OTHER_VENV)/.installed: $(sources)
	@scripts/install.sh $(OTHER_VENV) $(word 2,$(PYTHONS)) $(PLATFORM)
	@touch $@

check: test-packages $(VENV)/.installed
	@scripts/check.sh $(VENV) build/$(PLATFORM)-$$($(VENV)/bin/python -c 'import sys; print(sys.implementation.cache_tag)')

cpp-test: $(VENV)/.installed
	@scripts/cpp_test.sh simulation $(VENV) -DCONFIDENTIAL_ML_PYTHON=OFF
	@scripts/oblivious_test.sh $(VENV)

sanitized-test: $(VENV)/.installed
	@scripts/cpp_test.sh debug $(VENV)
	@scripts/sanitized_python_test.sh $(VENV)

tsan-test: $(VENV)/.installed
	@scripts/cpp_test.sh tsan $(VENV)

python-test: $(VENV)/.installed $(if $(HAS_OTHER),$(OTHER_VENV)/.installed)
ifneq ($(HAS_OTHER),)
	@scripts/python_tests.sh $(VENV) "$(call without,$(WITH_THE_OTHER))" $(OTHER_VENV) "$(call without,$(WITH_THE_FIRST))"
else
	@scripts/python_test.sh $(VENV)
	@echo "Only one Python >= 3.11 found: the tests ran with that one alone."
endif

bench: test-packages
	@scripts/bench.sh $(BENCH_VENV) $(lastword $(PYTHONS)) $(PLATFORM) $(BENCH)

bench-compilers: test-packages $(VENV)/.installed
	@scripts/bench_compilers.sh $(VENV)

load: test-packages $(VENV)/.installed
	@$(VENV)/bin/python -m benchmarks.load 9 3 build/load.json

soak: test-packages $(VENV)/.installed
	@$(VENV)/bin/python -m benchmarks.soak $(SOAK_SECONDS)

fuzz: test-packages $(VENV)/.installed
	@scripts/system_packages.sh fuzz
	@scripts/fuzz.sh $(VENV) $(FUZZ_SECONDS)

exhaustive: test-packages $(VENV)/.installed
	@cmake --preset simulation -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python > /dev/null
	@cmake --build --preset simulation --target float_math_exhaustive
	@build/simulation/tests/cpp/float_math_exhaustive

clean:
	rm -rf build .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
