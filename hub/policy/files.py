"""A policy's text, with the files it names carried along.

A running hub is sent a text, and keeps it for its next start; where the policy came from, neither
it nor its hosts can read. So the words of files that `[[words]]` name go with it, as a table
`[files]` at the end.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from hub import limits
from hub.errors import PolicyError
from hub.policy.parts import fail


def policy_text(path: Path) -> str:
    """The text of a policy file that needs no other file. Raises PolicyError naming the file."""
    try:
        text = _read(path, limits.POLICY_BYTES)
        table = read_table(text)
        if "files" in table:  # carried along already
            return text
        files = _words_files(table, path.parent)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error.message}", **error.facts) from error
    if not files:
        return text
    text = "\n".join([text.rstrip("\n"), "", "[files]", *map(_line, files, files.values()), ""])
    if len(text.encode()) > limits.POLICY_BYTES:
        raise PolicyError(
            f"{path}: larger than {limits.POLICY_BYTES} bytes with its words files", place=""
        )
    return text


def read_table(text: str) -> dict[str, Any]:
    """A TOML text. Raises PolicyError."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise PolicyError("not TOML: nested too deeply", place="") from error
    except ValueError as error:  # TOMLDecodeError, and what int() says of 5000 digits
        raise PolicyError(f"not TOML: {error}", place="") from error


def _words_files(table: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """The files that the rules of words name, by their names. What else is wrong with the table is
    for `convert_policy` to say."""
    files: dict[str, list[str]] = {}
    rules = table.get("words")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        name = rule.get("file") if isinstance(rule, dict) else None
        if not isinstance(name, str) or name in files:
            continue
        try:
            files[name] = _read_words(folder / name)
        except (PolicyError, ValueError) as error:  # ValueError: a NUL in the name
            problem = error.message if isinstance(error, PolicyError) else f"{name!r}: {error}"
            place = f"words[{index}].file"
            raise PolicyError(f"{place}: {problem}", place=place, problem=problem) from error
    return files


def _read_words(path: Path) -> list[str]:
    """One word a line; empty lines and those that begin with # are none."""
    text = _read(path, limits.WORDS_FILE_BYTES, f"{path}: ")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _read(path: Path, most: int, prefix: str = "") -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        fail("", f"{prefix}cannot be read: {error.strerror}")
    if len(data) > most:
        fail("", f"{prefix}larger than {most} bytes")
    try:
        return data.decode("utf-8-sig")  # some editors put a byte order mark
    except UnicodeDecodeError as error:
        fail("", f"{prefix}not UTF-8 at byte {error.start}")


def _line(name: str, words: list[str]) -> str:
    """TOML writes strings as JSON does, but for one character that JSON leaves as it is."""
    quoted = [json.dumps(each, ensure_ascii=False) for each in (name, *words)]
    return f"{quoted[0]} = [{', '.join(quoted[1:])}]".replace("\x7f", "\\u007f")
