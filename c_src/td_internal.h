/* Shared by the core's own files only: reading and writing little-endian bytes. */
#ifndef TD_INTERNAL_H
#define TD_INTERNAL_H

#include <string.h>

#include "td.h"

/* A function apart: inlined, it would take registers or stack from callers that seldom need it. */
#if defined(__GNUC__)
#define TD_NOINLINE __attribute__((noinline))
#define TD_INLINE inline __attribute__((always_inline))
#else
#define TD_NOINLINE
#define TD_INLINE inline
#endif

static inline uint32_t td_get16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t td_get32(const uint8_t *p)
{
    return td_get16(p) | td_get16(p + 2) << 16;
}

/* td_get32, once for all who need not be fast (common.c). */
uint32_t td_word(const uint8_t *p);

/* A section of an open file and its size; NULL and 0 when there is none (file.c). */
const uint8_t *td_file_find(const td_file *file, uint32_t kind, uint32_t *size);

static inline int32_t td_get_i32(const uint8_t *p)
{
    return (int32_t)td_get32(p);
}

static inline float td_get_f32(const uint8_t *p)
{
    union {
        uint32_t bits;
        float value;
    } both = {td_get32(p)}; /* freestanding, memcpy would be a call */
    return both.value;
}

static inline void td_put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value & 0xFFu);
    p[1] = (uint8_t)(value >> 8 & 0xFFu);
}

static inline void td_put32(uint8_t *p, uint32_t value)
{
    td_put16(p, value & 0xFFFFu);
    td_put16(p + 2, value >> 16);
}

#endif /* TD_INTERNAL_H */
