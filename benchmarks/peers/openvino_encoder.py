"""OpenVINO on a transformers encoder, bfloat16, one sequence at a time (its fastest way here)."""

import json
import sys
import time
from typing import Any

import numpy as np
import openvino
import torch
from transformers import EsmModel, T5EncoderModel


class Wrapped(torch.nn.Module):
    """States only."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """[B, T] -> [B, T, D]."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main() -> None:
    """Serve one task; see client.py."""
    task = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    kind = EsmModel if task["family"] == "esm" else T5EncoderModel
    options = {"add_pooling_layer": False} if task["family"] == "esm" else {}
    model = kind.from_pretrained(task["folder"], attn_implementation="sdpa", **options).eval()
    example = torch.randint(4, 20, (2, 50))
    shape = ([-1, -1], openvino.Type.i64)
    with torch.no_grad():
        converted = openvino.convert_model(
            Wrapped(model), example_input=(example, torch.ones_like(example)), input=[shape, shape]
        )
    compiled = openvino.Core().compile_model(
        converted,
        "CPU",
        {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"},
    )
    request = compiled.create_infer_request()
    tokens = [np.array(ids, np.int64)[None] for ids in task["tokens"]]
    before, after = task["special"]
    print("answer ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        vectors = []
        for ids in tokens:
            states = np.array(request.infer([ids, np.ones_like(ids)])[0])
            vectors.append(states[0, before : states.shape[1] - after].astype(np.float32).mean(0))
        seconds = time.process_time() - started
        np.save(task["result"], np.stack(vectors))
        print(f"answer {seconds}", flush=True)


main()
