#!/bin/sh
# Fuzzes the ecalls. Usage: fuzz.sh VENV SECONDS
set -eu
python=$(cd "$1" && pwd)/bin/python
cmake --preset fuzz -DPython_EXECUTABLE="$python" > /dev/null
cmake --build --preset fuzz
build/fuzz/fuzz/make_corpus build/fuzz/corpus
exec build/fuzz/fuzz/ecalls_fuzz -max_total_time="$2" -print_final_stats=1 build/fuzz/corpus
