"""The measurements behind the choice of a number format: they compute on every backend, and once."""

from minigpt.machine.formats import bfloat16_speed, int8_speed


def test_each_format_is_measured_once(backend):
    shapes = ((64, 64), (128, 64), (64, 128))
    assert bfloat16_speed(backend, 64) > 0 and bfloat16_speed(backend, 64) is bfloat16_speed(backend, 64)
    speed = int8_speed(backend, shapes)
    assert (speed > 0) == (backend.quantized.int8 is not None)
    assert int8_speed(backend, shapes) is speed and int8_speed(backend, ()) == 0.0
