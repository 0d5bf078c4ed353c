/* The samples of a .tdz: which rows begin one (docs/SPEC.md, "Samples"), and what they weigh. */
#include "parts.h"

/* f32 numbers are compared by their bits, as in open.c. */
static const uint32_t BITS_OF_1E21 = 0x6258D727u, BITS_OF_1E_6 = 0x358637BDu;

/* The list rises, and begins each part. */
TD_NOINLINE static bool check_list(const td_pack *pack)
{
    const uint8_t *record = pack->parts;
    uint32_t first = 0, next = 0; /* row of a part, row that a sample may begin */
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        uint32_t start = td_listed_start(pack, i);
        if (start < next || start > first || start >= pack->n_rows) return false;
        next = start + 1u;
        if (start != first) continue;
        first += td_word(record);
        record += TD_PART_RECORD;
    }
    return first == pack->n_rows;
}

/* A part begins a sample, the ones number n_samples, the padding is zero. */
TD_NOINLINE static bool check_bitmap(const td_pack *pack)
{
    uint32_t n = pack->n_samples;
    const uint8_t *record = pack->parts, *starts = pack->starts;
    for (uint32_t first = 0; first < pack->n_rows; record += TD_PART_RECORD) {
        if (!td_starts_sample(pack, first)) return false;
        first += td_word(record);
    }
    for (uint32_t row = 0; row < pack->n_rows; row += 8u) n -= td_ones(*starts++);
    return n == 0 && td_padded(pack->starts, pack->n_rows);
}

static bool check_starts(td_pack *pack)
{
    bool listed = td_samples_listed(pack);
    uint32_t size;
    pack->starts = td_file_find(&pack->file, TD_PACK_SAMPLES, &size);
    if (!pack->starts || size != (listed ? 4u * pack->n_samples : (pack->n_rows + 7u) / 8u)) return false;
    return listed ? check_list(pack) : check_bitmap(pack);
}

/* The sampler divides by their sum: bounds for each keep the quotient finite, and no sum of floats is needed here. */
TD_NOINLINE static bool check_weights(td_pack *pack)
{
    bool enough = false;
    uint32_t size;
    pack->weights = td_file_find(&pack->file, TD_PACK_WEIGHTS, &size);
    if (!pack->weights) return true;
    if (size != 4u * pack->n_samples) return false;
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        uint32_t bits = td_word(pack->weights + 4u * (size_t)i);
        if (bits > BITS_OF_1E21) return false;
        enough |= bits >= BITS_OF_1E_6;
    }
    return enough;
}

int td_pack_open(td_pack *pack, const uint8_t *data, uint32_t size)
{
    uint32_t schema_size;
    int status = td_pack_open_rows(pack, data, size);
    if (status != TD_OK) return status;
    pack->n_samples = td_word(td_file_find(&pack->file, TD_PACK_SCHEMA, &schema_size) + 4);
    bool sound = pack->n_samples - 1u < pack->n_rows && check_starts(pack) && check_weights(pack);
    return sound ? TD_OK : TD_E_FORMAT;
}

int td_pack_sample_rows(const td_pack *pack, uint32_t sample, uint32_t *first, uint32_t *count)
{
    if (sample >= pack->n_samples) return TD_E_RANGE;
    if (td_samples_listed(pack)) {
        *first = td_listed_start(pack, sample);
        *count = (sample + 1u < pack->n_samples ? td_listed_start(pack, sample + 1u) : pack->n_rows) - *first;
        return TD_OK;
    }
    uint32_t byte = 0;
    for (uint32_t ones; (ones = td_count_bits(pack->starts[byte])) <= sample; byte++) sample -= ones;
    uint32_t row = byte * 8u;
    for (;; row++) { /* the (sample + 1)-th start bit from this byte on */
        if (td_starts_sample(pack, row) && sample-- == 0) break;
    }
    *first = row;
    for (row++; row < pack->n_rows && !td_starts_sample(pack, row); row++) continue;
    *count = row - *first;
    return TD_OK;
}

int td_pack_sample(td_pack *pack, uint32_t sample, int32_t *row, float *values, uint32_t *label, float *weight)
{
    uint32_t first, count;
    /* Added, and negated as an integer: so boards need no routine for differences of floats. */
    float minus_zero = -(float)pack->zero_point; /* exact, and no choice: some assemblers know no conditional vcvt */
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    for (uint32_t i = 0; status == TD_OK && i < count; i++) {
        status = td_pack_stored_row(pack, first + i, row, label);
        for (uint32_t f = 0; status == TD_OK && f < pack->n_features; f++) {
            float value = (float)row[f] + minus_zero;
            values[f] = i == 0 ? value : values[f] + value;
        }
    }
    if (status != TD_OK) return status;
    float factor = pack->scale / (float)count;
    for (uint32_t f = 0; f < pack->n_features; f++) values[f] *= factor;
    *weight = td_sample_weight(pack, sample, count);
    return TD_OK;
}

float td_pack_total_weight(const td_pack *pack)
{
    if (!pack->weights) return (float)pack->n_rows;
    float total = 0.0f;
    for (uint32_t i = 0; i < pack->n_samples; i++) total += td_get_f32(pack->weights + 4u * (size_t)i);
    return total;
}
