#!/bin/sh
# The engine built by clang beside the one built by gcc; and built by clang with speculative-load hardening, as Open
# Enclave's images are.
# Usage: bench_compilers.sh VENV [MODELS] [ROUNDS]
set -eu
venv=$1 models=${2:-a,b,c,d,e,f,g} rounds=${3:-5}
program() { echo "build/bench-engine-$1/tests/cpp/engine_bench"; }
build() {
  name=$1 cxx=$2 flags=${3:-}
  tree=build/bench-engine-$name
  mkdir -p "$tree"
  {
    CXX=$cxx cmake -G Ninja -S . -B "$tree" -DCMAKE_BUILD_TYPE=Release -DCONFIDENTIAL_ML_TESTS=ON \
      -DCONFIDENTIAL_ML_PYTHON=OFF "-DCMAKE_CXX_FLAGS=$flags" && cmake --build "$tree" --target engine_bench
  } > "$tree/build.log" 2>&1 || { tail -n 30 "$tree/build.log"; exit 1; }
}
build gcc g++
build clang clang++
build hardened clang++ "-mllvm -x86-speculative-load-hardening"
for other in clang hardened; do
  printf '\n%s beside gcc\n\n' "$other"
  "$venv/bin/python" -m benchmarks.compilers "$(program gcc)" "$(program "$other")" "$models" "$rounds"
done
