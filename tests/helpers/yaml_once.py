"""Each YAML text is parsed once a session: a config is composed of a dozen files, and the tests compose thousands."""

from typing import Any

import yaml


def parse_once() -> None:
    """OmegaConf copies what it is given, so that all may have the same."""
    parse: Any = yaml.load
    known: dict[str, Any] = {}

    def load(stream: Any, Loader: Any) -> Any:
        if Loader.__name__ != "OmegaConfLoader":
            return parse(stream, Loader)
        text = stream.read() if hasattr(stream, "read") else stream
        if text not in known:
            try:
                known[text] = parse(text, Loader)
            except yaml.YAMLError:
                if text is not stream:
                    stream.seek(0)
                return parse(stream, Loader)  # its message names the file
        return known[text]

    yaml.load = load
