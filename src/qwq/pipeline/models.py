"""The models and the tokenizer of a run: made, loaded from its folder, and written to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from qwq.cluster.world import RankWorld
from qwq.common.files import atomic_folder
from qwq.common.run_folder import RunFolder
from qwq.config import Lora, Recipe
from qwq.model import lora
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import inherited_generation, load_model, save_model, stored_dtype
from qwq.pipeline.preflight import chat_format
from qwq.text.template import ChatFormat


class RunModels:
    """Models of the run in `folder`; `note` hears what a user should know."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, note: Callable[[str], None], world: RankWorld | None = None
    ) -> None:
        self.recipe, self.folder, self.note = recipe, folder, note
        self.world = world or RankWorld(recipe.cluster)

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and products."""
        return getattr(torch, self.recipe.compute.dtype)

    @cached_property
    def save_dtype(self) -> torch.dtype:
        """Type of a policy's weights on disk."""
        model = self.recipe.model
        if model.save_dtype:
            return getattr(torch, model.save_dtype)
        return (stored_dtype(model.path) or self.dtype) if model.path else torch.float32

    def chat(self) -> ChatFormat:
        """The run's tokenizer and template: the checkpoint's own, or trained once for a preset."""
        folder = self.folder.tokenizer
        if self.recipe.model.preset and not folder.exists():
            with atomic_folder(folder) as partial:
                chat_format(self.recipe).save(partial)
        return chat_format(self.recipe, folder)

    def start_of(self, name: str, chat: ChatFormat) -> Transformer:
        """The model that stage `name` starts from."""
        device = self.recipe.compute.device
        before = self.recipe.start_of(name)
        if before is not None:
            return self.result_of(before, chat)
        if self.recipe.model.path:
            model = load_model(self.recipe.model.path, device=device, dtype=self.dtype)
            chat.tokenizer.check_fits(model.config)
            return model
        tokenizer = chat.tokenizer
        config = preset(
            self.recipe.model.preset or "", vocab_size=tokenizer.vocab_size, eos_token_id=chat.eos_ids[0],
            pad_token_id=tokenizer.token_id("<|endoftext|>"), bos_token_id=None,
        )  # fmt: skip
        return Transformer(config).init_weights(torch.Generator().manual_seed(self.recipe.seed)).to(device, self.dtype)

    def result_of(self, name: str, chat: ChatFormat) -> Transformer:
        """What stage `name` left: its final folder, or its start with the stage's adapter merged
        where that alone was kept.
        """
        if (self.folder.final(name) / "config.json").is_file():
            return load_model(self.folder.final(name), device=self.recipe.compute.device, dtype=self.dtype)
        return lora.merge(lora.load_adapter(self.start_of(name, chat), self.folder.adapter(name)))

    def save_policy(self, name: str, policy: Transformer, chat: ChatFormat, adapters: Lora | None = None) -> None:
        """The stage's adapter, where it has one, and its final folder; the adapter is merged into
        `policy`, which is left as it reads back. The first process does it, the others wait.
        """
        self.world.alone(lambda: self._save(name, policy, chat, adapters))

    def _save(self, name: str, policy: Transformer, chat: ChatFormat, adapters: Lora | None) -> None:
        if adapters:
            with atomic_folder(self.folder.adapter(name)) as partial:
                lora.save_adapter(policy, partial, base=self.recipe.start_of(name) or self.recipe.model.path or "")
            # Rounded once, to what is written: a small change would vanish twice in the rounding of
            # two 16-bit types.
            lora.merge(policy if self.save_dtype == self.dtype else policy.float())
        if not adapters or adapters.merged:
            if self.save_dtype.itemsize < self.dtype.itemsize and not self.recipe.model.save_dtype:
                kind = str(self.save_dtype).removeprefix("torch.")
                self.note(
                    f'{name}: written in {kind}, as the checkpoint is; model.save_dtype = "float32" keeps changes '
                    "that this rounds off"
                )
            with atomic_folder(self.folder.final(name)) as partial:
                generation = inherited_generation(self.recipe.model.path, policy.config, chat.eos_ids)
                save_model(policy, partial, generation=generation, dtype=self.save_dtype)
                chat.save(partial)
            policy.to(self.save_dtype)
        policy.to(self.dtype)
