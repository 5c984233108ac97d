#!/bin/sh
# Makes a virtual environment and installs the package with everything its tests need, then builds the enclave images
# that differ from the installed one. Usage: install.sh VENV PYTHON PLATFORM
set -eu
venv=$1 python=$2 platform=$3

if [ ! -x "$venv/bin/python" ]; then
  echo "[$venv] is made now, which takes some minutes the first time: Python packages, then the build"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
quiet_pip() { "$venv/bin/python" -m pip install -q --no-compile --disable-pip-version-check "$@"; }

echo "[$venv] Python packages ..."
quiet_pip "scikit-build-core>=0.11" "pybind11>=2.13"
tag=$("$venv/bin/python" -c 'import sys; print(sys.implementation.cache_tag)')
build="build/$platform-$tag"
echo "[$venv] the $platform build ..."
# Without build isolation the build tree's tools stay where CMake found them, so that it can be built on below.
"$venv/bin/python" -m pip install -q --no-compile --disable-pip-version-check --no-build-isolation \
  --config-settings=build-dir="$build" --config-settings=cmake.define.CONFIDENTIAL_ML_PLATFORM="$platform" \
  '.[test]'
cmake --build "$build" --target test_images > "$build/test_images.log" || { cat "$build/test_images.log"; exit 1; }
ln -sfn "../$build/test_images" "$venv/test_images"
