/* Fine-tuning of the tail in f32: softmax cross-entropy, SGD with batch 1 in place.
 *
 * Every loop runs in index order and the build forbids contraction, so that a host and a soft-float
 * board compute the same bits. */
#include "td_internal.h"

static uint32_t widest(const td_model *model)
{
    uint32_t width = 0;
    for (uint32_t l = 0; l < model->n_tail; l++) {
        if (model->tail[l].n_out > width) width = model->tail[l].n_out;
    }
    return width;
}

static uint32_t layer_parameters(const td_dense *layer)
{
    return (uint32_t)layer->n_out * ((uint32_t)layer->n_in + 1u);
}

static uint32_t count_parameters(const td_model *model)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < model->n_tail; l++) n += layer_parameters(&model->tail[l]);
    return n;
}

static uint32_t count_activations(const td_model *model)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < model->n_tail; l++) n += model->tail[l].n_out;
    return n;
}

uint32_t td_trainer_size(const td_model *model)
{
    uint32_t floats = count_parameters(model) + count_activations(model) + 2u * widest(model);
    return floats * (uint32_t)sizeof(float);
}

/* The layer as the model file has it: weights, then biases. */
static void load_layer(const td_dense *layer, float *parameters)
{
    const int8_t *stored = (const int8_t *)layer->weights;
    for (uint32_t row = 0; row < layer->n_out; row++) {
        float scale = td_get_f32(layer->scales + 4u * row);
        for (uint32_t column = 0; column < layer->n_in; column++) *parameters++ = scale * (float)*stored++;
    }
    for (uint32_t row = 0; row < layer->n_out; row++) *parameters++ = td_get_f32(layer->bias + 4u * row);
}

int td_trainer_init(td_trainer *trainer, const td_model *model, const td_train_config *config,
                    void *memory, uint32_t size)
{
    if (model->n_tail == 0) return TD_E_UNSUPPORTED;
    if (!(config->learning_rate >= 0.0f && config->learning_rate <= 1e6f) ||
        !(config->l2 >= 0.0f && config->l2 <= 1e6f) || config->reserved != 0)
        return TD_E_ARGUMENT;
    if (size < td_trainer_size(model)) return TD_E_MEMORY;
    trainer->model = model;
    trainer->config = *config;
    if (trainer->config.learning_rate == 0.0f) trainer->config.learning_rate = 0.05f;
    trainer->n_parameters = count_parameters(model);
    trainer->parameters = (float *)memory;
    trainer->activations = trainer->parameters + trainer->n_parameters;
    trainer->deltas = trainer->activations + count_activations(model);
    float *parameters = trainer->parameters;
    for (uint32_t l = 0; l < model->n_tail; l++) {
        load_layer(&model->tail[l], parameters);
        parameters += layer_parameters(&model->tail[l]);
    }
    td_trainer_reset_range(trainer);
    return TD_OK;
}

void td_trainer_reset_range(td_trainer *trainer)
{
    trainer->logit_min = 0.0f;
    trainer->logit_max = 0.0f;
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

static void forward_layer(const td_dense *layer, const float *weights, const float *x, float *y)
{
    uint32_t n_in = layer->n_in, n_out = layer->n_out, row = 0;
    memcpy(y, weights + (size_t)n_out * n_in, n_out * sizeof *y);
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

static uint32_t largest(const float *values, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (values[i] > values[best]) best = i;
    }
    return best;
}

/* Leaves the layers' outputs in activations, the last as logits; returns the last layer's outputs. */
static float *forward(td_trainer *trainer, const float *x)
{
    const td_model *model = trainer->model;
    const float *parameters = trainer->parameters;
    float *y = trainer->activations;
    for (uint32_t l = 0;; l++) {
        const td_dense *layer = &model->tail[l];
        forward_layer(layer, parameters, x, y);
        if (l + 1 == model->n_tail) break;
        parameters += layer_parameters(layer);
        x = y;
        y += layer->n_out;
    }
    for (uint32_t i = 0; i < model->tail[model->n_tail - 1].n_out; i++) {
        if (y[i] < trainer->logit_min) trainer->logit_min = y[i];
        if (y[i] > trainer->logit_max) trainer->logit_max = y[i];
    }
    return y;
}

/* In place: logits become probabilities. Returns the loss -log p[label]. */
static float softmax(float *y, uint32_t n, uint32_t label)
{
    float top = y[largest(y, n)], of_label = y[label] - top, sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        y[i] = td_expf(y[i] - top);
        sum += y[i];
    }
    float scale = 1.0f / sum;
    for (uint32_t i = 0; i < n; i++) y[i] *= scale;
    return td_logf(sum) - of_label;
}

int td_trainer_predict(td_trainer *trainer, const float *x, uint32_t label, float *loss)
{
    const td_model *model = trainer->model;
    uint32_t n_classes = model->tail[model->n_tail - 1].n_out;
    float *y = forward(trainer, x);
    int predicted = (int)largest(y, n_classes);
    if (loss) {
        if (label >= n_classes) return TD_E_RANGE;
        *loss = softmax(y, n_classes, label);
    }
    return predicted;
}

/* to += factor * from */
static void add_scaled(float *to, const float *from, float factor, uint32_t n)
{
    const float *end = from + n, *whole = from + (n & ~(uint32_t)3);
    while (from != whole) add_block(&to, &from, factor);
    while (from != end) *to++ += factor * *from++;
}

static void pull_back(const td_dense *layer, uint32_t row, float *w, float decay)
{
    const int8_t *stored = (const int8_t *)layer->weights + (size_t)row * layer->n_in;
    float scale = td_get_f32(layer->scales + 4u * row);
    for (uint32_t i = 0; i < layer->n_in; i++) w[i] -= decay * (w[i] - scale * (float)stored[i]);
}

/* With delta = dL/dy: dL/dx goes to *down (when wanted), then the weights take their step. Units without a gradient,
 * such as those that a ReLU holds at 0, change nothing and cost nothing. */
static void backward_layer(const td_dense *layer, const td_train_config *config, float *weights, const float *x,
                           const float *delta, float *down)
{
    float rate = config->learning_rate, decay = config->l2 * rate;
    uint32_t n_in = layer->n_in;
    float *w = weights, *bias = weights + (size_t)layer->n_out * n_in;
    if (down) memset(down, 0, n_in * sizeof *down);
    for (uint32_t row = 0; row < layer->n_out; row++, w += n_in) {
        float step = rate * delta[row];
        if (down && delta[row] != 0.0f) add_scaled(down, w, delta[row], n_in);
        if (decay != 0.0f) pull_back(layer, row, w, decay);
        if (step == 0.0f) continue;
        add_scaled(w, x, -step, n_in);
        bias[row] -= step;
    }
}

int td_trainer_step(td_trainer *trainer, const float *x, uint32_t label, float weight, float *loss)
{
    const td_model *model = trainer->model;
    const td_dense *last = &model->tail[model->n_tail - 1];
    if (label >= last->n_out) return TD_E_RANGE;
    float *y = forward(trainer, x);
    int predicted = (int)largest(y, last->n_out);
    *loss = softmax(y, last->n_out, label);

    float *delta = trainer->deltas, *spare = trainer->deltas + widest(model);
    for (uint32_t i = 0; i < last->n_out; i++) delta[i] = weight * (y[i] - (i == label ? 1.0f : 0.0f));
    float *parameters = trainer->parameters + trainer->n_parameters;
    for (uint32_t l = model->n_tail; l-- > 0;) {
        const td_dense *layer = &model->tail[l];
        parameters -= layer_parameters(layer);
        const float *input = l == 0 ? x : y - model->tail[l - 1].n_out;
        backward_layer(layer, &trainer->config, parameters, input, delta, l == 0 ? NULL : spare);
        if (l == 0) break;
        y -= model->tail[l - 1].n_out;
        for (uint32_t i = 0; i < layer->n_in; i++) {
            if (model->tail[l - 1].activation == TD_ACT_RELU && !(y[i] > 0.0f)) spare[i] = 0.0f;
        }
        float *swap = delta;
        delta = spare;
        spare = swap;
    }
    return predicted;
}
