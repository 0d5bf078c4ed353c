/* Rows that are images: from pixels to what a pack stores, and back (docs/SPEC.md, "Image").
 *
 * All arithmetic is modulo 2^32 and all steps add to one value what they computed from another. So each is undone by
 * taking the same amount off again: exactly, for any 32-bit values, with nothing beside the row in memory. */
#include "td_internal.h"

enum { SIDE = 8, FRACTION = 12, STEPS_AT = 16, N_STEPS = SIDE * SIDE };

typedef struct shape {
    uint32_t height, width, channels, flags;
    const uint8_t *steps; /* of the quantisation: N_STEPS u16, then as many for channels but the first; NULL: none */
} shape;

static shape read_shape(const uint8_t *image)
{
    shape s = {td_get16(image), td_get16(image + 2), image[4], image[5], NULL};
    if (s.flags & TD_IMAGE_QUANTISED) s.steps = image + STEPS_AT;
    return s;
}

int td_image_check(const uint8_t *image, uint32_t size, uint32_t n_features)
{
    if (size < STEPS_AT) return TD_E_FORMAT;
    shape s = read_shape(image);
    int32_t lowest = td_get_i32(image + 8), highest = td_get_i32(image + 12);
    uint32_t n_steps = !s.steps ? 0u : s.channels > 1 ? 2u * N_STEPS : N_STEPS;
    if (s.height == 0 || s.width == 0 || s.channels == 0 || (uint64_t)s.height * s.width * s.channels != n_features ||
        s.flags > (TD_IMAGE_COLOUR | TD_IMAGE_DCT | TD_IMAGE_QUANTISED) || td_get16(image + 6) != 0 ||
        ((s.flags & TD_IMAGE_COLOUR) && s.channels != 3) || (s.steps && !(s.flags & TD_IMAGE_DCT)) ||
        (s.steps ? lowest > highest : (lowest != 0 || highest != 0)) || size != STEPS_AT + 2u * n_steps)
        return TD_E_FORMAT;
    for (uint32_t i = 0; i < n_steps; i++) {
        if (td_get16(s.steps + 2u * i) == 0) return TD_E_FORMAT;
    }
    return TD_OK;
}

/* ------------------------------------------------------------- arithmetic */

/* Towards minus infinity, as two's complement numbers. */
static uint32_t shift_right(uint32_t value, uint32_t n)
{
    return ((value ^ 0x80000000u) >> n) - (0x80000000u >> n);
}

static uint32_t scaled(uint32_t value, uint32_t factor)
{
    return shift_right(value * factor + ((uint32_t)1 << (FRACTION - 1)), FRACTION);
}

/* Small numbers of either sign become small numbers: 0, -1, 1, -2 .. -> 0, 1, 2, 3 .. */
static uint32_t fold(uint32_t value)
{
    return value & 0x80000000u ? ~(value << 1) : value << 1;
}

static uint32_t unfold(uint32_t value)
{
    return value & 1u ? ~(value >> 1) : value >> 1;
}

/* -------------------------------------------------------------------- DCT */

/* tan(a / 2) and sin(a) in units of 2^-FRACTION, for a = pi/8, 3 pi/16, pi/16. */
static const uint16_t rotations[3][2] = {{815, 1567}, {1243, 2276}, {403, 799}};

/* One dimension: what happens to which two of eight values. 0: mean and difference; else rotation number n - 1.
 * Where the coefficients come to lie is in the specification. */
static const uint8_t line_steps[13][3] = {{0, 7, 0}, {1, 6, 0}, {2, 5, 0}, {3, 4, 0}, {0, 3, 0}, {1, 2, 0}, {0, 1, 0},
                                          {3, 2, 1}, {4, 7, 2}, {5, 6, 3}, {4, 6, 0}, {5, 7, 0}, {5, 4, 0}};

static void forward_step(uint32_t *x, uint32_t *y, uint32_t kind)
{
    if (kind == 0) {
        *x -= *y;
        *y += shift_right(*x, 1); /* the mean */
        uint32_t mean = *y;
        *y = *x;
        *x = mean;
    } else {
        const uint16_t *by = rotations[kind - 1u];
        *x += scaled(*y, by[0]);
        *y -= scaled(*x, by[1]);
        *x += scaled(*y, by[0]);
    }
}

static void inverse_step(uint32_t *x, uint32_t *y, uint32_t kind)
{
    if (kind == 0) {
        uint32_t difference = *y;
        *y = *x - shift_right(difference, 1);
        *x = *y + difference;
    } else {
        const uint16_t *by = rotations[kind - 1u];
        *x -= scaled(*y, by[0]);
        *y += scaled(*x, by[1]);
        *x -= scaled(*y, by[0]);
    }
}

enum { N_LINE_STEPS = sizeof line_steps / sizeof line_steps[0] };

static void forward_line(uint32_t *values, uint32_t stride)
{
    for (uint32_t i = 0; i < N_LINE_STEPS; i++) {
        forward_step(values + line_steps[i][0] * stride, values + line_steps[i][1] * stride, line_steps[i][2]);
    }
}

static void inverse_line(uint32_t *values, uint32_t stride)
{
    for (uint32_t i = N_LINE_STEPS; i-- > 0;) {
        inverse_step(values + line_steps[i][0] * stride, values + line_steps[i][1] * stride, line_steps[i][2]);
    }
}

/* All whole tiles; the rest of an image whose sides are no multiples of SIDE stays as it is. */
static void all_tiles(const shape *s, uint32_t *values, bool inverse)
{
    uint32_t down = s->width * s->channels;
    for (uint32_t y = 0; y + SIDE <= s->height; y += SIDE) {
        for (uint32_t x = 0; x + SIDE <= s->width; x += SIDE) {
            for (uint32_t c = 0; c < s->channels; c++) {
                uint32_t *tile = values + y * down + x * s->channels + c;
                for (uint32_t i = 0; i < SIDE; i++) {
                    if (inverse) inverse_line(tile + i * s->channels, down);
                    else forward_line(tile + i * down, s->channels);
                }
                for (uint32_t i = 0; i < SIDE; i++) {
                    if (inverse) inverse_line(tile + i * down, s->channels);
                    else forward_line(tile + i * s->channels, down);
                }
            }
        }
    }
}

/* ----------------------------------------------------------------- colour */

/* YCoCg-R: red, green, blue become luma, orange and green difference. */
static void forward_colour(uint32_t *pixel)
{
    uint32_t orange = pixel[0] - pixel[2], middle = pixel[2] + shift_right(orange, 1), green = pixel[1] - middle;
    pixel[0] = middle + shift_right(green, 1);
    pixel[1] = orange;
    pixel[2] = green;
}

static void inverse_colour(uint32_t *pixel)
{
    uint32_t middle = pixel[0] - shift_right(pixel[2], 1), green = pixel[2] + middle;
    uint32_t blue = middle - shift_right(pixel[1], 1), red = blue + pixel[1];
    pixel[0] = red;
    pixel[1] = green;
    pixel[2] = blue;
}

static void all_pixels(const shape *s, uint32_t *values, void (*transform)(uint32_t *pixel))
{
    for (uint32_t i = 0; i < s->height * s->width; i++) transform(values + 3u * i);
}

/* ----------------------------------------------------------------- values */

static bool in_tile(const shape *s, uint32_t y, uint32_t x)
{
    return (s->flags & TD_IMAGE_DCT) && (y | (SIDE - 1u)) < s->height && (x | (SIDE - 1u)) < s->width;
}

/* Differences have either sign; pixels, and means of pixels, have not. */
static bool is_difference(const shape *s, uint32_t y, uint32_t x, uint32_t c)
{
    return (c > 0 && (s->flags & TD_IMAGE_COLOUR)) || (((y | x) & (SIDE - 1u)) != 0 && in_tile(s, y, x));
}

static uint32_t step_of(const shape *s, uint32_t y, uint32_t x, uint32_t c)
{
    if (!s->steps || !in_tile(s, y, x)) return 1;
    return td_get16(s->steps + 2u * ((c > 0 ? N_STEPS : 0u) + (y & (SIDE - 1u)) * SIDE + (x & (SIDE - 1u))));
}

static uint32_t quantise(uint32_t value, uint32_t step)
{
    bool negative = value >> 31;
    uint32_t size = negative ? 0u - value : value, rounded = size / step + (size % step >= step - step / 2u ? 1u : 0u);
    return negative ? 0u - rounded : rounded;
}

static void all_values(const shape *s, uint32_t *value, bool inverse)
{
    for (uint32_t y = 0; y < s->height; y++) {
        for (uint32_t x = 0; x < s->width; x++) {
            for (uint32_t c = 0; c < s->channels; c++, value++) {
                bool folds = is_difference(s, y, x, c);
                uint32_t step = step_of(s, y, x, c);
                if (inverse) {
                    *value = (folds ? unfold(*value) : *value) * step;
                } else {
                    if (step > 1) *value = quantise(*value, step);
                    if (folds) *value = fold(*value);
                }
            }
        }
    }
}

/* --------------------------------------------------------------- the whole */

void td_image_forward(const uint8_t *image, int32_t *values)
{
    shape s = read_shape(image);
    uint32_t *words = (uint32_t *)values;
    if (s.flags & TD_IMAGE_COLOUR) all_pixels(&s, words, forward_colour);
    if (s.flags & TD_IMAGE_DCT) all_tiles(&s, words, false);
    all_values(&s, words, false);
}

void td_image_inverse(const uint8_t *image, int32_t *values)
{
    shape s = read_shape(image);
    uint32_t *words = (uint32_t *)values;
    all_values(&s, words, true);
    if (s.flags & TD_IMAGE_DCT) all_tiles(&s, words, true);
    if (s.flags & TD_IMAGE_COLOUR) all_pixels(&s, words, inverse_colour);
    if (!s.steps) return;
    int32_t lowest = td_get_i32(image + 8), highest = td_get_i32(image + 12);
    for (uint32_t i = 0; i < s.height * s.width * s.channels; i++) {
        if (values[i] < lowest) values[i] = lowest;
        if (values[i] > highest) values[i] = highest;
    }
}
