#!/usr/bin/env python3
"""Records the first session with a new cloud: into README.md, and as a picture into docs/terminal.svg.

    sudo scripts/terminal-picture.py

It runs `./run` and what follows it with the default home, which must be without a cloud before, and
leaves the cloud up: `sudo ./boira down` ends it. What AWS's tools answer comes from PyPI's AWS CLI,
which `./test` installs.
"""
import json
import os
import pathlib
import subprocess
from html import escape

WIDTH, LINE, PAD, CHAR = 100, 18, 16, 7.85
ROOT = pathlib.Path(__file__).resolve().parent.parent

FIRST = [
    "sudo ./run --detach",
    "./boira ssh demo uname -r",
    "./boira instance run --name web --type c1.medium",
    "./boira instance log web",
]
WITH_AWS = [
    'eval "$(./boira env)"',
    "aws ec2 run-instances --image-id IMAGE --instance-type m1.small --key-name boira"
    " --query 'Instances[].InstanceId' --output text",
    "aws ec2 describe-instances --query"
    " 'Reservations[].Instances[].[InstanceId,State.Name,PrivateIpAddress]' --output text",
]

# Whoever records is root already.
SHELL = """
sudo() { "$@"; }
for line in "$@"; do
    printf '$ %s\\n' "$line"
    eval "$line"
    echo
done
"""


def record(lines):
    """What a terminal would show; progress, which a terminal erases again, is left out."""
    path = f"{ROOT}/.venv/bin:{os.environ['PATH']}"
    words = ["bash", "-euc", SHELL, "bash", *lines]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PATH": path, "AWS_PAGER": ""},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def image():
    words = ["./boira", "--output", "json", "image", "ls"]
    rows = json.loads(subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return rows[0]["id"]


def replace_block(text, after, session):
    """The page with the first fenced block behind some words replaced."""
    before, rest = text.split(after, 1)
    lead, _, rest = rest.split("```", 2)
    return f"{before}{after}{lead}```\n{session}\n```{rest}"


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


def main():
    # Builds and waits for what a second call prints at once.
    subprocess.run(["./run", "--detach"], cwd=ROOT, check=True)
    first = record(FIRST)
    with_aws = record([line.replace("IMAGE", image()) for line in WITH_AWS])
    # Commands without an answer stand directly above the next.
    with_aws = with_aws.replace("\n\n$", "\n$")
    page = ROOT / "README.md"
    text = replace_block(page.read_text(), "## A first session", first)
    page.write_text(replace_block(text, "work unchanged:", with_aws))
    (ROOT / "docs/terminal.svg").write_text(picture(first.splitlines()))


if __name__ == "__main__":
    main()
