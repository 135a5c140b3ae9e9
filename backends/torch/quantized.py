"""Quantized matrices in torch: the codes of a word are its bytes."""

import torch

from backends.quantized import Int8, Quantized
from backends.torch import int8
from backends.torch.autograd import QuantizedLinear

Array = torch.Tensor


class TorchQuantized(Quantized):
    """torch's own int4 and int8 products lose against unpacking on CPUs in float32 (see quantization.md)."""

    def dequantize(self, packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        codes = packed.contiguous().view(torch.uint8)  # the bytes of a word, its lowest first
        if bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=-1)
        codes = codes.to(scales.dtype).reshape(*scales.shape, -1)  # (…, groups, group_size)
        return torch.addcmul(biases[..., None], codes, scales[..., None]).reshape(*packed.shape[:-1], -1)

    def linear(self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None) -> Array:
        bits = 32 * packed.shape[-1] // x.shape[-1]
        y = QuantizedLinear.apply(x, packed, scales.to(x.dtype), biases.to(x.dtype), bits, self.dequantize)
        return y if bias is None else y + bias.to(x.dtype)

    @property
    def int8(self) -> Int8 | None:
        return int8.Products() if self.backend.device == "cpu" and int8.available() else None
