"""Final features and features of early layers, from one pass through a backbone.

Early layers encode shortcuts such as colour or texture more clearly than the class, so members that read them follow
the shortcut where members on the last layer already recognise the class.
"""

from typing import Any

import torch
from torch import nn

from hf_biasensemble.models.modeling_debiased import TransformersEncoder, feature_width

NUM_LAYERS = 4
LARGEST = torch.finfo(torch.float16).max


class EarlyAndFinal(nn.Module):
    """Images (B, C, H, W) -> the backbone's pooled features (B, W), then features of its early layers (B, E).

    Features of [`early_layers`] are the spatial mean and log1p of the standard deviation of each channel; after a
    ReLU, log1p of the mean. The backbone is a timm model without a classifier or a [`TransformersEncoder`].
    """

    def __init__(self, backbone: nn.Module, image_size: int):
        super().__init__()
        self.backbone = backbone.eval()
        self.width, self.early_width = feature_width(backbone), 0
        self.never_negative: list[bool] = []
        probe = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)) * 4 - 2
        probe = probe.to(next(backbone.parameters(), probe).device)
        with torch.no_grad():
            try:
                final, maps = self._final_and_maps(probe)
                has_early = final.shape == (2, self.width) and torch.allclose(final, backbone(probe), atol=1e-4)
            except Exception:  # families without intermediate outputs raise unrelated types
                has_early = False
        if has_early:
            self.never_negative = [bool(values.min() >= 0) for values in maps]
            self.early_width = 2 * sum(values.shape[1] for values in maps)

    def columns(self, kind: str) -> slice:
        """The columns of `"final"` or `"early"` features in the output."""
        return slice(0, self.width) if kind == "final" else slice(self.width, self.width + self.early_width)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if not self.early_width:
            return self.backbone(pixel_values)
        final, maps = self._final_and_maps(pixel_values)
        parts = [final]
        for values, never_negative in zip(maps, self.never_negative, strict=True):
            mean, std = values.mean(dim=(2, 3)), values.std(dim=(2, 3), correction=0).log1p()
            parts += [mean.log1p() if never_negative else mean, std]
        return torch.cat([part.to(final.dtype) for part in parts], dim=1).clamp(-LARGEST, LARGEST)

    def _final_and_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        backbone: Any = self.backbone
        if isinstance(backbone, TransformersEncoder):
            outputs = backbone.network(pixel_values=images, output_hidden_states=True)
            maps = [_channels_first(values) for values in outputs.hidden_states[1:]]  # the first is the input
            layers = early_layers([1 / values[0, 0].numel() for values in maps])
            return outputs.logits, [maps[number] for number in layers]
        layers = early_layers([output["reduction"] for output in getattr(backbone, "feature_info", None) or []])
        last, maps = backbone.forward_intermediates(images, indices=layers, output_fmt="NCHW")
        return backbone.forward_head(last), maps


def early_layers(reductions: list[float]) -> list[int]:
    """Indices of up to four early outputs, given the reduction of each: those before the last stage, or, if all have
    the same resolution, evenly spaced ones in the first two thirds of the depth."""
    if len(set(reductions)) > 1:
        return list(range(len(reductions) - 1))[-NUM_LAYERS:]
    last = 2 * len(reductions) / 3
    return sorted({max(0, round(last * number / NUM_LAYERS) - 1) for number in range(1, NUM_LAYERS + 1)})


def _channels_first(values: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, C) -> (B, C, N, 1); square maps (B, C, H, W) or (B, H, W, C) -> (B, C, H, W)."""
    if values.dim() == 3:
        return values.transpose(1, 2).unsqueeze(-1)
    height, last = values.shape[1], values.shape[3]
    return values.permute(0, 3, 1, 2) if height == values.shape[2] != last else values
