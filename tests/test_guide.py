"""The Python that docs/guide.md shows makes the conversations that it promises."""

import re
import subprocess
import sys
from pathlib import Path

from windtunnel.data.conversations import conversations, messages_of

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"


def test_conversations_are_made_of_a_folder_of_text(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "texts/deep").mkdir(parents=True)
    text = "One\nbegins here. And it\ngoes on. To its end.\n\nNothing follows this\n\nTwo. Ends."
    (tmp_path / "texts/deep/a.txt").write_text(text)
    (tmp_path / "texts/b.txt").write_bytes(b"Not \xff UTF-8. But read.\n")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    said = []
    for found in conversations([tmp_path / "chats.jsonl"]):
        if isinstance(found, str):
            said.append([(one["role"], one["content"]) for one in messages_of(found)])
    assert sorted(said) == [
        [("user", "Not UTF-8."), ("assistant", "But read.")],
        [("user", "One begins here."), ("assistant", "And it goes on. To its end.")],
        [("user", "Two."), ("assistant", "Ends.")],
    ]
