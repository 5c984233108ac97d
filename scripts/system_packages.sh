#!/bin/sh
# Installs the Debian or Ubuntu packages that a build needs, if any is missing; "test" adds those of the checks,
# "fuzz" what clang's sanitizers need. Usage: system_packages.sh [test|fuzz]
set -eu

missing=""
need() { # command-or-file package
  case "$1" in
    /*) [ -e "$1" ] || missing="$missing $2" ;;
    *) command -v "$1" > /dev/null 2>&1 || missing="$missing $2" ;;
  esac
}

need c++ g++
need make make
need cmake cmake
need ninja ninja-build
libraries="/usr/lib/$(uname -m)-linux-gnu"
need "$libraries/libcrypto.a" libssl-dev
# A Python of the system comes without venv and headers. Others bring both, and apt could not mend them.
for python in $("$(dirname "$0")/find_pythons.sh"); do
  package=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    missing="$missing $package-venv"
  fi
  if ! "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null; then
    missing="$missing $package-dev"
  fi
done
if [ "${1:-}" = test ]; then
  need clang clang
  need clang-format clang-format
  need clang-tidy clang-tidy
  need valgrind valgrind
  need wrk wrk
  need node nodejs
  need chromium chromium
  need "$libraries/libgtest.a" libgtest-dev
  need /usr/include/gmock/gmock.h libgmock-dev
fi

# Where recommended packages are not installed, clang comes without its sanitizers.
if [ "${1:-}" = fuzz ]; then
  need "$(clang --print-runtime-dir)/libclang_rt.fuzzer-$(uname -m).a" libclang-rt-dev
fi

[ -n "$missing" ] || exit 0
if ! command -v apt-get > /dev/null 2>&1; then
  echo "Missing, to be installed with this system's package manager (Debian names):$missing" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  sudo=""
elif command -v sudo > /dev/null 2>&1 && sudo -n true 2> /dev/null; then
  sudo="sudo -n"
else
  echo "Some packages are missing. Run this line, then make again:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y$missing" >&2
  exit 1
fi
echo "Installing$missing"
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 update > /dev/null
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 install -y $missing > /dev/null
