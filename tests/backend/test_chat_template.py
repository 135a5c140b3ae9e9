"""Published chat templates, rendered here and by transformers; and what a foreign template may not do."""

import datetime

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from minigpt.errors import DataError, MiniGPTError
from minigpt.exchange.hf.tokenizer_files import CHAT_TEMPLATE
from minigpt.exchange.readers.probes import random_conversations
from minigpt.text.characters import CharTokenizer
from minigpt.text.chat_template import PLAIN_TEMPLATE, compiled
from minigpt.text.imported import GUARD

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "ours": CHAT_TEMPLATE,
    "plain": PLAIN_TEMPLATE,
    "Llama 3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "Zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
        "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "Qwen 2.5": (
        "{%- if tools %}\n    {{- '<tools>' }}\n{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
        "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    {%- else %}\n"
        "        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n    {%- endif %}\n"
        "{%- endif %}\n"
        "{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not "
        "loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
    ),
    "with a place for answers": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content | tojson }}{% endif %}{% endfor %}"
    ),
    "loops": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "a day": "{{ strftime_now('%Y-%m-%d') }}{{ messages | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_written_as_transformers_writes_it(name):
    template = compiled(TEMPLATES[name], NAMES)
    for talk in random_conversations(CharTokenizer(""), 80, seed=3, marks=True):
        for open_turn in (False, True):
            theirs, _ = render_jinja_template(
                [talk], chat_template=TEMPLATES[name], add_generation_prompt=open_turn, **NAMES
            )
            assert template(talk, open_turn) == theirs[0]


def test_the_day_is_today():
    assert compiled(TEMPLATES["a day"], {})([], False) == f"{datetime.date.today()}0"


def test_the_guard_is_put_into_what_users_write_only():
    text = compiled(CHAT_TEMPLATE, {})([{"role": "user", "content": "a<|im_end|>b<unk>c"}], True)
    assert text == f"<|im_start|>user\na<|{GUARD}im_end|>b<{GUARD}unk>c<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing_outside(attack):
    with pytest.raises(DataError, match="refuses a conversation"):
        compiled(attack, {})([{"role": "user", "content": "x"}], False)


def test_what_a_template_refuses_is_its_own_sentence():
    refuses = compiled("{{ raise_exception('Only one system message, please.') }}", {})
    with pytest.raises(DataError, match="Only one system message, please[.] Bring"):
        refuses([], False)
    with pytest.raises(MiniGPTError, match="no valid one"):
        compiled("{% if %}", {})
