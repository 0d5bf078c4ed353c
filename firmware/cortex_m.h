/* What every Cortex-M family shares (startup_cortex_m.c) and what its port hands in. */
#ifndef CORTEX_M_H
#define CORTEX_M_H

#include <stdint.h>

#define REG32(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* For the port's UART interrupt: keeps a received byte for td_port_read. */
void td_receive_byte(uint8_t byte);

void td_enable_irq(uint32_t irq);

/* The port's handler of every external interrupt; only the UART's is enabled. */
void td_port_interrupt(void);

#endif /* CORTEX_M_H */
