#!/bin/sh
# The engine built by clang beside the one built by gcc; Open Enclave's images are built by clang.
# Usage: bench_compilers.sh VENV [MODELS] [ROUNDS]
set -eu
venv=$1 models=${2:-a,b,c,d,e,f,g} rounds=${3:-5}
program() { echo "build/bench-engine-$1/tests/cpp/engine_bench"; }
for compiler in gcc clang; do
  tree=build/bench-engine-$compiler
  mkdir -p "$tree"
  cxx=$([ $compiler = gcc ] && echo g++ || echo clang++)
  {
    CC=$compiler CXX=$cxx cmake -G Ninja -S . -B "$tree" -DCMAKE_BUILD_TYPE=Release -DCONFIDENTIAL_ML_TESTS=ON \
      -DCONFIDENTIAL_ML_PYTHON=OFF && cmake --build "$tree" --target engine_bench
  } > "$tree/build.log" 2>&1 || { tail -n 30 "$tree/build.log"; exit 1; }
done
exec "$venv/bin/python" -m benchmarks.compilers "$(program gcc)" "$(program clang)" "$models" "$rounds"
