/* f32 kernels, forwards and backwards.
 *
 * Positions are the outer loop and channels the inner one, so that a window's taps are found once. A window of a
 * convolution is walked as runs of values that lie side by side in the input and in the filter. Filters that are not
 * trained stay in the file and become f32 as they are read. */
#include "kernels_f32.h"
#include "td_internal.h"
#include "window.h"

static int32_t volume(const td_map *map)
{
    return map->h * map->w * map->c;
}

/* -------------------------------------------------------------- activations */

static float clamped(float value, float low, float high)
{
    if (value < low) return low;
    return value > high ? high : value;
}

/* As the reference's: near -9 the exponential alone is the better approximation, and above 16.6 the result is 1. */
static float logistic(float x)
{
    if (x > 16.619047f) return 1.0f;
    return x < -9.0f ? td_expf(x) : 1.0f / (1.0f + td_expf(-x));
}

/* Near zero Lambert's continued fraction, x / (1 + x^2 / (3 + x^2 / (5 + ..))), whose terms do not cancel. */
static float hyperbolic_tangent(float x)
{
    if (x > -1.0f && x < 1.0f) {
        float square = x * x, below = 11.0f;
        for (float odd = 9.0f; odd > 0.0f; odd -= 2.0f) below = odd + square / below;
        return x / below;
    }
    return 1.0f - 2.0f / (1.0f + td_expf(2.0f * x));
}

static float activated(const td_op_f32 *op, float x)
{
    switch (op->activation) {
    case TD_ACT_RELU: return x < 0.0f ? 0.0f : x;
    case TD_ACT_RELU6: return clamped(x, 0.0f, 6.0f);
    case TD_ACT_RELU_N1_TO_1: return clamped(x, -1.0f, 1.0f);
    case TD_ACT_LEAKY_RELU: return x < 0.0f ? x * op->parameter : x;
    case TD_ACT_HARD_SWISH: return x * clamped(x + 3.0f, 0.0f, 6.0f) / 6.0f;
    case TD_ACT_LOGISTIC: return logistic(x);
    case TD_ACT_TANH: return hyperbolic_tangent(x);
    default: return x;
    }
}

/* At input x with result y; a fused activation knows only y. Zero at the corners, as in TensorFlow. */
static float slope(const td_op_f32 *op, float x, float y)
{
    switch (op->activation) {
    case TD_ACT_RELU: return y > 0.0f ? 1.0f : 0.0f;
    case TD_ACT_RELU6: return y > 0.0f && y < 6.0f ? 1.0f : 0.0f;
    case TD_ACT_RELU_N1_TO_1: return y > -1.0f && y < 1.0f ? 1.0f : 0.0f;
    case TD_ACT_LEAKY_RELU: return x > 0.0f ? 1.0f : op->parameter;
    case TD_ACT_HARD_SWISH:
        if (x <= -3.0f) return 0.0f;
        return x < 3.0f ? x / 3.0f + 0.5f : 1.0f;
    case TD_ACT_LOGISTIC: return y * (1.0f - y);
    case TD_ACT_TANH: return 1.0f - y * y;
    default: return 1.0f;
    }
}

static void activate(const td_op_f32 *op, const td_map *in, const td_map *out)
{
    int32_t n = volume(out);
    for (int32_t i = 0; i < n; i++) out->data[i] = activated(op, in->data[i]);
}

/* ------------------------------------------------------------------ filters */

/* A channel's filter: f32, or int8 in units of a scale. */
typedef struct td_filter {
    const float *real;
    const int8_t *small;
    float scale;
    float bias;
} td_filter;

static td_filter filter_of(const td_filters *filters, int32_t channel)
{
    td_filter of = {NULL, NULL, 1.0f, 0.0f};
    size_t at = (size_t)channel * (size_t)filters->size;
    if (channel >= filters->first) {
        of.real = filters->trained + (size_t)(channel - filters->first) * (size_t)filters->size;
    } else if (filters->stored) {
        of.real = filters->stored + at;
    } else {
        of.small = filters->small + at;
        of.scale = td_get_f32(filters->scales + 4 * channel);
    }
    if (channel >= filters->first_bias) {
        of.bias = filters->trained_bias[channel - filters->first_bias];
    } else if (filters->bias) {
        of.bias = td_get_f32(filters->bias + 4 * channel);
    }
    return of;
}

/* sum + x . filter[at ..]; of an int8 filter in units of its scale. */
static float dot(const td_filter *of, int32_t at, const float *x, int32_t n, float sum)
{
    if (of->real) {
        const float *w = of->real + at;
        for (int32_t i = 0; i < n; i++) sum += w[i] * x[i];
    } else {
        const int8_t *w = of->small + at;
        for (int32_t i = 0; i < n; i++) sum += (float)w[i] * x[i];
    }
    return sum;
}

static float weight_at(const td_filter *of, int32_t at)
{
    return of->real ? of->real[at] : of->scale * (float)of->small[at];
}

/* to += factor * filter[at ..] */
static void spread_filter(const td_filter *of, int32_t at, float factor, int32_t n, float *to)
{
    if (of->real) {
        const float *w = of->real + at;
        for (int32_t i = 0; i < n; i++) to[i] += factor * w[i];
    } else {
        const int8_t *w = of->small + at;
        factor *= of->scale;
        for (int32_t i = 0; i < n; i++) to[i] += factor * (float)w[i];
    }
}

/* What a sum of products starts from, and what it becomes. */
static float start_of(const td_filter *of)
{
    return of->small ? 0.0f : of->bias;
}

static float result_of(const td_filter *of, float sum)
{
    return of->small ? of->bias + of->scale * sum : sum;
}

/* ------------------------------------------------------------------ windows */

typedef struct td_window {
    const td_op_f32 *op;
    const td_map *in;
    td_span y, x;
    int32_t ty, tx;             /* the next run's first tap */
} td_window;

/* Values that lie side by side: in the input from x on, in a convolution's filter from w on. */
typedef struct td_run {
    int32_t x, w, n;
} td_run;

static td_window window_at(const td_op_f32 *op, const td_map *in, int32_t oy, int32_t ox)
{
    td_window window;
    window.op = op;
    window.in = in;
    window.y = span_at(&op->y, oy, in->h);
    window.x = span_at(&op->x, ox, in->w);
    if (empty(&window.y, &window.x)) window.y.first = window.y.end;
    window.ty = window.y.first;
    window.tx = window.x.first;
    return window;
}

/* Input index of the pixel under tap ty, tx. */
static int32_t pixel(const td_window *at, int32_t ty, int32_t tx)
{
    const td_op_f32 *op = at->op;
    return ((at->y.start + ty * op->y.dilation) * at->in->w + at->x.start + tx * op->x.dilation) * at->in->c;
}

static bool next_run(td_window *at, td_run *run)
{
    const td_op_f32 *op = at->op;
    if (at->ty == at->y.end) return false;
    int32_t taps = op->x.dilation == 1 ? at->x.end - at->x.first : 1;
    run->x = pixel(at, at->ty, at->tx);
    run->w = (at->ty * op->x.taps + at->tx) * at->in->c;
    run->n = taps * at->in->c;
    at->tx += taps;
    if (at->tx == at->x.end) {
        at->tx = at->x.first;
        at->ty++;
    }
    return true;
}

static void rewind_to(td_window *at)
{
    at->ty = at->y.first;
    at->tx = at->x.first;
}

/* ------------------------------------------------------------- convolutions */

static float conv_channel(td_window *at, const td_filter *of)
{
    td_run run;
    float sum = start_of(of);
    rewind_to(at);
    while (next_run(at, &run)) sum = dot(of, run.w, at->in->data + run.x, run.n, sum);
    return result_of(of, sum);
}

/* A depthwise filter has one value a tap; `from` is the channel that it reads. */
static float depthwise_channel(const td_window *at, const td_filter *of, int32_t from)
{
    float sum = of->bias;
    for (int32_t ty = at->y.first; ty < at->y.end; ty++) {
        for (int32_t tx = at->x.first; tx < at->x.end; tx++) {
            sum += weight_at(of, ty * at->op->x.taps + tx) * at->in->data[pixel(at, ty, tx) + from];
        }
    }
    return sum;
}

/* Output channels that read one input channel of a depthwise layer. */
static int32_t group_of(const td_op_f32 *op, int32_t n_in, int32_t n_out)
{
    return op->kind == TD_OP_DEPTHWISE ? n_out / n_in : 1;
}

static void convolve(const td_op_f32 *op, const td_map *in, const td_map *out)
{
    int32_t group = group_of(op, in->c, out->c);
    float *to = out->data;
    for (int32_t oy = 0; oy < out->h; oy++) {
        for (int32_t ox = 0; ox < out->w; ox++) {
            td_window at = window_at(op, in, oy, ox);
            for (int32_t c = 0; c < out->c; c++) {
                td_filter of = filter_of(&op->filters, c);
                float sum = op->kind == TD_OP_DEPTHWISE ? depthwise_channel(&at, &of, c / group)
                                                        : conv_channel(&at, &of);
                *to++ = activated(op, sum);
            }
        }
    }
}

static void down_window(td_window *at, const td_filter *of, int32_t from, float gradient, float *down)
{
    td_run run;
    if (at->op->kind != TD_OP_DEPTHWISE) {
        rewind_to(at);
        while (next_run(at, &run)) spread_filter(of, run.w, gradient, run.n, down + run.x);
        return;
    }
    for (int32_t ty = at->y.first; ty < at->y.end; ty++) {
        for (int32_t tx = at->x.first; tx < at->x.end; tx++) {
            down[pixel(at, ty, tx) + from] += gradient * weight_at(of, ty * at->op->x.taps + tx);
        }
    }
}

static void down_convolution(const td_op_f32 *op, const td_map *in, const td_map *gradient, float *down)
{
    int32_t group = group_of(op, in->c, gradient->c);
    const float *delta = gradient->data;
    for (int32_t oy = 0; oy < gradient->h; oy++) {
        for (int32_t ox = 0; ox < gradient->w; ox++) {
            td_window at = window_at(op, in, oy, ox);
            for (int32_t c = 0; c < gradient->c; c++, delta++) {
                if (*delta == 0.0f) continue;
                td_filter of = filter_of(&op->filters, c);
                down_window(&at, &of, c / group, *delta, down);
            }
        }
    }
}

/* to += factor * what the filter saw in this window */
static void gradient_window(td_window *at, int32_t from, float factor, float *to)
{
    td_run run;
    const float *in = at->in->data;
    if (at->op->kind != TD_OP_DEPTHWISE) {
        rewind_to(at);
        while (next_run(at, &run)) {
            const float *x = in + run.x;
            for (int32_t i = 0; i < run.n; i++) to[run.w + i] += factor * x[i];
        }
        return;
    }
    for (int32_t ty = at->y.first; ty < at->y.end; ty++) {
        for (int32_t tx = at->x.first; tx < at->x.end; tx++) {
            to[ty * at->op->x.taps + tx] += factor * in[pixel(at, ty, tx) + from];
        }
    }
}

void td_gradient_f32(const td_op_f32 *op, const td_map *a, const td_map *gradient, float factor, float *filters,
                     float *bias)
{
    const td_filters *layer = &op->filters;
    int32_t group = group_of(op, a->c, gradient->c);
    int32_t first = layer->first < layer->first_bias ? layer->first : layer->first_bias;
    const float *row = gradient->data;
    for (int32_t oy = 0; oy < gradient->h; oy++) {
        for (int32_t ox = 0; ox < gradient->w; ox++, row += gradient->c) {
            td_window at = window_at(op, a, oy, ox);
            for (int32_t c = first; c < gradient->c; c++) {
                float step = factor * row[c];
                if (step == 0.0f) continue;
                if (c >= layer->first) {
                    gradient_window(&at, c / group, step, filters + (size_t)(c - layer->first) * (size_t)layer->size);
                }
                if (c >= layer->first_bias) bias[c - layer->first_bias] += step;
            }
        }
    }
}

/* -------------------------------------------------------------------- pools */

static int32_t taps_inside(const td_window *at)
{
    return (at->y.end - at->y.first) * (at->x.end - at->x.first);
}

/* Input index of the largest value, the first of equals; at least one tap is inside. */
static int32_t top_of(const td_window *at, int32_t c)
{
    const float *in = at->in->data;
    int32_t best = pixel(at, at->y.first, at->x.first) + c;
    for (int32_t ty = at->y.first; ty < at->y.end; ty++) {
        for (int32_t tx = at->x.first; tx < at->x.end; tx++) {
            int32_t index = pixel(at, ty, tx) + c;
            if (in[index] > in[best]) best = index;
        }
    }
    return best;
}

static float average_of(const td_window *at, int32_t c)
{
    float sum = 0.0f;
    for (int32_t ty = at->y.first; ty < at->y.end; ty++) {
        for (int32_t tx = at->x.first; tx < at->x.end; tx++) sum += at->in->data[pixel(at, ty, tx) + c];
    }
    return sum / (float)taps_inside(at);
}

/* A window wholly in the padding gives 0. */
static void pool(const td_op_f32 *op, const td_map *in, const td_map *out)
{
    float *to = out->data;
    for (int32_t oy = 0; oy < out->h; oy++) {
        for (int32_t ox = 0; ox < out->w; ox++) {
            td_window at = window_at(op, in, oy, ox);
            for (int32_t c = 0; c < out->c; c++) {
                float value = 0.0f;
                if (at.y.first != at.y.end) {
                    value = op->kind == TD_OP_AVERAGE_POOL ? average_of(&at, c) : in->data[top_of(&at, c)];
                }
                *to++ = activated(op, value);
            }
        }
    }
}

static void down_average(const td_window *at, int32_t c, float share, float *down)
{
    for (int32_t ty = at->y.first; ty < at->y.end; ty++) {
        for (int32_t tx = at->x.first; tx < at->x.end; tx++) down[pixel(at, ty, tx) + c] += share;
    }
}

static void down_pool(const td_op_f32 *op, const td_map *in, const td_map *gradient, float *down)
{
    const float *delta = gradient->data;
    for (int32_t oy = 0; oy < gradient->h; oy++) {
        for (int32_t ox = 0; ox < gradient->w; ox++) {
            td_window at = window_at(op, in, oy, ox);
            for (int32_t c = 0; c < gradient->c; c++, delta++) {
                if (at.y.first == at.y.end) continue;
                if (op->kind == TD_OP_AVERAGE_POOL) {
                    down_average(&at, c, *delta / (float)taps_inside(&at), down);
                } else {
                    down[top_of(&at, c)] += *delta;
                }
            }
        }
    }
}

/* Over height and width. */
static void mean(const td_op_f32 *op, const td_map *in, const td_map *out)
{
    int32_t n = in->h * in->w / out->h;
    const float *row = in->data;
    float *to = out->data;
    for (int32_t y = 0; y < out->h; y++, row += n * in->c) {
        for (int32_t c = 0; c < in->c; c++) {
            float sum = 0.0f;
            const float *from = row + c;
            for (int32_t i = 0; i < n; i++, from += in->c) sum += *from;
            *to++ = activated(op, sum / (float)n);
        }
    }
}

static void down_mean(const td_map *in, const td_map *gradient, float *down)
{
    int32_t n = in->h * in->w / gradient->h;
    for (int32_t i = 0; i < n * gradient->h; i++) {
        const float *from = gradient->data + i / n * in->c;
        for (int32_t c = 0; c < in->c; c++) *down++ += from[c] / (float)n;
    }
}

/* -------------------------------------------------- sums, products, softmax */

/* Value y, x, c, where a dimension of 1 stands for any size. */
static float spread(const td_map *map, int32_t y, int32_t x, int32_t c)
{
    if (map->h == 1) y = 0;
    if (map->w == 1) x = 0;
    if (map->c == 1) c = 0;
    return map->data[(y * map->w + x) * map->c + c];
}

static void combine(const td_op_f32 *op, const td_map *a, const td_map *b, const td_map *out)
{
    float *to = out->data;
    for (int32_t y = 0; y < out->h; y++) {
        for (int32_t x = 0; x < out->w; x++) {
            for (int32_t c = 0; c < out->c; c++) {
                float left = spread(a, y, x, c), right = spread(b, y, x, c), result = left * right;
                if (op->kind != TD_OP_MUL) result = op->kind == TD_OP_ADD ? left + right : left - right;
                *to++ = activated(op, result);
            }
        }
    }
}

static void softmax(const td_op_f32 *op, const td_map *in, const td_map *out)
{
    int32_t n = in->h * in->w;
    const float *x = in->data;
    float *y = out->data;
    for (int32_t i = 0; i < n; i++, x += in->c, y += in->c) {
        float top = x[0], sum = 0.0f;
        for (int32_t c = 1; c < in->c; c++) {
            if (x[c] > top) top = x[c];
        }
        for (int32_t c = 0; c < in->c; c++) {
            y[c] = td_expf((x[c] - top) * op->parameter);
            sum += y[c];
        }
        for (int32_t c = 0; c < in->c; c++) y[c] /= sum;
    }
}

/* ---------------------------------------------------------------- operators */

void td_forward_f32(const td_op_f32 *op, const td_map *a, const td_map *b, const td_map *out)
{
    switch (op->kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
    case TD_OP_DEPTHWISE: convolve(op, a, out); break;
    case TD_OP_AVERAGE_POOL:
    case TD_OP_MAX_POOL: pool(op, a, out); break;
    case TD_OP_ADD:
    case TD_OP_SUB:
    case TD_OP_MUL: combine(op, a, b, out); break;
    case TD_OP_MEAN: mean(op, a, out); break;
    case TD_OP_SOFTMAX: softmax(op, a, out); break;
    default: activate(op, a, out); break;
    }
}

void td_mask_f32(const td_op_f32 *op, const td_map *out, const td_map *gradient)
{
    int32_t n = volume(out);
    if (op->activation == TD_ACT_NONE || op->kind == TD_OP_TABLE) return;
    for (int32_t i = 0; i < n; i++) {
        if (slope(op, 0.0f, out->data[i]) == 0.0f) gradient->data[i] = 0.0f;
    }
}

void td_down_f32(const td_op_f32 *op, const td_map *a, const td_map *out, const td_map *gradient, const td_map *down)
{
    int32_t n = volume(gradient);
    switch (op->kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
    case TD_OP_DEPTHWISE: down_convolution(op, a, gradient, down->data); break;
    case TD_OP_AVERAGE_POOL:
    case TD_OP_MAX_POOL: down_pool(op, a, gradient, down->data); break;
    case TD_OP_MEAN: down_mean(a, gradient, down->data); break;
    case TD_OP_TABLE:
        for (int32_t i = 0; i < n; i++) down->data[i] += gradient->data[i] * slope(op, a->data[i], out->data[i]);
        break;
    default:
        for (int32_t i = 0; i < n; i++) down->data[i] += gradient->data[i];
        break;
    }
}
