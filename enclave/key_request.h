// The layout of SGX KEYREQUEST (Intel SDM vol. 3D, 38.18), which is the key info of every platform.
#pragma once

#include <cstddef>
#include <cstdint>

namespace confidential_ml {

struct KeyRequest {
  uint16_t key_name;
  uint16_t key_policy;
  uint16_t isv_svn;
  uint16_t reserved1;
  uint8_t cpu_svn[16];
  uint64_t attribute_mask_flags;
  uint64_t attribute_mask_xfrm;
  uint8_t key_id[32];
  uint32_t misc_mask;
  uint16_t config_svn;
  uint8_t reserved2[434];
};
static_assert(sizeof(KeyRequest) == 512 && offsetof(KeyRequest, config_svn) == 76, "KEYREQUEST is 512 bytes");

inline constexpr uint16_t kKeyNameSeal = 4;

}  // namespace confidential_ml
