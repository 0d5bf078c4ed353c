/* Our condensed set: variance splits under one budget for all classes, then Lloyd rounds.
 *
 * The published rule spends one budget a class and cuts every base by the same bit. Here each step
 * cuts the one group whose cut removes the most squared error, so that a base is added where rows
 * differ (docs/DESIGN.md, "Better bases for learning"). Host work, in f64. */
#include "td_internal.h"

/* A cut is searched in this many features: those in which the group varies most. */
enum { CANDIDATES = 6 };

typedef struct cut {
    double gain;            /* squared error removed, 0: the group cannot be cut */
    uint32_t feature;
    uint32_t threshold;     /* rows with value >= threshold leave */
} cut;

typedef struct condenser {
    const uint32_t *rows;
    const uint16_t *label;
    uint32_t n_rows, n_features, max_groups, n_groups;
    uint32_t *group;
    uint32_t *members;      /* n_rows: rows of the group at hand */
    const uint32_t *origin; /* a row of the group at hand: sums are relative to it, or f64 would lose small differences */
    uint32_t *count;        /* max_groups */
    cut *best;              /* max_groups */
    double *mean;           /* max_groups x n_features */
    double *sum;            /* 2 x n_features: of the group, variance */
    uint64_t *left;         /* n_features: sum of the group's left part, of the values as they are */
    uint64_t *sorted;       /* n_rows: value and row of each member */
} condenser;

static uint64_t work_size(uint32_t n_rows, uint32_t n_features, uint32_t max_groups)
{
    uint64_t groups = (uint64_t)max_groups * (sizeof(cut) + n_features * sizeof(double) + sizeof(uint32_t));
    uint64_t rows = (uint64_t)n_rows * (sizeof(uint32_t) + sizeof(uint64_t));
    return groups + rows + 3u * (uint64_t)n_features * sizeof(double) + 64u;
}

uint32_t td_condense_variance_work_size(uint32_t n_rows, uint32_t n_features, uint32_t max_groups)
{
    uint64_t size = work_size(n_rows, n_features, max_groups);
    return size > 0xFFFFFFFFu ? 0xFFFFFFFFu : (uint32_t)size;
}

static void condenser_init(condenser *c, void *work)
{
    c->mean = (double *)work;
    c->sum = c->mean + (size_t)c->max_groups * c->n_features;
    c->left = (uint64_t *)(void *)(c->sum + 2u * (size_t)c->n_features);
    c->sorted = c->left + c->n_features;
    c->best = (cut *)(void *)(c->sorted + c->n_rows);
    c->count = (uint32_t *)(void *)(c->best + c->max_groups);
    c->members = c->count + c->max_groups;
}

static uint32_t value_of(const condenser *c, uint32_t row, uint32_t feature)
{
    return c->rows[(size_t)row * c->n_features + feature];
}

static inline double difference(const uint32_t *a, const uint32_t *b)
{
    return (double)((int64_t)*a - (int64_t)*b);
}

static uint32_t collect(condenser *c, uint32_t group)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_rows; i++) {
        if (c->group[i] == group) c->members[n++] = i;
    }
    return n;
}

/* Shell sort of the members by one feature; equal values by row, so that the result has one form. */
static void sort_members(condenser *c, uint32_t n, uint32_t feature)
{
    uint32_t gap = 1;
    for (uint32_t m = 0; m < n; m++) c->sorted[m] = (uint64_t)value_of(c, c->members[m], feature) << 32 | c->members[m];
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
        for (uint32_t i = gap; i < n; i++) {
            uint64_t item = c->sorted[i];
            uint32_t j = i;
            for (; j >= gap && c->sorted[j - gap] > item; j -= gap) c->sorted[j] = c->sorted[j - gap];
            c->sorted[j] = item;
        }
    }
}

/* Sum and variance of each feature. */
static void sum_members(condenser *c, uint32_t n)
{
    double *sum = c->sum, *variance = c->sum + c->n_features;
    for (uint32_t f = 0; f < c->n_features; f++) sum[f] = variance[f] = 0.0;
    for (uint32_t m = 0; m < n; m++) {
        const uint32_t *row = c->rows + (size_t)c->members[m] * c->n_features;
        for (uint32_t f = 0; f < c->n_features; f++) {
            double value = difference(row + f, c->origin + f);
            sum[f] += value;
            variance[f] += value * value;
        }
    }
    for (uint32_t f = 0; f < c->n_features; f++) variance[f] -= sum[f] * sum[f] / (double)n;
}

static inline double left_of(const condenser *c, uint32_t n_left, uint32_t feature)
{
    return (double)(int64_t)(c->left[feature] - (uint64_t)n_left * c->origin[feature]);
}

/* Squared error that a cut behind the first n_left members removes, but for what is the same for all cuts:
 * |L|^2/n_l + |S - L|^2/n_r, with S the sum of all and L of the left part. Two sums each, as one waits for itself. */
static double gain_of(const condenser *c, uint32_t n_left, uint32_t n)
{
    double left_even = 0.0, left_odd = 0.0, right_even = 0.0, right_odd = 0.0;
    uint32_t f = 0;
    for (; f + 1u < c->n_features; f += 2) {
        double even = left_of(c, n_left, f), odd = left_of(c, n_left, f + 1u);
        double rest_even = c->sum[f] - even, rest_odd = c->sum[f + 1u] - odd;
        left_even += even * even;
        left_odd += odd * odd;
        right_even += rest_even * rest_even;
        right_odd += rest_odd * rest_odd;
    }
    if (f < c->n_features) {
        double even = left_of(c, n_left, f), rest_even = c->sum[f] - even;
        left_even += even * even;
        right_even += rest_even * rest_even;
    }
    return (left_even + left_odd) / (double)n_left + (right_even + right_odd) / (double)(n - n_left);
}

static void add_row(const uint32_t *row, uint32_t n_features, uint64_t *left)
{
    for (uint32_t f = 0; f < n_features; f++) left[f] += row[f];
}

/* Best cut of the members through one feature. */
static void cut_feature(condenser *c, uint32_t n, uint32_t feature, cut *best)
{
    double whole = 0.0;
    sort_members(c, n, feature);
    for (uint32_t f = 0; f < c->n_features; f++) {
        c->left[f] = 0;
        whole += c->sum[f] * c->sum[f];
    }
    for (uint32_t m = 0; m + 1 < n; m++) {
        const uint32_t *row = c->rows + (size_t)(c->sorted[m] & 0xFFFFFFFFu) * c->n_features;
        uint32_t threshold = (uint32_t)(c->sorted[m + 1] >> 32);
        add_row(row, c->n_features, c->left);
        if (threshold == (uint32_t)(c->sorted[m] >> 32)) continue;
        double gain = gain_of(c, m + 1u, n) - whole / (double)n;
        if (gain <= best->gain) continue;
        best->gain = gain;
        best->feature = feature;
        best->threshold = threshold;
    }
}

static cut find_cut(condenser *c, uint32_t group)
{
    cut best = {0.0, 0, 0};
    uint32_t n = collect(c, group);
    if (n < 2) return best;
    c->origin = c->rows + (size_t)c->members[0] * c->n_features;
    sum_members(c, n);
    double *variance = c->sum + c->n_features;
    for (uint32_t k = 0; k < CANDIDATES && k < c->n_features; k++) {
        uint32_t widest = 0;
        for (uint32_t f = 1; f < c->n_features; f++) {
            if (variance[f] > variance[widest]) widest = f;
        }
        if (!(variance[widest] > 0.0)) break;
        variance[widest] = -1.0;
        cut_feature(c, n, widest, &best);
    }
    return best;
}

static void apply_cut(condenser *c, uint32_t group)
{
    cut chosen = c->best[group];
    uint32_t fresh = c->n_groups++;
    for (uint32_t i = 0; i < c->n_rows; i++) {
        if (c->group[i] == group && value_of(c, i, chosen.feature) >= chosen.threshold) c->group[i] = fresh;
    }
    c->best[group] = find_cut(c, group);
    c->best[fresh] = find_cut(c, fresh);
}

static void compute_means(condenser *c)
{
    memset(c->mean, 0, (size_t)c->n_groups * (size_t)c->n_features * sizeof *c->mean);
    memset(c->count, 0, (size_t)c->n_groups * sizeof *c->count);
    for (uint32_t i = 0; i < c->n_rows; i++) {
        double *mean = c->mean + (size_t)c->group[i] * c->n_features;
        c->count[c->group[i]]++;
        for (uint32_t f = 0; f < c->n_features; f++) mean[f] += (double)value_of(c, i, f);
    }
    for (uint32_t g = 0; g < c->n_groups; g++) {
        double *mean = c->mean + (size_t)g * c->n_features, count = (double)c->count[g];
        for (uint32_t f = 0; f < c->n_features && c->count[g]; f++) mean[f] /= count;
    }
}

/* Squared distances of a row from the means of two groups; from both `limit` on they may stop. Two at once, as each sum
 * waits for itself. */
static void measure(const condenser *c, uint32_t row, const uint32_t group[2], double limit, double distance[2])
{
    const double *a = c->mean + (size_t)group[0] * c->n_features, *b = c->mean + (size_t)group[1] * c->n_features;
    const uint32_t *values = c->rows + (size_t)row * c->n_features;
    double to_a = 0.0, to_b = 0.0;
    for (uint32_t f = 0; f < c->n_features && (to_a < limit || to_b < limit);) {
        uint32_t end = c->n_features - f < 8u ? c->n_features : f + 8u; /* looking at the limit takes time, too */
        for (; f < end; f++) {
            double value = (double)values[f], from_a = value - a[f], from_b = value - b[f];
            to_a += from_a * from_a;
            to_b += from_b * from_b;
        }
    }
    distance[0] = to_a;
    distance[1] = to_b;
}

/* Groups of the row's class that have rows, from *g on: two, or one twice. False when there is none left. */
static bool next_groups(const condenser *c, const uint32_t *class_of, uint32_t row, uint32_t *g, uint32_t group[2])
{
    uint32_t n = 0;
    for (; *g < c->n_groups && n < 2; (*g)++) {
        if (class_of[*g] == c->label[row] && c->count[*g] > 0) group[n++] = *g;
    }
    if (n == 1) group[1] = group[0];
    return n > 0;
}

/* Groups keep their class: members[g] holds it while rows move. Groups that ran empty stay numbered. */
static void lloyd_round(condenser *c, const uint32_t *class_of)
{
    compute_means(c);
    for (uint32_t i = 0; i < c->n_rows; i++) {
        uint32_t best = c->group[i], group[2] = {best, best}, g = 0;
        double nearest, distance[2];
        measure(c, i, group, 1e30, distance);
        nearest = distance[0];
        while (next_groups(c, class_of, i, &g, group)) {
            measure(c, i, group, nearest, distance);
            for (uint32_t k = 0; k < 2; k++) {
                if (!(distance[k] < nearest)) continue;
                nearest = distance[k];
                best = group[k];
            }
        }
        c->group[i] = best;
    }
}

/* Numbers groups by first appearance and leaves no gaps. */
static uint32_t renumber(condenser *c)
{
    uint32_t n = 0;
    for (uint32_t g = 0; g < c->n_groups; g++) c->count[g] = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < c->n_rows; i++) {
        uint32_t *number = &c->count[c->group[i]];
        if (*number == 0xFFFFFFFFu) *number = n++;
        c->group[i] = *number;
    }
    return n;
}

/* One group a class to begin with. Returns false when the classes alone exceed the budget. */
static bool group_by_class(condenser *c)
{
    for (uint32_t i = 0; i < c->n_rows; i++) {
        uint32_t g = 0;
        while (g < c->n_groups && c->members[g] != c->label[i]) g++;
        if (g == c->n_groups) {
            if (g == c->max_groups) return false;
            c->members[c->n_groups++] = c->label[i];
        }
        c->group[i] = g;
    }
    return true;
}

int td_condense_variance(const uint32_t *rows, const uint16_t *label, uint32_t n_rows, uint32_t n_features,
                         uint32_t max_groups, uint32_t lloyd, uint32_t *group, void *work, uint32_t size)
{
    if (n_rows == 0 || n_rows > 0x0FFFFFFFu || n_features == 0 || n_features > TD_MAX_FEATURES || max_groups == 0)
        return TD_E_ARGUMENT;
    if (max_groups > n_rows) max_groups = n_rows;
    if (size < work_size(n_rows, n_features, max_groups)) return TD_E_MEMORY;
    condenser c = {.rows = rows, .label = label, .n_rows = n_rows, .n_features = n_features,
                   .max_groups = max_groups, .group = group};
    condenser_init(&c, work);
    if (!group_by_class(&c)) return TD_E_RANGE;
    for (uint32_t g = 0; g < c.n_groups; g++) c.best[g] = find_cut(&c, g);
    while (c.n_groups < max_groups) {
        uint32_t widest = 0;
        for (uint32_t g = 1; g < c.n_groups; g++) {
            if (c.best[g].gain > c.best[widest].gain) widest = g;
        }
        if (!(c.best[widest].gain > 0.0)) break;
        apply_cut(&c, widest);
    }
    uint32_t *class_of = c.members;
    for (uint32_t i = 0; i < n_rows; i++) class_of[group[i]] = label[i];
    for (uint32_t k = 0; k < lloyd; k++) lloyd_round(&c, class_of);
    return (int)renumber(&c);
}
