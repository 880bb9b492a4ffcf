"""Fine-tunes with TRL; run.sh launches it on all GPUs."""

import argparse

import rows
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--model", default={{ model_literal }})
parser.add_argument("--out", default="trained")
parser.add_argument("--length", type=int, default={{ length }})
parser.add_argument("--max-steps", type=int, default=-1)
parser.add_argument("--attention", default="flash_attention_2" if torch.cuda.is_available() else "sdpa")
args = parser.parse_args()

gpu = torch.cuda.is_available()
tokenizer = AutoTokenizer.from_pretrained(args.model)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
data = Dataset.from_list(rows.encode_all(tokenizer, "rows.jsonl", args.length))
model = AutoModelForCausalLM.from_pretrained(
    args.model, dtype=torch.bfloat16 if gpu else torch.float32, attn_implementation=args.attention
)
{% if lora %}
from peft import LoraConfig

peft = LoraConfig(
    r={{ lora }}, lora_alpha={{ lora }}, lora_dropout=0.0, task_type="CAUSAL_LM",
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
{% else %}
peft = None
{% endif %}
config = SFTConfig(
    output_dir=args.out,
    max_length=args.length,
    # Rows see only themselves where flash attention packs them.
    packing=gpu,
    per_device_train_batch_size=1,
    gradient_accumulation_steps={{ accumulate }},
    num_train_epochs={{ epochs }},
    max_steps=args.max_steps,
    learning_rate={{ rate }},
    weight_decay=0.01,
    lr_scheduler_type="{{ schedule }}",
    warmup_steps={{ warmup }},
    bf16=gpu,
    use_cpu=not gpu,
    gradient_checkpointing=True,
    seed={{ seed }},
    logging_steps=1,
    save_strategy="epoch",
    report_to="none",
)
trainer = SFTTrainer(
    model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=peft
)
trainer.train()
trainer.save_model(args.out)
tokenizer.save_pretrained(args.out)
