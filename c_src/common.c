/* Status names, CRC-32, and the few f32 functions whose bits must agree on host and board. */
#include "td_internal.h"

const char *td_status_name(int status)
{
    switch (status) {
    case TD_OK: return "ok";
    case TD_NEED_INPUT: return "need input";
    case TD_E_ARGUMENT: return "argument";
    case TD_E_MEMORY: return "memory";
    case TD_E_FORMAT: return "format";
    case TD_E_VERSION: return "version";
    case TD_E_CRC: return "crc";
    case TD_E_RANGE: return "range";
    case TD_E_UNSUPPORTED: return "unsupported";
    case TD_E_STATE: return "state";
    case TD_E_FULL: return "full";
    case TD_E_NOT_FOUND: return "not found";
    case TD_E_FLASH: return "flash";
    default: return status <= TD_E_CALLBACK ? "callback" : "unknown";
    }
}

uint32_t td_word(const uint8_t *p)
{
    return td_get32(p);
}

#ifdef __OPTIMIZE_SIZE__ /* a table would take more than all of this */
static uint32_t crc_bytes(uint32_t crc, const uint8_t *bytes, size_t size)
{
    for (const uint8_t *end = bytes + size; bytes != end;) {
        crc ^= *bytes++;
        for (uint32_t bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return crc;
}
#else
/* Four bits a step: a 64-byte table is the middle between a 1 KB table and eight shifts a byte. */
static uint32_t crc_bytes(uint32_t crc, const uint8_t *bytes, size_t size)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return crc;
}
#endif

#if TD_LARGE_STACK
enum { CRC_SLICES = 8, CRC_LARGE = 16384 };

/* Eight bytes a step, by tables on the stack (8 KB): table k is for a byte that k more follow. */
static uint32_t crc_slices(uint32_t crc, const uint8_t *bytes, size_t size)
{
    uint32_t table[CRC_SLICES][256];
    for (uint32_t value = 0; value < 256; value++) {
        uint8_t byte = (uint8_t)value;
        table[0][value] = crc_bytes(0, &byte, 1);
    }
    for (uint32_t k = 1; k < CRC_SLICES; k++) {
        for (uint32_t v = 0; v < 256; v++) table[k][v] = table[k - 1][v] >> 8 ^ table[0][table[k - 1][v] & 0xFFu];
    }
    for (; size >= CRC_SLICES; size -= CRC_SLICES, bytes += CRC_SLICES) {
        uint32_t low = crc ^ td_get32(bytes), high = td_get32(bytes + 4);
        crc = table[7][low & 0xFFu] ^ table[6][low >> 8 & 0xFFu] ^ table[5][low >> 16 & 0xFFu] ^ table[4][low >> 24] ^
              table[3][high & 0xFFu] ^ table[2][high >> 8 & 0xFFu] ^ table[1][high >> 16 & 0xFFu] ^ table[0][high >> 24];
    }
    return crc_bytes(crc, bytes, size);
}
#endif

uint32_t td_crc32(uint32_t crc, const uint8_t *bytes, size_t size)
{
#if TD_LARGE_STACK
    if (size >= CRC_LARGE) return ~crc_slices(~crc, bytes, size);
#endif
    return ~crc_bytes(~crc, bytes, size);
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7 (the rest is below 2^-27). */
float td_expf(float x)
{
    if (x != x) return x; /* NaN has no integer part */
    if (x > 87.0f) x = 87.0f;
    if (x < -87.0f) x = -87.0f;
    float scaled = x * 1.44269504f;
    int32_t k = (int32_t)(scaled + (scaled < 0.0f ? -0.5f : 0.5f));
    float r = (x - (float)k * 0.693145752f) - (float)k * 1.42860677e-6f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * from_bits((uint32_t)(k + 127) << 23);
}

/* x = 2^k m with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)) by its odd series. */
float td_logf(float x)
{
    if (x != x) return x;
    uint32_t bits = to_bits(x);
    int32_t k = (int32_t)(bits >> 23) - 127;
    float m = from_bits((bits & 0x007FFFFFu) | 0x3F800000u);
    if (m > 1.41421354f) {
        m *= 0.5f;
        k += 1;
    }
    float s = (m - 1.0f) / (m + 1.0f);
    float z = s * s;
    float p = 2.0f / 9.0f;
    p = p * z + 2.0f / 7.0f;
    p = p * z + 2.0f / 5.0f;
    p = p * z + 2.0f / 3.0f;
    p = p * z + 2.0f;
    return (float)k * 0.693147182f + p * s;
}

uint32_t td_random(uint32_t state)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}
