/* Any rows as a pack, by any encoder, with everything that a pack may have: it opens, and both readers give every row back.
 * Rows are numbers, transformed or not, or images; in up to three parts or in an archive; in their own order or in one that
 * is kept. */
#include <stdlib.h>
#include <string.h>

#include "td_bits.h"

enum { FEW_ROWS = 30, MAX_ROWS = 150, MAX_FEATURES = 64, NARROW = 12, MAX_PARTS = 3, ALL_ROWS = MAX_PARTS * MAX_ROWS,
       ALL_VALUES = ALL_ROWS * MAX_FEATURES, MAX_HIGH = 1 << 10, MAX_BYTES = 1 << 18,
       MAX_ORDER = 2 * TD_MAX_WIDTH * MAX_FEATURES, IMAGE_HEAD = 16, MAX_IMAGE = IMAGE_HEAD + 256,
       LEAST_CELLS = 8, MOST_CELLS = 13, FEW_TRANSFORMS = 6 };
enum encoder { PUBLISHED, GREEDY, KEYS, N_ENCODERS };
static const uint32_t NONE = 0xFFFFu, LABEL = 0xFFFEu; /* contexts of an archive */

/* Bytes of the input, again from the first when there are no more. */
typedef struct source {
    const uint8_t *data;
    size_t size, at;
} source;

/* Rows are in the order of the file here. */
typedef struct job {
    uint32_t n_features, n_rows, n_parts, n_samples, width, image_size;
    int32_t minimum;
    uint8_t image[MAX_IMAGE], transforms[FEW_TRANSFORMS * TD_TRANSFORM_RECORD];
    uint32_t n_transforms;
    uint32_t part_rows[MAX_PARTS];
    uint16_t label[ALL_ROWS];
    uint8_t starts[ALL_ROWS]; /* 1: the row begins a sample */
    uint32_t place[ALL_ROWS]; /* where a row that was given is; with `ordered` */
    bool ordered;
    int32_t given[ALL_VALUES];
    uint32_t stored[ALL_VALUES]; /* the same rows as they are encoded */
    uint32_t mask[MAX_FEATURES], order[MAX_ORDER], group[MAX_ROWS], offsets[MAX_FEATURES];
    uint64_t work[2 * MAX_ROWS + 1], keys[MAX_ROWS];
    uint8_t records[MAX_PARTS * TD_PART_RECORD], data[MAX_BYTES], file[MAX_BYTES];
} job;

static void require(int condition)
{
    if (!condition) abort();
}

static void *memory_of(size_t size)
{
    void *memory = malloc(size ? size : 1u);
    require(memory != NULL);
    return memory;
}

static uint32_t take(source *s, uint32_t n_bytes)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < n_bytes; i++, s->at++) value = value << 8 | s->data[s->at % s->size];
    return value;
}

static bool toss(source *s)
{
    return take(s, 1) & 1u;
}

/* --------------------------------------------------------------------- rows */

static void read_image(job *j, source *s)
{
    static const uint8_t shapes[][3] = {{1, 1, 3}, {1, 5, 3}, {3, 5, 1}, {8, 8, 1}, {1, 12, 1}, {9, 7, 1}, {8, 8, 1}};
    const uint8_t *shape = shapes[take(s, 1) % 7u];
    uint32_t flags = take(s, 1) & (TD_IMAGE_DCT | TD_IMAGE_QUANTISED | (shape[2] == 3 ? TD_IMAGE_COLOUR : 0u));
    if (!(flags & TD_IMAGE_DCT)) flags &= TD_IMAGE_COLOUR;
    memset(j->image, 0, sizeof j->image);
    td_put16(j->image, shape[0]);
    td_put16(j->image + 2, shape[1]);
    j->image[4] = shape[2];
    j->image[5] = (uint8_t)flags;
    j->image_size = IMAGE_HEAD;
    j->n_features = (uint32_t)shape[0] * shape[1] * shape[2];
    if (flags & TD_IMAGE_QUANTISED) {
        uint32_t pixel = take(s, 4), other = take(s, 4), most = take(s, 1);
        bool rising = (int32_t)pixel <= (int32_t)other;
        td_put32(j->image + 8, rising ? pixel : other);
        td_put32(j->image + 12, rising ? other : pixel);
        j->image_size += shape[2] > 1 ? 256u : 128u;
        for (uint32_t at = IMAGE_HEAD; at < j->image_size; at += 2) td_put16(j->image + at, 1u + take(s, 1) * most);
    }
    require(td_image_check(j->image, j->image_size, j->n_features) == TD_OK);
}

static void read_rows(job *j, source *s)
{
    uint32_t n_bytes = 1u + take(s, 1) % 4u, origin = take(s, 4);
    bool few = j->image_size || take(s, 1) % 8u; /* rarely more than a block of keys */
    j->n_parts = 1u + take(s, 1) % MAX_PARTS;
    j->n_rows = 0;
    for (uint32_t p = 0; p < j->n_parts; p++) {
        j->part_rows[p] = 1u + take(s, 1) % (few ? FEW_ROWS : MAX_ROWS);
        for (uint32_t i = 0; i < j->part_rows[p]; i++, j->n_rows++) {
            j->label[j->n_rows] = (uint16_t)p;
            j->starts[j->n_rows] = i == 0;
        }
    }
    for (uint32_t i = 0; i < j->n_rows * j->n_features; i++) j->given[i] = (int32_t)(origin + take(s, n_bytes));
}

static uint32_t bits_of(uint32_t value)
{
    uint32_t bits = 1;
    while (bits < 32 && value >> bits) bits++;
    return bits;
}

/* What a pack stores of the rows given: transformed pixels, less a minimum, in a width that holds them. */
static void store_rows(job *j, source *s)
{
    uint32_t n = j->n_rows * j->n_features;
    int32_t lowest = INT32_MAX, highest = INT32_MIN;
    memcpy(j->stored, j->given, n * sizeof *j->stored);
    for (uint32_t i = 0; j->image_size && i < j->n_rows; i++) {
        int32_t *row = j->given + i * j->n_features, back[MAX_FEATURES];
        td_image_forward(j->image, (int32_t *)j->stored + i * j->n_features);
        memcpy(back, j->stored + i * j->n_features, j->n_features * sizeof *back);
        td_image_inverse(j->image, back);
        if (!(j->image[5] & TD_IMAGE_QUANTISED)) require(memcmp(back, row, j->n_features * sizeof *row) == 0);
        memcpy(row, back, j->n_features * sizeof *row);
    }
    for (uint32_t i = 0; i < n; i++) {
        lowest = (int32_t)j->stored[i] < lowest ? (int32_t)j->stored[i] : lowest;
        highest = (int32_t)j->stored[i] > highest ? (int32_t)j->stored[i] : highest;
    }
    j->width = toss(s) ? bits_of((uint32_t)highest - (uint32_t)lowest) : TD_MAX_WIDTH;
    j->minimum = j->width < TD_MAX_WIDTH || toss(s) ? lowest : (int32_t)take(s, 4);
    for (uint32_t i = 0; i < n; i++) j->stored[i] -= (uint32_t)j->minimum;
}

/* Differences to multiples of other features, and Gray codes. */
static void transform(job *j, source *s)
{
    j->n_transforms = 1u + take(s, 1) % FEW_TRANSFORMS;
    memset(j->transforms, 0, sizeof j->transforms);
    for (uint32_t i = 0; i < j->n_transforms; i++) {
        uint8_t *record = j->transforms + i * TD_TRANSFORM_RECORD;
        uint32_t feature = take(s, 1) % j->n_features, other = take(s, 1) % j->n_features, factor = take(s, 2);
        td_put16(record, feature);
        if (factor == 0 || other == feature) continue;
        td_put16(record + 2, other);
        td_put16(record + 4, factor);
        record[6] = (uint8_t)(take(s, 1) & 31u);
        record[7] = (uint8_t)take(s, 1);
    }
    require(td_transforms_apply(j->transforms, j->n_transforms, j->stored, j->n_rows, j->n_features, j->width, j->stored) ==
            TD_OK);
}

/* ------------------------------------------------------------- one row's place */

static void swap_rows(job *j, uint32_t a, uint32_t b)
{
    for (uint32_t f = 0, d = j->n_features; f < d; f++) {
        int32_t given = j->given[a * d + f];
        uint32_t stored = j->stored[a * d + f];
        j->given[a * d + f] = j->given[b * d + f];
        j->stored[a * d + f] = j->stored[b * d + f];
        j->given[b * d + f] = given;
        j->stored[b * d + f] = stored;
    }
}

static bool above(const job *j, uint32_t a, uint32_t b)
{
    const uint32_t *of_a = j->stored + a * j->n_features, *of_b = j->stored + b * j->n_features;
    uint32_t f = 0;
    while (f + 1u < j->n_features && of_a[f] == of_b[f]) f++;
    return of_a[f] > of_b[f];
}

static void begin_samples(job *j, source *s)
{
    uint32_t seldom = 1u + take(s, 1) % 64u;
    j->n_samples = 0;
    for (uint32_t i = 0; i < j->n_rows; i++) {
        if (take(s, 1) % seldom == 1u) j->starts[i] = 1;
        j->n_samples += j->starts[i];
    }
}

static void choose_order(job *j, source *s)
{
    j->ordered = toss(s);
    for (uint32_t i = 0; i < j->n_rows; i++) {
        uint32_t other = j->ordered ? take(s, 2) % (i + 1u) : i;
        j->place[i] = j->place[other];
        j->place[other] = i;
    }
}

/* -------------------------------------------------------------------- parts */

static void take_off(job *j, uint32_t *rows, uint32_t n, const uint32_t *offsets)
{
    for (uint32_t i = 0; i < n * j->n_features; i++) rows[i] -= offsets[i % j->n_features];
}

/* Of each feature the minimum; in the largest width anything, as sums wrap there. */
static void choose_offsets(job *j, source *s, const uint32_t *rows, uint32_t n)
{
    bool any = j->width == TD_MAX_WIDTH && toss(s);
    for (uint32_t f = 0; f < j->n_features; f++) {
        j->offsets[f] = rows[f];
        for (uint32_t i = 1; i < n; i++) {
            if (rows[i * j->n_features + f] < j->offsets[f]) j->offsets[f] = rows[i * j->n_features + f];
        }
        if (any) j->offsets[f] = take(s, 4);
    }
}

static uint32_t encode_bases(job *j, source *s, uint32_t *rows, uint32_t n, bool greedy, uint8_t *out, uint32_t room,
                             td_part_header *header)
{
    td_plan_result plan;
    bool moved = toss(s);
    uint32_t d = j->n_features, patience = take(s, 1) & 7u;
    if (moved) {
        choose_offsets(j, s, rows, n);
        take_off(j, rows, n, j->offsets);
    }
    int status = (greedy ? td_plan_greedy : td_plan_compress)(rows, n, d, j->width, patience, j->mask, j->order, &plan,
                                                              j->work, sizeof j->work);
    require(status == TD_OK);
    int found = td_plan_group(rows, n, d, j->width, j->mask, j->group, j->work, sizeof j->work);
    require(found > 0 && (uint32_t)found == plan.n_bases);
    const uint32_t *offsets = moved ? j->offsets : NULL;
    int size = td_encode_part(rows, n, d, j->width, j->mask, offsets, j->group, plan.n_bases, out, room, header);
    require(size > 0 && (uint32_t)size <= (plan.size_bits + 2u * d * j->width) / 8u + 4u);
    uint8_t *exact = memory_of((uint32_t)size); /* no byte more is touched */
    room = (uint32_t)size;
    require(td_encode_part(rows, n, d, j->width, j->mask, offsets, j->group, plan.n_bases, exact, room, header) == size);
    require(memcmp(exact, out, (uint32_t)size) == 0);
    free(exact);
    return (uint32_t)size;
}

/* Key bits that vary, in any order; returns their number. */
static uint32_t choose_key(job *j, source *s, const uint32_t *constant, uint32_t *key_bits)
{
    uint32_t n_key = 0, wanted = 1u + take(s, 1) % TD_MAX_KEY;
    for (uint32_t tries = 0; tries < 64 && n_key < wanted; tries++) {
        uint32_t f = take(s, 1) % j->n_features, bit = take(s, 1) % j->width, k = 0;
        while (k < n_key && key_bits[k] != 32u * f + bit) k++;
        if (k == n_key && !(constant[f] >> bit & 1u)) key_bits[n_key++] = 32u * f + bit;
    }
    return n_key;
}

/* Numbers of their values in place of some features' values; n_entries: of the lists. */
static uint32_t make_lists(job *j, source *s, uint32_t *rows, uint32_t n, uint16_t *n_entries, uint32_t *entries)
{
    static uint32_t number[MAX_FEATURES * MAX_HIGH];
    static uint8_t seen[MAX_FEATURES * MAX_HIGH];
    uint32_t low[4 * MAX_FEATURES], high[4 * MAX_FEATURES], most[MAX_FEATURES], start[MAX_FEATURES];
    uint32_t n_all = 0, at = 0, d = j->n_features;
    memset(seen, 0, sizeof seen);
    td_key_survey(rows, n, d, low, high);
    for (uint32_t f = 0; f < d; f++) {
        most[f] = 1u + take(s, 1) % MAX_ROWS;
        high[f] += low[f];
        low[f] = 0;
        if (high[f] >= MAX_HIGH || toss(s)) most[f] = 0;
    }
    uint32_t count[MAX_FEATURES];
    td_key_values(rows, n, d, low, high, most, count, seen);
    for (uint32_t f = 0; f < d; f++) {
        bool listed = most[f] && count[f] <= most[f];
        start[f] = listed ? at : TD_KEY_NO_LIST;
        n_entries[f] = (uint16_t)(listed ? count[f] : 0u);
        for (uint32_t value = 0, k = 0; listed && value <= high[f]; value++) {
            number[at + value] = k;
            if (seen[at + value]) entries[n_all + k++] = value;
            require(value < high[f] || k == count[f]);
        }
        n_all += n_entries[f];
        at += most[f] ? high[f] + 1u : 0u;
    }
    td_key_stored(rows, n, d, low, start, number, rows);
    return n_all;
}

/* Less their least values, in place, unless that is left to the encoder: then low is what it takes off, else 0. */
static void move(const job *j, uint32_t *rows, uint32_t n, uint32_t *offsets, bool later, uint32_t *low)
{
    uint32_t d = j->n_features, high[4 * MAX_FEATURES], start[MAX_FEATURES];
    td_key_survey(rows, n, d, low, high);
    for (uint32_t f = 0; f < d; f++) {
        start[f] = TD_KEY_NO_LIST;
        offsets[f] = low[f];
    }
    if (later) return;
    td_key_stored(rows, n, d, low, start, NULL, rows);
    memset(low, 0, d * sizeof *low);
}

/* Rows that were given, in the order of the keys. */
static void sort_given(job *j, const uint32_t *rows, uint32_t n, const uint32_t *low, int32_t *given,
                       const uint32_t *key_bits, uint32_t n_key)
{
    static int32_t kept[MAX_ROWS * MAX_FEATURES];
    uint32_t d = j->n_features;
    void *work = memory_of(td_key_work_size(n_key));
    td_key_rows(rows, n, d, low, key_bits, n_key, j->keys, work);
    free(work);
    td_key_sort(j->keys, j->group, n, n_key, j->work, j->order);
    memcpy(kept, given, n * d * sizeof *given);
    for (uint32_t i = 0; i < n; i++) {
        require(i == 0 || j->keys[i - 1] <= j->keys[i]);
        memcpy(given + i * d, kept + j->group[i] * d, d * sizeof *given);
    }
}

/* Less the minimum; some features as numbers of their values; then sorted by a key. 0: no bit of those tried varies. */
static uint32_t encode_keys(job *j, source *s, uint32_t first_row, uint32_t n, uint8_t *out, uint32_t room,
                            td_part_header *header)
{
    static uint32_t entries[MAX_ROWS * MAX_FEATURES], rows[MAX_ROWS * MAX_FEATURES];
    uint32_t constant[MAX_FEATURES], key_bits[TD_MAX_KEY], base[MAX_FEATURES], d = j->n_features;
    uint32_t low[4 * MAX_FEATURES] = {0}, varying[4 * MAX_FEATURES], scratch[8 * MAX_FEATURES];
    uint16_t n_entries[MAX_FEATURES];
    bool moved = toss(s), listed = toss(s);
    memcpy(rows, j->stored + first_row * d, n * d * sizeof *rows);
    if (moved) move(j, rows, n, j->offsets, !listed, low);
    uint32_t n_all = listed ? make_lists(j, s, rows, n, n_entries, entries) : 0u;
    td_key_varying(rows, n, d, low, varying, scratch);
    for (uint32_t f = 0; f < d; f++) {
        constant[f] = td_low_mask(j->width);
        for (uint32_t i = 1; i < n; i++) constant[f] &= ~((rows[i * d + f] - low[f]) ^ (rows[f] - low[f]));
        require(constant[f] == (td_low_mask(j->width) & ~varying[f]));
    }
    uint32_t n_key = choose_key(j, s, constant, key_bits);
    if (n_key == 0) return 0;
    sort_given(j, rows, n, low, j->given + first_row * d, key_bits, n_key);
    td_key_plan plan = {constant, moved ? j->offsets : NULL, n_all ? n_entries : NULL, entries, key_bits, n_key};
    int size = td_encode_keys(rows, low, j->group, j->keys, n, d, j->width, &plan, base, out, room, header);
    require(size > 0);
    uint8_t *exact = memory_of((uint32_t)size);
    require(td_encode_keys(rows, low, j->group, j->keys, n, d, j->width, &plan, base, exact, (uint32_t)size, header) == size);
    require(memcmp(exact, out, (uint32_t)size) == 0);
    free(exact);
    return (uint32_t)size;
}

/* Bytes of the data section. */
static uint32_t encode_parts(job *j, source *s)
{
    uint32_t at = 0, first = 0;
    for (uint32_t p = 0; p < j->n_parts; first += j->part_rows[p++]) {
        td_part_header header;
        uint32_t encoder = take(s, 1) % N_ENCODERS, size = 0, n = j->part_rows[p];
        uint32_t *rows = j->stored + first * j->n_features;
        if (encoder == KEYS) size = encode_keys(j, s, first, n, j->data + at, MAX_BYTES - at, &header);
        if (size == 0) size = encode_bases(j, s, rows, n, encoder == GREEDY, j->data + at, MAX_BYTES - at, &header);
        header.offset = at;
        header.label = (uint16_t)p;
        td_encode_part_record(&header, j->records + p * TD_PART_RECORD);
        at += size;
    }
    return at;
}

/* ------------------------------------------------------------------ archive */

/* Of each feature its width, one that it needs or the pack's, and any context before it. */
static void plan_archive(job *j, source *s, bool wide, uint8_t *plan)
{
    for (uint32_t f = 0; f < j->n_features; f++, plan += TD_ARCHIVE_FEATURE) {
        uint32_t any = 0, a = take(s, 1) % (f + 2u), b = take(s, 1) % (f + 1u);
        for (uint32_t i = 0; i < j->n_rows; i++) any |= j->stored[i * j->n_features + f];
        plan[0] = (uint8_t)(wide || toss(s) ? j->width : any ? bits_of(any) : 0u);
        plan[1] = 0;
        td_put16(plan + 2, a < f ? a : a == f ? LABEL : NONE);
        td_put16(plan + 4, a < f && b < f ? b : NONE);
    }
}

static uint32_t encode_archive(job *j, source *s)
{
    static uint32_t before[ALL_VALUES];
    /* Few rows or all, as rows in another order are decoded by a block each. */
    uint32_t d = j->n_features, per_block = toss(s) ? 1u + take(s, 1) % 3u : j->n_rows + take(s, 1) % 2u;
    uint32_t n_blocks = (j->n_rows - 1u) / per_block + 1u;
    uint32_t bits = LEAST_CELLS, more = take(s, 1) % (MOST_CELLS - LEAST_CELLS + 1u);
    while (more-- && (uint64_t)2 << bits <= 64u * (uint64_t)per_block * d) bits++;
    /* Rows rise in a sample, or differences of all bits are coded. */
    bool wide = j->width == TD_MAX_WIDTH && toss(s);
    for (uint32_t i = 1; !wide && i < j->n_rows; i++) {
        for (uint32_t k = i; !j->starts[k] && above(j, k - 1u, k); k--) swap_rows(j, k - 1u, k);
    }
    memset(j->data, 0, TD_ARCHIVE_HEADER);
    td_put32(j->data, per_block);
    j->data[4] = (uint8_t)bits;
    uint8_t *plan = j->data + TD_ARCHIVE_HEADER, *ends = plan + TD_ARCHIVE_FEATURE * d, *codes = ends + 4u * n_blocks;
    plan_archive(j, s, wide, plan);
    memcpy(before, j->stored, j->n_rows * d * sizeof *before);
    void *work = memory_of(td_archive_work_size(bits));
    uint32_t end = 0, room = (uint32_t)(j->data + MAX_BYTES - codes);
    for (uint32_t b = 0, row = 0; b < n_blocks; b++, row += per_block) {
        uint32_t n = j->n_rows - row < per_block ? j->n_rows - row : per_block, *rows = j->stored + row * d;
        const uint8_t *starts = j->starts + row;
        uint32_t size = td_archive_encode(rows, j->label + row, starts, n, d, plan, bits, work, codes + end, room - end);
        require(size <= room - end);
        uint8_t *exact = memory_of(size);
        require(td_archive_encode(rows, j->label + row, starts, n, d, plan, bits, work, exact, size - 1u) == size);
        require(memcmp(exact, codes + end, size - 1u) == 0);
        free(exact);
        end += size;
        td_put32(ends + 4u * b, end);
    }
    free(work);
    require(memcmp(before, j->stored, j->n_rows * d * sizeof *before) == 0);
    for (uint32_t p = 0; p < j->n_parts; p++) {
        td_part_header header = {j->part_rows[p], 0, (uint16_t)p, 1, 0, 0, TD_PART_ARCHIVE};
        td_encode_part_record(&header, j->records + p * TD_PART_RECORD);
    }
    return (uint32_t)(codes + end - j->data);
}

/* ------------------------------------------------------------------ the pack */

static uint32_t write_starts(const job *j, uint8_t *out)
{
    bool listed = j->n_samples < j->n_rows / TD_LISTED_ROWS;
    for (uint32_t i = 0, sample = 0; i < j->n_rows; i++) {
        if (!j->starts[i]) continue;
        if (listed) td_put32(out + 4u * sample++, i);
        else out[i >> 3] |= (uint8_t)(1u << (i & 7u));
    }
    return listed ? 4u * j->n_samples : (j->n_rows + 7u) / 8u;
}

static uint32_t write_pack(job *j, uint32_t data_size)
{
    uint8_t schema[TD_PACK_SCHEMA_SIZE] = {0}, starts[4 * ALL_ROWS] = {0}, order[2 * ALL_ROWS] = {0};
    uint32_t bits = td_id_bits(j->n_rows), n = 0;
    td_put32(schema, j->n_rows);
    td_put32(schema + 4, j->n_samples);
    td_put16(schema + 8, j->n_features);
    td_put16(schema + 10, MAX_PARTS);
    td_put16(schema + 12, j->n_parts);
    schema[14] = (uint8_t)j->width;
    td_put32(schema + 16, (uint32_t)j->minimum);
    td_put32(schema + 20, 0x3F800000u);
    td_put32(schema + 32, j->image_size != 0);
    for (uint32_t i = 0; i < j->n_rows; i++) td_write_bits(order, i * bits, bits, j->place[i]);
    td_section sections[7] = {{TD_PACK_SCHEMA, schema, sizeof schema}, {TD_PACK_PARTS, j->records, j->n_parts * TD_PART_RECORD},
                              {TD_PACK_DATA, j->data, data_size}, {TD_PACK_SAMPLES, starts, write_starts(j, starts)}};
    n = 4;
    if (j->ordered) sections[n++] = (td_section){TD_PACK_ORDER, order, (j->n_rows * bits + 7u) / 8u};
    if (j->image_size) sections[n++] = (td_section){TD_PACK_IMAGE, j->image, j->image_size};
    if (j->n_transforms) {
        sections[n++] = (td_section){TD_PACK_TRANSFORMS, j->transforms, j->n_transforms * TD_TRANSFORM_RECORD};
    }
    require(td_file_write(TD_MAGIC_PACK, sections, n, j->file, MAX_BYTES) == TD_OK);
    return td_file_size(sections, n);
}

static void check_samples(const job *j, td_pack *pack)
{
    float values[MAX_FEATURES], weight;
    int32_t row[MAX_FEATURES];
    uint32_t first, count, label, at = 0;
    for (uint32_t i = 0; i < j->n_samples; i++) {
        require(td_pack_sample_rows(pack, i, &first, &count) == TD_OK && first == at && j->starts[at]);
        require(td_pack_sample(pack, i, row, values, &label, &weight) == TD_OK);
        require(label == j->label[at] && weight == (float)count);
        for (at++; at < first + count; at++) require(!j->starts[at]);
    }
    require(at == j->n_rows);
}

static void check_pack(const job *j, uint32_t file_size)
{
    static int32_t all[ALL_VALUES];
    td_pack pack;
    td_unpacker u;
    int32_t row[MAX_FEATURES];
    uint32_t d = j->n_features, label, bytes = d * (uint32_t)sizeof *row;
    require(td_pack_open(&pack, j->file, file_size) == TD_OK);
    uint32_t archived = td_pack_archive_size(&pack), size = td_unpacker_size(&pack, 32, 1);
    void *block = memory_of(archived), *tables = memory_of(size);
    if (archived) require(td_pack_attach(&pack, block, archived) == TD_OK);
    require(td_unpacker_init(&u, &pack, 32, 1, tables, size) == TD_OK);
    require(td_unpacker_rows(&u, 0, j->n_rows, all) == TD_OK);
    for (uint32_t i = 0; i < j->n_rows; i++) {
        uint32_t at = j->ordered ? j->place[i] : i;
        const int32_t *given = j->given + at * d;
        require(td_pack_row(&pack, i, row, &label) == TD_OK && label == j->label[at]);
        require(memcmp(row, given, bytes) == 0 && memcmp(all + i * d, given, bytes) == 0);
        require(td_pack_stored_row(&pack, at, row, NULL) == TD_OK && memcmp(row, given, bytes) == 0);
    }
    check_samples(j, &pack);
    free(tables);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static job j;
    if (size == 0) return 0;
    source s = {data, size, 0};
    uint32_t kind = take(&s, 1);
    j.image_size = 0;
    j.n_features = 1u + take(&s, 1) % NARROW;
    if ((kind & 3u) == 3u) read_image(&j, &s);
    read_rows(&j, &s);
    store_rows(&j, &s);
    begin_samples(&j, &s);
    choose_order(&j, &s);
    bool archived = (kind >> 2 & 3u) == 3u;
    j.n_transforms = 0;
    if (!archived && !j.image_size && kind >> 4 & 1u) transform(&j, &s);
    check_pack(&j, write_pack(&j, archived ? encode_archive(&j, &s) : encode_parts(&j, &s)));
    return 0;
}
