/*
 * TinyDream core: the one public header.
 *
 * C99, freestanding: no malloc, no global state, no libc beyond stdint/stddef/stdbool/string.
 * The same sources serve the host (through cffi) and the firmware. The journey of a sample:
 *
 *   rows -> bitplan.c/encode.c -> .tdz -> store.c (flash) -> open.c, decode.c (rows) -> samples.c, sampler.c -\
 *   .tdm -> model.c/kernels.c (frozen int8 part) -> embedding --------------------------> train.c
 *   link.c carries every byte between host and board; file.c holds the sections of .tdz and .tdm.
 *
 * Conventions
 * - Memory comes from the caller: `td_x_size(...)` says how much, `td_x_init(...)` takes it.
 *   Memory handed over must be aligned to 8 bytes.
 * - Functions that can fail return enum td_status: 0 ok, positive "go on", negative an error.
 * - Bytes from outside are checked once, whole, when opened; afterwards nothing reads past them.
 * - All files and frames are little-endian; bytes are read one by one, so alignment and the
 *   host's byte order never matter. Reserved bytes must be zero.
 *
 * Everything between the cdef marks is also read by cffi: no directives, macros or inline
 * functions there.
 */
#ifndef TD_H
#define TD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "td_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* cdef-begin */

/* ------------------------------------------------------------------ common */

/* Version of this library (0xMMmmpp) and of each thing it stores or sends. They move apart. */
enum td_versions {
    TD_VERSION = 0x000100,
    TD_FILE_FORMAT = 1,
    TD_LINK_FORMAT = 1,
    TD_STORE_FORMAT = 1
};

enum td_status {
    TD_OK = 0,
    TD_NEED_INPUT = 1,        /* give more bytes, then call again */
    TD_E_ARGUMENT = -1,       /* the caller passed something that no valid call passes */
    TD_E_MEMORY = -2,         /* the memory handed over is too small */
    TD_E_FORMAT = -3,         /* the bytes are not what their magic or structure promises */
    TD_E_VERSION = -4,        /* a format version that this build does not know */
    TD_E_CRC = -5,            /* a checksum does not match: the bytes were damaged */
    TD_E_RANGE = -6,          /* a value outside its declared range (a label, a feature, an index) */
    TD_E_UNSUPPORTED = -7,    /* valid, but not built into this core */
    TD_E_STATE = -8,          /* called in the wrong order */
    TD_E_FULL = -9,           /* no room left in the output, the store or the frame */
    TD_E_NOT_FOUND = -10,     /* no such section, object or slot */
    TD_E_FLASH = -11,         /* the flash driver failed or a read-back differs */
    TD_E_CALLBACK = -100      /* -100..-128: passed through from the caller's own functions */
};

/* A short name of a status, e.g. "crc"; never NULL. */
const char *td_status_name(int status);

/* CRC-32 (ISO-HDLC: polynomial 0xEDB88320 reflected, init and final xor all ones). Start with
 * crc = 0; feed the result back in to go on. */
uint32_t td_crc32(uint32_t crc, const uint8_t *bytes, size_t size);

/* Exponential and natural logarithm in f32, the same bits on every machine (plain IEEE-754 single
 * operations in one order). td_expf: relative error below 2e-7 for |x| <= 87, clamped outside.
 * td_logf: normal x > 0, error below 2e-7 of the larger of 1 and the result. Both hand NaN on. */
float td_expf(float x);
float td_logf(float x);
/* Square root of x >= 0, rounded to nearest: the same bits everywhere. */
float td_sqrtf(float x);

/* A 32-bit xorshift generator; state must not be 0. Returns the next state. */
uint32_t td_random(uint32_t state);

/* -------------------------------------------------------------------- file
 * The container of .tdz and .tdm (docs/SPEC.md, "Section file"): header, section table, sections.
 */
enum td_magic {
    TD_MAGIC_PACK = 0x315A4454,   /* "TDZ1" */
    TD_MAGIC_MODEL = 0x314D4454   /* "TDM1" */
};

enum td_file_limits { TD_FILE_HEADER = 16, TD_FILE_ENTRY = 16, TD_FILE_MAX_SECTIONS = 32 };

typedef struct td_section {
    uint32_t kind;          /* meaning depends on the magic */
    const uint8_t *data;    /* borrowed */
    uint32_t size;          /* bytes */
} td_section;

typedef struct td_file {
    const uint8_t *data;    /* borrowed: must outlive the td_file */
    uint32_t size;          /* bytes of the whole file, as its header says */
} td_file;

/* Bytes needed for a file with these sections; 0xFFFFFFFF when that is too much for one. */
uint32_t td_file_size(const td_section *sections, uint32_t n_sections);
/* Writes header, table and sections (each 4-byte aligned). TD_E_FULL when capacity is too small. */
int td_file_write(uint32_t magic, const td_section *sections, uint32_t n_sections,
                  uint8_t *out, uint32_t capacity);
/* Writes the header and the table alone, for a file that is written piece by piece: of `sections` kind and size count,
 * crcs[i] is the CRC-32 of section i's bytes. out: TD_FILE_HEADER + n_sections * TD_FILE_ENTRY bytes. TD_E_ARGUMENT for
 * too many sections, TD_E_FULL when they are too large for one file. */
int td_file_head(uint32_t magic, const td_section *sections, const uint32_t *crcs, uint32_t n_sections, uint8_t *out);
/* Checks magic, version, bounds and every CRC. TD_E_FORMAT, TD_E_VERSION, TD_E_CRC; TD_E_UNSUPPORTED for a size that
 * size_t cannot hold. `size` may be
 * larger than the file (a flash partition); never smaller. */
int td_file_open(td_file *file, uint32_t magic, const uint8_t *data, uint32_t size);
/* Of a file that td_file_open refuses: the kind of the first section that is out of place or whose CRC is wrong; 0 when
 * it is the header or the table. */
uint32_t td_file_damaged(uint32_t magic, const uint8_t *data, uint32_t size);
/* TD_E_NOT_FOUND when there is no section of that kind. */
int td_file_section(const td_file *file, uint32_t kind, td_section *out);

/* -------------------------------------------------------------------- link
 * Frames over any byte pipe, and at-most-once requests on top (docs/SPEC.md, "Link").
 * Wire: 0x00, COBS(header, payload, CRC-32 of both), 0x00. Header: kind u8, flags u8 (0),
 * id u16, session u32 (not 0). The client keeps one request in flight; the server answers a repeated
 * id from its reply cache without applying it again. Ids of a session: 1 (the hello), 2, .. 65535, 2, ..
 */
enum td_link_limits {
    TD_LINK_HEADER = 8,
    TD_LINK_MTU = 256,          /* largest payload, bytes */
    TD_LINK_RAW = 268,          /* header + payload + CRC */
    TD_LINK_WIRE = 272          /* the same as COBS, with both delimiters */
};

enum td_frame_kind {
    TD_FRAME_REQUEST = 1,
    TD_FRAME_REPLY = 2,
    TD_FRAME_HELLO = 3,         /* opens a session: payload as a request's */
    TD_FRAME_NO_SESSION = 4     /* the board does not know that session: it was reset */
};

typedef struct td_frame {
    uint8_t kind;
    uint16_t id;
    uint32_t session;
    const uint8_t *payload;     /* inside the receiver's buffer */
    uint16_t size;              /* bytes of payload */
} td_frame;

/* Receives frames byte by byte. Holds one whole frame: the sender keeps one in flight. */
typedef struct td_receiver {
    uint8_t raw[TD_LINK_RAW];
    uint16_t n_raw;
    uint8_t left;               /* bytes left in the current COBS group */
    uint8_t group;              /* length of the current COBS group, 0 before the first */
    uint8_t bad;                /* 1: skip to the next delimiter */
    uint32_t n_crc_errors;      /* frames dropped: CRC or structure */
    uint32_t n_overruns;        /* frames dropped: longer than TD_LINK_RAW */
} td_receiver;

void td_receiver_init(td_receiver *rx);
/* One byte from the pipe. TD_OK: *frame is complete and stays valid until the next call.
 * TD_NEED_INPUT: go on. A damaged frame is dropped, counted and answered with TD_E_CRC,
 * TD_E_FORMAT or TD_E_FULL once; the receiver is then ready for the next frame. */
int td_receiver_byte(td_receiver *rx, uint8_t byte, td_frame *frame);

/* Bytes written to out (<= TD_LINK_WIRE), TD_E_FULL (payload above TD_LINK_MTU, or capacity below what
 * a payload of this size may need; TD_LINK_WIRE is always enough), TD_E_ARGUMENT (kind, session 0). The
 * payload must not overlap out. */
int td_frame_encode(const td_frame *frame, uint8_t *out, size_t capacity);

typedef struct td_server {
    uint32_t session;           /* 0: none yet */
    uint16_t last_id;
    bool busy;                  /* a request was handed out and not answered yet */
    uint16_t n_reply;           /* bytes of the cached reply on the wire, 0: none */
    uint8_t reply[TD_LINK_WIRE];
} td_server;

enum td_server_verdict {
    TD_SERVE_IGNORE = 0,        /* nothing to do (a stray or an old frame, or still busy with it) */
    TD_SERVE_APPLY = 1,         /* carry the request out, then call td_server_reply */
    TD_SERVE_SEND = 2           /* send server->reply (n_reply bytes) as it is */
};

void td_server_init(td_server *server);
/* What to do with a received frame: enum td_server_verdict, never an error. A hello opens a session (id
 * restarts); while none is open, and when requests in between were lost with a reset, a request is
 * answered with TD_FRAME_NO_SESSION (in server->reply: TD_SERVE_SEND). While busy everything is ignored:
 * the client repeats. Another program's session is ignored until it says hello. */
int td_server_receive(td_server *server, const td_frame *frame);
/* Stores and encodes the reply to the request handed out last; then send server->reply. TD_E_STATE
 * when none is owed, TD_E_FULL above TD_LINK_MTU (still owed: give a shorter one). The payload must not
 * overlap server->reply. */
int td_server_reply(td_server *server, const uint8_t *payload, size_t size);

typedef struct td_client {
    uint32_t session;
    uint16_t last_id;
    bool waiting;
} td_client;

enum td_client_verdict {
    TD_CLIENT_IGNORE = 0,
    TD_CLIENT_REPLY = 1,        /* frame->payload answers the request in flight */
    TD_CLIENT_LOST_SESSION = 2  /* the board was reset: open a new session */
};

/* session: any number but 0, fresh for every connection. */
void td_client_init(td_client *client, uint32_t session);
/* Encodes the next request (or the hello, for the first) into out; returns its bytes on the wire.
 * To repeat it, send the same bytes again. TD_E_STATE while one is still unanswered; other errors as
 * td_frame_encode, and then nothing is in flight. */
int td_client_request(td_client *client, const uint8_t *payload, size_t size, uint8_t *out, size_t capacity);
/* enum td_client_verdict. After TD_CLIENT_LOST_SESSION: td_client_init with a fresh session. */
int td_client_receive(td_client *client, const td_frame *frame);

/* ------------------------------------------------------------------- store
 * Objects (model, training set, replay set, weight slots) in flash partitions. A push is resumable
 * after a lost link or a reset, and an object is visible only when whole and checked
 * (docs/SPEC.md, "Store"). After a power cut at any program or erase, a partition holds the old
 * object, the new one or none. Flash that was never written may hold anything.
 */
enum td_object { TD_OBJECT_MODEL = 0, TD_OBJECT_TRAIN = 1, TD_OBJECT_REPLAY = 2,
                 TD_OBJECT_SLOT_A = 3, TD_OBJECT_SLOT_B = 4, TD_N_OBJECTS = 5 };

/* What a board must supply. Offsets count from the start of the store region. The functions return 0
 * or a status of -100..-128, which the store hands on; the store reads everything back itself. */
typedef struct td_flash {
    const uint8_t *base;        /* memory-mapped start of the region */
    uint32_t size;              /* bytes of the region */
    uint32_t erase_block;       /* bytes erased at once, a power of two, >= 64 */
    uint32_t program_unit;      /* bytes programmed at once, a power of two, <= 16; a unit is written once per erase */
    uint8_t erased;             /* value of an erased byte, 0xFF or 0x00 */
    int (*erase)(void *context, uint32_t offset);
    /* offset and size are whole units inside one erase block; bytes may be unaligned. */
    int (*program)(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size);
    void *context;
} td_flash;

typedef struct td_partition { uint32_t offset; uint32_t size; } td_partition;  /* both whole erase blocks */

typedef struct td_store {
    td_flash flash;
    td_partition partition[TD_N_OBJECTS];
    int32_t writing;            /* object being written, -1: none */
    uint32_t size;              /* bytes of the object being written */
    uint32_t crc;
    uint32_t sequence;
    uint32_t written;           /* bytes safely in flash so far */
} td_store;

/* Shares of the region: bytes wanted for each object's data (0: no partition); rounds up to erase
 * blocks and adds the head (usually one erase block). TD_E_FULL when the region is too small,
 * TD_E_ARGUMENT for a td_flash outside its limits. Writes nothing. */
int td_store_init(td_store *store, const td_flash *flash, const uint32_t capacity[TD_N_OBJECTS]);
/* Largest object, bytes, that fits the partition. */
uint32_t td_store_capacity(const td_store *store, int object);
/* Starts (or resumes) writing an object of `size` bytes (not 0) with this CRC-32. *resume_at: bytes
 * that are already there, from which the caller goes on: `size` when the very same object is stored
 * already, a multiple of the erase block after a reset, store->written after a lost link. The old
 * object in that partition ends here, unless it is the same (size, CRC and sequence). One object is
 * written at a time; beginning another leaves the first resumable. TD_E_FULL, TD_E_ARGUMENT, TD_E_FLASH. */
int td_store_begin(td_store *store, int object, uint32_t size, uint32_t crc, uint32_t sequence, uint32_t *resume_at);
/* Bytes at `offset`, which must be store->written (TD_E_STATE) or wholly before it (then ignored: a
 * repeat). size: a multiple of program_unit, unless the write reaches the object's end (TD_E_ARGUMENT).
 * TD_E_RANGE past the end. After TD_E_FLASH or the driver's own error: begin again. */
int td_store_write(td_store *store, uint32_t offset, const uint8_t *bytes, uint32_t size);
/* Reads back, checks the CRC and makes the object visible. TD_E_STATE when bytes are missing;
 * TD_E_CRC when the bytes are not what begin promised: they are dropped. */
int td_store_commit(td_store *store);
/* The object's data in mapped flash (aligned to an erase block); TD_E_NOT_FOUND when there is none, or
 * not whole; TD_E_CRC when it was whole and its bytes have changed since. Cost: a CRC of the data. */
int td_store_get(const td_store *store, int object, td_section *out, uint32_t *sequence);
int td_store_erase(td_store *store, int object);
/* The weight slot with the newest sequence number (TD_OBJECT_SLOT_A or _B), or TD_E_NOT_FOUND;
 * sequence may be NULL. */
int td_store_newest_slot(const td_store *store, td_section *out, uint32_t *sequence);
/* The slot to write next: not the newest. Give it the newest's sequence number plus one. */
int td_store_spare_slot(const td_store *store);

/* ------------------------------------------------------------------- model
 * A .tdm: the compiled plan of a .tflite (docs/SPEC.md, ".tdm"). model.c opens and runs it,
 * kernels.c computes.
 */
enum td_model_limits { TD_MAX_TENSORS = 64, TD_MAX_OPS = 64, TD_MAX_TAIL = 4 /* dense */,
                       TD_MAX_LAYERS = 32, TD_MAX_ARENA = 0x800000 };

/* What a tensor holds, in the machine's own byte order. */
enum td_type { TD_INT8 = 0, TD_INT16 = 1, TD_FLOAT32 = 2 };

/* Fused into an operator: the first four. All: an f32 operator of their own. */
enum td_activation { TD_ACT_NONE = 0, TD_ACT_RELU = 1, TD_ACT_RELU6 = 2, TD_ACT_RELU_N1_TO_1 = 3,
                     TD_ACT_LEAKY_RELU = 4, TD_ACT_HARD_SWISH = 5, TD_ACT_LOGISTIC = 6, TD_ACT_TANH = 7 };

/* One dense layer of the trainable tail: y = act(W x + b). */
typedef struct td_dense {
    uint16_t n_in;
    uint16_t n_out;
    uint8_t activation;         /* enum td_activation */
    const uint8_t *weights;     /* n_out x n_in int8, row-major, symmetric */
    const uint8_t *scales;      /* n_out f32: real weight = scale * int8 */
    const uint8_t *bias;        /* n_out f32 */
} td_dense;

typedef struct td_model {
    td_file file;
    const uint8_t *ops;         /* compiled operator records */
    const uint8_t *tensors;     /* tensor records */
    td_section data;            /* weights, biases, multipliers */
    uint32_t n_ops;
    uint32_t n_tensors;
    uint32_t arena_size;        /* bytes that td_model_run needs, 16-byte multiple */
    uint32_t input_offset;      /* in the arena */
    uint32_t input_size;        /* values of the model input */
    uint32_t input_bytes;
    uint32_t embedding_offset;
    uint32_t embedding_size;    /* values of the tensor at the cut */
    uint32_t embedding_bytes;
    bool has_state;             /* a run depends on the runs before: td_model_reset */
    uint8_t input_type;         /* enum td_type */
    uint8_t embedding_type;     /* with a tail: TD_INT8 or TD_FLOAT32 */
    bool has_layers;            /* the tail is more than a chain of dense layers: only `layers` describes it */
    float embedding_scale;      /* real = scale * (value - zero_point); 1 and 0 for TD_FLOAT32 */
    int32_t embedding_zero_point;
    uint32_t n_tail;            /* layers after the cut */
    bool ends_in_softmax;       /* the last layer feeds a softmax; false: its output is the result */
    td_dense tail[TD_MAX_TAIL]; /* without has_layers */
    const uint8_t *layers;      /* layer records */
    uint32_t hash;              /* CRC-32 of the .tflite it came from: binds weights to their model */
    uint32_t embedding_hash;    /* CRC-32 of the frozen part: binds packs to it; a tuned model keeps it, never 0 */
} td_model;

/* Full check of a .tdm: afterwards td_model_run cannot leave the arena or the file. `data` is 4-byte aligned when the
 * model has constants of more than a byte (else TD_E_ARGUMENT). TD_E_UNSUPPORTED: an operator, or a type, that this
 * core or this machine does not run. */
int td_model_open(td_model *model, const uint8_t *data, uint32_t size);
/* Whether layer `index` goes on a chain of dense layers, all of them trained from int8 weights, which dense.c computes
 * faster and fixed.c computes at all. Reads model->layers only. */
bool td_layer_is_dense(const td_model *model, uint32_t index);
/* Makes a model with state (has_state) forget its past: its state tensors as before the first run. Without this they hold
 * what the memory held. TD_E_MEMORY as td_model_run. */
int td_model_reset(const td_model *model, uint8_t *arena, uint32_t arena_size);
/* Outputs of the tail; of a model without one, values of the embedding. */
uint32_t td_model_outputs(const td_model *model);
/* Frozen part: arena[input_offset..] -> arena[embedding_offset..]. The arena is 16-byte aligned and
 * at least arena_size bytes (TD_E_MEMORY). The input is overwritten. */
int td_model_run(const td_model *model, uint8_t *arena, uint32_t arena_size);

/* -------------------------------------------------------------------- pack
 * EntroGeDe (docs/DESIGN.md; .tdz in docs/SPEC.md). A row is n_features unsigned integers of `width`
 * bits each, the values less their common minimum. A part is the rows of one class with a bit plan of
 * their own: each bit of each feature belongs to the base or to the deviation. A sample of the
 * condensed set is a run of rows of one part: its value is their mean, its weight their number (or
 * one that is stored with it).
 */
enum td_pack_limits { TD_MAX_WIDTH = 32, TD_MAX_FEATURES = 4096, TD_MAX_CLASSES = 1024, TD_MAX_BASES = 65535 };

enum td_part_flag {
    TD_PART_OFFSETS = 1,        /* each feature is stored less its minimum in the part */
    TD_PART_MASKS = 2,          /* base bits as a mask a feature; else as a count of leading bits */
    TD_PART_KEYS = 4,           /* rows sorted by a key of some bits, keys as differences; one base */
    TD_PART_DICTIONARY = 8,     /* some features are numbers of entries in a list; only with TD_PART_KEYS */
    TD_PART_ARCHIVE = 16        /* rows are in the codes of an archive; all parts or none, and no other flag */
};

enum td_key_limits {
    TD_MAX_KEY = 64,
    TD_KEY_BLOCK = 128,         /* rows from one stored key to the next */
    TD_KEY_TRIED = 3,           /* bits from one length of the key that is tried to the next */
    TD_KEY_NO_LIST = 0x7FFFFFFF /* a feature that has no dictionary */
};
/* Samples are listed when there is less than one for this many rows. */
enum td_sample_limits { TD_LISTED_ROWS = 32 };

/* bitplan.c: which bits become the base. Sources: Condense and Compress of EntroGeDe. All of them
 * need td_plan_work_size(n_rows) bytes of work memory; group[i] is the base of row i, numbered from
 * 0. rows: n_rows x n_features, row-major, each below 2^width. */
uint32_t td_plan_work_size(uint32_t n_rows);

/* Bits added feature by feature, round after round, leading bits first, while at most max_groups
 * bases exist. Returns the number of groups. Cost: O(n_rows) a bit. */
int td_plan_condense(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                     uint32_t max_groups, uint32_t *group, void *work, uint32_t work_size);

typedef struct td_plan_result {
    uint32_t n_bases;
    uint32_t base_bits;         /* l_b */
    uint32_t deviation_bits;    /* l_d */
    uint64_t size_bits;         /* n_b l_b + n l_d + n ceil(log2 n_b) */
} td_plan_result;

/* Bits added in order of rising entropy; the smallest size is kept; stops after `patience` bits
 * without gain (0: never), or above TD_MAX_BASES bases. mask[f]: the base bits of feature f. order:
 * 2 * width * n_features entries of scratch. Cost: O(n_rows) a bit and a sort of the bits. */
int td_plan_compress(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                     uint32_t patience, uint32_t *mask, uint32_t *order, td_plan_result *result,
                     void *work, uint32_t work_size);

/* td_plan_compress of the values, and of the values less offsets[f], each feature's minimum; the smaller part. Returns 1
 * when that is the one with offsets, whose values are in moved then (n_rows x n_features), else 0. offsets: 2 * n_features
 * entries, of which the second half is scratch. */
int td_plan_part(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t *mask,
                 uint32_t *offsets, uint32_t *moved, uint32_t *order, td_plan_result *result, void *work,
                 uint32_t work_size);

/* How many rows have each bit: ones[f * width + i] for bit width - 1 - i of feature f. scratch: n_features * min(width, 8)
 * entries. Quick where there are many features. */
void td_count_ones(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t *ones,
                   uint32_t *scratch);

/* The bases of rows under a given mask: group[i] below the number of groups, which is returned. */
int td_plan_group(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                  const uint32_t *mask, uint32_t *group, void *work, uint32_t work_size);

/* greedygd.c. GreedyGD as published (docs/DESIGN.md, "GreedyGD"), for comparison: of the leading unused bits of all
 * features, the one that leaves the fewest bases is added; the smallest size seen is kept. Arguments, patience, result
 * and errors as td_plan_compress. left: n_features entries of scratch. Cost: at most O(n_rows * n_features) a bit. */
int td_plan_greedy(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t patience,
                   uint32_t *mask, uint32_t *left, td_plan_result *result, void *work, uint32_t work_size);
/* Its bases while there are at most max_groups: group[i] below the number of groups, which is returned. */
int td_condense_greedy(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width, uint32_t max_groups,
                       uint32_t *group, uint32_t *left, void *work, uint32_t work_size);

/* condense.c. Our condensed set: groups of one class each, split one at a time where a cut through one feature
 * removes the most variance, until max_groups groups exist over all classes together; then `lloyd`
 * rounds of moving every row to the nearest mean of its class. label: n_rows classes. Returns the
 * number of groups; TD_E_RANGE for more classes than max_groups. Cost: about
 * n_rows * n_features * log(max_groups) plus
 * lloyd * n_rows * (groups of a class) * n_features. */
uint32_t td_condense_variance_work_size(uint32_t n_rows, uint32_t n_features, uint32_t max_groups);
int td_condense_variance(const uint32_t *rows, const uint16_t *label, uint32_t n_rows, uint32_t n_features,
                         uint32_t max_groups, uint32_t lloyd, uint32_t *group, void *work, uint32_t work_size);

/* encode.c: one part as it stands in the data section. */
typedef struct td_part_header {
    uint32_t n_rows;
    uint32_t offset;            /* of the part in the data section, bytes */
    uint16_t label;
    uint16_t n_bases;           /* with TD_PART_KEYS: bits of a key */
    uint32_t base_bits;
    uint32_t deviation_bits;
    uint8_t flags;              /* enum td_part_flag */
} td_part_header;

enum td_part_record_size { TD_PART_RECORD = 16 };

/* Bytes of a part with these base bits, and with or without offsets. */
uint64_t td_part_size(uint32_t n_rows, uint32_t n_features, uint32_t width, const uint32_t *mask, bool offsets,
                      uint32_t n_bases);
/* Writes rows (already less their offsets when offsets is not NULL) under the plan `mask`. group[i]
 * is the base of row i under that mask. Fills the header but for label and offset; returns the bytes
 * written. TD_E_FULL; TD_E_RANGE for a value or an offset above the width, TD_E_ARGUMENT for a mask or
 * a group outside its bounds. */
int td_encode_part(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t width,
                   const uint32_t *mask, const uint32_t *offsets, const uint32_t *group, uint32_t n_bases,
                   uint8_t *out, uint32_t capacity, td_part_header *header);
/* What rows may go through before they are packed: features less a multiple of another one, or as Gray code (docs/SPEC.md,
 * "Transforms"; undone by transform.c). A record each. */
enum td_transform_limits { TD_TRANSFORM_RECORD = 8, TD_MAX_TRANSFORMS = 255 };
/* Applies n transforms to n_rows x n_features unsigned values below 2^width, the last one first; out: as large as rows, or
 * rows themselves. TD_E_ARGUMENT for a feature, a shift or a width out of range. */
int td_transforms_apply(const uint8_t *transforms, uint32_t n, const uint32_t *rows, uint32_t n_rows, uint32_t n_features,
                        uint32_t width, uint32_t *out);
/* relate.c: what features share, by a sample of rows, to choose transforms by. Bits are in 1/65536, of a value in the mean. */
enum td_related_rows { TD_MAX_RELATED = 1024 };
typedef struct td_column {
    uint64_t variance;          /* of clipped values, times the square of the rows' number */
    uint32_t sum;               /* of clipped values */
    uint32_t shift;             /* bits that clipped values are short of */
    uint32_t bits;              /* a value takes as it is */
} td_column;
typedef struct td_relation {
    uint32_t n_rows;            /* up to TD_MAX_RELATED */
    uint32_t n_features;
    uint32_t width;
    const uint32_t *columns;    /* n_features x n_rows, feature by feature: values below 2^width */
    uint32_t *left;             /* of that size: what transforms leave of them */
    int16_t *clipped;           /* n_features + 1 times n_rows: td_relate_survey's, and scratch */
    td_column *column;          /* n_features: td_relate_survey's */
    uint32_t *work;             /* 2 x n_rows: scratch */
} td_relation;
typedef struct td_promise {
    uint32_t bits;              /* that will be left */
    uint8_t record[TD_TRANSFORM_RECORD];
} td_promise;
/* Looks at each column, before the others here. They, too, return TD_E_ARGUMENT for sizes out of range.
 * Cost: a sort a feature. */
int td_relate_survey(td_relation *relation);
/* The largest square of a correlation of two features, of more than 64 of two that are near. Cost: O(n_rows) a pair. */
double td_relate_closest(const td_relation *relation);
/* The multiple of another feature that makes what is left of one smallest, of those tried: 1; or 0 when no feature with
 * barred[other] of 0 (n_features of them) has a correlation with it whose square is at least `least`, and a slope that a factor
 * can say. Cost: O(n_rows) for each feature that may predict it, and up to nine sorts. */
int td_relate_promise(td_relation *relation, uint32_t feature, const uint8_t *barred, double least, td_promise *best);
/* Applies a transform to what is left of its feature; *bits: a value takes then. */
int td_relate_take(td_relation *relation, const uint8_t *record, uint32_t *bits);
/* keys.c: parts whose rows are sorted by a key (docs/DESIGN.md, "Rows have no order"). A key is made of n_key bits
 * of a row less low, most significant first; key_bits[i] = feature * 32 + bit, bit 0 the least significant. */
void td_key_rows(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low,
                 const uint32_t *key_bits, uint32_t n_key, uint64_t *keys, void *work);
/* Bytes of work for td_key_rows: a table of 256 entries for each byte of a feature that has key bits. */
uint32_t td_key_work_size(uint32_t n_key);
/* What all rows say of each feature: low[f] is its least value, high[f] the largest less that. Both have 4 * n_features
 * entries, of which the last three quarters are scratch. */
void td_key_survey(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t *low, uint32_t *high);
/* varying[f]: bits in which values less low[f] differ. varying: 4 * n_features entries, scratch: 8 * n_features. */
void td_key_varying(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, uint32_t *varying,
                    uint32_t *scratch);
/* One row of every `step`, a power of 2, less low, from anywhere among them; out: ceil(n_rows / step) x n_features. */
void td_key_sample(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, uint32_t step,
                   uint32_t *out);
/* How many different values features have that may have most[f] (0: not looked at): count[f], which stays above most[f] as soon
 * as there are more. seen: for all others, one behind the other, high[f] + 1 bytes that are 0; seen[value - low[f]] becomes 1. */
void td_key_values(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, const uint32_t *high,
                   const uint32_t *most, uint32_t *count, uint8_t *seen);
/* Rows as they are stored: less low, and v becomes numbers[start[f] + v] unless start[f] is TD_KEY_NO_LIST. out: as
 * large as rows, or rows themselves. */
void td_key_stored(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, const uint32_t *start,
                   const uint32_t *numbers, uint32_t *out);
/* Sorts keys of n_key bits; order[i] is where the i-th stood (NULL: nobody asks). Rows of equal keys keep their order.
 * spare_keys, spare_order: as long as the others. Cost: O(n_rows) for each eight bits in which keys differ; 8 KB of stack. */
void td_key_sort(uint64_t *keys, uint32_t *order, uint32_t n_rows, uint32_t n_key, uint64_t *spare_keys,
                 uint32_t *spare_order);
/* Bits that sorted keys of n_key bits take without their last `drop` bits. keys: of n_rows rows, or of one of every
 * `step` of them (1, or a power of 2 up to 64); then an estimate. Cost: O(n_rows). */
uint64_t td_key_cost(const uint64_t *keys, uint32_t n_rows, uint32_t step, uint32_t n_key, uint32_t drop);
/* How many leading bits of n_key make the smallest part, of every TD_KEY_TRIED-th length: *length; returns what keys and the bits
 * left out take then. */
uint64_t td_key_length(const uint64_t *keys, uint32_t n_rows, uint32_t step, uint32_t n_key, uint32_t *length);
/* Cells of sorted keys: rows that agree in the first bits, as many bits as give at most `most` cells. starts[i] becomes
 * 1 where row i begins one, else 0. Cost: O(n_rows). */
void td_key_cells(const uint64_t *keys, uint32_t n_rows, uint32_t most, uint8_t *starts);

typedef struct td_key_plan {
    const uint32_t *constant;   /* n_features: bits in which all rows agree */
    const uint32_t *offsets;    /* n_features: what was taken off the values; NULL: nothing */
    const uint16_t *n_entries;  /* n_features: sizes of the dictionaries, 0: none. NULL: no dictionary at all */
    const uint32_t *entries;    /* all dictionaries one behind the other */
    const uint32_t *key_bits;
    uint32_t n_key;
} td_key_plan;

/* As td_encode_part, for rows less low (n_features) sorted by their keys: keys[i] is that of row order[i]. Features with
 * a dictionary hold numbers of entries. base: n_features entries of scratch. */
int td_encode_keys(const uint32_t *rows, const uint32_t *low, const uint32_t *order, const uint64_t *keys,
                   uint32_t n_rows, uint32_t n_features, uint32_t width, const td_key_plan *plan, uint32_t *base,
                   uint8_t *out, uint32_t capacity, td_part_header *header);
/* archive.c: rows in adaptive binary range codes (docs/SPEC.md, "Archive"); 64-bit machines only, see TD_ARCHIVE.
 * plan: a record of 6 bytes a feature; bits, 8 to 22: of the number of probabilities. Rows lie in parts one behind the
 * other, less the pack's minimum; those of a sample rise lexicographically. */
enum td_archive_limits { TD_ARCHIVE_VALUES = 0x400000 /* most in a block */, TD_ARCHIVE_HEADER = 8, TD_ARCHIVE_FEATURE = 6 };
uint32_t td_archive_work_size(uint32_t bits);
/* One block; returns its bytes, also when they are more than capacity. label, starts (not 0: begins a sample): a row. */
uint32_t td_archive_encode(uint32_t *rows, const uint16_t *label, const uint8_t *starts, uint32_t n_rows,
                           uint32_t n_features, const uint8_t *plan, uint32_t bits, void *work, uint8_t *out,
                           uint32_t capacity);
/* Bytes that values of `width` bits take in these contexts, to compare contexts by. */
uint32_t td_archive_cost(const uint32_t *values, const uint32_t *contexts, uint32_t n_rows, uint32_t width, uint32_t bits,
                         void *work);
/* The header as the parts section has it: TD_PART_RECORD bytes. */
void td_encode_part_record(const td_part_header *header, uint8_t *out);

/* image.c: rows that are images. Such a pack has an image section (docs/SPEC.md, "Image"), stores what
 * td_image_forward makes of the pixels, and td_pack_row gives pixels. Both work in place on a row of
 * height * width * channels values (y, x, channel) and need a section that td_image_check took. Without
 * TD_IMAGE_QUANTISED the inverse gives exactly the values that the forward transform got, whatever they are. */
enum td_image_flag {
    TD_IMAGE_COLOUR = 1,        /* three channels, by YCoCg-R */
    TD_IMAGE_DCT = 2,           /* the 8 x 8 DCT of each whole tile and channel, by lifting */
    TD_IMAGE_QUANTISED = 4      /* its coefficients are divided by steps and rounded */
};
/* TD_E_FORMAT unless these are the bytes of an image section for rows of n_features values. */
int td_image_check(const uint8_t *image, uint32_t size, uint32_t n_features);
void td_image_forward(const uint8_t *image, int32_t *values);
void td_image_inverse(const uint8_t *image, int32_t *values);

/* open.c checks a .tdz, samples.c its samples; decode.c reads rows; parts.c, seek.c and fields.c say where their bits are. */
enum td_pack_section { TD_PACK_SCHEMA = 1, TD_PACK_PARTS = 2, TD_PACK_DATA = 3, TD_PACK_SAMPLES = 4,
                       TD_PACK_WEIGHTS = 5, TD_PACK_META = 6, TD_PACK_ORDER = 7, TD_PACK_IMAGE = 9,
                       TD_PACK_TRANSFORMS = 10 };
enum td_pack_schema_size { TD_PACK_SCHEMA_SIZE = 36 };
/* The type that all values of a pack fit: what its rows can be read as without loss. */
enum td_value_type { TD_VALUE_I32 = 0, TD_VALUE_I8 = 1, TD_VALUE_U8 = 2, TD_VALUE_I16 = 3, TD_VALUE_U16 = 4 };

/* What a cache holds of the part used last. */
enum td_cached {
    TD_CACHED_NOTHING = 0,
    TD_CACHED_PART = 1,         /* what its rows share */
    TD_CACHED_ALL = 2           /* and rows differ in their keys only, and went through no transforms */
};

/* A part, ready for row access. Bytes come first: a Cortex-M0 reaches only 32 of them by one instruction. */
typedef struct td_part {
    uint8_t flags;              /* enum td_part_flag */
    uint8_t id_bits;            /* ceil(log2 n_bases), 0 with TD_PART_KEYS */
    uint8_t bit_bits;           /* the name of a key's bit: low bits that are the bit's number in its feature */
    uint8_t place_bytes;        /* and its bytes. This and the next two: TD_PART_KEYS only, as all names of keys below */
    uint8_t start_bits;         /* of where a block's codes start, in the index */
    uint8_t n_low;              /* bits of a low part in the block at hand */
    uint8_t cached;             /* enum td_cached */
    uint16_t label;
    uint16_t n_bases;           /* 1 with TD_PART_KEYS */
    uint16_t n_key;             /* bits of a key, 0 without TD_PART_KEYS */
    uint16_t number;            /* its place among the parts */
    uint32_t n_rows;
    uint32_t first_row;         /* of the pack */
    uint32_t row_bits;          /* of a row: its base's number and its deviation */
    uint32_t at_row;            /* row of the part whose key was read last, 0xFFFFFFFF: none */
    uint32_t at_low;            /* where the next row's low part starts, bits */
    uint32_t at_high;           /* where the next row's high part starts, bits */
    uint64_t high_key;          /* of the row read last: the first key of its block and its own high part */
    uint64_t spread;            /* the key whose bits are in the cache, 0: none */
    const uint8_t *plan;
    const uint8_t *offsets;     /* NULL without TD_PART_OFFSETS */
    const uint8_t *dictionary;  /* NULL without TD_PART_DICTIONARY */
    const uint8_t *bases;
    const uint8_t *rows;
    const uint8_t *last_place;  /* of the key's least significant bit; the other names lie before it */
    const uint8_t *index;
    const uint8_t *codes;
} td_part;

typedef struct td_pack {
    td_part part;               /* the part used last. First, so that one pointer reaches both */
    uint32_t n_features;
    uint32_t width;             /* bits a feature, 1..32 */
    void *memory;               /* a cache or what an archive needs, NULL: none */
    int32_t minimum;            /* value = minimum + stored */
    const uint8_t *order;       /* where each given row is stored, NULL: rows are as they are stored */
    const uint8_t *parts;
    uint32_t n_rows;
    const uint8_t *data;
    uint32_t data_size;         /* bytes */
    const uint8_t *transforms;  /* records of those to undo, NULL: none */
    uint32_t n_transforms;
    td_file file;
    uint32_t n_samples;         /* of the condensed set; 0 after td_pack_open_rows */
    const uint8_t *starts;      /* bit i: row i begins a sample; of few samples the u32 of each */
    const uint8_t *weights;     /* f32 a sample, NULL: the number of its rows */
    const uint8_t *archive;     /* NULL: rows are in parts */
    const uint8_t *image;       /* the image section, NULL: rows are stored as they are */
    uint16_t n_classes;         /* labels are below this */
    uint16_t n_parts;
    uint8_t value_type;         /* enum td_value_type */
    float scale;                /* real = scale * (value - zero_point) */
    int32_t zero_point;
    uint32_t model_hash;        /* td_model.embedding_hash of the model whose embeddings these are; 0: none */
} td_pack;

/* Full check: afterwards every row and sample can be read. data: the file, borrowed. TD_E_FORMAT, TD_E_VERSION, TD_E_CRC;
 * TD_E_UNSUPPORTED for what this core leaves out (td_config.h). Cost: one pass over the file. */
int td_pack_open(td_pack *pack, const uint8_t *data, uint32_t size);
/* The same without the samples, in less code: n_samples is 0, and there are none to read. Rows of an archive need their
 * samples, so td_pack_attach does not take such a pack. */
int td_pack_open_rows(td_pack *pack, const uint8_t *data, uint32_t size);
/* The plan of part `part`: its header, and of each feature the bits that belong to the base (those of the key
 * included), and those that the key names. entries[f]: entries of the list whose
 * numbers feature f holds, 0: none. All three have n_features entries. TD_E_RANGE past the last part. */
int td_pack_plan(const td_pack *pack, uint32_t part, td_part_header *header, uint32_t *base, uint32_t *key,
                 uint32_t *entries);
/* Memory in which td_pack_row keeps of each feature what is the same in all rows of a part, and the bits that the key of
 * the row read last gives it: reading then takes a third to a half of the time. 9 bytes a feature, aligned to 4, until
 * the pack is opened anew; NULL: none any more. TD_E_MEMORY when it is smaller than td_pack_cache_size. */
uint32_t td_pack_cache_size(const td_pack *pack);
int td_pack_use_cache(td_pack *pack, void *memory, uint32_t size);
/* Archives: td_pack_attach gives memory (td_pack_archive_size bytes) to a pack whose rows are coded a block at a time; it
 * must stay. A row then costs the decoding of its block, unless that is the block read last. Without memory rows are
 * TD_E_MEMORY. A core without archives (TD_ARCHIVE 0) refuses to open them: TD_E_UNSUPPORTED. TD_E_STATE: it is none, or
 * its samples were not opened. */
uint32_t td_pack_archive_size(const td_pack *pack);
int td_pack_attach(td_pack *pack, void *memory, uint32_t size);
/* Row `row` in the order of the file, whatever order was kept. */
int td_pack_stored_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label);
/* Where row `row`, below n_rows, is stored. */
uint32_t td_pack_position(const td_pack *pack, uint32_t row);
/* Row `row` in the order that was kept, else in stored order: n_features values. label may be NULL. TD_E_RANGE past the
 * end. Cost:
 * O(n_features), with TD_PART_KEYS also O(TD_KEY_BLOCK) unless the row follows the one read last; the part is looked
 * up by a scan when it differs from the last one, from that one on when it lies behind it. */
int td_pack_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label);
/* Rows [first, first + count), as td_pack_row: count x n_features values. TD_E_RANGE past the end. */
int td_pack_rows(td_pack *pack, uint32_t first, uint32_t count, int32_t *values);
/* samples.c. Rows [*first, *first + *count) make up sample `sample`. Cost: a scan of the start bits, unless
 * they are listed. */
int td_pack_sample_rows(const td_pack *pack, uint32_t sample, uint32_t *first, uint32_t *count);
/* Sample `sample` as real values: scale * (mean - zero_point). Rows are summed in f32, in order: exact
 * while a sum stays below 2^24. row: n_features entries of scratch; values: n_features. */
int td_pack_sample(td_pack *pack, uint32_t sample, int32_t *row, float *values, uint32_t *label, float *weight);
/* Sum of the samples' weights, in f32, in order. */
float td_pack_total_weight(const td_pack *pack);

/* unpack.c: many rows at a time, or any row at once, for machines with memory to spare: tables are made once a part. */
typedef struct td_undo td_undo;

typedef struct td_unpacker {
    const td_pack *pack;        /* borrowed */
    uint32_t bits;              /* of a value in the output: 8, 16 or 32 */
    uint32_t n_slots;           /* parts that are kept prepared */
    size_t slot_size;
    uint32_t *first_rows;       /* of the parts; then the number of rows */
    uint64_t *block;            /* scratch for a block of rows */
    td_undo *undo;              /* the pack's transforms, prepared */
    uint32_t n_undo;            /* of them; set to 0, rows come as they are stored */
    uint8_t *slots;
} td_unpacker;

/* Bytes of memory for values of `bits` bits and n_slots prepared parts (part p goes to slot p mod n_slots; as many slots
 * as parts make each part be prepared once). 0 for bits that are not 8, 16, 32 or less than pack->width, for images when they
 * are not 32, for no slot, and when it is 4 GB or more. A slot takes about 200 bytes a word of 64 bits in an output row; with TD_PART_KEYS also up to
 * 128 KB of tables, and four bytes an entry of the dictionaries. Cost: O(n_parts * n_features). */
uint32_t td_unpacker_size(const td_pack *pack, uint32_t bits, uint32_t n_slots);
/* The pack must stay open. TD_E_ARGUMENT where td_unpacker_size is 0, TD_E_MEMORY. */
int td_unpacker_init(td_unpacker *u, const td_pack *pack, uint32_t bits, uint32_t n_slots, void *memory, uint32_t size);
/* Rows [first, first + count) as count x n_features values of 8, 16 or 32 bits in the machine's byte order: the same as
 * td_pack_rows, of which a narrower value keeps the low bits (values of 32 bits must be aligned for images); pack->value_type says what loses nothing. TD_E_RANGE past
 * the end. */
int td_unpacker_rows(const td_unpacker *u, uint32_t first, uint32_t count, void *values);
/* The same in the order of the file, whatever order was kept: quicker then. */
int td_unpacker_stored(const td_unpacker *u, uint32_t first, uint32_t count, void *values);
/* The rows of these numbers, in that order, in the same form. TD_E_RANGE past the end. */
int td_unpacker_take(const td_unpacker *u, const uint32_t *rows, uint32_t count, void *values);

/* ----------------------------------------------------------------- sampler
 * What a training epoch sees, in which order and with which weight.
 */
enum td_mode {
    TD_MODE_BASES = 0,          /* each sample of the condensed set once */
    TD_MODE_FULL = 1,           /* each row once */
    TD_MODE_STRATIFIED = 2      /* of each sample one of its rows, drawn anew every epoch */
};

typedef struct td_sampler_config {
    uint32_t mode;              /* enum td_mode, for the training set; the replay set always gives its samples */
    uint32_t seed;
    float replay;               /* weight of the replay set as a whole against the training set's 1 */
    float held_back;            /* share of the training set that no epoch shows: 0 (none) to below 1 */
} td_sampler_config;

typedef struct td_sampler {
    td_pack *train;
    td_pack *replay;            /* NULL: none */
    td_sampler_config config;
    uint32_t n_train;           /* rows or samples that an epoch shows */
    uint32_t n_held;            /* and that are held back */
    uint32_t n_replay;
    float train_scale;          /* stored weight -> step weight; step weights average 1 */
    float replay_scale;
} td_sampler;

/* TD_E_RANGE when the two packs differ in n_features, scale or zero point, or all would be held back, or all but what
 * weighs nothing. */
int td_sampler_init(td_sampler *sampler, td_pack *train, td_pack *replay, const td_sampler_config *config);
/* Steps an epoch. */
uint32_t td_sampler_size(const td_sampler *sampler);
/* Step i of an epoch, in an order that seed and epoch fix. row, x: n_features entries each. */
int td_sampler_get(td_sampler *sampler, uint32_t epoch, uint32_t i, int32_t *row, float *x,
                   uint32_t *label, float *weight);
/* What is held back, i below sampler->n_held: rows in mode full, else samples; fixed by the seed. */
int td_sampler_held(td_sampler *sampler, uint32_t i, int32_t *row, float *x, uint32_t *label, float *weight);

/* ------------------------------------------------------------------- train
 * Fine-tunes the tail. train.c is the run of one step; layers are in dense.c (f32) and fixed.c (integers), losses in
 * loss.c, and what turns gradients into new parameters in optimise.c. With batch 1, SGD and f32 parameters change in
 * place: there is no gradient buffer.
 */
enum td_loss {
    TD_LOSS_CROSS_ENTROPY = 0,  /* of the softmax of the tail's outputs */
    TD_LOSS_MEAN_SQUARE = 1     /* mean over the outputs of (output - target)^2; for models without a softmax */
};

enum td_optimizer {             /* g: mean gradient of a batch */
    TD_OPTIMIZER_SGD = 0,       /* w -= rate g */
    TD_OPTIMIZER_MOMENTUM = 1,  /* m = momentum m - rate g; w += m */
    TD_OPTIMIZER_ADAM = 2       /* Kingma and Ba 2015, algorithm 1 with the order of section 2's last paragraph */
};

enum td_precision {
    TD_PRECISION_F32 = 0,
    TD_PRECISION_FIXED = 1      /* int32 weights, int16 activations: batch 1 and SGD without l2 and clipping */
};

typedef struct td_train_config {
    float learning_rate;        /* 0 means 0.05 */
    float l2;                   /* pulls each weight, not biases, towards its value before training; 0: none */
    float momentum;             /* of momentum; Adam's beta 1; below 1, 0 means 0.9 */
    float beta_2;               /* Adam's; below 1, 0 means 0.999 */
    float epsilon;              /* Adam's; 0 means 1e-7 */
    float clip_norm;            /* length of the gradient of all parameters together at most; 0: any */
    float clip_value;           /* each of the gradient's values at most; 0: any. Not together with clip_norm */
    uint32_t batch;             /* steps that make one update, with the mean of their gradients; 0 means 1 */
    uint8_t loss;               /* enum td_loss */
    uint8_t optimizer;          /* enum td_optimizer */
    uint8_t precision;          /* enum td_precision */
    uint8_t keep_best;          /* 1: room for td_trainer_keep */
} td_train_config;

/* Bytes by purpose. */
typedef struct td_trainer_parts {
    uint32_t parameters;
    uint32_t gradient;          /* 0: updates in place */
    uint32_t state;             /* moments of the optimiser */
    uint32_t best;              /* a copy of the parameters */
    uint32_t activations;       /* outputs and their gradients (as the model file plans them), settings */
} td_trainer_parts;

typedef struct td_fixed td_fixed;

/* What a trainer has beyond cross-entropy and SGD in place; in its memory, where anything else was asked for. */
typedef struct td_trainer_options {
    td_train_config config;
    float *gradient;            /* sums over the steps of a batch; NULL: updates in place */
    float *moments;             /* n_parameters of them, with Adam twice: means, then mean squares */
    float *best;                /* NULL without keep_best */
    td_fixed *fixed;            /* NULL: f32 */
    float power_1;              /* Adam's betas to the power of the updates so far */
    float power_2;
    uint32_t n_steps;           /* of the batch so far */
} td_trainer_options;

typedef struct td_trainer {
    const td_model *model;
    float learning_rate;
    float *parameters;          /* per layer: n_out x n_in weights, then n_out biases; with fixed point as int32 */
    uint32_t n_parameters;
    float *activations;         /* per layer outputs, the last holds probabilities; with fixed point the last's only.
                                 * With model->has_layers the last's, then the training arena */
    float *deltas;              /* gradient at the last layer's outputs */
    td_trainer_options *options; /* NULL: none */
    float logit_min;            /* smallest and largest of 0 and the logits seen since */
    float logit_max;            /* td_trainer_reset_range: for the requantisation of the tail's output */
} td_trainer;

/* Bytes that a trainer needs, and for what (parts may be NULL). config: NULL for all zeros. */
uint32_t td_trainer_size(const td_model *model, const td_train_config *config, td_trainer_parts *parts);
/* Dequantises the tail into memory. TD_E_UNSUPPORTED without a tail, for a mean square behind a softmax, and for
 * fixed point with what it does not have; TD_E_ARGUMENT for a number out of its bounds (rates, l2 and clips from 0 to
 * 1e6), TD_E_MEMORY. */
int td_trainer_init(td_trainer *trainer, const td_model *model, const td_train_config *config,
                    void *memory, uint32_t size);
void td_trainer_reset_range(td_trainer *trainer);
/* x: embedding_size real values. Returns the class with the largest output (the lowest index on a
 * tie); *loss (may be NULL) against label. The outputs stay in td_trainer_outputs, or what the loss made of them. */
int td_trainer_predict(td_trainer *trainer, const float *x, uint32_t label, float *loss);
/* One step on loss * weight; the last of a batch updates the parameters. Returns the class predicted before the step,
 * or TD_E_RANGE when label >= n_classes. */
int td_trainer_step(td_trainer *trainer, const float *x, uint32_t label, float weight, float *loss);
/* The same towards n_out real values: targets of a mean square, or shares of the classes. */
int td_trainer_predict_to(td_trainer *trainer, const float *x, const float *targets, float *loss);
int td_trainer_step_to(td_trainer *trainer, const float *x, const float *targets, float weight, float *loss);
/* n_out values of the forward pass before: real outputs, or probabilities after a cross-entropy was asked for. */
const float *td_trainer_outputs(const td_trainer *trainer);
/* Updates with the steps of a batch that is not full, if there are any: at the end of an epoch. */
void td_trainer_flush(td_trainer *trainer);

/* Parameters [first, first + n) as real numbers. */
void td_trainer_get(const td_trainer *trainer, uint32_t first, uint32_t n, float *values);
/* Sets parameters, finite values, in pieces from 0 on and in order. */
void td_trainer_set(td_trainer *trainer, uint32_t first, uint32_t n, const float *values);
/* Whether every parameter is finite; with fixed point always. */
bool td_trainer_is_finite(const td_trainer *trainer);
/* With keep_best: remembers the parameters as they are; takes those remembered last. TD_E_STATE without. */
int td_trainer_keep(td_trainer *trainer);
int td_trainer_restore(td_trainer *trainer);

/* cdef-end */

#ifdef __cplusplus
}
#endif

#endif /* TD_H */
