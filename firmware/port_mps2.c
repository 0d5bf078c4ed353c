/* Arm MPS2 and MPS3: CMSDK UART0, and RAM outside the budget that behaves as NOR flash. */
#include <string.h>

#include "cortex_m.h"
#include "td_board.h"
#include "td_port.h"

#define UART_DATA TD_PORT_UART
#define UART_STATE (TD_PORT_UART + 4u)
#define UART_CTRL (TD_PORT_UART + 8u)
#define UART_INTCLEAR (TD_PORT_UART + 12u)
#define UART_BAUDDIV (TD_PORT_UART + 16u)

#define STATE_TX_FULL 1u
#define STATE_RX_FULL 2u

void td_port_init(void)
{
    REG32(UART_BAUDDIV) = TD_PORT_UART_BAUDDIV;
    REG32(UART_CTRL) = 0xB; /* transmit, receive, receive interrupt */
    (void)REG32(UART_DATA); /* QEMU starts to receive with the first read */
    td_enable_irq(TD_PORT_UART_IRQ);
}

void td_port_interrupt(void)
{
    REG32(UART_INTCLEAR) = 2;
    while (REG32(UART_STATE) & STATE_RX_FULL) td_receive_byte((uint8_t)REG32(UART_DATA));
}

void td_port_write(const uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        while (REG32(UART_STATE) & STATE_TX_FULL) {
        }
        REG32(UART_DATA) = bytes[i];
    }
}

static uint8_t *store(uint32_t offset)
{
    return (uint8_t *)(uintptr_t)(TD_STORE_ORIGIN + offset);
}

int td_port_erase(void *context, uint32_t offset)
{
    (void)context;
    memset(store(offset), TD_FLASH_ERASED, TD_FLASH_ERASE_BLOCK);
    return TD_OK;
}

/* Programming only clears bits, as in NOR flash. */
int td_port_program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    uint8_t *to = store(offset);
    for (uint32_t i = 0; i < size; i++) to[i] = (uint8_t)(to[i] & bytes[i]);
    return TD_OK;
}

const uint8_t *td_port_store(void)
{
    return store(0);
}
