/* What features of a sample share: which multiple of another one leaves least of each (docs/DESIGN.md, "Transforms").
 * Integers but for the slopes, whose f64 operations have one order: the same on all machines. */
#include "td_bits.h"
#include "transform.h"

enum {
    TAIL = 16,          /* a share of this at each end of a feature is clipped: rare values would hide what is shared */
    CLIPPED = 12,       /* bits of clipped values, of which so many products fit a sum of 32 bits: */
    PRODUCTS = 128,
    SPACED = 64,        /* a value's neighbours are a 64th of the rows away */
    ALL_PAIRS = 64,     /* features up to which each may be predicted by any other one */
    NEAR = 8,           /* beyond, by those so near */
    TRIED = 3,          /* features that are tried to predict one, those that resemble it most */
    PRECISION = 8       /* bits of a factor that is not whole */
};

static int check(const td_relation *r)
{
    bool sound = r->n_rows > 0 && r->n_rows <= TD_MAX_RELATED && r->n_features > 0 && r->n_features <= TD_MAX_FEATURES &&
                 r->width > 0 && r->width <= TD_MAX_WIDTH;
    return sound ? TD_OK : TD_E_ARGUMENT;
}

static size_t column_at(const td_relation *r, uint32_t feature)
{
    return (size_t)(feature * r->n_rows); /* at most 2^22 */
}

/* The values in order, in one of both. */
static const uint32_t *sort(uint32_t *values, uint32_t *spare, uint32_t n, uint32_t width)
{
    uint32_t n_digits = (width + 7u) / 8u, bits = (width + n_digits - 1u) / n_digits, mask = td_low_mask(bits);
    for (uint32_t shift = 0; shift < width; shift += bits) {
        uint32_t start[256] = {0}, total = 0;
        for (uint32_t i = 0; i < n; i++) start[values[i] >> shift & mask]++;
        if (start[values[0] >> shift & mask] == n) continue;
        for (uint32_t digit = 0; digit <= mask; digit++) {
            uint32_t own = start[digit];
            start[digit] = total;
            total += own;
        }
        for (uint32_t i = 0; i < n; i++) spare[start[values[i] >> shift & mask]++] = values[i];
        uint32_t *swap = values;
        values = spare;
        spare = swap;
    }
    return values;
}

/* In 1/65536, of a value above 0: less than 1/100 off. A float's bits are its exponent and x of 1 + x, which x + c x (1 - x)
 * comes near to the logarithm of. */
static uint32_t log2_of(uint32_t value)
{
    union {
        float value;
        uint32_t bits;
    } both = {(float)value};
    uint32_t x = both.bits >> 7 & 0xFFFFu;
    return (both.bits >> 7) - ((uint32_t)127 << 16) + ((x * (0x10000u - x) >> 16) * 22512u >> 16);
}

/* The sum fits: of TD_MAX_RELATED rows, each below 40 bits. A mask, not a branch, so that several are computed side by side. */
static uint32_t spacings(const uint32_t *values, const uint32_t *next, uint32_t n, uint32_t scale, uint32_t low)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t apart = (next[i] - values[i]) & low;
        total += (log2_of(apart) + scale) & (0u - (uint32_t)(apart != 0));
    }
    return total;
}

/* Vasicek's estimate of entropy, 1976: by how far apart sorted values are, here around a circle of 2^width. */
static uint32_t spread(const uint32_t *sorted, uint32_t n, uint32_t width)
{
    uint32_t step = n < SPACED ? 1u : n / SPACED, scale = log2_of(n) - log2_of(step), low = td_low_mask(width);
    return (spacings(sorted, sorted + step, n - step, scale, low) + spacings(sorted + n - step, sorted, step, scale, low)) / n;
}

/* What moves the widest range without values to the end, in 1/256 of all values. */
static uint32_t turn_of(const uint32_t *sorted, uint32_t n, uint32_t width)
{
    uint64_t widest = ((uint64_t)1 << width) - sorted[n - 1u] + sorted[0]; /* around the end */
    uint32_t last = n - 1u;
    for (uint32_t i = 0; i + 1u < n; i++) {
        if (sorted[i + 1u] - sorted[i] > widest) widest = sorted[i + 1u] - sorted[(last = i)];
    }
    return (uint32_t)((sorted[last] + widest / 2u) << 8 >> width) & 0xFFu;
}

/* Sorts a copy of the values in work. */
static const uint32_t *sort_copy(const td_relation *r, const uint32_t *values)
{
    memcpy(r->work, values, (size_t)r->n_rows * sizeof *values);
    return sort(r->work, r->work + r->n_rows, r->n_rows, r->width);
}

/* Clipped values, from 0 on; of their differences, as many leading bits as products allow. */
static void clip(const uint32_t *values, const uint32_t *sorted, uint32_t n, int16_t *clipped, td_column *column)
{
    uint32_t low = sorted[n / TAIL], high = sorted[n - 1u - n / TAIL], sum = 0;
    uint64_t squares = 0;
    column->shift = 0;
    while ((high - low) >> column->shift >> CLIPPED) column->shift++;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t inside = values[i] < low ? low : values[i] > high ? high : values[i];
        uint32_t value = (inside - low) >> column->shift;
        clipped[i] = (int16_t)value;
        sum += value;
        squares += value * value;
    }
    column->sum = sum;
    column->variance = n * squares - (uint64_t)sum * sum;
}

static int64_t covariance(const td_relation *r, const int16_t *one, uint32_t sum, uint32_t other)
{
    const int16_t *two = r->clipped + column_at(r, other);
    int64_t total = 0;
    for (uint32_t first = 0; first < r->n_rows; first += PRODUCTS) {
        uint32_t n = r->n_rows - first < PRODUCTS ? r->n_rows - first : PRODUCTS;
        int32_t part = 0;
        for (uint32_t i = first; i < first + n; i++) part += (int32_t)one[i] * two[i];
        total += part;
    }
    return (int64_t)r->n_rows * total - (int64_t)((uint64_t)sum * r->column[other].sum);
}

/* The square of a correlation. */
static double alike(int64_t shared, uint64_t one, uint64_t other)
{
    return one && other ? (double)shared / (double)one * ((double)shared / (double)other) : 0.0;
}

/* The features that may predict one: from *first up to the one that is returned. */
static uint32_t predictors(uint32_t feature, uint32_t n_features, uint32_t *first)
{
    bool all = n_features <= ALL_PAIRS;
    *first = all || feature < NEAR ? 0 : feature - NEAR;
    return all || n_features - feature <= NEAR ? n_features : feature + NEAR + 1u;
}

int td_relate_survey(td_relation *r)
{
    int status = check(r);
    for (uint32_t f = 0; f < r->n_features && status == TD_OK; f++) {
        const uint32_t *values = r->columns + column_at(r, f), *sorted = sort_copy(r, values);
        r->column[f].bits = spread(sorted, r->n_rows, r->width);
        clip(values, sorted, r->n_rows, r->clipped + column_at(r, f), &r->column[f]);
    }
    return status;
}

double td_relate_closest(const td_relation *r)
{
    double most = 0.0;
    for (uint32_t f = 0, first; f < r->n_features; f++) {
        predictors(f, r->n_features, &first);
        for (uint32_t g = first; g < f; g++) {
            int64_t shared = covariance(r, r->clipped + column_at(r, f), r->column[f].sum, g);
            double now = alike(shared, r->column[f].variance, r->column[g].variance);
            most = now > most ? now : most;
        }
    }
    return most;
}

int td_relate_take(td_relation *r, const uint8_t *record, uint32_t *bits)
{
    uint32_t feature = td_transform_feature(record), other = td_transform_other(record);
    if (check(r) != TD_OK || feature >= r->n_features || other >= r->n_features || record[6] >= 32) return TD_E_ARGUMENT;
    uint32_t *left = r->left + column_at(r, feature);
    td_transform_apply(record, r->width, left, r->columns + column_at(r, other), r->n_rows, 1);
    *bits = spread(sort_copy(r, left), r->n_rows, r->width);
    return TD_OK;
}

static void put_record(uint8_t *record, uint32_t feature, uint32_t other, int32_t factor, uint32_t shift)
{
    td_put16(record, feature);
    td_put16(record + 2, other);
    td_put16(record + 4, (uint32_t)factor & 0xFFFFu);
    record[6] = (uint8_t)shift;
    record[7] = 0;
}

static int32_t nearest(double value)
{
    return value < 0.0 ? -(int32_t)(0.5 - value) : (int32_t)(value + 0.5);
}

/* The difference to this multiple, if it leaves less than any before. */
static void try_factor(const td_relation *r, uint32_t feature, uint32_t other, double factor, uint32_t shift, td_promise *best)
{
    uint8_t record[TD_TRANSFORM_RECORD];
    if (factor <= -32767.5 || factor >= 32767.5 || nearest(factor) == 0) return;
    put_record(record, feature, other, nearest(factor), shift);
    memcpy(r->work, r->left + column_at(r, feature), (size_t)r->n_rows * sizeof *r->work);
    td_transform_apply(record, r->width, r->work, r->columns + column_at(r, other), r->n_rows, 1);
    const uint32_t *sorted = sort(r->work, r->work + r->n_rows, r->n_rows, r->width);
    uint32_t bits = spread(sorted, r->n_rows, r->width);
    if (bits >= best->bits) return;
    best->bits = bits;
    memcpy(best->record, record, sizeof record);
    best->record[7] = (uint8_t)turn_of(sorted, r->n_rows, r->width);
}

/* The nearest whole multiple, one of some more bits, and the feature itself, as noise makes slopes flat. */
static void try_slope(const td_relation *r, uint32_t feature, uint32_t other, double slope, td_promise *best)
{
    double sign = slope < 0.0 ? -1.0 : 1.0, size = slope * sign, fine = slope;
    uint32_t shift = 0;
    if (size > 0.25 && size < 4.0) try_factor(r, feature, other, sign, 0, best);
    if (size >= 1.5) try_factor(r, feature, other, slope, 0, best);
    for (; shift < 32u - r->width && fine * sign < (double)(1 << PRECISION); shift++) fine *= 2.0;
    if (shift) try_factor(r, feature, other, fine, shift, best);
}

/* One that may predict a feature. */
typedef struct candidate {
    uint32_t other;
    double alike;
    double slope;
} candidate;

/* Keeps the best ones in order, the first of equals first. Returns how many there are now. */
static uint32_t insert(candidate *found, uint32_t n, candidate added)
{
    uint32_t at = n < TRIED ? n : TRIED;
    while (at > 0 && found[at - 1u].alike < added.alike) at--;
    if (at == TRIED) return n;
    n = n < TRIED ? n + 1u : n;
    for (uint32_t i = n - 1u; i > at; i--) found[i] = found[i - 1u];
    found[at] = added;
    return n;
}

static double power_of_two(int32_t exponent)
{
    double power = 1.0;
    for (; exponent > 0; exponent--) power *= 2.0;
    for (; exponent < 0; exponent++) power *= 0.5;
    return power;
}

int td_relate_promise(td_relation *r, uint32_t feature, const uint8_t *barred, double least, td_promise *best)
{
    if (check(r) != TD_OK || feature >= r->n_features) return TD_E_ARGUMENT;
    candidate found[TRIED];
    uint32_t n = 0, first, end = predictors(feature, r->n_features, &first);
    int16_t *clipped = r->clipped + column_at(r, r->n_features);
    const uint32_t *left = r->left + column_at(r, feature);
    td_column own;
    clip(left, sort_copy(r, left), r->n_rows, clipped, &own);
    for (uint32_t other = first; other < end; other++) {
        const td_column *column = &r->column[other];
        if (other == feature || barred[other] || column->variance == 0) continue;
        int64_t shared = covariance(r, clipped, own.sum, other);
        candidate added = {other, alike(shared, own.variance, column->variance), (double)shared / (double)column->variance};
        added.slope *= power_of_two((int32_t)own.shift - (int32_t)column->shift);
        if (added.alike >= least && shared != 0) n = insert(found, n, added);
    }
    best->bits = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < n; i++) try_slope(r, feature, found[i].other, found[i].slope, best);
    return best->bits != 0xFFFFFFFFu;
}
