#!/bin/sh
# Makes the virtual environment of the benchmark, with this package and every library it is compared with that has a
# wheel for this Python; then runs it. Usage: bench.sh VENV PYTHON PLATFORM [OPTION ...] (of benchmarks/run.py)
set -eu
venv=$1 python=$2 platform=$3
shift 3

if [ ! -x "$venv/bin/python" ]; then
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
quiet_pip() { "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"; }

echo "[$venv] Python packages ..."
quiet_pip "scikit-build-core>=0.11" "pybind11>=2.13"
requirements=$("$venv/bin/python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["bench"], sep="\n")')
# One by one where they do not go together: without a wheel for this Python a library is left out and the report says so.
# shellcheck disable=SC2086 # a list of words
quiet_pip --only-binary :all: $requirements || for requirement in $requirements; do
  quiet_pip --only-binary :all: "$requirement" || echo "[$venv] left out: $requirement" >&2
done

tag=$("$venv/bin/python" -c 'import sys; print(sys.implementation.cache_tag)')
echo "[$venv] the $platform build ..."
# A build tree of its own: that of the tests would be built anew for this environment, and anew for theirs.
quiet_pip --no-build-isolation --no-deps --config-settings=build-dir="build/bench-$platform-$tag" \
  --config-settings=cmake.define.CONFIDENTIAL_ML_PLATFORM="$platform" .

# The engine as a plain function; without it the report has no such section.
engine=build/bench-engine
mkdir -p "$engine"
{
  cmake -G Ninja -S . -B "$engine" -DCMAKE_BUILD_TYPE=Release -DCONFIDENTIAL_ML_TESTS=ON -DCONFIDENTIAL_ML_PYTHON=OFF &&
    cmake --build "$engine" --target engine_bench aes_gcm_bench
} > "$engine/build.log" 2>&1 || echo "[$venv] engine_bench and aes_gcm_bench were not built: $engine/build.log" >&2

exec "$venv/bin/python" -m benchmarks.run --engine-bench "$engine/tests/cpp/engine_bench" "$@"
