#!/bin/sh
# Runs the Python tests that reach the extension and the enclave under AddressSanitizer and UBSan, in two processes.
# Usage: sanitized_python_test.sh VENV
set -eu
venv=$1
site="$(pwd)/build/debug/site"
echo "[debug] Python tests under AddressSanitizer and UndefinedBehaviorSanitizer ..."
rm -rf "$site"
mkdir -p "$site"
cp -r src/confidential_ml "$site/"
cmake --install build/debug --component python --prefix "$site" > /dev/null
runtime=$(${CXX:-g++} -print-file-name=libasan.so)
undefined=$(${CXX:-g++} -print-file-name=libubsan.so)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Leaks are looked for by the C++ tests: the interpreter itself leaks too much to tell.
sanitized() {
  env LD_PRELOAD="$runtime $undefined" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONPATH="$site" CONFIDENTIAL_ML_TEST_IMAGES="$(pwd)/build/debug/test_images" \
    "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
}

sanitized tests/test_sealing.py tests/test_lifecycle.py > "$log" 2>&1 &
other_process=$!
status=0
sanitized tests/test_predict.py tests/test_batches.py tests/test_inputs.py tests/test_property.py || status=$?
wait "$other_process" || status=$?
cat "$log"
exit "$status"
