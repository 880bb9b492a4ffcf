"""One measurement of a peer, as JSON: `models_peer.py torch|llama MODEL WHAT`.

torch is PyTorch with transformers and PEFT over a folder of safetensors, llama
is llama.cpp (the wheel xllamacpp) over a GGUF file; both with two threads. WHAT
is prefill-N, decode-BATCH (behind prompts of 512 tokens), train-N (LoRA of rank
16 on all linear layers: forward, backward, clipping, AdamW) or checkpointed-N.
"""

import json
import resource
import sys
import time

THREADS = 2
BEHIND = 512
ANSWER = 32
RUNS = 3


def tokens(n, salt=0):
    return [(i * 7919 + salt * 104729 + 13) % 49152 for i in range(n)]


def torch_rates(path, kind, n):
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    rates = []
    if kind in ("prefill", "decode"):
        model.eval()
        with torch.inference_mode():
            for _ in range(RUNS):
                batch = 1 if kind == "prefill" else n
                length = n if kind == "prefill" else BEHIND
                x = torch.tensor([tokens(length, s) for s in range(batch)])
                start = time.time()
                out = model(x, attention_mask=torch.ones_like(x), use_cache=True, logits_to_keep=1)
                if kind == "prefill":
                    rates.append(n / (time.time() - start))
                    continue
                cache = out.past_key_values
                start = time.time()
                for step in range(ANSWER):
                    x = torch.tensor([[t] for t in tokens(batch, step)])
                    mask = torch.ones(batch, BEHIND + step + 1, dtype=torch.long)
                    out = model(x, attention_mask=mask, past_key_values=cache, use_cache=True)
                    cache = out.past_key_values
                rates.append(n * ANSWER / (time.time() - start))
        return rates
    import peft

    config = peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules="all-linear"
    )
    model = peft.get_peft_model(model, config)
    if kind == "checkpointed":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    x = torch.tensor([tokens(n)])
    model.train()
    for _ in range(RUNS + 1):
        start = time.time()
        out = model(input_ids=x, attention_mask=torch.ones_like(x), labels=x, use_cache=False)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(n / (time.time() - start))
    return rates[1:]


def llama_rates(path, kind, n):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    batch = 1 if kind == "prefill" else n
    params.n_parallel = batch
    params.n_ctx = batch * (max(n, BEHIND) + 128)
    params.cpuparams.n_threads = THREADS
    params.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(params)
    rates = []
    for _ in range(RUNS):
        length = n if kind == "prefill" else BEHIND
        ask = {
            "prompt": tokens(length),
            "n_predict": 1 if kind == "prefill" else ANSWER,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        timings = server.handle_completions(ask)["timings"]
        rates.append(timings["prompt_per_second" if kind == "prefill" else "predicted_per_second"])
    return rates


def main():
    peer, path, what = sys.argv[1:]
    kind, n = what.rsplit("-", 1)
    rates = (torch_rates if peer == "torch" else llama_rates)(path, kind, int(n))
    print(
        json.dumps(
            {
                "measure": what,
                "tokens_per_second": max(rates),
                "runs": rates,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


main()
