/* Bytes from the wire into the receiver and the server: no crash, every frame in bounds, and the server never
 * applies an id twice in a session.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Ic_src tests/fuzz/fuzz_link.c c_src/link.c c_src/common.c */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "td.h"

static void require(int condition)
{
    if (!condition) abort();
}

/* The encoder and the receiver agree on any frame. */
static void round_trip(const td_frame *frame)
{
    uint8_t wire[TD_LINK_WIRE];
    td_receiver rx;
    td_frame again;
    td_receiver_init(&rx);
    int size = td_frame_encode(frame, wire, sizeof wire);
    require(size > 0);
    for (int i = 0; i + 1 < size; i++) require(td_receiver_byte(&rx, wire[i], &again) == TD_NEED_INPUT);
    require(td_receiver_byte(&rx, wire[size - 1], &again) == TD_OK);
    require(again.kind == frame->kind && again.id == frame->id && again.session == frame->session);
    require(again.size == frame->size && memcmp(again.payload, frame->payload, frame->size) == 0);
}

static void serve(td_server *server, const td_frame *frame, bool answer)
{
    uint32_t session = server->session;
    uint16_t last = server->last_id;
    int verdict = td_server_receive(server, frame);
    if (verdict == TD_SERVE_APPLY) {
        require(server->session != session || server->last_id != last);
        require(td_server_receive(server, frame) == TD_SERVE_IGNORE);
        if (!answer) return; /* stays busy: everything is ignored until the reply */
        require(td_server_reply(server, frame->payload, frame->size) == TD_OK);
        require(td_server_receive(server, frame) == TD_SERVE_SEND);
    }
    if (verdict == TD_SERVE_SEND) require(server->n_reply > 0 && server->n_reply <= TD_LINK_WIRE);
}

/* The first byte picks: 0 the bytes are the wire's; else each record (kind, id, session, size) becomes a
 * whole frame, because a fuzzer does not find CRCs by itself. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    td_receiver rx;
    td_server server;
    td_client client;
    td_frame frame;
    if (size == 0) return 0;
    td_receiver_init(&rx);
    td_server_init(&server);
    td_client_init(&client, 1);
    uint8_t out[TD_LINK_WIRE];
    require(td_client_request(&client, data, size > TD_LINK_MTU ? TD_LINK_MTU : size, out, sizeof out) > 0);

    if (data[0] == 0) {
        for (size_t i = 1; i < size; i++) {
            if (td_receiver_byte(&rx, data[i], &frame) != TD_OK) continue;
            round_trip(&frame);
            serve(&server, &frame, true);
            (void)td_client_receive(&client, &frame);
        }
        return 0;
    }
    for (size_t i = 1; i + 4 <= size;) {
        const uint8_t *p = data + i;
        frame.kind = (uint8_t)(1 + p[0] % 4);
        frame.id = (uint16_t)(p[1] < 250 ? p[1] : 0xFF00u | p[1]);
        frame.session = 1 + (p[2] & 3u);
        frame.payload = p + 4;
        frame.size = (uint16_t)(p[3] < size - i - 4 ? p[3] : size - i - 4);
        i += 4u + frame.size;
        round_trip(&frame);
        if (server.busy) require(td_server_reply(&server, frame.payload, frame.size) == TD_OK);
        serve(&server, &frame, (p[2] & 4u) != 0);
        (void)td_client_receive(&client, &frame);
    }
    return 0;
}
