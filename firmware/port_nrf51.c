/* Nordic nRF51: UART0, NVMC, the crystal. Registers: nRF51 Series Reference Manual v3. */
#include "cortex_m.h"
#include "td_board.h"
#include "td_port.h"

#define CLOCK_HFCLKSTART 0x40000000u
#define CLOCK_HFCLKSTARTED 0x40000100u

#define UART_STARTRX 0x40002000u
#define UART_STARTTX 0x40002008u
#define UART_RXDRDY 0x40002108u
#define UART_TXDRDY 0x4000211Cu
#define UART_INTENSET 0x40002304u
#define UART_ERROR 0x40002124u
#define UART_ERRORSRC 0x40002480u
#define UART_ENABLE 0x40002500u
#define UART_PSELTXD 0x4000250Cu
#define UART_PSELRXD 0x40002514u
#define UART_RXD 0x40002518u
#define UART_TXD 0x4000251Cu
#define UART_BAUDRATE 0x40002524u

#define GPIO_OUTSET 0x50000508u
#define GPIO_PIN_CNF(pin) (0x50000700u + 4u * (pin))

#define NVMC_READY 0x4001E400u
#define NVMC_CONFIG 0x4001E504u
#define NVMC_ERASEPAGE 0x4001E508u
#define NVMC_READ_ONLY 0u
#define NVMC_WRITE 1u
#define NVMC_ERASE 2u

static void init_uart(void)
{
    REG32(GPIO_OUTSET) = 1u << TD_PORT_UART_TX_PIN; /* idle level before the pin drives */
    REG32(GPIO_PIN_CNF(TD_PORT_UART_TX_PIN)) = 3;   /* output, input buffer off */
    REG32(GPIO_PIN_CNF(TD_PORT_UART_RX_PIN)) = 0;   /* input */
    REG32(UART_PSELTXD) = TD_PORT_UART_TX_PIN;
    REG32(UART_PSELRXD) = TD_PORT_UART_RX_PIN;
    REG32(UART_BAUDRATE) = TD_PORT_UART_BAUD_REGISTER;
    REG32(UART_ENABLE) = 4;
    REG32(UART_RXDRDY) = 0;
    REG32(UART_TXDRDY) = 0;
    REG32(UART_INTENSET) = 1u << 2; /* RXDRDY */
    REG32(UART_STARTRX) = 1;
    REG32(UART_STARTTX) = 1;
    td_enable_irq(TD_PORT_UART_IRQ);
}

void td_port_init(void)
{
    REG32(CLOCK_HFCLKSTARTED) = 0;
    REG32(CLOCK_HFCLKSTART) = 1; /* the RC oscillator is too coarse for a UART */
    while (REG32(CLOCK_HFCLKSTARTED) == 0) {
    }
    init_uart();
}

void td_port_interrupt(void)
{
    if (REG32(UART_ERROR)) {
        REG32(UART_ERROR) = 0;
        REG32(UART_ERRORSRC) = REG32(UART_ERRORSRC);
    }
    while (REG32(UART_RXDRDY)) {
        REG32(UART_RXDRDY) = 0; /* before the read: the next byte in the FIFO sets it again */
        td_receive_byte((uint8_t)REG32(UART_RXD));
    }
}

void td_port_write(const uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        REG32(UART_TXDRDY) = 0;
        REG32(UART_TXD) = bytes[i];
        while (REG32(UART_TXDRDY) == 0) {
        }
    }
}

static void nvmc_mode(uint32_t mode)
{
    REG32(NVMC_CONFIG) = mode;
    while (REG32(NVMC_READY) == 0) {
    }
}

int td_port_erase(void *context, uint32_t offset)
{
    (void)context;
    nvmc_mode(NVMC_ERASE);
    REG32(NVMC_ERASEPAGE) = TD_STORE_ORIGIN + offset;
    nvmc_mode(NVMC_READ_ONLY);
    return TD_OK;
}

int td_port_program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    nvmc_mode(NVMC_WRITE);
    for (uint32_t i = 0; i < size; i += 4) {
        uint32_t word = (uint32_t)bytes[i] | (uint32_t)bytes[i + 1] << 8 | (uint32_t)bytes[i + 2] << 16 |
                        (uint32_t)bytes[i + 3] << 24;
        REG32(TD_STORE_ORIGIN + offset + i) = word;
        while (REG32(NVMC_READY) == 0) {
        }
    }
    nvmc_mode(NVMC_READ_ONLY);
    return TD_OK;
}

const uint8_t *td_port_store(void)
{
    return (const uint8_t *)(uintptr_t)TD_STORE_ORIGIN;
}
