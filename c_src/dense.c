/* Dense layers of the trainable tail in f32.
 *
 * Every loop runs in index order and the build forbids contraction, so that a host and a soft-float
 * board compute the same bits. */
#include "train.h"

uint32_t td_dense_parameters(const td_dense *layer)
{
    return (uint32_t)layer->n_out * ((uint32_t)layer->n_in + 1u);
}

void td_dense_load(const td_dense *layer, float *parameters)
{
    const int8_t *stored = (const int8_t *)layer->weights;
    for (uint32_t row = 0; row < layer->n_out; row++) {
        float scale = td_get_f32(layer->scales + 4u * row);
        for (uint32_t column = 0; column < layer->n_in; column++) *parameters++ = scale * (float)*stored++;
    }
    for (uint32_t row = 0; row < layer->n_out; row++) *parameters++ = td_get_f32(layer->bias + 4u * row);
}

#if defined(__thumb2__) && defined(__ARM_FP) && (__ARM_FP & 4)
/* A Cortex-M with an FPU spends more on loading than on computing, and one instruction loads four floats; no C says so.
 * Products and sums are rounded one by one, as in C: the same bits. Four columns of two rows: */
static inline void dot_block(const float **x, const float **w, const float **v, float *of_w, float *of_v)
{
    __asm("vldmia %[x]!, {s0-s3}\n\t"
          "vldmia %[w]!, {s4-s7}\n\t"
          "vldmia %[v]!, {s8-s11}\n\t"
          "vmul.f32 s4, s4, s0\n\t"
          "vmul.f32 s8, s8, s0\n\t"
          "vmul.f32 s5, s5, s1\n\t"
          "vmul.f32 s9, s9, s1\n\t"
          "vmul.f32 s6, s6, s2\n\t"
          "vmul.f32 s10, s10, s2\n\t"
          "vmul.f32 s7, s7, s3\n\t"
          "vmul.f32 s11, s11, s3\n\t"
          "vadd.f32 %[a], %[a], s4\n\t"
          "vadd.f32 %[b], %[b], s8\n\t"
          "vadd.f32 %[a], %[a], s5\n\t"
          "vadd.f32 %[b], %[b], s9\n\t"
          "vadd.f32 %[a], %[a], s6\n\t"
          "vadd.f32 %[b], %[b], s10\n\t"
          "vadd.f32 %[a], %[a], s7\n\t"
          "vadd.f32 %[b], %[b], s11"
          : [x] "+r"(*x), [w] "+r"(*w), [v] "+r"(*v), [a] "+t"(*of_w), [b] "+t"(*of_v)
          :
          : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "memory");
}

/* to[0..3] += factor * from[0..3] */
static inline void add_block(float **to, const float **from, float factor)
{
    __asm volatile("vldmia %[from]!, {s0-s3}\n\t"
                   "vldmia %[to], {s4-s7}\n\t"
                   "vmul.f32 s0, s0, %[factor]\n\t"
                   "vmul.f32 s1, s1, %[factor]\n\t"
                   "vmul.f32 s2, s2, %[factor]\n\t"
                   "vmul.f32 s3, s3, %[factor]\n\t"
                   "vadd.f32 s4, s4, s0\n\t"
                   "vadd.f32 s5, s5, s1\n\t"
                   "vadd.f32 s6, s6, s2\n\t"
                   "vadd.f32 s7, s7, s3\n\t"
                   "vstmia %[to]!, {s4-s7}"
                   : [to] "+r"(*to), [from] "+r"(*from)
                   : [factor] "t"(factor)
                   : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "memory");
}
#else
static inline void dot_block(const float **x, const float **w, const float **v, float *of_w, float *of_v)
{
    for (int i = 0; i < 4; i++) {
        float value = *(*x)++;
        *of_w += *(*w)++ * value;
        *of_v += *(*v)++ * value;
    }
}

static inline void add_block(float **to, const float **from, float factor)
{
    for (int i = 0; i < 4; i++) *(*to)++ += factor * *(*from)++;
}
#endif

/* Two rows of w . x at once load each x once. Each row's terms are added in index order, as everywhere. */
static void dot_pair(const float *w, const float *v, const float *x, uint32_t n, float *of_w, float *of_v)
{
    float a = *of_w, b = *of_v;
    const float *end = x + n, *whole = x + (n & ~(uint32_t)3);
    while (x != whole) dot_block(&x, &w, &v, &a, &b);
    while (x != end) {
        a += *w++ * *x;
        b += *v++ * *x++;
    }
    *of_w = a;
    *of_v = b;
}

void td_dense_forward(const td_dense *layer, const float *parameters, const float *x, float *y)
{
    uint32_t n_in = layer->n_in, n_out = layer->n_out, row = 0;
    const float *weights = parameters;
    memcpy(y, weights + (size_t)n_out * n_in, (size_t)n_out * sizeof *y);
    for (; row + 1u < n_out; row += 2u, weights += 2u * n_in) {
        dot_pair(weights, weights + n_in, x, n_in, y + row, y + row + 1);
    }
    float unused = 0.0f;
    if (row < n_out) dot_pair(weights, weights, x, n_in, y + row, &unused);
    if (layer->activation != TD_ACT_RELU) return;
    for (row = 0; row < n_out; row++) {
        if (y[row] < 0.0f) y[row] = 0.0f;
    }
}

static inline void add_scaled(float *to, const float *from, float factor, uint32_t n)
{
    const float *end = from + n, *whole = from + (n & ~(uint32_t)3);
    while (from != whole) add_block(&to, &from, factor);
    while (from != end) *to++ += factor * *from++;
}

void td_add_scaled(float *to, const float *from, float factor, uint32_t n)
{
    add_scaled(to, from, factor, n);
}

/* One row of td_dense_pull. */
static void pull_row(const td_dense *layer, uint32_t row, const float *w, float *into, float factor)
{
    const int8_t *stored = (const int8_t *)layer->weights + (size_t)row * layer->n_in;
    float scale = td_get_f32(layer->scales + 4u * row);
    for (uint32_t i = 0; i < layer->n_in; i++) into[i] += factor * (w[i] - scale * (float)stored[i]);
}

void td_dense_pull(const td_dense *layer, const float *parameters, float *into, float factor)
{
    for (uint32_t row = 0; row < layer->n_out; row++) {
        pull_row(layer, row, parameters + (size_t)row * layer->n_in, into + (size_t)row * layer->n_in, factor);
    }
}

/* Units without a gradient, such as those that a ReLU holds at 0, change nothing and cost nothing. */
void td_dense_backward(const td_dense *layer, const float *parameters, const float *x, const float *delta, float *down,
                       float *into, float factor, float decay)
{
    uint32_t n_in = layer->n_in;
    const float *w = parameters;
    float *bias = into ? into + (size_t)layer->n_out * n_in : NULL;
    if (down) memset(down, 0, (size_t)n_in * sizeof *down);
    for (uint32_t row = 0; row < layer->n_out; row++, w += n_in) {
        if (down && delta[row] != 0.0f) add_scaled(down, w, delta[row], n_in);
        if (!into) continue;
        float step = factor * delta[row];
        if (decay != 0.0f) pull_row(layer, row, w, into, -decay);
        if (step != 0.0f) {
            add_scaled(into, x, step, n_in);
            bias[row] += step;
        }
        into += n_in;
    }
}

static float clamp(float value, float most)
{
    return value > most ? most : value < -most ? -most : value;
}

void td_dense_step_clipped(const td_dense *layer, float *parameters, const float *x, const float *delta, float rate,
                           float l2, float clip)
{
    const int8_t *stored = (const int8_t *)layer->weights;
    float *w = parameters, *bias = parameters + (size_t)layer->n_out * layer->n_in;
    for (uint32_t row = 0; row < layer->n_out; row++) {
        float scale = td_get_f32(layer->scales + 4u * row);
        for (uint32_t i = 0; i < layer->n_in; i++, w++) {
            float gradient = delta[row] * x[i];
            if (l2 != 0.0f) gradient += l2 * (*w - scale * (float)*stored);
            stored++;
            *w -= rate * clamp(gradient, clip);
        }
        bias[row] -= rate * clamp(delta[row], clip);
    }
}

static float squares(const float *values, uint32_t n)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) sum += values[i] * values[i];
    return sum;
}

float td_dense_norm(const td_dense *layer, const float *x, const float *delta)
{
    return squares(delta, layer->n_out) * (squares(x, layer->n_in) + 1.0f);
}
