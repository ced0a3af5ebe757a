"""NVIDIA's classifier written down slowly and plainly, from its published behaviour: what the fast paths must equal.

The library's DeBERTa-v2 in float32, padded to the longest text, mean over unmasked tokens, eight linear layers, and
the published rounding. It shares no code with the classifier that it judges.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import DebertaV2Config, DebertaV2Model

TARGETS = [
    "task_type", "creativity_scope", "reasoning", "contextual_knowledge", "number_of_few_shots", "domain_knowledge",
    "no_label_reason", "constraint_ct",
]  # fmt: skip


class Reference:
    """One model folder, read with the library. `geometry` is told, so that nothing is guessed here."""

    def __init__(self, folder: Path, geometry) -> None:
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(512)
        self.tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
        config = DebertaV2Config(
            vocab_size=geometry.vocabulary, hidden_size=geometry.hidden, num_hidden_layers=geometry.layers,
            num_attention_heads=geometry.heads, intermediate_size=geometry.feed_forward,
            position_buckets=geometry.buckets, max_position_embeddings=512, max_relative_positions=-1,
            layer_norm_eps=geometry.eps, norm_rel_ebd="layer_norm" if geometry.normalised_distances else "none",
            relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True, position_biased_input=False,
            type_vocab_size=0, hidden_act="gelu", pad_token_id=0,
        )  # fmt: skip
        state = load_file(folder / "model.safetensors")
        self.backbone = DebertaV2Model(config)
        ours = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
        self.backbone.load_state_dict(ours, strict=True)
        self.backbone.float().eval()
        self.heads = [
            (state[f"head_{index}.fc.weight"], state[f"head_{index}.fc.bias"]) for index in range(len(TARGETS))
        ]

    @torch.no_grad()
    def run(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, 32) and pooled texts (n, hidden), all texts padded into one batch."""
        encodings = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([encoding.ids for encoding in encodings])
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        hidden = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        wide = mask.unsqueeze(-1).expand(hidden.size()).float()
        pooled = torch.sum(hidden * wide, 1) / torch.clamp(wide.sum(1), min=1e-9)
        logits = torch.cat([torch.nn.functional.linear(pooled, *head) for head in self.heads], dim=1)
        return logits.numpy(), pooled.numpy()

    def logits(self, text: str) -> np.ndarray:
        """Logits (32,) of one text, alone."""
        return self.run([text])[0][0]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """All 32 head probabilities, (n, 32), in float32."""
        return torch.cat([torch.softmax(part, dim=1) for part in self._parts(logits)], dim=1).numpy()

    def answers(self, logits: np.ndarray) -> list[dict]:
        """The eleven fields for each row of logits (n, 32), by NVIDIA's names."""
        task, *others = self._parts(logits)
        names = self.config["task_type_map"]
        top = torch.topk(task, k=2, dim=1).indices
        top_probabilities = torch.softmax(task, dim=1).gather(1, top).tolist()
        scores = {}
        for target, part in zip(TARGETS[1:], others, strict=True):
            weights = np.array(self.config["weights_map"][target])
            expected = np.sum(torch.softmax(part, dim=1).numpy() * weights, axis=1)
            scores[target] = [round(value, 4) for value in expected / self.config["divisor_map"][target]]
        scores["number_of_few_shots"] = [value if value >= 0.05 else 0 for value in scores["number_of_few_shots"]]
        answers = []
        for row, (indices, probabilities) in enumerate(zip(top.tolist(), top_probabilities, strict=True)):
            first, second = (round(value, 3) for value in probabilities)
            score = {target: values[row] for target, values in scores.items()}
            complexity = round(
                0.35 * score["creativity_scope"]
                + 0.25 * score["reasoning"]
                + 0.15 * score["constraint_ct"]
                + 0.15 * score["domain_knowledge"]
                + 0.05 * score["contextual_knowledge"]
                + 0.05 * score["number_of_few_shots"],
                5,
            )
            answers.append({
                "task_type_1": names[str(indices[0])],
                "task_type_2": "NA" if second < 0.1 else names[str(indices[1])],
                "task_type_prob": first,
                "creativity_scope": score["creativity_scope"],
                "reasoning": score["reasoning"],
                "contextual_knowledge": score["contextual_knowledge"],
                "number_of_few_shots": score["number_of_few_shots"],
                "domain_knowledge": score["domain_knowledge"],
                "no_label_reason": score["no_label_reason"],
                "constraint_ct": score["constraint_ct"],
                "prompt_complexity_score": complexity,
            })  # fmt: skip
        return answers

    def _parts(self, logits: np.ndarray) -> list[torch.Tensor]:
        values = torch.from_numpy(np.array(logits, dtype=np.float32).reshape(-1, 32))
        return list(torch.split(values, [12, 3, 2, 2, 6, 4, 1, 2], dim=1))


@cache
def reference_for(folder: Path, geometry) -> Reference:
    """The reference of a folder, read once in a test run."""
    return Reference(folder, geometry)
