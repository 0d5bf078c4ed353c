/* Writes one part of a pack: plan, offsets, bases, rows (docs/SPEC.md, ".tdz"). decode.c reads it. */
#include "transform.h"

/* Rows that go through all transforms before the next ones: they stay in a processor's nearest cache. */
enum { ROWS_AT_ONCE = 256 };

static uint32_t bytes_of(uint64_t bits)
{
    return (uint32_t)((bits + 7u) / 8u);
}

/* True when every mask holds the leading bits of its feature only: then a count a feature will do. */
static bool leading_only(const uint32_t *mask, uint32_t n_features, uint32_t width)
{
    for (uint32_t f = 0; f < n_features; f++) {
        if (mask[f] != td_leading_mask(width, td_count_bits(mask[f]))) return false;
    }
    return true;
}

/* Bytes before the rows: plan, offsets, bases. */
static uint64_t head_size(uint32_t n_features, uint32_t width, bool leading, bool offsets, uint32_t n_bases,
                          uint32_t base_bits)
{
    uint32_t plan_bits = leading ? td_id_bits(width + 1u) : width;
    return (uint64_t)bytes_of((uint64_t)plan_bits * n_features) +
           (offsets ? bytes_of((uint64_t)width * n_features) : 0u) + ((uint64_t)n_bases * base_bits + 7u) / 8u;
}

uint64_t td_part_size(uint32_t n_rows, uint32_t n_features, uint32_t width, const uint32_t *mask, bool offsets,
                      uint32_t n_bases)
{
    uint32_t base_bits = 0;
    for (uint32_t f = 0; f < n_features; f++) base_bits += td_count_bits(mask[f]);
    uint64_t row_bits = n_features * width - base_bits + td_id_bits(n_bases);
    return head_size(n_features, width, leading_only(mask, n_features, width), offsets, n_bases, base_bits) +
           (n_rows * row_bits + 7u) / 8u;
}

static void write_base(const uint32_t *row, const uint32_t *mask, uint32_t n_features, uint8_t *bases, uint32_t at)
{
    for (uint32_t f = 0; f < n_features; f++) {
        uint32_t n_bits = td_count_bits(mask[f]);
        td_write_bits(bases, at, n_bits, td_gather(row[f], mask[f]));
        at += n_bits;
    }
}

int td_encode_part(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                   const uint32_t *mask, const uint32_t *offsets, const uint32_t *group, uint32_t n_bases,
                   uint8_t *out, uint32_t capacity, td_part_header *header)
{
    if (n_rows == 0 || n_features == 0 || n_features > TD_MAX_FEATURES || width == 0 || width > TD_MAX_WIDTH ||
        n_bases == 0 || n_bases > TD_MAX_BASES)
        return TD_E_ARGUMENT;
    uint32_t base_bits = 0, id_bits = td_id_bits(n_bases), all = td_low_mask(width);
    for (uint32_t f = 0; f < n_features; f++) {
        if (mask[f] & ~all) return TD_E_ARGUMENT;
        if (offsets && (offsets[f] & ~all)) return TD_E_RANGE;
        base_bits += td_count_bits(mask[f]);
    }
    bool leading = leading_only(mask, n_features, width);
    uint32_t plan_bits = leading ? td_id_bits(width + 1u) : width;
    uint32_t row_bits = n_features * width - base_bits + id_bits;
    uint64_t rows_at = head_size(n_features, width, leading, offsets != NULL, n_bases, base_bits);
    uint64_t total = rows_at + ((uint64_t)n_rows * row_bits + 7u) / 8u;
    if ((uint64_t)n_rows * row_bits > 0xFFFFFFFFu || (uint64_t)n_bases * base_bits > 0xFFFFFFFFu ||
        total > capacity || total > ~0u >> 1) /* the largest int */
        return TD_E_FULL;

    memset(out, 0, (size_t)total);
    for (uint32_t f = 0; f < n_features; f++) {
        td_write_bits(out, f * plan_bits, plan_bits, leading ? td_count_bits(mask[f]) : mask[f]);
    }
    uint8_t *at = out + bytes_of((uint64_t)plan_bits * n_features);
    for (uint32_t f = 0; offsets && f < n_features; f++) td_write_bits(at, f * width, width, offsets[f]);
    if (offsets) at += bytes_of((uint64_t)width * n_features);

    td_writer w;
    td_writer_start(&w, out + rows_at, 0);
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint32_t *row = rows + (size_t)i * n_features;
        if (group[i] >= n_bases) return TD_E_ARGUMENT;
        /* Rows of one group write the same base over itself: the bytes stay as they are. */
        if (i == 0 || group[i] != group[i - 1]) write_base(row, mask, n_features, at, group[i] * base_bits);
        td_writer_put(&w, id_bits, group[i]);
        for (uint32_t f = 0; f < n_features; f++) {
            if (row[f] & ~all) return TD_E_RANGE;
            td_writer_gather(&w, row[f], all & ~mask[f]);
        }
    }
    td_writer_end(&w);
    header->n_rows = n_rows;
    header->n_bases = (uint16_t)n_bases;
    header->base_bits = base_bits;
    header->deviation_bits = n_features * width - base_bits;
    header->flags = (uint8_t)((offsets ? TD_PART_OFFSETS : 0) | (leading ? 0 : TD_PART_MASKS));
    return (int)total;
}

void td_encode_part_record(const td_part_header *header, uint8_t *out)
{
    td_put32(out, header->n_rows);
    td_put32(out + 4, header->offset);
    td_put16(out + 8, header->label);
    td_put16(out + 10, header->n_bases);
    td_put32(out + 12, header->deviation_bits | (uint32_t)header->flags << 24);
}

int td_transforms_apply(const uint8_t *transforms, uint32_t n, const uint32_t *rows, uint32_t n_rows, uint32_t n_features,
                        uint32_t width, uint32_t *out)
{
    if (width == 0 || width > TD_MAX_WIDTH) return TD_E_ARGUMENT;
    for (uint32_t t = 0; t < n; t++) {
        const uint8_t *record = transforms + (size_t)t * TD_TRANSFORM_RECORD;
        if (td_transform_feature(record) >= n_features || td_transform_other(record) >= n_features || record[6] >= 32)
            return TD_E_ARGUMENT;
    }
    for (uint32_t first = 0; first < n_rows; first += ROWS_AT_ONCE) {
        uint32_t some = n_rows - first < ROWS_AT_ONCE ? n_rows - first : ROWS_AT_ONCE;
        uint32_t *row = out + (size_t)first * n_features;
        if (out != rows) memcpy(row, rows + (size_t)first * n_features, (size_t)(some * n_features) * sizeof *row);
        for (uint32_t t = n; t-- > 0;) { /* the last one undone is the first one applied */
            const uint8_t *record = transforms + (size_t)t * TD_TRANSFORM_RECORD;
            td_transform_apply(record, width, row + td_transform_feature(record), row + td_transform_other(record), some,
                               (size_t)n_features);
        }
    }
    return TD_OK;
}
