/* What trusted generated code needs of Open Enclave's <openenclave/enclave.h>, for the simulation build. */
#ifndef OE_ENCLAVE_H
#define OE_ENCLAVE_H

#ifdef OE_HOST_H
#error "enclave.h and host.h must not be included in the same compilation unit."
#endif

#include <openenclave/bits/result.h>

#endif /* OE_ENCLAVE_H */
