"""The logit lens on tiny models of several architectures; its table, page and picture."""

import struct
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from eval.logit_lens import MAX_TOKENS, LensReading, logit_lens
from pipelines.evaluation.logit_lens import decode_lenses, encode_lenses
from pipelines.evaluation.logit_lens_page import html_page, png_picture, save_lens_pages
from schemas.errors import EngineError, JobError
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "I felt proud."
SIZES = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 200}


def llama(**more):
    return awake(LlamaForCausalLM(LlamaConfig(**LLAMA, **more)))


def gpt2():
    return awake(GPT2LMHeadModel(GPT2Config(vocab_size=257, n_layer=3, n_head=4, n_embd=32, n_positions=200)))


def gemma2():
    # Its cap bends every logit of this size.
    return awake(Gemma2ForCausalLM(Gemma2Config(**LLAMA, head_dim=8, final_logit_softcapping=2.0)))


def granite():
    return awake(GraniteForCausalLM(GraniteConfig(**LLAMA, logits_scaling=4.0)))


def bloom():
    return awake(BloomForCausalLM(BloomConfig(vocab_size=257, hidden_size=32, n_layer=3, n_head=4)))


def opt():
    # Between its last norm and its head it has a projection.
    sizes = {**SIZES, "ffn_dim": 64, "max_position_embeddings": 200}
    return awake(OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16, activation_function="relu")))


def awake(model):
    """With weights so large that the layers say different things, and norms that are not all ones."""
    generator = torch.Generator().manual_seed(0)
    for weights in model.parameters():
        weights.data += torch.randn(weights.shape, generator=generator) * 0.3
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.mark.parametrize("make", [gpt2, llama, gemma2, granite, bloom, opt])
def test_the_last_layer_is_what_the_model_itself_says(make, tokenizer):
    model = make()
    lens = logit_lens(model, tokenizer, TEXT)
    own = model(**tokenizer(TEXT, return_tensors="pt")).logits[0].softmax(-1)
    assert lens.probability.shape == lens.final_probability.shape == lens.entropy.shape == (4, len(TEXT))
    assert lens.top_ids[-1].tolist() == own.argmax(-1).tolist()
    assert lens.probability[-1] == pytest.approx(own.max(-1).values.detach().numpy(), abs=1e-5)
    assert (lens.final_probability[-1] == lens.probability[-1]).all() and lens.settled[-1].all()
    assert lens.entropy[-1] == pytest.approx(-(own * own.log2()).sum(-1).detach().numpy(), abs=1e-3)
    assert not lens.settled.all()


@pytest.mark.parametrize(
    ("make", "norm", "end"),
    [
        (gpt2, lambda model: model.transformer.ln_f, lambda logits: logits),
        (llama, lambda model: model.model.norm, lambda logits: logits),
        (gemma2, lambda model: model.model.norm, lambda logits: 2 * torch.tanh(logits / 2)),
        (granite, lambda model: model.model.norm, lambda logits: logits / 4),
    ],
)
def test_each_earlier_layer_is_its_state_through_norm_and_head_by_hand(make, norm, end, tokenizer):
    model = make()
    lens = logit_lens(model, tokenizer, TEXT)
    with torch.inference_mode():
        states = model(**tokenizer(TEXT, return_tensors="pt"), output_hidden_states=True).hidden_states
        by_hand = [end(model.lm_head(norm(model)(state[0]))).softmax(-1) for state in states[:-1]]
    for layer, expected in enumerate(by_hand):
        assert lens.top_ids[layer].tolist() == expected.argmax(-1).tolist()
        assert lens.probability[layer] == pytest.approx(expected.max(-1).values.numpy(), abs=1e-5)
        of_final = expected[range(len(TEXT)), lens.top_ids[-1]].numpy()
        assert lens.final_probability[layer] == pytest.approx(of_final, abs=1e-5)


def test_in_bfloat16_the_last_layer_is_the_output_too(tokenizer):
    lens = logit_lens(llama().to(torch.bfloat16), tokenizer, TEXT)
    assert (lens.final_probability[-1] == lens.probability[-1]).all() and lens.settled[-1].all()


def test_the_model_is_as_it_was(tokenizer):
    model, inputs = llama(), tokenizer(TEXT, return_tensors="pt")
    before = model(**inputs).logits
    logit_lens(model, tokenizer, TEXT)
    assert torch.equal(model(**inputs).logits, before)


class ReadsTwoLayers(LlamaForCausalLM):
    """Its head reads the first block too, so that the last block's output is not all there is."""

    def forward(self, *args, **kwargs):
        first = []
        hook = self.model.layers[0].register_forward_hook(lambda _, __, output: first.append(output))
        output = super().forward(*args, **kwargs)
        hook.remove()
        output.logits = output.logits + self.lm_head(first[0])
        return output


def test_an_architecture_that_the_lens_cannot_read_is_one_error_with_its_name(tokenizer):
    with pytest.raises(EngineError, match=r"ReadsTwoLayers.*own logits"):
        logit_lens(awake(ReadsTwoLayers(LlamaConfig(**LLAMA))), tokenizer, TEXT)
    model = llama()
    model.config.num_hidden_layers = 5
    with pytest.raises(EngineError, match=r"LlamaForCausalLM.*5 blocks"):
        logit_lens(model, tokenizer, TEXT)


def test_a_text_without_tokens_or_with_too_many_is_refused(tokenizer):
    with pytest.raises(JobError, match=r"texts.*it has 0 tokens"):
        logit_lens(llama(), tokenizer, "")
    with pytest.raises(JobError, match=f"{MAX_TOKENS + 1} tokens, and the lens takes from 1 to {MAX_TOKENS}"):
        logit_lens(llama(), tokenizer, "x" * (MAX_TOKENS + 1))
    short = LlamaForCausalLM(LlamaConfig(**{**LLAMA, "max_position_embeddings": 8}))
    with pytest.raises(JobError, match="9 tokens, and the lens takes from 1 to 8"):
        logit_lens(short, tokenizer, "x" * 9)


def test_tokens_keep_the_space_before_them():
    pieces = ["a", "▁a", "▁proud", "b", "<unk>"]
    core = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert tokenizer.decode([2]) == "proud"
    assert logit_lens(llama(), tokenizer, "a proud").tokens == [" a", " proud"]


# The table, the page and the picture

NASTY = ["<script>alert(1)</script>", " $\\frac$", "\n", "", "\u202eabc", "'\"&amp;"]


def lens_of(tokens, layers=3, text="<b>a</b>\n & b"):
    shape = (layers, len(tokens))
    generator = np.random.default_rng(0)
    top_ids = generator.integers(0, len(tokens), shape).astype(np.int32)
    figures = {name: generator.random(shape, np.float32) for name in ("probability", "final_probability", "entropy")}
    top = [[tokens[number] for number in layer] for layer in top_ids]
    ids = np.arange(len(tokens), dtype=np.int32)
    return LensReading(text=text, token_ids=ids, tokens=tokens, top_ids=top_ids, top=top, **figures)


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.cells, self.headings, self.open = set(), [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        self.open = tag
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.open == "td":
            self.cells[-1] += data
        elif self.open in ("h2", "caption") and data.strip():
            self.headings.append(data)

    def handle_endtag(self, tag):
        self.open = ""


def test_lenses_survive_their_table(tmp_path, tokenizer):
    lenses = [lens_of(NASTY), logit_lens(gpt2(), tokenizer, TEXT), lens_of(["a"], layers=2)]
    (tmp_path / "m.parquet").write_bytes(encode_lenses(lenses))
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.num_rows == 3 * len(NASTY) + 4 * len(TEXT) + 2
    for before, after in zip(lenses, decode_lenses(table), strict=True):
        assert (after.text, after.tokens, after.top) == (before.text, before.tokens, before.top)
        for name in ("token_ids", "top_ids", "probability", "final_probability", "entropy"):
            assert (getattr(after, name) == getattr(before, name)).all()


def test_nothing_from_a_text_a_token_or_a_name_becomes_markup():
    lens = lens_of(NASTY)
    html = html_page({"<img src=x>": [lens]})
    page = Page(html)
    assert page.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span", "section", "div",
                         "table", "caption", "tbody", "tfoot", "tr", "th", "td"}  # fmt: skip
    assert {name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")} == set()
    assert "default-src 'none'" in html and "http" not in html.replace("http-equiv", "")
    shown = ["<script>alert(1)</script>", "␣$\\frac$", "↵", "[3]", "\\u202eabc", "'\"&amp;"]
    assert page.cells == [shown[number] for layer in lens.top_ids[::-1] for number in layer]
    assert page.headings == ["<b>a</b>↵ & b", "<img src=x>"]
    assert not any(ord(character) in (0x202E,) for character in html)


def test_the_page_tells_colour_and_what_is_settled():
    lens = lens_of(["a", "b", "c"])
    attributes = Page(html_page({"m": [lens]})).attributes
    styles = [value for name, value in attributes if name == "style"]
    assert styles == [f"--p:{p:.1%}" for layer in lens.probability[::-1] for p in layer]
    assert attributes.count(("class", "settled")) == lens.settled.sum()


def size_of(png):
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_models_stand_beside_each_other_each_with_its_own_tokens(tmp_path):
    one, other = lens_of(NASTY), lens_of(["w", "x", "y"], layers=5, text="<b>a</b>\n & b")
    only = lens_of(["only one has this"], text="second")
    models = {"$\\frac$": [one, only], "other": [other]}
    page = html_page(models)
    assert [panels.count("<table") for panels in page.split("<h2>")] == [0, 2, 1]
    alone, both = size_of(png_picture({"a": one})), size_of(png_picture({"a": one, "b": other}))
    assert both[0] > alone[0] and both[1] > alone[1]
    save_lens_pages(str(tmp_path / "pages"), models)
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == [
        "logit_lens-0.png", "logit_lens-1.png", "logit_lens.html",
    ]  # fmt: skip
    assert (tmp_path / "pages" / "logit_lens.html").read_text() == page


def test_wide_pictures_stand_one_below_the_other():
    wide = lens_of([f"word number {i}" for i in range(25)], layers=1)
    one, two = size_of(png_picture({"a": wide})), size_of(png_picture({"a": wide, "b": wide}))
    assert two[0] == one[0] and two[1] > one[1]
