/* Opens a .tdz and reads rows and samples from it in place (docs/SPEC.md, ".tdz"). */
#include "td_bits.h"

static uint32_t bytes_of(uint64_t bits)
{
    return (uint32_t)((bits + 7u) / 8u);
}

/* ------------------------------------------------------------------- parts */

static void read_part_header(const td_pack *pack, uint32_t index, td_part_header *header)
{
    const uint8_t *record = pack->parts + (size_t)index * TD_PART_RECORD;
    uint32_t last = td_get32(record + 12);
    header->n_rows = td_get32(record);
    header->offset = td_get32(record + 4);
    header->label = (uint16_t)td_get16(record + 8);
    header->n_bases = (uint16_t)td_get16(record + 10);
    header->deviation_bits = last & 0x00FFFFFFu;
    header->base_bits = pack->n_features * pack->width - header->deviation_bits;
    header->flags = (uint8_t)(last >> 24);
}

static uint32_t plan_field_bits(const td_pack *pack, const td_part *part)
{
    return part->header.flags & TD_PART_MASKS ? pack->width : td_id_bits(pack->width + 1u);
}

/* Which bits of a feature are the base's. */
static uint32_t base_mask(const td_pack *pack, const td_part *part, uint32_t feature)
{
    uint32_t n_bits = plan_field_bits(pack, part);
    uint32_t field = td_read_bits(part->plan, feature * n_bits, n_bits);
    return part->header.flags & TD_PART_MASKS ? field : td_leading_mask(pack->width, field);
}

static uint32_t row_bits(const td_part *part)
{
    return part->id_bits + part->header.deviation_bits;
}

/* Where the part ends in the data section. Sets the part's pointers when that is inside. */
static uint64_t place_part(const td_pack *pack, uint32_t first_row, td_part *part)
{
    const td_part_header *header = &part->header;
    part->first_row = first_row;
    part->id_bits = td_id_bits(header->n_bases);
    uint64_t plan = bytes_of((uint64_t)plan_field_bits(pack, part) * pack->n_features);
    uint64_t offsets = header->flags & TD_PART_OFFSETS ? bytes_of((uint64_t)pack->width * pack->n_features) : 0u;
    uint64_t bases = ((uint64_t)header->n_bases * header->base_bits + 7u) / 8u;
    uint64_t rows = ((uint64_t)header->n_rows * row_bits(part) + 7u) / 8u;
    uint64_t end = header->offset + plan + offsets + bases + rows;
    if (end > pack->data.size) return end;
    const uint8_t *at = pack->data.data + header->offset;
    part->plan = at;
    part->offsets = offsets ? at + plan : NULL;
    part->bases = at + plan + offsets;
    part->rows = part->bases + bases;
    return end;
}

static int find_part(td_pack *pack, uint32_t row)
{
    if (row >= pack->n_rows) return TD_E_RANGE;
    if (row - pack->part.first_row < pack->part.header.n_rows) return TD_OK;
    uint32_t first = 0;
    for (uint32_t p = 0;; p++) {
        read_part_header(pack, p, &pack->part.header);
        if (row - first < pack->part.header.n_rows) break;
        first += pack->part.header.n_rows;
    }
    place_part(pack, first, &pack->part);
    return TD_OK;
}

/* -------------------------------------------------------------------- open */

static int read_schema(td_pack *pack)
{
    td_section schema;
    if (td_file_section(&pack->file, TD_PACK_SCHEMA, &schema) != TD_OK) return TD_E_FORMAT;
    if (schema.size != TD_PACK_SCHEMA_SIZE) return TD_E_FORMAT;
    const uint8_t *p = schema.data;
    pack->n_rows = td_get32(p);
    pack->n_samples = td_get32(p + 4);
    pack->n_features = td_get16(p + 8);
    pack->n_classes = td_get16(p + 10);
    pack->n_parts = td_get16(p + 12);
    pack->width = p[14];
    pack->minimum = td_get_i32(p + 16);
    pack->scale = td_get_f32(p + 20);
    pack->zero_point = td_get_i32(p + 24);
    pack->model_hash = td_get32(p + 28);
    if (p[15] != 0 || td_get32(p + 32) != 0) return TD_E_FORMAT;
    if (pack->n_rows == 0 || pack->n_rows > 0x0FFFFFFFu || pack->n_samples == 0 || pack->n_samples > pack->n_rows ||
        pack->n_features == 0 || pack->n_features > TD_MAX_FEATURES || pack->n_classes == 0 ||
        pack->n_classes > TD_MAX_CLASSES || pack->n_parts == 0 || pack->width == 0 || pack->width > TD_MAX_WIDTH)
        return TD_E_FORMAT;
    if (!(pack->scale > 0.0f) || pack->scale > 1e30f) return TD_E_FORMAT; /* also refuses NaN */
    return TD_OK;
}

/* The bits behind a block's last, up to its byte's end, are zero. */
static bool padded(const uint8_t *block, uint32_t n_bits)
{
    return (n_bits & 7u) == 0 || block[n_bits >> 3] >> (n_bits & 7u) == 0;
}

/* Plan and ids of one part: what the sizes in its header promise, and no id past its bases. */
static int check_part(const td_pack *pack, const td_part *part)
{
    const td_part_header *header = &part->header;
    uint32_t base_bits = 0;
    if (!padded(part->plan, plan_field_bits(pack, part) * pack->n_features) ||
        (part->offsets && !padded(part->offsets, pack->width * pack->n_features)) ||
        !padded(part->bases, header->n_bases * header->base_bits) || !padded(part->rows, header->n_rows * row_bits(part)))
        return TD_E_FORMAT;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t n_bits = plan_field_bits(pack, part);
        uint32_t field = td_read_bits(part->plan, f * n_bits, n_bits);
        if (!(part->header.flags & TD_PART_MASKS) && field > pack->width) return TD_E_FORMAT;
        base_bits += td_count_bits(base_mask(pack, part, f));
    }
    if (base_bits != header->base_bits) return TD_E_FORMAT;
    for (uint32_t i = 0; i < header->n_rows; i++) {
        if (td_read_bits(part->rows, i * row_bits(part), part->id_bits) >= header->n_bases) return TD_E_FORMAT;
    }
    return TD_OK;
}

static int check_parts(td_pack *pack)
{
    td_section parts;
    if (td_file_section(&pack->file, TD_PACK_PARTS, &parts) != TD_OK) return TD_E_FORMAT;
    if (td_file_section(&pack->file, TD_PACK_DATA, &pack->data) != TD_OK) return TD_E_FORMAT;
    if (parts.size != pack->n_parts * (uint32_t)TD_PART_RECORD) return TD_E_FORMAT;
    pack->parts = parts.data;
    uint32_t first = 0;
    uint64_t expected = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        td_part *part = &pack->part;
        read_part_header(pack, p, &part->header);
        const td_part_header *header = &part->header;
        if (header->n_rows == 0 || header->n_rows > pack->n_rows - first || header->n_bases == 0 ||
            header->label >= pack->n_classes || header->deviation_bits > pack->n_features * pack->width ||
            (header->flags & ~(TD_PART_OFFSETS | TD_PART_MASKS)) || header->offset != expected)
            return TD_E_FORMAT;
        expected = place_part(pack, first, part);
        if (expected > pack->data.size || (uint64_t)header->n_rows * row_bits(part) > 0xFFFFFFFFu ||
            (uint64_t)header->n_bases * header->base_bits > 0xFFFFFFFFu)
            return TD_E_FORMAT;
        int status = check_part(pack, part);
        if (status != TD_OK) return status;
        first += header->n_rows;
    }
    return first == pack->n_rows && expected == pack->data.size ? TD_OK : TD_E_FORMAT;
}

static bool starts_sample(const td_pack *pack, uint32_t row)
{
    return pack->starts[row >> 3] >> (row & 7u) & 1u;
}

/* A part begins a sample, the ones in the bitmap number n_samples, the padding is zero. */
static int check_samples(td_pack *pack)
{
    td_section samples, weights;
    if (td_file_section(&pack->file, TD_PACK_SAMPLES, &samples) != TD_OK) return TD_E_FORMAT;
    if (samples.size != bytes_of(pack->n_rows)) return TD_E_FORMAT;
    pack->starts = samples.data;
    uint32_t first = 0, n = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        if (!starts_sample(pack, first)) return TD_E_FORMAT;
        first += td_get32(pack->parts + (size_t)p * TD_PART_RECORD);
    }
    for (uint32_t i = 0; i < samples.size; i++) n += td_count_bits(samples.data[i]);
    if (n != pack->n_samples) return TD_E_FORMAT;
    if (!padded(samples.data, pack->n_rows)) return TD_E_FORMAT;

    pack->weights = NULL;
    pack->total_weight = (float)pack->n_rows;
    if (td_file_section(&pack->file, TD_PACK_WEIGHTS, &weights) != TD_OK) return TD_OK;
    if (weights.size != 4u * pack->n_samples) return TD_E_FORMAT;
    pack->weights = weights.data;
    pack->total_weight = 0.0f;
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        float weight = td_get_f32(weights.data + 4u * (size_t)i);
        if (!(weight >= 0.0f) || weight > 1e30f) return TD_E_FORMAT;
        pack->total_weight += weight;
    }
    /* The sampler divides by it: the quotient must stay finite. */
    return pack->total_weight >= 1e-6f && pack->total_weight < 1e30f ? TD_OK : TD_E_FORMAT;
}

int td_pack_open(td_pack *pack, const uint8_t *data, uint32_t size)
{
    int status = td_file_open(&pack->file, TD_MAGIC_PACK, data, size);
    if (status == TD_OK) status = read_schema(pack);
    if (status == TD_OK) status = check_parts(pack);
    if (status == TD_OK) status = check_samples(pack);
    return status;
}

/* -------------------------------------------------------------------- read */

int td_pack_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
    int status = find_part(pack, row);
    if (status != TD_OK) return status;
    const td_part *part = &pack->part;
    uint32_t width = pack->width, all = td_low_mask(width);
    uint32_t at = (row - part->first_row) * row_bits(part);
    uint32_t base_at = td_read_bits(part->rows, at, part->id_bits) * part->header.base_bits;
    at += part->id_bits;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t mask = base_mask(pack, part, f), deviation = all & ~mask;
        uint32_t n_base = td_count_bits(mask), n_deviation = width - n_base;
        uint32_t high = td_read_bits(part->bases, base_at, n_base), low = td_read_bits(part->rows, at, n_deviation);
        uint32_t value = deviation == td_low_mask(n_deviation) ? (n_deviation < 32 ? high << n_deviation : 0u) | low
                                                               : td_scatter(high, mask) | td_scatter(low, deviation);
        if (part->offsets) value += td_read_bits(part->offsets, f * width, width);
        values[f] = (int32_t)((uint32_t)pack->minimum + value);
        base_at += n_base;
        at += n_deviation;
    }
    if (label) *label = part->header.label;
    return TD_OK;
}

int td_pack_rows(td_pack *pack, uint32_t first, uint32_t count, int32_t *values)
{
    if (first > pack->n_rows || count > pack->n_rows - first) return TD_E_RANGE;
    int status = TD_OK;
    for (uint32_t i = 0; status == TD_OK && i < count; i++, values += pack->n_features) {
        status = td_pack_row(pack, first + i, values, NULL);
    }
    return status;
}

int td_pack_sample_rows(const td_pack *pack, uint32_t sample, uint32_t *first, uint32_t *count)
{
    if (sample >= pack->n_samples) return TD_E_RANGE;
    uint32_t byte = 0;
    for (uint32_t ones; (ones = td_count_bits(pack->starts[byte])) <= sample; byte++) sample -= ones;
    uint32_t row = byte * 8u;
    for (;; row++) { /* the (sample + 1)-th start bit from this byte on */
        if (starts_sample(pack, row) && sample-- == 0) break;
    }
    *first = row;
    for (row++; row < pack->n_rows && !starts_sample(pack, row); row++) continue;
    *count = row - *first;
    return TD_OK;
}

int td_pack_sample(td_pack *pack, uint32_t sample, int32_t *row, float *values, uint32_t *label, float *weight)
{
    uint32_t first, count;
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    for (uint32_t i = 0; status == TD_OK && i < count; i++) {
        status = td_pack_row(pack, first + i, row, label);
        for (uint32_t f = 0; status == TD_OK && f < pack->n_features; f++) {
            float value = (float)row[f] - (float)pack->zero_point;
            values[f] = i == 0 ? value : values[f] + value;
        }
    }
    if (status != TD_OK) return status;
    float factor = pack->scale / (float)count;
    for (uint32_t f = 0; f < pack->n_features; f++) values[f] *= factor;
    *weight = pack->weights ? td_get_f32(pack->weights + 4u * (size_t)sample) : (float)count;
    return TD_OK;
}
