#ifndef CONFIDENTIAL_ML_ENCLAVE_FLOAT_MATH_H_
#define CONFIDENTIAL_ML_ENCLAVE_FLOAT_MATH_H_

// The float32 functions that XGBoost's objectives need. Whatever C library the program has, they give for
// every argument the bits that expf, logf, log1pf and expm1f of glibc 2.36 give on an x86-64 CPU with FMA.
//
// They are oblivious: no branch and no address depends on the argument. They leave errno and the rounding
// mode alone; the latter must be to nearest.

namespace confidential_ml {

float exp_float(float x) noexcept;
float exp_float_by_double(float x) noexcept;  // (float)exp((double)x), exp being glibc's
float log_float(float x) noexcept;
float log1p_float(float x) noexcept;
float expm1_float(float x) noexcept;

}  // namespace confidential_ml

#endif  // CONFIDENTIAL_ML_ENCLAVE_FLOAT_MATH_H_
