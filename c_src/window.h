/* Shared by the kernels of all types: which taps of a sliding window lie inside the input. */
#ifndef TD_WINDOW_H
#define TD_WINDOW_H

#include "kernels.h"

/* The taps of one output position that fall inside the input: first <= t < end. */
typedef struct td_span {
    int32_t start;              /* input position of tap 0, may lie outside */
    int32_t first, end;
} td_span;

static inline td_span span_at(const td_axis *axis, int32_t position, int32_t size)
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

/* The last start of a window that has no tap behind the end of the input. */
static inline int32_t last_inside(const td_axis *axis, int32_t size)
{
    return size - 1 - (axis->taps - 1) * axis->dilation;
}

/* Windows wholly in the padding form no address: it could lie anywhere. */
static inline bool empty(const td_span *y, const td_span *x)
{
    return y->first == y->end || x->first == x->end;
}

#endif /* TD_WINDOW_H */
