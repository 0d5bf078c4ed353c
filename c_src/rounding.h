/* Shared by the kernels: fixed-point rescaling as LiteRT's reference kernels do it. */
#ifndef TD_ROUNDING_H
#define TD_ROUNDING_H

#include "td.h"

/* (x * multiplier + 2^30) >> 31, for multiplier >= 0. */
static inline int32_t doubled_high(int32_t x, int32_t multiplier)
{
#if TD_NARROW_MULTIPLY
    uint32_t x_low = (uint32_t)x & 0xFFFFu, m_low = (uint32_t)multiplier & 0xFFFFu;
    int32_t x_high = x >> 16, m_high = multiplier >> 16;
    uint32_t low = x_low * m_low, middle = x_low * (uint32_t)m_high;
    int32_t other = x_high * (int32_t)m_low;
    uint32_t carry = (low >> 16) + (middle & 0xFFFFu) + ((uint32_t)other & 0xFFFFu);
    uint32_t high = (uint32_t)(x_high * m_high) + (middle >> 16) + (uint32_t)(other >> 16) + (carry >> 16);
    /* Bits 0 to 15 of the product are below the rounding bit and carry nothing into it. */
    carry = (carry & 0xFFFFu) + 0x4000u;
    return (int32_t)((high + (carry >> 16)) << 1 | (carry >> 15 & 1u));
#else
    return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << 30)) >> 31);
#endif
}

/* x / 2^times to nearest, halves away from zero; times 0..31. */
static inline int32_t halved(int32_t x, int32_t times)
{
    uint32_t mask = ((uint32_t)1 << times) - 1u;
    uint32_t threshold = (mask >> 1) + (x < 0 ? 1u : 0u);
    return (x >> times) + (((uint32_t)x & mask) > threshold ? 1 : 0);
}

/* round(x * multiplier * 2^(shift - 31)), rounded twice: after the product, then after the shift to
 * the right (halves away from zero). All operators but dense layers. */
static inline int32_t round_twice(int32_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0) x = (int32_t)((uint32_t)x << shift);
    int32_t high = doubled_high(x, multiplier);
    return shift >= 0 ? high : halved(high, -shift);
}

/* The same, rounded once (halves up): dense layers. */
static inline int32_t round_once(int32_t x, int32_t multiplier, int32_t shift)
{
    int32_t right = 31 - shift;
    return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << (right - 1))) >> right);
}

#endif /* TD_ROUNDING_H */
