"""LoRA by peft and transformers on rows that were made before; run by bench_lora.py in their own Python."""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import peft
import torch
from transformers import GlmForCausalLM


def main() -> None:
    """Print the seconds of each step, its loss, and the peak of memory (bytes) as one line of JSON."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    model = GlmForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).train()
    model.config.use_cache = False
    model = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=settings["rank"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.01)
    rows = np.load(settings["rows"])
    seconds, losses = [], []
    for step in range(settings["steps"]):
        ids, labels, mask = (
            torch.from_numpy(rows[f"{name}_{step}"]) for name in ("ids", "labels", "mask")
        )
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak}))


if __name__ == "__main__":
    main()
