/* Shared by the kernels that have positions as their outer loop: the input of one position, as the weights lie. */
#ifndef TD_GATHER_H
#define TD_GATHER_H

#include "td_internal.h"
#include "window.h"

enum { TD_WINDOW = 640 };       /* values of the largest window that is gathered, on the stack */

#if TD_MVE
#include <arm_mve.h>

static void copy_values(int8_t *to, const int8_t *from, int32_t n)
{
    for (; n > 0; n -= 16, to += 16, from += 16) {
        mve_pred16_t some = vctp8q((uint32_t)n);
        vstrbq_p_s8(to, vldrbq_z_s8(from, some), some);
    }
}
#else
static void copy_values(int8_t *to, const int8_t *from, int32_t n)
{
    for (; n >= 4; n -= 4, to += 4, from += 4) __builtin_memcpy(to, from, 4);
    for (; n > 0; n--) *to++ = *from++;
}
#endif

/* The window of output position (oy, ox), row by row, the padding filled with the zero point. */
static void gather(const td_op *op, const td_tensor *in, int32_t oy, int32_t ox, int8_t *to)
{
    td_span y = span_at(&op->y, oy, in->h), x = span_at(&op->x, ox, in->w);
    int32_t row_values = op->x.taps * in->c;
    if (y.end - y.first < op->y.taps || x.end - x.first < op->x.taps) {
        memset(to, op->input_zero_point, (size_t)(op->y.taps * row_values));
    }
    if (empty(&y, &x)) return;
    to += y.first * row_values + x.first * in->c;
    for (int32_t t = y.first; t < y.end; t++, to += row_values) {
        const int8_t *from = in->data
            + ((y.start + t * op->y.dilation) * in->w + x.start + x.first * op->x.dilation) * in->c;
        if (op->x.dilation == 1) {
            copy_values(to, from, (x.end - x.first) * in->c);
            continue;
        }
        for (int32_t column = 0; column < x.end - x.first; column++) {
            copy_values(to + column * in->c, from + column * op->x.dilation * in->c, in->c);
        }
    }
}

/* Whether the input of a position already lies as the weights do: a 1x1 convolution without stride or padding. */
static bool lies_in_place(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    return op->y.taps == 1 && op->x.taps == 1 && op->y.stride == 1 && op->x.stride == 1 && op->y.pad == 0
        && op->x.pad == 0 && in->h == out->h && in->w == out->w;
}

#endif /* TD_GATHER_H */
