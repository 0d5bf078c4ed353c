/* Shared by the kernels of all types: which taps of a sliding window lie inside the input.
 * Not `inline`: the compiler would then copy them to each place of use. */
#ifndef TD_WINDOW_H
#define TD_WINDOW_H

#include "kernels.h"

/* The taps of one output position that fall inside the input: first <= t < end. */
typedef struct td_span {
    int32_t start;              /* input position of tap 0, may lie outside */
    int32_t first, end;
} td_span;

static td_span span_at(const td_axis *axis, int32_t position, int32_t size)
{
    td_span span;
    span.start = position * axis->stride - axis->pad;
    span.first = 0;
    span.end = axis->taps;
    if (span.start < 0) {
        int32_t at = span.start;
        while (at < 0 && span.first < span.end) {
            at += axis->dilation;
            span.first++;
        }
    }
    int32_t last = span.start + (span.end - 1) * axis->dilation;
    while (last >= size && span.end > span.first) {
        last -= axis->dilation;
        span.end--;
    }
    return span;
}

/* Windows wholly in the padding form no address: it could lie anywhere. */
static bool empty(const td_span *y, const td_span *x)
{
    return y->first == y->end || x->first == x->end;
}

#endif /* TD_WINDOW_H */
