/* Open Enclave's result codes, with the SDK's names and values: those that simulation code returns. */
#ifndef OE_BITS_RESULT_H
#define OE_BITS_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define OE_EXTERNC_BEGIN extern "C" {
#define OE_EXTERNC_END }
#else
#define OE_EXTERNC_BEGIN
#define OE_EXTERNC_END
#endif

OE_EXTERNC_BEGIN

typedef enum _oe_result {
  OE_OK = 0,
  OE_FAILURE = 1,
  OE_BUFFER_TOO_SMALL = 2,
  OE_INVALID_PARAMETER = 3,
  OE_OUT_OF_MEMORY = 5,
  OE_OUT_OF_THREADS = 6,
  OE_UNEXPECTED = 7,
  OE_VERIFY_FAILED = 8,
  OE_NOT_FOUND = 9,
  OE_INTEGER_OVERFLOW = 10,
  OE_UNSUPPORTED = 16,
  OE_READ_FAILED = 17,
  OE_ENCLAVE_ABORTING = 19,
  OE_ENCLAVE_ABORTED = 20,
  OE_PLATFORM_ERROR = 21,
  OE_DEBUG_DOWNGRADE = 25,
  OE_INVALID_IMAGE = 60,
  __OE_RESULT_MAX = 0xffffffff,
} oe_result_t;

const char* oe_result_str(oe_result_t result);

OE_EXTERNC_END

#endif /* OE_BITS_RESULT_H */
