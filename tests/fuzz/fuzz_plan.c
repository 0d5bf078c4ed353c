/* Any small table: condensing keeps its budget, and what compress and encode write, decode reads back. */
#include <stdlib.h>
#include <string.h>

#include "td_bits.h"

enum { MAX_ROWS = 48, MAX_FEATURES = 12, MAX_BYTES = 8192 };

typedef struct table {
    uint32_t n_rows, n_features, width, max_groups;
    uint32_t rows[MAX_ROWS * MAX_FEATURES];
    uint32_t offsets[MAX_FEATURES];
    uint16_t label[MAX_ROWS];
    uint32_t group[MAX_ROWS];
    bool with_offsets;
    uint64_t work[4096];
} table;

static void require(int condition)
{
    if (!condition) abort();
}

/* Six bytes of shape, then rows; missing bytes repeat the ones before. */
static bool read_table(table *t, const uint8_t *data, size_t size)
{
    if (size < 7) return false;
    t->n_rows = 1u + data[0] % MAX_ROWS;
    t->n_features = 1u + data[1] % MAX_FEATURES;
    t->width = 1u + data[2] % TD_MAX_WIDTH;
    t->max_groups = 1u + data[3];
    t->with_offsets = data[4] & 1u;
    size_t at = 6;
    for (uint32_t i = 0; i < t->n_rows * t->n_features; i++) {
        uint32_t value = 0;
        for (uint32_t byte = 0; byte < (t->width + 7u) / 8u; byte++, at++) value = value << 8 | data[6 + (at - 6) % (size - 6)];
        t->rows[i] = value & td_low_mask(t->width);
    }
    for (uint32_t i = 0; i < t->n_rows; i++) t->label[i] = (uint16_t)(data[5] ? t->rows[i * t->n_features] % data[5] : 0u);
    for (uint32_t f = 0; f < t->n_features; f++) t->offsets[f] = t->rows[f];
    return true;
}

static uint32_t count_groups(const table *t, uint32_t n_groups)
{
    bool seen[MAX_ROWS] = {false};
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_rows; i++) {
        require(t->group[i] < n_groups);
        n += !seen[t->group[i]];
        seen[t->group[i]] = true;
    }
    return n;
}

static void condense(table *t)
{
    int n = td_plan_condense(t->rows, t->n_rows, t->n_features, t->width, t->max_groups, t->group, t->work, sizeof t->work);
    require(n > 0 && (uint32_t)n <= t->max_groups && count_groups(t, (uint32_t)n) == (uint32_t)n);
    require(td_condense_variance_work_size(t->n_rows, t->n_features, t->n_rows) <= sizeof t->work);
    n = td_condense_variance(t->rows, t->label, t->n_rows, t->n_features, t->max_groups, 2, t->group, t->work, sizeof t->work);
    if (n == TD_E_RANGE) return; /* more classes than groups */
    require(n > 0 && (uint32_t)n <= t->max_groups && count_groups(t, (uint32_t)n) == (uint32_t)n);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        for (uint32_t k = 0; k < i; k++) require(t->group[i] != t->group[k] || t->label[i] == t->label[k]);
    }
}

static uint32_t encode(table *t, uint8_t *out, td_part_header *header)
{
    uint32_t mask[MAX_FEATURES], order[2 * TD_MAX_WIDTH * MAX_FEATURES];
    td_plan_result plan;
    int status = td_plan_compress(t->rows, t->n_rows, t->n_features, t->width, 0, mask, order, &plan, t->work, sizeof t->work);
    require(status == TD_OK);
    int n = td_plan_group(t->rows, t->n_rows, t->n_features, t->width, mask, t->group, t->work, sizeof t->work);
    require((uint32_t)n == plan.n_bases && count_groups(t, plan.n_bases) == plan.n_bases);
    int size = td_encode_part(t->rows, t->n_rows, t->n_features, t->width, mask, t->with_offsets ? t->offsets : NULL,
                              t->group, plan.n_bases, out, MAX_BYTES, header);
    require(size > 0 && header->base_bits == plan.base_bits && header->deviation_bits == plan.deviation_bits);
    require((uint32_t)size <= (plan.size_bits + 2u * t->n_features * t->width) / 8u + 4u);
    return (uint32_t)size;
}

static uint32_t write_pack(const table *t, td_part_header *header, const uint8_t *part, uint32_t size, uint8_t *out)
{
    uint8_t schema[TD_PACK_SCHEMA_SIZE] = {0}, record[TD_PART_RECORD], starts[MAX_ROWS / 8 + 4] = {0};
    bool listed = t->n_rows / TD_LISTED_ROWS > 1;
    if (!listed) starts[0] = 1;
    td_put32(schema, t->n_rows);
    td_put32(schema + 4, 1);
    td_put16(schema + 8, t->n_features);
    td_put16(schema + 10, 1);
    td_put16(schema + 12, 1);
    schema[14] = (uint8_t)t->width;
    td_put32(schema + 20, 0x3F800000u);
    header->offset = 0;
    header->label = 0;
    td_encode_part_record(header, record);
    td_section sections[4] = {{TD_PACK_SCHEMA, schema, sizeof schema}, {TD_PACK_PARTS, record, sizeof record},
                              {TD_PACK_DATA, part, size}, {TD_PACK_SAMPLES, starts, listed ? 4u : (t->n_rows + 7u) / 8u}};
    require(td_file_write(TD_MAGIC_PACK, sections, 4, out, MAX_BYTES) == TD_OK);
    return td_file_size(sections, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    table t;
    uint8_t part[MAX_BYTES], file[MAX_BYTES];
    td_part_header header;
    td_pack pack;
    int32_t row[MAX_FEATURES];
    uint32_t label;
    if (!read_table(&t, data, size)) return 0;
    condense(&t);
    uint32_t part_size = encode(&t, part, &header);
    uint32_t file_size = write_pack(&t, &header, part, part_size, file);
    require(td_pack_open(&pack, file, file_size) == TD_OK);
    for (uint32_t i = 0; i < t.n_rows; i++) {
        require(td_pack_row(&pack, i, row, &label) == TD_OK && label == 0);
        for (uint32_t f = 0; f < t.n_features; f++) {
            uint32_t offset = t.with_offsets ? t.offsets[f] : 0u;
            require((uint32_t)row[f] == t.rows[i * t.n_features + f] + offset);
        }
    }
    return 0;
}
