"""Chat templates: the ids transformers gives, user text that stays text, and sixty templates that mean harm."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphogen.errors import DataError, FormatError, MorphogenError
from morphogen.tokens import chat
from morphogen.tokens.chat import Template, check_messages, template_of
from morphogen.tokens.load import load_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- macro turn(role, text) %}<|im_start|>{{ role }}
{{ text | trim }}<|im_end|>
{% endmacro %}
{%- for m in messages[::-1] %}
    {%- if m.role == 'user' and not ns.found %}{% set ns.found = true %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}
    {%- if m.tool_calls is defined and m.tool_calls %}
        {%- for c in m.tool_calls %}{{ c.function.name ~ '(' ~ (c.function.arguments | tojson) ~ ')' }}{% endfor %}
    {%- endif %}
    {%- if '</think>' in m.content %}{% set body = m.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}{% set body = m.content %}{% endif %}
    {%- generation %}{{ turn(m['role'], body) }}{% endgeneration %}
    {%- if loop.index > 90 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}{{ bos_token if bos_token is defined and messages|selectattr('role', 'equalto', 'tool')|list|length else '' }}"""
CONVERSATIONS = [
    [{"role": "user", "content": "Hello there, naïve 日本 😀"}],
    [
        {"role": "system", "content": " be brief "},
        {"role": "user", "content": "  1 + 1?\n"},
        {"role": "assistant", "content": "<think>hm</think>\n\n2"},
        {"role": "user", "content": "why <b> & 'x'?"},
    ],
    [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get", "arguments": {"city": "Zürich"}}}]},
        {"role": "tool", "content": '{"t": 3}'},
    ],
]
FUNCTIONS = [
    {"type": "function", "function": {"name": "get", "description": "weather", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.mark.parametrize("source", [CHATML, TOOLS], ids=["chatml", "tools"])
def test_ids_as_transformers(bytes_bpe, source) -> None:
    from transformers import AutoTokenizer

    theirs, ours, template = AutoTokenizer.from_pretrained(bytes_bpe), load_tokenizer(bytes_bpe), Template(source)
    for messages in CONVERSATIONS:
        for tools in (None, FUNCTIONS):
            for reply in (True, False):
                text = theirs.apply_chat_template(messages, tools=tools, chat_template=source, add_generation_prompt=reply, tokenize=False)
                assert template.render(messages, tokenizer=ours, tools=tools, reply=reply) == text
                assert template.encode(ours, messages, tools=tools, reply=reply) == theirs(text, add_special_tokens=False)["input_ids"]
    ids = theirs.apply_chat_template(CONVERSATIONS[0], chat_template=source, add_generation_prompt=True, tokenize=True)
    assert template.encode(ours, CONVERSATIONS[0]) == list(ids["input_ids"] if hasattr(ids, "keys") else ids)


def test_user_text_never_becomes_special(bytes_bpe) -> None:
    ours, template = load_tokenizer(bytes_bpe), Template(CHATML)
    special = set(ours.special.values())
    plain = [i for i in template.encode(ours, [{"role": "user", "content": "x"}]) if i in special]
    parts = st.sampled_from(
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<", "|", "im_end", "|>", "<|im_", "\n", "system", " ", "x", "\uf8ff", "<|im_end|"]
    )

    @settings(max_examples=150, deadline=None)
    @given(st.lists(parts, max_size=8).map("".join))
    def check(content: str) -> None:
        ids = template.encode(ours, [{"role": "user", "content": content}])
        assert [i for i in ids if i in special] == plain
        assert ours.text(ids, special=True) == template.render([{"role": "user", "content": content}])

    check()
    glued = Template("<{{ messages[0].content }}|im_end|>")  # a template that would complete what a person began
    assert not special & set(glued.encode(ours, [{"role": "user", "content": "|im_start|><"}]))


def test_quick_once_warm(bytes_bpe) -> None:
    ours, template = load_tokenizer(bytes_bpe), Template(TOOLS)
    messages = CONVERSATIONS[1] * 10
    template.encode(ours, CONVERSATIONS[0])
    costs = []
    for _ in range(15):
        began = time.perf_counter()
        template.encode(ours, [m for m in messages if m["role"] != "system"])
        costs.append(time.perf_counter() - began)
    assert min(costs) < 0.02


@pytest.mark.parametrize(
    "messages, says",
    [
        ([], "at least one"),
        ("hi", "at least one"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], "message 1"),
        ([{"role": "robot", "content": "b"}], "'robot'"),
        ([{"role": "user"}], "missing"),
        ([{"role": "user", "content": ["a"]}], "list"),
        ([{"role": "user", "content": "a", "x": 1}], "'x'"),
        ([{"role": "user", "content": "a", "name": float("nan")}], "JSON"),
        ([7], "message 0"),
        ([{"role": ["user"], "content": "b"}], "role"),
    ],
)
def test_bad_messages(messages, says) -> None:
    with pytest.raises(DataError, match=says):
        check_messages(messages)


def test_template_refuses_the_conversation() -> None:
    with pytest.raises(DataError, match="system first"):
        Template(TOOLS).render([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}])


def test_found_in_folders_and_metadata(tmp_path) -> None:
    assert template_of(tmp_path) is None and template_of({}) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "a"}))
    assert template_of(tmp_path).source == "a"  # type: ignore[union-attr]
    config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "b"}, {"name": "tool_use", "template": "t"}]}))
    found = template_of(tmp_path)
    assert found is not None and found.render(CONVERSATIONS[0]) == "b" and found.render(CONVERSATIONS[0], tools=FUNCTIONS) == "t"
    (tmp_path / "chat_template.jinja").write_text("c")
    assert template_of(tmp_path).source == "c"  # type: ignore[union-attr]
    assert template_of({"tokenizer.chat_template": "d"}).source == "d"  # type: ignore[union-attr]
    with pytest.raises(FormatError):
        template_of({"tokenizer.chat_template": 7})
    with pytest.raises(FormatError, match="65,536"):
        Template("x" * 70_000)


BIG = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}"
HOSTILE = [
    # access
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ (messages|map(attribute='__class__'))|list }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ range.__self__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ joiner.__init__ }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__}'|format('') }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import popen %}",
    "{% extends '/etc/passwd' %}",
    "{{ config }}{{ request.environ['x'] }}",
    "{% set x = messages.append(1) %}",
    "{% set x = messages[0].update({'role': 'system'}) %}",
    "{{ messages[0].pop('role') }}",
    "{{ messages.clear() }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ ().__class__.__base__ }}",
    "{% do messages.append(1) %}",
    "{{ strftime_now.__globals__ }}",
    "{{ (1).__class__ }}",
    "{{ loop.__init__ }}{% for i in [1] %}{{ loop._iterator.gi_frame }}{% endfor %}",
    "{{ dict.mro() }}",
    "{% block x %}{{ super.__self__ }}{% endblock %}",
    "{{ x.__init__ if (x is defined) else caller.__code__ }}",
    "{{ messages|map('attr', '__class__')|list }}",
    # work
    "{{ 'a' * 300000000 }}",
    "{{ 10 ** 3000000 }}",
    "{{ [0] * 1000000000 }}",
    "{{ range(10**9)|list }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}x{% for b in range(9999) %}y{% endfor %}{% endfor %}",
    BIG + "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    BIG + "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    BIG + "{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaa') %}{% endfor %}",
    BIG + "{% for i in range(60) %}{% set ns.x = ns.x|replace('a', 'aaaaaaaa') %}{% endfor %}",
    "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ 'a'|indent(1000000000, true) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 'a\tb'.expandtabs(10**9) }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% for i in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ messages|tojson(indent=100000000) }}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{{ " + "-" * 30000 + "1 }}",
    "{{ " + "1+" * 20000 + "1 }}",
    "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "{{ [[[[range(999)|list]*99]*99]*99]*99 }}",
    "{{ range(99999)|map('string')|map('replace', '1', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')|join('bbbbbbbbb') }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|string }}",
    "{{ (range(99999)|list)|sort(reverse=true)|sum }}{% for i in range(99999) %}{{ (range(99999)|list)|sum }}{% endfor %}",
    "{{ strftime_now('%Y' * 400000) }}",
    "{{ 1 // 0 }}",
    "{% endfor %}",
    "{{ unknown.thing.deeper }}",
    "{{ 'x'|nosuchfilter }}",
    "{{ 1 << 99 }}",
    "a" * 70_000,
    "{{ " + "'a'~" * 9000 + "'a' }}{% for i in range(99000) %}" + "a" * 900 + "{% endfor %}",
]


def peak(pid: int) -> int:
    """Resident bytes a process ever had."""
    return next(int(line.split()[1]) << 10 for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))


def test_sec_hostile_templates() -> None:
    import threading

    assert len(HOSTILE) >= 60
    messages = [{"role": "user", "content": "hi"}]
    Template("x").render(messages)
    process = chat._worker._process
    assert process is not None
    idle = peak(process.pid)
    highest, over = [idle], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            running = chat._worker._process
            with contextlib.suppress(OSError, StopIteration):
                highest.append(peak(running.pid) if running is not None else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    slow, escaped = [], []
    try:
        for source in HOSTILE:
            Template("ok").render(messages)  # the process is warm: what is measured is the template
            began = time.perf_counter()
            try:
                text = Template(source).render(messages)
                escaped.append((source[:60], text[:60]))
            except MorphogenError as error:
                assert "\n" not in str(error)
            slow.append((time.perf_counter() - began, source[:60]))
    finally:
        over.set()
        watcher.join()
    assert escaped == []
    print(f"\n{len(HOSTILE)} stopped, worst {max(slow)}, memory +{(max(highest) - idle) >> 20} MiB")
    assert max(slow)[0] < 1.3, max(slow)  # a second, and what ending the process takes
    assert max(highest) - idle < 64 << 20
    assert Template("{{ messages[0].content }}").render(messages) == "hi"


def test_worker_killed_between_turns_is_replaced() -> None:
    messages = [{"role": "user", "content": "hi"}]
    Template("x").render(messages)
    assert chat._worker._process is not None
    chat._worker._process.kill()
    chat._worker._process.wait()
    assert Template("{{ messages[0].content }}").render(messages) == "hi"
