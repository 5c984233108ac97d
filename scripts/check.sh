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
echo "[check] clang-tidy ..."
# The database was written for the compiler of the build; options that clang does not know are no finding.
# shellcheck disable=SC2086
printf '%s\n' $compiled | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p "$build" \
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-optimization-argument > "$build/clang-tidy.log" 2>&1 ||
  { grep -v 'warnings generated\|warnings treated\|^Suppressed\|^Use -header' "$build/clang-tidy.log"; exit 1; }
# The second implementation, which only the tests compile here, needs no options.
portable=$(git ls-files 'enclave/*_portable.cpp')
# shellcheck disable=SC2086
clang-tidy --quiet $portable -- -std=c++17 -I. > "$build/clang-tidy.log" 2>&1 ||
  { grep -E 'warning:|error:' "$build/clang-tidy.log"; exit 1; }
