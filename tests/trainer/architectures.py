"""Tiny random models of many families, with the character tokenizer of the tests."""

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 21
CONTEXT = 64

_LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_LLAMA |= {"num_key_value_heads": 1, "max_position_embeddings": CONTEXT}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
_BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "is_decoder": True}
_WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_MOE = {"num_experts_per_tok": 2, "sliding_window": None}

# Class of the model without "ForCausalLM" or "LMHeadModel", and its config.
CONFIGS = {
    # learned or tabulated absolute positions
    "GPT2": _GPT,
    "GPTNeo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_position_embeddings": CONTEXT,
        "attention_types": [[["global", "local"], 1]], "window_size": 6, "intermediate_size": 64,
    },
    "GPTBigCode": _GPT,
    "XGLM": {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 2, "max_position_embeddings": CONTEXT},
    "BioGpt": _WIDE | {"intermediate_size": 64, "max_position_embeddings": CONTEXT},
    "CTRL": {"n_embd": 32, "n_layer": 2, "n_head": 2, "dff": 64, "n_positions": CONTEXT},
    "OPT": _WIDE | {"ffn_dim": 64, "max_position_embeddings": CONTEXT, "word_embed_proj_dim": 32},
    # rotary positions
    "GPTJ": _GPT | {"rotary_dim": 8},
    "CodeGen": _GPT | {"rotary_dim": 8, "n_head": 4},
    "GPTNeoX": _WIDE | {"intermediate_size": 64, "max_position_embeddings": CONTEXT},
    "Llama": _LLAMA,
    "Qwen2": _LLAMA,
    "Qwen3": _LLAMA | {"head_dim": 16},
    "Mistral": _LLAMA | {"sliding_window": 4},
    "Gemma2": _LLAMA | {"head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 3.0},
    "Gemma3": _LLAMA | {"head_dim": 16, "sliding_window": 4},
    "Phi": _LLAMA,
    "StableLm": _LLAMA,
    "Cohere": _LLAMA | {"logit_scale": 0.5},
    "Granite": _LLAMA | {"logits_scaling": 2.0},
    "Mixtral": _LLAMA | _MOE | {"num_local_experts": 4},
    # ALiBi
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": CONTEXT},
    "Falcon": _WIDE | {"alibi": True, "new_decoder_architecture": False, "parallel_attn": False},
    # recurrent ones
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "FalconH1": _LLAMA | {
        "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
        "mamba_chunk_size": 8, "head_dim": 16,
    },
    "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": CONTEXT},
    # no position ids, an LM head of more than one product, no key-value cache
    "Bart": _BART | {"max_position_embeddings": CONTEXT},
    "Bert": _WIDE | {"intermediate_size": 64, "max_position_embeddings": CONTEXT, "is_decoder": True},
    "OpenAIGPT": _GPT,
}  # fmt: skip

_DROPOUTS = ("dropout", "attention_dropout", "hidden_dropout", "activation_dropout", "resid_pdrop", "embd_pdrop")
_DROPOUTS += ("attn_pdrop", "embed_dropout", "resid_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")


def build(name: str, **changes: object) -> PreTrainedModel:
    """A model with random weights, without dropout, whose logits differ enough for a wrong position to show."""
    config_class = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    config = config_class(**(tokens | CONFIGS[name] | changes))
    for dropout in _DROPOUTS:
        if isinstance(getattr(config, dropout, None), float):
            setattr(config, dropout, 0.0)
    model_class = getattr(transformers, f"{name}ForCausalLM", None) or getattr(transformers, f"{name}LMHeadModel")
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    return model
