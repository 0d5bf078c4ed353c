/* Our condensed set: variance splits under one budget for all classes, then Lloyd rounds.
 *
 * The published rule spends one budget a class and cuts every base by the same bit. Here each step
 * cuts the one group whose cut removes the most squared error, so that a base is added where rows
 * differ (docs/DESIGN.md, "Better bases for learning"). Host work, in f64. */
#include "td_bits.h"

enum {
    CANDIDATES = 6, /* a cut is searched in this many features: those in which the group varies most */
    LANES = 4,      /* means that a row is held against at once, as each sum waits for itself */
    MOST_DIGIT = 8  /* bits that rows are sorted by at once */
};

typedef struct cut {
    double gain;            /* squared error removed, 0: the group cannot be cut */
    uint32_t feature;
    uint32_t threshold;     /* rows with value >= threshold leave */
} cut;

typedef struct condenser {
    const uint32_t *rows;
    const uint16_t *label;
    uint32_t n_rows, n_features, max_groups, n_groups, n_classes;
    uint32_t *group;
    uint32_t *members;      /* n_rows: rows, group by group and class by class, each group's in rising order */
    uint32_t *start;        /* max_groups: of a group in members */
    uint32_t *count;        /* max_groups: rows of a group */
    uint32_t *class_of;     /* max_groups: number of a group's class */
    uint32_t *class_start;  /* max_groups + 1: of a class in members */
    uint32_t *place;        /* max_groups: which of its class's means is a group's */
    uint32_t *placed;       /* max_groups: the group of each mean */
    cut *best;              /* max_groups */
    double *mean;           /* (max_groups + LANES - 1) x n_features, of one class: feature by feature, LANES groups side by side */
    double *sum;            /* n_features each: of the group at hand */
    double *variance;
    double *left;           /* sum of the group's left part */
    double *origin;         /* a row of the group: sums are relative to it, or f64 would lose small differences */
    uint64_t *sorted;       /* n_rows: value and row of each member */
    uint64_t *spare;        /* n_rows */
} condenser;

static uint64_t work_size(uint32_t n_rows, uint32_t n_features, uint32_t max_groups)
{
    uint64_t groups = (uint64_t)max_groups * (sizeof(cut) + n_features * sizeof(double) + 6u * sizeof(uint32_t));
    uint64_t rows = (uint64_t)n_rows * (sizeof(uint32_t) + 2u * sizeof(uint64_t));
    return groups + rows + (LANES + 3u) * (uint64_t)n_features * sizeof(double) + 64u;
}

uint32_t td_condense_variance_work_size(uint32_t n_rows, uint32_t n_features, uint32_t max_groups)
{
    uint64_t size = work_size(n_rows, n_features, max_groups);
    return size > 0xFFFFFFFFu ? 0xFFFFFFFFu : (uint32_t)size;
}

static void condenser_init(condenser *c, void *work)
{
    size_t d = (size_t)c->n_features, most = (size_t)c->max_groups;
    c->mean = (double *)work;
    c->sum = c->mean + (most + LANES - 1u) * d;
    c->variance = c->sum + d;
    c->left = c->variance + d;
    c->origin = c->left + d;
    c->sorted = (uint64_t *)(void *)(c->origin + d);
    c->spare = c->sorted + c->n_rows;
    c->best = (cut *)(void *)(c->spare + c->n_rows);
    c->start = (uint32_t *)(void *)(c->best + most);
    c->count = c->start + most;
    c->class_of = c->count + most;
    c->place = c->class_of + most;
    c->placed = c->place + most;
    c->class_start = c->placed + most;
    c->members = c->class_start + most + 1u;
}

static const uint32_t *row_of(const condenser *c, uint32_t row)
{
    return c->rows + (size_t)row * c->n_features;
}

/* Less 2^31: machines convert signed integers quickly, and only differences count. */
static inline double number(uint32_t value)
{
    return (double)(int32_t)(value ^ 0x80000000u);
}

/* One pass by `digit` bits from `shift` on. */
static void sort_pass(const uint64_t *from, uint64_t *to, uint32_t n, uint32_t shift, uint32_t digit)
{
    uint32_t start[1u << MOST_DIGIT], total = 0, mask = td_low_mask(digit);
    memset(start, 0, ((size_t)mask + 1u) * sizeof *start);
    for (uint32_t m = 0; m < n; m++) start[from[m] >> shift & mask]++;
    for (uint32_t d = 0; d <= mask; d++) {
        uint32_t own = start[d];
        start[d] = total;
        total += own;
    }
    for (uint32_t m = 0; m < n; m++) to[start[from[m] >> shift & mask]++] = from[m];
}

/* Sorts a group's rows by one feature, those of equal values by row, so that the result has one form. */
static void sort_members(condenser *c, const uint32_t *members, uint32_t n, uint32_t feature)
{
    uint32_t first = row_of(c, members[0])[feature], varying = 0, digit = 1;
    for (uint32_t m = 0; m < n; m++) {
        uint32_t value = row_of(c, members[m])[feature];
        varying |= value ^ first;
        c->sorted[m] = (uint64_t)value << 32 | members[m];
    }
    while (digit < MOST_DIGIT && n >> digit) digit++; /* no more counters than rows, about */
    for (uint32_t shift = 0; shift < 32 && varying >> shift; shift += digit) {
        sort_pass(c->sorted, c->spare, n, 32u + shift, digit);
        uint64_t *swap = c->sorted;
        c->sorted = c->spare;
        c->spare = swap;
    }
}

/* Sum and variance of each feature. */
static void sum_members(condenser *c, const uint32_t *members, uint32_t n)
{
    uint32_t n_features = c->n_features;
    const uint32_t *origin = row_of(c, members[0]);
    double *sum = c->sum, *variance = c->variance;
    for (uint32_t f = 0; f < n_features; f++) {
        sum[f] = variance[f] = 0.0;
        c->origin[f] = number(origin[f]);
    }
    for (uint32_t m = 0; m < n; m++) {
        const uint32_t *row = row_of(c, members[m]);
        for (uint32_t f = 0; f < n_features; f++) {
            double value = number(row[f]) - c->origin[f];
            sum[f] += value;
            variance[f] += value * value;
        }
    }
    for (uint32_t f = 0; f < n_features; f++) variance[f] -= sum[f] * sum[f] / (double)n;
}

/* Squared error that a cut behind the first n_left members removes, but for what is the same for all cuts:
 * |L|^2/n_l + |S - L|^2/n_r, with S the sum of all and L of the left part. Two sums each, as one waits for itself. */
static double gain_of(const double *sum, const double *left, uint32_t n_features, uint32_t n_left, uint32_t n)
{
    double left_even = 0.0, left_odd = 0.0, right_even = 0.0, right_odd = 0.0;
    uint32_t f = 0;
    for (; f + 1u < n_features; f += 2) {
        double rest_even = sum[f] - left[f], rest_odd = sum[f + 1u] - left[f + 1u];
        left_even += left[f] * left[f];
        left_odd += left[f + 1u] * left[f + 1u];
        right_even += rest_even * rest_even;
        right_odd += rest_odd * rest_odd;
    }
    if (f < n_features) {
        double rest = sum[f] - left[f];
        left_even += left[f] * left[f];
        right_even += rest * rest;
    }
    return (left_even + left_odd) / (double)n_left + (right_even + right_odd) / (double)(n - n_left);
}

static void add_row(const uint32_t *row, const double *origin, uint32_t n_features, double *left)
{
    for (uint32_t f = 0; f < n_features; f++) left[f] += number(row[f]) - origin[f];
}

/* Best cut of the members through one feature. */
static void cut_feature(condenser *c, const uint32_t *members, uint32_t n, uint32_t feature, cut *best)
{
    double whole = 0.0;
    sort_members(c, members, n, feature);
    for (uint32_t f = 0; f < c->n_features; f++) {
        c->left[f] = 0.0;
        whole += c->sum[f] * c->sum[f];
    }
    for (uint32_t m = 0; m + 1 < n; m++) {
        uint32_t threshold = (uint32_t)(c->sorted[m + 1] >> 32);
        add_row(row_of(c, (uint32_t)c->sorted[m]), c->origin, c->n_features, c->left);
        if (threshold == (uint32_t)(c->sorted[m] >> 32)) continue;
        double gain = gain_of(c->sum, c->left, c->n_features, m + 1u, n) - whole / (double)n;
        if (gain <= best->gain) continue;
        best->gain = gain;
        best->feature = feature;
        best->threshold = threshold;
    }
}

static cut find_cut(condenser *c, uint32_t group)
{
    cut best = {0.0, 0, 0};
    uint32_t n = c->count[group];
    const uint32_t *members = c->members + c->start[group];
    if (n < 2) return best;
    sum_members(c, members, n);
    double *variance = c->variance;
    for (uint32_t k = 0; k < CANDIDATES && k < c->n_features; k++) {
        uint32_t widest = 0;
        for (uint32_t f = 1; f < c->n_features; f++) {
            if (variance[f] > variance[widest]) widest = f;
        }
        if (!(variance[widest] > 0.0)) break;
        variance[widest] = -1.0;
        cut_feature(c, members, n, widest, &best);
    }
    return best;
}

static void apply_cut(condenser *c, uint32_t group)
{
    cut chosen = c->best[group];
    uint32_t fresh = c->n_groups++, stay = 0, leave = 0, *members = c->members + c->start[group];
    for (uint32_t m = 0; m < c->count[group]; m++) {
        uint32_t row = members[m];
        if (row_of(c, row)[chosen.feature] >= chosen.threshold) c->spare[leave++] = row;
        else members[stay++] = row;
    }
    for (uint32_t m = 0; m < leave; m++) members[stay + m] = (uint32_t)c->spare[m];
    c->start[fresh] = c->start[group] + stay;
    c->class_of[fresh] = c->class_of[group];
    c->count[group] = stay;
    c->count[fresh] = leave;
    c->best[group] = find_cut(c, group);
    c->best[fresh] = find_cut(c, fresh);
}

static double *mean_of(const condenser *c, uint32_t place)
{
    return c->mean + (size_t)(place / LANES * LANES) * c->n_features + place % LANES;
}

/* The means of a class's groups as they are now; returns how many have rows. */
static uint32_t compute_means(condenser *c, uint32_t class_number)
{
    uint32_t n = 0, d = c->n_features, from = c->class_start[class_number], to = c->class_start[class_number + 1u];
    for (uint32_t g = 0; g < c->n_groups; g++) {
        if (c->class_of[g] != class_number) continue;
        c->placed[n] = g;
        c->place[g] = n++;
        c->count[g] = 0;
    }
    memset(c->mean, 0, (size_t)((n + LANES - 1u) / LANES * LANES) * (size_t)d * sizeof *c->mean);
    for (uint32_t m = from; m < to; m++) {
        const uint32_t *row = row_of(c, c->members[m]);
        uint32_t g = c->group[c->members[m]];
        double *mean = mean_of(c, c->place[g]);
        c->count[g]++;
        for (uint32_t f = 0; f < d; f++) mean[f * LANES] += (double)row[f];
    }
    for (uint32_t k = 0; k < n; k++) {
        double *mean = mean_of(c, k), count = (double)c->count[c->placed[k]];
        for (uint32_t f = 0; f < d && count > 0.0; f++) mean[f * LANES] /= count;
    }
    return n;
}

/* Squared distances of a row from LANES means; beyond `limit` in all they may stop. */
static void measure(const uint32_t *row, const double *mean, uint32_t n_features, double limit, double distance[LANES])
{
    double sum[LANES] = {0.0, 0.0, 0.0, 0.0};
    for (uint32_t f = 0; f < n_features && (sum[0] <= limit || sum[1] <= limit || sum[2] <= limit || sum[3] <= limit);) {
        uint32_t end = n_features - f < 8u ? n_features : f + 8u; /* looking at the limit takes time, too */
        for (; f < end; f++, mean += LANES) {
            double value = (double)row[f];
            for (uint32_t k = 0; k < LANES; k++) sum[k] += (value - mean[k]) * (value - mean[k]);
        }
    }
    for (uint32_t k = 0; k < LANES; k++) distance[k] = sum[k];
}

/* Where the nearest mean is: the row's own, unless another is nearer; of equals the first. */
static uint32_t nearest_mean(const condenser *c, const uint32_t *row, uint32_t own, uint32_t n)
{
    uint32_t best = own, own_block = own / LANES * LANES;
    double distance[LANES], nearest;
    measure(row, c->mean + (size_t)own_block * c->n_features, c->n_features, 1e30, distance);
    nearest = distance[own % LANES];
    for (uint32_t block = own_block, next = 0;; block = next, next += LANES) {
        for (uint32_t k = 0; k < LANES && block + k < n; k++) {
            uint32_t place = block + k;
            if (c->count[c->placed[place]] == 0) continue;
            if (distance[k] > nearest || (distance[k] == nearest && (best == own || place > best))) continue;
            nearest = distance[k];
            best = place;
        }
        if (next == own_block) next += LANES;
        if (next >= n) return best;
        measure(row, c->mean + (size_t)next * c->n_features, c->n_features, nearest, distance);
    }
}

static void lloyd_round(condenser *c)
{
    for (uint32_t k = 0; k < c->n_classes; k++) {
        uint32_t n = compute_means(c, k);
        for (uint32_t m = c->class_start[k]; m < c->class_start[k + 1u]; m++) {
            uint32_t row = c->members[m];
            c->group[row] = c->placed[nearest_mean(c, row_of(c, row), c->place[c->group[row]], n)];
        }
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
    uint32_t *label_of = c->placed;
    for (uint32_t i = 0; i < c->n_rows; i++) {
        uint32_t g = 0;
        while (g < c->n_groups && label_of[g] != c->label[i]) g++;
        if (g == c->n_groups) {
            if (g == c->max_groups) return false;
            label_of[c->n_groups++] = c->label[i];
            c->count[g] = 0;
        }
        c->group[i] = g;
        c->count[g]++;
    }
    c->n_classes = c->n_groups;
    c->class_start[0] = 0;
    for (uint32_t g = 0; g < c->n_groups; g++) {
        c->class_of[g] = g;
        c->start[g] = c->class_start[g];
        c->class_start[g + 1u] = c->class_start[g] + c->count[g];
        c->place[g] = c->start[g];
    }
    for (uint32_t i = 0; i < c->n_rows; i++) c->members[c->place[c->group[i]]++] = i;
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
    for (uint32_t g = 0; g < c.n_groups; g++) {
        for (uint32_t m = 0; m < c.count[g]; m++) group[c.members[c.start[g] + m]] = g;
    }
    for (uint32_t k = 0; k < lloyd; k++) lloyd_round(&c);
    return (int)renumber(&c);
}
