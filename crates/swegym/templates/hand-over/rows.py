"""Rows of rows.jsonl as tokens, for TRL and torchtune alike.

A row is {"messages", "tools"?}. Loss is on the assistant's messages alone, but
for those with "weight": 0, and on them exactly as the model's chat template
writes them: from behind the words that prompt for an answer to the token that
ends it.
"""

import json

IGNORE = -100


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def encode(tokenizer, row, max_length=None):
    """{"input_ids", "labels"}, or None for a row that is too long."""
    messages = [plain(m) for m in row["messages"]]
    tools = row.get("tools") or None

    def render(count, prompt):
        return tokenizer.apply_chat_template(
            messages[:count], tools=tools, tokenize=False, add_generation_prompt=prompt
        )

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    text = render(len(messages), False)
    tokens, labels, done = [], [], 0

    def piece(until, learnt):
        nonlocal done
        new = ids(text[done:until]) if until > done else []
        tokens.extend(new)
        labels.extend(new if learnt else [IGNORE] * len(new))
        done = until

    for n, message in enumerate(row["messages"]):
        if message["role"] != "assistant":
            continue
        before, after = render(n, True), render(n + 1, False)
        if not (text.startswith(after) and after.startswith(before)):
            raise ValueError(f"{row.get('instance_id')}: the template rewrites earlier turns; message {n} cannot be told apart")
        end = after.rfind(tokenizer.eos_token)
        end = end + len(tokenizer.eos_token) if end >= len(before) else len(after.rstrip())
        piece(len(before), False)
        piece(end, message.get("weight", 1) > 0)
    piece(len(text), False)
    if max_length is not None and len(tokens) > max_length:
        return None
    return {"input_ids": tokens, "labels": labels}


def plain(message):
    """A message as templates expect it: arguments of calls as objects."""
    message = {k: v for k, v in message.items() if k != "weight"}
    for call in message.get("tool_calls") or []:
        arguments = call["function"].get("arguments")
        if isinstance(arguments, str):
            try:
                call["function"]["arguments"] = json.loads(arguments)
            except ValueError:
                pass
    return message


def encode_all(tokenizer, path, max_length):
    encoded = [encode(tokenizer, row, max_length) for row in read(path)]
    kept = [e for e in encoded if e is not None]
    print(f"{len(kept)} rows, {len(encoded) - len(kept)} left out for being longer than {max_length} tokens")
    return kept


class HubTokenizer:
    """What torchtune's recipes ask of a tokenizer, over one of transformers."""

    def __init__(self, path, max_seq_len=None):
        from transformers import AutoTokenizer

        self.inner = AutoTokenizer.from_pretrained(path)
        self.max_seq_len = max_seq_len
        self.eos_id = self.inner.eos_token_id
        self.pad_id = self.inner.pad_token_id if self.inner.pad_token_id is not None else self.eos_id

    def encode(self, text, add_bos=False, add_eos=False):
        return self.inner(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids):
        return self.inner.decode(ids)


def torchtune_rows(tokenizer, source, packed=False):
    """A dataset for torchtune: `_component_: rows.torchtune_rows`."""
    from torch.utils.data import Dataset
    from torchtune.datasets import PackedDataset

    class Rows(Dataset):
        def __init__(self):
            self.rows = encode_all(tokenizer.inner, source, tokenizer.max_seq_len)

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, n):
            row = self.rows[n]
            return {"tokens": row["input_ids"], "labels": row["labels"]}

    if not packed:
        return Rows()
    return PackedDataset(Rows(), max_seq_len=tokenizer.max_seq_len, padding_idx=tokenizer.pad_id)
