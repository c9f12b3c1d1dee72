"""Reading traffic rows, and their seeded order."""

import random
from itertools import islice
from pathlib import Path

import pytest

from stream_generator.traffic.rows import Row, TrafficError, endless, parse_rows, read_rows

GOOD = b'{"record": {"age": 30}, "label": 1}\n'


def test_rows_are_read_in_file_order_without_blank_lines(
    rows: list[Row], traffic_file: Path
) -> None:
    traffic_file.write_bytes(traffic_file.read_bytes().replace(b"\n", b"\n\n"))
    assert read_rows(traffic_file) == rows


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"age,label", "malformed"),
        (b'{"record": {"age": 30}}', "missing required field `label`"),
        (b'{"record": {"age": 30}, "label": 2}', "Expected `int` <= 1"),
    ],
)
def test_an_invalid_line_is_an_error_with_its_number_and_the_rule(line: bytes, wrong: str) -> None:
    with pytest.raises(TrafficError) as caught:
        parse_rows(GOOD + line, "rows.jsonl")
    message = str(caught.value)
    assert message.startswith("rows.jsonl, line 2: ")
    assert wrong in message
    assert 'expected {"record": {column: value, ...}, "label": 0 or 1}' in message


def test_a_file_without_rows_is_an_error_with_its_remedy() -> None:
    with pytest.raises(TrafficError, match="rows.jsonl: no rows; .*`make train`"):
        parse_rows(b"\n\n", "rows.jsonl")


def test_every_row_is_sent_once_before_a_row_is_repeated(rows: list[Row]) -> None:
    sent = list(islice(endless(rows, random.Random(1)), 2 * len(rows)))
    first, second = sent[: len(rows)], sent[len(rows) :]
    by_content = {str(row): row for row in rows}
    assert len(by_content) == len(rows)
    assert {str(row) for row in first} == {str(row) for row in second} == set(by_content)
    assert first != second != rows
