"""A chat template is rendered as transformers renders it."""

import pytest

from windtunnel.data.chat_format import Message
from windtunnel.errors import InputError
from windtunnel.ship.template import render

TALK: list[Message] = [{"role": "user", "content": "hé <b>"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if add_generation_prompt %}ask{% endif %}", "ask"),
        # lines of blocks leave nothing behind, neither before them nor after
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{{ messages[0].content | tojson }}", '"hé <b>"'),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{{ bos_token }}{{ messages[0]['role'] }}", "<s>user"),
    ],
)
def test_what_templates_may_use(template: str, text: str) -> None:
    assert render(template, TALK, bos_token="<s>") == text


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% if %}", "{{ 1 + 'a' }}"])
def test_a_template_that_refuses_or_is_none_is_one_line(template: str) -> None:
    with pytest.raises(InputError, match=r"^the chat template: "):
        render(template, TALK)
