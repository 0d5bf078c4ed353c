/* Any rows, in up to three parts by any encoder, as a pack: it opens, and both readers give back every row. */
#include <stdlib.h>
#include <string.h>

#include "td_bits.h"

enum { FEW_ROWS = 30, MAX_ROWS = 150, MAX_FEATURES = 64, NARROW = 12, MAX_PARTS = 3, MAX_ENTRIES = 16, MAX_BYTES = 1 << 17,
       MAX_ORDER = 2 * TD_MAX_WIDTH * MAX_FEATURES };
enum encoder { PUBLISHED, GREEDY, KEYS, N_ENCODERS };

/* Bytes of the input, again from the first when there are no more. */
typedef struct source {
    const uint8_t *data;
    size_t size, at;
} source;

/* One part's rows as they are encoded and as they must come back. */
typedef struct part {
    uint32_t n_rows;
    uint32_t stored[MAX_ROWS * MAX_FEATURES];
    uint32_t expected[MAX_ROWS * MAX_FEATURES];
} part;

typedef struct job {
    uint32_t n_features, width;
    uint8_t image[16];
    bool is_image;
    part parts[MAX_PARTS];
    uint32_t mask[MAX_FEATURES], order[MAX_ORDER], group[MAX_ROWS], offsets[MAX_FEATURES];
    uint64_t work[2 * MAX_ROWS + 1], keys[MAX_ROWS];
    uint8_t data[MAX_BYTES], file[MAX_BYTES];
} job;

static void require(int condition)
{
    if (!condition) abort();
}

static uint32_t take(source *s, uint32_t n_bytes)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < n_bytes; i++, s->at++) value = value << 8 | s->data[s->at % s->size];
    return value;
}

/* ----------------------------------------------------------------- encoders */

static uint32_t encode_bases(job *j, part *p, source *s, bool greedy, uint8_t *out, uint32_t room, td_part_header *header)
{
    td_plan_result plan;
    bool moved = take(s, 1) & 1u;
    for (uint32_t f = 0; f < j->n_features; f++) {
        j->offsets[f] = take(s, 2) & td_low_mask(j->width);
        for (uint32_t i = 0; moved && i < p->n_rows; i++) p->expected[i * j->n_features + f] += j->offsets[f];
    }
    uint32_t patience = take(s, 1) & 7u;
    int status = (greedy ? td_plan_greedy : td_plan_compress)(p->stored, p->n_rows, j->n_features, j->width, patience,
                                                              j->mask, j->order, &plan, j->work, sizeof j->work);
    require(status == TD_OK);
    int n = td_plan_group(p->stored, p->n_rows, j->n_features, j->width, j->mask, j->group, j->work, sizeof j->work);
    require(n > 0 && (uint32_t)n == plan.n_bases);
    int size = td_encode_part(p->stored, p->n_rows, j->n_features, j->width, j->mask, moved ? j->offsets : NULL, j->group,
                              plan.n_bases, out, room, header);
    require(size > 0 && (uint32_t)size <= (plan.size_bits + 2u * j->n_features * j->width) / 8u + 4u);
    return (uint32_t)size;
}

/* Some features become numbers of entries; then rows are sorted by a key of any bits that vary. */
static uint32_t encode_keys(job *j, part *p, source *s, uint8_t *out, uint32_t room, td_part_header *header)
{
    uint32_t constant[MAX_FEATURES], entries[MAX_FEATURES * MAX_ENTRIES], key_bits[TD_MAX_KEY], base[MAX_FEATURES];
    uint32_t first[MAX_FEATURES], n_all = 0, n_key = 0, d = j->n_features, wanted = 1u + take(s, 1) % TD_MAX_KEY;
    uint16_t n_entries[MAX_FEATURES] = {0};
    for (uint32_t f = 0; f < d; f++) {
        n_entries[f] = (uint16_t)(take(s, 1) & 1u ? 1u + take(s, 1) % MAX_ENTRIES : 0u);
        first[f] = n_all;
        for (uint32_t e = 0; e < n_entries[f]; e++) entries[n_all++] = take(s, 3) & td_low_mask(j->width);
        for (uint32_t i = 0; n_entries[f] && i < p->n_rows; i++) {
            uint32_t most = n_entries[f] <= td_low_mask(j->width) ? n_entries[f] : td_low_mask(j->width);
            p->stored[i * d + f] %= most;
        }
        constant[f] = td_low_mask(j->width);
        for (uint32_t i = 1; i < p->n_rows; i++) constant[f] &= ~(p->stored[i * d + f] ^ p->stored[f]);
    }
    for (uint32_t tries = 0; tries < 64 && n_key < wanted; tries++) {
        uint32_t f = take(s, 1) % d, bit = take(s, 1) % j->width, k = 0;
        while (k < n_key && key_bits[k] != 32u * f + bit) k++;
        if (k == n_key && !(constant[f] >> bit & 1u)) key_bits[n_key++] = 32u * f + bit;
    }
    if (n_key == 0) return 0; /* no bit varies */
    void *work = malloc(td_key_work_size(n_key));
    require(work != NULL);
    td_key_rows(p->stored, p->n_rows, d, key_bits, n_key, j->keys, work);
    free(work);
    td_key_sort(j->keys, j->group, p->n_rows, n_key, j->work, j->order);
    for (uint32_t i = 0; i < p->n_rows; i++) {
        require(i == 0 || j->keys[i - 1] <= j->keys[i]);
        for (uint32_t f = 0; f < d; f++) {
            uint32_t value = p->stored[j->group[i] * d + f];
            p->expected[i * d + f] = n_entries[f] ? entries[first[f] + value] : value;
        }
    }
    td_key_plan plan = {constant, NULL, n_all ? n_entries : NULL, entries, key_bits, n_key};
    int size = td_encode_keys(p->stored, j->group, j->keys, p->n_rows, d, j->width, &plan, base, out, room, header);
    require(size > 0);
    return (uint32_t)size;
}

/* --------------------------------------------------------------------- rows */

static void read_shape(job *j, source *s)
{
    static const uint8_t shapes[][3] = {{1, 1, 3}, {1, 5, 3}, {3, 5, 1}, {8, 8, 1}, {1, 12, 1}};
    const uint8_t *shape = shapes[take(s, 1) % 5u];
    uint32_t flags = take(s, 1);
    j->is_image = (flags & 3u) == 3u;
    j->width = j->is_image ? 32u : 1u + take(s, 1) % TD_MAX_WIDTH;
    j->n_features = j->is_image ? (uint32_t)shape[0] * shape[1] * shape[2] : 1u + take(s, 1) % NARROW;
    memset(j->image, 0, sizeof j->image);
    td_put16(j->image, shape[0]);
    td_put16(j->image + 2, shape[1]);
    j->image[4] = shape[2];
    j->image[5] = (uint8_t)((flags >> 2 & TD_IMAGE_DCT) | (shape[2] == 3 ? flags >> 2 & TD_IMAGE_COLOUR : 0u));
    require(!j->is_image || td_image_check(j->image, sizeof j->image, j->n_features) == TD_OK);
}

static void read_rows(job *j, part *p, source *s)
{
    uint32_t n_bytes = 1u + take(s, 1) % ((j->width + 7u) / 8u);
    p->n_rows = 1u + take(s, 1) % (j->is_image || take(s, 1) & 15u ? FEW_ROWS : MAX_ROWS); /* rarely more than a block of keys */
    for (uint32_t i = 0; i < p->n_rows; i++) {
        uint32_t *row = p->stored + i * j->n_features;
        for (uint32_t f = 0; f < j->n_features; f++) row[f] = take(s, n_bytes) & td_low_mask(j->width);
    }
    memcpy(p->expected, p->stored, sizeof p->stored);
}

/* ------------------------------------------------------------------ the pack */

static uint32_t write_pack(job *j, const uint8_t *records, uint32_t n_parts, uint32_t n_rows, uint32_t data_size)
{
    uint8_t schema[TD_PACK_SCHEMA_SIZE] = {0}, starts[MAX_PARTS * MAX_ROWS / 8 + 4 * MAX_PARTS] = {0};
    bool listed = n_parts < n_rows / TD_LISTED_ROWS;
    for (uint32_t p = 0, row = 0; p < n_parts; row += j->parts[p++].n_rows) {
        if (listed) td_put32(starts + 4u * p, row);
        else starts[row >> 3] |= (uint8_t)(1u << (row & 7u));
    }
    td_put32(schema, n_rows);
    td_put32(schema + 4, n_parts);
    td_put16(schema + 8, j->n_features);
    td_put16(schema + 10, MAX_PARTS);
    td_put16(schema + 12, n_parts);
    schema[14] = (uint8_t)j->width;
    td_put32(schema + 20, 0x3F800000u);
    td_put32(schema + 32, j->is_image);
    td_section sections[5] = {{TD_PACK_SCHEMA, schema, sizeof schema}, {TD_PACK_PARTS, records, n_parts * TD_PART_RECORD},
                              {TD_PACK_DATA, j->data, data_size},
                              {TD_PACK_SAMPLES, starts, listed ? 4u * n_parts : (n_rows + 7u) / 8u},
                              {TD_PACK_IMAGE, j->image, sizeof j->image}};
    uint32_t n_sections = j->is_image ? 5u : 4u;
    require(td_file_write(TD_MAGIC_PACK, sections, n_sections, j->file, MAX_BYTES) == TD_OK);
    return td_file_size(sections, n_sections);
}

static void check_rows(job *j, uint32_t n_parts, uint32_t file_size)
{
    static int32_t all[MAX_PARTS * MAX_ROWS * MAX_FEATURES];
    td_pack pack;
    td_unpacker u;
    int32_t row[MAX_FEATURES];
    require(td_pack_open(&pack, j->file, file_size) == TD_OK);
    uint32_t size = td_unpacker_size(&pack, 32, 1), at = 0, label;
    void *memory = malloc(size);
    require(memory && td_unpacker_init(&u, &pack, 32, 1, memory, size) == TD_OK);
    require(td_unpacker_rows(&u, 0, pack.n_rows, all) == TD_OK);
    for (uint32_t p = 0; p < n_parts; p++) {
        for (uint32_t i = 0; i < j->parts[p].n_rows; i++, at++) {
            uint32_t *expected = j->parts[p].expected + i * j->n_features;
            require(td_pack_row(&pack, at, row, &label) == TD_OK && label == p);
            if (j->is_image) td_image_forward(j->image, row); /* undone by every reader */
            require(memcmp(row, expected, j->n_features * sizeof *row) == 0);
            if (j->is_image) td_image_inverse(j->image, row);
            require(memcmp(row, all + at * j->n_features, j->n_features * sizeof *row) == 0);
        }
    }
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static job j;
    uint8_t records[MAX_PARTS * TD_PART_RECORD];
    uint32_t at = 0, n_rows = 0;
    if (size == 0) return 0;
    source s = {data, size, 0};
    read_shape(&j, &s);
    uint32_t n_parts = 1u + take(&s, 1) % MAX_PARTS;
    for (uint32_t p = 0; p < n_parts; p++) {
        td_part_header header;
        uint32_t encoder = take(&s, 1) % N_ENCODERS, part_size = 0;
        read_rows(&j, &j.parts[p], &s);
        if (encoder == KEYS) part_size = encode_keys(&j, &j.parts[p], &s, j.data + at, MAX_BYTES - at, &header);
        if (part_size == 0) {
            memcpy(j.parts[p].expected, j.parts[p].stored, sizeof j.parts[p].stored);
            part_size = encode_bases(&j, &j.parts[p], &s, encoder == GREEDY, j.data + at, MAX_BYTES - at, &header);
        }
        header.offset = at;
        header.label = (uint16_t)p;
        td_encode_part_record(&header, records + p * TD_PART_RECORD);
        at += part_size;
        n_rows += j.parts[p].n_rows;
    }
    check_rows(&j, n_parts, write_pack(&j, records, n_parts, n_rows, at));
    return 0;
}
