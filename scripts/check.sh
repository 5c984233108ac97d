#!/bin/sh
# Format, lint, types and the rules of the code base, warnings as errors. Usage: check.sh VENV BUILD (a build tree with compile_commands.json)
set -eu
venv=$1 build=$2
cpp=$(git ls-files 'common/*' 'enclave/*' 'host/*' 'simulation/*' 'tests/cpp/*' 'fuzz/*' | grep -E '\.(h|cpp)$')
# Only what this build compiles: of other files clang-tidy would have to guess the options.
compiled=$(git ls-files 'enclave/*.cpp' 'host/*.cpp' 'simulation/*.cpp' |
  grep -v -E 'platform_openenclave|compiled_identity|cpu_portable' |
  while read -r file; do ! grep -q "/$file\"" "$build/compile_commands.json" || echo "$file"; done)
[ -n "$compiled" ] || { echo "$build/compile_commands.json names none of our sources" >&2; exit 1; }

echo "[check] ruff ..."
"$venv/bin/ruff" check -q .
"$venv/bin/ruff" format -q --check .
echo "[check] mypy ..."
# The relying-party half runs on the other two systems as well: what they lack is an error.
printf '%s\n' "linux" "win32 src" "darwin src" | xargs -P "$(nproc)" -I '{}' \
  sh -c '"$0" --no-error-summary --cache-dir ".mypy_cache/${1%% *}" --platform $1' "$venv/bin/mypy" '{}'
echo "[check] layers, and what is said in two places ..."
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/test_codebase.py
echo "[check] clang-format ..."
# shellcheck disable=SC2086 # a list of files
clang-format --dry-run --Werror $cpp

# Usage: tidy FILES ARGUMENT... As many at once as there are processors.
tidy() {
  files=$1
  shift
  # shellcheck disable=SC2086
  printf '%s\n' $files | xargs -P "$(nproc)" -I '{}' clang-tidy --quiet '{}' "$@" > "$build/clang-tidy.log" 2>&1 ||
    { grep -v 'warnings generated\|warnings treated\|^Suppressed\|^Use -header' "$build/clang-tidy.log"; exit 1; }
}
# A database is written for the compiler of its build; options that clang does not know are no finding.
as_built='--extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument -p'

echo "[check] clang-tidy: what ships ..."
# shellcheck disable=SC2086
tidy "$compiled" $as_built "$build"
# The second implementation, which only the tests compile here, needs no options.
tidy "$(git ls-files 'enclave/*_portable.cpp')" -- -std=c++17 -I.

# The C++ tests are of the simulation only.
case $build in *-openenclave*) exit 0 ;; esac
echo "[check] clang-tidy: tests, fuzz targets, benchmark ..."
# Fixed seeds are wanted in tests, and their namespaces and vectors are small. The analyzer takes minutes for GoogleTest;
# the sanitizers watch the tests instead. The last two checks listed took 15 to 21 % of the remaining time, and are given
# up for it.
in_tests=--checks=-clang-analyzer-*,-cert-msc32-c,-cert-msc51-cpp,-google-build-using-namespace,-performance-inefficient-vector-operation,-bugprone-reserved-identifier,-bugprone-stringview-nullptr
tests=build/simulation
edge="$tests/enclave/confidential_ml_edge_untrusted"
{
  cmake --preset simulation -DPython_EXECUTABLE="$(cd "$venv" && pwd)/bin/python" -DCONFIDENTIAL_ML_PYTHON=OFF &&
    cmake --build --preset simulation --target confidential_ml_edge_untrusted --target loader_test_edge_trusted \
      --target loader_test_edge_untrusted
} > "$build/configure.log" 2>&1 || { tail -n 40 "$build/configure.log"; exit 1; }
# shellcheck disable=SC2086
tidy "$(git ls-files 'tests/cpp/*.cpp' 'benchmarks/*.cpp')" "$in_tests" $as_built "$tests"
tidy "$(git ls-files 'fuzz/*.cpp')" "$in_tests" -- -std=c++17 -I. -Isimulation/include "-I$edge" '-DCONFIDENTIAL_ML_IMAGE=""'
