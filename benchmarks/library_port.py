"""NVIDIA's classifier as ports of it run, the library's model in fp32, one text at a time: what ours is set beside."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import DebertaV2Config, DebertaV2Model

from benchmarks.random_classifier import backbone_config_of
from service.classifiers.nvidia.geometry import DEBERTA_V3_BASE


def library(folder: Path, threads: int, *, padded: bool) -> Callable[[str], np.ndarray]:
    """What gives the logits of a text; `padded`: to 512 tokens, as the code on the model card does."""
    torch.set_num_threads(threads)
    state = load_file(folder / "model.safetensors")
    backbone = DebertaV2Model(DebertaV2Config(**backbone_config_of(DEBERTA_V3_BASE)))
    backbone.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    )
    backbone.eval()
    weights = torch.cat([state[f"head_{index}.fc.weight"] for index in range(8)])
    biases = torch.cat([state[f"head_{index}.fc.bias"] for index in range(8)])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    if padded:
        tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=512)  # noqa: S106 - no secret

    @torch.no_grad()
    def logits(text: str) -> np.ndarray:
        encoding = tokenizer.encode(text)
        mask = torch.tensor([encoding.attention_mask])
        hidden = backbone(input_ids=torch.tensor([encoding.ids]), attention_mask=mask).last_hidden_state
        wide = mask.unsqueeze(-1).float()
        pooled = (hidden * wide).sum(1) / wide.sum(1).clamp(min=1e-9)
        return torch.nn.functional.linear(pooled, weights, biases)[0].numpy()

    return logits
