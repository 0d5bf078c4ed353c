/* Internal: one transform of a feature, for the two ways to read rows (decode.c, unpack.c) and for packing (encode.c).
 * Its record holds the feature (16 bits), the other feature (16), a factor (16, signed), a shift and a turn (8 each). */
#ifndef TRANSFORM_H
#define TRANSFORM_H

#include "td_bits.h"

static inline uint32_t td_transform_feature(const uint8_t *record)
{
    return td_get16(record);
}

static inline uint32_t td_transform_other(const uint8_t *record)
{
    return td_get16(record + 2);
}

/* Modulo 2^32; 0: Gray code. */
static inline uint32_t td_transform_factor(const uint8_t *record)
{
    return (uint32_t)(int16_t)td_get16(record + 4);
}

/* Added to what the other feature predicts. A value has 32 - spare bits. */
static inline uint32_t td_transform_turn(const uint8_t *record, uint32_t spare)
{
    return (uint32_t)record[7] << 24 >> spare;
}

/* What is taken off the feature, for the other one's value less the pack's minimum. */
static inline uint32_t td_transform_predict(const uint8_t *record, uint32_t other, uint32_t spare)
{
    uint32_t product = (other << spare >> spare) * td_transform_factor(record);
    return (product >> record[6]) + td_transform_turn(record, spare);
}

/* The value with this Gray code. */
static inline uint32_t td_transform_gray(uint32_t value)
{
    for (uint32_t shift = 1; shift < 32; shift <<= 1) value ^= value >> shift;
    return value;
}

/* For packing: what the transform leaves of n values that are `stride` apart, all below 2^width like the other feature's. */
static inline void td_transform_apply(const uint8_t *record, uint32_t width, uint32_t *value, const uint32_t *other, uint32_t n,
                                      size_t stride)
{
    uint32_t factor = td_transform_factor(record), shift = record[6], mask = td_low_mask(width);
    uint32_t turn = td_transform_turn(record, 32u - width);
    if (factor == 0) {
        for (; n > 0; n--, value += stride) *value ^= *value >> 1;
        return;
    }
    for (; n > 0; n--, value += stride, other += stride) *value = (*value - (*other * factor >> shift) - turn) & mask;
}

/* Finds the pack's transforms and checks them. TD_E_FORMAT; TD_E_UNSUPPORTED in a core without. */
int td_transforms_open(td_pack *pack);
/* Of a row's values, after what was added to them. */
void td_transforms_undo(const td_pack *pack, uint32_t *values);

#endif /* TRANSFORM_H */
