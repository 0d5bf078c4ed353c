/* What an MCU family supplies to the firmware. docs/PORTING.md walks through one. */
#ifndef TD_PORT_H
#define TD_PORT_H

#include "td.h"

/* RAM of the board in bytes, and the arena: everything that neither statics nor stack take. */
typedef struct td_memory {
    uint8_t *arena;             /* 16-byte aligned */
    uint32_t arena_size;
    uint32_t ram_total;
    uint32_t ram_static;        /* .data, .bss and what must survive a reset */
    uint32_t stack_reserve;
    uint32_t flash_used;        /* bytes of code, constants and initial values; 0: not known */
} td_memory;

/* Clocks, pins and the receiving UART (115200 8N1); called once, first. */
void td_port_init(void);

/* The oldest received byte, or -1. Bytes arrive by interrupt; at least TD_LINK_WIRE are held. */
int td_port_read(void);

/* Sends; returns when the last byte was handed to the UART. */
void td_port_write(const uint8_t *bytes, uint32_t size);

/* Sleeps until a byte or another interrupt arrived. Returns at once when bytes are waiting. */
void td_port_idle(void);

/* A free-running count; boards/<board>.toml says what a tick is. */
uint64_t td_port_ticks(void);

/* Where the store's flash is mapped, and its driver: erase and program of td_flash, context NULL. Geometry
 * comes from td_board.h. */
const uint8_t *td_port_store(void);
int td_port_erase(void *context, uint32_t offset);
int td_port_program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size);

void td_port_memory(td_memory *memory);

/* Bytes of stack ever used since the reset, by the paint that is gone; 0: not measured here. */
uint32_t td_port_stack_used(void);

/* Program counter of the fault that caused the last reset; 0: none. */
uint32_t td_port_fault(void);

/* Does not return. RAM is lost, flash stays. */
void td_port_reset(void);

/* The main loop, called by startup code with memory initialised; never returns. */
void td_firmware(void);

#endif /* TD_PORT_H */
