/* The requests that a board answers (docs/SPEC.md, "Commands"), apart from link and hardware. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "td.h"
#include "td_port.h"

enum td_command_limits {
    TD_COMMAND_VERSION = 2,
    TD_CHUNK = 240              /* largest piece of data in one request or reply, bytes */
};

enum td_command {
    TD_CMD_HELLO = 0,
    TD_CMD_BEGIN = 1,
    TD_CMD_DATA = 2,
    TD_CMD_COMMIT = 3,
    TD_CMD_INFO = 4,
    TD_CMD_READ = 5,
    TD_CMD_INPUT = 6,
    TD_CMD_TRAIN_BEGIN = 7,
    TD_CMD_TRAIN_EPOCH = 8,
    TD_CMD_TRAIN_STATUS = 9,
    TD_CMD_TRAIN_FINISH = 10,
    TD_CMD_RESET_WEIGHTS = 11,
    TD_CMD_STATS = 12,
    TD_CMD_RESET = 13,
    TD_CMD_TRAIN_CHECK = 14,
    TD_CMD_TRAIN_KEEP = 15,
    TD_CMD_FORGET = 16,
    TD_N_COMMANDS = 17
};

/* What can be read back besides the objects of the store. */
enum td_source { TD_SOURCE_WEIGHTS = 16, TD_SOURCE_EMBEDDING = 17 };

enum td_train_state {
    TD_TRAIN_IDLE = 0,          /* no train_begin since the last change of model or data */
    TD_TRAIN_READY = 1,         /* waits for train_epoch or train_finish */
    TD_TRAIN_EPOCH = 2,         /* an epoch runs */
    TD_TRAIN_RANGE = 3,         /* train_finish measures the range of the logits */
    TD_TRAIN_SAVED = 4,         /* the weights are in their slot */
    TD_TRAIN_FAILED = 5,        /* `error` says why */
    TD_TRAIN_CHECK = 6          /* what is held back is predicted */
};

/* Facts of the board that hello and stats report. */
typedef struct td_board {
    const char *id;
    const char *build;
    td_memory memory;
    uint32_t capacity[TD_N_OBJECTS];
    uint64_t (*ticks)(void);
    uint32_t (*stack_used)(void);
    uint32_t fault;             /* program counter of the fault before this start, 0: none */
} td_board;

typedef struct td_training {
    td_pack train, replay;
    td_sampler sampler;
    uint8_t state;              /* enum td_train_state */
    int8_t error;               /* enum td_status, with state FAILED */
    uint32_t epoch, done, total;
    uint32_t n_correct;
    float loss_sum;             /* over the samples done */
    uint64_t ticks;             /* of the samples done in this epoch */
    uint32_t sequence;          /* of the slot written last */
} td_training;

typedef struct td_commands {
    td_board board;
    td_store store;
    td_model model;
    td_trainer trainer;
    td_training training;
    bool has_model;
    bool has_embedding;
    bool reset_wanted;          /* the main loop resets after it has sent the reply */
    uint8_t *tensors;           /* model.arena_size bytes at the start of the arena */
    float *x;                   /* one embedding in real values, after the trainer's memory */
    int32_t *row;               /* scratch of the sampler: embedding_size entries */
    uint32_t trainer_size;
    uint32_t n_input;           /* bytes of the window received so far */
    uint64_t infer_ticks;       /* of the last inference */
    float logit_min, logit_max; /* over the training samples, with the weights as saved */
    uint8_t failed_object;      /* which object the running command was about */
} td_commands;

/* Mounts the store, opens the model and its newest weights when there are some. */
int td_commands_init(td_commands *commands, const td_board *board, const td_flash *flash);

/* Answers one request; returns the bytes of the reply, at most `capacity` (TD_LINK_MTU). */
uint32_t td_commands_answer(td_commands *commands, const uint8_t *request, uint32_t size, uint8_t *reply,
                            uint32_t capacity);

/* One sample of a pass, when training runs; false: there is nothing to do. */
bool td_commands_work(td_commands *commands);

#endif /* COMMANDS_H */
