"""Small models as other people save them: made by transformers and tokenizers, with random weights."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Like Qwen3's: only the last answer is given an (empty) place for thoughts.
THINKING = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\n' -}}"
    "{%- if message.role == 'assistant' and loop.last -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}"
    "{{- message.content + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
TEXT = ["The quick brown fox jumps over the lazy dog. It's 3.14!", "你好，世界。 Привет, мир!", "def f(x):\n  x\n"] * 30
# transformers 5 splits every qwen2 model's texts in this way, whatever tokenizer.json says
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(directory: Path, template: str | None, end: str = "<|endoftext|>", qwen2: bool = False) -> int:
    """A tokenizer of GPT-2's kind, or Qwen2's; returns its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if qwen2:
        split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated", invert=False)
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    specials = ["<|endoftext|>"] + (["<|im_start|>", "<|im_end|>"] if template else [])
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens(["<think>", "</think>"])
    return _save(tokenizer, directory, template, eos_token=end)


def sentencepiece_like(directory: Path, template: str | None) -> int:
    """A tokenizer of Llama 2's kind: a space in front, byte fallback, <s> before each text; returns its size."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = "▁etaoinshrdlucmfwypvbgkjqxzTI.,!'"
    pieces = ["▁t", "he", "▁the", "▁a", "in", "er", "▁The", "▁T"]
    vocabulary = {token: i for i, token in enumerate([*tokens, *letters, *pieces])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("i", "n"), ("e", "r"), ("▁", "T"), ("▁T", "he")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _save(tokenizer, directory, template, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def _save(tokenizer: Tokenizer, directory: Path, template: str | None, **names: str) -> int:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = template
    fast.save_pretrained(directory)
    return tokenizer.get_vocab_size()


def save_model(directory: Path, kind: str, vocab_size: int, dtype: str = "float32", shard: str = "1GB", **changes):
    """A model with random weights (large, so that logits are) as transformers saves it."""
    settings = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    }  # fmt: skip
    if kind == "gpt2":
        settings = {"vocab_size": vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    torch.manual_seed(1)
    settings |= {"eos_token_id": None, "bos_token_id": None}
    config = transformers.AutoConfig.for_model(kind, **settings | changes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, 0.3)
            if "norm" in name or ".ln_" in name:
                weight.add_(float(name.endswith("weight")))
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard)


def edit(path: Path, **changes) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")
