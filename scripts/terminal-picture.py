#!/usr/bin/env python3
"""Turns the text of a terminal session (standard input) into an SVG picture (standard output).

    ./boira instance ls | scripts/terminal-picture.py > docs/terminal.svg

Lines that begin with `$ ` are shown as typed.
"""
import sys
from html import escape

WIDTH, LINE, PAD, CHAR = 100, 18, 16, 7.85


def picture(lines: list[str]) -> str:
    height = PAD * 2 + 24 + LINE * len(lines)
    width = int(PAD * 2 + CHAR * WIDTH)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#17212b"/>',
    ]
    for x, colour in ((18, "#ff5f56"), (36, "#ffbd2e"), (54, "#27c93f")):
        out.append(f'<circle cx="{x}" cy="16" r="5.5" fill="{colour}"/>')
    for number, line in enumerate(lines):
        y = PAD + 24 + LINE * number + 8
        colour = "#8be9a8" if line.startswith("$ ") else "#d7dde4"
        text = escape(line[:WIDTH])
        out.append(f'<text x="{PAD}" y="{y}" fill="{colour}" xml:space="preserve">{text}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.stdout.write(picture([line.rstrip("\n") for line in sys.stdin]))
