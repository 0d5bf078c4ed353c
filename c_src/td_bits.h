/* Fields of 0 to 32 bits in a byte stream, least significant bit first. Shared by the codec's files. */
#ifndef TD_BITS_H
#define TD_BITS_H

#include <limits.h>

#include "td_internal.h"

static inline uint32_t td_low_mask(uint32_t n_bits)
{
    return n_bits >= 32 ? 0xFFFFFFFFu : ((uint32_t)1 << n_bits) - 1u;
}

/* n_bits bits at bit `at`; reads only the bytes that hold them. */
static inline uint32_t td_read_bits(const uint8_t *stream, uint32_t at, uint32_t n_bits)
{
    if (n_bits == 0) return 0;
    const uint8_t *p = stream + (at >> 3);
    uint32_t shift = at & 7u;
    uint32_t value = (uint32_t)*p >> shift;
    for (uint32_t have = 8u - shift; have < n_bits; have += 8) value |= (uint32_t)*++p << have;
    return value << (32u - n_bits) >> (32u - n_bits);
}

/* Writes into bytes that were zero before. */
static inline void td_write_bits(uint8_t *stream, uint32_t at, uint32_t n_bits, uint32_t value)
{
    for (uint32_t done = 0; done < n_bits;) {
        uint32_t shift = at & 7u, step = 8u - shift;
        stream[at >> 3] = (uint8_t)(stream[at >> 3] | ((value >> done) << shift & 0xFFu));
        done += step;
        at += step;
    }
}

static inline uint32_t td_count_bits(uint32_t word)
{
    word = word - (word >> 1 & 0x55555555u);
    word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
    word = (word + (word >> 4)) & 0x0F0F0F0Fu;
    return (word * 0x01010101u) >> 24;
}

/* The same for a byte. */
static inline uint32_t td_count_byte(uint32_t byte)
{
    byte -= byte >> 1 & 0x55u;
    byte = (byte & 0x33u) + (byte >> 2 & 0x33u);
    return (byte + (byte >> 4)) & 0x0Fu;
}

/* Asks for memory that is read soon; without effect where a compiler or a processor cannot. */
static inline void td_fetch(const void *memory)
{
#if defined(__GNUC__)
    __builtin_prefetch(memory);
#else
    (void)memory;
#endif
}

/* ceil(log2 n): bits of an id below n. */
static inline uint32_t td_id_bits(uint32_t n)
{
    uint32_t bits = 0;
    while (bits < 32 && ((uint32_t)1 << bits) < n) bits++;
    return bits;
}

/* The mask whose `leading` top bits of `width` are set. */
static inline uint32_t td_leading_mask(uint32_t width, uint32_t leading)
{
    return td_low_mask(width) & ~td_low_mask(width - leading);
}

/* The bits of value that mask selects, moved together to the bottom, in order. */
static inline uint32_t td_gather(uint32_t value, uint32_t mask)
{
    uint32_t out = 0;
    for (uint32_t to = 0; mask; mask &= mask - 1u) {
        uint32_t lowest = mask & (0u - mask);
        if (value & lowest) out |= (uint32_t)1 << to;
        to++;
    }
    return out;
}

/* Zeros below the lowest one of a word that is not 0. */
static inline uint32_t td_trailing_zeros(uint32_t word)
{
#if defined(__GNUC__) && UINT_MAX == 0xFFFFFFFFu
    return (uint32_t)__builtin_ctz(word);
#else
    return td_count_bits((word & (0u - word)) - 1u);
#endif
}

/* Writes fields one behind the other, into bytes that are zero from the first one on but for the bits before it. */
typedef struct td_writer {
    uint8_t *at;
    uint64_t bits;      /* not written yet */
    uint32_t n;         /* how many, below 32 between calls */
} td_writer;

static inline void td_writer_start(td_writer *w, uint8_t *stream, uint64_t at)
{
    w->at = stream + (at >> 3);
    w->n = (uint32_t)at & 7u;
    w->bits = w->n ? *w->at : 0u;
}

static inline void td_writer_put(td_writer *w, uint32_t n_bits, uint32_t value)
{
    w->bits |= (uint64_t)value << w->n;
    w->n += n_bits;
    if (w->n < 32) return;
    w->at[0] = (uint8_t)(w->bits & 0xFFu);
    w->at[1] = (uint8_t)(w->bits >> 8 & 0xFFu);
    w->at[2] = (uint8_t)(w->bits >> 16 & 0xFFu);
    w->at[3] = (uint8_t)(w->bits >> 24 & 0xFFu);
    w->at += 4;
    w->bits >>= 32;
    w->n -= 32;
}

/* The bits of value that mask selects, in order, run by run. */
static inline void td_writer_gather(td_writer *w, uint32_t value, uint32_t mask)
{
    while (mask) {
        uint32_t low = td_trailing_zeros(mask), rest = ~(mask >> low);
        uint32_t length = rest ? td_trailing_zeros(rest) : 32u;
        td_writer_put(w, length, value >> low & td_low_mask(length));
        if (low + length >= 32) break;
        mask &= ~td_low_mask(low + length);
    }
}

static inline void td_writer_end(td_writer *w)
{
    for (; w->n > 0; w->n -= w->n < 8 ? w->n : 8u, w->bits >>= 8) *w->at++ = (uint8_t)(w->bits & 0xFFu);
}

/* The inverse of td_gather: the bottom bits of value, spread to where mask has ones. */
static inline uint32_t td_scatter(uint32_t value, uint32_t mask)
{
    uint32_t out = 0;
    for (; mask; mask &= mask - 1u) {
        if (value & 1u) out |= mask & (0u - mask);
        value >>= 1;
    }
    return out;
}

#endif /* TD_BITS_H */
