#!/bin/sh
# The checks under valgrind again, for the other object code there can be: gcc and clang, -O2 and -O3. That of gcc -O3
# is among the C++ tests. Usage: oblivious_test.sh VENV
set -eu
python=$(cd "$1" && pwd)/bin/python

check() {
  compiler=$1 level=$2 build="build/oblivious-$1-$2"
  echo "[$compiler $level] what memcheck sees of the engine and of confidential requests ..."
  mkdir -p "$build"
  log="$build/test.log"
  {
    cmake --preset simulation -B "$build" -DPython_EXECUTABLE="$python" -DCMAKE_CXX_COMPILER="$compiler" \
      -DCMAKE_CXX_FLAGS_RELEASE="$level -DNDEBUG" -DCONFIDENTIAL_ML_PYTHON=OFF &&
      cmake --build "$build" --target engine_oblivious engine_planted_leak float_math_oblivious float_math_planted_leak \
      confidential_request_oblivious confidential_request_planted_leak
  } > "$log" 2>&1 || { tail -n 60 "$log"; exit 1; }
  ctest --test-dir "$build" -j 2 --no-tests=error -R '^(engine|float_math|confidential_request)_(oblivious|planted_leak)$' > "$log" 2>&1 ||
    { tail -n 60 "$log"; exit 1; }
  grep "tests passed" "$log"
}

check g++ -O2
check clang++ -O2
check clang++ -O3
