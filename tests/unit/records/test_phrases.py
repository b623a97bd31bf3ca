"""The list of phrases that the chat refuses and prepare counts."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from vicuna_lit.records.phrases import Phrases, plain


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_ascii_is_read_as_any_other_text_is(text: str):
    """The short way and the general one agree; a letter that is none of ASCII's takes the general one."""
    assert plain(text + "é") == plain(f"{text}é".casefold())
    unseen = re.sub("[\x00-\x08\x0e-\x1f\x7f]", "", text)
    assert plain(text) == " ".join(re.split(r"[\W_]+", unseen.casefold())).strip()
    assert unicodedata.normalize("NFKC", text) == text


def test_a_phrase_is_found_however_it_is_written():
    phrases = Phrases(["hire a hitman", "Sarin"])
    for text in ("HIRE  a\nhit\u200bman", "hire_a-hitman!", "ｈｉｒｅ a hitman", "sarin", "é、sarin中 sarin。"):
        assert phrases.find(f"Please: {text}")
    assert Phrases(["été noir"]).find("Un Été  noir!") == "été noir"
    for text in ("hire a hitmanager", "sariné", "中sarin", "tsarina", "a hitman hire", ""):
        assert phrases.find(text) is None
