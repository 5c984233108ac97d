#!/bin/sh
# Prints the Pythons to use, one a line: the default one if it is 3.11 or later, and the newest other one that is.
# Looks on PATH and where pyenv keeps its versions.
set -eu

version() { # "3.12" of an interpreter that runs, else nothing
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null || true
}

root="${PYENV_ROOT:-$HOME/.pyenv}"
default=$(command -v "${PYTHON:-python3}" || true)
found=""
for minor in 15 14 13 12 11; do
  for candidate in "$default" "$(command -v "python3.$minor" || true)" "$root"/versions/3."$minor".*/bin/python; do
    [ -x "$candidate" ] || continue
    [ "$(version "$candidate")" = "3.$minor" ] || continue
    found="$found 3.$minor=$candidate"
    break
  done
done
if [ -z "$found" ]; then
  echo "No Python 3.11 or later found; install one or name it: make PYTHON=/path/to/python3.11 ..." >&2
  exit 1
fi

first=""
if [ -n "$default" ]; then
  for entry in $found; do
    [ "${entry%%=*}" = "$(version "$default")" ] && first=$entry
  done
fi
# shellcheck disable=SC2086 # a list of words
set -- $found
[ -n "$first" ] || first=$1
echo "${first#*=}"
for entry in "$@"; do
  if [ "$entry" != "$first" ] && [ "${entry%%=*}" != 3.11 ]; then
    echo "${entry#*=}"
    break
  fi
done
