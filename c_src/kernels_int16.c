/* int16 kernels in plain C, bit for bit what LiteRT's reference kernels compute: int16 activations with zero point 0,
 * int8 weights, biases of 64 bits.
 *
 * A tap in the padding is 0 and adds nothing, so windows visit only what lies inside. Products of 23 bits are summed in
 * 32 bits as long as that holds them, as no small core adds 64 bits at once. Sums of what a file says are unsigned: a
 * hostile one may overflow them, which must stay defined. */
#include "kernels.h"
#include "rounding.h"
#include "td_internal.h"
#include "window.h"

enum { SAFE_PRODUCTS = 511 };   /* of int16 and int8: their sum is below 2^31 */

static const int16_t *read16(const td_tensor *tensor)
{
    return (const int16_t *)(const void *)tensor->data;
}

static int16_t *write16(const td_tensor *tensor)
{
    return (int16_t *)(void *)tensor->data;
}

static int32_t volume(const td_tensor *tensor)
{
    return tensor->h * tensor->w * tensor->c;
}

static int16_t limited(const td_op *op, int32_t value)
{
    if (value < op->min) value = op->min;
    if (value > op->max) value = op->max;
    return (int16_t)value;
}

/* ------------------------------------------------------------------- layers
 * Channel rows: n biases i64, n multipliers i32, n shifts i8. */

static uint64_t bias_of(const td_op *op, int32_t c)
{
    const uint8_t *at = op->channels + 8 * c;
    return (uint64_t)td_get32(at + 4) << 32 | td_get32(at);
}

/* Multipliers have 16 bits, those of a dense layer 32. */
static int16_t finish(const td_op *op, uint64_t sum, int32_t c, int32_t n)
{
    uint32_t multiplier = td_get32(op->channels + 8 * n + 4 * c);
    int32_t right = (op->kind == TD_OP_DENSE ? 31 : 15) - (int8_t)op->channels[12 * n + c];
    int64_t scaled = (int64_t)(sum * multiplier + ((uint64_t)1 << (right - 1))) >> right;
    return limited(op, (int32_t)scaled);
}

/* Every `step`-th value of x with the next weight. */
static uint64_t dot(const int16_t *x, int32_t step, const int8_t *w, int32_t n, uint64_t sum)
{
    while (n > 0) {
        int32_t part = 0, block = n < SAFE_PRODUCTS ? n : SAFE_PRODUCTS;
        n -= block;
        for (; block > 0; block--) {
            part += (int32_t)*x * *w++;
            x += step;
        }
        sum += (uint64_t)(int64_t)part;
    }
    return sum;
}

static uint64_t conv_window(const td_op *op, const td_tensor *in, const int8_t *w, const td_span *y, const td_span *x,
                            uint64_t sum)
{
    if (empty(y, x)) return sum;
    for (int32_t ty = y->first; ty < y->end; ty++) {
        const int16_t *row = read16(in)
            + ((y->start + ty * op->y.dilation) * in->w + x->start + x->first * op->x.dilation) * in->c;
        const int8_t *tap = w + (ty * op->x.taps + x->first) * in->c;
        if (op->x.dilation == 1) {
            sum = dot(row, 1, tap, (x->end - x->first) * in->c, sum);
            continue;
        }
        for (int32_t tx = x->first; tx < x->end; tx++) {
            sum = dot(row, 1, tap, in->c, sum);
            row += op->x.dilation * in->c;
            tap += in->c;
        }
    }
    return sum;
}

static uint64_t depthwise_window(const td_op *op, const td_tensor *in, int32_t c, const int8_t *w, const td_span *y,
                                 const td_span *x, uint64_t sum)
{
    if (empty(y, x)) return sum;
    for (int32_t ty = y->first; ty < y->end; ty++) {
        const int16_t *row = read16(in) + c
            + ((y->start + ty * op->y.dilation) * in->w + x->start + x->first * op->x.dilation) * in->c;
        sum = dot(row, op->x.dilation * in->c, w + ty * op->x.taps + x->first, x->end - x->first, sum);
    }
    return sum;
}

/* CONV, DENSE and DEPTHWISE. */
static void layer(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    bool depthwise = op->kind == TD_OP_DEPTHWISE;
    int32_t taps = op->y.taps * op->x.taps, filter = depthwise ? taps : taps * in->c;
    int32_t multiplier = depthwise ? out->c / in->c : 1;
    int16_t *to = write16(out);
    for (int32_t oy = 0; oy < out->h; oy++) {
        td_span y = span_at(&op->y, oy, in->h);
        for (int32_t ox = 0; ox < out->w; ox++) {
            td_span x = span_at(&op->x, ox, in->w);
            const int8_t *w = op->weights;
            for (int32_t c = 0; c < out->c; c++) {
                uint64_t sum = bias_of(op, c);
                sum = depthwise ? depthwise_window(op, in, c / multiplier, w, &y, &x, sum)
                                : conv_window(op, in, w, &y, &x, sum);
                *to++ = finish(op, sum, c, out->c);
                w += filter;
            }
        }
    }
}

/* -------------------------------------------------------------------- pools */

static int32_t pooled(bool average, const td_tensor *in, int32_t c, const td_span *y, const td_span *x)
{
    int64_t sum = 0;
    int32_t top = INT16_MIN;
    if (empty(y, x)) return 0;
    for (int32_t ty = y->first; ty < y->end; ty++) {
        const int16_t *from = read16(in) + c + ((y->start + ty) * in->w + x->start + x->first) * in->c;
        for (int32_t n = x->end - x->first; n > 0; n--) {
            sum += *from;
            if (*from > top) top = *from;
            from += in->c;
        }
    }
    if (!average) return top;
    int64_t count = (int64_t)(y->end - y->first) * (x->end - x->first);
    return (int32_t)((sum > 0 ? sum + count / 2 : sum - count / 2) / count);
}

static void pool(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int16_t *to = write16(out);
    for (int32_t oy = 0; oy < out->h; oy++) {
        td_span y = span_at(&op->y, oy, in->h);
        for (int32_t ox = 0; ox < out->w; ox++) {
            td_span x = span_at(&op->x, ox, in->w);
            for (int32_t c = 0; c < out->c; c++) {
                *to++ = limited(op, pooled(op->kind == TD_OP_AVERAGE_POOL, in, c, &y, &x));
            }
        }
    }
}

/* -------------------------------------------------------------- one or two inputs
 * Channel rows as int8 operators have them: n biases i32, n multipliers i32, n shifts i8. */

static int32_t rescaled(const td_op *op, int32_t value, int32_t row, int32_t n)
{
    return round_twice(value, td_get_i32(op->channels + 4 * (n + row)), (int8_t)op->channels[8 * n + row]);
}

static int16_t combined(const td_op *op, int32_t a, int32_t b)
{
    if (op->kind == TD_OP_MUL) return limited(op, rescaled(op, a * b, 2, 3));
    uint32_t x = (uint32_t)rescaled(op, a * 32768, 0, 3), y = (uint32_t)rescaled(op, b * 32768, 1, 3);
    return limited(op, rescaled(op, (int32_t)(op->kind == TD_OP_ADD ? x + y : x - y), 2, 3));
}

/* Value y, x, c, where a dimension of 1 stands for any size. */
static int32_t spread(const td_tensor *tensor, int32_t y, int32_t x, int32_t c)
{
    if (tensor->h == 1) y = 0;
    if (tensor->w == 1) x = 0;
    if (tensor->c == 1) c = 0;
    return read16(tensor)[(y * tensor->w + x) * tensor->c + c];
}

static void combine(const td_op *op, const td_tensor *a, const td_tensor *b, const td_tensor *out)
{
    int16_t *to = write16(out);
    for (int32_t y = 0; y < out->h; y++) {
        for (int32_t x = 0; x < out->w; x++) {
            for (int32_t c = 0; c < out->c; c++) *to++ = combined(op, spread(a, y, x, c), spread(b, y, x, c));
        }
    }
}

/* Two channel rows: for values from the zero point on, and for those below; the first bias is the zero point, negated. */
void td_rescale(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    uint32_t bias = td_get32(op->channels);
    int32_t n = volume(out);
    int32_t low = op->min - op->output_zero_point, high = op->max - op->output_zero_point;
    for (int32_t i = 0; i < n; i++) {
        int32_t value = in->type == TD_INT8 ? in->data[i] : read16(in)[i];
        value = (int32_t)(bias + (uint32_t)value);
        value = rescaled(op, value, value < 0, 2);
        if (value < low) value = low;
        if (value > high) value = high;
        value += op->output_zero_point;
        if (out->type == TD_INT8) {
            out->data[i] = (int8_t)value;
        } else {
            write16(out)[i] = (int16_t)value;
        }
    }
}

/* Mean over the positions of each row of the output, the division being part of the multiplier. */
static void mean(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t n = in->h * in->w / out->h;
    const int16_t *row = read16(in);
    int16_t *to = write16(out);
    for (int32_t y = 0; y < out->h; y++) {
        for (int32_t c = 0; c < in->c; c++) {
            uint32_t sum = 0;
            const int16_t *from = row + c;
            for (int32_t i = 0; i < n; i++) {
                int32_t value = *from;
                sum += (uint32_t)value;
                from += in->c;
            }
            *to++ = limited(op, rescaled(op, (int32_t)sum, 0, 1));
        }
        row += n * in->c;
    }
}

/* ------------------------------------------------------------------- curves */

/* The sigmoid of |v| / 24 for v = 0 .. 255 as u16 in Q0.16; between them straight lines. The input comes first onto the
 * table's scale, by a multiplier and a shift to the right. */
static uint32_t on_curve(const td_op *op, uint32_t magnitude, uint32_t fraction_bits)
{
    uint32_t at = magnitude >> fraction_bits;
    if (at >= 255) return 0xFFFFu << fraction_bits;
    const uint8_t *entry = (const uint8_t *)op->weights + 2 * at;
    uint32_t first = td_get16(entry), second = td_get16(entry + 2);
    uint32_t part = magnitude & (((uint32_t)1 << fraction_bits) - 1u);
    return (first << fraction_bits) + part * (second - first);
}

static int32_t sigmoid(const td_op *op, int32_t x)
{
    uint32_t magnitude = (uint32_t)(x < 0 ? -x : x), y = on_curve(op, magnitude, 9);
    if (magnitude >> 9 >= 255) y = (uint32_t)0x7FFF << 10;
    y = x >= 0 ? y + (1u << 9) : ((uint32_t)1 << 25) - y + (1u << 9) - 1u;
    return (int32_t)(y >> 10);
}

/* 2 sigmoid(2 x) - 1 */
static int32_t hyperbolic_tangent(const td_op *op, int32_t x)
{
    int32_t y = (int32_t)on_curve(op, (uint32_t)(x < 0 ? -x : x), 8) - ((int32_t)1 << 23);
    return (x >= 0 ? y + (1 << 7) : -y + (1 << 7) - 1) >> 8;
}

static void curve(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t n = volume(out), multiplier = td_get_i32(op->channels + 4), right = -(int8_t)op->channels[8];
    int64_t half = right > 0 ? (int64_t)1 << (right - 1) : 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t x = (int32_t)(((int64_t)read16(in)[i] * multiplier + half) >> right);
        write16(out)[i] = (int16_t)(op->kind == TD_OP_LOGISTIC ? sigmoid(op, x) : hyperbolic_tangent(op, x));
    }
}

/* ------------------------------------------------------------------ softmax */

/* A curve over all int16 as 513 points, 128 apart. */
static int32_t interpolated(const int8_t *points, int32_t x)
{
    const uint8_t *at = (const uint8_t *)points + 2 * (256 + (x >> 7));
    int32_t first = (int16_t)td_get16(at), slope = (int16_t)(td_get16(at + 2) - td_get16(at));
    return (int16_t)(first + ((slope * (x & 127) + 64) >> 7));
}

/* The first curve is exp from -10 to 0, the second 1 / (1 + x) from 0 to 1. The exponentials wait in the output. */
static void softmax_row(const td_op *op, const int16_t *in, int32_t n, int16_t *out)
{
    int32_t top = INT16_MIN, lead = 1;
    uint32_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (in[i] > top) top = in[i];
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t below = rescaled(op, in[i] - top, 0, 1);
        below = below < -65535 ? INT16_MIN : below > 0 ? INT16_MAX : below + INT16_MAX;
        int32_t term = interpolated(op->weights, below);
        sum += (uint32_t)term;
        out[i] = (int16_t)term;
    }
    for (; sum >> (31 - lead) == 0; lead++) continue;
    int32_t scaled = (int32_t)(((sum << (lead - 1)) + ((uint32_t)1 << 13)) >> 14) - (3 << 15);
    int32_t reciprocal = interpolated(op->weights + TD_CURVE_SIZE, scaled > INT16_MAX ? INT16_MAX : scaled);
    int32_t right = 31 - lead;
    for (int32_t i = 0; i < n; i++) {
        int64_t share = ((int64_t)out[i] * reciprocal + ((int64_t)1 << (right - 1))) >> right;
        out[i] = (int16_t)(share < 0 ? 0 : share > INT16_MAX ? INT16_MAX : share);
    }
}

static void softmax(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t rows = in->h * in->w;
    for (int32_t row = 0; row < rows; row++) {
        softmax_row(op, read16(in) + row * in->c, in->c, write16(out) + row * in->c);
    }
}

void td_run_int16(const td_op *op, const td_tensor *in, const td_tensor *in_b, const td_tensor *out)
{
    switch (op->kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
    case TD_OP_DEPTHWISE: layer(op, in, out); break;
    case TD_OP_ADD:
    case TD_OP_SUB:
    case TD_OP_MUL: combine(op, in, in_b, out); break;
    case TD_OP_RESCALE: td_rescale(op, in, out); break;
    case TD_OP_MEAN: mean(op, in, out); break;
    case TD_OP_LOGISTIC:
    case TD_OP_TANH: curve(op, in, out); break;
    case TD_OP_SOFTMAX: softmax(op, in, out); break;
    default: pool(op, in, out); break;
    }
}
