"""Write a checkpoint as a GGUF file that llama.cpp and transformers load.

python export.py --run /tmp/pair/target --name target --to ../../a1agent/embedded/target.gguf
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
from model import Llama
from tokenizers import Tokenizer
from train import load_model

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
END_OF_TEXT, _, TURN_END = range(3)


def tensors(model: Llama) -> dict[str, np.ndarray]:
    """Weights by their GGUF names, all float32."""
    named = {"token_embd.weight": model.embedding, "output.weight": model.head, "output_norm.weight": model.norm}
    for index, block in enumerate(model.blocks):
        parts = {
            **dict(zip(("attn_q", "attn_k", "attn_v", "attn_output"), block.attention, strict=True)),
            **dict(zip(("ffn_gate", "ffn_up"), block.gate_up, strict=True)),
            "ffn_down": block.down,
            "attn_norm": block.attention_norm,
            "ffn_norm": block.feed_forward_norm,
        }
        named |= {f"blk.{index}.{name}.weight": value for name, value in parts.items()}
    return {name: np.ascontiguousarray(value.detach().cpu().float().numpy()) for name, value in named.items()}


def fingerprint(weights: dict[str, np.ndarray]) -> str:
    """SHA-256 over names and stored bytes of all weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    return digest.hexdigest()


def write_metadata(writer: gguf.GGUFWriter, model: Llama, name: str, mark: str) -> None:
    config = model.config
    writer.add_name(f"a1agent embedded {name}")
    writer.add_author("The a1agent authors")
    writer.add_license("apache-2.0")
    writer.add_description(f"The {name} of a1agent's embedded pair: arithmetic in words, step by step.")
    writer.add_string("a1agent.fingerprint", mark)
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_rope_dimension_count(config.width // config.heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    stored = json.loads(tokenizer.to_str())
    special = {token["id"] for token in stored["added_tokens"]}
    size = tokenizer.get_vocab_size()
    merges = stored["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokenizer.id_to_token(index) for index in range(size)])
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([kinds[index not in special] for index in range(size)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    # No text begins with this token; it is named only because readers fall back to an arbitrary id without it.
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(TURN_END)
    writer.add_eot_token_id(TURN_END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export(run: Path, to: Path, name: str, kind: str = "f16") -> str:
    """Write `run`'s checkpoint to the file `to`, matrices as `kind`, norms as f32; returns the fingerprint."""
    model = load_model(run / "checkpoint.safetensors")
    matrix_type = np.float16 if kind == "f16" else np.float32
    weights = {key: value.astype(matrix_type) if value.ndim > 1 else value for key, value in tensors(model).items()}
    mark = fingerprint(weights)
    writer = gguf.GGUFWriter(to, "llama")
    write_metadata(writer, model, name, mark)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.ALL_F32)
    write_tokenizer(writer, Tokenizer.from_file(str(run / "tokenizer.json")))
    for key, value in weights.items():
        writer.add_tensor(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return mark


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint as GGUF.")
    parser.add_argument("--run", type=Path, required=True, help="the --out folder of train.py")
    parser.add_argument("--name", choices=("draft", "target"), required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--type", choices=("f16", "f32"), default="f16")
    options = parser.parse_args(arguments)
    for name in ("checkpoint.safetensors", "tokenizer.json"):
        if not (options.run / name).is_file():
            parser.error(f"there is no {options.run / name}: --run is the --out folder of train.py")
    mark = export(options.run, options.to, options.name, options.type)
    print(f"{options.to}: {options.to.stat().st_size / 1e6:.2f} MB, fingerprint {mark[:16]}")


if __name__ == "__main__":
    main()
