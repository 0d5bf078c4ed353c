/* GreedyGD's planning, for comparison (docs/DESIGN.md, "GreedyGD"): of each feature's leading unused bit, the one that
 * makes the pack smallest joins the base, again and again.
 *
 * Its BaseTree is kept as an array: the rows in the order of their bases, and where each base ends. A bit splits a base
 * that holds both of its values, which is often seen after a few rows of that base. */
#include "td_bits.h"

typedef struct base_tree {
    const uint32_t *rows;
    uint32_t *row;      /* n_rows: numbers of rows, base by base */
    uint32_t *end;      /* n_rows: where each base ends in row */
    uint32_t *next_row; /* n_rows each: the same while bases are split */
    uint32_t *next_end;
    uint32_t *left;     /* n_features: bits that vary and are not in the base yet */
    uint32_t n_rows, n_features, n_bases;
} base_tree;

static bool bit_of(const base_tree *t, uint32_t i, uint32_t feature, uint32_t bit)
{
    return (t->rows[(size_t)t->row[i] * t->n_features + feature] >> bit & 1u) != 0;
}

static void swap(uint32_t **a, uint32_t **b)
{
    uint32_t *kept = *a;
    *a = *b;
    *b = kept;
}

static void plant(base_tree *t, const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t *left, void *work)
{
    t->rows = rows;
    t->row = (uint32_t *)work;
    t->end = t->row + n_rows;
    t->next_row = t->end + n_rows;
    t->next_end = t->next_row + n_rows;
    t->left = left;
    t->n_rows = n_rows;
    t->n_features = n_features;
    t->n_bases = 1;
    t->end[0] = n_rows;
    memset(left, 0, (size_t)n_features * sizeof *left);
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint32_t *row = rows + (size_t)i * n_features;
        t->row[i] = i;
        for (uint32_t f = 0; f < n_features; f++) left[f] |= row[f] ^ rows[f];
    }
}

static uint32_t leading_bit(uint32_t bits)
{
    uint32_t bit = 31;
    while (!(bits >> bit & 1u)) bit--;
    return bit;
}

/* Bases with one more bit. */
static uint32_t count_bases(const base_tree *t, uint32_t feature, uint32_t bit)
{
    uint32_t n = t->n_bases;
    for (uint32_t b = 0, start = 0; b < t->n_bases; start = t->end[b++]) {
        uint32_t i = start + 1u, end = t->end[b];
        bool first = bit_of(t, start, feature, bit);
        while (i < end && bit_of(t, i, feature, bit) == first) i++;
        if (i < end) n++;
    }
    return n;
}

/* Rows with a zero before rows with a one in every base, each in the order they had. */
static void split(base_tree *t, uint32_t feature, uint32_t bit)
{
    uint32_t n = 0, at = 0;
    for (uint32_t b = 0, start = 0; b < t->n_bases; start = t->end[b++]) {
        for (uint32_t one = 0; one < 2; one++) {
            uint32_t before = at;
            for (uint32_t i = start; i < t->end[b]; i++) {
                if (bit_of(t, i, feature, bit) == (one != 0)) t->next_row[at++] = t->row[i];
            }
            if (at > before) t->next_end[n++] = at;
        }
    }
    swap(&t->row, &t->next_row);
    swap(&t->end, &t->next_end);
    t->n_bases = n;
    t->left[feature] &= ~((uint32_t)1 << bit);
}

/* Every candidate adds one base bit, so the fewest bases make the smallest pack; of equals the first feature's.
 * False when no bit is left, or the best passes max_bases: the tree is then as before. */
static bool grow(base_tree *t, uint32_t max_bases)
{
    uint32_t best = 0, fewest = 0xFFFFFFFFu;
    for (uint32_t f = 0; f < t->n_features; f++) {
        if (t->left[f] == 0) continue;
        uint32_t n = count_bases(t, f, leading_bit(t->left[f]));
        if (n >= fewest) continue;
        fewest = n;
        best = f;
    }
    if (fewest > max_bases) return false;
    split(t, best, leading_bit(t->left[best]));
    return true;
}

static int check_table(uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t work_size)
{
    if (n_rows == 0 || n_rows > 0x0FFFFFFFu || n_features == 0 || n_features > TD_MAX_FEATURES || width == 0 ||
        width > TD_MAX_WIDTH)
        return TD_E_ARGUMENT;
    return work_size < td_plan_work_size(n_rows) ? TD_E_MEMORY : TD_OK;
}

int td_plan_greedy(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t patience,
                   uint32_t *mask, uint32_t *left, td_plan_result *result, void *work, uint32_t work_size)
{
    int status = check_table(n_rows, n_features, width, work_size);
    if (status != TD_OK) return status;
    base_tree t;
    uint32_t row_bits = n_features * width, base_bits = row_bits, since = 0;
    plant(&t, rows, n_rows, n_features, left, work);
    for (uint32_t f = 0; f < n_features; f++) base_bits -= td_count_bits(left[f]);
    result->size_bits = 0;
    for (bool grown = true; grown; grown = (patience == 0 || since < patience) && grow(&t, TD_MAX_BASES), base_bits++) {
        uint64_t size = (uint64_t)t.n_bases * base_bits +
                        (uint64_t)n_rows * (row_bits - base_bits + td_id_bits(t.n_bases));
        since++;
        if (result->size_bits != 0 && size >= result->size_bits) continue;
        since = 0;
        result->n_bases = t.n_bases;
        result->base_bits = base_bits;
        result->size_bits = size;
        for (uint32_t f = 0; f < n_features; f++) mask[f] = td_low_mask(width) & ~left[f];
    }
    result->deviation_bits = row_bits - result->base_bits;
    return TD_OK;
}

int td_condense_greedy(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t max_groups,
                       uint32_t *group, uint32_t *left, void *work, uint32_t work_size)
{
    int status = check_table(n_rows, n_features, width, work_size);
    if (status != TD_OK) return status;
    if (max_groups == 0) return TD_E_ARGUMENT;
    base_tree t;
    plant(&t, rows, n_rows, n_features, left, work);
    while (grow(&t, max_groups)) continue;
    for (uint32_t b = 0, i = 0; b < t.n_bases; b++) {
        for (; i < t.end[b]; i++) group[t.row[i]] = b;
    }
    return (int)t.n_bases;
}
