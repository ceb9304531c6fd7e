"""A model name replaced, and nothing else."""

import pytest

from epp.extproc.splice import ModelRestorer, model_spans, rename_model, splice_model


def test_the_span_is_replaced_by_a_json_string():
    assert splice_model(b'{"model":"a","x":1}', (9, 12), 'b"c') == b'{"model":"b\\"c","x":1}'
    assert splice_model(b' { "x":1}', (2, 2), 'b"c') == b' {"model":"b\\"c", "x":1}'


@pytest.mark.parametrize(
    ("document", "values"),
    [
        (b'{"model":"a"}', [b'"a"']),
        (b' { "x" : [ { "model" : "no" } ] , "model" : "yes" } ', [b'"yes"']),
        (b'{"response":{"id":1,"model":"r"},"message":{"model":"m"},"other":{"model":"no"}}', [b'"r"', b'"m"']),
        (b'{"choices":[{"text":"\\"model\\":\\"no\\""}],"model":"yes","model":"twice"}', [b'"yes"', b'"twice"']),
        (b'{"x":"model","model":null,"y":{"response":{"model":"no"}}}', []),
        (b'["model","no",{"model":"no"}]', []),
        (b'{"model":{"model":"no"}}', []),
        (b'[{"model":"no"},"no"]', []),
        (b'{"model":1,"x":["no",{"model":"no"},"no"],"model":"yes"}', [b'"yes"']),
        (b'}]{"model"', []),
        (b'{"model":"cut', [b'"cut']),
    ],
)
def test_the_name_is_found_where_an_answer_carries_it(document, values):
    assert [document[start:stop] for start, stop in model_spans(document)] == values


def test_only_the_served_name_is_renamed_however_it_is_escaped():
    document = b'{"model":"a\\/b","response":{"model":"other"},"message":{"model":"a/b"}}'
    assert rename_model(document, "a/b", "z") == b'{"model":"z","response":{"model":"other"},"message":{"model":"z"}}'


def restore(chunks: list[bytes], *, events: bool, bytes_max: int = 1000) -> list[bytes]:
    restorer = ModelRestorer(served="big", asked="b", events=events, bytes_max=bytes_max)
    return [restorer.feed(chunk, end=index == len(chunks) - 1) for index, chunk in enumerate(chunks)]


def test_events_go_on_line_by_line():
    assert restore([b'data: {"model":"big"}\n\nda', b'ta:{"model":"big"}\r\n', b"\r\ndata: [DONE]"], events=True) == [
        b'data: {"model":"b"}\n\n',
        b'data:{"model":"b"}\r\n',
        b"\r\ndata: [DONE]",
    ]


def test_a_document_goes_on_at_its_end():
    assert restore([b'{"mod', b'el":"big"}', b""], events=False) == [b"", b"", b'{"model":"b"}']


def test_what_is_too_long_passes_unchanged():
    assert restore([b'{"model":"big",', b'"x":"12345"}', b"tail"], events=False, bytes_max=20) == [
        b"",
        b'{"model":"big","x":"12345"}',
        b"tail",
    ]


def test_after_a_line_that_is_too_long_the_next_is_read_again():
    assert restore([b'data: {"model":"big",', b'"x":1}\ndata: {"model":"big"}\n', b""], events=True, bytes_max=10) == [
        b'data: {"model":"big",',
        b'"x":1}\ndata: {"model":"b"}\n',
        b"",
    ]


def test_no_text_takes_more_than_linear_time():
    unended = b'{"' + b"\\" + b'"\\{' * 200_000
    assert list(model_spans(unended)) == []
    assert rename_model(unended, "a", "b") == unended
