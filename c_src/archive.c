/* Archives: rows in adaptive binary range codes, a block at a time (docs/SPEC.md, "Archive"). Encoder and decoder share
 * the model: one walk over the values of a block, in which a coder writes the bits or reads them. */
#include "archive.h"

#include "parts.h"

#if TD_ARCHIVE

enum { HEADER = TD_ARCHIVE_HEADER, FEATURE = TD_ARCHIVE_FEATURE, PLAIN_DEPTH = 14, MAX_COUNT = 255, MIN_BITS = 8, MAX_BITS = 22 };
static const uint32_t NONE = 0xFFFFu, LABEL = 0xFFFEu, NO_BLOCK = 0xFFFFFFFFu, HALF = (uint32_t)1 << 31;

/* A probability of a one in 22 bits, then how often it was used in 10. */
typedef uint32_t cell;

typedef struct coder {
    uint32_t low, high;         /* the interval, both ends included */
    uint32_t code;              /* decoder: where in it */
    const uint8_t *in, *in_end; /* decoder */
    uint8_t *out, *out_end;     /* encoder: NULL when it only counts */
    uint32_t n_out;             /* bytes so far, whether they fitted or not */
    bool decodes;
    cell *cells;
    uint32_t bits;              /* of an index of a cell */
    uint32_t share[MAX_COUNT + 1]; /* of the distance that a probability moves, in 1/65536 */
} coder;

static void model_start(coder *c, cell *cells, uint32_t bits)
{
    c->cells = cells;
    c->bits = bits;
    for (uint32_t i = 0; i < (uint32_t)1 << bits; i++) cells[i] = HALF;
    for (uint32_t n = 0; n <= MAX_COUNT; n++) c->share[n] = 131072u / (2u * n + 3u);
}

static uint32_t next_byte(coder *c)
{
    return c->in < c->in_end ? *c->in++ : 0u;
}

static void decoder_start(coder *c, const uint8_t *in, const uint8_t *end)
{
    c->decodes = true;
    c->low = 0;
    c->high = 0xFFFFFFFFu;
    c->in = in;
    c->in_end = end;
    c->code = 0;
    for (uint32_t i = 0; i < 4; i++) c->code = c->code << 8 | next_byte(c);
}

static void encoder_start(coder *c, uint8_t *out, uint8_t *end)
{
    c->decodes = false;
    c->low = 0;
    c->high = 0xFFFFFFFFu;
    c->out = out;
    c->out_end = end;
    c->n_out = 0;
}

static void put_byte(coder *c, uint32_t byte)
{
    if (c->out && c->out < c->out_end) *c->out++ = (uint8_t)(byte & 0xFFu);
    c->n_out++;
}

/* One byte is in the interval with only zeros behind it: the ends differ in their first. */
static void encoder_end(coder *c)
{
    put_byte(c, (c->low >> 24) + 1u);
}

static inline uint32_t code_bit(coder *c, cell *at, uint32_t bit)
{
    uint32_t one = *at >> 10, count = *at & 1023u, share = c->share[count < MAX_COUNT ? count : MAX_COUNT];
    uint32_t p = one >> 6 ? one >> 6 : 1u, middle = c->low + (uint32_t)((uint64_t)(c->high - c->low) * p >> 16);
    if (c->decodes) bit = c->code <= middle;
    if (bit) {
        c->high = middle;
        one += (uint32_t)((uint64_t)(0x3FFFFFu - one) * share >> 16);
    } else {
        c->low = middle + 1u;
        one -= (uint32_t)((uint64_t)one * share >> 16);
    }
    *at = one << 10 | (count < MAX_COUNT ? count + 1u : count);
    while (((c->low ^ c->high) & 0xFF000000u) == 0) {
        if (c->decodes) c->code = c->code << 8 | next_byte(c);
        else put_byte(c, c->high >> 24);
        c->low <<= 8;
        c->high = c->high << 8 | 255u;
    }
    return bit;
}

static inline uint32_t cell_of(uint32_t feature, uint32_t context, uint32_t node, uint32_t bits)
{
    uint32_t x = context * 0x9E3779B1u + node * 0x85EBCA6Bu + feature * 0xC2B2AE35u;
    x ^= x >> 15;
    x *= 0x2C1B3C6Du;
    x ^= x >> 13;
    return x >> (32u - bits);
}

/* A value of `width` bits, most significant first: each bit by a cell for those before it, from the 15th on by one for
 * its place only. */
static uint32_t code_value(coder *c, uint32_t feature, uint32_t context, uint32_t width, uint32_t value)
{
    uint32_t node = 1, result = 0;
    for (uint32_t depth = 0; depth < width; depth++) {
        uint32_t bit = value >> (width - 1u - depth) & 1u;
        if (depth < PLAIN_DEPTH) bit = code_bit(c, c->cells + cell_of(feature, context, node, c->bits), bit);
        else bit = code_bit(c, c->cells + cell_of(feature, 0, depth, c->bits), bit);
        node = node << 1 | bit;
        result = result << 1 | bit;
    }
    return result;
}

/* ---------------------------------------------------------------------- rows */

typedef struct feature {
    uint32_t width, first, second;
} feature;

static feature read_feature(const uint8_t *plan, uint32_t f)
{
    const uint8_t *p = plan + FEATURE * (size_t)f;
    feature found = {p[0], td_get16(p + 2), td_get16(p + 4)};
    return found;
}

static uint32_t context_of(const feature *by, const uint32_t *row, uint32_t label)
{
    if (by->first == NONE) return 0;
    if (by->first == LABEL) return 2u + label;
    return 2u + row[by->first] - (by->second == NONE ? 0u : row[by->second]);
}

/* One row; before: the one before it in its sample and block, NULL: none. While a row agrees with the one before it,
 * what is coded is how much more the value is. */
static void code_row(coder *c, const uint8_t *plan, uint32_t n_features, uint32_t label, const uint32_t *before,
                     uint32_t *row)
{
    bool same = before != NULL;
    for (uint32_t f = 0; f < n_features; f++) {
        feature by = read_feature(plan, f);
        uint32_t from = same ? before[f] : 0u, context = same ? 1u : context_of(&by, row, label);
        row[f] = code_value(c, f, context, by.width, row[f] - from) + from;
        same = same && row[f] == before[f];
    }
}

/* -------------------------------------------------------------------- encode */

uint32_t td_archive_work_size(uint32_t bits)
{
    return bits < MIN_BITS || bits > MAX_BITS ? 0 : (uint32_t)(sizeof(coder) + (sizeof(cell) << bits));
}

static coder *coder_in(void *work, uint32_t bits)
{
    coder *c = (coder *)work;
    model_start(c, (cell *)(void *)(c + 1), bits);
    return c;
}

uint32_t td_archive_encode(uint32_t *rows, const uint16_t *label, const uint8_t *starts, uint32_t n_rows,
                           uint32_t n_features, const uint8_t *plan, uint32_t bits, void *work, uint8_t *out,
                           uint32_t capacity)
{
    coder *c = coder_in(work, bits);
    encoder_start(c, out, out + capacity);
    for (uint32_t i = 0; i < n_rows; i++, rows += n_features) {
        code_row(c, plan, n_features, label[i], i == 0 || starts[i] ? NULL : rows - n_features, rows);
    }
    encoder_end(c);
    return c->n_out;
}

uint32_t td_archive_cost(const uint32_t *values, const uint32_t *contexts, uint32_t n_rows, uint32_t width, uint32_t bits,
                         void *work)
{
    coder *c = coder_in(work, bits);
    encoder_start(c, NULL, NULL);
    for (uint32_t i = 0; i < n_rows; i++) code_value(c, 0, contexts[i], width, values[i]);
    return c->n_out;
}

/* -------------------------------------------------------------------- decode */

/* The memory of an attached archive. */
typedef struct reader {
    coder coder;
    uint32_t block;             /* whose rows are at hand */
    uint32_t *rows;
} reader;

static uint32_t block_rows(const td_pack *pack)
{
    return td_get32(pack->archive);
}

static uint32_t n_blocks(const td_pack *pack)
{
    return (pack->n_rows - 1u) / block_rows(pack) + 1u;
}

static const uint8_t *ends_of(const td_pack *pack)
{
    return pack->archive + HEADER + FEATURE * (size_t)pack->n_features;
}

int td_archive_check(td_pack *pack, const td_section *data)
{
    pack->archive = data->data;
    pack->memory = NULL;
    uint64_t head = HEADER + FEATURE * (uint64_t)pack->n_features;
    if (data->size < head) return TD_E_FORMAT;
    uint32_t n = block_rows(pack), bits = data->data[4];
    if (n == 0 || (uint64_t)n * pack->n_features > TD_ARCHIVE_VALUES || bits < MIN_BITS || bits > MAX_BITS ||
        data->data[5] || td_get16(data->data + 6))
        return TD_E_FORMAT;
    /* Probabilities are set to a half for each block: not many more than its rows can use. */
    if (bits > MIN_BITS && (uint64_t)1 << bits > 64u * (uint64_t)n * pack->n_features) return TD_E_FORMAT;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        feature by = read_feature(data->data + HEADER, f);
        bool one = by.first < f, two = one && by.second < f;
        if (by.width > pack->width || data->data[HEADER + FEATURE * (size_t)f + 1u] ||
            (!one && by.first != LABEL && by.first != NONE) || (!two && by.second != NONE))
            return TD_E_FORMAT;
    }
    uint64_t stream = head + 4u * (uint64_t)n_blocks(pack);
    if (data->size < stream) return TD_E_FORMAT;
    uint32_t end = 0;
    for (uint32_t b = 0; b < n_blocks(pack); b++) {
        uint32_t next = td_get32(ends_of(pack) + 4u * (size_t)b);
        if (next < end) return TD_E_FORMAT;
        end = next;
    }
    return data->size == stream + end ? TD_OK : TD_E_FORMAT;
}

uint32_t td_pack_archive_size(const td_pack *pack)
{
    if (!pack->archive) return 0;
    uint32_t n = block_rows(pack) < pack->n_rows ? block_rows(pack) : pack->n_rows;
    return (uint32_t)(sizeof(reader) + (sizeof(cell) << pack->archive[4]) + 4u * (size_t)n * pack->n_features);
}

int td_pack_attach(td_pack *pack, void *memory, uint32_t size)
{
    if (!pack->archive || pack->n_samples == 0) return TD_E_STATE; /* rows are coded by sample */
    if (size < td_pack_archive_size(pack)) return TD_E_MEMORY;
    reader *r = (reader *)memory;
    r->block = NO_BLOCK;
    r->rows = (uint32_t *)(void *)((cell *)(void *)(r + 1) + ((size_t)1 << pack->archive[4]));
    pack->memory = memory;
    return TD_OK;
}

static void decode_block(const td_pack *pack, reader *r, uint32_t block)
{
    const uint8_t *ends = ends_of(pack), *stream = ends + 4u * (size_t)n_blocks(pack);
    uint32_t first = block * block_rows(pack), left = pack->n_rows - first, part_end = 0, label = 0;
    uint32_t n = left < block_rows(pack) ? left : block_rows(pack), sample = 0;
    model_start(&r->coder, (cell *)(void *)(r + 1), pack->archive[4]);
    decoder_start(&r->coder, stream + (block ? td_get32(ends + 4u * (size_t)(block - 1u)) : 0u),
                  stream + td_get32(ends + 4u * (size_t)block));
    const uint8_t *record = pack->parts;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *row = r->rows + (size_t)i * pack->n_features;
        while (first + i >= part_end) {
            part_end += td_get32(record);
            label = td_get16(record + 8);
            record += TD_PART_RECORD;
        }
        bool starts = td_pack_starts(pack, first + i, &sample);
        memset(row, 0, pack->n_features * sizeof *row);
        code_row(&r->coder, pack->archive + HEADER, pack->n_features, label,
                 i == 0 || starts ? NULL : row - pack->n_features, row);
    }
    r->block = block;
}

const uint32_t *td_archive_row(const td_pack *pack, uint32_t row)
{
    reader *r = (reader *)pack->memory;
    if (!r) return NULL;
    if (r->block != row / block_rows(pack)) decode_block(pack, r, row / block_rows(pack));
    return r->rows + (size_t)(row % block_rows(pack)) * pack->n_features;
}

#else /* the linker needs nothing of this file */
typedef int td_no_archive;
#endif
