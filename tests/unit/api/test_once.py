"""What of an answer may be kept for a repetition."""

import uuid

import msgspec

from api.http.once import ShownOnce, stored_form


class _Key(msgspec.Struct):
    id: int
    secret: ShownOnce


class _Keys(msgspec.Struct):
    id: uuid.UUID
    keys: list[_Key]
    first: _Key | None
    last: _Key | None
    secret: ShownOnce
    name: str = "n"


def test_what_is_shown_once_is_not_kept() -> None:
    keys = _Keys(
        id=uuid.uuid4(),
        keys=[_Key(1, "hidden-1"), _Key(2, None)],
        first=None,
        last=_Key(3, "hidden-3"),
        secret="hidden-4",
    )
    form = stored_form(keys)
    assert "hidden" not in str(form)
    assert form == {
        "id": str(keys.id),
        "keys": [{"id": 1, "secret": None}, {"id": 2, "secret": None}],
        "first": None,
        "last": {"id": 3, "secret": None},
        "secret": None,
        "name": "n",
    }
    assert keys.secret == "hidden-4"
    assert msgspec.convert(form, _Keys).keys == [_Key(1, None), _Key(2, None)]


def test_the_rest_is_kept_as_it_is() -> None:
    class Plain(msgspec.Struct):
        id: int
        names: list[str]

    assert stored_form(Plain(1, ["a"])) == {"id": 1, "names": ["a"]}
