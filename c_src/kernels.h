/* Internal: the kernels of the frozen part. model.c checks every geometry before a kernel runs. */
#ifndef TD_KERNELS_H
#define TD_KERNELS_H

#include "td.h"

/* Values of an operator record's kind (docs/SPEC.md, ".tdm"). */
enum td_op_kind {
    TD_OP_CONV = 1,
    TD_OP_DEPTHWISE = 2,
    TD_OP_AVERAGE_POOL = 3,
    TD_OP_MAX_POOL = 4,
    TD_OP_ADD = 5,
    TD_OP_MEAN = 6,
    TD_OP_DENSE = 7,            /* a 1x1 convolution that rounds once, as the reference's dense kernel does */
    TD_OP_TABLE = 8,            /* 256 results, for inputs -128 .. 127 */
    TD_OP_SOFTMAX = 9,          /* over the channels; 256 terms of 32 bits */
    TD_OP_SUB = 10,
    TD_OP_MUL = 11,
    TD_OP_COPY = 12,            /* a box of values, with steps of its own through input and output */
    TD_OP_FILL = 13,            /* with the output's zero point */
    TD_OP_RESCALE = 14,         /* int8 or int16 to int8 or int16, with a slope for each sign */
    TD_OP_LOGISTIC = 15,        /* int16 only */
    TD_OP_TANH = 16,            /* int16 only */
    TD_OP_SVDF = 17,            /* these two keep a state from run to run */
    TD_OP_LSTM = 18,
    TD_OP_CONVERT = 19          /* integers to f32, or f32 to integers */
};

/* The box of a COPY, as it lies in the data section: 14 i32. */
enum td_box {
    TD_BOX_COUNTS = 0,          /* 4, outermost first */
    TD_BOX_INPUT = 4,           /* index of the first value, then 4 steps */
    TD_BOX_OUTPUT = 9,          /* the same */
    TD_BOX_SIZE = 56            /* bytes */
};

/* An activation in the arena, height x width x channels, channels innermost. */
typedef struct td_tensor {
    int8_t *data;               /* aligned to the size of a value */
    int32_t h, w, c;
    uint32_t type;              /* enum td_type */
} td_tensor;

/* Bytes of a value; 0 for a type that is not one. */
static inline uint32_t td_type_size(uint32_t type)
{
    return type <= TD_FLOAT32 ? (uint32_t)1 << type : 0;
}

/* One direction of a sliding window. A tap t of output position p reads p * stride - pad + t * dilation. */
typedef struct td_axis {
    int32_t taps, stride, dilation, pad;
} td_axis;

typedef struct td_op {
    uint32_t kind;
    td_axis y, x;
    int32_t input_zero_point, output_zero_point;
    int32_t min, max;           /* of the output, from the fused activation */
    const int8_t *weights;      /* per output channel: kernel_h x kernel_w x (input channels, or 1) */
    const uint8_t *channels;    /* n biases i32, n multipliers i32, n shifts i8 */
} td_op;

/* TD_OP_CONV and TD_OP_DENSE. */
void td_conv(const td_op *op, const td_tensor *in, const td_tensor *out);
void td_depthwise(const td_op *op, const td_tensor *in, const td_tensor *out);
/* TD_OP_AVERAGE_POOL and TD_OP_MAX_POOL. */
void td_pool(const td_op *op, const td_tensor *in, const td_tensor *out);
void td_add(const td_op *op, const td_tensor *a, const td_tensor *b, const td_tensor *out);
void td_mean(const td_op *op, const td_tensor *in, const td_tensor *out);
/* Largest number of channels of a softmax: their sum stays within 31 bits. */
enum { TD_SOFTMAX_CHANNELS = 4095 };

/* elementwise.c */
/* TD_OP_ADD, TD_OP_SUB and TD_OP_MUL; a dimension of 1 goes with any size of the other input. */
void td_combine(const td_op *op, const td_tensor *a, const td_tensor *b, const td_tensor *out);
/* TD_OP_COPY of values of any one type. */
void td_copy(const td_op *op, const td_tensor *in, const td_tensor *out);
/* TD_OP_FILL; of types wider than int8 with zero. */
void td_fill(const td_op *op, const td_tensor *out);
/* TD_OP_CONVERT. Weights: f32 scale and i32 zero point of the integers. */
void td_convert(const td_op *op, const td_tensor *in, const td_tensor *out);
void td_table(const td_op *op, const td_tensor *in, const td_tensor *out);
void td_softmax(const td_op *op, const td_tensor *in, const td_tensor *out);

/* kernels_int16.c: any operator but COPY and FILL whose output is int16. */
void td_run_int16(const td_op *op, const td_tensor *in, const td_tensor *in_b, const td_tensor *out);
/* TD_OP_RESCALE, whatever its types. */
void td_rescale(const td_op *op, const td_tensor *in, const td_tensor *out);
enum { TD_CURVE_SIZE = 1026 };  /* bytes of the 513 points of a curve */

/* recurrent.c: int8 in and out. The state of SVDF is filters x memory int16, those of LSTM are the cells' int16 and the
 * last outputs' int8. */
void td_svdf(const td_op *op, const td_tensor *in, const td_tensor *state, const td_tensor *out);
void td_lstm(const td_op *op, const td_tensor *in, const td_tensor *cells, const td_tensor *last, const td_tensor *out);

#endif /* TD_KERNELS_H */
