/* arcsinh in single precision, in a form that compilers vectorise, and what that takes. For the package's C parts.
 *
 * Compiled with -ffp-contract=off the results are the same bits on every processor and with vectors of any length.
 */
#ifndef HPC_GALAXY_ARCSINH_H
#define HPC_GALAXY_ARCSINH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define HUGE_VALUE 1e9f /* beyond, 1 + v^2 is v^2, which may overflow */

#define INLINE static inline __attribute__((always_inline))

/* Variants for longer vectors; the loader takes the one that fits the processor. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define VARIANTS __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef VARIANTS
#define VARIANTS
#endif

INLINE int32_t as_bits(float number) {
    int32_t bits;
    memcpy(&bits, &number, 4);
    return bits;
}

INLINE float as_float(int32_t bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

/* log(1 + t) for t >= 0: 1 + t = 2^k (1 + f) with 1 + f from sqrt(1/2) to sqrt(2); of small t, f is t itself. The polynomial is that
 * of Cephes (S. Moshier, single/logf.c). `more` is added to k. */
INLINE float log1p_positive(float t, int32_t more) {
    uint32_t bits = (uint32_t)as_bits(1.0f + t) + (0x3f800000 - 0x3f3504f3); /* unsigned: of what is not finite this overflows */
    int32_t k = (int32_t)(bits >> 23) - 127;
    float reduced = as_float((int32_t)(bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
    float f = k ? reduced : t;
    float z = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    return f + (f * z * p - 0.5f * z) + (float)(k + more) * 0.693147180559945f;
}

/* arcsinh(v) = sign(v) log(|v| + sqrt(1 + v^2)), written so that a small v keeps its digits; NaN where v is not finite. */
INLINE float arcsinh(float v) {
    float size = fabsf(v);
    int huge = size > HUGE_VALUE;
    float small = huge ? 1.0f : size;
    float t = small + small * (small / (1.0f + sqrtf(1.0f + small * small)));
    float value = log1p_positive(huge ? size : t, huge);
    return copysignf(value, v) + (v - v);
}

#endif
