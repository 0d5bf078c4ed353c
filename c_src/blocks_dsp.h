/* The inner blocks of kernels_wide.h for Cortex-M with the DSP extension (M4, M7, M33): two 16-bit products an
 * instruction. */
#ifndef TD_BLOCKS_DSP_H
#define TD_BLOCKS_DSP_H

#include <arm_acle.h>

#include "td_bits.h"

/* Values 0 and 2 of four int8 as two int16, and values 1 and 3. */
static inline int16x2_t even(uint32_t word)
{
    return __sxtb16((int8x4_t)word);
}

static inline int16x2_t odd(uint32_t word)
{
    int16x2_t pair;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

/* Four values of positions *x and *x + n with channels *w and *w + n: sum[position * 2 + channel]. In assembly, as it
 * takes 13 of 14 registers, which compilers do not find by themselves. */
static inline __attribute__((always_inline)) void block_2x2(const int8_t **x, const int8_t **w, int32_t n, int32_t sum[4])
{
    uint32_t p, q, r, s, t, u;
    __asm("ldr %[p], [%[x], %[n]]\n\t"
          "ldr %[r], [%[w], %[n]]\n\t"
          "ldr %[q], [%[x]], #4\n\t"
          "sxtb16 %[s], %[p]\n\t"
          "sxtb16 %[u], %[r]\n\t"
          "sxtb16 %[t], %[q]\n\t"
          "smlad %[d], %[s], %[u], %[d]\n\t"
          "smlad %[b], %[t], %[u], %[b]\n\t"
          "sxtb16 %[p], %[p], ror #8\n\t"
          "sxtb16 %[r], %[r], ror #8\n\t"
          "sxtb16 %[q], %[q], ror #8\n\t"
          "smlad %[d], %[p], %[r], %[d]\n\t"
          "smlad %[b], %[q], %[r], %[b]\n\t"
          "ldr %[r], [%[w]], #4\n\t"
          "sxtb16 %[u], %[r]\n\t"
          "sxtb16 %[r], %[r], ror #8\n\t"
          "smlad %[a], %[t], %[u], %[a]\n\t"
          "smlad %[c], %[s], %[u], %[c]\n\t"
          "smlad %[a], %[q], %[r], %[a]\n\t"
          "smlad %[c], %[p], %[r], %[c]"
          : [x] "+&r"(*x), [w] "+&r"(*w), [a] "+&r"(sum[0]), [b] "+&r"(sum[1]), [c] "+&r"(sum[2]), [d] "+&r"(sum[3]),
            [p] "=&r"(p), [q] "=&r"(q), [r] "=&r"(r), [s] "=&r"(s), [t] "=&r"(t), [u] "=&r"(u)
          : [n] "r"(n)
          : "memory");
}

static inline void dot_2x2(const int8_t *x, const int8_t *w, int32_t n, int32_t sum[4])
{
    const int8_t *end = x + n, *whole = x + (n & ~7);
    while (x != whole) {
        block_2x2(&x, &w, n, sum);
        block_2x2(&x, &w, n, sum);
    }
    if (n & 4) block_2x2(&x, &w, n, sum);
    for (; x != end; x++, w++) {
        sum[0] = __smlabb(x[0], w[0], sum[0]);
        sum[1] = __smlabb(x[0], w[n], sum[1]);
        sum[2] = __smlabb(x[n], w[0], sum[2]);
        sum[3] = __smlabb(x[n], w[n], sum[3]);
    }
}

/* Four values of position *x with channels *w, *w + n, *w + 2 n and *w + 3 n. */
static inline __attribute__((always_inline)) void block_1x4(const int8_t **x, const int8_t **w, int32_t n, int32_t three_n,
                                                            int32_t sum[4])
{
    uint32_t q, r, s, t;
    __asm("ldr %[q], [%[x]], #4\n\t"
          "ldr %[r], [%[w], %[n]]\n\t"
          "sxtb16 %[s], %[q]\n\t"
          "sxtb16 %[q], %[q], ror #8\n\t"
          "sxtb16 %[t], %[r]\n\t"
          "sxtb16 %[r], %[r], ror #8\n\t"
          "smlad %[b], %[s], %[t], %[b]\n\t"
          "smlad %[b], %[q], %[r], %[b]\n\t"
          "ldr %[r], [%[w], %[n], lsl #1]\n\t"
          "sxtb16 %[t], %[r]\n\t"
          "sxtb16 %[r], %[r], ror #8\n\t"
          "smlad %[c], %[s], %[t], %[c]\n\t"
          "smlad %[c], %[q], %[r], %[c]\n\t"
          "ldr %[r], [%[w], %[three_n]]\n\t"
          "sxtb16 %[t], %[r]\n\t"
          "sxtb16 %[r], %[r], ror #8\n\t"
          "smlad %[d], %[s], %[t], %[d]\n\t"
          "smlad %[d], %[q], %[r], %[d]\n\t"
          "ldr %[r], [%[w]], #4\n\t"
          "sxtb16 %[t], %[r]\n\t"
          "sxtb16 %[r], %[r], ror #8\n\t"
          "smlad %[a], %[s], %[t], %[a]\n\t"
          "smlad %[a], %[q], %[r], %[a]"
          : [x] "+&r"(*x), [w] "+&r"(*w), [a] "+&r"(sum[0]), [b] "+&r"(sum[1]), [c] "+&r"(sum[2]), [d] "+&r"(sum[3]),
            [q] "=&r"(q), [r] "=&r"(r), [s] "=&r"(s), [t] "=&r"(t)
          : [n] "r"(n), [three_n] "r"(three_n)
          : "memory");
}

static inline void dot_1x4(const int8_t *x, const int8_t *w, int32_t n, int32_t sum[4])
{
    int32_t part[4] = {sum[0], sum[1], sum[2], sum[3]};
    const int8_t *end = x + n, *whole = x + (n & ~7);
    while (x != whole) {
        block_1x4(&x, &w, n, 3 * n, part);
        block_1x4(&x, &w, n, 3 * n, part);
    }
    if (n & 4) block_1x4(&x, &w, n, 3 * n, part);
    for (; x != end; x++, w++) {
        part[0] = __smlabb(x[0], w[0], part[0]);
        part[1] = __smlabb(x[0], w[n], part[1]);
        part[2] = __smlabb(x[0], w[2 * n], part[2]);
        part[3] = __smlabb(x[0], w[3 * n], part[3]);
    }
    sum[0] = part[0];
    sum[1] = part[1];
    sum[2] = part[2];
    sum[3] = part[3];
}

/* (a * b + 2^31) >> 32 */
static inline int32_t high_half(int32_t a, int32_t b)
{
    int32_t high;
    __asm("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
    return high;
}

/* -------------------------------------------------------------- depthwise, four channels at a time */

enum {
    TAP_WORDS = 2,              /* of the spread weights of a tap */
    LESS_IS_FREE = 1            /* adding td_less to the inputs takes no instruction more */
};

/* The input's zero point, negative, as two int16. */
typedef int16x2_t td_less;

static inline td_less less_of(int32_t zero_point)
{
    uint32_t one = (uint32_t)-zero_point & 0xFFFFu;
    return (td_less)(one | one << 16);
}

/* Tap t of the four channels whose weights start at w: channels 0 and 2 as int16, then 1 and 3. */
static void spread_weights(const int8_t *w, int32_t taps, uint32_t *to)
{
    for (int32_t t = 0; t < taps; t++, w++, to += 2) {
        to[0] = (uint32_t)w[0] & 0xFFFFu;
        to[0] |= (uint32_t)w[2 * taps] << 16;
        to[1] = (uint32_t)w[taps] & 0xFFFFu;
        to[1] |= (uint32_t)w[3 * taps] << 16;
    }
}

/* zero_points + values 0 and 2 of the word; and values 1 and 3. */
static inline int16x2_t add_even(int16x2_t pair, uint32_t word)
{
    return __sxtab16(pair, (int8x4_t)word);
}

static inline int16x2_t add_odd(int16x2_t pair, uint32_t word)
{
    int16x2_t sum;
    __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(sum) : "r"(pair), "r"(word));
    return sum;
}

/* One tap; moves on to the next one's weights. */
static inline __attribute__((always_inline)) const uint32_t *tap_four(const int8_t *from, const uint32_t *weights,
                                                                      td_less less, int32_t sum[4])
{
    uint32_t word = load4(from);
    int32_t w_even, w_odd;
    __asm("ldrd %0, %1, [%2], #8" : "=&r"(w_even), "=&r"(w_odd), "+r"(weights) : : "memory");
    int16x2_t x_even = add_even(less, word), x_odd = add_odd(less, word);
    sum[0] = __smlabb(x_even, w_even, sum[0]);
    sum[2] = __smlatt(x_even, w_even, sum[2]);
    sum[1] = __smlabb(x_odd, w_odd, sum[1]);
    sum[3] = __smlatt(x_odd, w_odd, sum[3]);
    return weights;
}

#endif /* TD_BLOCKS_DSP_H */
