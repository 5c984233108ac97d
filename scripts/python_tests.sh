#!/bin/sh
# Runs the Python tests with two installed packages at the same time, since each keeps one core busy.
# Usage: python_tests.sh VENV "ARGUMENTS" OTHER_VENV "ARGUMENTS"   (arguments of pytest, words without spaces)
set -eu
venv=$1 arguments=$2 other=$3 other_arguments=$4
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# shellcheck disable=SC2086 # a list of words
scripts/python_test.sh "$other" $other_arguments > "$log" 2>&1 &
other_process=$!
status=0
# shellcheck disable=SC2086
scripts/python_test.sh "$venv" $arguments || status=$?
wait "$other_process" || status=$?
cat "$log"
exit "$status"
