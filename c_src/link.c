/* Frames over any byte pipe, and requests that are applied at most once (docs/SPEC.md, "Link"). */
#include "td_internal.h"

enum { CRC_SIZE = 4, HELLO_ID = 1 };

/* ------------------------------------------------------------------ frames */

/* COBS, one byte at a time: `code` is where the open group's length will be written. */
typedef struct cobs {
    uint8_t *out;
    size_t n;
    size_t code;
} cobs;

static void cobs_open(cobs *c)
{
    c->code = c->n++;
}

static void cobs_close(cobs *c)
{
    c->out[c->code] = (uint8_t)(c->n - c->code);
}

/* A full group is closed only when another byte follows, so an encoding never ends in an empty group
 * that the decoder does not need. */
static void cobs_put(cobs *c, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (c->n - c->code == 255) {
            cobs_close(c);
            cobs_open(c);
        }
        if (bytes[i] != 0) {
            c->out[c->n++] = bytes[i];
        } else {
            cobs_close(c);
            cobs_open(c);
        }
    }
}

static bool known_header(uint8_t kind, uint32_t session)
{
    return kind >= TD_FRAME_REQUEST && kind <= TD_FRAME_NO_SESSION && session != 0;
}

int td_frame_encode(const td_frame *frame, uint8_t *out, size_t capacity)
{
    if (!known_header(frame->kind, frame->session)) return TD_E_ARGUMENT;
    if (frame->size > TD_LINK_MTU) return TD_E_FULL;
    size_t n_raw = (size_t)TD_LINK_HEADER + frame->size + CRC_SIZE;
    if (capacity < n_raw + n_raw / 254 + 3) return TD_E_FULL;

    uint8_t header[TD_LINK_HEADER], check[CRC_SIZE];
    header[0] = frame->kind;
    header[1] = 0;
    td_put16(header + 2, frame->id);
    td_put32(header + 4, frame->session);
    uint32_t crc = td_crc32(0, header, sizeof header);
    td_put32(check, td_crc32(crc, frame->payload, frame->size));

    cobs c = {out, 0, 0};
    out[c.n++] = 0;
    cobs_open(&c);
    cobs_put(&c, header, sizeof header);
    cobs_put(&c, frame->payload, frame->size);
    cobs_put(&c, check, sizeof check);
    cobs_close(&c);
    out[c.n++] = 0;
    return (int)c.n;
}

/* ---------------------------------------------------------------- receiver */

static void start_frame(td_receiver *rx)
{
    rx->n_raw = 0;
    rx->left = 0;
    rx->group = 0;
    rx->bad = 0;
}

void td_receiver_init(td_receiver *rx)
{
    start_frame(rx);
    rx->n_crc_errors = 0;
    rx->n_overruns = 0;
}

static int finish_frame(td_receiver *rx, td_frame *frame)
{
    const uint8_t *raw = rx->raw;
    if (rx->left != 0 || rx->n_raw < TD_LINK_HEADER + CRC_SIZE) return TD_E_FORMAT;
    size_t n_checked = (size_t)rx->n_raw - CRC_SIZE;
    if (td_crc32(0, raw, n_checked) != td_get32(raw + n_checked)) return TD_E_CRC;
    if (raw[1] != 0 || !known_header(raw[0], td_get32(raw + 4))) return TD_E_FORMAT;
    frame->kind = raw[0];
    frame->id = (uint16_t)td_get16(raw + 2);
    frame->session = td_get32(raw + 4);
    frame->payload = raw + TD_LINK_HEADER;
    frame->size = (uint16_t)(n_checked - TD_LINK_HEADER);
    return TD_OK;
}

static int delimiter(td_receiver *rx, td_frame *frame)
{
    int status = TD_NEED_INPUT;
    if (!rx->bad && rx->group != 0) {
        status = finish_frame(rx, frame);
        if (status != TD_OK) rx->n_crc_errors++;
    }
    start_frame(rx);
    return status;
}

int td_receiver_byte(td_receiver *rx, uint8_t byte, td_frame *frame)
{
    if (byte == 0) return delimiter(rx, frame);
    if (rx->bad) return TD_NEED_INPUT;

    uint8_t value = byte;
    if (rx->left > 0) {
        rx->left--;
    } else { /* a group's length; the group before it ended in a zero unless it was a full one */
        bool zero = rx->group != 0 && rx->group != 255;
        rx->group = byte;
        rx->left = (uint8_t)(byte - 1);
        if (!zero) return TD_NEED_INPUT;
        value = 0;
    }
    if (rx->n_raw == TD_LINK_RAW) {
        rx->bad = 1;
        rx->n_overruns++;
        return TD_E_FULL;
    }
    rx->raw[rx->n_raw++] = value;
    return TD_NEED_INPUT;
}

/* ------------------------------------------------------------------ server */

static uint16_t next_id(uint16_t id)
{
    return id == UINT16_MAX ? (uint16_t)(HELLO_ID + 1) : (uint16_t)(id + 1);
}

void td_server_init(td_server *server)
{
    server->session = 0;
    server->last_id = 0;
    server->busy = false;
    server->n_reply = 0;
}

static int hand_out(td_server *server, uint16_t id)
{
    server->last_id = id;
    server->busy = true;
    server->n_reply = 0;
    return TD_SERVE_APPLY;
}

static int send_cached(const td_server *server)
{
    return server->n_reply != 0 ? TD_SERVE_SEND : TD_SERVE_IGNORE;
}

static int receive_hello(td_server *server, const td_frame *frame)
{
    if (frame->id != HELLO_ID) return TD_SERVE_IGNORE;
    if (frame->session != server->session) {
        server->session = frame->session;
        return hand_out(server, HELLO_ID);
    }
    return server->last_id == HELLO_ID ? send_cached(server) : TD_SERVE_IGNORE;
}

/* Closes whatever session there was: its cached reply makes room for this frame. */
static int refuse_session(td_server *server, const td_frame *request)
{
    td_frame frame = {TD_FRAME_NO_SESSION, request->id, request->session, server->reply, 0};
    td_server_init(server);
    server->n_reply = (uint16_t)td_frame_encode(&frame, server->reply, sizeof server->reply);
    return TD_SERVE_SEND;
}

static int receive_request(td_server *server, const td_frame *frame)
{
    if (server->session == 0) return refuse_session(server, frame);
    if (frame->session != server->session || frame->id <= HELLO_ID) return TD_SERVE_IGNORE;
    if (frame->id == server->last_id) return send_cached(server);
    if (frame->id == next_id(server->last_id)) return hand_out(server, frame->id);
    /* An id from further ahead: the board was reset and a late copy of the hello opened the session
     * again, so requests that came before this one are unknown here. An older id is an echo. */
    bool ahead = (uint16_t)(frame->id - server->last_id) < 0x8000u;
    return ahead ? refuse_session(server, frame) : TD_SERVE_IGNORE;
}

int td_server_receive(td_server *server, const td_frame *frame)
{
    /* Also a new hello waits: the reply that is still owed would otherwise go to the wrong session. */
    if (server->busy || frame->session == 0) return TD_SERVE_IGNORE;
    if (frame->kind == TD_FRAME_HELLO) return receive_hello(server, frame);
    return frame->kind == TD_FRAME_REQUEST ? receive_request(server, frame) : TD_SERVE_IGNORE;
}

int td_server_reply(td_server *server, const uint8_t *payload, size_t size)
{
    if (!server->busy) return TD_E_STATE;
    if (size > TD_LINK_MTU) return TD_E_FULL;
    td_frame frame = {TD_FRAME_REPLY, server->last_id, server->session, payload, (uint16_t)size};
    int n = td_frame_encode(&frame, server->reply, sizeof server->reply);
    if (n < 0) return n;
    server->n_reply = (uint16_t)n;
    server->busy = false;
    return TD_OK;
}

/* ------------------------------------------------------------------ client */

void td_client_init(td_client *client, uint32_t session)
{
    client->session = session;
    client->last_id = 0;
    client->waiting = false;
}

int td_client_request(td_client *client, const uint8_t *payload, size_t size, uint8_t *out, size_t capacity)
{
    if (client->waiting) return TD_E_STATE;
    if (size > TD_LINK_MTU) return TD_E_FULL;
    bool hello = client->last_id == 0;
    td_frame frame;
    frame.kind = hello ? TD_FRAME_HELLO : TD_FRAME_REQUEST;
    frame.id = hello ? (uint16_t)HELLO_ID : next_id(client->last_id);
    frame.session = client->session;
    frame.payload = payload;
    frame.size = (uint16_t)size;
    int n = td_frame_encode(&frame, out, capacity);
    if (n < 0) return n;
    client->last_id = frame.id;
    client->waiting = true;
    return n;
}

int td_client_receive(td_client *client, const td_frame *frame)
{
    if (!client->waiting || frame->session != client->session || frame->id != client->last_id) return TD_CLIENT_IGNORE;
    if (frame->kind == TD_FRAME_REPLY) {
        client->waiting = false;
        return TD_CLIENT_REPLY;
    }
    /* A hello cannot be refused: such an answer is an echo of something else. */
    bool lost = frame->kind == TD_FRAME_NO_SESSION && client->last_id != HELLO_ID;
    return lost ? TD_CLIENT_LOST_SESSION : TD_CLIENT_IGNORE;
}
