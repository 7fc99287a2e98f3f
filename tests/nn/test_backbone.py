"""The seam to transformers: what is injected, cached and computed twice, against the stock models and against itself
written otherwise (token by token, padded, with the injection made by hand).
"""

import copy
import inspect

import pytest
import torch
import transformers

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.nn.architectures import ARCHITECTURES, value_width
from ppl_text.nn.backbone import NOTHING, Injected, Source
from ppl_text.nn.sourced_backbone import build_backbone

GROUPED = {"num_key_value_heads": 2, "intermediate_size": 24}
SETTINGS = {
    "gpt2": {},
    "llama": GROUPED,
    "mistral": {},
    "qwen2": GROUPED,
    "qwen3": {},
    "bart": {},
}
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}
"""Of float64 sums of some hundred products."""


def backbone(architecture, **options):
    sizes = {"layers": 3, "width": 16, "heads": 4, "positions": 32, "dropout": 0.0, "settings": SETTINGS[architecture]}
    made = build_backbone(architecture, 20, **{**sizes, **options})
    return made.double().eval()


def inputs(rows=2, steps=6, width=16):
    return torch.randn(rows, steps, width, dtype=torch.float64)


def everything(made, rows=2):
    """An injection of each kind, different in each layer and row."""
    scales = [torch.randn(rows, 1, made.value_dim, dtype=torch.float64) for _ in range(made.number)]
    return Injected(
        values=[lambda value, scale=scale: value * scale for scale in scales],
        states=[torch.randn(rows, made.width, dtype=torch.float64) for _ in range(made.number)],
        memory=[torch.randn(rows, 2 * made.value_dim, dtype=torch.float64) for _ in range(made.number)],
    )


architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


@architectures
def test_it_is_the_stock_model_where_nothing_is_injected(architecture):
    made = backbone(architecture)
    stock = (
        transformers.AutoModel.from_config(copy.deepcopy(made.network.config), attn_implementation="sdpa")
        .double()
        .eval()
    )
    stock.load_state_dict(made.network.state_dict())
    x = inputs()
    decoder = stock.decoder if architecture == "bart" else stock
    torch.testing.assert_close(made(x), decoder(inputs_embeds=x, use_cache=False).last_hidden_state, **ROUNDING)


def test_an_activation_of_several_operations_is_computed_by_one_of_torchs_own():
    """As published, gelu in its form with tanh; what is computed is the same, and what is kept for gradients less."""
    made, x = backbone("gpt2"), inputs()
    config = copy.deepcopy(made.network.config)
    config.activation_function = transformers.GPT2Config().activation_function
    stock = transformers.AutoModel.from_config(config, attn_implementation="sdpa").double().eval()
    stock.load_state_dict(made.network.state_dict())
    assert type(stock.h[0].mlp.act) is not type(made.blocks[0].mlp.act)
    torch.testing.assert_close(made(20 * x), stock(inputs_embeds=20 * x, use_cache=False).last_hidden_state, **ROUNDING)


@architectures
@pytest.mark.parametrize("kind", ["values", "states", "memory"])
def test_each_injection_reaches_each_layer(architecture, kind):
    made, x = backbone(architecture), inputs()
    plain, whole = made(x), getattr(everything(made), kind)
    for place in range(made.number):
        alone = [part if i == place else None for i, part in enumerate(whole)]
        changed = (made(x, Injected(**{kind: alone})) - plain).abs().amax(-1)
        # The first position sees its own value, state and the memory; the other rows of the batch are as they were.
        assert (changed > 1e-6).all()
    torch.testing.assert_close(made(x), plain, rtol=0, atol=0)


def test_changed_values_are_changed_value_weights():
    """Scaling values by a constant is scaling the value projection's columns, with which the stock model runs."""
    made, x = backbone("gpt2"), inputs()
    scale = torch.rand(16, dtype=torch.float64) + 0.5
    wanted = made(x, Injected(values=[lambda value: value * scale] * 3))
    other = copy.deepcopy(made)
    with torch.no_grad():
        for block in other.network.h:
            block.attn.c_attn.weight[:, 32:] *= scale
            block.attn.c_attn.bias[32:] *= scale
    torch.testing.assert_close(other(x), wanted, **ROUNDING)


def test_a_memory_is_a_cached_key_and_value():
    """The memory against a cache of transformers that holds it, with positions counted without it."""
    made, x = backbone("gpt2"), inputs()
    memory = everything(made).memory
    past = transformers.DynamicCache()
    for place, part in enumerate(memory):
        key, value = part.unflatten(-1, (2, 4, 1, 4)).unbind(1)
        past.update(key, value, place)
    stock = (
        transformers.AutoModel.from_config(copy.deepcopy(made.network.config), attn_implementation="sdpa")
        .double()
        .eval()
    )
    stock.load_state_dict(made.network.state_dict())
    name = "cache" if "cache" in inspect.signature(stock.forward).parameters else "past_key_values"
    given = {"inputs_embeds": x, "position_ids": torch.arange(6)[None], "attention_mask": torch.ones(2, 7), name: past}
    out = stock(**given)
    torch.testing.assert_close(made(x, Injected(memory=memory)), out.last_hidden_state, **ROUNDING)


@architectures
@pytest.mark.parametrize("pieces", [[1] * 6, [3, 1, 2]])
def test_token_by_token_is_all_at_once(architecture, pieces):
    made, x = backbone(architecture), inputs()
    injected = everything(made)
    state, found = made.begin(2), []
    for part in x.split(pieces, dim=1):
        states, state = made.step(state, part, injected)
        found.append(states)
    torch.testing.assert_close(torch.cat(found, 1), made(x, injected), **ROUNDING)


@architectures
def test_rows_of_a_state_can_be_repeated_and_reordered(architecture):
    made, x = backbone(architecture), inputs(rows=3)
    _, state = made.step(made.begin(3), x[:, :4])
    order = torch.tensor([2, 0, 0])
    states, _ = made.step(tuple(part[order] for part in state), x[order, 4:])
    torch.testing.assert_close(states, made(x[order])[:, 4:], **ROUNDING)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_a_source_in_front_is_read_without_its_padding(architecture):
    """Source and text in one sequence, against that sequence itself; all at once and token by token."""
    made, x, source = backbone(architecture), inputs(rows=1, steps=5), inputs(rows=1, steps=2)
    injected = everything(made, rows=1)
    padded = Source(torch.cat([source, inputs(1, 3)], 1), torch.tensor([[True] * 2 + [False] * 3]))
    wanted = made(torch.cat([source, x], 1), injected)[:, 2:]
    torch.testing.assert_close(made(x, injected, padded), wanted, **ROUNDING)
    state, found = made.begin(1, injected, padded), []
    for part in x.split([1, 3, 1], dim=1):
        states, state = made.step(state, part, injected)
        found.append(states)
    torch.testing.assert_close(torch.cat(found, 1), wanted, **ROUNDING)


def test_a_source_that_is_attended_to_is_bart():
    """Encoder and decoder against the stock model, and token by token; padding of the source is not seen."""
    made = build_backbone("bart", 20, layers=3, width=16, heads=4, positions=32, dropout=0.0).double().eval()
    stock = transformers.AutoModel.from_config(copy.deepcopy(made.network.config), attn_implementation="sdpa")
    stock = stock.double().eval()
    stock.load_state_dict(made.network.state_dict())
    tokens, text = torch.tensor([[5, 6, 7, 0], [8, 9, 3, 4]]), torch.tensor([[1, 3, 4], [1, 7, 7]])
    counted = torch.tensor([[True, True, True, False], [True] * 4])
    wanted = stock(tokens, attention_mask=counted.long(), decoder_input_ids=text).last_hidden_state
    embedded, x = made.embedding(tokens), made.embedding(text)
    source = made.source(embedded, made.read(embedded, counted), counted)
    torch.testing.assert_close(made(x, source=source), wanted, **ROUNDING)
    injected = everything(made)
    state, found = made.begin(2, injected, source), []
    for part in x.split([1, 2], dim=1):
        states, state = made.step(state, part, injected)
        found.append(states)
    whole = made(x, injected, source)
    torch.testing.assert_close(torch.cat(found, 1), whole, **ROUNDING)
    assert (whole - wanted).abs().max() > 1e-6
    order = torch.tensor([1, 1, 0])
    _, state = made.step(made.begin(2, NOTHING, source), x[:, :2])
    states, _ = made.step(tuple(part[order] for part in state), x[order, 2:])
    torch.testing.assert_close(states, wanted[order, 2:], **ROUNDING)


@architectures
def test_reading_sees_all_positions_and_no_padding(architecture):
    made, x = backbone(architecture), inputs(rows=1, steps=4)
    whole = made.read(x, torch.ones(1, 4, dtype=torch.bool))
    assert len(whole) == 3
    changed = x.clone()
    changed[:, -1] += torch.randn(16, dtype=torch.float64)
    assert all(
        (a[:, 0] - b[:, 0]).abs().max() > 1e-9 for a, b in zip(whole, made.read(changed, x[..., 0] < 9), strict=True)
    )
    padded, counted = torch.cat([x, inputs(1, 3)], 1), torch.tensor([[True] * 4 + [False] * 3])
    for alone, among in zip(whole, made.read(padded, counted), strict=True):
        torch.testing.assert_close(among[:, :4], alone, **ROUNDING)


def test_a_row_of_padding_alone_is_finite():
    made = backbone("gpt2")
    states = made.read(inputs(), torch.tensor([[True] * 6, [False] * 6]))
    assert all(part.isfinite().all() for part in states)


@pytest.mark.parametrize(("architecture", "norm"), [("gpt2", "ln_1"), ("llama", "input_layernorm")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_are_read_as_the_next_block_reads_them(architecture, norm, checkpointing):
    """Its own norm of the states as they are, its weights fixed; Llama's norms are of float32 whatever comes."""
    close = {"rtol": 1e-4, "atol": 1e-5} if architecture == "llama" else ROUNDING
    made = backbone(architecture, read_norm=True, checkpointing=checkpointing).train()
    for block in made.blocks:
        torch.nn.init.normal_(getattr(block, norm).weight)
    plain = backbone(architecture).train()
    plain.load_state_dict(made.state_dict())
    x, counted, weights = inputs(), torch.ones(2, 6, dtype=torch.bool), inputs()
    states = plain.read(x, counted)
    norms = [getattr(block, norm) for block in plain.blocks[1:]]
    fixed = [{name: weight.detach() for name, weight in own.named_parameters()} for own in norms]
    wanted = [*map(torch.func.functional_call, norms, fixed, states[:2]), states[-1]]
    found = made.read(x, counted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **close)
    for several in (found, wanted):
        sum((part * weights).sum() for part in several).backward()
    for (name, one), (_, other) in zip(made.named_parameters(), plain.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, **close)
    torch.testing.assert_close(made(x), plain(x), **ROUNDING)


def test_states_of_barts_encoder_are_normalised_as_they_are():
    made = backbone("bart", read_norm=True)
    for states in made.read(inputs(), torch.ones(2, 6, dtype=torch.bool)):
        torch.testing.assert_close(states, torch.nn.functional.layer_norm(states, (16,)), rtol=1e-4, atol=1e-4)


@architectures
def test_computing_twice_changes_no_gradient(architecture):
    plain = backbone(architecture).train()
    twice = backbone(architecture, checkpointing=True).train()
    twice.load_state_dict(plain.state_dict())
    x, injected, found = inputs(), everything(plain), []
    for made in (plain, twice):
        memory = [part.clone().requires_grad_() for part in injected.memory]
        made(x, injected._replace(memory=memory)).square().sum().backward()
        found.append([p.grad for p in made.parameters() if p.grad is not None] + [part.grad for part in memory])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **ROUNDING)


@architectures
def test_attention_on_the_memory(architecture):
    """Its share is the one which, times values that are 1, is what the layer's attention puts out."""
    made, x = backbone(architecture), inputs()
    memory = everything(made).memory
    found, equal = made.memory_attention(x, Injected(memory=memory))
    assert found.shape == (2, 3, 6)
    torch.testing.assert_close(equal, 1 / torch.arange(2.0, 8.0).expand(2, -1))
    assert ((found > 0) & (found < 1)).all()
    outputs = []
    attention = getattr(made.blocks[0], "attn" if architecture == "gpt2" else "self_attn")
    projection = getattr(attention, {"gpt2": "c_proj", "bart": "out_proj"}.get(architecture, "o_proj"))
    hook = projection.register_forward_pre_hook(lambda _, given: outputs.append(given[0]))
    ones = torch.cat([memory[0][:, : made.value_dim], torch.ones(2, made.value_dim, dtype=torch.float64)], -1)
    made(x, Injected(memory=[ones, None, None], values=[torch.zeros_like, None, None]))
    hook.remove()
    torch.testing.assert_close(outputs[0].mean(-1), found[:, 0], **ROUNDING)
    with pytest.raises(UserError, match="needs a memory"):
        made.memory_attention(x, Injected())


def test_attention_on_the_memory_behind_a_source_counts_the_source():
    """Against source and text in one sequence; two of five places of the source are there."""
    made, x, source = backbone("gpt2"), inputs(rows=1, steps=5), inputs(rows=1, steps=2)
    memory = Injected(memory=[None, *everything(made, rows=1).memory[1:]])
    padded = Source(torch.cat([source, inputs(1, 3)], 1), torch.tensor([[True] * 2 + [False] * 3]))
    found, equal = made.memory_attention(x, memory, padded)
    whole, _ = made.memory_attention(torch.cat([source, x], 1), memory)
    torch.testing.assert_close(found, whole[..., 2:], **ROUNDING)
    assert (found[:, 0] == 0).all(), "a layer without a memory pays nothing to it"
    torch.testing.assert_close(equal, 1 / torch.arange(4.0, 9.0)[None])


def test_a_source_that_is_attended_to_takes_no_share_of_the_memory():
    made, x = backbone("bart"), inputs(rows=2, steps=4)
    memory = Injected(memory=everything(made).memory)
    source = Source(inputs(2, 3), torch.ones(2, 3, dtype=torch.bool))
    found, equal = made.memory_attention(x, memory, source)
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(equal, 1 / torch.arange(2.0, 6.0).expand(2, -1))


def test_a_copy_is_injected_by_itself():
    made, x = backbone("gpt2"), inputs()
    injected = everything(made)
    other = copy.deepcopy(made)
    with torch.no_grad():
        made.embedding.weight.zero_()
        made.network.ln_f.weight.zero_()
    assert other(x, injected).abs().max() > 0
    assert (other(x, injected) - other(x)).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("width", "settings", "spread"), [(256, {}, 0.04), (64, {}, 0.08), (64, {"init_std": 0.5}, 0.5)]
)
def test_weights_of_bart_begin_by_the_width(width, settings, spread):
    torch.manual_seed(0)
    network = build_backbone("bart", 50, layers=1, width=width, heads=4, positions=8, settings=settings).network
    for weight in (network.decoder.layers[0].encoder_attn.q_proj.weight, network.encoder.layers[0].fc1.weight):
        assert float(weight.detach().std()) == pytest.approx(spread, rel=5 / (2 * weight.numel()) ** 0.5)


def test_the_size_of_gpt2():
    """124,441,344 parameters with two symbols more than GPT-2 has (specification 6)."""
    with torch.device("meta"):
        made = build_backbone("gpt2", 50259, layers=12, width=768, heads=12, positions=1024)
    assert sum(p.numel() for p in made.parameters()) == 124_441_344


def test_sizes_of_heads_follow_from_the_others_unless_settings_say_them():
    for architecture in ("mistral", "qwen2", "qwen3"):
        assert backbone(architecture).value_dim == (8 if SETTINGS[architecture] else 16)
        config = backbone(architecture).network.config
        assert getattr(config, "sliding_window", None) is None
    assert backbone("qwen3", settings={"head_dim": 6, "num_key_value_heads": 2}).value_dim == 12


def test_a_layer_without_a_value_projection_is_refused():
    """As where a version of transformers calls it otherwise."""
    joined = transformers.AutoModel.from_config(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(UserError, match="GPT2Attention has no value projection 'v_proj' that could be wrapped; use"):
        value_width(joined.h[0].attn, ARCHITECTURES["llama"], 8)


def test_what_it_cannot_be():
    sizes = {"layers": 2, "width": 16, "heads": 4, "positions": 8}
    with pytest.raises(UnknownNameError, match="unknown architecture 'gpt3'"):
        build_backbone("gpt3", 20, **sizes)
    with pytest.raises(UserError, match="multiple of heads; got 16 and 3"):
        build_backbone("gpt2", 20, **{**sizes, "heads": 3})
    with pytest.raises(UserError, match="LlamaConfig of transformers does not take"):
        build_backbone("llama", 20, **sizes, settings={"hidden_act": "none"})
    with pytest.raises(UserError, match=r"8 positions, and a text of 9 came: .*data\.max_tokens"):
        build_backbone("gpt2", 20, **sizes)(torch.zeros(1, 9, 16))
