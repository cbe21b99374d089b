#!/usr/bin/env python3
"""Checks an artifact against transformers: expands it, and compares the engine's logits with those of the expansion.

    pip install -r ../../novaq-engine/tests/fixtures/requirements.txt
    python check_expand.py --novaq ../../target/debug/novaq --text FILE ARTIFACT...

What the engine's 16-bit inputs, 8-bit tables and 8-bit cache cost is the difference between the two: the mean KL divergence
per token must not exceed 0.003 nats.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 0.003


@torch.no_grad()
def check(novaq, artifact, text, windows, length):
    """Returns the mean KL and the number of tokens it was measured on."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        subprocess.run([novaq, "expand", artifact, "-o", checkpoint], check=True, stdout=subprocess.DEVNULL)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        total, count, agreed = 0.0, 0, 0
        step = max(length, len(text) // windows)
        for start in range(0, len(text) - length, step):
            window = text[start:start + length]
            logits_file = Path(folder) / "logits.safetensors"
            command = [novaq, "run", artifact, "--prompt", window, "--logits", logits_file]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            engine = load_file(logits_file)
            tokens = engine["tokens"].tolist()
            expected = tokenizer(window)["input_ids"]
            assert tokens[-len(expected):] == expected and len(tokens) <= len(expected) + 1, "token ids differ"
            ours = engine["logits"].double().log_softmax(-1)
            theirs = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
            total += (theirs.exp() * (theirs - ours)).sum().item()
            agreed += (theirs.argmax(-1) == ours.argmax(-1)).sum().item()
            count += len(tokens)
        return total / count, agreed / count, count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--novaq", required=True, help="the novaq binary")
    parser.add_argument("--text", required=True, type=Path, help="text to measure on")
    parser.add_argument("--windows", type=int, default=8, help="windows of the text (default 8)")
    parser.add_argument("--length", type=int, default=800, help="characters per window (default 800)")
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    failed = False
    for artifact in arguments.artifacts:
        kl, agreement, count = check(arguments.novaq, artifact, text, arguments.windows, arguments.length)
        failed |= kl > LIMIT
        verdict = "ok" if kl <= LIMIT else f"above {LIMIT}"
        print(f"{artifact}: KL {kl:.6f} nats per token, same first choice {agreement:.4%}, {count} tokens, {verdict}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
