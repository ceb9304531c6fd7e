import msgspec
import pytest

from epp.testing.faults import Fault, FaultOrder, Faults


def test_nothing_happens_unless_asked():
    assert Faults().next({}) == Fault()


def test_headers_concern_one_request_and_come_before_an_order():
    faults = Faults()
    faults.order(FaultOrder(status=500))
    assert faults.next({"x-fault-status": "503", "x-fault-delay-ms": "2.5"}) == Fault(status=503, delay_ms=2.5)
    assert faults.next({"x-fault-reset": "middle"}) == Fault(reset="middle")
    assert faults.next({}) == Fault(status=500)


def test_an_order_holds_for_so_many_requests_or_until_the_next():
    faults = Faults()
    faults.order(FaultOrder(status=500, requests=2))
    assert [faults.next({}).status for _ in range(3)] == [500, 500, 0]
    faults.order(FaultOrder(reset="start"))
    assert [faults.next({}).reset for _ in range(3)] == ["start"] * 3
    faults.order(FaultOrder())
    assert faults.next({}) == Fault()


def test_an_order_with_a_misspelt_field_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"stauts": 500}', type=FaultOrder)
