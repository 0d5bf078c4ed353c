/* Any bytes as a .tdz: td_pack_open refuses them or every row and sample reads within them. Checksums are repaired
 * first, else no mutation would get past them. Seeds: tests/golden/. */
#include <stdlib.h>
#include <string.h>

#include "repair.h"

enum { MAX_VALUES = 1 << 16 };

static void require(int condition)
{
    if (!condition) abort();
}

static void read_rows(td_pack *pack, int32_t *row)
{
    uint32_t label;
    for (uint32_t i = 0; i < pack->n_rows; i++) {
        require(td_pack_row(pack, i, row, &label) == TD_OK && label < pack->n_classes);
    }
    for (uint32_t i = pack->n_rows; i-- > 0;) require(td_pack_row(pack, i, row, NULL) == TD_OK);
    require(td_pack_row(pack, pack->n_rows, row, &label) == TD_E_RANGE);
}

/* Row i is the stored one of its place; and plans as `tinydream inspect` draws them. */
static void read_stored(td_pack *pack, int32_t *row)
{
    uint32_t d = pack->n_features, *plan = malloc(3u * d * sizeof *plan);
    int32_t *other = malloc(d * sizeof *other);
    td_part_header header;
    require(plan && other);
    for (uint32_t i = 0; i < pack->n_rows; i++) {
        uint32_t at = td_pack_position(pack, i);
        require(at < pack->n_rows && td_pack_stored_row(pack, at, other, NULL) == TD_OK);
        require(td_pack_row(pack, i, row, NULL) == TD_OK && memcmp(row, other, d * sizeof *row) == 0);
    }
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        require(td_pack_plan(pack, p, &header, plan, plan + d, plan + 2u * d) == TD_OK && header.label < pack->n_classes);
    }
    require(td_pack_plan(pack, pack->n_parts, &header, plan, plan + d, plan + 2u * d) == TD_E_RANGE);
    free(other);
    free(plan);
}

/* With a cache: the same rows, in order and backwards. */
static void read_cached(td_pack *pack, int32_t *row)
{
    uint32_t size = td_pack_cache_size(pack), n = pack->n_rows;
    td_pack plain = *pack;
    int32_t *other = malloc(pack->n_features * sizeof *other);
    void *cache = malloc(size);
    require(other && cache && td_pack_use_cache(pack, cache, size) == TD_OK);
    for (uint32_t i = 0; i < 2 * n; i++) {
        uint32_t number = i < n ? i : 2 * n - 1 - i;
        require(td_pack_row(pack, number, row, NULL) == TD_OK && td_pack_row(&plain, number, other, NULL) == TD_OK);
        require(memcmp(row, other, pack->n_features * sizeof *row) == 0);
    }
    *pack = plain;
    free(cache);
    free(other);
}

/* The other way to read, into values of all sizes: the same rows, at once and one by one. */
static void unpack(td_pack *pack, int32_t *row)
{
    size_t n_values = (size_t)pack->n_rows * pack->n_features;
    uint8_t *values = malloc(4u * n_values), *one = malloc(4u * pack->n_features);
    require(values && one);
    for (uint32_t bits = 8; bits <= 32; bits *= 2) {
        td_unpacker u;
        uint32_t size = td_unpacker_size(pack, bits, 2), n_bytes = bits / 8u;
        require((size != 0) == (pack->width <= bits && (bits == 32 || !pack->image)));
        if (size == 0) continue;
        void *memory = malloc(size);
        require(memory && td_unpacker_init(&u, pack, bits, 2, memory, size) == TD_OK);
        require(td_unpacker_rows(&u, 0, pack->n_rows, values) == TD_OK);
        for (uint32_t i = pack->n_rows; i-- > 0;) {
            require(td_pack_row(pack, i, row, NULL) == TD_OK && td_unpacker_take(&u, &i, 1, one) == TD_OK);
            require(memcmp(one, values + (size_t)i * pack->n_features * n_bytes, pack->n_features * n_bytes) == 0);
            for (uint32_t f = 0; f < pack->n_features; f++) require(memcmp(one + f * n_bytes, row + f, n_bytes) == 0);
        }
        require(td_unpacker_rows(&u, 1, pack->n_rows, values) == TD_E_RANGE);
        free(memory);
    }
    free(one);
    free(values);
}

static void read_samples(td_pack *pack, int32_t *row, float *values)
{
    uint32_t label, first, count, rows = 0;
    float weight;
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        require(td_pack_sample_rows(pack, i, &first, &count) == TD_OK && first == rows && count > 0);
        require(td_pack_sample(pack, i, row, values, &label, &weight) == TD_OK);
        require(label < pack->n_classes && weight >= 0.0f);
        rows += count;
    }
    require(rows == pack->n_rows && td_pack_sample_rows(pack, pack->n_samples, &first, &count) == TD_E_RANGE);
}

static void draw(td_pack *pack, int32_t *row, float *values)
{
    for (uint32_t mode = 0; mode <= TD_MODE_STRATIFIED; mode++) {
        td_sampler sampler;
        td_sampler_config config = {mode, pack->n_rows, 1.0f};
        uint32_t label;
        float weight;
        require(td_sampler_init(&sampler, pack, pack, &config) == TD_OK);
        for (uint32_t i = 0; i < td_sampler_size(&sampler); i++) {
            require(td_sampler_get(&sampler, 3, i, row, values, &label, &weight) == TD_OK && weight >= 0.0f);
        }
    }
}

/* Opened without its samples: rows read, and there is no sample. */
static void rows_alone(const uint8_t *bytes, uint32_t size, bool whole)
{
    td_pack pack;
    uint32_t first, count;
    int status = td_pack_open_rows(&pack, bytes, size);
    require(!whole || status == TD_OK);
    if (status != TD_OK) return;
    require(td_pack_sample_rows(&pack, 0, &first, &count) == TD_E_RANGE);
    require(td_pack_attach(&pack, NULL, 0) == TD_E_STATE);
    if (pack.archive || (uint64_t)pack.n_rows * pack.n_features >= MAX_VALUES) return;
    int32_t *row = malloc(pack.n_features * sizeof *row);
    require(row != NULL);
    read_rows(&pack, row);
    read_cached(&pack, row);
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    td_pack pack;
    uint8_t *bytes = malloc(size ? size : 1);
    require(bytes != NULL && size <= UINT32_MAX);
    memcpy(bytes, data, size);
    repair(TD_MAGIC_PACK, bytes, (uint32_t)size);
    bool whole = td_pack_open(&pack, bytes, (uint32_t)size) == TD_OK;
    rows_alone(bytes, (uint32_t)size, whole);
    if (whole && (uint64_t)pack.n_rows * pack.n_features < MAX_VALUES) {
        int32_t *row = malloc(pack.n_features * sizeof *row);
        float *values = malloc(pack.n_features * sizeof *values);
        uint32_t archived = td_pack_archive_size(&pack);
        void *block = malloc(archived ? archived : 1u);
        require(row && values && block && (archived != 0) == (pack.archive != NULL));
        require(td_pack_attach(&pack, block, archived) == (archived ? TD_OK : TD_E_STATE));
        read_rows(&pack, row);
        if ((uint64_t)pack.n_parts * (pack.n_features + pack.n_parts) < MAX_VALUES) read_stored(&pack, row);
        read_cached(&pack, row);
        unpack(&pack, row);
        if ((uint64_t)pack.n_rows * pack.n_samples < MAX_VALUES) { /* finding a sample scans the bitmap */
            read_samples(&pack, row, values);
            draw(&pack, row, values);
        }
        free(block);
        free(values);
        free(row);
    }
    free(bytes);
    return 0;
}
