"""The page of what is proven is that of the tests."""

from tests.promises import PAGE, page, promises


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "python -m tests.promises"


def test_every_promise_is_a_sentence_that_a_table_can_hold():
    for promise in promises():
        assert promise[0].isupper() or promise.startswith(("prepare", "joblib", "10,500", "69", "4-bit"))
        assert "|" not in promise and "\n" not in promise and not promise.endswith(".")
