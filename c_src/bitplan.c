/* The published half of EntroGeDe's planning: Condense and Compress (docs/DESIGN.md, "The codec").
 *
 * Both grow a set of base bits one at a time. The rows' bases are kept as a partition (a group
 * number a row), which one more bit refines in one pass: no base is ever written out or hashed. */
#include "td_bits.h"

/* For bits that may be taken back, and numbers of groups that count up with the rows. */
typedef struct refinement {
    uint32_t *group;    /* n_rows: base of each row */
    uint32_t *next;     /* n_rows: the same after the bit under trial */
    uint32_t *child;    /* 2 x n_rows: new number of (old group, bit), or NONE */
    uint32_t n_rows;
    uint32_t n_groups;
} refinement;

/* MARK: what is counted is zeros (of a bit), or what stands there is a group (and no count). */
static const uint32_t NONE = 0xFFFFFFFFu, MARK = 0x80000000u;

uint32_t td_plan_work_size(uint32_t n_rows)
{
    return n_rows > 0x0FFFFFFFu ? 0xFFFFFFFFu : 4u * n_rows * (uint32_t)sizeof(uint32_t);
}

static void refinement_init(refinement *r, uint32_t n_rows, void *work)
{
    r->group = (uint32_t *)work;
    r->next = r->group + n_rows;
    r->child = r->next + n_rows;
    r->n_rows = n_rows;
    r->n_groups = 1;
    memset(r->group, 0, (size_t)n_rows * sizeof *r->group);
}

/* Groups after splitting by one bit (column points at the feature in the first row); left in next. */
static uint32_t try_bit(refinement *r, const uint32_t *column, uint32_t stride, uint32_t bit)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < 2 * r->n_groups; i++) r->child[i] = NONE;
    for (uint32_t i = 0; i < r->n_rows; i++) {
        uint32_t *child = &r->child[2 * r->group[i] + (column[(size_t)i * stride] >> bit & 1u)];
        if (*child == NONE) *child = n++;
        r->next[i] = *child;
    }
    return n;
}

static void accept(refinement *r, uint32_t n_groups)
{
    uint32_t *swap = r->group;
    r->group = r->next;
    r->next = swap;
    r->n_groups = n_groups;
}

/* For bits of which the rarer value is known: the rows that hold it leave the groups that hold both. */
typedef struct partition {
    uint32_t *group;    /* n_rows: base of each row */
    uint32_t *size;     /* rows of a group */
    uint32_t *seen;     /* of a group, all 0 between splits: rows that hold the value; then the group they go to */
    uint32_t *list;     /* rows that hold the value */
    uint32_t n_rows;
    uint32_t n_groups;
} partition;

static void partition_init(partition *p, uint32_t n_rows, void *work)
{
    p->group = (uint32_t *)work;
    p->size = p->group + n_rows;
    p->seen = p->size + n_rows;
    p->list = p->seen + n_rows;
    p->n_rows = n_rows;
    p->n_groups = 1;
    memset(p->group, 0, (size_t)n_rows * sizeof *p->group);
    memset(p->seen, 0, (size_t)n_rows * sizeof *p->seen);
    p->size[0] = n_rows;
}

static void split_by(partition *p, const uint32_t *column, uint32_t stride, uint32_t bit, uint32_t value)
{
    uint32_t n = 0, before = p->n_groups, n_rows = p->n_rows, *list = p->list;
    for (uint32_t i = 0; i < n_rows; i++, column += stride) {
        list[n] = i;
        n += ((*column >> bit) ^ ~value) & 1u;
    }
    for (uint32_t k = 0; k < n; k++) p->seen[p->group[list[k]]]++;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t *group = &p->group[list[k]], *seen = &p->seen[*group];
        if (!(*seen & MARK)) {
            if (*seen == p->size[*group]) continue; /* all of its rows hold the value */
            p->size[*group] -= *seen;
            p->size[p->n_groups] = *seen;
            p->seen[p->n_groups] = *group; /* to find it again below */
            *seen = p->n_groups++ | MARK;
        }
        *group = *seen & ~MARK;
    }
    for (uint32_t k = 0; k < n; k++) {
        if (p->group[list[k]] < before) p->seen[p->group[list[k]]] = 0;
    }
    for (uint32_t g = before; g < p->n_groups; g++) {
        p->seen[p->seen[g]] = 0;
        p->seen[g] = 0;
    }
}

/* The bits in which the rows of one feature differ. */
static uint32_t varying_bits(const uint32_t *column, uint32_t n_rows, uint32_t stride)
{
    uint32_t varying = 0;
    for (uint32_t i = 1; i < n_rows; i++) varying |= column[0] ^ column[(size_t)i * stride];
    return varying;
}

static int check_table(uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t work_size)
{
    if (n_rows == 0 || n_rows > 0x0FFFFFFFu || n_features == 0 || n_features > TD_MAX_FEATURES || width == 0 ||
        width > TD_MAX_WIDTH)
        return TD_E_ARGUMENT;
    return work_size < td_plan_work_size(n_rows) ? TD_E_MEMORY : TD_OK;
}

/* Constant bits split nothing, so starting from them and taking each feature's leading unused bit is
 * the same as walking every feature from its top bit and passing over the constant ones. */
int td_plan_condense(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                     uint32_t max_groups, uint32_t *group, void *work, uint32_t work_size)
{
    int status = check_table(n_rows, n_features, width, work_size);
    if (status != TD_OK) return status;
    if (max_groups == 0) return TD_E_ARGUMENT;
    refinement r;
    refinement_init(&r, n_rows, work);
    bool full = false;
    for (uint32_t round = 0; round < width && !full; round++) {
        for (uint32_t f = 0; f < n_features && !full; f++) {
            uint32_t varying = varying_bits(rows + f, n_rows, n_features), bit = width - 1u;
            if (td_count_bits(varying) <= round) continue; /* this feature has no bit left */
            while (td_count_bits(varying >> bit) <= round) bit--; /* the round-th one from the top */
            uint32_t n = try_bit(&r, rows + f, n_features, bit);
            if (n > max_groups) full = true;
            else accept(&r, n);
        }
    }
    memcpy(group, r.group, (size_t)n_rows * sizeof *group);
    return (int)r.n_groups;
}

static void add_bits(const uint32_t *restrict row, uint32_t n, uint32_t shift, uint32_t *restrict counts)
{
    for (uint32_t f = 0; f < n; f++) counts[f] += row[f] >> shift & 0x01010101u;
}

/* Bits that lie eight apart are counted side by side, in the bytes of a word, as long as no byte overflows. */
void td_count_ones(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t *ones,
                   uint32_t *packed)
{
    uint32_t n_shifts = width < 8 ? width : 8u;
    memset(ones, 0, (size_t)(n_features * width) * sizeof *ones);
    for (uint32_t first = 0, n; first < n_rows; first += n) {
        n = n_rows - first < 255u ? n_rows - first : 255u;
        memset(packed, 0, (size_t)(n_features * n_shifts) * sizeof *packed);
        for (uint32_t i = first; i < first + n; i++) {
            const uint32_t *row = rows + (size_t)i * n_features;
            for (uint32_t shift = 0; shift < n_shifts; shift++) {
                add_bits(row, n_features, shift, packed + shift * n_features);
            }
        }
        for (uint32_t f = 0; f < n_features; f++) {
            for (uint32_t bit = 0; bit < width; bit++) {
                ones[f * width + width - 1u - bit] += packed[(bit & 7u) * n_features + f] >> (bit & 24u) & 0xFFu;
            }
        }
    }
}

/* H(p) = H(1-p), and H grows with the rarer value's share, so bits are ordered by the number of their
 * rarer value: exactly, and with no logarithm. Ties keep the leading bits first. start: n_rows / 2 + 1 entries. */
static void sort_bits(uint32_t *order, const uint32_t *rare, uint32_t n, uint32_t n_rows, uint32_t *start)
{
    uint32_t total = 0;
    memset(start, 0, (size_t)(n_rows / 2u + 1u) * sizeof *start);
    for (uint32_t b = 0; b < n; b++) start[rare[b] & ~MARK]++;
    for (uint32_t count = 0; count <= n_rows / 2u; count++) {
        uint32_t own = start[count];
        start[count] = total;
        total += own;
    }
    for (uint32_t b = 0; b < n; b++) order[start[rare[b] & ~MARK]++] = b;
}

static uint64_t plan_size(uint32_t n_rows, uint32_t n_bases, uint32_t base_bits, uint32_t row_bits)
{
    return (uint64_t)n_bases * base_bits + (uint64_t)n_rows * (row_bits - base_bits + td_id_bits(n_bases));
}

int td_plan_compress(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                     uint32_t patience, uint32_t *mask, uint32_t *order, td_plan_result *result,
                     void *work, uint32_t work_size)
{
    int status = check_table(n_rows, n_features, width, work_size);
    if (status != TD_OK) return status;
    uint32_t row_bits = n_features * width, *rare = order + row_bits, base_bits = 0;
    td_count_ones(rows, n_rows, n_features, width, rare, order);
    for (uint32_t b = 0; b < row_bits; b++) {
        if (rare[b] > n_rows / 2u) rare[b] = (n_rows - rare[b]) | MARK;
    }
    sort_bits(order, rare, row_bits, n_rows, (uint32_t *)work);
    while (base_bits < row_bits && (rare[order[base_bits]] & ~MARK) == 0) base_bits++;

    partition p;
    partition_init(&p, n_rows, work);
    result->n_bases = 1;
    result->base_bits = base_bits;
    result->size_bits = plan_size(n_rows, 1, base_bits, row_bits);
    for (uint32_t l = base_bits, since = 0; l < row_bits && (patience == 0 || since < patience); l++) {
        /* Bases never become fewer, so no plan that follows is smaller than all bits in as many bases as there are now. */
        if (plan_size(n_rows, p.n_groups, row_bits, row_bits) >= result->size_bits) break;
        uint32_t b = order[l];
        split_by(&p, rows + b / width, n_features, width - 1u - b % width, !(rare[b] & MARK));
        if (p.n_groups > TD_MAX_BASES) break;
        uint64_t size = plan_size(n_rows, p.n_groups, l + 1, row_bits);
        since++;
        if (size >= result->size_bits) continue;
        since = 0;
        result->n_bases = p.n_groups;
        result->base_bits = l + 1;
        result->size_bits = size;
    }
    result->deviation_bits = row_bits - result->base_bits;
    memset(mask, 0, (size_t)n_features * sizeof *mask);
    for (uint32_t l = 0; l < result->base_bits; l++) {
        mask[order[l] / width] |= (uint32_t)1 << (width - 1u - order[l] % width);
    }
    return TD_OK;
}

int td_plan_part(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t *mask,
                 uint32_t *offsets, uint32_t *moved, uint32_t *order, td_plan_result *result, void *work,
                 uint32_t work_size)
{
    int status = td_plan_compress(rows, n_rows, n_features, width, 0, mask, order, result, work, work_size);
    if (status != TD_OK) return status;
    uint32_t any = 0, *other = offsets + n_features;
    memcpy(offsets, rows, (size_t)n_features * sizeof *offsets);
    for (uint32_t i = 1; i < n_rows; i++) {
        const uint32_t *row = rows + (size_t)i * n_features;
        for (uint32_t f = 0; f < n_features; f++) offsets[f] = row[f] < offsets[f] ? row[f] : offsets[f];
    }
    for (uint32_t f = 0; f < n_features; f++) any |= offsets[f];
    if (!any) return 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint32_t *row = rows + (size_t)i * n_features;
        uint32_t *less = moved + (size_t)i * n_features;
        for (uint32_t f = 0; f < n_features; f++) less[f] = row[f] - offsets[f];
    }
    td_plan_result found;
    td_plan_compress(moved, n_rows, n_features, width, 0, other, order, &found, work, work_size);
    if (td_part_size(n_rows, n_features, width, mask, false, result->n_bases) <=
        td_part_size(n_rows, n_features, width, other, true, found.n_bases))
        return 0;
    memcpy(mask, other, (size_t)n_features * sizeof *mask);
    *result = found;
    return 1;
}

int td_plan_group(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                  const uint32_t *mask, uint32_t *group, void *work, uint32_t work_size)
{
    int status = check_table(n_rows, n_features, width, work_size);
    if (status != TD_OK) return status;
    refinement r;
    refinement_init(&r, n_rows, work);
    for (uint32_t f = 0; f < n_features; f++) {
        uint32_t split = mask[f] ? mask[f] & varying_bits(rows + f, n_rows, n_features) : 0;
        for (uint32_t bit = 0; bit < width; bit++) {
            if (split >> bit & 1u) accept(&r, try_bit(&r, rows + f, n_features, bit));
        }
    }
    memcpy(group, r.group, (size_t)n_rows * sizeof *group);
    return (int)r.n_groups;
}
