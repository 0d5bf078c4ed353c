/* The main loop: answers requests, trains sample by sample in between, sleeps otherwise. */
#include "commands.h"
#include "td_board.h"
#include "td_port.h"

static struct {
    td_receiver receiver;
    td_server server;
    td_commands commands;
    uint8_t reply[TD_LINK_MTU];
} firmware;

static void answer(const td_frame *frame)
{
    int verdict = td_server_receive(&firmware.server, frame);
    if (verdict == TD_SERVE_APPLY) {
        uint32_t size = td_commands_answer(&firmware.commands, frame->payload, frame->size, firmware.reply,
                                           sizeof firmware.reply);
        td_server_reply(&firmware.server, firmware.reply, size);
    }
    if (verdict != TD_SERVE_IGNORE) td_port_write(firmware.server.reply, firmware.server.n_reply);
    if (firmware.commands.reset_wanted) td_port_reset();
}

static void poll_link(void)
{
    td_frame frame;
    for (int byte = td_port_read(); byte >= 0; byte = td_port_read()) {
        if (td_receiver_byte(&firmware.receiver, (uint8_t)byte, &frame) == TD_OK) answer(&frame);
    }
}

void td_firmware(void)
{
    td_flash flash = {.base = td_port_store(),
                      .size = TD_STORE_SIZE,
                      .erase_block = TD_FLASH_ERASE_BLOCK,
                      .program_unit = TD_FLASH_PROGRAM_UNIT,
                      .erased = TD_FLASH_ERASED,
                      .erase = td_port_erase,
                      .program = td_port_program};
    td_board board = {.id = TD_BOARD_ID,
                      .build = TD_BUILD_ID,
                      .capacity = TD_STORE_CAPACITY,
                      .ticks = td_port_ticks,
                      .stack_used = td_port_stack_used,
                      .fault = td_port_fault()};
    td_port_memory(&board.memory);
    td_receiver_init(&firmware.receiver);
    td_server_init(&firmware.server);
    if (td_commands_init(&firmware.commands, &board, &flash) != TD_OK) td_port_reset();
    for (;;) {
        poll_link();
        if (!td_commands_work(&firmware.commands)) td_port_idle();
    }
}
