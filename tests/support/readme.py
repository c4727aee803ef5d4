"""Reader of the commands that READMEs show."""

from __future__ import annotations

import re


def shell_commands(text: str) -> list[str]:
    """Return the commands of all bash blocks, without their comments; `a && b` counts as two."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [re.sub(r"\s+#.*$", "", line) for block in blocks for line in block.splitlines() if line.strip()]
    return [command.strip() for line in lines for command in line.split("&&")]
