#ifndef CONFIDENTIAL_ML_ENCLAVE_FLOAT_MATH_H_
#define CONFIDENTIAL_ML_ENCLAVE_FLOAT_MATH_H_

// The four float32 functions that XGBoost's objectives need. For every argument they give the same bits as
// expf, logf, log1pf and expm1f of glibc 2.36 on an x86-64 CPU with FMA, whatever C library this is linked
// with.
//
// They are oblivious: no branch and no address depends on the argument. No errno, no tables in writable
// memory.

namespace confidential_ml {

float exp_float(float x) noexcept;
float log_float(float x) noexcept;
float log1p_float(float x) noexcept;
float expm1_float(float x) noexcept;

}  // namespace confidential_ml

#endif  // CONFIDENTIAL_ML_ENCLAVE_FLOAT_MATH_H_
