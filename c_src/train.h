/* Shared by the files of the trainer: layers, losses, updates. */
#ifndef TD_TRAIN_H
#define TD_TRAIN_H

#include "td_internal.h"

/* What a step is to come nearer to: `values` (n_out of them), or where that is NULL a class. */
typedef struct td_target {
    const float *values;
    uint32_t label;
} td_target;

/* dense.c: a dense layer in f32. parameters: its weights row by row, then its biases. */
uint32_t td_dense_parameters(const td_dense *layer);
void td_dense_load(const td_dense *layer, float *parameters);
void td_dense_forward(const td_dense *layer, const float *parameters, const float *x, float *y);
/* With delta = dL/dy behind the activation's derivative: dL/dx to *down (may be NULL), and factor * dL/dparameters
 * onto *into (may be NULL), which may be the parameters themselves; then each row is also pulled back by `decay`. */
void td_dense_backward(const td_dense *layer, const float *parameters, const float *x, const float *delta, float *down,
                       float *into, float factor, float decay);
/* into += factor * (weights - weights before training), the biases left out. */
void td_dense_pull(const td_dense *layer, const float *parameters, float *into, float factor);
/* Steps in place with each value of the gradient, l2 included, kept within -clip..clip. */
void td_dense_step_clipped(const td_dense *layer, float *parameters, const float *x, const float *delta, float rate,
                           float l2, float clip);
/* Squared length of the layer's gradient: that of an outer product. */
float td_dense_norm(const td_dense *layer, const float *x, const float *delta);
/* to += factor * from */
void td_add_scaled(float *to, const float *from, float factor, uint32_t n);

/* loss.c: what the tail's n outputs y lose; a cross-entropy makes probabilities of them, in place. */
float td_loss_value(uint8_t loss, float *y, uint32_t n, const td_target *target);
/* weight * dL/d(outputs), from y as td_loss_value left it. */
void td_loss_delta(uint8_t loss, const float *y, uint32_t n, const td_target *target, float weight, float *delta);

/* optimise.c: updates the parameters with the mean gradient of the batch's steps, then starts the next batch. */
void td_optimise(td_trainer *trainer);
/* What keeps a gradient with this squared length within clip. */
float td_clip_factor(float squares, float clip);

/* fixed.c: the tail in integers. */
uint32_t td_fixed_size(const td_model *model);
/* In td_fixed_size bytes of memory, aligned to 8; loads the parameters. */
void td_fixed_init(td_trainer *trainer, void *memory);
/* Leaves the outputs in trainer->activations. */
void td_fixed_forward(td_trainer *trainer, const float *x);
/* One step of SGD in place with delta = dL/d(outputs), after td_fixed_forward. */
void td_fixed_backward(td_trainer *trainer, const float *delta);
float td_fixed_get(const td_trainer *trainer, uint32_t index);
void td_fixed_set(td_trainer *trainer, uint32_t index, float value);

#endif /* TD_TRAIN_H */
