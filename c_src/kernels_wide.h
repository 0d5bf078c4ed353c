/* Convolutions, dense and depthwise layers for cores with more registers than a Cortex-M0 has. Part of kernels.c, whose
 * plain C is the reference and computes whatever these refuse (they return false); the sums are the same modulo 2^32,
 * so are the results.
 *
 * Positions are the outer loop here: a window is gathered once, the padding filled with the zero point, and meets all
 * channels. Two positions and two channels at a time load each value once for two products. The inner blocks are those
 * of blocks_dsp.h where two products are one instruction, else those of blocks_c.h. */
#ifndef TD_KERNELS_WIDE_H
#define TD_KERNELS_WIDE_H

#include "gather.h"

enum {
    WIDE_TAPS = 64              /* of the largest depthwise kernel: up to 8 bytes each on the stack */
};

/* Four int8 at any address. */
static inline uint32_t load4(const int8_t *p)
{
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
}

#if TD_DSP
#include "blocks_dsp.h"
#else
#include "blocks_c.h"
#endif

/* What finish() computes, with what an operator's outputs share worked out once. */
typedef struct td_finish {
    const int8_t *channels;
    int32_t n, low, high, zero_point;
    int32_t half;               /* 1 + 2 * zero_point: rounding and zero point in one addition */
    bool once;
} td_finish;

static td_finish start_finish(const td_op *op, int32_t channels)
{
    td_finish f;
    f.channels = (const int8_t *)op->channels;
    f.n = channels;
    f.low = op->min;
    f.high = op->max;
    f.zero_point = op->output_zero_point;
    f.half = 1 + 2 * f.zero_point;
    f.once = op->kind == TD_OP_DENSE;
    return f;
}

typedef struct td_scale {
    int32_t bias, multiplier;
    int32_t right;              /* -1 - shift */
} td_scale;

static inline td_scale scale_of(const td_finish *f, int32_t index)
{
    const int8_t *at = f->channels + 4 * index;
    td_scale of;
    of.bias = (int32_t)load4(at);
    of.multiplier = (int32_t)load4(at + 4 * f->n);
    of.right = -1 - f->channels[8 * f->n + index];
    return of;
}

static inline int8_t limit(const td_finish *f, int32_t value)
{
    value = value < f->low ? f->low : value;
    value = value > f->high ? f->high : value;
    return (int8_t)value;
}

/* Whether finish_twice may be used: all outputs are scaled down, and sums of n products stay within 31 bits, as those of
 * every honest file do. */
static bool finishes_fast(const td_finish *f, int32_t n)
{
    if (n > 0x7FFF) return false;
    for (int32_t i = 0; i < f->n; i++) {
        int32_t bias = (int32_t)load4(f->channels + 4 * i);
        if (f->channels[8 * f->n + i] >= 0 || bias <= -0x20000000 || bias >= 0x20000000) return false;
    }
    return true;
}

/* Layers that round twice. The doubled high half of the product of sum and multiplier is the high half of the doubled
 * sum's; halves go away from zero, which is up, once a negative number is one smaller. */
static inline __attribute__((always_inline)) int8_t finish_twice(const td_finish *f, const td_scale *of, int32_t sum)
{
    int32_t high = high_half(sum * 2, of->multiplier);
    high += high >> 31;
    return limit(f, ((high >> of->right) + f->half) >> 1);
}

__attribute__((noinline)) static int8_t finish_rarely(const td_finish *f, const td_scale *of, int32_t sum)
{
    int32_t value = round_once(sum, of->multiplier, -1 - of->right);
    if (value > 255) value = 255; /* the sum with the zero point cannot overflow */
    if (value < -256) value = -256;
    return limit(f, value + f->zero_point);
}

/* Dense layers. */
static inline int8_t finish_once(const td_finish *f, const td_scale *of, int32_t sum)
{
    if (of->right >= 1) {
        int32_t high = (int32_t)(((int64_t)sum * of->multiplier) >> 32);
        return limit(f, ((high >> (of->right - 1)) + f->half) >> 1);
    }
    return finish_rarely(f, of, sum);
}

static inline int8_t finish_any(const td_finish *f, const td_scale *of, int32_t sum)
{
    return f->once ? finish_once(f, of, sum) : finish_twice(f, of, sum);
}

static void conv_position(const td_finish *f, const int8_t *x, const int8_t *w, int32_t n, int8_t *to)
{
    int32_t i = 0;
    for (; i + 3 < f->n; i += 4, w += 4 * n) {
        td_scale of[4];
        int32_t sum[4];
        for (int32_t j = 0; j < 4; j++) {
            of[j] = scale_of(f, i + j);
            sum[j] = of[j].bias;
        }
        dot_1x4(x, w, n, sum);
        for (int32_t j = 0; j < 4; j++) to[i + j] = finish_any(f, &of[j], sum[j]);
    }
    for (; i < f->n; i++, w += n) {
        td_scale of = scale_of(f, i);
        uint32_t sum[2] = {(uint32_t)of.bias, 0};
        dot_pair(x, w, 0, n, sum);
        to[i] = finish_any(f, &of, (int32_t)sum[0]);
    }
}

/* Two positions, n values apart; not dense. */
static void conv_two_positions(const td_finish *f, const int8_t *x, const int8_t *w, int32_t n, int8_t *to)
{
    int32_t i = 0, channels = f->n;
    for (; i + 1 < channels; i += 2, w += 2 * n, to += 2) {
        td_scale first = scale_of(f, i), second = scale_of(f, i + 1);
        int32_t sum[4] = {first.bias, second.bias, first.bias, second.bias};
        dot_2x2(x, w, n, sum);
        to[0] = finish_twice(f, &first, sum[0]);
        to[channels] = finish_twice(f, &first, sum[2]);
        to[1] = finish_twice(f, &second, sum[1]);
        to[channels + 1] = finish_twice(f, &second, sum[3]);
    }
    if (i == channels) return;
    td_scale last = scale_of(f, i);
    uint32_t sum[2] = {(uint32_t)last.bias, (uint32_t)last.bias};
    dot_pair(w, x, n, n, sum); /* the roles exchanged: one channel, two positions */
    to[0] = finish_twice(f, &last, (int32_t)sum[0]);
    to[channels] = finish_twice(f, &last, (int32_t)sum[1]);
}

__attribute__((noinline)) static void conv_gathered(const td_op *op, const td_tensor *in, const td_tensor *out,
                                                    const td_finish *f, int32_t n)
{
    int8_t windows[2 * TD_WINDOW], *to = out->data;
    int32_t filled = 0;
    for (int32_t oy = 0; oy < out->h; oy++) {
        for (int32_t ox = 0; ox < out->w; ox++) {
            gather(op, in, oy, ox, windows + filled * n);
            if (++filled < 2) continue;
            conv_two_positions(f, windows, op->weights, n, to);
            to += 2 * out->c;
            filled = 0;
        }
    }
    if (filled) conv_position(f, windows, op->weights, n, to);
}

static bool conv_wide(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t positions = out->h * out->w, n = op->y.taps * op->x.taps * in->c;
    td_finish f = start_finish(op, out->c);
    bool in_place = lies_in_place(op, in, out);
    if (f.once ? !in_place : !finishes_fast(&f, n)) return false;
    if (!in_place) {
        if (n > TD_WINDOW) return false;
        conv_gathered(op, in, out, &f, n);
        return true;
    }
    const int8_t *x = in->data;
    int8_t *to = out->data;
    for (; positions > 1 && !f.once; positions -= 2, x += 2 * n, to += 2 * out->c) {
        conv_two_positions(&f, x, op->weights, n, to);
    }
    for (; positions > 0; positions--, x += n, to += out->c) conv_position(&f, x, op->weights, n, to);
    return true;
}

/* -------------------------------------------------------------- depthwise, four channels at a time */

/* The taps of a window that lie inside the input. */
typedef struct td_block {
    int32_t rows, columns;      /* taps */
    int32_t step, row_step;     /* bytes from tap to tap, and from the end of a row to the next */
    int32_t gap;                /* words from the weights of a row's end to the next row's */
} td_block;

/* Three columns, the usual number, have their loop unrolled. */
static inline __attribute__((always_inline)) void depthwise_four(const td_block *block, const int8_t *from,
                                                                 const uint32_t *weights, td_less less, int32_t sum[4])
{
    int32_t rows = block->rows, step = block->step;
    if (block->columns == 3) {
        int32_t next = block->row_step + 3 * step;
        do {
            weights = tap_four(from, weights, less, sum);
            weights = tap_four(from + step, weights, less, sum);
            weights = tap_four(from + 2 * step, weights, less, sum) + block->gap;
            from += next;
        } while (--rows != 0);
        return;
    }
    do {
        for (int32_t columns = block->columns; columns != 0; columns--, from += step) {
            weights = tap_four(from, weights, less, sum);
        }
        from += block->row_step;
        weights += block->gap;
    } while (--rows != 0);
}

static td_block block_of(const td_op *op, const td_tensor *in, int32_t rows, int32_t columns)
{
    td_block block;
    block.rows = rows;
    block.columns = rows > 0 ? columns : 0;
    block.step = op->x.dilation * in->c;
    block.row_step = op->y.dilation * in->w * in->c - columns * block.step;
    block.gap = TAP_WORDS * (op->x.taps - columns);
    return block;
}

/* The biases of windows that reach beyond the input above and below only, for inputs as they are. */
static void biases_inside(const td_op *op, const td_scale of[4], int32_t c, const td_span *y, int32_t bias[4])
{
    int32_t taps = op->y.taps * op->x.taps, inside = (y->end - y->first) * op->x.taps;
    const int8_t *w = op->weights + c * taps + y->first * op->x.taps;
    for (int32_t i = 0; i < 4; i++) {
        bias[i] = of[i].bias - (int32_t)total(w + i * taps, inside) * op->input_zero_point;
    }
}

/* One row of outputs of four channels from `c` on. Only taps inside the input take part: less the zero point, a tap in
 * the padding adds nothing. Where that takes instructions, it is done at the sides only. */
static void depthwise_row(const td_op *op, const td_tensor *in, const td_finish *f, const td_scale of[4],
                          const int32_t bias[4], const uint32_t *weights, int32_t c, const td_span *y, int32_t width,
                          int8_t *to)
{
    int32_t x_last = last_inside(&op->x, in->w), start = -op->x.pad, rows = y->end - y->first;
    td_less less = less_of(op->input_zero_point);
    td_block inside = block_of(op, in, rows, op->x.taps), edge;
    const int8_t *row = in->data + c;
    if (rows > 0) row += (y->start + y->first * op->y.dilation) * in->w * in->c;
    weights += TAP_WORDS * y->first * op->x.taps;
    for (int32_t ox = 0; ox < width; ox++, start += op->x.stride, to += f->n) {
        int32_t sum[4] = {of[0].bias, of[1].bias, of[2].bias, of[3].bias};
        const td_block *block = &inside;
        int32_t first = 0;
        if (start < 0 || start > x_last) {
            int32_t end = op->x.taps;
            if (op->x.dilation == 1) {
                if (start < 0) first = -start;
                if (start + end > in->w) end = in->w - start;
            } else {
                td_span x = span_at(&op->x, ox, in->w);
                first = x.first;
                end = x.end;
            }
            edge.columns = 0;
            if (first < end) edge = block_of(op, in, rows, end - first);
            block = &edge;
        }
        if (!LESS_IS_FREE && block == &inside && block->columns > 0) {
            sum[0] = bias[0];
            sum[1] = bias[1];
            sum[2] = bias[2];
            sum[3] = bias[3];
            depthwise_four(block, row + start * in->c, weights, less_of(0), sum);
        } else if (block->columns > 0) {
            depthwise_four(block, row + (start + first * op->x.dilation) * in->c, weights + TAP_WORDS * first, less, sum);
        }
        to[0] = finish_twice(f, &of[0], sum[0]);
        to[1] = finish_twice(f, &of[1], sum[1]);
        to[2] = finish_twice(f, &of[2], sum[2]);
        to[3] = finish_twice(f, &of[3], sum[3]);
    }
}

static bool depthwise_wide(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t taps = op->y.taps * op->x.taps;
    td_finish f = start_finish(op, out->c);
    if (in->c != out->c || out->c % 4 != 0 || taps > WIDE_TAPS || !finishes_fast(&f, taps)) return false;
    uint32_t weights[TAP_WORDS * WIDE_TAPS];
    for (int32_t c = 0; c < out->c; c += 4) {
        td_scale of[4];
        spread_weights(op->weights + c * taps, taps, weights);
        for (int32_t i = 0; i < 4; i++) {
            of[i] = scale_of(&f, c + i);
            of[i].bias += (int32_t)total(op->weights + (c + i) * taps, taps) * op->input_zero_point;
        }
        int32_t bias[4] = {0, 0, 0, 0}, first = -1, end = -1; /* the rows that the biases are for */
        for (int32_t oy = 0; oy < out->h; oy++) {
            td_span y = span_at(&op->y, oy, in->h);
            if (!LESS_IS_FREE && (y.first != first || y.end != end)) {
                biases_inside(op, of, c, &y, bias);
                first = y.first;
                end = y.end;
            }
            depthwise_row(op, in, &f, of, bias, weights, c, &y, out->w, out->data + oy * out->w * out->c + c);
        }
    }
    return true;
}

#endif /* TD_KERNELS_WIDE_H */
