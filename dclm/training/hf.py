"""OpenLM for transformers. `import dclm.training.hf` registers it with the Auto classes:

    import dclm.training.hf
    model = AutoModelForCausalLM.from_pretrained(folder)      # a folder of `dclm export --to hf`

transformers is optional; nothing else of this project needs it.
"""

# mypy: disable-error-code="no-untyped-call,misc,override,assignment"

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dclm.recipe import ModelConfig
from dclm.training.model import OpenLM

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        GenerationMixin,
        PretrainedConfig,
        PreTrainedModel,
    )
    from transformers.modeling_outputs import CausalLMOutputWithPast
except ImportError:
    raise ImportError(
        "dclm.training.hf needs transformers; run: pip install transformers"
    ) from None


class OpenLMConfig(PretrainedConfig):
    """transformers' view of a ModelConfig, which it carries whole in `openlm`."""

    model_type = "dclm_openlm"

    def __init__(self, openlm: dict[str, Any] | None = None, **named: Any) -> None:
        self.openlm = openlm or {}
        super().__init__(**named)


class OpenLMForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder with transformers' calling conventions; it keeps no cache between calls."""

    config_class = OpenLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _tied_weights_keys = None

    def __init__(self, config: OpenLMConfig) -> None:
        super().__init__(config)
        shape = ModelConfig.model_validate(config.openlm)
        self.model = OpenLM(shape)
        if shape.weight_tying:
            self._tied_weights_keys = {"model.output.weight": "model.tok_embeddings.weight"}
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: OpenLM initialises itself."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.tok_embeddings

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.output

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """input_ids (batch, time) -> logits (batch, time, vocab) float32, and a loss for labels.

        Where `attention_mask` (batch, time) is 0 a token is padding: it is not attended to and does
        not count as a position, so padding on the left changes nothing.
        """
        positions = key_mask = None
        if attention_mask is not None and not bool(attention_mask.all()):
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            key_mask = attention_mask.bool()
        logits = self.model.head(
            self.model.hidden(input_ids, positions=positions, key_mask=key_mask)
        )
        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
            )
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return CausalLMOutputWithPast(loss=loss, logits=logits)


AutoConfig.register(OpenLMConfig.model_type, OpenLMConfig)
AutoModelForCausalLM.register(OpenLMConfig, OpenLMForCausalLM)
