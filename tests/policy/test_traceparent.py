import pytest

from intralb_gevent.policy.traceparent import trace_headers, trace_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_parts_of_a_field() -> None:
    parent = trace_parent(f"00-{TRACE}-{SPAN}-01")
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.sampled) == (TRACE, SPAN, True)


def test_a_later_version_may_have_more_parts() -> None:
    assert trace_parent(f"cc-{TRACE}-{SPAN}-00-what-the-future-holds") == (TRACE, SPAN, False)


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-00.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01-" + "x" * 1000,
    ],
)
def test_a_malformed_field_is_ignored(field: str | None) -> None:
    assert trace_parent(field) is None
    assert trace_headers({"HTTP_TRACEPARENT": field, "HTTP_TRACESTATE": "vendor=1"}) == {}


def test_both_fields_are_passed_on() -> None:
    field = f"00-{TRACE}-{SPAN}-01"
    assert trace_headers({"HTTP_TRACEPARENT": field}) == {"traceparent": field}
    both = {"HTTP_TRACEPARENT": field, "HTTP_TRACESTATE": "vendor=1"}
    assert trace_headers(both) == {"traceparent": field, "tracestate": "vendor=1"}
    assert trace_headers({**both, "HTTP_TRACESTATE": "a\nb"}) == {"traceparent": field}
