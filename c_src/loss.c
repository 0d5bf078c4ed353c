/* Losses of the tail's outputs: softmax cross-entropy and mean square. */
#include "train.h"

static float target_of(const td_target *target, uint32_t i)
{
    return target->values ? target->values[i] : i == target->label ? 1.0f : 0.0f;
}

/* In place: logits become probabilities. */
static float cross_entropy(float *y, uint32_t n, const td_target *target)
{
    float top = y[0], of_target = 0.0f, share = 1.0f, sum = 0.0f;
    for (uint32_t i = 1; i < n; i++) {
        if (y[i] > top) top = y[i];
    }
    if (target->values) {
        share = 0.0f;
        for (uint32_t i = 0; i < n; i++) {
            of_target += target->values[i] * (y[i] - top);
            share += target->values[i];
        }
    } else {
        of_target = y[target->label] - top;
    }
    for (uint32_t i = 0; i < n; i++) {
        y[i] = td_expf(y[i] - top);
        sum += y[i];
    }
    float scale = 1.0f / sum;
    for (uint32_t i = 0; i < n; i++) y[i] *= scale;
    return share * td_logf(sum) - of_target;
}

static float mean_square(const float *y, uint32_t n, const td_target *target)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        float difference = y[i] - target_of(target, i);
        sum += difference * difference;
    }
    return sum / (float)n;
}

float td_loss_value(uint8_t loss, float *y, uint32_t n, const td_target *target)
{
    return TD_TRAIN_OPTIONS && loss == TD_LOSS_MEAN_SQUARE ? mean_square(y, n, target) : cross_entropy(y, n, target);
}

void td_loss_delta(uint8_t loss, const float *y, uint32_t n, const td_target *target, float weight, float *delta)
{
    if (TD_TRAIN_OPTIONS && loss == TD_LOSS_MEAN_SQUARE) {
        weight *= 2.0f / (float)n;
        for (uint32_t i = 0; i < n; i++) delta[i] = weight * (y[i] - target_of(target, i));
    } else if (!target->values) {
        for (uint32_t i = 0; i < n; i++) delta[i] = weight * (y[i] - (i == target->label ? 1.0f : 0.0f));
    } else { /* shares need not add up to 1 */
        float share = 0.0f;
        for (uint32_t i = 0; i < n; i++) share += target->values[i];
        for (uint32_t i = 0; i < n; i++) delta[i] = weight * (share * y[i] - target->values[i]);
    }
}
