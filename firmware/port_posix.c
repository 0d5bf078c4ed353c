/* A process as a board: a TCP connection is its UART, a file its flash, exec its reset.
 *
 * Usage: firmware --port P --flash FILE. Like QEMU's serial server it listens on 127.0.0.1 and holds
 * one connection at a time, which a reset of the board does not close. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "td_board.h"
#include "td_port.h"

#define SOCKETS "TINYDREAM_SOCKETS" /* "listening connected": handed over the reset */

static struct {
    char **argv;
    int listening, connected; /* connected: -1 without a client */
    uint8_t *flash;
    uint8_t received[4096];
    size_t n_received, n_taken;
} process = {.connected = -1};

static uint8_t arena[TD_RAM_SIZE - TD_STATICS_RESERVE - TD_STACK_RESERVE] __attribute__((aligned(16)));

static void fail(const char *what)
{
    fprintf(stderr, "firmware: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void open_flash(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0666);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) fail(path);
    if (ftruncate(fd, TD_STORE_SIZE) != 0) fail(path);
    process.flash = mmap(NULL, TD_STORE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (process.flash == MAP_FAILED) fail(path);
    close(fd);
    if (status.st_size < TD_STORE_SIZE) {
        memset(process.flash + status.st_size, TD_FLASH_ERASED, (size_t)(TD_STORE_SIZE - status.st_size));
    }
}

static void listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    process.listening = socket(AF_INET, SOCK_STREAM, 0);
    if (process.listening < 0) fail("socket");
    setsockopt(process.listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(process.listening, (struct sockaddr *)&address, sizeof address) != 0) fail("bind");
    if (listen(process.listening, 1) != 0) fail("listen");
}

static void hang_up(void)
{
    close(process.connected);
    process.connected = -1;
}

/* Waits up to `milliseconds` (-1: for ever) for a client or for bytes; false: neither came. */
static bool wait_for_input(int milliseconds)
{
    struct pollfd fd = {.events = POLLIN};
    fd.fd = process.connected >= 0 ? process.connected : process.listening;
    return poll(&fd, 1, milliseconds) > 0;
}

static void accept_client(void)
{
    int yes = 1;
    process.connected = accept(process.listening, NULL, NULL);
    if (process.connected >= 0) setsockopt(process.connected, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

int td_port_read(void)
{
    if (process.n_taken < process.n_received) return process.received[process.n_taken++];
    if (!wait_for_input(0)) return -1;
    if (process.connected < 0) {
        accept_client();
        return -1;
    }
    ssize_t n = recv(process.connected, process.received, sizeof process.received, 0);
    if (n <= 0) {
        hang_up();
        return -1;
    }
    process.n_received = (size_t)n;
    process.n_taken = 1;
    return process.received[0];
}

void td_port_idle(void)
{
    if (process.n_taken == process.n_received) wait_for_input(-1);
}

void td_port_write(const uint8_t *bytes, uint32_t size)
{
    while (size > 0 && process.connected >= 0) {
        ssize_t n = send(process.connected, bytes, size, 0);
        if (n <= 0) {
            hang_up();
            return;
        }
        bytes += n;
        size -= (uint32_t)n;
    }
}

uint64_t td_port_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int td_port_erase(void *context, uint32_t offset)
{
    (void)context;
    memset(process.flash + offset, TD_FLASH_ERASED, TD_FLASH_ERASE_BLOCK);
    return TD_OK;
}

/* Programming only clears bits, as in NOR flash. */
int td_port_program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    (void)context;
    for (uint32_t i = 0; i < size; i++) process.flash[offset + i] = (uint8_t)(process.flash[offset + i] & bytes[i]);
    return TD_OK;
}

const uint8_t *td_port_store(void)
{
    return process.flash;
}

void td_port_memory(td_memory *memory)
{
    memory->arena = arena;
    memory->arena_size = sizeof arena;
    memory->ram_total = TD_RAM_SIZE;
    memory->ram_static = TD_STATICS_RESERVE;
    memory->stack_reserve = TD_STACK_RESERVE;
    memory->flash_used = 0;
}

uint32_t td_port_stack_used(void)
{
    return 0;
}

uint32_t td_port_fault(void)
{
    return 0;
}

void td_port_reset(void)
{
    char sockets[32];
    snprintf(sockets, sizeof sockets, "%d %d", process.listening, process.connected);
    setenv(SOCKETS, sockets, 1);
    execv(process.argv[0], process.argv);
    fail("reset");
}

void td_port_init(void)
{
}

static const char *option(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    }
    fprintf(stderr, "usage: %s --port P --flash FILE\n", argv[0]);
    exit(2);
}

int main(int argc, char **argv)
{
    const char *port = option(argc, argv, "--port"), *flash = option(argc, argv, "--flash");
    const char *sockets = getenv(SOCKETS);
    process.argv = argv;
    signal(SIGPIPE, SIG_IGN);
    open_flash(flash);
    if (!sockets || sscanf(sockets, "%d %d", &process.listening, &process.connected) != 2) listen_on(atoi(port));
    unsetenv(SOCKETS);
    td_port_init();
    td_firmware();
}
