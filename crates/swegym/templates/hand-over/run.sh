#!/bin/sh
# Fine-tunes {{ model }} on rows.jsonl with {{ trainer }}, on {{ gpus }} GPUs of one machine.
set -eu
cd "$(dirname "$0")"
{% if trainer == "trl" %}
# pip install torch trl peft accelerate datasets flash-attn
exec accelerate launch --config_file accelerate.yaml fine_tune.py "$@"
{% elif trainer == "torchtune" %}
# pip install 'torchtune==0.6.1' 'torchao==0.9.0' 'torch==2.6.0' transformers
# tune download {{ model }} --output-dir {{ model_dir }}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec tune run --nproc_per_node {{ gpus }} {{ "lora" if lora else "full" }}_finetune_distributed --config torchtune.yaml "$@"
{% else %}
# pip install 'axolotl[flash-attn]'
exec axolotl train axolotl.yaml "$@"
{% endif %}
