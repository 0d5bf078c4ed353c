/* Convolutions, dense and depthwise layers for Cortex-M with Helium (M55, M85): 16 products of int8 an instruction.
 * Part of kernels.c, whose plain C is the reference and computes what these leave to it. Sums are the same modulo 2^32,
 * so are the results. */
#ifndef TD_KERNELS_MVE_H
#define TD_KERNELS_MVE_H

#include <arm_mve.h>

#include "gather.h"

enum { MVE_TAPS = 50 };         /* of the largest depthwise kernel, even: 34 bytes each on the stack */

/* Multipliers of four outputs, their shifts as two: up, and down as a negative number. */
typedef struct td_lanes {
    int32x4_t multiplier, up, down;
} td_lanes;

static inline td_lanes lanes_of(int32x4_t multiplier, int32x4_t shift)
{
    td_lanes of = {multiplier, vmaxq_s32(shift, vdupq_n_s32(0)), vminq_s32(shift, vdupq_n_s32(0))};
    return of;
}

/* round_twice() of four sums: VQRDMULH is the first rounding (it saturates for no multiplier from 0 on); the second
 * goes away from zero for halves, which is up, once a negative number is one smaller. */
static inline int32x4_t round_twice_mve(const td_lanes *of, int32x4_t sum)
{
    int32x4_t high = vqrdmulhq_s32(vshlq_s32(sum, of->up), of->multiplier);
    int32x4_t less = vshrq_n_s32(vandq_s32(high, of->down), 31);
    return vrshlq_s32(vqaddq_s32(high, less), of->down);
}

/* round_once() of four sums for shifts of at most -2: the rounding bit is the last but one of the product's high half. */
static inline int32x4_t round_once_mve(const td_lanes *of, int32x4_t sum)
{
    int32x4_t high = vshlq_s32(vmulhq_s32(sum, of->multiplier), vaddq_n_s32(of->down, 2));
    return vrshrq_n_s32(high, 1);
}

static inline int32x4_t limit_mve(const td_op *op, int32x4_t value)
{
    value = vqaddq_n_s32(value, op->output_zero_point);
    return vminq_s32(vmaxq_s32(value, vdupq_n_s32(op->min)), vdupq_n_s32(op->max));
}

/* x . w for four rows of weights. In assembly, as compilers do not write loops whose last turn leaves lanes out. */
static inline __attribute__((always_inline)) int32x4_t dot_four(const int8_t *x, const int8_t *w, const int8_t *w1,
                                                                const int8_t *w2, const int8_t *w3, int32_t n)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    __asm("dlstp.8 lr, %[n]\n"
          "1:\n\t"
          "vldrb.8 q0, [%[x]], #16\n\t"
          "vldrb.8 q1, [%[w]], #16\n\t"
          "vmladava.s8 %[a], q0, q1\n\t"
          "vldrb.8 q1, [%[w1]], #16\n\t"
          "vmladava.s8 %[b], q0, q1\n\t"
          "vldrb.8 q1, [%[w2]], #16\n\t"
          "vmladava.s8 %[c], q0, q1\n\t"
          "vldrb.8 q1, [%[w3]], #16\n\t"
          "vmladava.s8 %[d], q0, q1\n\t"
          "letp lr, 1b"
          : [x] "+r"(x), [w] "+r"(w), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3), [a] "+Te"(a), [b] "+Te"(b),
            [c] "+Te"(c), [d] "+Te"(d)
          : [n] "r"(n)
          : "q0", "q1", "lr", "memory");
    int32x4_t sum = {a, b, c, d};
    return sum;
}

/* Multipliers and shifts of `left` channels (at most four count) and their biased sums; reads no byte of another. */
static inline __attribute__((always_inline)) int32x4_t rounded_mve(const td_op *op, const int8_t *row, int32_t channels,
                                                                   int32_t first, int32_t left, int32x4_t sum)
{
    const int8_t *multipliers = row + 4 * (channels + first), *shifts = row + 8 * channels + first;
    int8x16_t bias, multiplier;
    int32x4_t shift;
    if (left >= 4) {
        bias = vldrbq_s8(row + 4 * first);
        multiplier = vldrbq_s8(multipliers);
        shift = vldrbq_s32(shifts);
    } else {
        mve_pred16_t bytes = vctp8q(4 * (uint32_t)left);
        bias = vldrbq_z_s8(row + 4 * first, bytes);
        multiplier = vldrbq_z_s8(multipliers, bytes);
        shift = vldrbq_z_s32(shifts, bytes);
    }
    td_lanes of = lanes_of(vreinterpretq_s32_s8(multiplier), shift);
    sum = vaddq_s32(sum, vreinterpretq_s32_s8(bias));
    return limit_mve(op, op->kind == TD_OP_DENSE ? round_once_mve(&of, sum) : round_twice_mve(&of, sum));
}

static void position_mve(const td_op *op, const int8_t *x, int32_t n, int32_t channels, int8_t *to)
{
    const int8_t *row = (const int8_t *)op->channels, *w = op->weights;
    int32_t first = 0;
    for (; first + 3 < channels; first += 4, w += 4 * n) {
        int32x4_t sum = dot_four(x, w, w + n, w + 2 * n, w + 3 * n, n);
        vstrbq_s32(to + first, rounded_mve(op, row, channels, first, 4, sum));
    }
    int32_t left = channels - first;
    if (left == 0) return;
    int32x4_t sum = dot_four(x, w, left > 1 ? w + n : w, left > 2 ? w + 2 * n : w, w, n);
    sum = rounded_mve(op, row, channels, first, left, sum);
    vstrbq_p_s32(to + first, sum, vctp32q((uint32_t)left));
}

static bool all_scaled_down(const td_op *op, int32_t channels)
{
    const int8_t *shifts = (const int8_t *)op->channels + 8 * channels;
    for (int32_t i = 0; i < channels; i++) {
        if (shifts[i] > -2) return false;
    }
    return true;
}

/* Not inlined: its window is on the stack while it runs only. */
__attribute__((noinline)) static void conv_gathered_mve(const td_op *op, const td_tensor *in, const td_tensor *out, int32_t n)
{
    int8_t window[TD_WINDOW], *to = out->data;
    for (int32_t oy = 0; oy < out->h; oy++) {
        for (int32_t ox = 0; ox < out->w; ox++, to += out->c) {
            gather(op, in, oy, ox, window);
            position_mve(op, window, n, out->c, to);
        }
    }
}

static bool conv_mve(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t n = op->y.taps * op->x.taps * in->c;
    if (op->kind == TD_OP_DENSE && !all_scaled_down(op, out->c)) return false;
    if (!lies_in_place(op, in, out)) {
        if (n > TD_WINDOW) return false;
        conv_gathered_mve(op, in, out, n);
        return true;
    }
    const int8_t *x = in->data;
    int8_t *to = out->data;
    for (int32_t left = out->h * out->w; left > 0; left--, x += n, to += out->c) position_mve(op, x, n, out->c, to);
    return true;
}

/* -------------------------------------------------------------- depthwise, eight channels at a time
 * Products of two taps fit in 16 bits together, unless a weight is -128, which no converter writes. */

typedef struct td_eight {
    const td_op *op;
    int32_t pairs;              /* of taps; the last may be one tap and a weight of 0 */
    td_lanes even, odd;         /* channels 0, 2, 4, 6 and 1, 3, 5, 7 */
    int32x4_t even_bias, odd_bias;
    int16_t weights[8 * MVE_TAPS];
} td_eight;

static int32x4_t every_other(const int32_t values[8], int32_t first)
{
    int32x4_t picked = {values[first], values[first + 2], values[first + 4], values[first + 6]};
    return picked;
}

/* False when the weights of these channels are left to plain C. */
static bool load_eight(td_eight *of, const td_op *op, int32_t c, int32_t channels, int32_t taps)
{
    int32_t bias[8], multiplier[8], shift[8];
    for (int32_t i = 0; i < 8; i++) {
        td_channel one = channel(op, c + i, channels);
        bias[i] = (int32_t)one.bias;
        multiplier[i] = one.multiplier;
        shift[i] = one.shift;
        for (int32_t t = 0; t < taps; t++) {
            of->weights[8 * t + i] = op->weights[(c + i) * taps + t];
            if (of->weights[8 * t + i] == -128) return false;
        }
        if (taps % 2 != 0) of->weights[8 * taps + i] = 0;
    }
    of->op = op;
    of->pairs = (taps + 1) / 2;
    of->even = lanes_of(every_other(multiplier, 0), every_other(shift, 0));
    of->odd = lanes_of(every_other(multiplier, 1), every_other(shift, 1));
    of->even_bias = every_other(bias, 0);
    of->odd_bias = every_other(bias, 1);
    return true;
}

/* One position; tap t of the eight channels lies at x + offsets[t]. */
static void eight_outputs(const td_eight *of, const int8_t *x, const int32_t *offsets, int8_t *to)
{
    int32x4_t even = of->even_bias, odd = of->odd_bias;
    const int16_t *weights = of->weights;
    for (int32_t pairs = of->pairs; pairs > 0; pairs--, offsets += 2, weights += 16) {
        int16x8_t sum = vmulq_s16(vldrbq_s16(x + offsets[0]), vldrhq_s16(weights));
        sum = vaddq_s16(sum, vmulq_s16(vldrbq_s16(x + offsets[1]), vldrhq_s16(weights + 8)));
        even = vaddq_s32(even, vmovlbq_s16(sum));
        odd = vaddq_s32(odd, vmovltq_s16(sum));
    }
    even = limit_mve(of->op, round_twice_mve(&of->even, even));
    odd = limit_mve(of->op, round_twice_mve(&of->odd, odd));
    vstrbq_s16(to, vmovntq_s32(vmovnbq_s32(vdupq_n_s16(0), even), odd));
}

/* The taps of eight channels one behind the other, zero points for those in the padding. */
static void patch_eight(const td_op *op, const td_tensor *in, int32_t c, const td_span *y, const td_span *x, int8_t *to)
{
    int16x8_t outside = vdupq_n_s16((int16_t)op->input_zero_point);
    for (int32_t t = 0; t < op->y.taps * op->x.taps; t++) vstrbq_s16(to + 8 * t, outside);
    if (empty(y, x)) return;
    int32_t step = op->x.dilation * in->c, row_step = op->y.dilation * in->w * in->c;
    int32_t top = y->start + y->first * op->y.dilation, left = x->start + x->first * op->x.dilation;
    const int8_t *row = in->data + (top * in->w + left) * in->c + c;
    to += 8 * (y->first * op->x.taps + x->first);
    for (int32_t rows = y->end - y->first; rows > 0; rows--, row += row_step, to += 8 * op->x.taps) {
        const int8_t *from = row;
        int8_t *tap = to;
        for (int32_t n = x->end - x->first; n > 0; n--, from += step, tap += 8) vstrbq_s16(tap, vldrbq_s16(from));
    }
}

/* Computes channels from 0 on; returns how many. */
__attribute__((noinline)) static int32_t depthwise_mve(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t taps = op->y.taps * op->x.taps, c = 0;
    if (in->c != out->c || taps > MVE_TAPS) return 0;
    td_eight of;
    int8_t patch[8 * MVE_TAPS];
    int32_t inside[MVE_TAPS], in_patch[MVE_TAPS];
    for (int32_t t = 0; t < MVE_TAPS; t++) {
        int32_t tap = t < taps ? t : 0;
        inside[t] = (tap / op->x.taps * op->y.dilation * in->w + tap % op->x.taps * op->x.dilation) * in->c;
        in_patch[t] = 8 * tap;
    }
    int32_t y_last = last_inside(&op->y, in->h), x_last = last_inside(&op->x, in->w);
    for (; c + 7 < out->c && load_eight(&of, op, c, out->c, taps); c += 8) {
        int8_t *to = out->data + c;
        for (int32_t oy = 0; oy < out->h; oy++) {
            td_span y = span_at(&op->y, oy, in->h);
            bool rows_inside = y.start >= 0 && y.start <= y_last;
            int32_t start = -op->x.pad;
            for (int32_t ox = 0; ox < out->w; ox++, to += out->c, start += op->x.stride) {
                if (rows_inside && start >= 0 && start <= x_last) {
                    eight_outputs(&of, in->data + (y.start * in->w + start) * in->c + c, inside, to);
                    continue;
                }
                td_span x = span_at(&op->x, ox, in->w);
                patch_eight(op, in, c, &y, &x, patch);
                eight_outputs(&of, patch, in_patch, to);
            }
        }
    }
    return c;
}

#endif /* TD_KERNELS_MVE_H */
