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
    double *sum;            /* 3 x n_features: of the group, of its left part, variance */
} condenser;

static uint64_t work_size(uint32_t n_rows, uint32_t n_features, uint32_t max_groups)
{
    uint64_t groups = (uint64_t)max_groups * (sizeof(cut) + n_features * sizeof(double) + sizeof(uint32_t));
    return groups + 3u * (uint64_t)n_features * sizeof(double) + (uint64_t)n_rows * sizeof(uint32_t) + 64u;
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
    c->best = (cut *)(void *)(c->sum + 3u * (size_t)c->n_features);
    c->count = (uint32_t *)(void *)(c->best + c->max_groups);
    c->members = c->count + c->max_groups;
}

static uint32_t value_of(const condenser *c, uint32_t row, uint32_t feature)
{
    return c->rows[(size_t)row * c->n_features + feature];
}

static double from_origin(const condenser *c, uint32_t row, uint32_t feature)
{
    return (double)value_of(c, row, feature) - (double)c->origin[feature];
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
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
        for (uint32_t i = gap; i < n; i++) {
            uint32_t item = c->members[i], value = value_of(c, item, feature), j = i;
            for (; j >= gap; j -= gap) {
                uint32_t before = c->members[j - gap], other = value_of(c, before, feature);
                if (other < value || (other == value && before < item)) break;
                c->members[j] = before;
            }
            c->members[j] = item;
        }
    }
}

static void sum_members(condenser *c, uint32_t n)
{
    double *sum = c->sum, *variance = c->sum + 2u * (size_t)c->n_features;
    for (uint32_t f = 0; f < c->n_features; f++) {
        double total = 0.0, squares = 0.0;
        for (uint32_t m = 0; m < n; m++) {
            double value = from_origin(c, c->members[m], f);
            total += value;
            squares += value * value;
        }
        sum[f] = total;
        variance[f] = squares - total * total / (double)n;
    }
}

/* Best cut of the members through one feature: |S_l|^2/n_l + |S_r|^2/n_r - |S|^2/n, over all features. */
static void cut_feature(condenser *c, uint32_t n, uint32_t feature, cut *best)
{
    double *sum = c->sum, *left = sum + c->n_features, whole = 0.0;
    sort_members(c, n, feature);
    for (uint32_t f = 0; f < c->n_features; f++) {
        left[f] = 0.0;
        whole += sum[f] * sum[f];
    }
    whole /= (double)n;
    for (uint32_t m = 0; m + 1 < n; m++) {
        for (uint32_t f = 0; f < c->n_features; f++) left[f] += from_origin(c, c->members[m], f);
        uint32_t threshold = value_of(c, c->members[m + 1], feature);
        if (threshold == value_of(c, c->members[m], feature)) continue;
        double of_left = 0.0, of_right = 0.0;
        for (uint32_t f = 0; f < c->n_features; f++) {
            of_left += left[f] * left[f];
            of_right += (sum[f] - left[f]) * (sum[f] - left[f]);
        }
        double gain = of_left / (double)(m + 1u) + of_right / (double)(n - m - 1u) - whole;
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
    double *variance = c->sum + 2u * (size_t)c->n_features;
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

static double distance(const condenser *c, uint32_t row, uint32_t group, double limit)
{
    const double *mean = c->mean + (size_t)group * c->n_features;
    double total = 0.0;
    for (uint32_t f = 0; f < c->n_features && total < limit; f++) {
        double difference = (double)value_of(c, row, f) - mean[f];
        total += difference * difference;
    }
    return total;
}

/* Groups keep their class: members[g] holds it while rows move. Groups that ran empty stay numbered. */
static void lloyd_round(condenser *c, const uint32_t *class_of)
{
    compute_means(c);
    for (uint32_t i = 0; i < c->n_rows; i++) {
        uint32_t best = c->group[i];
        double nearest = distance(c, i, best, 1e30);
        for (uint32_t g = 0; g < c->n_groups; g++) {
            if (class_of[g] != c->label[i] || c->count[g] == 0) continue;
            double d = distance(c, i, g, nearest);
            if (d < nearest) {
                nearest = d;
                best = g;
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
