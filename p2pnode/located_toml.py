"""TOML whose complaints name a line. The standard parser forgets where a key stood; this finds it again."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from protocol.core.errors import P2PNodeError

FILE_BYTES_MAX = 64 << 10

_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*[.=]")
_PARSER_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)")


class ConfigError(P2PNodeError):
    """A configuration that cannot be used; the message starts with the file and the line."""

    code = "config/invalid"


@dataclass(frozen=True, slots=True)
class LocatedToml:
    """A parsed file of sections of keys, one level deep."""

    path: Path
    text: str
    sections: dict[str, dict[str, object]]

    def place(self, section: str, key: str | None = None) -> str:
        """``file:line`` of a section, or of a key in it."""
        inside = None
        for number, line in enumerate(self.text.split("\n"), start=1):
            header, entry = _HEADER.match(line), _KEY.match(line)
            if not (header or entry) or not self._starts_statement(number):
                continue
            if header:
                inside = header[1].strip("\"'")
                if inside == section and key is None:
                    return f"{self.path}:{number}"
            elif entry:
                found = entry[1].strip("\"'")
                if (inside, found) == (section, key) or (inside is None and found == section):
                    return f"{self.path}:{number}"
        return str(self.path)

    def _starts_statement(self, number: int) -> bool:
        # Inside a multi-line string or array the text before is no whole document.
        try:
            tomllib.loads("\n".join(self.text.split("\n")[: number - 1]))
        except tomllib.TOMLDecodeError:
            return False
        return True


def read_toml(path: Path) -> LocatedToml:
    """Read a file. Raises ConfigError: unreadable, no TOML, or keys outside of sections."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}",
            hint="give an existing file, for example one of the folder configs/",
        ) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX} bytes and no configuration of a node")
    try:
        text = data.decode().replace("\r\n", "\n")
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text", hint="save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        found = _PARSER_PLACE.fullmatch(str(error))
        at = found[2] if found else None
        place, what = at or text.rstrip().count("\n") + 1, found[1] if found else str(error)
        raise ConfigError(
            f"{path}:{place}: {what}", hint='write text in quotes, lists as ["a", "b"], true or false bare'
        ) from error
    file_ = LocatedToml(path, text, {})
    for name, section in content.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{file_.place(name)}: {name} stands outside of a section", hint="put it below its [section]"
            )
        file_.sections[name] = section
    return file_
