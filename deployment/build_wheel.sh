#!/bin/sh
# Builds the wheel whose enclave runs on SGX, signs it, and writes down what was measured. Run by deployment/Dockerfile;
# outside a container it needs clang, cmake, ninja, uv and the Open Enclave SDK in CMAKE_PREFIX_PATH.
#
#   SIGNING_KEY=key.pem deployment/build_wheel.sh OUTPUT_DIRECTORY
#
# SIGNING_KEY: RSA-3072, public exponent 3, PEM. DEVELOPMENT_KEY=1: without one, sign with a key that is then forgotten.
set -eu
output=$1
root=$(cd "$(dirname "$0")/.." && pwd)
key=${SIGNING_KEY:-}
fail() { echo "build_wheel.sh: $*" >&2; exit 1; }

if [ -n "$key" ] && [ -e "$key" ]; then
  # The public half alone passes through the pipe.
  public=$(openssl rsa -in "$key" -passin pass: -pubout 2> /dev/null | openssl rsa -pubin -noout -text 2> /dev/null) ||
    fail "the signing key is not an RSA private key in PEM without a passphrase."
  case "$public" in
    *"(3072 bit)"*"Exponent: 3 (0x3)"*) ;;
    *) fail "the signing key must be RSA-3072 with public exponent 3: openssl genrsa -3 -out key.pem 3072" ;;
  esac
  export CONFIDENTIAL_ML_SIGNING_KEY="$key"
  signed="with the key given"
elif [ "${DEVELOPMENT_KEY:-}" = 1 ]; then
  unset CONFIDENTIAL_ML_SIGNING_KEY
  signed="with a development key, which is not kept"
  echo "build_wheel.sh: WARNING: signing $signed. Nobody should trust its MRSIGNER." >&2
else
  fail "no signing key. Give one as a build secret (docker build --secret id=signing_key,src=KEY.pem), or, for an image" \
    "that protects nothing of value, the build argument DEVELOPMENT_KEY=1."
fi
grep -qx 'Debug=0' "$root/enclave/enclave.conf" ||
  fail "enclave/enclave.conf does not say Debug=0: a debugger could read the enclave."

mkdir -p "$output"
export CC="${CC:-clang}" CXX="${CXX:-clang++}"
uv build --quiet --wheel --out-dir "$output" --python "${PYTHON:-python3}" \
  --build-constraints "$root/deployment/build-requirements.txt" --require-hashes \
  --config-setting cmake.define.CONFIDENTIAL_ML_PLATFORM=openenclave "$root"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unzip -q -d "$scratch" "$output"/confidential_ml-*.whl confidential_ml/confidential_ml_enclave.signed
image=$scratch/confidential_ml/confidential_ml_enclave.signed
oesign=$(PATH="${CMAKE_PREFIX_PATH:-}/bin:/opt/openenclave/bin:$PATH" command -v oesign) || fail "no oesign in the SDK."
"$oesign" dump -e "$image" > "$scratch/dump" 2> /dev/null || fail "oesign cannot read the image that it signed."
field() { sed -n "s/^$1=//p" "$scratch/dump"; }
[ "$(field debug)" = 0 ] || fail "the signed image has the debug attribute."
{
  echo "mrenclave   $(field mrenclave)"
  echo "mrsigner    $(field mrsigner)"
  echo "product id  $(field product_id)"
  echo "SVN         $(field security_version)"
  echo "image       sha256:$(sha256sum "$image" | cut -d ' ' -f 1)"
  echo "signed      $signed"
  echo "compiler    $("$CXX" --version | head -n 1)"
} > "$output/measurement.txt"
cat "$output/measurement.txt"
