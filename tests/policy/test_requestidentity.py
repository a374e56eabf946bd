"""A request is identified by its id, and by a valid `traceparent`."""

import pytest

from intralb_gevent.policy.requestidentity import identity

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("environ", "fields"),
    [
        ({}, {}),
        ({"intralb.request_id": None, "HTTP_TRACEPARENT": "x"}, {}),
        ({"intralb.request_id": "7", "HTTP_TRACEPARENT": VALID}, {"request_id": "7", "traceparent": VALID}),
        ({"HTTP_TRACEPARENT": f"{VALID}\n"}, {}),
        ({"HTTP_TRACEPARENT": f'01{VALID[2:]}-"more'}, {"traceparent": f"01{VALID[2:]}"}),
    ],
)
def test_only_what_is_valid_identifies(environ: dict[str, object], fields: dict[str, str]) -> None:
    assert identity(environ) == fields
