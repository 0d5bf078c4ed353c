/* Cortex-M start: vectors, memory, painted stack, faults, the tick counter and the receive ring. */
#include "cortex_m.h"
#include "td_board.h"
#include "td_port.h"

extern uint32_t td_stack_bottom[], td_stack_top[], td_data_begin[], td_data_end[], td_data_source[];
extern uint32_t td_bss_begin[], td_bss_end[], td_ram_end[], td_flash_begin[], td_image_end[];

#define SYST_CSR 0xE000E010u
#define SYST_RVR 0xE000E014u
#define SYST_CVR 0xE000E018u
#define NVIC_ISER 0xE000E100u
#define SCB_AIRCR 0xE000ED0Cu
#define SCB_CPACR 0xE000ED88u
#define MPU_CTRL 0xE000ED94u
#define MPU_RBAR 0xE000ED9Cu
#define MPU_RASR 0xE000EDA0u

#define PAINT 0xA5C3F00Du
#define FAULT_MAGIC 0xFA017EDu
#define N_IRQ (TD_PORT_UART_IRQ < 32 ? 32 : TD_PORT_UART_IRQ + 1)

/* Survives the reset that a fault ends in. */
static struct {
    uint32_t magic;
    uint32_t pc;
} fault_record __attribute__((section(".noinit")));

static uint32_t last_fault;

/* -------------------------------------------------------------------- ticks
 * SysTick has 24 bits. It wraps every 2^18 ticks here, a few milliseconds, because QEMU looks at a
 * UART that was idle only when some timer fires. */
#define TICK_BITS 18
#define TICK_MASK ((1u << TICK_BITS) - 1u)

static volatile uint32_t n_wraps;

void td_systick_handler(void);
void td_systick_handler(void)
{
    n_wraps++;
}

uint64_t td_port_ticks(void)
{
    uint32_t wraps, value;
    do {
        wraps = n_wraps;
        value = REG32(SYST_CVR);
    } while (wraps != n_wraps);
    return ((uint64_t)wraps << TICK_BITS) + (TICK_MASK - (value & TICK_MASK));
}

static void start_ticks(void)
{
    REG32(SYST_RVR) = TICK_MASK;
    REG32(SYST_CVR) = 0;
    REG32(SYST_CSR) = 7; /* processor clock, interrupt, enabled */
}

/* --------------------------------------------------------------------- ring */
#define RING_SIZE (TD_LINK_WIRE + 1u)

static uint8_t ring[RING_SIZE];
static volatile uint16_t ring_head, ring_tail; /* written by the interrupt, by main */

static uint16_t ring_next(uint16_t at)
{
    return (uint16_t)(at + 1u == RING_SIZE ? 0u : at + 1u);
}

void td_receive_byte(uint8_t byte)
{
    uint16_t next = ring_next(ring_head);
    if (next == ring_tail) return; /* full: the frame's CRC will tell, and the sender repeats */
    ring[ring_head] = byte;
    ring_head = next;
}

int td_port_read(void)
{
    uint16_t tail = ring_tail;
    if (tail == ring_head) return -1;
    uint8_t byte = ring[tail];
    ring_tail = ring_next(tail);
    return byte;
}

/* With interrupts masked, a byte that arrives after the test still ends the wait. */
void td_port_idle(void)
{
    __asm volatile("cpsid i" ::: "memory");
    if (ring_tail == ring_head) __asm volatile("dsb\n\twfi" ::: "memory");
    __asm volatile("cpsie i\n\tisb" ::: "memory");
}

void td_enable_irq(uint32_t irq)
{
    REG32(NVIC_ISER + irq / 32u * 4u) = 1u << irq % 32u;
}

/* ------------------------------------------------------------------- memory */
static uint32_t span(const uint32_t *begin, const uint32_t *end)
{
    return (uint32_t)((uintptr_t)end - (uintptr_t)begin);
}

void td_port_memory(td_memory *memory)
{
    memory->arena = (uint8_t *)td_bss_end;
    memory->arena_size = span(td_bss_end, td_ram_end);
    memory->ram_total = TD_RAM_SIZE;
    memory->ram_static = span(td_stack_top, td_bss_end);
    memory->stack_reserve = span(td_stack_bottom, td_stack_top);
    memory->flash_used = span(td_flash_begin, td_image_end);
}

uint32_t td_port_stack_used(void)
{
    const volatile uint32_t *word = td_stack_bottom;
    while (word < td_stack_top && *word == PAINT) word++;
    return (uint32_t)((uintptr_t)td_stack_top - (uintptr_t)word);
}

static void init_memory(void)
{
    const uint32_t *source = td_data_source;
    for (volatile uint32_t *to = td_data_begin; to < td_data_end; to++) *to = *source++;
    for (volatile uint32_t *to = td_bss_begin; to < td_bss_end; to++) *to = 0;
}

/* ------------------------------------------------------------- reset, faults */
void td_port_reset(void)
{
    __asm volatile("dsb" ::: "memory");
    REG32(SCB_AIRCR) = 0x05FA0004u;
    for (;;) {
    }
}

uint32_t td_port_fault(void)
{
    return last_fault;
}

/* Notes where the fault came from, then starts again: flash is whole at every moment. */
void td_record_fault(const uint32_t *frame);
void td_record_fault(const uint32_t *frame)
{
    bool readable = frame >= td_stack_bottom && frame + 8 <= td_stack_top;
    fault_record.pc = readable && frame[6] ? frame[6] : 1u;
    fault_record.magic = FAULT_MAGIC;
    td_port_reset();
}

/* The stack may be the cause: the handler starts on an empty one. */
__attribute__((naked)) void td_fault_handler(void);
__attribute__((naked)) void td_fault_handler(void)
{
    __asm volatile("mrs r0, msp\n\t"
                   "ldr r1, =td_stack_top\n\t"
                   "mov sp, r1\n\t"
                   "ldr r1, =td_record_fault\n\t"
                   "bx r1\n\t"
                   ".ltorg");
}

#if defined(TD_PORT_MPU) && TD_PORT_MPU
/* Regions for the firmware, the RAM budget, the store and the peripherals; the rest of the machine's
 * memory faults. boards.py has checked that sizes are powers of two. */
static void mpu_region(uint32_t number, uint32_t origin, uint32_t size, uint32_t attributes)
{
    uint32_t log2 = 0;
    while ((1u << (log2 + 1)) <= size && log2 < 30) log2++;
    REG32(MPU_RBAR) = origin | 0x10u | number;
    REG32(MPU_RASR) = attributes | (log2 - 1u) << 1 | 1u;
}

static void init_mpu(void)
{
    mpu_region(0, TD_FIRMWARE_ORIGIN, TD_FIRMWARE_SIZE, 0x06020000u);   /* read only, executable */
    mpu_region(1, TD_RAM_ORIGIN, TD_RAM_SIZE, 0x13020000u);             /* read and write */
    mpu_region(2, TD_STORE_ORIGIN, TD_STORE_SIZE, 0x13020000u);
    mpu_region(3, 0x40000000u, 0x20000000u, 0x13010000u);               /* device */
    REG32(MPU_CTRL) = 1; /* no default map for privileged code */
    __asm volatile("dsb\n\tisb" ::: "memory");
}
#endif

__attribute__((noreturn)) void td_start(void);
void td_start(void)
{
    init_memory();
#ifdef __ARM_FP
    REG32(SCB_CPACR) |= 0xFu << 20;
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
#if defined(TD_PORT_MPU) && TD_PORT_MPU
    init_mpu();
#endif
    if (fault_record.magic == FAULT_MAGIC) last_fault = fault_record.pc;
    fault_record.magic = 0;
    start_ticks();
    td_port_init();
    td_firmware();
    for (;;) {
    }
}

/* Paints the whole stack before anything lies on it. */
__attribute__((naked)) void td_reset_handler(void);
__attribute__((naked)) void td_reset_handler(void)
{
    __asm volatile("ldr r0, =td_stack_top\n\t"
                   "mov sp, r0\n\t"
                   "ldr r1, =td_stack_bottom\n\t"
                   "ldr r2, =%c0\n"
                   "1:\n\t"
                   "cmp r1, r0\n\t"
                   "bhs 2f\n\t"
                   "str r2, [r1]\n\t"
                   "adds r1, r1, #4\n\t"
                   "b 1b\n"
                   "2:\n\t"
                   "ldr r0, =td_start\n\t"
                   "bx r0\n\t"
                   ".ltorg"
                   :
                   : "i"(PAINT));
}

typedef void (*handler)(void);

static const struct {
    const uint32_t *stack;
    handler exceptions[15];
    handler irqs[N_IRQ];
} vectors __attribute__((section(".vectors"), used)) = {
    td_stack_top,
    {td_reset_handler, td_fault_handler, td_fault_handler, td_fault_handler, td_fault_handler, td_fault_handler,
     NULL, NULL, NULL, NULL, td_fault_handler, td_fault_handler, NULL, td_fault_handler, td_systick_handler},
    {[0 ... N_IRQ - 1] = td_port_interrupt},
};
