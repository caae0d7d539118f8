"""Reward functions as they are written for TRL and for verl, used unchanged by the recipes beside
this file.
"""

import re


def short_and_sweet(completions, completion_ids, **columns):
    """TRL: one number for each completion; a completion is a list of messages.

    Pays for answers near 20 tokens.
    """
    return [1.0 / (1.0 + abs(len(ids) - 20) / 20) for ids in completion_ids]


def mentions_word(completions, word, **columns):
    """TRL: a column of the data set comes as a keyword.

    Pays where the answer has the row's word; None where the row has none.
    """
    texts = [completion[-1]["content"].lower() for completion in completions]
    return [
        None if w is None else float(re.search(rf"\b{re.escape(w.lower())}\b", t) is not None)
        for t, w in zip(texts, word, strict=True)
    ]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """verl: one completion at a time. Pays where the last number is the right one."""
    numbers = re.findall(r"-?\d+", solution_str)
    return {"score": float(bool(numbers) and numbers[-1] == str(ground_truth))}
