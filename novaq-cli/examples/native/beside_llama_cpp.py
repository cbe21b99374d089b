"""llama.cpp's part of `cargo xtask bench native`, which starts it once per shape.

    python beside_llama_cpp.py CONFIG FOLDER PROMPT DECODE

CONFIG is a model's configuration as JSON, with the engine's names; PROMPT a JSON array of tokens; DECODE a number of tokens. A
GGUF file of random weights in that shape is written to FOLDER and quantized by llama.cpp itself, at its defaults, to each of
TYPES. Standard output has lines of JSON: first what was made, then, for each line `TYPE THREADS` on standard input, the seconds
that the prompt and DECODE tokens after it took. Needs the packages `llama-cpp-python` and `gguf`.
"""

import ctypes
import json
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

# The bindings have no name for it.
GGML_LOG_LEVEL_ERROR = 4

TYPES = {"Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K}


def tensors(config):
    """Names of the tensors and their shapes, rows first."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    yield "token_embd.weight", (config["vocab_size"], hidden)
    if not config["tie_word_embeddings"]:
        yield "output.weight", (config["vocab_size"], hidden)
    yield "output_norm.weight", (hidden,)
    for layer in range(config["num_hidden_layers"]):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (hidden,)
        yield block + "ffn_norm.weight", (hidden,)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield block + f"attn_{name}.weight", (rows, hidden)
            if config["qkv_bias"]:
                yield block + f"attn_{name}.bias", (rows,)
        if config["qk_norm"]:
            yield block + "attn_q_norm.weight", (head,)
            yield block + "attn_k_norm.weight", (head,)
        yield block + "attn_output.weight", (hidden, queries)
        yield block + "ffn_gate.weight", (inner, hidden)
        yield block + "ffn_up.weight", (inner, hidden)
        yield block + "ffn_down.weight", (hidden, inner)


def write_model(config, path):
    """Writes a model of random weights: matrices in 16 bits, norms and biases in 32."""
    architecture = "qwen3" if config["qk_norm"] else "qwen2" if config["qkv_bias"] else "llama"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(llama_cpp.LLAMA_FTYPE_MOSTLY_F16)

    for name, shape in tensors(config):
        kind = np.dtype(np.float16 if len(shape) == 2 else np.float32)
        writer.add_tensor_info(name, shape, kind, int(np.prod(shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for name, shape in tensors(config):
        if len(shape) == 2:
            values = random.standard_normal(shape, dtype=np.float32)
            values *= shape[1] ** -0.5
            writer.write_tensor_data(values.astype(np.float16))
        else:
            writer.write_tensor_data(np.full(shape, float(name.endswith("norm.weight")), dtype=np.float32))
    writer.close()


def quantize(source, path, file_type):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    if llama_cpp.llama_model_quantize(bytes(source), bytes(path), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp can't quantize `{source}`")


def contents(path):
    """Bytes of all tensors, and how many matrices there are of each type."""
    found = gguf.GGUFReader(path).tensors
    matrices = Counter(tensor.tensor_type.name for tensor in found if len(tensor.shape) == 2)
    return {"bytes": int(sum(tensor.n_bytes for tensor in found)), "matrices": dict(matrices.most_common())}


class Model:
    """A model with a context of its own, all at llama.cpp's defaults but for the context's length."""

    def __init__(self, path, positions):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(bytes(path), params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = positions
        self.context = self.model and llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp can't load `{path}`")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def next_token(self, tokens):
        """The most probable token after `tokens`, which go behind those of the cache."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens))) != 0:
            raise SystemExit("llama.cpp can't decode")
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocabulary,))))

    def measure(self, threads, prompt, decode):
        llama_cpp.llama_set_n_threads(self.context, threads, threads)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        # Waiting for a core counts where several threads have to wait for each other.
        now = time.process_time if threads == 1 else time.perf_counter
        began = now()
        token = self.next_token(prompt)
        read = now()
        for _ in range(decode):
            token = self.next_token([token])
        return {"prompt_seconds": read - began, "decode_seconds": now() - read}


def write_error(level, text, _):
    if level == GGML_LOG_LEVEL_ERROR:
        sys.stderr.write(text.decode())


def say(value):
    print(json.dumps(value), flush=True)


def main():
    config, folder, prompt, decode = sys.argv[1:]
    config, folder, prompt, decode = json.loads(config), Path(folder), json.loads(prompt), int(decode)
    log = llama_cpp.llama_log_callback(write_error)
    llama_cpp.llama_log_set(log, None)
    llama_cpp.llama_backend_init()

    source = folder / "random.gguf"
    write_model(config, source)
    files = {}
    for name, file_type in TYPES.items():
        files[name] = folder / f"random-{name}.gguf"
        quantize(source, files[name], file_type)
    source.unlink()
    models = {name: Model(path, len(prompt) + decode) for name, path in files.items()}
    say({
        "version": version("llama-cpp-python"),
        "system": llama_cpp.llama_print_system_info().decode(),
        "files": {name: contents(path) for name, path in files.items()},
    })
    for line in sys.stdin:
        name, threads = line.split()
        say(models[name].measure(int(threads), prompt, decode))


if __name__ == "__main__":
    main()
