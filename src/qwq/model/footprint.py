"""Memory that a model needs, estimated from its shape: parameters, activations, KV cache, logits.

Imports without torch.
"""

from __future__ import annotations

from qwq.common.memory import GIB, Memory, on_cuda
from qwq.model.config import ModelConfig

FLOAT = 4  # bytes; training is in float32
PROGRAM = int(0.33 * GIB)  # Python, torch and the rest of the process before any model, measured
PREFILL_TOKENS = 4096  # engine.multi_step and reward.model compute so many prompt tokens at once,
SCORED_TOKENS = 8192  # or so many tokens to be scored
CHUNK_LOGITS = 1 << 24  # train.losses holds so many logits at once,
KEPT_PROBS = 1 << 26  # keeps the probabilities of a batch up to here,
# A sampled token of a step's rollouts: id and log-probability with their objects, mask and version.
ROLLOUT_TOKEN = (8 + 28) + (8 + 24) + 8 + 8  # bytes, in CPython's lists
DENSE_MASK = 1 << 24  # entries of the largest attention mask that model.layouts builds, 64 MB in float32
LOGIT_COPIES = 5  # in about so many forms (logits, log-probabilities, probabilities, their sums ...)


def activation_values(config: ModelConfig, num_tokens: int) -> int:
    """Numbers that the backward pass needs of `num_tokens` tokens, counted on
    `model.transformer.Block`.

    A layer keeps six widths of hidden states, the turned and the laid-out queries, keys and values,
    attention's output, and four feed-forward widths. One layer's gradients exist beside them.
    """
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = (
        6 * config.hidden_size
        + (6 + 2 * config.qk_norm) * q
        + (7 + 2 * config.qk_norm) * kv
        + 4 * config.intermediate_size
    )
    return num_tokens * (layer * (config.num_layers + 1) + 4 * config.hidden_size)


def inference_values(config: ModelConfig, num_tokens: int) -> int:
    """Numbers alive at once in a forward pass without gradients: about one layer's."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return num_tokens * (4 * config.hidden_size + 3 * q + 4 * kv + 4 * config.intermediate_size)


def sampling_parts(config: ModelConfig, rows: int, prompt: int, new: int, prompts: int) -> dict[str, int]:
    """Bytes of `engine.generate` with `rows` rows: cache, and the tensors of a prefill or a
    decoding step.
    """
    width = min(prompt + new, config.max_positions)
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * rows * width * FLOAT + rows * new * 28
    prefill = inference_values(config, max(prompt, min(PREFILL_TOKENS, prompt * prompts)))
    return {
        "key/value cache": cache,
        "activations": FLOAT * max(prefill, inference_values(config, rows)),
        "logits": FLOAT * LOGIT_COPIES * rows * config.vocab_size,
    }


def lora_parameters(config: ModelConfig, rank: int) -> int:
    """Numbers in the adapters of `model.lora`: rank x (in + out) for each of the seven projections
    of a layer.
    """
    d, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return config.num_layers * rank * ((d + q) + 2 * (d + kv) + (q + d) + 2 * (d + f) + (f + d))


def update_parts(
    config: ModelConfig,
    num_tokens: int,
    *,
    head: bool = True,
    trained: int | None = None,
    recompute: bool = False,
    width: int = FLOAT,
) -> dict[str, int]:
    """Bytes of one backward pass over `num_tokens` tokens; without `head` (reward models) there are
    no logits.

    `trained` parameters have gradients (None: all); with `recompute` each layer keeps its input
    only; `width` is an activation's bytes.
    """
    trained = config.num_parameters if trained is None else trained
    values = activation_values(config, num_tokens)
    if recompute:
        values = values // (config.num_layers + 1) + num_tokens * config.hidden_size * config.num_layers
    parts = {
        "gradients": FLOAT * trained,
        "activations": width * values,
    }  # summed in float32, whatever the weights have
    if head:
        # The head's gradient is gathered in a matrix of its own; where it is tied, the embedding's
        # comes beside it.
        matrices = (2 if config.tie_embeddings else 1) if trained == config.num_parameters else 0
        logits = num_tokens * config.vocab_size
        held = LOGIT_COPIES * min(CHUNK_LOGITS, logits) + (logits if logits <= KEPT_PROBS else 0)
        parts["logits"] = FLOAT * (held + matrices * config.vocab_size * config.hidden_size)
    return parts


def inference_memory(config: ModelConfig, rows: int, prompt: int, new: int, device: str = "cpu") -> Memory:
    """Estimated peak of sampling alone; `prompt` and `new` in tokens."""
    base = {"weights": FLOAT * config.num_parameters} | ({} if on_cuda(device) else {"program": PROGRAM})
    parts = sampling_parts(config, rows, prompt, new, rows)
    return Memory(base | parts, dict.fromkeys(parts, f"max_rows (now {rows}) or max_new_tokens (now {new})"))
