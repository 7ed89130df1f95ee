"""What happened in a run, with the virtual time."""

import anyio


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(f"{anyio.current_time():9.3f}  {text}")

    def __str__(self) -> str:
        return "\n".join(self.lines)
