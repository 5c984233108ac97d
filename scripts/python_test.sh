#!/bin/sh
# Runs the Python tests with an installed package. Usage: python_test.sh VENV [PYTEST ARGUMENTS]
set -eu
venv=$1
shift
echo "[$venv] $("$venv/bin/python" -c 'import sys, xgboost; print("Python", sys.version.split()[0], "xgboost", xgboost.__version__)')"
CONFIDENTIAL_ML_TEST_IMAGES="$(cd "$venv/test_images" && pwd)" exec "$venv/bin/python" -m pytest -q "$@"
