#!/bin/sh
# Stops with one sentence if a platform needs the Open Enclave SDK and CMake would not find it. Usage: find_sdk.sh PLATFORM
set -eu
case $1 in
  simulation) exit 0 ;;
  openenclave-simulation | openenclave) ;;
  *) echo "PLATFORM is '$1'; it must be simulation, openenclave-simulation or openenclave." >&2; exit 1 ;;
esac
config=lib/openenclave/cmake/openenclave-config.cmake
for place in $(echo "${CMAKE_PREFIX_PATH:-}" | tr ':;' '  ') "${OpenEnclave_DIR:-}" /opt/openenclave /usr/local /usr; do
  [ ! -e "$place/$config" ] && [ ! -e "$place/openenclave-config.cmake" ] || exit 0
done
echo "PLATFORM=$1 needs the Open Enclave SDK, v0.19 or later: put its place into CMAKE_PREFIX_PATH (docs/building.md)." >&2
exit 1
