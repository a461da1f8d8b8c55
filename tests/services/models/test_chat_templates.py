"""Chat templates that would never end, and those of real models, which are rendered as before."""

import time

import pytest
from jinja2 import TemplateError

from schemas.errors import EngineError
from services.models.chat_templates import ChatTemplateError, bound_chat_templates
from services.models.embedded import embedded_checkpoint
from trainers.examples import ExampleEncoder, TrainingRow

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello & <b>"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Again?"},
]
NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_checkpoint())


@pytest.fixture
def render(tokenizer):
    bound_chat_templates()

    def apply(template, **options):
        return tokenizer.apply_chat_template(MESSAGES, chat_template=template, tokenize=False, **options)

    return apply


@pytest.mark.parametrize(
    "template",
    [
        NESTED,
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for m in [messages] recursive %}{{ loop([m]) }}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% for i in range(99999) %}" + "word " * 2000 + "{% endfor %}",
    ],
)
def test_a_template_that_works_without_an_end_is_ended(render, template):
    began = time.process_time()
    with pytest.raises((ChatTemplateError, RecursionError)):
        render(template)
    assert time.process_time() - began < 30
    assert render("{{ messages[0].content }}") == "Be short."  # each rendering counts anew


REAL = """{%- if tools %}{{ tools | tojson(indent=2) }}{% endif -%}
{%- set ns = namespace(index=0, last=false) -%}
{%- for message in messages[::-1] %}{% set ns.index = ns.index + loop.index0 %}{% endfor -%}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif -%}
{%- if loop.first %}{% continue %}{% endif -%}
{{ '<|im_start|>' + message.role ~ ns.index ~ message.content.split('&')[-1].lstrip('\\n')|trim|upper + '|' * 3 }}
{%- if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}{% endif -%}
{%- endfor -%}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|tojson }}
{%- if add_generation_prompt %}assistant{% endif %}"""


def test_templates_of_real_models_are_rendered_as_by_transformers(tokenizer, monkeypatch):
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils import chat_template_utils

    def render_all():
        return [
            tokenizer.apply_chat_template(MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True)
            for template in (None, REAL)
        ]

    bound_chat_templates()
    bounded = render_all()
    with monkeypatch.context() as patch:
        patch.setattr(chat_template_utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment)
        chat_template_utils._compile_jinja_template.cache_clear()
        assert bounded == render_all()
    chat_template_utils._compile_jinja_template.cache_clear()
    assert "<|im_start|>user6<B>|||" in bounded[1]


def test_a_template_may_still_refuse_a_chat(render):
    with pytest.raises(TemplateError, match="no such role") as raised:
        render("{{ raise_exception('no such role') }}")
    assert not isinstance(raised.value, ChatTemplateError)


def test_a_training_ends_with_the_cause(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", NESTED)
    encoder = ExampleEncoder(tokenizer, 64, "truncate")
    with pytest.raises(EngineError, match="chat template takes more than 1,000,000 steps"):
        list(encoder.examples([TrainingRow("text", "prompt")]))
