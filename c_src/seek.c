/* Keys of a part's rows: found in order or at random, and their bits put where they belong. */
#include "parts.h"

/* td_read_long is a call, which few parts need. */
static inline uint64_t read_low(const uint8_t *stream, uint32_t at, uint32_t n_bits)
{
    return n_bits > 32 ? td_read_long(stream, at, n_bits) : td_quick_field(stream, at, n_bits);
}

static inline uint64_t shifted(uint32_t value, uint32_t n_bits)
{
    if (n_bits >= 32) return (uint64_t)(value << (n_bits - 32u)) << 32;
    return value << n_bits | (uint64_t)(value >> 1 >> (31u - n_bits)) << 32;
}

/* The key of the next row of the block, whose high part grew by the bits from `start` to the next one. Bits of the key from
 * n_key on are not cleared. */
TD_NOINLINE static uint64_t next_key(td_part *part, uint32_t start)
{
    uint32_t at = part->at_high, n_low = part->n_low;
    const uint8_t *from = part->codes + (at >> 3);
    uint32_t bits = (uint32_t)*from >> (at & 7u);
    for (; bits == 0; bits = *++from) at = (at | 7u) + 1u;
    for (; !(bits & 1u); bits >>= 1) at++;
    part->at_row++;
    part->at_high = at + 1u;
    if (at != start) part->high_key += shifted(at - start, n_low);
    at = part->at_low;
    part->at_low = at + n_low;
    return part->high_key + read_low(part->codes, at, n_low);
}

/* Any key of the part. */
TD_NOINLINE static uint64_t seek_key(td_part *part, uint32_t row)
{
    uint32_t there = part->at_row;
    if (row <= there || (row ^ there) >= TD_KEY_BLOCK) {
        td_part_start_block(part, row / TD_KEY_BLOCK);
        there = part->at_row;
        if (row == there) return part->high_key;
    }
    uint32_t n = row - there - 1u, at = part->at_high, start = at + n; /* rows to pass */
    const uint8_t *from = part->codes + (at >> 3);
    uint32_t bits = (uint32_t)*from >> (at & 7u);
    part->at_row += n;
    part->at_low += n * part->n_low;
    for (uint32_t ones; (ones = td_quick_byte_ones(bits)) < n; n -= ones, bits = *++from) at = (at | 7u) + 1u;
    for (; n > 0; bits >>= 1, at++) n -= bits & 1u;
    part->at_high = at;
    return next_key(part, start);
}

/* Toggles the bits of values for which `changed` has ones; its lowest bit is bit `b` of the key, counted from the least
 * significant. Bits that the key does not have are not looked at. */
static void toggle_bits(const td_part *part, uint32_t b, uint32_t changed, uint32_t *values)
{
    for (; changed && b < part->n_key; changed >>= 1, b++) {
        if (!(changed & 1u)) continue;
        uint32_t name = td_part_name(part, b);
        values[name >> part->bit_bits] ^= (uint32_t)1 << (name & td_part_bit_mask(part));
    }
}

/* The same from the least significant bit on, for names of one byte. */
static inline void toggle_low_bits(const td_part *part, uint32_t changed, uint32_t *values)
{
    uint32_t bit_bits = part->bit_bits, bit_mask = td_part_bit_mask(part);
    const uint8_t *place = part->last_place;
    if (changed == 0) return;
    do {
        for (; !(changed & 1u); changed >>= 1) place--;
        uint32_t name = *place--;
        values[name >> bit_bits] ^= (uint32_t)1 << (name & bit_mask);
    } while (changed >>= 1);
}

void td_part_spread(td_part *part, uint32_t row, uint32_t *values)
{
    uint64_t key = row == part->at_row + 1u && row % TD_KEY_BLOCK ? next_key(part, part->at_high) : seek_key(part, row);
    uint64_t changed = key ^ part->spread;
    uint32_t n_key = part->n_key, low = (uint32_t)changed, high = (uint32_t)(changed >> 32);
    part->spread = key;
    if (n_key < 32) low &= td_low_mask(n_key);
    else if (high) toggle_bits(part, 32, high, values);
    if (part->place_bytes == 1) toggle_low_bits(part, low, values);
    else toggle_bits(part, 0, low, values);
}
