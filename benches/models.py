#!/usr/bin/env python3
"""A model of this program beside PyTorch and llama.cpp: prompts, answers,
training; tokens a second and peak memory, in one interleaved run.

    python3 benches/models.py target/release/swegym PYTHON GGUF [--rounds N] [--out FILE]

PYTHON has torch, transformers, peft and xllamacpp; GGUF is the model's file,
which is also written as safetensors for PyTorch. Every measurement is a process
of its own; the sides take turns, so that a disturbance hits all of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PEER = Path(__file__).resolve().parent / "peers" / "models_peer.py"
MEASURES = [
    ("prefill-512", ("torch", "llama")),
    ("decode-1", ("torch", "llama")),
    ("decode-8", ("torch",)),
    ("decode-32", ("torch",)),
    ("train-512", ("torch",)),
    ("train-1024", ("torch",)),
    ("train-2048", ("torch",)),
    ("checkpointed-2048", ()),
]


def last_json(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("swegym")
    parser.add_argument("python")
    parser.add_argument("gguf")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temp:
        folder = f"{temp}/model"
        export = ["models", "export", args.gguf, "--to", "safetensors", "--dtype", "f32"]
        subprocess.run([args.swegym, "--quiet", *export, "--out", folder], check=True)
        for _ in range(args.rounds):
            for what, peers in MEASURES:
                if args.only and what not in args.only:
                    continue
                ours = ["--json", "bench", "model", "--runs", "3", "--model", args.gguf]
                sides = {"swegym": [args.swegym, *ours, "--measure", what]}
                for peer in peers:
                    path = folder if peer == "torch" else args.gguf
                    sides[peer] = [args.python, str(PEER), peer, path, what]
                for side, command in sides.items():
                    found = last_json(command)
                    found = found["model"][0] if side == "swegym" else found
                    kept = results.setdefault(what, {}).setdefault(side, {"runs": [], "peak_bytes": 0})
                    kept["runs"] += [round(r, 2) for r in found["runs"]]
                    kept["peak_bytes"] = max(kept["peak_bytes"], found["peak_bytes"])
    for what, sides in results.items():
        for kept in sides.values():
            kept["tokens_per_second"] = max(kept["runs"])
        ours = sides["swegym"]
        line = f"{what}: {ours['tokens_per_second']:.0f} tokens/s, {ours['peak_bytes'] / 2**20:.0f} MiB"
        for side, kept in sides.items():
            if side != "swegym":
                kept["ratio"] = round(ours["tokens_per_second"] / kept["tokens_per_second"], 2)
                kept["memory_ratio"] = round(ours["peak_bytes"] / kept["peak_bytes"], 2)
                line += (
                    f"; {side} {kept['tokens_per_second']:.0f}, {kept['peak_bytes'] / 2**20:.0f} MiB"
                    f" ({kept['ratio']}x as fast, {kept['memory_ratio']}x the memory)"
                )
        print(line)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


main()
