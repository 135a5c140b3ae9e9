"""Which number format a processor computes fast: its flags as recorded, and decisions on made-up measurements."""

from types import SimpleNamespace

import pytest

from minigpt.machine import choose_dtype, formats
from minigpt.machine.formats import bfloat16_units, dtype_note

X86 = "processor\t: 0\nmodel name\t: {}\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni {}\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve {}\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("system", "cpuinfo", "sysctl", "units"),
    [
        ("linux", X86.format("Intel Xeon Platinum 8481C", "amx_bf16 avx512_bf16 amx_tile"), "", "matrix"),
        ("linux", X86.format("AMD EPYC 9B14", "avx512_bf16"), "", "vector"),
        ("linux", X86.format("Intel(R) Xeon(R) CPU @ 2.80GHz", ""), "", "none"),
        ("linux", ARM.format("bf16 i8mm"), "", "matrix"),
        ("linux", ARM.format("i8mm"), "", "none"),
        ("linux", "", "", "unknown"),
        ("darwin", "", "1\n", "vector"),  # the processor's; M2's GPU still emulates it
        ("darwin", "", "0\n", "none"),
        ("darwin", "", "", "unknown"),  # an Intel Mac does not know the name
        ("win32", "", "", "unknown"),
    ],
)
def test_units_for_bfloat16(system, cpuinfo, sysctl, units):
    assert bfloat16_units.__wrapped__(system, lambda path: cpuinfo, lambda command: sysctl) == units


def backend(device="cpu", native=False):
    return SimpleNamespace(device=device, runtime=SimpleNamespace(fast_bfloat16=lambda: native))


@pytest.fixture
def measured(monkeypatch):
    """measured(units, speed): what the processor is, and how fast bfloat16 turned out."""

    def set_to(units, speed):
        monkeypatch.setattr(formats, "bfloat16_units", lambda: units)
        monkeypatch.setattr(formats, "bfloat16_speed", lambda *what: speed)

    return set_to


@pytest.mark.parametrize(
    ("units", "speed", "width", "dtype"),
    [
        ("matrix", 4.0, 512, "bfloat16"),
        ("matrix", 1.2, 512, "float32"),  # its products alone win too little for the rest of a step
        ("matrix", 4.0, 64, "float32"),
        ("vector", 4.0, 512, "float32"),  # a measurement alone must not decide: it differs from day to day
        ("none", 4.0, 512, "float32"),
        ("unknown", 4.0, 512, "float32"),
    ],
)
def test_what_auto_means_on_a_cpu(measured, units, speed, width, dtype):
    measured(units, speed)
    assert choose_dtype(backend(), "auto", width) == dtype
    assert ("Computing in bfloat16" in dtype_note(backend(), "auto", width)) == (dtype == "bfloat16")


def test_what_auto_means_on_a_gpu(measured):
    measured("none", 0.1)
    assert choose_dtype(backend("gpu", native=True), "auto") == "bfloat16"
    assert choose_dtype(backend("gpu"), "auto") == "float32"
    assert dtype_note(backend("gpu", native=True), "auto", 512) == ""


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_was_asked_for_stays(measured, wanted):
    measured("none", 0.25)
    assert choose_dtype(backend(), wanted) == wanted


def test_a_slow_format_is_named_with_its_figure(measured):
    measured("none", 0.25)
    assert dtype_note(backend(), "bfloat16", 512) == (
        "bfloat16 is slow here (this processor has no units for it): products take 4.0× as long as in float32 "
        '(measured); dtype = "auto" takes what is faster.'
    )
    assert "(this GPU emulates it): products take 4.0×" in dtype_note(backend("gpu"), "bfloat16", 512)
    assert dtype_note(backend(), "float32", 512) == dtype_note(backend("gpu", native=True), "bfloat16", 512) == ""
    measured("matrix", 3.0)
    assert dtype_note(backend(), "bfloat16", 512) == ""
