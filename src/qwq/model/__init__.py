"""The model: config.json, the transformer, what a token may attend to, and Hugging Face folders in
and out.

config.py       sizes of the families, presets
transformer.py  the one nn.Module that is trained and sampled from
layouts.py      packed sequences, shared prompts, cached rows
folder.py       finding a model folder; reading and writing its JSON files
weights.py      safetensors in and out, reward models included
logits.py       logits of given token ids, for checks from outside
"""
