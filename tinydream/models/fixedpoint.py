"""The integer arithmetic of LiteRT's reference kernels, for the tables that stand in for unary operators.

An int8 operator with one input is a table of 256 bytes: it is worked out here, once, so a board needs no exp, no
tanh and no division. Fixed-point numbers are raw integers (numpy int64 that hold int32 values); Qm.n has m integer
and n fractional bits. Source of the fixed-point functions: gemmlowp, whose results they reproduce to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["curve_scaling", "exponential_curve", "hard_swish", "input_radius", "leaky_relu", "logistic", "narrow",
           "quantize_multiplier", "reciprocal_curve", "rescale", "sigmoid_table", "softmax_terms", "tanh"]  # fmt: skip

Integers = npt.NDArray[np.int64]

_ONE = (1 << 31) - 1  # in Q0.31, where 1 itself does not fit


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A positive real as (multiplier, shift): multiplier * 2^(shift - 31), multiplier in [2^30, 2^31).

    Source: the fixed-point scheme of Jacob et al. 2018, rounded as TensorFlow Lite does.
    """
    if real == 0:
        return 0, 0
    mantissa, shift = math.frexp(real)
    multiplier = math.floor(mantissa * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def rescale(x: Any, multiplier: int, shift: int) -> Integers:
    """round(x * multiplier * 2^(shift - 31)), rounded after the product and after the shift to the right."""
    lifted = np.asarray(x, np.int64) << max(shift, 0)
    return _halved(_high(lifted, multiplier), max(-shift, 0))


def input_radius(integer_bits: int, shift: int) -> int:
    """The largest |x| that `shift` still leaves within `integer_bits`."""
    return math.floor(((1 << integer_bits) - 1) * 2.0 ** (31 - integer_bits - shift))


def logistic(x: Integers, scale: float) -> Integers:
    """int8 outputs (zero point -128, scale 1/256) of x, inputs less their zero point."""
    q4, beyond = _scaled_input(x, scale)
    positive = _reciprocal_of_one_plus(_exp(-np.abs(q4), 4))
    q0 = np.where(q4 == 0, 1 << 30, np.where(q4 > 0, positive, _ONE - positive))
    return np.where(beyond != 0, np.where(beyond > 0, 127, -128), np.clip(_halved(q0, 23) - 128, -128, 127))


def tanh(x: Integers, scale: float) -> Integers:
    """int8 outputs (zero point 0, scale 1/128) of x, inputs less their zero point."""
    q4, beyond = _scaled_input(x, scale)
    # tanh |a| = (1 - e) / (1 + e) with e = exp(-2 |a|); twice a Q4 number is a Q5 number of the same bits.
    e = _exp(-np.abs(q4), 5)
    half = _half_of_one_plus(e)
    magnitude = _shifted_up(_newton(half) - (1 << 29), 2)
    q0 = np.where(q4 == 0, 0, np.where(q4 > 0, magnitude, -magnitude))
    return np.where(beyond != 0, np.where(beyond > 0, 127, -128), np.clip(_halved(q0, 24), -128, 127))


def leaky_relu(x: Integers, identity: float, slope: float) -> Integers:
    """x less its zero point to outputs less theirs; the real multipliers of both sides. Not clamped."""
    return np.where(x >= 0, rescale(x, *quantize_multiplier(identity)), rescale(x, *quantize_multiplier(slope)))


def hard_swish(x: Integers, input_scale: np.float32, output_scale: np.float32) -> Integers | None:
    """x less its zero point to outputs less theirs, not clamped; None where the scales leave the reference's range."""
    fine = np.float32(1 / 128) * input_scale
    to_output, output_shift = quantize_multiplier(float(fine / output_scale))
    to_relu, relu_shift = quantize_multiplier(float(fine / (np.float32(3) / np.float32(32768))))
    if output_shift > 0 or not -31 < relu_shift < 16:
        return None
    lifted = x << 7
    on_output = _high16(lifted, narrow(to_output))
    gate = lifted
    if relu_shift > 0:
        gate = np.clip(gate << (relu_shift - 1), -32768, 32767)
    gate = _high16(gate, narrow(to_relu))
    if relu_shift > 0:
        gate = np.clip(gate << 1, -32768, 32767)
    gate = (_halved(gate, max(-relu_shift, 0)) + (1 << 15)) >> 1
    product = gate * on_output
    cut = np.where(product < 0, -(-product >> 15), product >> 15)  # towards zero
    return _halved(np.minimum(cut, 32767), -output_shift)


def softmax_terms(scale: float, beta: float) -> Integers:
    """exp(-d * scale * beta) in Q0.31 for d = 0 .. 255; 0 where the reference leaves a term out."""
    real = min(beta * scale * (1 << 26), (1 << 31) - 1.0)
    multiplier, shift = quantize_multiplier(real)
    difference = -np.arange(256, dtype=np.int64)
    inside = difference >= -input_radius(5, shift)
    q5 = _high(np.where(inside, difference, 0) << max(shift, 0), multiplier)
    return np.where(inside, _exp(q5, 5), 0)


# ------------------------------------------------------------------- int16


def sigmoid_table() -> Integers:
    """The sigmoid of n / 24 in Q0.16 for n = 0 .. 255, each moved by half the error of the line at the middle."""
    halves = 65536 / (1 + np.exp(-np.arange(513) / 48))
    points, middles = halves[::2], halves[1::2]
    error = middles - (points[:-1] + points[1:]) / 2
    table: Integers = np.floor(points[:-1] + error / 2 + 0.5).astype(np.int64)
    table[-1] = 65535  # the largest that 16 bits hold
    return table


def curve_scaling(scale: float) -> tuple[int, int] | None:
    """Multiplier and shift (not above 0) from int16 steps of `scale` to steps of 1 / 12288; None: out of range."""
    mantissa, exponent = math.frexp(scale)
    if mantissa == 0.5 and exponent + 11 in (0, 1):
        return 3 << (exponent + 11), 0
    real, shift = scale * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and shift <= 30:
        real, shift = real * 2.0, shift + 1
    return (int(real), -shift) if real < 32768 else None


def exponential_curve() -> Integers:
    """exp from -10 to 0 in Q0.15 as 513 points."""
    return _points(np.exp, -10.0, 0.0)


def reciprocal_curve() -> Integers:
    """1 / (1 + x) of x from 0 to 1 in Q0.15 as 513 points."""
    return _points(lambda x: 1 / (1 + x), 0.0, 1.0)


def _points(function: Callable[[Any], Any], low: float, high: float) -> Integers:
    """513 points of a function, all but the last moved by half the error of the line that follows, at its middle."""

    def rounded(x: Any) -> Any:
        """To nearest, halves away from zero."""
        return np.copysign(np.floor(np.abs(x) + 0.5), x)

    at = low + np.arange(1025) * ((high - low) / 1024)
    values = function(at) * 32768
    points, middles, following = rounded(values[:-1:2]), rounded(values[1::2]), values[2::2]
    error = rounded((following + points) / 2) - middles
    curve: Integers = np.append(points - rounded(error / 2), rounded(values[-1:])).clip(max=32767).astype(np.int64)
    return curve


# ------------------------------------------------------------- building blocks


def _high(a: Any, b: Any) -> Integers:
    """a * b / 2^31, rounded to nearest (halves up)."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    high: Integers = np.minimum((product + (1 << 30)) >> 31, _ONE)
    return high


def _high16(a: Integers, b: int) -> Integers:
    high: Integers = np.minimum((a * b + (1 << 14)) >> 15, 32767)
    return high


def narrow(multiplier: int) -> int:
    """An int32 multiplier as int16."""
    return min((multiplier + (1 << 15)) >> 16, 32767)


def _halved(x: Integers, times: int) -> Integers:
    """x / 2^times, rounded to nearest, halves away from zero."""
    mask = (1 << times) - 1
    halved: Integers = (x >> times) + ((x & mask) > (mask >> 1) + (x < 0))
    return halved


def _shifted_up(x: Integers, times: int) -> Integers:
    shifted: Integers = np.clip(x << times, -_ONE - 1, _ONE)
    return shifted


def _scaled_input(x: Integers, scale: float) -> tuple[Integers, Integers]:
    """x in Q4.27, and the sign of those that do not fit."""
    multiplier, shift = quantize_multiplier(scale * (1 << 27))
    radius = input_radius(4, shift)
    beyond = np.where(x >= radius, 1, np.where(x <= -radius, -1, 0))
    return rescale(np.where(beyond == 0, x, 0), multiplier, shift), beyond


def _exp(a: Integers, integer_bits: int) -> Integers:
    """exp(a) in Q0.31 of a <= 0 with 31 - integer_bits fractional bits: by the quarter below, then by powers of two."""
    fraction = 31 - integer_bits
    quarter = 1 << (fraction - 2)
    within = (a & (quarter - 1)) - quarter
    x = (within << integer_bits) + (1 << 28)
    x2 = _high(x, x)
    inner = _high(_halved(_high(x2, x2), 2) + _high(x2, x), 715827883) + x2  # 1/3 in Q0.31
    result = 1895147668 + _high(1895147668, x + _halved(inner, 1))  # exp(-1/8)
    remainder = within - a
    for exponent, factor in zip(range(-2, 5), _POWERS, strict=True):
        if exponent < integer_bits:
            result = np.where(remainder & (1 << (fraction + exponent)), _high(result, factor), result)
    return np.where(a == 0, _ONE, result)


_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)  # exp(-2^k) in Q0.31, k from -2 on


def _half_of_one_plus(e: Integers) -> Integers:
    return (e + _ONE + 1) >> 1


def _newton(half: Integers) -> Integers:
    """1 / half in Q2.29, half in [1/2, 1): three steps from the best line."""
    x = 1515870810 + _high(half, -1010580540)  # 48/17 and -32/17 in Q2.29
    for _ in range(3):
        x = x + _shifted_up(_high(x, (1 << 29) - _high(half, x)), 2)
    return x


def _reciprocal_of_one_plus(e: Integers) -> Integers:
    return _shifted_up(_newton(_half_of_one_plus(e)), 1)
