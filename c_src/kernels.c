/* int8 kernels in plain C, bit for bit what LiteRT's reference kernels compute.
 *
 * Written for cores without a wide multiplier: output channels are the outer loop, so a channel's
 * bias, multiplier and shift are read once, and the inner loops are bare multiply-adds over
 * contiguous memory. The input's zero point is folded into the biases by the compiler of the .tdm;
 * a tap in the padding therefore counts as the zero point, not as 0. Sums are unsigned: a hostile
 * file may overflow them, which must stay defined. */
#include "kernels.h"
#include "rounding.h"
#include "td_internal.h"
#include "window.h"

static int8_t clamp(const td_op *op, int32_t value)
{
    if (value < op->min) value = op->min;
    if (value > op->max) value = op->max;
    return (int8_t)value;
}

typedef struct td_channel {
    uint32_t bias;
    int32_t multiplier, shift;
} td_channel;

static td_channel channel(const td_op *op, int32_t index, int32_t n)
{
    td_channel of;
    of.bias = td_get32(op->channels + 4 * index);
    of.multiplier = td_get_i32(op->channels + 4 * (n + index));
    of.shift = (int8_t)op->channels[8 * n + index];
    return of;
}

/* Clamped before the zero point is added, so that the sum cannot overflow whatever the file holds. */
static int8_t finish(const td_op *op, const td_channel *of, uint32_t sum)
{
    int32_t value = op->kind == TD_OP_DENSE ? round_once((int32_t)sum, of->multiplier, of->shift)
                                            : round_twice((int32_t)sum, of->multiplier, of->shift);
    int32_t low = op->min - op->output_zero_point, high = op->max - op->output_zero_point;
    if (value < low) value = low;
    if (value > high) value = high;
    return (int8_t)(value + op->output_zero_point);
}

/* The last start of a window that has no tap behind the end of the input. */
static int32_t last_inside(const td_axis *axis, int32_t size)
{
    return size - 1 - (axis->taps - 1) * axis->dilation;
}

/* Adds x . w and x . (w + next) to the two sums. Two channels at once load each x once; the index runs
 * up to zero. That leaves ten instructions for two multiply-adds on a Cortex-M0, all in its eight low
 * registers: a third channel, or an unrolled loop, takes more. */
static void dot_pair(const int8_t *x, const int8_t *w, int32_t next, int32_t n, uint32_t sum[2])
{
    uint32_t a = 0, b = 0;
    const int8_t *v = w + next + n;
    x += n;
    w += n;
    for (int32_t i = -n; i != 0; i++) {
        int value = x[i];
        a += (uint32_t)(value * w[i]);
        b += (uint32_t)(value * v[i]);
    }
    sum[0] += a;
    sum[1] += b;
}

static uint32_t total(const int8_t *w, int32_t n)
{
    uint32_t sum = 0;
    for (; n > 0; n--) {
        int32_t value = *w++;
        sum += (uint32_t)value;
    }
    return sum;
}

/* Adds what n taps in the padding contribute: they see the zero point. */
static void pad_pair(const td_op *op, const int8_t *w, int32_t next, int32_t n, uint32_t sum[2])
{
    if (n == 0) return;
    sum[0] += total(w, n) * (uint32_t)op->input_zero_point;
    sum[1] += total(w + next, n) * (uint32_t)op->input_zero_point;
}

/* One row of taps of a convolution, for two channels whose weights lie `next` bytes apart. */
static void conv_row(const td_op *op, const int8_t *row, const int8_t *w, int32_t next, const td_span *x,
                     int32_t depth, uint32_t sum[2])
{
    pad_pair(op, w, next, x->first * depth, sum);
    pad_pair(op, w + x->end * depth, next, (op->x.taps - x->end) * depth, sum);
    row += (x->start + x->first * op->x.dilation) * depth;
    w += x->first * depth;
    if (op->x.dilation == 1) {
        dot_pair(row, w, next, (x->end - x->first) * depth, sum);
        return;
    }
    for (int32_t t = x->first; t < x->end; t++) {
        dot_pair(row, w, next, depth, sum);
        row += op->x.dilation * depth;
        w += depth;
    }
}

static void conv_window(const td_op *op, const td_tensor *in, const int8_t *w, int32_t next, const td_span *y,
                        const td_span *x, uint32_t sum[2])
{
    int32_t row_taps = op->x.taps * in->c;
    if (empty(y, x)) {
        pad_pair(op, w, next, op->y.taps * row_taps, sum);
        return;
    }
    pad_pair(op, w, next, y->first * row_taps, sum);
    pad_pair(op, w + y->end * row_taps, next, (op->y.taps - y->end) * row_taps, sum);
    for (int32_t t = y->first; t < y->end; t++) {
        const int8_t *row = in->data + (y->start + t * op->y.dilation) * in->w * in->c;
        conv_row(op, row, w + t * row_taps, next, x, in->c, sum);
    }
}

/* The same for a window that lies wholly inside and has no gaps between its columns. */
static void conv_inside(const td_op *op, const td_tensor *in, const int8_t *w, int32_t next, int32_t y, int32_t x,
                        uint32_t sum[2])
{
    int32_t row_taps = op->x.taps * in->c, step = op->y.dilation * in->w * in->c;
    const int8_t *row = in->data + (y * in->w + x) * in->c;
    for (int32_t t = op->y.taps; t > 0; t--) {
        dot_pair(row, w, next, row_taps, sum);
        row += step;
        w += row_taps;
    }
}

#if TD_MVE
#include "kernels_mve.h"
#elif TD_WIDE
#include "kernels_wide.h"
#endif

/* An odd last channel is computed as a pair with itself. */
void td_conv(const td_op *op, const td_tensor *in, const td_tensor *out)
{
#if TD_MVE
    if (conv_mve(op, in, out)) return;
#elif TD_WIDE
    if (conv_wide(op, in, out)) return;
#endif
    const int8_t *w = op->weights;
    int32_t filter = op->y.taps * op->x.taps * in->c;
    int32_t y_last = last_inside(&op->y, in->h);
    int32_t x_last = op->x.dilation == 1 ? last_inside(&op->x, in->w) : -1;
    for (int32_t c = 0; c < out->c; c += 2) {
        int32_t both = c + 1 < out->c ? 1 : 0, next = both ? filter : 0;
        td_channel first = channel(op, c, out->c), second = channel(op, c + both, out->c);
        int8_t *to = out->data + c;
        for (int32_t oy = 0; oy < out->h; oy++) {
            td_span y = span_at(&op->y, oy, in->h);
            bool rows_inside = y.start >= 0 && y.start <= y_last;
            int32_t x_start = -op->x.pad;
            for (int32_t ox = 0; ox < out->w; ox++) {
                uint32_t sum[2] = {first.bias, second.bias};
                if (rows_inside && x_start >= 0 && x_start <= x_last) {
                    conv_inside(op, in, w, next, y.start, x_start, sum);
                } else {
                    td_span x = span_at(&op->x, ox, in->w);
                    conv_window(op, in, w, next, &y, &x, sum);
                }
                x_start += op->x.stride;
                to[both] = finish(op, &second, sum[1]);
                to[0] = finish(op, &first, sum[0]);
                to += out->c;
            }
        }
        w += filter + next;
    }
}

static uint32_t depthwise_window(const td_op *op, const td_tensor *in, int32_t c, const int8_t *w,
                                 const td_span *y, const td_span *x)
{
    int32_t step = op->x.dilation * in->c, inside = x->end - x->first;
    uint32_t sum = 0, outside = 0;
    if (empty(y, x)) return total(w, op->y.taps * op->x.taps) * (uint32_t)op->input_zero_point;
    for (int32_t ty = 0; ty < op->y.taps; ty++) {
        if (ty < y->first || ty >= y->end) {
            outside += total(w, op->x.taps);
            w += op->x.taps;
            continue;
        }
        if (inside != op->x.taps) {
            outside += total(w, x->first) + total(w + x->end, op->x.taps - x->end);
        }
        const int8_t *from = in->data + c
            + ((y->start + ty * op->y.dilation) * in->w + x->start + x->first * op->x.dilation) * in->c;
        const int8_t *tap = w + x->first;
        for (int32_t n = inside; n > 0; n--) {
            sum += (uint32_t)(*from * *tap++);
            from += step;
        }
        w += op->x.taps;
    }
    return sum + outside * (uint32_t)op->input_zero_point;
}

/* The same for a window that lies wholly inside. */
static uint32_t depthwise_inside(const td_op *op, const td_tensor *in, int32_t c, const int8_t *w, int32_t y, int32_t x)
{
    int32_t step = op->x.dilation * in->c;
    int32_t row_step = op->y.dilation * in->w * in->c - op->x.taps * step;
    const int8_t *from = in->data + (y * in->w + x) * in->c + c;
    uint32_t sum = 0;
    for (int32_t rows = op->y.taps; rows > 0; rows--) {
        for (int32_t n = op->x.taps; n > 0; n--) {
            sum += (uint32_t)(*from * *w++);
            from += step;
        }
        from += row_step;
    }
    return sum;
}

void td_depthwise(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t c = 0;
#if TD_MVE
    c = depthwise_mve(op, in, out);
#elif TD_WIDE
    if (depthwise_wide(op, in, out)) return;
#endif
    int32_t multiplier = out->c / in->c;
    const int8_t *w = op->weights + c * op->y.taps * op->x.taps;
    int32_t y_last = last_inside(&op->y, in->h), x_last = last_inside(&op->x, in->w);
    for (; c < out->c; c++) {
        td_channel of = channel(op, c, out->c);
        int32_t from = c / multiplier;
        int8_t *to = out->data + c;
        for (int32_t oy = 0; oy < out->h; oy++) {
            td_span y = span_at(&op->y, oy, in->h);
            bool rows_inside = y.start >= 0 && y.start <= y_last;
            int32_t x_start = -op->x.pad;
            for (int32_t ox = 0; ox < out->w; ox++) {
                uint32_t sum = of.bias;
                if (rows_inside && x_start >= 0 && x_start <= x_last) {
                    sum += depthwise_inside(op, in, from, w, y.start, x_start);
                } else {
                    td_span x = span_at(&op->x, ox, in->w);
                    sum += depthwise_window(op, in, from, w, &y, &x);
                }
                *to = finish(op, &of, sum);
                to += out->c;
                x_start += op->x.stride;
            }
        }
        w += op->y.taps * op->x.taps;
    }
}

/* Average (halves away from zero) or maximum of one window; taps in the padding do not take part. */
static int32_t pool_window(bool average, const td_tensor *in, int32_t c, const td_span *y, const td_span *x)
{
    int32_t sum = 0, top = -128;
    if (empty(y, x)) return 0;
    for (int32_t ty = y->first; ty < y->end; ty++) {
        const int8_t *from = in->data + c + ((y->start + ty) * in->w + x->start + x->first) * in->c;
        for (int32_t n = x->end - x->first; n > 0; n--) {
            sum += *from;
            if (*from > top) top = *from;
            from += in->c;
        }
    }
    if (!average) return top;
    int32_t count = (y->end - y->first) * (x->end - x->first);
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

void td_pool(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int8_t *to = out->data;
    for (int32_t oy = 0; oy < out->h; oy++) {
        td_span y = span_at(&op->y, oy, in->h);
        for (int32_t ox = 0; ox < out->w; ox++) {
            td_span x = span_at(&op->x, ox, in->w);
            for (int32_t c = 0; c < out->c; c++) {
                *to++ = clamp(op, pool_window(op->kind == TD_OP_AVERAGE_POOL, in, c, &y, &x));
            }
        }
    }
}

/* Both inputs are lifted by 20 bits and brought to one scale; the three rows of `channels` are the
 * two inputs' and the output's multiplier and shift, the biases the inputs' negated zero points. */
void td_add(const td_op *op, const td_tensor *a, const td_tensor *b, const td_tensor *out)
{
    td_channel of_a = channel(op, 0, 3), of_b = channel(op, 1, 3), of_sum = channel(op, 2, 3);
    int32_t n = out->h * out->w * out->c;
    for (int32_t i = 0; i < n; i++) {
        uint32_t lifted_a = ((uint32_t)(int32_t)a->data[i] + of_a.bias) << 20;
        uint32_t lifted_b = ((uint32_t)(int32_t)b->data[i] + of_b.bias) << 20;
        uint32_t sum = (uint32_t)round_twice((int32_t)lifted_a, of_a.multiplier, of_a.shift)
            + (uint32_t)round_twice((int32_t)lifted_b, of_b.multiplier, of_b.shift);
        out->data[i] = finish(op, &of_sum, sum);
    }
}

/* Mean over the positions of each row of the output: the division is part of the multiplier, the zero point of the bias. */
void td_mean(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    td_channel of = channel(op, 0, 1);
    int32_t n = in->h * in->w / out->h;
    const int8_t *row = in->data;
    int8_t *to = out->data;
    for (int32_t y = 0; y < out->h; y++) {
        for (int32_t c = 0; c < in->c; c++) {
            uint32_t sum = of.bias;
            const int8_t *from = row + c;
            for (int32_t i = 0; i < n; i++) {
                int32_t value = *from;
                sum += (uint32_t)value;
                from += in->c;
            }
            *to++ = finish(op, &of, sum);
        }
        row += n * in->c;
    }
}
