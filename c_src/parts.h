/* Internal: where the blocks of a part are, for the two ways to read rows (decode.c, unpack.c). */
#ifndef PARTS_H
#define PARTS_H

#include "td_bits.h"

static inline bool td_part_has(const td_part *part, uint32_t flag)
{
    return (part->header.flags & flag) != 0;
}

/* Bits of a row of the rows block. */
static inline uint32_t td_part_row_bits(const td_part *part)
{
    return part->id_bits + part->header.deviation_bits;
}

/* Part `index`, whose first row is first_row. False when its blocks do not fit the data section. */
bool td_part_open(const td_pack *pack, uint32_t index, uint32_t first_row, td_part *part);
/* Which bits of a feature are the base's. */
uint32_t td_part_base_mask(const td_pack *pack, const td_part *part, uint32_t feature);
/* Entries of all dictionaries; the part has TD_PART_DICTIONARY. */
uint32_t td_part_entries(const td_pack *pack, const td_part *part);
/* Bit `b` of the key, counted from the most significant: where it goes. */
void td_part_place(const td_part *part, uint32_t b, uint32_t *feature, uint32_t *bit);
/* Fields of n_bits up to 64. */
uint64_t td_read_long(const uint8_t *stream, uint32_t at, uint32_t n_bits);
/* Goes to the first row of a block of TD_KEY_BLOCK rows; returns how many rows follow it in the block. */
uint32_t td_part_start_block(td_part *part, uint32_t block);

#endif /* PARTS_H */
