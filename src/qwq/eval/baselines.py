"""The figures of QwQ-32B's announcement (March 2025), in percent. None: not stated in a source that
could be read.

Sources: QwQ-32B and its peers: the announcement's chart, as text in The Batch, 13 March 2025
(deeplearning.ai/the-batch), and for QwQ-32B also QwenLM/QwQ, eval/README.md. The Batch gives
DeepSeek-R1's IFEval as 83.8, DeepSeek-R1's own report (arXiv 2501.12948, table 4) and the chart
83.3. The distilled models' AIME24: arXiv 2501.12948, table 5.
"""

from __future__ import annotations

BENCHMARKS = {
    "aime24": "AIME24",
    "livecodebench": "LiveCodeBench",
    "livebench": "LiveBench",
    "ifeval": "IFEval",
    "bfcl": "BFCL",
}
ANNOUNCED: dict[str, dict[str, float | None]] = {
    "QwQ-32B": {"aime24": 79.5, "livecodebench": 63.4, "livebench": 73.1, "ifeval": 83.9, "bfcl": 66.4},
    "DeepSeek-R1-671B": {"aime24": 79.8, "livecodebench": 65.9, "livebench": 71.6, "ifeval": 83.3, "bfcl": 60.3},
    "OpenAI o1-mini": {"aime24": 63.6, "livecodebench": 53.8, "livebench": 59.1, "ifeval": 84.8, "bfcl": 62.8},
    "R1-Distill-Llama-70B": {"aime24": 70.0, "livecodebench": None, "livebench": None, "ifeval": None, "bfcl": None},
    "R1-Distill-Qwen-32B": {"aime24": 72.6, "livecodebench": None, "livebench": None, "ifeval": None, "bfcl": None},
}
BFCL_NOTE = (
    "The announcement's BFCL figure of QwQ-32B, 66.4, is not the leaderboard's: the leaderboard of June 2025 gives "
    "QwQ-32B 58.3 by version 3's rule."
)
