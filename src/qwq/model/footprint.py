"""Memory that a model needs, estimated from its shape: parameters, activations, KV cache, logits.

Imports without torch.
"""

from __future__ import annotations

from qwq.common.memory import GIB, on_cuda
from qwq.model.config import ModelConfig

FLOAT = 4  # bytes; training is in float32
PROGRAM = int(0.40 * GIB)  # Python, torch and the rest of the process behind its first step, measured
PREFILL_TOKENS = 4096  # engine.multi_step and reward.model compute so many prompt tokens at once,
SCORED_TOKENS = 8192  # or so many tokens to be scored
HEAP_BLOCK = 32 << 20  # glibc's largest threshold: larger blocks are mapped on their own
HEAP_LAYERS = 1.1  # layers' worth of smaller blocks that lie unused, measured by benchmarks/plan_memory.py
CHUNK_LOGITS = 1 << 24  # train.losses holds so many logits at once,
KEPT_PROBS = 1 << 26  # keeps the probabilities of a batch up to here,
WHOLE_VOCABULARY = 8192  # and on a CPU takes a larger vocabulary in blocks of so many tokens and entries
BLOCK_TOKENS, BLOCK_ENTRIES = 512, 4096
# A sampled token of a step's rollouts: id and log-probability with their objects, mask and version.
ROLLOUT_TOKEN = (8 + 28) + (8 + 24) + 8 + 8  # bytes, in CPython's lists
DENSE_MASK = 1 << 24  # entries of the largest attention mask that model.layouts builds, 64 MB in float32
LOGIT_COPIES = (
    5  # of a decoding step, in about so many forms (logits, log-probabilities, probabilities, their sums ...)
)


def activation_values(config: ModelConfig, num_tokens: int, laid_out: int = 0) -> int:
    """Numbers that the backward pass needs of `num_tokens` tokens, as `model.transformer.Block`
    saves them.

    A layer saves the two residual sums, each norm's normalised input and output, queries, keys and
    values before and after RoPE, attention's output with its log-sum-exps, and four feed-forward
    widths; `laid_out` are the copies that attention makes of them (`packed_copies` and its
    siblings). Behind the layers: embeddings, the last norm, the hidden states that predict.
    """
    return num_tokens * 4 * config.hidden_size + config.num_layers * layer_values(config, num_tokens, laid_out)


def layer_values(config: ModelConfig, num_tokens: int, laid_out: int = 0) -> int:
    """What one layer saves for the backward pass."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    normed = q + kv if config.qk_norm else 0
    widths = 6 * config.hidden_size + 4 * config.intermediate_size + 3 * (q + kv) + normed + config.num_heads
    return num_tokens * widths + laid_out


def backward_values(config: ModelConfig, num_tokens: int) -> int:
    """Gradients alive at once beside what is saved: those of a layer's feed-forward part, or of its
    attention, less the two widths that the last norm has freed by then.
    """
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return max(0, num_tokens * (max(2 * config.intermediate_size, 3 * (q + kv)) - 2 * config.hidden_size))


def allocator_bytes(config: ModelConfig, num_tokens: int, *, width: int = FLOAT) -> int:
    """What glibc's heap holds beside the activations themselves: blocks below `HEAP_BLOCK` lie in
    it, and what a layer frees between those that live on is not returned, about one layer's worth.
    Larger blocks are mapped on their own and leave nothing.
    """
    d, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    blocks = [*[d] * 6, 2 * f, f, f, q + 2 * kv, q + kv, q]
    return int(HEAP_LAYERS * sum(width * num_tokens * w for w in blocks if width * num_tokens * w < HEAP_BLOCK))


def packed_copies(config: ModelConfig, rows: int, longest: int, mean: float) -> int:
    """Numbers that `layouts.Packed` adds in a layer: queries, keys, values and outputs of padded
    rows in place of the flat ones. Rows of equal length are not copied.
    """
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return 0 if longest == mean else 2 * (q + kv) * rows * longest - _not_kept(config, round(rows * mean))


def _not_kept(config: ModelConfig, num_tokens: int) -> int:
    """Of the flat queries, keys and values: what nothing needs once attention has its copies."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return num_tokens * (q + kv if config.qk_norm else 2 * q + 3 * kv)


def shared_copies(config: ModelConfig, rows: int, new: int, prompts: int, prompt: int) -> int:
    """The same of `layouts.shared_prefix`: `rows` completions of `new` tokens to `prompts` prompts.
    A row's keys hold the prompt as well where there is a mask.
    """
    if mask_entries(rows, new, prompt) > DENSE_MASK:
        return joined_copies(config, rows, new, prompts, prompt)
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    copies = 2 * q * rows * new + 2 * kv * rows * (prompt + new) + 2 * (q + kv) * prompts * prompt
    return copies - _not_kept(config, rows * new + prompts * prompt)


def joined_copies(config: ModelConfig, rows: int, new: int, prompts: int, prompt: int) -> int:
    """The same of `layouts.JoinedPrefix`: rows and prompt lie as their kernels read them."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return 2 * (q + kv) * rows * new + (q + 2 * kv) * prompts * prompt


def exchanged_values(config: ModelConfig, num_tokens: int, processes: int) -> int:
    """Numbers that a layer keeps besides where `processes` divide a pass's tokens
    (`cluster.ulysses`): attention's output before it is sent back, of this process's `num_tokens`.
    """
    return num_tokens * config.num_heads * config.head_dim if processes > 1 else 0


def mask_entries(rows: int, new: int, prompt: int) -> int:
    """Entries of the mask that one product over prompt and completion needs; beyond `DENSE_MASK`
    none is built.
    """
    return rows * new * (prompt + new)


def inference_values(config: ModelConfig, num_tokens: int) -> int:
    """Numbers alive at once in a forward pass without gradients: about one layer's."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return num_tokens * (4 * config.hidden_size + 3 * q + 4 * kv + 4 * config.intermediate_size)


def sampling_parts(
    config: ModelConfig, rows: int, prompt: int, new: int, prompts: int, *, width: int = FLOAT
) -> dict[str, int]:
    """Bytes of `engine.generate` with `rows` rows: cache, and the tensors of a prefill or a
    decoding step. `width` is an activation's bytes; logits are in float32.
    """
    length = min(prompt + new, config.max_positions)
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * rows * length * width + rows * new * 28
    prefill = inference_values(config, max(prompt, min(PREFILL_TOKENS, prompt * prompts)))
    return {
        "key/value cache": cache,
        "activations": width * max(prefill, inference_values(config, rows)),
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
    laid_out: int = 0,
    head: bool = True,
    trained: int | None = None,
    recompute: bool = False,
    offload: bool = False,
    width: int = FLOAT,
    device: str = "cpu",
) -> dict[str, int]:
    """Bytes of one backward pass over `num_tokens` tokens; without `head` (reward models) there are
    no logits.

    `laid_out` as in `activation_values`; `trained` parameters have gradients (None: all), summed in
    float32 whatever the weights have; with `recompute` each layer keeps its input only and one is
    whole at a time, with `offload` these inputs are not on the device either; `width` is an
    activation's bytes. The peak is where the loss is computed, or where the last layer's gradients
    are: the larger of the two.
    """
    trained = config.num_parameters if trained is None else trained
    if recompute:
        kept = num_tokens * config.hidden_size * ((1 if offload else config.num_layers) + 4)
        backward = layer_values(config, num_tokens, laid_out) + backward_values(config, num_tokens)
    else:
        kept, backward = activation_values(config, num_tokens, laid_out), backward_values(config, num_tokens)
    at_loss, behind = _logit_values(config, num_tokens, trained, device) if head else (0, 0)
    parts = {"gradients": FLOAT * trained}
    if FLOAT * at_loss > width * backward + FLOAT * behind:
        return parts | {"activations": width * kept, "logits": FLOAT * at_loss}
    parts["activations"] = width * (kept + backward)
    return parts | ({"logits": FLOAT * behind} if head else {})


def _logit_values(config: ModelConfig, num_tokens: int, trained: int, device: str) -> tuple[int, int]:
    """Numbers of `train.losses.token_logprobs`: while it computes, and left while the layers go
    back.

    It holds a chunk's logits and their exponentials, or a block's. A batch within `KEPT_PROBS`
    keeps all probabilities until the loss has gone back, unless it goes block by block. Where the
    head trains, its gradient is a matrix of its own; that of a tied head waits for the embedding's.
    """
    matrix = config.vocab_size * config.hidden_size if trained == config.num_parameters else 0
    if config.vocab_size > WHOLE_VOCABULARY and not on_cuda(device):
        block = min(num_tokens, BLOCK_TOKENS) * BLOCK_ENTRIES
        return 2 * block + matrix, matrix if config.tie_embeddings else 0
    logits = num_tokens * config.vocab_size
    chunk = min(CHUNK_LOGITS, logits)
    forward = chunk + (logits if logits <= KEPT_PROBS else chunk)
    backward = matrix + (logits if logits <= KEPT_PROBS else chunk)
    return max(forward, backward), matrix if config.tie_embeddings else 0
