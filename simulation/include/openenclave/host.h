/* What host code needs of Open Enclave's <openenclave/host.h>, for the simulation build. Same names and
 * values. */
#ifndef OE_HOST_H
#define OE_HOST_H

#ifdef OE_ENCLAVE_H
#error "enclave.h and host.h must not be included in the same compilation unit."
#endif

#include <openenclave/bits/result.h>

OE_EXTERNC_BEGIN

#define OE_ENCLAVE_FLAG_DEBUG 0x00000001u
#define OE_ENCLAVE_FLAG_SIMULATE 0x00000002u
#define OE_ENCLAVE_FLAG_DEBUG_AUTO 0x00000010u

typedef enum _oe_enclave_type {
  OE_ENCLAVE_TYPE_AUTO = 1,
  OE_ENCLAVE_TYPE_SGX = 2,
  __OE_ENCLAVE_TYPE_MAX = 0xffffffff,
} oe_enclave_type_t;

typedef struct _oe_enclave oe_enclave_t;

/* The simulation knows no settings: pass NULL and 0. */
typedef struct _oe_enclave_setting oe_enclave_setting_t;

/* There are no ocalls: the table is always NULL. */
typedef void (*oe_ocall_func_t)(const uint8_t*, size_t, uint8_t*, size_t, size_t*);

typedef struct _oe_ecall_info_t {
  const char* name;
} oe_ecall_info_t;

/* Called through the generated oe_create_<name>_enclave. `flags` must have OE_ENCLAVE_FLAG_SIMULATE. */
oe_result_t oe_create_enclave(const char* path, oe_enclave_type_t type, uint32_t flags,
                              const oe_enclave_setting_t* settings, uint32_t setting_count,
                              const oe_ocall_func_t* ocall_table, uint32_t ocall_count,
                              const oe_ecall_info_t* ecall_name_table, uint32_t ecall_count,
                              oe_enclave_t** enclave);

/* Waits for the calls that are under way; calls that start meanwhile return OE_ENCLAVE_ABORTING. */
oe_result_t oe_terminate_enclave(oe_enclave_t* enclave);

OE_EXTERNC_END

#endif /* OE_HOST_H */
