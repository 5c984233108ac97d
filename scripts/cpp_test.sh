#!/bin/sh
# Configures, builds and runs the C++ tests of a preset. Usage: cpp_test.sh PRESET VENV [CMAKE_OPTION...]
set -eu
preset=$1 python=$(cd "$2" && pwd)/bin/python
shift 2
echo "[$preset] C++ tests ..."
mkdir -p "build/$preset"
log="build/$preset/build.log"
{
  cmake --preset "$preset" -DPython_EXECUTABLE="$python" "$@" &&
    cmake --build --preset "$preset" --target all --target test_images
} > "$log" 2>&1 || { tail -n 60 "$log"; exit 1; }
ctest --preset "$preset" -j "$(nproc)" > "$log" 2>&1 || { tail -n 80 "$log"; exit 1; }
tail -n 4 "$log"
