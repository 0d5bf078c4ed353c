/* The inner blocks of kernels_wide.h in C, for cores with a dozen registers and single products (Cortex-M3). Sums are
 * unsigned: those of dense layers may overflow, which must stay defined. */
#ifndef TD_BLOCKS_C_H
#define TD_BLOCKS_C_H

/* One value of positions *x and *x + n with channels *w and *w + n; and of position *x with channels *w, *w + n, *w + 2 n
 * and *w + 3 n. In assembly where compilers take registers for addresses that the core can work out while it loads. */
#ifdef __thumb2__
static inline __attribute__((always_inline)) void block_2x2(const int8_t **x, const int8_t **w, int32_t n, uint32_t sum[4])
{
    int32_t p, q, r;
    __asm("ldrsb %[p], [%[x], %[n]]\n\t"
          "ldrsb %[r], [%[w], %[n]]\n\t"
          "ldrsb %[q], [%[x]], #1\n\t"
          "mla %[d], %[p], %[r], %[d]\n\t"
          "mla %[b], %[q], %[r], %[b]\n\t"
          "ldrsb %[r], [%[w]], #1\n\t"
          "mla %[a], %[q], %[r], %[a]\n\t"
          "mla %[c], %[p], %[r], %[c]"
          : [x] "+&r"(*x), [w] "+&r"(*w), [a] "+&r"(sum[0]), [b] "+&r"(sum[1]), [c] "+&r"(sum[2]), [d] "+&r"(sum[3]),
            [p] "=&r"(p), [q] "=&r"(q), [r] "=&r"(r)
          : [n] "r"(n)
          : "memory");
}

static inline __attribute__((always_inline)) void block_1x4(const int8_t **x, const int8_t **w, int32_t n, int32_t three_n,
                                                            uint32_t sum[4])
{
    int32_t q, r;
    __asm("ldrsb %[q], [%[x]], #1\n\t"
          "ldrsb %[r], [%[w], %[n]]\n\t"
          "mla %[b], %[q], %[r], %[b]\n\t"
          "ldrsb %[r], [%[w], %[n], lsl #1]\n\t"
          "mla %[c], %[q], %[r], %[c]\n\t"
          "ldrsb %[r], [%[w], %[three_n]]\n\t"
          "mla %[d], %[q], %[r], %[d]\n\t"
          "ldrsb %[r], [%[w]], #1\n\t"
          "mla %[a], %[q], %[r], %[a]"
          : [x] "+&r"(*x), [w] "+&r"(*w), [a] "+&r"(sum[0]), [b] "+&r"(sum[1]), [c] "+&r"(sum[2]), [d] "+&r"(sum[3]),
            [q] "=&r"(q), [r] "=&r"(r)
          : [n] "r"(n), [three_n] "r"(three_n)
          : "memory");
}
#else
static inline __attribute__((always_inline)) void block_2x2(const int8_t **x, const int8_t **w, int32_t n, uint32_t sum[4])
{
    int32_t p = (*x)[n], r = (*w)[n], q = *(*x)++;
    sum[3] += (uint32_t)(p * r);
    sum[1] += (uint32_t)(q * r);
    r = *(*w)++;
    sum[0] += (uint32_t)(q * r);
    sum[2] += (uint32_t)(p * r);
}

static inline __attribute__((always_inline)) void block_1x4(const int8_t **x, const int8_t **w, int32_t n, int32_t three_n,
                                                            uint32_t sum[4])
{
    int32_t value = *(*x)++;
    sum[1] += (uint32_t)(value * (*w)[n]);
    sum[2] += (uint32_t)(value * (*w)[2 * n]);
    sum[3] += (uint32_t)(value * (*w)[three_n]);
    sum[0] += (uint32_t)(value * *(*w)++);
}
#endif

/* Positions x and x + n with channels w and w + n: sum[position * 2 + channel]. */
static inline void dot_2x2(const int8_t *x, const int8_t *w, int32_t n, int32_t sum[4])
{
    uint32_t part[4] = {(uint32_t)sum[0], (uint32_t)sum[1], (uint32_t)sum[2], (uint32_t)sum[3]};
    const int8_t *end = x + n, *whole = x + (n & ~3);
    while (x != whole) {
        block_2x2(&x, &w, n, part);
        block_2x2(&x, &w, n, part);
        block_2x2(&x, &w, n, part);
        block_2x2(&x, &w, n, part);
    }
    while (x != end) block_2x2(&x, &w, n, part);
    sum[0] = (int32_t)part[0];
    sum[1] = (int32_t)part[1];
    sum[2] = (int32_t)part[2];
    sum[3] = (int32_t)part[3];
}

static inline void dot_1x4(const int8_t *x, const int8_t *w, int32_t n, int32_t sum[4])
{
    uint32_t part[4] = {(uint32_t)sum[0], (uint32_t)sum[1], (uint32_t)sum[2], (uint32_t)sum[3]};
    const int8_t *end = x + n, *whole = x + (n & ~3);
    while (x != whole) {
        block_1x4(&x, &w, n, 3 * n, part);
        block_1x4(&x, &w, n, 3 * n, part);
        block_1x4(&x, &w, n, 3 * n, part);
        block_1x4(&x, &w, n, 3 * n, part);
    }
    while (x != end) block_1x4(&x, &w, n, 3 * n, part);
    sum[0] = (int32_t)part[0];
    sum[1] = (int32_t)part[1];
    sum[2] = (int32_t)part[2];
    sum[3] = (int32_t)part[3];
}

/* (a * b + 2^31) >> 32 */
static inline int32_t high_half(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + 0x80000000) >> 32);
}

/* -------------------------------------------------------------- depthwise, four channels at a time */

enum {
    TAP_WORDS = 1,              /* of the spread weights of a tap */
    LESS_IS_FREE = 0            /* adding td_less to the inputs takes an instruction each */
};

/* The input's zero point, negative. */
typedef int32_t td_less;

static inline td_less less_of(int32_t zero_point)
{
    return -zero_point;
}

/* Tap t of the four channels whose weights start at w, byte by byte. */
static void spread_weights(const int8_t *w, int32_t taps, uint32_t *to)
{
    int8_t *at = (int8_t *)to;
    for (int32_t t = 0; t < taps; t++, w++) {
        for (int32_t i = 0; i < 4; i++) *at++ = w[i * taps];
    }
}

/* One tap; moves on to the next one's weights. */
static inline __attribute__((always_inline)) const uint32_t *tap_four(const int8_t *from, const uint32_t *weights,
                                                                      td_less less, int32_t sum[4])
{
    const int8_t *w = (const int8_t *)weights;
    sum[0] += (from[0] + less) * w[0];
    sum[1] += (from[1] + less) * w[1];
    sum[2] += (from[2] + less) * w[2];
    sum[3] += (from[3] + less) * w[3];
    return weights + 1;
}

#endif /* TD_BLOCKS_C_H */
