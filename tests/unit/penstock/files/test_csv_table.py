"""Tables with columns that nobody knows before the first row."""

from penstock.files import csv_table
from penstock.files.csv_table import CsvTable, TableRow, members_of


def text_of(table: CsvTable, *parts: list[TableRow]) -> str:
    header = table.start(parts[0], is_all=len(parts) == 1)
    return header + "".join(line for part in parts for line in table.lines(part))


def row(id_: str, value: bytes, *last: str) -> TableRow:
    return TableRow([id_], members_of(value, "result"), last)


def test_members_of_all_rows_are_columns() -> None:
    rows = [row("1", b'{"a":1,"b":"x"}'), row("2", b'{"c":[1, {"d":"e"}],"a":null}'), row("3", b"[1,2]")]
    assert text_of(CsvTable(["id"]), rows) == (
        'id,a,b,c,result\r\n1,1,x,,\r\n2,,,"[1, {""d"":""e""}]",\r\n3,,,,"[1,2]"\r\n'
    )


def test_members_that_come_later_are_in_the_last_column() -> None:
    table = CsvTable(["id"], ["end"])
    text = text_of(table, [row("1", b'{"a":1}', "x")], [row("2", b'{"b":"=1","a":2,"c":{}}', "y"), row("3", b"7", "z")])
    assert text == ('id,a,more,end\r\n1,1,,x\r\n2,2,"{""b"":""=1"",""c"":{}}",y\r\n3,,"{""result"":7}",z\r\n')


def test_columns_have_different_names() -> None:
    rows = [row("1", b'{"id":7,"more":8}')]
    assert text_of(CsvTable(["id"], prefix="result."), rows, []) == "id,result.id,more,result.more\r\n1,7,8,\r\n"


def test_known_columns_are_in_their_order_and_need_no_other() -> None:
    rows = [TableRow((), {"b": "x", "a": "1"}, ["e"])]
    assert text_of(CsvTable((), ["error"], members=["a", "b", "c"], delimiter=";"), rows, []) == (
        "a;b;c;error\r\n1;x;;e\r\n"
    )


def test_texts_are_no_formulas_and_numbers_stay_numbers() -> None:
    values = b'{"a":"=1+1","b":-1.5e3,"c":"-5","d":"@x","e":true,"f":"\\t","g":"\\r","h":"a\\nb"}'
    assert text_of(CsvTable(["id"]), [row("+id", values)]) == (
        "id,a,b,c,d,e,f,g,h\r\n'+id,'=1+1,-1.5e3,-5,'@x,true,'\t,\"'\r\",\"a\nb\"\r\n"
    )


def test_name_of_a_column_is_no_formula() -> None:
    assert text_of(CsvTable(["id"]), [row("1", b'{"=1":2}')]) == "id,'=1\r\n1,2\r\n"


def test_there_are_not_very_many_columns() -> None:
    wide = b"{%b}" % b",".join(b'"c%d":%d' % (number, number) for number in range(csv_table.MOST_COLUMNS + 2))
    header, line = text_of(CsvTable(["id"]), [row("1", wide)]).splitlines()
    assert header.endswith(",c998,c999,more")
    assert line.endswith(',998,999,"{""c1000"":1000,""c1001"":1001}"')
