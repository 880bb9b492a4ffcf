#!/bin/sh
# Serves what run.sh trained, as the OpenAI API on port 8000.
set -eu
cd "$(dirname "$0")"
{% if lora %}
# By its name `trained`, beside the model under it.
exec vllm serve {{ model }} --enable-lora --max-lora-rank {{ lora }} --lora-modules trained=trained \
    --tensor-parallel-size {{ gpus }} --max-model-len {{ length }} "$@"
# Or: python -m sglang.launch_server --model-path {{ model }} --lora-paths trained=trained --tp {{ gpus }} --port 8000
{% else %}
exec vllm serve trained --served-model-name trained --tensor-parallel-size {{ gpus }} --max-model-len {{ length }} "$@"
# Or: python -m sglang.launch_server --model-path trained --served-model-name trained --tp {{ gpus }} --port 8000
{% endif %}
